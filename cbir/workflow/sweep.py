"""A grid of runs (q x recipe x network x metric ..), each of them notebooks 02-04, collected in one table and one plot."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import papermill
import yaml

from .. import figures, plots, tables
from ..cluster import connect
from ..common import AnyPath, did_you_mean
from ..datasets import load_images
from .notebooks import check_parameters, known_parameters, reproduce, with_defaults
from .project import runs_folder
from .run import Run

if TYPE_CHECKING:
    from distributed import Client

Cell = tuple[str, str, str, str, str, dict[str, Any]]  # what `_cell` takes

# What makes and scores descriptors: training and walkthrough (00, 01) say the same in every cell, and every kernel costs seconds to start.
NOTEBOOKS = ["02_extraction", "03_retrieval", "04_color_histograms"]
# Parameters of notebook 02 on which no descriptor in the store depends. Cells that agree in all its others share a store.
NOT_STORED = {"run_name", "picture", "device", "batch_size", "scheduler", "im_vectors", "im_query_vectors", "im_files", "im_query_files"}


class Sweep(NamedTuple):
    """A sweep file: its name, the profile, the fixed parameters and the grid {parameter: list of values}."""

    name: str
    profile: str
    parameters: dict[str, Any]
    grid: dict[str, list[Any]]

    @property
    def cells(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """{run name: (values on the grid, all parameters)}, the first axis slowest."""
        cells = {}
        for values in itertools.product(*self.grid.values()):
            values = dict(zip(self.grid, values))
            name = re.sub(r"[^\w.-]+", "_", "-".join([self.name, *(f"{k}-{v}" for k, v in values.items())]))
            if len(name) > 120:  # paths, say; a folder's name may have 255 bytes
                name = f"{name[:100]}-{_digest(values)}"
            if name in cells:
                raise ValueError(f"two cells of the grid come out as {name!r}: values must differ in more than punctuation")
            cells[name] = values, self.parameters | values
        return cells


def read_sweep(path: AnyPath) -> Sweep:
    """The `Sweep` in a YAML file: `profile` (default embedded), `parameters` (fixed ones, may be missing), `grid`.

    Raises ValueError for a file that is no sweep or names parameters that notebooks 02-04 do not have, OSError where there is none.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(content, dict) or not content.keys() <= {"profile", "parameters", "grid"}:
        raise ValueError(f"{path} is no sweep: it may say 'profile', 'parameters' and 'grid', nothing else")
    grid, parameters = content.get("grid"), content.get("parameters") or {}
    if not (isinstance(grid, dict) and grid and all(isinstance(v, list) and v for v in grid.values()) and isinstance(parameters, dict)):
        raise ValueError(f"{path}: 'grid' must give a list of values for at least one parameter, 'parameters' a value for each")
    known = set().union(*map(known_parameters, NOTEBOOKS)) - {"run_name"}
    if not {*grid, *parameters} <= known or {*grid} & {*parameters}:
        wrong = sorted({*grid, *parameters} - known or {*grid} & {*parameters})
        raise ValueError(f"{path}: {wrong} must be parameters of notebooks 02-04, "
                         f"fixed or on the grid{did_you_mean(wrong[0], known)}; there are {sorted(known)}")
    return Sweep(path.stem, content.get("profile", "embedded"), parameters, grid)


def sweep(path: AnyPath, scheduler: str | None = None, tell: Callable[[str], object] = print) -> pd.DataFrame:
    """Runs every cell of a sweep file that is not complete yet; returns a table with one row a cell (DataFrame), see `collect`.

    A cell is a run of its own, runs/<sweep>-<parameter>-<value>.../, with what the notebooks say in log.txt. runs/<sweep>/ gets table.csv,
    table.md, plot.png, plot.pdf and stores/, where cells that differ only in what comes after extraction find the same descriptors.
    A cell that fails is recorded with its error, the others go on, and the next call tries it again.
    scheduler: where cells run, see `cbir.cluster.connect`; None: one after the other. The machines of a cluster need this repository's
    folder and that of the runs under the same paths. tell: gets a line for every cell.
    Raises what `read_sweep` and `connect` raise.
    """
    plan = read_sweep(path)
    run, groups = Run(plan.name), dict[str, list[Cell]]()
    for cell, (_, parameters) in plan.cells.items():
        try:
            given = check_parameters(plan.profile, cell, parameters, NOTEBOOKS)
            wanted = with_defaults(given, NOTEBOOKS)
            if _complete(cell, wanted):
                tell(f"{cell}: complete already")
                continue
            load_images(given["profile"], given.get("images") or "", given.get("queries") or "")  # rendered or downloaded once, not by many at a time
        except Exception as error:  # whatever is wrong with a cell, the others go on
            tell(f"{cell}: {_failed(cell, error)}")
        else:
            store = _digest({k: wanted[k] for k in known_parameters(NOTEBOOKS[0]).keys() - NOT_STORED})
            groups.setdefault(store, []).append((str(runs_folder().resolve()), plan.name, store, plan.profile, cell, parameters))
    with connect(scheduler) as client:
        for cell, error in _run_all(list(groups.values()), client):
            tell(f"{cell}: {error or 'complete, %.0f s' % sum(Run(cell).metrics['seconds'].values())}")
    table, results = collect(plan)
    table.to_csv(run.path / "table.csv", index=False)
    (run.path / "table.md").write_text(tables.markdown(_readable(table)), encoding="utf-8")
    if len(results):
        _plot(results, list(plan.grid), run.path / "plot")
    return table


def collect(plan: Sweep) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the cells' metrics.json say: (table, results), two DataFrames.

    table: one row a cell: its values on the grid, "<metric> <descriptor>" with the mean over all queries, the same with " low" and " high"
    for its 95 % interval, seconds, status ("complete", "failed", "unfinished"), error, run. Only complete cells have numbers.
    results: the same in long form: x (the value on the first axis), row (the values on the others), metric, descriptor, mean, low, high.
    """
    rows, results = [], []
    for cell, (values, _) in plan.cells.items():
        metrics = Run(cell).metrics
        row = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in values.items()}
        x, *others = row.values()
        others = ", ".join(f"{k} = {v}" for k, v in list(row.items())[1:])
        status = metrics.get("status", "unfinished")
        for r in metrics["results"] if status == "complete" else []:
            results.append({"x": x, "row": others, **r})
            row |= {f"{r['metric']} {r['descriptor']}{end}": r[key] for end, key in [("", "mean"), (" low", "low"), (" high", "high")]}
        seconds = sum(metrics["seconds"].values()) if status == "complete" else None
        rows.append(row | {"seconds": seconds, "status": status, "error": metrics["error"] if status == "failed" else "", "run": cell})
    last = ["seconds", "status", "error", "run"]
    table = pd.DataFrame(rows)
    return table[[c for c in table if c not in last] + last], pd.DataFrame(results)


def _run_all(groups: Iterable[Sequence[Cell]], client: "Client | None") -> Iterator[tuple[str, str | None]]:
    """Yields (cell, error or None) as cells end. Of a group, which shares a store, one cell goes first and fills it for the others;
    where that one fails, the next does. So no two cells ever write to one store."""
    if client is None:
        yield from (_cell(*arguments) for group in groups for arguments in group)
        return
    from distributed import as_completed

    waiting, done = {}, as_completed()

    def submit(arguments: Cell, rest: Sequence[Cell]) -> None:
        future = client.submit(_cell, *arguments, pure=False)
        waiting[future.key] = arguments, rest
        done.add(future)

    for first, *rest in groups:
        submit(first, rest)
    for future in done:
        arguments, rest = waiting.pop(future.key)
        cell, error = future.result() if future.status == "finished" else (arguments[4], _failed(arguments[4], future.exception()))
        for n, arguments in enumerate(rest[:1] if error else rest, start=1):
            submit(arguments, rest[n:] if error else [])
        yield cell, error


def _cell(runs: str, sweep: str, store: str, profile: str, cell: str, parameters: dict[str, Any]) -> tuple[str, str | None]:
    """One cell, wherever it runs: (its name, None or what went wrong)."""
    os.environ["CBIR_RUNS"] = runs  # the notebooks' kernels, on other machines too, take it from here
    try:
        path, shared = Run(cell).path, Path("..", sweep, "stores", store)
        (path / shared).mkdir(parents=True, exist_ok=True)
        link = path / "stores"
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise FileExistsError(f"runs/{cell} has stores of its own, from another command: delete it")
        link.symlink_to(shared, target_is_directory=True)
        with open(path / "log.txt", "w", encoding="utf-8") as log:
            reproduce(profile, cell, parameters, NOTEBOOKS, log)
    except Exception as error:  # a notebook may raise anything, a kernel may die
        return cell, _failed(cell, error)
    return cell, None


def _failed(cell: str, error: BaseException) -> str:
    """Records a cell's error in its metrics.json; returns it as text."""
    reason = f"{error.ename}: {error.evalue}" if isinstance(error, papermill.PapermillExecutionError) else f"{type(error).__name__}: {error}"
    Run(cell).record(status="failed", error=reason)
    return f"failed. {reason}"


def _complete(cell: str, wanted: Mapping[str, Any]) -> bool:
    metrics = Run(cell).metrics
    recorded = metrics.get("parameters", {})
    return metrics.get("status") == "complete" and all(k in recorded and recorded[k] == v for k, v in json.loads(json.dumps(wanted)).items())


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every mean and its interval in one cell, "0.971 [0.953, 0.987]"."""
    out = table.drop(columns=[c for c in table.columns if c.endswith((" low", " high"))])
    for c in (c for c in out if f"{c} low" in table):
        out[c] = ["" if pd.isna(m) else f"{m:.4g} [{low:.4g}, {high:.4g}]" for m, low, high in table[[c, f"{c} low", f"{c} high"]].to_numpy()]
    out["seconds"] = ["" if pd.isna(s) else f"{s:.0f}" for s in out["seconds"]]
    return out


def _plot(results: pd.DataFrame, grid: Sequence[str], path: Path) -> None:
    """<path>.png and .pdf: a column of panels a metric, a row for every combination of the axes after the first."""
    rows, metrics = results["row"].unique(), results["metric"].unique()
    with plt.rc_context():
        figures.use_style()
        fig, axes = plt.subplots(len(rows), len(metrics), figsize=(2.5 * len(metrics), 0.5 + 2 * len(rows)), squeeze=False, sharex=True, sharey="col")
        for row, panels in zip(rows, axes):
            plots.sweep(panels, results[results["row"] == row], grid[0])
            for ax in panels if row != rows[-1] else []:
                ax.set_xlabel("")
            panels[0].set_ylabel("\n".join(filter(None, [row, "mean over all queries"])))
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
        fig.savefig(path.with_suffix(".png"), metadata={"Description": f"Mean over all queries and 95 % interval against {grid[0]}."})
        fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        plt.close(fig)
