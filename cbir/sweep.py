"""A grid of runs (q x recipe x network x ..), each notebooks 02-04: one table and one plot."""

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

from . import figures as canvas
from . import plots, tables
from .checks import check_parameters, known_parameters
from .common import ROOT, AnyPath, did_you_mean, write_atomically
from .datasets import load_images
from .extract import connect
from .notebooks import reproduce, with_defaults
from .project import runs_folder
from .run import Run

if TYPE_CHECKING:
    from distributed import Client, Future

# What makes and scores descriptors. Training and walkthrough (00, 01) say the same in every cell,
# and every kernel costs seconds to start.
NOTEBOOKS = ["02_extraction", "03_retrieval", "04_color_histograms"]
# Parameters of notebook 02 on which no descriptor in the store depends. Cells that agree in all its
# others share a store.
NOT_STORED = {
    "run_name",
    "picture",
    "device",
    "batch_size",
    "scheduler",
    "im_vectors",
    "im_query_vectors",
    "im_files",
    "im_query_files",
}
LONGEST_NAME = 120  # characters of a cell's name: a folder's may have 255 bytes


class GridCell(NamedTuple):
    """One point of a grid: its values there, and all parameters that it is given."""

    values: dict[str, Any]
    parameters: dict[str, Any]


class Job(NamedTuple):
    """A cell as it is sent to where it runs. `store`: the name of the store that it fills."""

    runs: str
    sweep: str
    store: str
    profile: str
    cell: str
    parameters: dict[str, Any]


class Sweep(NamedTuple):
    """A sweep file: its name, profile, fixed parameters and grid {parameter: list of values}."""

    name: str
    profile: str
    parameters: dict[str, Any]
    grid: dict[str, list[Any]]

    @property
    def cells(self) -> dict[str, GridCell]:
        """{run name: `GridCell`}, the first axis slowest."""
        cells: dict[str, GridCell] = {}
        for point in itertools.product(*self.grid.values()):
            values = dict(zip(self.grid, point))
            name = self._cell_name(values)
            if name in cells:
                raise ValueError(
                    f"two cells of the grid come out as {name!r}: "
                    "values must differ in more than punctuation"
                )
            cells[name] = GridCell(values, self.parameters | values)
        return cells

    def _cell_name(self, values: Mapping[str, Any]) -> str:
        parts = [self.name, *(f"{key}-{value}" for key, value in values.items())]
        name = re.sub(r"[^\w.-]+", "_", "-".join(parts))
        if len(name) > LONGEST_NAME:
            return f"{name[:100]}-{_digest(values)}"
        return name


def read_sweep(path: AnyPath) -> Sweep:
    """Reads a sweep from a YAML file.

    Args:
        path: the file, with `profile` (default embedded), `parameters` (fixed ones, may be missing)
            and `grid`.

    Returns:
        The `Sweep`.

    Raises:
        ValueError: the file is no sweep, or names parameters that notebooks 02-04 do not have.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml"))
        files = ", ".join(f"{name}.yaml" for name in known)
        raise FileNotFoundError(
            f"no sweep file {path}{did_you_mean(path.stem, known)}: take one of {files} in "
            f"{ROOT / 'sweeps'}, or write one, see `cbir sweep --help`"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(content, dict) or not content.keys() <= {"profile", "parameters", "grid"}:
        raise ValueError(
            f"{path} is no sweep: it may say 'profile', 'parameters' and 'grid', nothing else"
        )
    grid: Any = content.get("grid")
    parameters = content.get("parameters") or {}
    if not (_is_grid(grid) and isinstance(parameters, dict)):
        raise ValueError(
            f"{path}: 'grid' must give a list of values for at least one parameter, "
            "'parameters' a value for each"
        )
    known = set().union(*map(known_parameters, NOTEBOOKS))
    known.remove("run_name")
    unknown = {*grid, *parameters} - known
    given_twice = grid.keys() & parameters.keys()
    wrong = sorted(unknown or given_twice)
    if wrong:
        raise ValueError(
            f"{path}: {wrong} must be parameters of notebooks 02-04, fixed or on the grid"
            f"{did_you_mean(wrong[0], known)}; there are {sorted(known)}"
        )
    return Sweep(path.stem, content.get("profile", "embedded"), parameters, grid)


def _is_grid(grid: object) -> bool:
    """Whether it gives a list of values for at least one parameter."""
    if not isinstance(grid, dict) or not grid:
        return False
    return all(isinstance(values, list) and values for values in grid.values())


def sweep(
    path: AnyPath, scheduler: str | None = None, tell: Callable[[str], object] = print
) -> pd.DataFrame:
    """Runs every cell of a sweep file that is not complete yet.

    A cell is a run of its own, runs/<sweep>-<parameter>-<value>.../, with what the notebooks say in
    log.txt. runs/<sweep>/ gets table.csv, table.md, plot.png, plot.pdf and stores/, where cells
    that differ only in what comes after extraction find the same descriptors. A cell that fails is
    recorded with its error, the others go on, and the next call tries it again.

    Args:
        path: the sweep file, see `read_sweep`.
        scheduler: where cells run, see `connect` of extract.py; None: one after the other. The
            machines of a cluster need this repository's folder and that of the runs under the same
            paths.
        tell: gets a line for every cell.

    Returns:
        A table with one row a cell, see `collect`.

    Raises:
        ValueError: as `read_sweep` does.
        OSError: as `read_sweep` and `connect` do.
    """
    plan = read_sweep(path)
    run = Run(plan.name)
    groups = _jobs_by_store(plan, tell)
    with connect(scheduler) as client:
        for cell, error in _run_all(list(groups.values()), client):
            if error:
                tell(f"{cell}: {error}")
            else:
                seconds = sum(Run(cell).metrics["seconds"].values())
                tell(f"{cell}: complete, {seconds:.0f} s")
    table, results = collect(plan)
    write_atomically(run.path / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomically(run.path / "table.md", tables.markdown(_readable(table)))
    if len(results):
        _plot(results, list(plan.grid), run.path / "plot")
    return table


def _jobs_by_store(plan: Sweep, tell: Callable[[str], object]) -> dict[str, list[Job]]:
    """The cells that are not complete, by the store that they fill; what is wrong is told."""
    groups: dict[str, list[Job]] = {}
    for cell, (_, parameters) in plan.cells.items():
        try:
            given = check_parameters(plan.profile, cell, parameters, NOTEBOOKS)
            wanted = with_defaults(given, NOTEBOOKS)
            if _complete(cell, wanted):
                tell(f"{cell}: complete already")
                continue
            # Here they are rendered or downloaded once, not by many cells at a time.
            load_images(given["profile"], given.get("images") or "", given.get("queries") or "")
        except Exception as error:  # whatever is wrong with a cell, the others go on
            tell(f"{cell}: {_failed(cell, error)}")
        else:
            stored = known_parameters(NOTEBOOKS[0]).keys() - NOT_STORED
            store = _digest({key: wanted[key] for key in stored})
            runs = str(runs_folder().resolve())
            job = Job(runs, plan.name, store, plan.profile, cell, parameters)
            groups.setdefault(store, []).append(job)
    return groups


def collect(plan: Sweep) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Collects what the cells' metrics.json say.

    Args:
        plan: the sweep.

    Returns:
        Two tables. The first has one row a cell: its values on the grid, "<metric> <descriptor>"
        with the mean over all queries, the same with " low" and " high" for its 95 % interval,
        seconds, status ("complete", "failed", "unfinished"), error, run; only complete cells have
        numbers. The second is the same in long form: x (the value on the first axis), row (the
        values on the others), metric, descriptor, mean, low, high.
    """
    rows = []
    results = []
    for cell, (values, _) in plan.cells.items():
        row = {key: _plain(value) for key, value in values.items()}
        (_, x), *others = row.items()
        place = {"x": x, "row": ", ".join(f"{key} = {value}" for key, value in others)}
        metrics = Run(cell).metrics
        status = metrics.get("status", "unfinished")
        error = metrics["error"] if status == "failed" else ""
        seconds = None
        if status == "complete":
            seconds = sum(metrics["seconds"].values())
            for result in metrics["results"]:
                results.append(place | result)
                name = f"{result['metric']} {result['descriptor']}"
                row[name] = result["mean"]
                row[f"{name} low"] = result["low"]
                row[f"{name} high"] = result["high"]
        rows.append(row | {"seconds": seconds, "status": status, "error": error, "run": cell})
    table = pd.DataFrame(rows)
    last = ["seconds", "status", "error", "run"]
    columns = [column for column in table if column not in last]
    return table[columns + last], pd.DataFrame(results)


def _plain(value: object) -> int | float | str:
    """A value on the grid as a table can hold it."""
    if isinstance(value, (int, float, str)):
        return value
    return str(value)


# ---- the cells ----------------------------------------------------------------------------------


def _run_all(
    groups: Iterable[Sequence[Job]], client: "Client | None"
) -> Iterator[tuple[str, str | None]]:
    """Yields (cell, error or None) as cells end.

    Of a group, which shares a store, one cell goes first and fills it for the others; where that
    one fails, the next does. So no two cells ever write to one store.
    """
    if client is None:
        for group in groups:
            for job in group:
                yield _run_cell(job)
        return
    from distributed import as_completed

    running: dict[Any, tuple[Job, Sequence[Job]]] = {}  # key: the job, and who waits for it
    completed = as_completed()

    def submit(job: Job, waiting: Sequence[Job]) -> None:
        future = client.submit(_run_cell, job, pure=False)
        running[future.key] = job, waiting
        completed.add(future)

    for first, *others in groups:
        submit(first, others)
    for future in completed:
        job, waiting = running.pop(future.key)
        cell, error = _outcome(future, job)
        if error and waiting:
            submit(waiting[0], waiting[1:])
        elif not error:
            for other in waiting:
                submit(other, [])
        yield cell, error


def _outcome(future: "Future", job: Job) -> tuple[str, str | None]:
    """What a cell on a cluster came to; its worker may have died."""
    if future.status == "finished":
        return future.result()
    return job.cell, _failed(job.cell, future.exception())


def _run_cell(job: Job) -> tuple[str, str | None]:
    """Runs one cell, wherever that is: (its name, None or what went wrong)."""
    os.environ["CBIR_RUNS"] = job.runs  # the notebooks' kernels take it from here
    try:
        path = Run(job.cell).path
        _link_store(path, Path("..", job.sweep, "stores", job.store))
        with open(path / "log.txt", "w", encoding="utf-8") as log:
            reproduce(job.profile, job.cell, job.parameters, NOTEBOOKS, log)
    except Exception as error:  # a notebook may raise anything, a kernel may die
        return job.cell, _failed(job.cell, error)
    return job.cell, None


def _link_store(run: Path, shared: Path) -> None:
    """Makes a run's stores/ a link to a folder that several runs share."""
    (run / shared).mkdir(parents=True, exist_ok=True)
    link = run / "stores"
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise FileExistsError(
            f"runs/{run.name} has stores of its own, from another command: delete it"
        )
    link.symlink_to(shared, target_is_directory=True)


def _failed(cell: str, error: BaseException) -> str:
    """Records a cell's error in its metrics.json; returns it as text."""
    if isinstance(error, papermill.PapermillExecutionError):
        reason = f"{error.ename}: {error.evalue}"
    else:
        reason = f"{type(error).__name__}: {error}"
    Run(cell).record(status="failed", error=reason)
    return f"failed. {reason}"


def _complete(cell: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a cell has been run with these parameters."""
    metrics = Run(cell).metrics
    if metrics.get("status") != "complete":
        return False
    recorded = metrics.get("parameters", {})
    as_recorded = json.loads(json.dumps(wanted))
    return all(key in recorded and recorded[key] == as_recorded[key] for key in as_recorded)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


# ---- the table and the plot ---------------------------------------------------------------------


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every mean and its interval in one cell, "0.971 [0.953, 0.987]"."""
    readable = pd.DataFrame(index=table.index)
    for column in map(str, table):
        if column.endswith((" low", " high")):
            continue
        if f"{column} low" in table:
            intervals = table[[column, f"{column} low", f"{column} high"]].to_numpy()
            readable[column] = [_interval(*row) for row in intervals]
        else:
            readable[column] = table[column]
    seconds = ["" if pd.isna(s) else f"{s:.0f}" for s in table["seconds"]]
    return readable.assign(seconds=seconds)


def _interval(mean: float, low: float, high: float) -> str:
    if pd.isna(mean):
        return ""
    if pd.isna(low):  # of few queries
        return f"{mean:.4g}"
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def _plot(results: pd.DataFrame, grid: Sequence[str], path: Path) -> None:
    """<path>.png and .pdf: a column of panels a metric, a row a combination of the other axes."""
    rows = results["row"].unique()
    metrics = results["metric"].unique()
    size = (2.5 * len(metrics), 0.5 + 2 * len(rows))
    with plt.rc_context():
        canvas.use_style()
        fig, axes = plt.subplots(
            len(rows), len(metrics), figsize=size, squeeze=False, sharex=True, sharey="col"
        )
        for row, panels in zip(rows, axes):
            plots.sweep(panels, results[results["row"] == row], grid[0])
            panels[0].set_ylabel(f"{row}\nmean over all queries".strip())
        for ax in axes[:-1].flat:
            ax.set_xlabel("")
        handles, names = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=6, frameon=False)
        caption = f"Mean over all queries and 95 % interval against {grid[0]}."
        fig.savefig(path.with_suffix(".png"), metadata={"Description": caption})
        fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        plt.close(fig)
