"""A grid of runs (q x recipe x network x ..), each notebooks 02-04: one table and one plot."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import papermill
import yaml

from . import figures, plots, tables
from .common import ROOT, AnyPath, did_you_mean, runs_folder, write_atomically
from .extract import connect
from .notebooks import PAPER, check, parameters, reproduce
from .run import Run

NOTEBOOKS = PAPER[1:4]  # what makes and scores descriptors: 02-04


def sweep(
    path: AnyPath,
    scheduler: str | None = None,
) -> tuple[Path, pd.DataFrame]:
    """Runs every cell of a grid that is not complete yet.

    A cell is a run of its own, runs/<sweep>-<parameter>-<value>.../, with what the notebooks say in
    log.txt. Cells that differ only in what comes after extraction share their stores. A cell that
    fails is recorded with its error, the others go on, and the next call tries it again.

    Args:
        path: a YAML file with `profile` (default embedded), `parameters` (fixed ones, may be
            missing) and `grid` {parameter: list of values}.
        scheduler: where cells run, see `cbir.connect`; None: one after the other. The
            machines of a cluster need this repository's folder and that of the runs under the same
            paths.

    Returns:
        The folder runs/<sweep>/, with table.csv, table.md, plot.png and plot.pdf; and the table: a
        row a cell, its values on the grid, "<metric> <descriptor>" with " low" and " high",
        seconds, status ("complete" or "failed"), error, run.

    Raises:
        ValueError: the file is no sweep.
        FileNotFoundError: there is no such file.
        OSError: no scheduler answers.
    """
    name, profile, fixed, grid = _read(Path(path))
    jobs: dict[str, list[tuple[Any, ...]]] = {}  # by the store that they fill
    cells: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values))
        cell = re.sub(r"[^\w.-]+", "_", "-".join([name, *(f"{k}-{v}" for k, v in point.items())]))
        if len(cell) > 120 or cell in cells:  # a folder's name may have 255 bytes
            cell = f"{cell[:100]}-{_digest(point)}"
        cells[cell] = point
        try:
            given = check(profile, cell, fixed | point, NOTEBOOKS)
        except Exception as error:  # whatever is wrong with a cell, the others go on
            Run(cell).record(status="failed", error=_reason(error))
            continue
        metrics = Run(cell).metrics
        if metrics.get("status") == "complete" and metrics["given"] == json.loads(
            json.dumps(given)
        ):
            continue
        later = {"run_name", "device", "batch_size", "scheduler"}  # no descriptor depends on them
        later |= set().union(*map(parameters, NOTEBOOKS[1:])) - parameters(NOTEBOOKS[0]).keys()
        store = _digest({key: value for key, value in given.items() if key not in later})
        runs = str(runs_folder().resolve())
        job = (runs, f"../{name}/stores/{store}", profile, cell, fixed | point)
        jobs.setdefault(store, []).append(job)
    first = [group[0] for group in jobs.values()]  # of a store one cell goes ahead and fills it
    with connect(scheduler) as client:
        for wave in (first, [job for group in jobs.values() for job in group[1:]]):
            if client is None:
                done = [_run_cell(*job) for job in wave]
            else:
                done = client.gather([client.submit(_run_cell, *job, pure=False) for job in wave])
            print("\n".join(done))
    return Run(name).path, _collect(name, cells)


def _read(path: Path) -> tuple[str, str, dict[str, Any], dict[str, list[Any]]]:
    """A sweep's name, profile, fixed parameters and grid."""
    known = sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml"))
    if not path.is_file():
        hint = did_you_mean(path.stem, known)
        files = ", ".join(f"{name}.yaml" for name in known)
        raise FileNotFoundError(
            f"no sweep file {path}{hint}: write one, or take {files} of {ROOT / 'sweeps'}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    content = content if isinstance(content, dict) else {}
    grid, fixed = content.get("grid"), content.get("parameters") or {}
    is_grid = isinstance(grid, dict) and all(isinstance(v, list) and v for v in grid.values())
    if not (grid and is_grid and content.keys() <= {"profile", "parameters", "grid"}):
        raise ValueError(
            f"{path} is no sweep: 'grid' gives lists of values, 'parameters' fixed values, "
            "'profile' a profile, and there is nothing else"
        )
    return path.stem, content.get("profile", "embedded"), fixed, grid


def _run_cell(
    runs: str,
    store: str,
    profile: str,
    cell: str,
    given: dict[str, Any],
) -> str:
    """Runs one cell, wherever that is; says what came of it."""
    os.environ["CBIR_RUNS"] = runs  # the notebooks' kernels take it from here
    run = Run(cell)
    try:
        (run.path / store).mkdir(parents=True, exist_ok=True)
        link = run.path / "stores"
        if link.is_symlink():
            link.unlink()
        link.symlink_to(store, target_is_directory=True)
        with open(run.path / "log.txt", "w", encoding="utf-8") as log:
            reproduce(profile, cell, given, NOTEBOOKS, log)
    except Exception as error:  # a notebook may raise anything, a kernel may die
        run.record(status="failed", error=_reason(error))
        return f"{cell}: failed: {_reason(error)}"
    return f"{cell}: complete"


def _reason(error: Exception) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _collect(name: str, cells: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table of all cells, saved with its plot."""
    rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    axis, *others = next(iter(cells.values()))
    for cell, point in cells.items():
        metrics = Run(cell).metrics
        row = {key: v if isinstance(v, (int, float, str)) else str(v) for key, v in point.items()}
        place = {"x": row[axis], "row": ", ".join(f"{key} = {row[key]}" for key in others)}
        status, error = metrics["status"], ""
        seconds = sum(about["seconds"] for about in metrics.get("notebooks", {}).values())
        if status == "complete":
            for result in metrics.get("results", []):
                results.append(place | result)
                measure = f"{result['metric']} {result['descriptor']}"
                row[measure] = result["mean"]
                row |= {f"{measure} {end}": result[end] for end in ("low", "high")}
        else:
            error = metrics.get("error", "unfinished")
        rows.append(row | {"seconds": seconds, "status": status, "error": error, "run": cell})
    table = pd.DataFrame(rows)
    last = ["seconds", "status", "error", "run"]
    table = table[[*table.columns.drop(last), *last]]
    path = Run(name).path
    write_atomically(path / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    shown = table.drop(columns=[c for c in table if str(c).endswith((" low", " high"))])
    write_atomically(path / "table.md", tables.markdown(shown))
    if results:
        _plot(pd.DataFrame(results), axis, path / "plot")
    return table


def _plot(results: pd.DataFrame, axis: str, path: Path) -> None:
    """<path>.png and .pdf: a column of panels a metric, a row a combination of the other axes."""
    rows, metrics = results["row"].unique(), results["metric"].unique()
    with plt.rc_context():
        figures.use_style()
        size = (2.5 * len(metrics), 0.5 + 2 * len(rows))
        fig, axes = plt.subplots(
            len(rows), len(metrics), figsize=size, squeeze=False, sharex=True, sharey="col"
        )
        for row, panels in zip(rows, axes):
            plots.sweep(panels, results[results["row"] == row], axis)
            panels[0].set_ylabel(f"{row}\nmean over all queries".strip())
        handles, names = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=6, frameon=False)
        caption = f"Mean over all queries and 95 % interval against {axis}."
        fig.savefig(path.with_suffix(".png"), metadata={"Description": caption})
        fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        plt.close(fig)
