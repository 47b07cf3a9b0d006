"""What test files share: tiny networks, image files, and what some need of a machine."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")

import shutil
import subprocess
import sys
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import settings
from PIL import Image
from torch import nn

import cbir
from cbir.common import ROOT

matplotlib.use("Agg")  # not by MPLBACKEND: notebooks that tests start would show no figures

# Examples are drawn anew from the test's name, not from a clock: the same in every run.
settings.register_profile("cbir", deadline=None, max_examples=40, database=None, derandomize=True)
settings.load_profile("cbir")

# Files that take longest are begun first, so that no worker is left alone with one. Notebooks go on
# from the run that test_reproduce.py makes: other files pass the time until it is there.
SLOWEST = ["test_reproduce.py", "test_store.py", "test_zoo.py", "test_cluster.py", "test_import.py"]
SLOWEST += ["test_query.py", "slim_network.ipynb", "test_figures.py", "test_site.py"]
SLOWEST += ["07_ablations.ipynb", "06_as_released.ipynb", "05_evidence.ipynb", "08_explore.ipynb"]

BROWSERS = map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])
CHROMIUM = next(filter(None, BROWSERS), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]

# Markers and fixtures of tests that need more than packages: is it there, and how to get it.
NEEDS = {
    "linux": (sys.platform == "linux", "Linux: its memory limits, and any bytes in file names"),
    "posix": (os.name == "posix", "forks, signals, links and named pipes: Linux or macOS"),
    "cuda": (torch.cuda.is_available(), "an NVIDIA graphics card"),
    "browser": (CHROMIUM or os.environ.get("CBIR_BROWSER"), "Chromium: apt-get install chromium"),
    "photos": (os.environ.get("CBIR_PHOTOS"), "CBIR_PHOTOS=folder with photographs"),
    "paper": (os.environ.get("CBIR_PAPER"), "CBIR_PAPER=folder with the paper's thumbnails"),
}
RUNS_OR_LOADS = ["script", "link", "iframe", "object", "embed", "base", "form", "meta"]
LOADING_ATTRIBUTES = {"srcset", "data", "action", "poster", "background"}
LOADING_STYLES = ["url(", "@import", "http", "expression"]


def pytest_configure(config):
    from shared_run import share_folder  # on pytest's path, not on that of scripts beside this

    share_folder(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """The slowest files first; one skip for everything that is missing, not one for every test."""
    ranks = {name: rank for rank, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))
    for need, (available, to_get) in NEEDS.items():
        wanting = [item for item in items if not available and needs(item, need)]
        for item in wanting[:1]:
            item.add_marker(pytest.mark.skip(reason=f"{len(wanting)} tests need {to_get}"))
        config.hook.pytest_deselected(items=wanting[1:])
        items[:] = [item for item in items if item not in wanting[1:]]


def needs(item, need):
    return need in getattr(item, "fixturenames", ()) or item.get_closest_marker(need)


def make_net(seed=0, codes=("hidden",), size=32):
    """Three blocks of 4, 6 and 5 channels, sides halved each time; one code of 7 values; seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential()
        for name, (before, after) in {"one": (3, 4), "two": (4, 6), "three": (6, 5)}.items():
            convolution = nn.Conv2d(before, after, 3, padding=1)
            module.add_module(name, nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2)))
        module.add_module("flat", nn.Flatten())
        module.add_module("hidden", nn.Sequential(nn.Linear(5 * (size // 8) ** 2, 7), nn.ReLU()))
    transform = cbir.resize_transform(size)
    return cbir.Network(module, ["one", "two", "three"], codes, transform, name="tiny")


def write_image(path, size=(40, 30), seed=0, **options):
    """A picture of coloured noise, as the suffix says; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_notebook(path, parameters, *cells, finding=""):
    """A notebook: a parameters cell, code cells, and a text that speaks of the default run."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    others = [*map(nbformat.v4.new_code_cell, cells)]
    others.append(nbformat.v4.new_markdown_cell(finding, metadata={"tags": ["finding"]}))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=[first, *others], metadata={"kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def read_page(path):
    return BeautifulSoup(Path(path).read_text(encoding="utf-8"), "html.parser")


def check_self_contained(page):
    """Fails where a browser would load or run anything; links that a reader may follow are fine."""
    harmless = {"charset": False, "name": lambda name: name != "viewport"}
    assert not page.find_all(RUNS_OR_LOADS, attrs=harmless)
    for tag in page.find_all(True):
        assert not LOADING_ATTRIBUTES & set(tag.attrs), tag
        assert not any(name.startswith("on") for name in tag.attrs), tag
        styles = tag.get("style", "") + tag.get_text() * (tag.name == "style")
        assert not any(word in styles for word in LOADING_STYLES), tag
        assert str(tag.get("src", "data:image/")).startswith("data:image/"), tag
        if {"href", "xlink:href"} & set(tag.attrs):
            assert tag.name == "a" and tag["href"].startswith(("#", "https://doi.org/")), tag


@pytest.fixture
def tiny_net():
    return make_net()


@pytest.fixture
def folder(tmp_path):
    """A folder of 11 images in two classes; rows 2 and 7 cannot be read."""
    for i in range(11):
        write_image(tmp_path / "images" / ("cat" if i < 6 else "dog") / f"{i:02}.png", seed=i)
    files = cbir.list_images(tmp_path / "images")
    files.path(2).write_text("no image")
    files.path(7).write_bytes(files.path(7).read_bytes()[:500])
    return tmp_path / "images"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site as `make site` builds it: a warning, such as a broken link, is an error."""
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason="the builder of the site is missing: make site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    places = ["-d", str(folder / "doctrees"), ".", str(folder / "html")]
    built = subprocess.run(command + places, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture
def photos():
    """The folder of photographs that CBIR_PHOTOS names."""
    return Path(os.environ["CBIR_PHOTOS"])


@pytest.fixture
def paper():
    """The folder that CBIR_PAPER names: published numbers, thumbnails of published pictures."""
    return Path(os.environ["CBIR_PAPER"])


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def published(tmp_path):
    """A folder, and its address on a server of this machine: what lies there can be downloaded."""
    folder = tmp_path / "published"
    folder.mkdir()
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def offline(tmp_path, monkeypatch, cache):
    """Runs in tmp_path/runs, nothing downloaded yet, and no server that answers."""
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies that it began with
    hub.close_session()
    yield
    hub.close_session()
