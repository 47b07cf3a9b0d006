"""`cbir sweep`: each cell once, failures named and tried again, stores shared, a table, a plot."""

import threading
from contextlib import contextmanager

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from conftest import write_image

from cbir import cli, plots
from cbir import sweep as module
from cbir.common import ROOT
from cbir.run import Run
from cbir.sweep import collect, read_sweep, sweep


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
    fixed = {"images": str(images), "network": "embedded"} | parameters
    content = {"profile": "folder", "grid": grid, "parameters": fixed}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def run_quietly(path, scheduler=None):
    return sweep(path, scheduler, tell=lambda line: None)


@pytest.fixture
def notebooks(monkeypatch):
    """In place of the notebooks, which take a minute a cell: leaves metrics.json as they do.

    Notes which cells ran with which store.
    """
    ran, broken, guard = [], set(), threading.Lock()

    def reproduce(profile, name, parameters, notebooks, log):
        run = Run(name)
        checked = module.check_parameters(profile, name, parameters, notebooks)
        given = module.with_defaults(checked, notebooks)
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
        results = []
        for metric in ("same class", "histogram distance"):
            for descriptor, mean in [("h", given["k"]), ("eta", given["k"] + 1)]:
                interval = {"mean": mean, "low": mean - 0.5, "high": mean + 0.25}
                results.append({"metric": metric, "descriptor": descriptor} | interval)
        seconds = {"02_extraction": 1.5, "03_retrieval": 2}
        run.record(status="complete", seconds=seconds, results=results)
        return run

    monkeypatch.setattr(module, "reproduce", reproduce)
    return ran, broken


def test_one_run_a_cell_one_row_a_run_one_plot(tmp_path, runs, images, notebooks):
    grid = {"k": [1, 3], "recipe": ["as_printed", "as_released"]}
    table = run_quietly(write_sweep(tmp_path, images, grid))
    assert [name for name, _ in notebooks[0]] == [
        "mine-k-1-recipe-as_printed",
        "mine-k-3-recipe-as_printed",
        "mine-k-1-recipe-as_released",
        "mine-k-3-recipe-as_released",
    ]
    assert table["k"].tolist() == [1, 1, 3, 3]
    assert table["recipe"].tolist() == 2 * ["as_printed", "as_released"]
    assert table["same class eta"].tolist() == [2, 2, 4, 4]
    assert table["same class eta low"].tolist() == [1.5, 1.5, 3.5, 3.5]
    assert table["histogram distance h high"].tolist() == [1.25, 1.25, 3.25, 3.25]
    assert (table["status"] == "complete").all()
    assert (table["seconds"] == 3.5).all()
    assert (table["error"] == "").all()
    written = pd.read_csv(runs / "mine" / "table.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, table)
    markdown = (runs / "mine" / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(markdown) == 2 + 4
    assert markdown[2].startswith("| 1 | as_printed | 1 [0.5, 1.25] | 2 [1.5, 2.25] |")
    assert (runs / "mine" / "plot.pdf").stat().st_size > 1000
    assert plt.imread(runs / "mine" / "plot.png").ndim == 3


def test_cells_share_a_store_where_extraction_is_the_same(tmp_path, runs, images, notebooks):
    grid = {"metric": ["l1", "cosine"], "q": [0.5, 0.25], "device": ["cpu", "auto"]}
    run_quietly(write_sweep(tmp_path, images, grid))
    stores = {}
    for name, store in notebooks[0]:
        stores.setdefault(store, set()).add("q-0.25" in name)
    assert sorted(len([1 for _, s in notebooks[0] if s == store]) for store in stores) == [4, 4]
    assert all(len(same_q) == 1 for same_q in stores.values())
    assert {p.name for p in (runs / "mine" / "stores").iterdir()} == set(stores)


def test_only_a_failed_cell_is_named_and_tried_again(tmp_path, runs, images, notebooks):
    ran, broken = notebooks
    path, told = write_sweep(tmp_path, images, {"k": [1, 2, 0]}), []
    broken.add("mine-k-1")
    table = sweep(path, tell=told.append)
    assert table["status"].tolist() == ["failed", "complete", "failed"]
    errors = ["RuntimeError: the power failed", "", "ValueError: k = 0 is out of range: 1 or more"]
    assert table["error"].tolist() == errors
    assert table["same class h"].isna().tolist() == [True, False, True]
    assert "mine-k-1: failed. RuntimeError: the power failed" in told
    assert "mine-k-2: complete, 4 s" in told
    broken.clear()
    ran.clear()
    assert sweep(path, tell=told.append)["status"].tolist() == ["complete", "complete", "failed"]
    assert [name for name, _ in ran] == ["mine-k-1"] and "mine-k-2: complete already" in told


def test_other_parameters_make_a_cell_run_again(tmp_path, runs, images, notebooks):
    for seed in (0, 0, 1):
        run_quietly(write_sweep(tmp_path, images, {"k": [1]}, seed=seed))
    assert [name for name, _ in notebooks[0]] == ["mine-k-1", "mine-k-1"]


def test_an_interrupted_cell_is_not_complete(tmp_path, runs, images, notebooks, monkeypatch):
    path = write_sweep(tmp_path, images, {"k": [1]})
    run_quietly(path)
    Run("mine-k-1").record(status="unfinished")
    assert collect(read_sweep(path))[0]["status"].tolist() == ["unfinished"]
    run_quietly(path)
    assert len(notebooks[0]) == 2


def test_on_a_cluster_the_first_of_a_group_fills_the_store(
    tmp_path, runs, images, notebooks, monkeypatch
):
    """Where it fails, the next one does."""
    from distributed import Client, LocalCluster

    @contextmanager
    def threads(scheduler):
        assert scheduler == "tcp://mine"
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client

    monkeypatch.setattr(module, "connect", threads)
    notebooks[1].update({"mine-q-0.5-k-1", "mine-q-0.5-k-2"})
    path = write_sweep(tmp_path, images, {"q": [0.5, 0.25], "k": [1, 2, 3]})
    table = run_quietly(path, "tcp://mine")
    assert table["status"].tolist() == 2 * ["failed"] + 4 * ["complete"]
    order = [name for name, _ in notebooks[0]]
    assert sorted(order) == sorted(table["run"])
    assert [n for n in order if "0.5" in n] == [f"mine-q-0.5-k-{k}" for k in (1, 2, 3)]


@pytest.mark.slow
def test_the_command_with_real_notebooks(tmp_path, runs, images, monkeypatch, capsys):
    """Two cells work, and find the same store; the third asks for more images than there are."""
    monkeypatch.setattr(module, "NOTEBOOKS", ["02_extraction", "03_retrieval"])
    path = write_sweep(tmp_path, images, {"k": [2, 3, 50]}, n_queries=1)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path)])
    assert "1 of 3 cells failed" in stop.value.code
    assert (
        "mine-k-50: ValueError: k = 50 is out of range for 6 images: choose 1 to 6"
        in stop.value.code
    )
    assert "mine-k-2: complete" in capsys.readouterr().out
    assert len(list((runs / "mine" / "stores").iterdir())) == 1
    metrics = {k: Run(f"mine-k-{k}").metrics for k in (2, 3)}
    assert metrics[2]["images"]["described now"] == 8
    assert metrics[3]["images"]["described now"] == 0
    table = pd.read_csv(runs / "mine" / "table.csv")
    of_class = [r for r in metrics[2]["results"] if r["metric"] == "same class"]
    expected = {r["descriptor"]: r["mean"] for r in of_class}
    assert {d: table[f"same class {d}"][0] for d in expected} == pytest.approx(expected)
    assert set(expected) == {"im", "h", "eta_conv", "eta", "h+average"}
    assert "03_retrieval" in (runs / "mine-k-3" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text, message",
    [
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
    ],
)
def test_mistakes_in_a_sweep_file(tmp_path, runs, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path)])
    assert message in stop.value.code and not list(runs.glob("mine-*"))


def test_long_values_make_a_folder_name_that_fits():
    cells = module.Sweep("s", "folder", {}, {"images": ["/" + "a/" * 200, "/" + "a/" * 201]}).cells
    assert len(cells) == 2
    assert max(map(len, cells)) < 130
    assert all(name.startswith("s-images") for name in cells)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_sweeps_have_valid_cells(path, runs):
    plan = read_sweep(path)
    assert len(plan.cells) > 3
    for cell, (_, parameters) in plan.cells.items():
        module.check_parameters(plan.profile, cell, parameters, module.NOTEBOOKS)


def results(xs):
    rows = []
    for metric in ("a", "b"):
        for i, x in enumerate(xs):
            for descriptor in ("h", "eta", "other"):
                rows.append((x, metric, descriptor, i, i - 1, i + 2))
    return pd.DataFrame(rows, columns=["x", "metric", "descriptor", "mean", "low", "high"])


@pytest.mark.parametrize(
    "xs, ticks",
    [
        ([2, 0.5, 1], ["2", "0.5", "1"]),
        (["l1", "cosine"], ["l1", "cosine"]),
        ([True, False], ["True", "False"]),
        ([3], ["3"]),
        ([1, "auto"], ["1", "auto"]),
    ],
)
def test_plot_is_to_scale_for_numbers_and_in_order_for_names(xs, ticks):
    fig, axes = plt.subplots(1, 2)
    plots.sweep(axes, results(xs), "what")
    for ax in axes:
        assert [t.get_text() for t in ax.get_xticklabels()] == ticks and ax.get_xlabel() == "what"
        lines = {c.get_label(): c for c in ax.containers}
        assert list(lines) == ["$h$", r"$\eta$", "other"]
        line = lines[r"$\eta$"].lines[0]
        # eta stands in the middle, where the value is
        at = dict(zip(line.get_ydata().tolist(), line.get_xdata()))
        places = xs if ticks[0] in ("2", "3") else range(len(xs))
        assert at == pytest.approx(dict(enumerate(places)))
        assert list(line.get_xdata()) == sorted(line.get_xdata())
        low, high = lines["$h$"].lines[1]
        means = [float(i) for i in range(len(xs))]
        assert sorted(low.get_ydata() + 1) == sorted(high.get_ydata() - 2) == means
    plt.close(fig)
