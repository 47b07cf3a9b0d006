"""A grid of runs (q x recipe x network x ..), each notebooks 02-04: one table and one plot."""

import itertools
import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import papermill
import yaml

from . import figures, plots, tables
from .common import ROOT, AnyPath, did_you_mean, runs_folder, write_atomically
from .extract import connect, run_on_workers
from .notebooks import PAPER, check, reproduce
from .run import SETTINGS, Run

NOTEBOOKS = [PAPER[0], *PAPER[2:4]]  # what makes and scores descriptors: 02-04


def sweep(path: AnyPath, scheduler: str | None = None) -> tuple[Path, pd.DataFrame]:
    """Runs every cell of a grid that is not complete yet.

    A cell is a run of its own, runs/<sweep>-<parameter>-<value>.../, with what the notebooks say in
    log.txt. Cells that differ only in what comes after extraction run one after the other, and the
    later ones begin with links to the first one's stores. A cell that fails is recorded with its
    error, the others go on, and the next call tries it again.

    Args:
        path: a YAML file with `profile` (default scenes), `parameters` (fixed ones, may be
            missing) and `grid` {parameter: list of values}.
        scheduler: where cells run, as in `extract.connect`; None: one after the other. A cluster's
            machines need this repository's folder and that of the runs under the same paths.

    Returns:
        The folder runs/<sweep>/, with table.csv, table.md and figures/plot.{png,pdf}; and the
        table: a row per cell, its values on the grid, run, status ("complete" or "failed"), error,
        seconds, and "<metric> <descriptor>" with " low" and " high".

    Raises:
        ValueError: the file is no sweep.
        OSError: there is no such file, or no scheduler answers.
    """
    name, (profile, fixed, grid) = Path(path).stem, _read(Path(path))
    cells: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}  # by what stores depend on
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values))
        cell = re.sub(r"[^\w.-]+", "_", "-".join([name, *(f"{k}-{v}" for k, v in point.items())]))
        if len(cell) > 120 or cell in cells:  # a folder's name may have 255 bytes
            cell = f"{cell[:100]}-{zlib.crc32(str(point).encode()):08x}"
        cells[cell], given = point, fixed | point
        stores = {key: v for key, v in given.items() if key in SETTINGS}
        groups.setdefault(json.dumps(stores), {})[cell] = given
    where = str(runs_folder().resolve()), profile
    with connect(scheduler) as client:
        if client is None:
            done = [_run_cells(where, cells) for cells in groups.values()]
        else:
            done = list(run_on_workers(client, _run_cells, where, zip(groups.values())))
    print("\n".join(itertools.chain(*done)))
    return Run(name).path, _collect(Run(name), cells)


def _read(path: Path) -> tuple[str, dict[str, Any], dict[str, list[Any]]]:
    """A sweep's profile, fixed parameters and grid."""
    if not path.is_file():
        known = sorted(file.name for file in (ROOT / "sweeps").glob("*.yaml"))
        hint = f"write one, or take {', '.join(known)} of {ROOT / 'sweeps'}"
        raise FileNotFoundError(f"no sweep file {path}{did_you_mean(path.name, known)}: {hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    keys = {"profile", "parameters", "grid"}
    grid = content.get("grid") if isinstance(content, dict) and content.keys() <= keys else {}
    if not grid or not all(isinstance(values, list) and values for values in grid.values()):
        wanted = "'grid' gives lists of values, 'parameters' fixed values, 'profile' a profile"
        raise ValueError(f"{path} is no sweep: {wanted}, and there is nothing else")
    return content.get("profile", "scenes"), content.get("parameters") or {}, grid


def _run_cells(where: tuple[str, str], cells: Mapping[str, dict[str, Any]]) -> list[str]:
    """Runs cells of the same stores, of a folder of runs and a profile; says what came of each."""
    os.environ["CBIR_RUNS"], profile = where  # the notebooks' kernels take it from here
    told = []
    for cell, given in cells.items():
        run = Run(cell)
        try:
            values, _ = check(profile, cell, given, NOTEBOOKS)
            if (run.metrics.get("status"), run.metrics.get("given")) == ("complete", values):
                continue
            run.path.mkdir(parents=True, exist_ok=True)
            filled = [place for other in cells if (place := Run(other).path / "stores").exists()]
            if filled and run.path / "stores" not in filled:
                shutil.copytree(filled[0], run.path / "stores", copy_function=os.link)
            with open(run.path / "log.txt", "w", encoding="utf-8") as log:
                reproduce(profile, cell, given, NOTEBOOKS, log)
            told.append(f"{cell}: complete")
        except Exception as error:  # a notebook may raise anything, a kernel may die
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, papermill.PapermillExecutionError):
                reason = f"{error.ename}: {error.evalue}"
            run.record(status="failed", error=reason)
            told.append(f"{cell}: failed: {reason}")
    return told


def _collect(run: Run, cells: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table of all cells, saved with its plot."""
    rows, drawn = [], []
    for cell, values in cells.items():
        metrics = Run(cell).metrics
        complete = metrics["status"] == "complete"
        point = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in values.items()}
        (_, x), *others = point.items()
        row = point | {"run": cell, "status": metrics["status"]}
        row["error"] = "" if complete else metrics.get("error", "unfinished")
        row["seconds"] = sum(about["seconds"] for about in metrics.get("notebooks", {}).values())
        for result in metrics.get("results", []) if complete else []:
            drawn.append(result | {"x": x, "row": ", ".join(f"{k} = {v}" for k, v in others)})
            for key, end in {"mean": "", "low": " low", "high": " high"}.items():
                row[f"{result['metric']} {result['descriptor']}{end}"] = result[key]
        rows.append(row)
    table = pd.DataFrame(rows)
    write_atomically(run.path / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    means = [column for column in table if not str(column).endswith((" low", " high"))]
    write_atomically(run.path / "table.md", tables.markdown(table[means]))
    if drawn:
        _plot(run, pd.DataFrame(drawn), next(iter(point)))
    return table


def _plot(run: Run, results: pd.DataFrame, axis: str) -> None:
    """figures/plot: a column of panels a metric, a row a combination of the other axes."""
    rows, metrics = results["row"].unique(), results["metric"].unique()
    with plt.rc_context():
        figures.use_style()
        look: dict[str, Any] = {"figsize": (2.5 * len(metrics), 0.5 + 2 * len(rows))}
        look |= {"squeeze": False, "sharex": True, "sharey": "col"}
        fig, axes = plt.subplots(len(rows), len(metrics), **look)
        for row, panels in zip(rows, axes):
            plots.sweep(panels, results[results["row"] == row], axis)
            panels[0].set_ylabel(f"{row}\nmean over all queries".strip())
        names = axes[0, 0].get_legend_handles_labels()
        fig.legend(*names, loc="outside upper center", ncols=6, frameon=False)
        run.save_figure(fig, "plot", f"Mean over all queries and 95 % interval against {axis}.")
        plt.close(fig)
