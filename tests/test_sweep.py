"""`cbir sweep`: every cell of the grid once, failures named and tried again, stores shared, one table and one plot."""

import json
import threading
from contextlib import contextmanager

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from conftest import write_image

from cbir import cli, plots
from cbir.common import ROOT
from cbir.workflow import sweep as module
from cbir.workflow.run import Run
from cbir.workflow.sweep import collect, read_sweep, sweep


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def images(tmp_path):
    for name in ("cat", "dog"):
        for i in range(4):
            write_image(tmp_path / "photos" / name / f"{i}.png", seed=i)
    return tmp_path / "photos"


def write_sweep(tmp_path, images, grid, name="mine", **parameters):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"profile": "folder", "grid": grid, "parameters": {"images": str(images), "network": "embedded"} | parameters},
                                   sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def notebooks(monkeypatch):
    """In place of the notebooks, which take a minute a cell: leaves metrics.json as they do, and notes which cells ran with which store."""
    ran, broken, guard = [], set(), threading.Lock()

    def reproduce(profile, name, parameters, notebooks, log):
        run = Run(name)
        given = module.with_defaults(module.check_parameters(profile, name, parameters, notebooks), notebooks)
        run.record(status="unfinished", parameters=given)
        store = (run.path / "stores").resolve()
        busy = store / ("busy" if not (store / "described").exists() else f"busy {name}")
        busy.touch(exist_ok=False)  # two cells that fill a store at the same time meet here
        with guard:
            ran.append((name, store.name))
        threading.Event().wait(0.1)
        busy.unlink()
        if name in broken:
            raise RuntimeError("the power failed")
        (store / "described").touch()
        results = [{"metric": m, "descriptor": d, "mean": given["k"] + i, "low": given["k"] + i - 0.5, "high": given["k"] + i + 0.25}
                   for m in ("same class", "histogram distance") for i, d in enumerate(("h", "eta"))]
        run.record(status="complete", seconds={"02_extraction": 1.5, "03_retrieval": 2}, results=results)
        return run

    monkeypatch.setattr(module, "reproduce", reproduce)
    return ran, broken


def test_one_run_a_cell_one_row_a_run_one_plot(tmp_path, runs, images, notebooks):
    table = sweep(write_sweep(tmp_path, images, {"k": [1, 3], "recipe": ["as_printed", "as_released"]}), tell=lambda line: None)
    assert [name for name, _ in notebooks[0]] == [f"mine-k-{k}-recipe-{r}" for r in ("as_printed", "as_released") for k in (1, 3)]
    assert table[["k", "recipe"]].to_numpy().tolist() == [[1, "as_printed"], [1, "as_released"], [3, "as_printed"], [3, "as_released"]]
    assert table["same class eta"].tolist() == [2, 2, 4, 4] and table["same class eta low"].tolist() == [1.5, 1.5, 3.5, 3.5]
    assert table["histogram distance h high"].tolist() == [1.25, 1.25, 3.25, 3.25]
    assert (table["status"] == "complete").all() and (table["seconds"] == 3.5).all() and (table["error"] == "").all()
    pd.testing.assert_frame_equal(pd.read_csv(runs / "mine" / "table.csv", keep_default_na=False), table)
    markdown = (runs / "mine" / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(markdown) == 2 + 4 and markdown[2].startswith("| 1 | as_printed | 1 [0.5, 1.25] | 2 [1.5, 2.25] |")
    assert (runs / "mine" / "plot.pdf").stat().st_size > 1000 and plt.imread(runs / "mine" / "plot.png").ndim == 3


def test_cells_share_a_store_exactly_where_extraction_is_the_same(tmp_path, runs, images, notebooks):
    sweep(write_sweep(tmp_path, images, {"metric": ["l1", "cosine"], "q": [0.5, 0.25], "device": ["cpu", "auto"]}), tell=lambda line: None)
    stores = {}
    for name, store in notebooks[0]:
        stores.setdefault(store, set()).add("q-0.25" in name)
    assert sorted(len([1 for _, s in notebooks[0] if s == store]) for store in stores) == [4, 4]
    assert all(len(same_q) == 1 for same_q in stores.values())
    assert {p.name for p in (runs / "mine" / "stores").iterdir()} == set(stores)


def test_a_failed_cell_is_named_and_tried_again_and_nothing_else_is(tmp_path, runs, images, notebooks):
    ran, broken = notebooks
    path, told = write_sweep(tmp_path, images, {"k": [1, 2, 0]}), []
    broken.add("mine-k-1")
    table = sweep(path, tell=told.append)
    assert table["status"].tolist() == ["failed", "complete", "failed"]
    assert table["error"].tolist() == ["RuntimeError: the power failed", "", "ValueError: k = 0 is out of range"]
    assert table["same class h"].isna().tolist() == [True, False, True]
    assert "mine-k-1: failed. RuntimeError: the power failed" in told and "mine-k-2: complete, 4 s" in told
    broken.clear()
    ran.clear()
    assert sweep(path, tell=told.append)["status"].tolist() == ["complete", "complete", "failed"]
    assert [name for name, _ in ran] == ["mine-k-1"] and "mine-k-2: complete already" in told


def test_other_parameters_make_a_cell_run_again(tmp_path, runs, images, notebooks):
    for seed in (0, 0, 1):
        sweep(write_sweep(tmp_path, images, {"k": [1]}, seed=seed), tell=lambda line: None)
    assert [name for name, _ in notebooks[0]] == ["mine-k-1", "mine-k-1"]


def test_an_interrupted_cell_is_not_complete(tmp_path, runs, images, notebooks, monkeypatch):
    path = write_sweep(tmp_path, images, {"k": [1]})
    sweep(path, tell=lambda line: None)
    Run("mine-k-1").record(status="unfinished")
    assert collect(read_sweep(path))[0]["status"].tolist() == ["unfinished"]
    sweep(path, tell=lambda line: None)
    assert len(notebooks[0]) == 2


def test_on_a_cluster_the_first_of_a_group_fills_the_store_and_failures_do_not_stop_it(tmp_path, runs, images, notebooks, monkeypatch):
    from distributed import Client, LocalCluster

    @contextmanager
    def threads(scheduler):
        assert scheduler == "tcp://mine"
        with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
            yield client

    monkeypatch.setattr(module, "connect", threads)
    notebooks[1].update({"mine-q-0.5-k-1", "mine-q-0.5-k-2"})
    table = sweep(write_sweep(tmp_path, images, {"q": [0.5, 0.25], "k": [1, 2, 3]}), "tcp://mine", tell=lambda line: None)
    assert table["status"].tolist() == ["failed", "failed", "complete", "complete", "complete", "complete"]
    order = [name for name, _ in notebooks[0]]
    assert sorted(order) == sorted(table["run"]) and [n for n in order if "0.5" in n] == [f"mine-q-0.5-k-{k}" for k in (1, 2, 3)]


def test_the_command_with_real_notebooks(tmp_path, runs, images, monkeypatch, capsys):
    """One cell works; the other fails inside notebook 03, which asks for more neighbours than there are. Both find the same store."""
    monkeypatch.setattr(module, "NOTEBOOKS", ["02_extraction", "03_retrieval"])
    path = write_sweep(tmp_path, images, {"k": [2, 50]}, n_queries=1)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path)])
    assert "1 of 2 cells failed" in stop.value.code and "mine-k-50: ValueError: k = 50 is out of range for 6 rows" in stop.value.code
    assert "mine-k-2: complete" in capsys.readouterr().out
    assert len(list((runs / "mine" / "stores").iterdir())) == 1
    metrics = {k: json.loads((runs / f"mine-k-{k}" / "metrics.json").read_text(encoding="utf-8")) for k in (2, 50)}
    assert metrics[2]["images"]["described now"] == 8 and metrics[50]["images"]["described now"] == 0
    table = pd.read_csv(runs / "mine" / "table.csv")
    expected = {r["descriptor"]: r["mean"] for r in metrics[2]["results"] if r["metric"] == "same class"}
    assert {d: table[f"same class {d}"][0] for d in expected} == pytest.approx(expected) and set(expected) == {"im", "h", "eta_conv", "eta"}
    assert "03_retrieval" in (runs / "mine-k-50" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("text, message", [
    ("grid: {k: [1", "no YAML"),
    ("[1, 2]", "is no sweep"),
    ("grid: {k: [1]}\ncolour: red", "is no sweep"),
    ("profile: embedded", "'grid' must give"),
    ("grid: {k: 1}", "'grid' must give"),
    ("grid: {k: []}", "'grid' must give"),
    ("grid: {colour: [1]}", "['colour'] must be parameters"),
    ("grid: {run_name: [a]}", "['run_name'] must be parameters"),
    ("grid: {k: [1]}\nparameters: {k: 2}", "['k'] must be parameters"),
    ("grid: {k: [1, 1]}", "two cells"),
])
def test_mistakes_in_a_sweep_file(tmp_path, runs, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path)])
    assert message in stop.value.code and not list(runs.glob("mine-*"))


def test_long_values_make_a_folder_name_that_fits():
    cells = module.Sweep("s", "folder", {}, {"images": ["/" + "a/" * 200, "/" + "a/" * 201]}).cells
    assert len(cells) == 2 and max(map(len, cells)) < 130 and all(name.startswith("s-images") for name in cells)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_sweeps_have_valid_cells(path, runs):
    plan = read_sweep(path)
    assert len(plan.cells) > 3
    for cell, (_, parameters) in plan.cells.items():
        module.check_parameters(plan.profile, cell, parameters, module.NOTEBOOKS)


def results(xs):
    return pd.DataFrame([{"x": x, "metric": m, "descriptor": d, "mean": i, "low": i - 1, "high": i + 2}
                         for m in ("a", "b") for i, x in enumerate(xs) for d in ("h", "eta", "other")])


@pytest.mark.parametrize("xs, ticks", [([2, 0.5, 1], ["2", "0.5", "1"]), (["l1", "cosine"], ["l1", "cosine"]), ([True, False], ["True", "False"]),
                                       ([3], ["3"]), ([1, "auto"], ["1", "auto"])])
def test_plot_is_to_scale_for_numbers_and_in_order_for_names(xs, ticks):
    fig, axes = plt.subplots(1, 2)
    plots.sweep(axes, results(xs), "what")
    for ax in axes:
        assert [t.get_text() for t in ax.get_xticklabels()] == ticks and ax.get_xlabel() == "what"
        lines = {c.get_label(): c for c in ax.containers}
        assert list(lines) == ["$h$", r"$\eta$", "other"]
        line = lines[r"$\eta$"].lines[0]
        at = dict(zip(line.get_ydata().tolist(), line.get_xdata()))  # eta stands in the middle, where the value is
        assert at == pytest.approx({i: x if ticks[0] in ("2", "3") else i for i, x in enumerate(xs)})
        assert list(line.get_xdata()) == sorted(line.get_xdata())
        low, high = lines["$h$"].lines[1]
        assert sorted(low.get_ydata() + 1) == sorted(high.get_ydata() - 2) == sorted(map(float, range(len(xs))))
    plt.close(fig)
