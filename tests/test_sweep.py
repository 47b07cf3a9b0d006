"""`cbir sweep`: each cell once, failures named and tried again, stores shared, a table, a plot."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from conftest import write_notebook

from cbir import cli
from cbir.common import ROOT
from cbir.sweep import sweep

FILL = """
place = run / 'stores' / 'database'
if not place.exists():
    place.mkdir(parents=True)
    (place / run_name).touch()"""
RECORD = """
assert k != 3, 'three fails'
rows = [dict(metric=m, descriptor='eta', mean=k, low=k - 0.5, high=None) for m in ('a', 'b')]
metrics = json.loads((run / 'metrics.json').read_text())
(run / 'metrics.json').write_text(json.dumps(metrics | {'results': rows}))"""
NO_SWEEPS = ["grid: {}", "grid: {k: 1}", "k: [1]", "grid: {k: [1]}\nmore: 1", "]"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three notebooks that import nothing heavy, runs without a report, and a folder for them."""
    monkeypatch.setattr("cbir.notebooks.report", lambda run: None)
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CBIR_NOTEBOOKS", str(tmp_path / "notebooks"))
    start = "import json, os, pathlib\nrun = pathlib.Path(os.environ['CBIR_RUNS'], run_name)"
    for name, parameter, code in [
        ("02_extraction", "q = 0.5  # threshold", FILL),
        ("03_retrieval", "k = 5  # images", RECORD),
        ("04_color_histograms", "n = 1  # images", ""),
    ]:
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        write_notebook(path, f'{parameter}\nrun_name = "scenes"  # name', start + code)
    return tmp_path


def write_sweep(path, grid, **content):
    path.write_text(yaml.safe_dump(content | {"grid": grid}, sort_keys=False), encoding="utf-8")
    return path


def test_a_grid_is_run_once_shares_stores_and_names_what_failed(project, capsys):
    path = write_sweep(project / "mine.yaml", {"k": [1, 3]}, parameters={"q": 0.25})
    with pytest.raises(SystemExit, match="(?s)1 of 2 cells failed.*mine-k-3: .*three fails"):
        cli.main(["sweep", str(path)])
    runs = project / "runs"
    table = pd.read_csv(runs / "mine" / "table.csv", keep_default_na=False)
    assert table["k"].tolist() == [1, 3] and table["status"].tolist() == ["complete", "failed"]
    assert float(table["a eta"][0]) == 1 and float(table["a eta low"][0]) == 0.5
    assert list(table)[:5] == ["k", "run", "status", "error", "seconds"]
    assert (runs / "mine" / "figures" / "plot.pdf").is_file()
    assert plt.imread(runs / "mine" / "figures" / "plot.png").ndim == 3
    assert len((runs / "mine" / "table.md").read_text(encoding="utf-8").splitlines()) == 4
    first, linked = runs.glob("*/stores/database/*")
    assert first.name == linked.name == "mine-k-1" and first.samefile(linked)
    assert (runs / "mine-k-1" / "log.txt").is_file()
    capsys.readouterr()
    sweep(path)
    told = capsys.readouterr().out  # only what had failed is tried again
    assert told.count("failed: ") == 1 and "complete" not in told


@pytest.mark.slow
def test_cells_run_at_the_same_time_on_a_cluster(project):
    _, table = sweep(write_sweep(project / "mine.yaml", {"q": [0.5, 1.0]}), "local")
    assert (table["status"] == "complete").all()


@pytest.mark.parametrize("text", NO_SWEEPS)
def test_files_that_are_no_sweep(project, text):
    (project / "grid.yaml").write_text(text)
    with pytest.raises(SystemExit, match="^cbir: .*grid.yaml (is|is no) .*") as stop:
        cli.main(["sweep", str(project / "grid.yaml")])
    assert "\n" not in str(stop.value)


def test_sweeps_of_the_project_are_found_by_their_names(project):
    for path in (ROOT / "sweeps").glob("*.yaml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["grid"]
    hint = r"did you mean 'metric.yaml'\?\): write one, or take balance.yaml, metric.yaml"
    with pytest.raises(FileNotFoundError, match=hint):
        sweep(project / "metrc.yaml")
