"""End to end: `cbir reproduce` as a user types it, on the embedded set and on photographs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from compare_outputs import first_difference
from conftest import check_self_contained, make_net, read_page, write_image
from embedded_run import embedded_run, reproduce
from nbval.plugin import coalesce_streams
from PIL import Image

import cbir
from cbir import cli, environment, notebooks
from cbir.common import ROOT

PAPER = cli.PAPER
FIGURES = [f"fig{i:02d}" for i in range(1, 11)]


def check_complete(path, missing=()):
    drawn = [name for name in FIGURES if name not in missing]
    for suffix in ("png", "pdf"):
        assert sorted(file.stem for file in path.glob(f"figures/fig[0-9]*.{suffix}")) == drawn
    for name in ("table1.csv", "table1.md", "table1.tex", "metrics.json", "report.html"):
        assert (path / name).stat().st_size > 100
    report = read_page(path / "report.html")
    check_self_contained(report)
    shown = {figure["id"] for figure in report.find_all("figure")}
    assert shown >= {f"figure-{name}" for name in drawn}


def read_metrics(path):
    return json.loads((path / "metrics.json").read_text(encoding="utf-8"))


def executed_cells(path):
    """The code cells of a notebook, without those that papermill adds."""
    cells = []
    for cell in nbformat.read(path, as_version=4).cells:
        added = "injected-parameters" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not added:
            cells.append(cell)
    return cells


@pytest.fixture(scope="module")
def embedded():
    """The folder of runs with the run "embedded", and what the command printed."""
    return embedded_run()


@pytest.mark.parametrize("name", PAPER)
def test_embedded_run_prints_what_is_committed(embedded, name):
    """As nbval compares the other notebooks: these are executed once, here."""
    runs, _ = embedded
    committed = executed_cells(ROOT / "notebooks" / f"{name}.ipynb")
    executed = executed_cells(runs / "embedded" / "notebooks" / f"{name}.ipynb")
    assert [cell.source for cell in executed] == [cell.source for cell in committed]
    for number, (before, after) in enumerate(zip(committed, executed, strict=True)):
        outputs = coalesce_streams(before.outputs), coalesce_streams(after.outputs)
        difference = first_difference(*outputs)
        assert not difference, f"cell {number}: {difference}"


def test_embedded_run_leaves_everything(embedded):
    runs, printed = embedded
    check_complete(runs / "embedded")
    assert "1200 images described, 0 reused" in printed
    table = pd.read_csv(runs / "embedded" / "table1.csv")
    assert len(table) == 11
    assert table.iloc[-1]["query"] == "mean"
    assert table["class"].iloc[:10].nunique() == 10
    assert table.filter(regex="^(printed|published) ").shape[1] == 2 * 5
    assert table.filter(regex="^paper ").shape[1] == 4
    assert table.drop(columns="class").notna().all().all()


def test_every_stage_is_recorded_with_all_that_it_depends_on(embedded):
    runs, _ = embedded
    metrics = read_metrics(runs / "embedded")
    assert metrics["status"] == "complete"
    assert [len(digest) for digest in metrics["hashes"].values()] == [64, 64]
    for key in ("seconds", "memory", "dates", "environment", "parameters_of"):
        assert set(metrics[key]) == set(PAPER), key
    for memory in metrics["memory"].values():
        assert 2**28 < memory < 2**33  # no kernel with torch fits into 256 MiB
    environment = metrics["environment"]["02_extraction"]
    assert environment["torch"] == version("torch")
    assert environment["cores"] == str(os.cpu_count())
    parameters = metrics["parameters_of"]["03_retrieval"]
    assert parameters == notebooks.known_parameters("03_retrieval")


def test_second_run_reuses_the_descriptors_and_says_so(embedded, tmp_path, monkeypatch, capsys):
    runs = tmp_path
    shutil.copytree(embedded[0] / "embedded", runs / "embedded")
    monkeypatch.setenv("CBIR_RUNS", str(runs))
    monkeypatch.setattr(cli, "PAPER", ["02_extraction"])  # the notebook that extracts
    files = [file for file in runs.glob("embedded/stores/**/c/*") if file.is_file()]
    before = [file.stat().st_mtime_ns for file in files]
    metrics = read_metrics(runs / "embedded")
    cli.main(["reproduce"])
    assert "\n0 images described, 1200 reused" in capsys.readouterr().out
    assert before == [file.stat().st_mtime_ns for file in files]
    assert read_metrics(runs / "embedded")["results"] == metrics["results"]


DESCRIPTORS = ["im", "h", "eta_conv", "eta"]


def test_embedded_results_are_those_of_the_docs(embedded):
    """Every number of the table of the embedded run, against this run's metrics.json."""
    runs, _ = embedded
    results = read_metrics(runs / "embedded")["results"]
    measured = {(row["metric"], row["descriptor"]): row for row in results}
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (same \w+|histogram distance) \| (.+) \|$", page, re.M)
    metrics = ["same class", "same background", "same palette", "histogram distance"]
    assert [metric for metric, _ in rows] == metrics
    for metric, cells in rows:
        # A neighbour or two may swap places on another processor.
        tolerance = 0.001 if metric == "histogram distance" else 0.01
        for descriptor, cell in zip([*DESCRIPTORS, "h+average"], cells.split(" | "), strict=True):
            printed = [float(number) for number in re.findall(r"[\d.]+", cell)]
            row = measured[metric, descriptor]
            expected = [row["mean"], row["low"], row["high"]]
            assert printed == pytest.approx(expected, abs=tolerance)


TABLE_1 = {
    "printed": "ours, as printed (L1 / 75)",
    "published": "ours, formula behind the printed numbers",
    "paper": "the paper's",
}


@pytest.mark.parametrize("group, title", TABLE_1.items(), ids=TABLE_1)
def test_table1_means_are_those_of_the_docs(embedded, group, title):
    runs, _ = embedded
    means = pd.read_csv(runs / "embedded" / "table1.csv").iloc[-1]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {re.escape(title)} \| (.+) \|$", results, re.M).group(1)
    printed = [float(cell) for cell in row.split(" | ")]
    expected = [float(means[f"{group} {descriptor}"]) for descriptor in DESCRIPTORS]
    assert printed == pytest.approx(expected, abs=0.001)


def test_embedded_scenes_show_what_the_network_learnt(embedded):
    """Facts that no rounding changes: far above chance in class, colours by eta_conv, not by h."""
    runs, _ = embedded
    results = read_metrics(runs / "embedded")["results"]
    means = {(row["metric"], row["descriptor"]): row["mean"] for row in results}
    assert means["same class", "h"] > 0.9
    assert means["same class", "eta"] > 0.9
    assert means["histogram distance", "eta_conv"] < means["histogram distance", "h"]


CLASSES = {"Motorbikes": (200, 40, 40), "dolphin": (30, 60, 200), "lotus": (240, 180, 200)}


@pytest.fixture
def few_photographs(tmp_path):
    """Class folders of photographs: from CBIR_PHOTOS where it is set, else pictures made here."""
    for label, color in CLASSES.items():
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        if os.environ.get("CBIR_PHOTOS"):
            source = Path(os.environ["CBIR_PHOTOS"], "caltech", label)
            for photo in sorted(source.iterdir())[:6]:
                shutil.copy(photo, folder)
        else:
            for i in range(6):
                noise = np.random.default_rng(i).integers(-30, 30, (90 + 10 * i, 120, 3))
                pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{label}_{i}.jpg")
        for i in range(3):  # so many that some are drawn as queries
            (folder / f"brökén {i}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    return tmp_path / "photos"


@pytest.mark.slow
def test_photographs_through_vgg16(few_photographs, tmp_path):
    """The whole width of VGG16, with random weights: no download, every path of a real run."""
    parameters = ["-p", "images", few_photographs, "-p", "weights", "none"]
    printed = reproduce(tmp_path, "--profile", "folder", *parameters)
    check_complete(tmp_path / "folder")
    unreadable = read_metrics(tmp_path / "folder")["unreadable"]
    assert len(unreadable) == 9
    assert all("brökén" in file for file in unreadable)
    report = (tmp_path / "folder" / "report.html").read_text(encoding="utf-8")
    assert "brökén 0.jpg" in report
    store = cbir.open_store(tmp_path / "folder" / "stores" / "database")
    assert store.h.shape[1] == 8192
    assert store.eta_conv.shape[1] == 1472
    assert store.eta.shape[1] == 9664
    assert "reused" in printed


def test_photographs_without_classes_give_all_but_the_class_scores(
    few_photographs, tmp_path, monkeypatch, capsys
):
    """A folder as it comes: damaged files, a note, and two queries, one of which is a copy."""
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(cli, "PAPER", PAPER[1:4])  # without the walkthrough
    flat, queries = tmp_path / "flat", tmp_path / "queries"
    flat.mkdir()
    queries.mkdir()
    photos = sorted(few_photographs.rglob("*.jpg"))
    for i, photo in enumerate(photos):
        shutil.copy(photo, flat / f"{i:02d}.jpg")
    (flat / "notes.txt").write_text("mine")
    copied, moved = [i for i, photo in enumerate(photos) if "brökén" not in photo.name][:2]
    shutil.copy(flat / f"{copied:02d}.jpg", queries / "copied.jpg")
    shutil.move(flat / f"{moved:02d}.jpg", queries / "moved.jpg")
    folders = ["-p", "images", str(flat), "-p", "queries", str(queries)]
    parameters = [*folders, "-p", "network", "embedded", "-p", "k", "3"]
    cli.main(["reproduce", "--profile", "folder", "--name", "flat-run", *parameters])
    check_complete(tmp_path / "flat-run", missing=("fig01", "fig02", "fig03", "fig07"))
    metrics = read_metrics(tmp_path / "flat-run")
    assert len(metrics["unreadable"]) == 9
    assert {row["metric"] for row in metrics["results"]} == {"histogram distance"}
    assert metrics["no_images"] == {".txt": 1}
    assert metrics["images"] == {"database": 26, "queries": 2, "described now": 28, "reused": 0}
    assert metrics["duplicates"] == [["copied.jpg", f"{copied:02d}.jpg"]]
    table = pd.read_csv(tmp_path / "flat-run" / "table1.csv")
    assert not len(table.filter(regex="^paper ").columns)
    said = capsys.readouterr()
    assert re.search(r"28 images to describe by embedded: about \d+ minutes in all\.", said.err)
    assert f"drawn: {tmp_path / 'flat-run' / 'query' / 'query_copied.png'}" in said.err
    assert "9 of 28 images skipped, listed in" in said.out
    assert "Files left out, as they are no images: 1 .txt" in said.out


@pytest.mark.slow
def test_a_network_without_codes_gives_all_but_h(few_photographs, tmp_path):
    """VGG16's convolutions alone, with random weights: no h, nothing joined with it, no IM-like."""
    parameters = ["-p", "images", few_photographs, "-p", "network", "vgg16_conv"]
    reproduce(tmp_path, "--profile", "folder", *parameters, "-p", "weights", "none")
    check_complete(tmp_path / "folder", missing=("fig03", "fig04", "fig07", "fig08"))
    results = read_metrics(tmp_path / "folder")["results"]
    assert {row["descriptor"] for row in results} == {"eta_conv", "eta"}


@pytest.mark.parametrize(
    "args, message",
    [
        (["--profile", "nowhere"], "unknown profile 'nowhere'"),
        (["-p", "colour", "1"], "no notebook has a parameter"),
        (["--profile", "folder"], "needs a folder of images"),
        (
            ["--profile", "folder", "-p", "images", "missing-folder", "-p", "network", "embedded"],
            "no image folder",
        ),
        (["--name", "../up"], "is no run name"),
        (["-p", "recipe", "mine"], "unknown recipe 'mine'"),
        (["-p", "metric", "l3"], "unknown metric 'l3'"),
        (["-p", "q", "-1"], "q is a number, 0 or more, not -1"),
        (["-p", "q", "abc"], "q is a number, 0 or more, not 'abc'"),
        (["-p", "q", ".nan"], "q is a number, 0 or more, not nan"),
        (["-p", "q", "[1]"], "q is a number, 0 or more, not [1]"),
        (["-p", "k", "abc"], "k is a whole number, 0 or more, not 'abc'"),
        (["-p", "max_queries", "3.5"], "max_queries is a whole number, 0 or more, not 3.5"),
        (["-p", "batch_size", "-1"], "batch_size is a whole number, 0 or more, not -1"),
        (["-p", "crop", "maybe"], "crop is true or false, not 'maybe'"),
        (["-p", "seed", "true"], "seed is a whole number, 0 or more, not True"),
        (["-p", "dtype", "float99"], "unknown dtype 'float99'"),
        (["-p", "network", "vgg61"], "unknown network 'vgg61'"),
        (["-p", "k", "0"], "k = 0 is out of range"),
        (["-p", "images", "."], "take PROFILE=folder"),
    ],
)
def test_mistakes_get_one_clear_sentence(tmp_path, monkeypatch, args, message):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["reproduce", *args])
    assert message in stop.value.code.strip().splitlines()[-1]


def test_nothing_is_written_before_all_is_checked(tmp_path, monkeypatch, capsys):
    """A command for other images, or a slip of the pen, leaves a finished run as it is."""
    for i in range(3):
        write_image(tmp_path / "a" / f"{i}.png", seed=i)
        write_image(tmp_path / "b" / f"{i}.png", seed=10 + i)
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", copy_instead_of_executing)
    monkeypatch.setattr(cli, "PAPER", ["02_extraction", "03_retrieval"])
    own = ["reproduce", "--profile", "folder", "-p", "network", "embedded", "-p", "images"]
    few = ["-p", "k", "2"]
    cli.main([*own, str(tmp_path / "a"), *few])
    run = tmp_path / "runs" / "folder"
    cbir.extract(tmp_path / "a", make_net(), run / "stores" / "database")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lite = ["-p", "network", "efficientnet_lite0"]
    for wrong, message in [
        ([*own, str(tmp_path / "b"), *few], "images .*a', now .*b': give this one another --name"),
        ([*own, str(tmp_path / "a"), *few, *lite], "network 'embedded', now 'efficientnet_lite0'"),
        ([*own, str(tmp_path / "a"), "-p", "k", "4"], "k = 4 is out of range for 2 images"),
        ([*own, str(tmp_path / "a"), *few, "-p", "network", "lite"], "unknown network 'lite'"),
    ]:
        with pytest.raises(SystemExit, match=message):
            cli.main(wrong)
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="k = 4 is out of range"):
        cli.main([*own, str(tmp_path / "a"), "-p", "k", "4", "--name", "new"])
    assert not (tmp_path / "runs" / "new").exists()


def test_an_interruption_is_one_line(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", interrupt)
    with pytest.raises(SystemExit, match="interrupted; the same command, given again, goes on"):
        cli.main(["reproduce"])


def copy_instead_of_executing(source, output, **_):
    shutil.copy(source, output)


COMMANDS = {
    "reproduce": ["reproduce", "-p", "q", "0.25"],
    "evidence": ["evidence", "-p", "k", "7"],
}
ORDERS = [["evidence"], ["evidence", "reproduce"], ["reproduce", "evidence", "reproduce"]]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_evidence_is_recorded_beside_reproduce_in_any_order(tmp_path, monkeypatch, order):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", copy_instead_of_executing)
    for module in (cli, notebooks):
        monkeypatch.setattr(module, "PAPER", ["02_extraction"])
        monkeypatch.setattr(module, "EVIDENCE", ["03_retrieval"])
    for command in order:
        cli.main([*COMMANDS[command], "--name", "both"])
    lines = set()
    parameters = {}
    stages = set()
    if "reproduce" in order:
        lines.add("cbir reproduce --profile embedded --name both -p q 0.25")
        parameters["q"] = 0.25
        stages.add("02_extraction")
    if "evidence" in order:
        lines.add("cbir evidence --profile embedded --name both -p k 7")
        parameters["k"] = 7
        stages.add("03_retrieval")
    metrics = read_metrics(tmp_path / "both")
    assert set(metrics["command"].splitlines()) == lines
    assert metrics["status"] == "complete"
    assert {key: metrics["parameters"].get(key) for key in ("q", "k")} == {"q": None} | parameters
    assert set(metrics["seconds"]) == stages
    assert (tmp_path / "both" / "report.html").is_file()


def test_a_run_that_fails_keeps_what_is_through_and_has_a_report(tmp_path, monkeypatch):
    def execute(source, output, **_):
        if "03" in source:
            raise RuntimeError("kernel died")
        shutil.copy(source, output)

    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    with pytest.raises(RuntimeError, match="kernel died"):
        notebooks.reproduce(notebooks=["02_extraction", "03_retrieval"], log=io.StringIO())
    metrics = read_metrics(tmp_path / "embedded")
    assert metrics["status"] == "unfinished"
    assert list(metrics["seconds"]) == list(metrics["memory"]) == ["02_extraction"]
    warning = read_page(tmp_path / "embedded" / "report.html").find(class_="warning")
    assert "This run is unfinished" in warning.get_text()


def test_a_notebook_that_would_give_the_same_is_left_as_it_is(tmp_path, monkeypatch):
    """All that a result depends on: parameters, cells, descriptors, and what is still there."""
    executed = []

    def execute(source, output, **_):
        executed.append(Path(source).stem)
        shutil.copy(source, output)
        if "03" in source:
            for kind in ("png", "pdf"):
                file = tmp_path / "embedded" / "figures" / f"fig03.{kind}"
                file.parent.mkdir(exist_ok=True)
                Image.new("RGB", (4, 4)).save(file)

    def again(**parameters):
        executed.clear()
        log = io.StringIO()
        names = ["01_walkthrough", "02_extraction", "03_retrieval"]
        notebooks.reproduce(parameters=parameters, notebooks=names, log=log)
        assert [name for name in names if f"{name}: unchanged" in log.getvalue()] == [
            name for name in names if name not in executed
        ]
        return [name[:2] for name in executed]

    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    assert again() == ["01", "02", "03"]
    assert again() == ["02"]  # looks at the images each time
    assert again(k=3) == ["02", "03"]
    assert again(k=3) == ["02"]
    (tmp_path / "embedded" / "figures" / "fig03.pdf").unlink()
    assert again(k=3) == ["02", "03"]
    (tmp_path / "embedded" / "notebooks" / "01_walkthrough.ipynb").unlink()
    assert again(k=3) == ["01", "02"]
    write_image(tmp_path / "images" / "0.png")
    cbir.extract(tmp_path / "images", make_net(), tmp_path / "embedded" / "stores" / "database")
    assert again(k=3) == ["01", "02", "03"]  # other images


def test_a_notebook_that_failed_is_executed_again(tmp_path, monkeypatch):
    def execute(source, output, parameters, **_):
        shutil.copy(source, output)
        if parameters["k"] == 4:
            raise RuntimeError("kernel died")
        executed.append(parameters["k"])

    def run(k):
        notebooks.reproduce(parameters={"k": k}, notebooks=["03_retrieval"], log=io.StringIO())

    executed = []
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    run(3)
    with pytest.raises(RuntimeError):
        run(4)
    run(3)  # what lies there is the failed one
    assert executed == [3, 3]


HOLD = "x = b'1' * {} * 10 ** 6; input()"


def hold(megabytes):
    """A process that holds so much memory until it gets a line."""
    command = [sys.executable, "-c", HOLD.format(megabytes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def test_peak_memory_is_that_of_the_processes_that_the_block_starts():
    """200 MB of a child, 100 MB of its own child, two bare interpreters; not what runs already."""
    grandchild = [sys.executable, "-c", HOLD.format(100)]
    # It starts its own child while it is small: a fork has the size of its parent for a moment.
    child = f"import subprocess; own = subprocess.Popen({grandchild!r}); "
    child += "x = b'1' * 200 * 10 ** 6; own.wait()"
    with hold(500) as before, notebooks.peak_memory() as samples:
        command = [sys.executable, "-c", child]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
            deadline = time.monotonic() + 120
            while max(samples) < 300e6 and time.monotonic() < deadline:
                time.sleep(0.05)
            started.communicate(b"\n")
        before.communicate(b"\n")
    assert 300e6 < max(samples) < 400e6
    with notebooks.peak_memory() as samples:
        pass
    assert max(samples) == 0


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.commit() == "no git checkout"
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]

    def git(*args):
        command = ["git", "-C", tmp_path, *author, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init")
    no_commit_yet = "a git checkout, of which git says nothing"
    assert environment.commit() == no_commit_yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    head = git("rev-parse", "HEAD").strip()
    assert environment.commit() == head
    (tmp_path / "file").write_text("2")
    assert environment.commit() == f"{head}, with changes"


@pytest.mark.parametrize(
    "words, advice",
    [
        (["-p", "network", "vgg16"], "-p network vgg16_conv, .*--profile photographs"),
        (["-p", "network", "timm/resnet18"], "-p network vgg16_conv, .*efficientnet_lite0"),
        (["--only", "08", "-p", "networks", "[resnet50]"], "-p networks '.embedded"),
    ],
)
def test_weights_that_cannot_be_downloaded_stop_the_run(words, advice, tmp_path, offline):
    """Before anything is written, and what to give instead is in the command's own words."""
    write_image(tmp_path / "photos" / "1.png")
    write_image(tmp_path / "photos" / "2.png")
    folder = ["--profile", "folder", "-p", "images", str(tmp_path / "photos"), "-p", "k", "1"]
    with pytest.raises(SystemExit, match=f"^cbir: .*could not be downloaded.*{advice}") as stopped:
        cli.main(["reproduce", *folder, *words])
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "runs").exists()
