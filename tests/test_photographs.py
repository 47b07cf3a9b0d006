"""Notebook 11: the results that are kept, what it prints of them, and its way through folders."""

import json
import re
import subprocess

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from compare_outputs import texts
from conftest import make_net
from PIL import Image

import cbir
from cbir import cli
from cbir import studies as photographs
from cbir.common import ROOT
from cbir.evaluation import holm
from cbir.studies import RESULTS, Experiment, read_results, write_results

KEPT = RESULTS / "photographs.json"
NOTEBOOK = ROOT / "notebooks" / "11_photographs.ipynb"
VERDICTS = {"better", "worse", "kept", "open"}
BY_WAY = ["set", "network", "way"]
DIFFERENCE = ["mean", "low", "high", "p", "p_holm", "verdict"]
COLUMNS = {
    "scores": [*BY_WAY, "metric", "descriptor", "mean", "low", "high"],
    "compared": [*BY_WAY, "metric", "descriptor", "control", *DIFFERENCE],
    "thresholds": [*BY_WAY, "descriptor", "threshold", "q", "neurons"],
    "chosen": [*BY_WAY, "metric", "descriptor", "control", *DIFFERENCE, "chosen", "value"],
    "shares": ["set", "network", "selection", "as they are", "unit length"],
    "by_share": [*BY_WAY, "descriptor", "share"],
    "common": [*BY_WAY, "selection", "images", "h and η̃", "η and h", "η and η̃"],
}
OF_A_SET = ["h", "database images", "queries images", "database SHA-256", "queries SHA-256"]


COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}


def write_classes(folder, n):
    """Pictures of noise, whose class is their colour."""
    rng = np.random.default_rng(n)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.clip(rng.normal(color, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    return str(folder)


def check_schema(path, sets, networks):
    """The tables, for every set and network; numbers that can be; nothing of a machine."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\", text)
    about, tables = read_results(path)
    expected = {(images, network) for images in sets for network in networks}
    assert {(of["set"], of["network"]) for of in about["of"]} == expected
    for of in about["of"]:
        assert set(OF_A_SET) <= set(of)
        assert re.fullmatch("[0-9a-f]{64}", of["database SHA-256"])
    assert set(about["networks"]) == set(networks)
    assert {"code", "Python", "packages"} == set(about["made by"])
    check_tables(tables, expected)
    return about, tables


def check_tables(tables, expected):
    """All tables have all sets and networks, and agree with each other."""
    assert list(tables) == list(COLUMNS)
    for name, table in tables.items():
        assert set(COLUMNS[name]) <= set(table.columns), name
        assert set(zip(table["set"], table["network"])) == expected, name
        numbers = table.select_dtypes("number")
        assert np.isfinite(numbers.drop(columns=["p_holm"], errors="ignore")).all(axis=None), name
    family = pd.concat([tables["compared"], tables["chosen"]])
    assert family.p_holm.to_numpy() == pytest.approx(holm(family.p), abs=2e-4)
    assert (family.low <= family.high).all() and set(family.verdict) <= VERDICTS
    scores = tables["scores"]
    assert (scores.low <= scores["mean"]).all() and (scores["mean"] <= scores.high).all()
    means = scores.set_index([*BY_WAY, "metric", "descriptor"])["mean"]
    for row in tables["compared"].itertuples():
        key = (row.set, row.network, row.way, row.metric)
        difference = means[(*key, row.descriptor)] - means[(*key, row.control)]
        assert row.mean == pytest.approx(difference, abs=2e-6)


def test_what_is_kept():
    about, tables = check_schema(
        KEPT, ["imagenette", "caltech101"], ["vgg16_conv", "efficientnet_lite0"]
    )
    assert KEPT.stat().st_size < 300_000
    counts = {of["set"]: (of["database images"], of["queries images"]) for of in about["of"]}
    assert counts == {"imagenette": (3000, 600), "caltech101": (1616, 404)}
    for of in about["of"]:
        if of["network"] == "vgg16_conv":
            assert of["widths"] == [4096, 4096] and of["accuracy"] > 0.5


@pytest.fixture(scope="module")
def printed():
    """All that the committed notebook prints."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    lines = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            lines += texts(output).values()
    return "\n".join(lines)


def test_the_notebook_prints_what_is_kept(printed):
    """Every mean with its interval, and no other."""
    in_print = set(re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", printed))
    scores = read_results(KEPT).tables["scores"]
    kept = {f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in scores.itertuples()}
    assert in_print == kept
    pair = r"[+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\] \w+"
    tables = read_results(KEPT).tables
    of_eta = tables["compared"].control.isin(["h", "h+average"])
    kept = set()
    for row in pd.concat([tables["compared"][of_eta], tables["chosen"]]).itertuples():
        digits = 4 if row.metric == "histogram distance" else 3
        mean, low, high = (f"{x:+.{digits}f}" for x in (row.mean, row.low, row.high))
        kept.add(f"{mean} [{low}, {high}] {row.verdict}")
    assert set(re.findall(pair, printed)) == kept


def test_every_decimal_of_the_prose_is_printed(printed):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    missing = [x for x in re.findall(r"(?<![\d.])\d\.\d+", prose) if x not in printed]
    assert not missing


def test_results_come_back_as_they_were_written(tmp_path):
    table = pd.DataFrame({"name": ["η̃", 'a "b"'], "n": [1, 2], "x": [0.12345678, np.nan]})
    path = write_results(tmp_path / "new" / "results.json", {"seed": 0}, {"one": table})
    about, tables = read_results(path)
    assert about == {"seed": 0} and list(tables) == ["one"]
    pd.testing.assert_frame_equal(tables["one"], table.round(6))
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["tables"]["one"]["rows"][1] == ['a "b"', 2, None]
    assert '\n   ["η̃", 1, 0.123457]' in text  # a line a row
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")


def frame(classes, distances):
    return pd.DataFrame({"class P@5": classes, "histogram distance": distances})


def test_a_share_is_chosen_on_the_other_half():
    """The nearest in colour of those that lose at most 0.02 in class, and never by its own half."""
    n = 40
    by_share = {
        0.0: frame([0.8] * n, [0.04] * n),
        0.2: frame([0.79] * n, [0.03] * n),
        0.5: frame([0.77] * n, [0.01] * n),  # too much is lost
        0.9: frame([0.9] * n, [0.035] * n),
    }
    chosen = photographs.nearest_that_keep_the_class(by_share)
    assert chosen.tolist() == [0.2] * n
    first, second = cbir.evaluation.halves(n)
    by_share[0.5].loc[first, "class P@5"] = 0.8  # on the first half it is good: for the second
    chosen = photographs.nearest_that_keep_the_class(by_share)
    assert set(chosen[second]) == {0.5} and set(chosen[first]) == {0.2}


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A tiny network on coloured noise."""
    folder = tmp_path_factory.mktemp("trial")
    net = make_net()
    with torch.no_grad():
        net.module.three[0].weight *= 30  # q = 0.5 selects something
    stores = []
    for part in ("database", "queries"):
        write_classes(folder / "images" / part, 10)
        extras = {"windows": "windows", "color": "color"}
        images = cbir.list_images(folder / "images" / part)
        stores.append(cbir.extract(images, net, folder / part, extras=extras))
    return Experiment(*stores, high_q=0.7, seed=1)


def test_tables_agree_with_each_other(trial, tmp_path):
    tables = photographs.tables({("noise", "tiny"): trial}, [12, 30, 1000])
    about = {"of": [], "networks": {}, "made by": {"code": "", "Python": "", "packages": {}}}
    path = write_results(tmp_path / "noise.json", about, tables)
    check_tables(read_results(path).tables, {("noise", "tiny")})
    assert set(tables["common"].images) == {12, 30}  # the database has no more
    scores = tables["scores"].set_index(["way", "descriptor", "metric"])["mean"]
    by_share = tables["by_share"].set_index(["way", "descriptor", "share"])["class P@5"]
    for way in photographs.WAYS:
        assert by_share[way, "h+color", 0.0] == pytest.approx(scores[way, "h", "class P@5"])
        assert by_share[way, "h+average", 1.0] == pytest.approx(scores[way, "average", "class P@5"])
    at_half = tables["thresholds"].query("q == 0.5").set_index(["way", "descriptor", "threshold"])
    for name, kind in {"q = 0.5": "absolute", "relative": "relative"}.items():
        for way, descriptor in [("as they are", "eta"), ("unit length", "eta_conv")]:
            expected = scores[way, f"{descriptor}, {name}", "class P@5"]
            assert at_half["class P@5"][way, descriptor, kind] == pytest.approx(expected)


def test_one_command_makes_them_again():
    command = ["make", "-n", "photographs", "CBIR_PHOTOS=/pictures"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reproduce --only 11" in done.stdout and "photographs.json" in done.stdout
    assert "/pictures/imagenette3600/queries" in done.stdout
    without = subprocess.run(
        ["make", "-n", "photographs", "CBIR_PHOTOS="], cwd=ROOT, capture_output=True, text=True
    )
    assert without.returncode and "set CBIR_PHOTOS" in without.stderr


@pytest.mark.slow
def test_folders_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    folders = [write_classes(tmp_path / "database", 8), write_classes(tmp_path / "queries", 8)]
    parameters = {
        "folders": json.dumps({"noise": folders}),
        "networks": "[vgg16_conv, efficientnet_lite0]",
        "code_widths": "[32, 16]",
        "sizes": "[12, 24]",
        "results": tmp_path / "noise.json",
    }
    command = ["reproduce", "--only", "11", "--name", "noise"]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    cli.main(command)
    _, tables = check_schema(
        tmp_path / "noise.json", ["noise"], ["vgg16_conv", "efficientnet_lite0"]
    )
    assert set(tables["common"].images) == {12, 24}
    assert (tmp_path / "runs" / "noise" / "report.html").is_file()
