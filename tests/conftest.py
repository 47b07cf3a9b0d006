"""What several test files share: tiny networks, image files, and where the photographs and the paper's pictures lie."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_DISABLE", "1")

from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import settings
from PIL import Image
from torch import nn

import cbir

settings.register_profile("cbir", deadline=None, max_examples=40, database=None)
settings.load_profile("cbir")


def make_net(seed=0, codes=("hidden",), size=32):
    """Three blocks (4, 6 and 5 channels; sides size / 2, / 4 and / 8) and one code of 7 values, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = size // 8
        module = nn.Sequential()
        for name, (before, after) in {"one": (3, 4), "two": (4, 6), "three": (6, 5)}.items():
            module.add_module(name, nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
        module.add_module("flat", nn.Flatten())
        module.add_module("hidden", nn.Sequential(nn.Linear(5 * side * side, 7), nn.ReLU()))
    return cbir.Network(module, ["one", "two", "three"], codes, cbir.resize_transform(size), name="tiny")


def write_image(path, size=(40, 30), seed=0, **options):
    """A picture of coloured noise, as the suffix says; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def read_page(path):
    """A page, parsed."""
    return BeautifulSoup(Path(path).read_text(encoding="utf-8"), "html.parser")


def check_self_contained(page):
    """Fails where a browser would load anything from elsewhere, or run anything; links that a reader may follow are fine."""
    assert not page.find_all(["script", "link", "iframe", "object", "embed", "base", "form", "meta"], attrs={"charset": False, "name": lambda n: n != "viewport"})
    for tag in page.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name in ("srcset", "data", "action", "poster", "background", "style")], tag
        assert str(tag.get("src", "data:image/")).startswith("data:image/"), tag
        assert tag.name == "a" and tag["href"].startswith(("#", "https://doi.org/")) or not {"href", "xlink:href"} & set(tag.attrs), tag
    assert not any(word in style.get_text() for style in page.find_all("style") for word in ("url(", "@import", "http", "expression"))


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


@pytest.fixture
def photos():
    """The folder of photographs that CBIR_PHOTOS names."""
    if not os.environ.get("CBIR_PHOTOS"):
        pytest.skip("CBIR_PHOTOS names no folder of photographs")
    return Path(os.environ["CBIR_PHOTOS"])


@pytest.fixture
def paper():
    """The folder with the published numbers and the thumbnails of the published pictures that CBIR_PAPER names."""
    if not os.environ.get("CBIR_PAPER"):
        pytest.skip("CBIR_PAPER names no folder with the paper's thumbnails and numbers")
    return Path(os.environ["CBIR_PAPER"])
