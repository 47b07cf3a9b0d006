"""End to end: `cbir reproduce` as a user types it, on the embedded profile and on folders of photographs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import check_self_contained, read_page
from PIL import Image

import cbir
from cbir import cli
from cbir.common import ROOT
from cbir.workflow import notebooks

PAPER = cli.PAPER
FIGURES = [f"fig{i:02d}" for i in range(1, 11)]


def reproduce(runs, *args):
    """The command line in a process of its own, with its runs in a folder of the test."""
    environment = os.environ | {"CBIR_RUNS": str(runs), "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "cbir.cli", "reproduce", *map(str, args)], capture_output=True, text=True,
                          env=environment, cwd=runs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def check_complete(path, missing=()):
    for name in FIGURES:
        assert (path / "figures" / f"{name}.png").exists() == (name not in missing)
        assert (path / "figures" / f"{name}.pdf").exists() == (name not in missing)
    for name in ("table1.csv", "table1.md", "table1.tex", "metrics.json", "report.html"):
        assert (path / name).stat().st_size > 100
    report = read_page(path / "report.html")
    check_self_contained(report)
    assert {figure["id"] for figure in report.find_all("figure")} >= {f"figure-{name}" for name in FIGURES if name not in missing}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    first = reproduce(runs)
    return runs, first


def test_embedded_run_leaves_everything(embedded):
    runs, done = embedded
    check_complete(runs / "embedded")
    assert "1200 images described, 0 reused" in done.stdout
    table = pd.read_csv(runs / "embedded" / "table1.csv")
    assert len(table) == 11 and table.iloc[-1]["query"] == "mean" and table["class"].iloc[:10].nunique() == 10
    assert table.filter(regex="^(printed|published|paper) ").shape[1] == 12 and table.drop(columns="class").notna().all().all()


def test_every_stage_is_recorded_with_all_that_it_depends_on(embedded):
    runs, _ = embedded
    metrics = json.loads((runs / "embedded" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["status"] == "complete" and {len(hash) for hash in metrics["hashes"].values()} == {64} and len(metrics["hashes"]) == 2
    for key in ("seconds", "memory", "dates", "environment", "parameters_of"):
        assert set(metrics[key]) == set(PAPER), key
    assert all(2 ** 28 < memory < 2 ** 33 for memory in metrics["memory"].values())  # no kernel with torch fits into 256 MiB
    assert metrics["environment"]["02_extraction"]["torch"] == version("torch") and metrics["environment"]["02_extraction"]["cores"] == str(os.cpu_count())
    assert metrics["parameters_of"]["03_retrieval"] == notebooks.known_parameters("03_retrieval")


def test_second_run_reuses_the_descriptors_and_says_so(embedded, monkeypatch, capsys):
    runs, _ = embedded
    monkeypatch.setenv("CBIR_RUNS", str(runs))
    monkeypatch.setattr(cli, "PAPER", ["02_extraction"])  # the notebook that extracts
    before = {p: p.stat().st_mtime_ns for p in (runs / "embedded" / "stores").rglob("c/*") if p.is_file()}
    metrics = json.loads((runs / "embedded" / "metrics.json").read_text(encoding="utf-8"))
    cli.main(["reproduce"])
    assert "\n0 images described, 1200 reused" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert json.loads((runs / "embedded" / "metrics.json").read_text(encoding="utf-8"))["results"] == metrics["results"]


def test_embedded_results_are_those_of_the_readme(embedded):
    """Every number of the README's table of results, against this run's metrics.json."""
    runs, _ = embedded
    results = json.loads((runs / "embedded" / "metrics.json").read_text(encoding="utf-8"))["results"]
    measured = {(r["metric"], r["descriptor"]): r for r in results}
    rows = re.findall(r"^\| (same \w+|histogram distance) \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert [metric for metric, _ in rows] == ["same class", "same background", "same palette", "histogram distance"]
    for metric, cells in rows:
        for descriptor, cell in zip(["im", "h", "eta_conv", "eta"], cells.split(" | "), strict=True):
            printed = [float(x) for x in re.findall(r"[\d.]+", cell)]
            r = measured[metric, descriptor]  # a neighbour or two may swap places on another processor
            assert printed == pytest.approx([r["mean"], r["low"], r["high"]], abs=0.001 if metric == "histogram distance" else 0.01)


def test_table1_means_are_those_of_the_docs(embedded):
    runs, _ = embedded
    means = pd.read_csv(runs / "embedded" / "table1.csv").iloc[-1]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for group, title in [("printed", "ours, as printed (L1 / 75)"), ("published", "ours, formula behind the printed numbers"),
                         ("paper", "the paper's")]:
        row = re.search(rf"^\| {re.escape(title)} \| (.+) \|$", results, re.M).group(1)
        numbers = [float(means[f"{group} {d}"]) for d in ("im", "h", "eta_conv", "eta")]
        assert [float(cell) for cell in row.split(" | ")] == pytest.approx(numbers, abs=0.001)


def test_embedded_scenes_show_what_the_network_learnt(embedded):
    """Facts of the embedded run that no rounding changes: far above chance in class, colours better by eta_conv than by h."""
    runs, _ = embedded
    results = {(r["metric"], r["descriptor"]): r["mean"] for r in json.loads((runs / "embedded" / "metrics.json").read_text(encoding="utf-8"))["results"]}
    assert results["same class", "h"] > 0.9 and results["same class", "eta"] > 0.9
    assert results["histogram distance", "eta_conv"] < results["histogram distance", "h"]


@pytest.fixture
def few_photographs(tmp_path):
    """Class folders of photographs: from CBIR_PHOTOS where it is set, else pictures made here."""
    source = os.environ.get("CBIR_PHOTOS")
    for name, color in [("Motorbikes", (200, 40, 40)), ("dolphin", (30, 60, 200)), ("lotus", (240, 180, 200))]:
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(6):
            if source:
                shutil.copy(sorted(Path(source, "caltech", name).iterdir())[i], folder)
            else:
                noise = np.random.default_rng(i).integers(-30, 30, (90 + 10 * i, 120, 3))
                Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(folder / f"{name}_{i}.jpg")
    for name in ("Motorbikes", "dolphin", "lotus"):  # so many that some are drawn as queries
        for i in range(3):
            (tmp_path / "photos" / name / f"brökén {i}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    return tmp_path / "photos"


def test_photographs_through_vgg16(few_photographs, tmp_path):
    """The whole width of VGG16, with random weights: no download, every path of a real run."""
    done = reproduce(tmp_path, "--profile", "folder", "-p", "images", few_photographs, "-p", "weights", "none")
    check_complete(tmp_path / "folder")
    metrics = json.loads((tmp_path / "folder" / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["unreadable"]) == 9 and all("brökén" in f for f in metrics["unreadable"])
    assert "brökén 0.jpg" in (tmp_path / "folder" / "report.html").read_text(encoding="utf-8")
    store = cbir.open_store(tmp_path / "folder" / "stores" / "database")
    assert store.h.shape[1] == 8192 and store.eta_conv.shape[1] == 1472 and store.eta.shape[1] == 9664
    assert "reused" in done.stdout


def test_photographs_without_classes_give_all_but_the_class_scores(few_photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(cli, "PAPER", PAPER[2:])  # without the walkthrough
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, photo in enumerate(sorted(few_photographs.rglob("*.jpg"))):
        shutil.copy(photo, flat / f"{i:02d}.jpg")
    cli.main(["reproduce", "--profile", "folder", "--name", "flat-run", "-p", "images", str(flat), "-p", "network", "embedded", "-p", "k", "3"])
    check_complete(tmp_path / "flat-run", missing=("fig01", "fig02", "fig03", "fig07"))
    results = json.loads((tmp_path / "flat-run" / "metrics.json").read_text(encoding="utf-8"))["results"]
    assert {r["metric"] for r in results} == {"histogram distance"}


@pytest.mark.parametrize("args, message", [
    (["--profile", "nowhere"], "unknown profile 'nowhere'"),
    (["-p", "colour", "1"], "no notebook has a parameter"),
    (["--profile", "folder"], "needs a folder of images"),
    (["--profile", "folder", "-p", "images", "missing-folder", "-p", "network", "embedded"], "no image folder"),
    (["--name", "../up"], "is no run name"),
    (["-p", "recipe", "mine"], "unknown recipe 'mine'"),
    (["-p", "metric", "l3"], "unknown metric 'l3'"),
    (["-p", "q", "-1"], "out of range"),
    (["-p", "k", "0"], "k = 0 is out of range"),
    (["-p", "images", "."], "take PROFILE=folder"),
])
def test_mistakes_get_one_clear_sentence(tmp_path, monkeypatch, args, message):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["reproduce", *args])
    assert message in stop.value.code.strip().splitlines()[-1]


def test_evidence_is_recorded_beside_reproduce_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", lambda source, output, **_: shutil.copy(source, output))
    monkeypatch.setattr(cli, "PAPER", ["02_extraction"])
    for module in (cli, notebooks):
        monkeypatch.setattr(module, "EVIDENCE", ["03_retrieval"])
    commands = {"reproduce": ["reproduce", "-p", "q", "0.25"], "evidence": ["evidence", "-p", "k", "7"]}
    for order in (["evidence"], ["evidence", "reproduce"], ["reproduce", "evidence", "reproduce"]):
        name = "-".join(order)
        for command in order:
            cli.main([*commands[command], "--name", name])
        metrics = json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))
        assert set(metrics["command"].splitlines()) == {f"cbir {c} --profile embedded --name {name} -p {'q 0.25' if c == 'reproduce' else 'k 7'}" for c in order}
        assert metrics["status"] == "complete" and metrics["parameters"]["k"] == 7 and metrics["parameters"].get("q") == (0.25 if "reproduce" in order else None)
        assert set(metrics["seconds"]) == {"02_extraction" if c == "reproduce" else "03_retrieval" for c in order}
        assert (tmp_path / name / "report.html").is_file()


def test_a_run_that_fails_keeps_what_is_through_and_has_a_report(tmp_path, monkeypatch):
    def execute(source, output, **_):
        if "03" in source:
            raise RuntimeError("kernel died")
        shutil.copy(source, output)

    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    with pytest.raises(RuntimeError, match="kernel died"):
        notebooks.reproduce(notebooks=["02_extraction", "03_retrieval"], log=io.StringIO())
    metrics = json.loads((tmp_path / "embedded" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["status"] == "unfinished" and list(metrics["seconds"]) == list(metrics["memory"]) == ["02_extraction"]
    assert "This run is unfinished" in read_page(tmp_path / "embedded" / "report.html").find(class_="warning").get_text()


def test_peak_memory_is_that_of_the_processes_that_the_block_starts():
    """200 MB that a child, and 100 MB that its own child holds for a second, on top of two bare interpreters; none of what runs already."""
    hold = "import subprocess, sys, time; x = b'1' * {} * 10 ** 6; {}"
    child = hold.format(200, f"subprocess.run([sys.executable, '-c', {hold.format(100, 'time.sleep(1)')!r}])")
    with subprocess.Popen([sys.executable, "-c", hold.format(500, "time.sleep(3)")]) as before, notebooks.peak_memory() as samples:
        subprocess.run([sys.executable, "-c", child], check=True)
        before.wait()
    assert 300e6 < max(samples) < 400e6
    with notebooks.peak_memory() as samples:
        pass
    assert max(samples) == 0


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    assert notebooks.commit() == "no git checkout"

    def git(*args):
        return subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", *args], check=True, capture_output=True, text=True).stdout
    git("init")
    assert notebooks.commit() == "a git checkout, of which git says nothing"  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    assert notebooks.commit() == git("rev-parse", "HEAD").strip()
    (tmp_path / "file").write_text("2")
    assert notebooks.commit() == git("rev-parse", "HEAD").strip() + ", with changes"


def test_weights_that_cannot_be_downloaded_stop_the_run(tmp_path, few_photographs, monkeypatch):
    """No network: the run ends at once with advice, and describes nothing by another network."""
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for proxy in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(SystemExit, match="(?s)could not be downloaded.*Download that file"):
        cli.main(["reproduce", "--profile", "folder", "-p", "images", str(few_photographs)])
    assert not (tmp_path / "folder" / "stores").exists()
