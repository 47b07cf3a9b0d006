"""The page that puts two runs side by side: one HTML file that refers to nothing outside."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from .common import AnyPath, write_atomically
from .evaluation import common_in_top_k
from .names import NAMES, plain_name
from .report import (
    PAGES,
    Cell,
    Metrics,
    ShownFigure,
    facts,
    image_hashes,
    listed,
    number,
    result_groups,
    shown_figures,
    stages,
)
from .run import Run
from .statistics import bootstrap_interval
from .tables import GROUPS

Key = TypeVar("Key")
Value = TypeVar("Value")


def compare(a: Run, b: Run, output: AnyPath | None = None) -> Path:
    """Writes one page with what differs between two runs.

    Results over other queries or another database stand side by side without a verdict.

    Args:
        a: the first run.
        b: the second one.
        output: the page's file, default compare_<a>_<b>.html in the current folder.

    Returns:
        The page's path.

    Raises:
        ValueError: a folder holds no run.
    """
    for run in (a, b):
        if not run.metrics:
            raise ValueError(f"{run.path} is no run: there is no metrics.json in it")
    of_a, of_b = a.metrics, b.metrics
    same_images, remark = _same_images(a, b)
    comparable = same_images is not False
    warnings = _unfinished(a, b)
    if remark:
        warnings.append(remark)
    rows = _compared_facts(a, b)
    skipped = sorted(_side_by_side(of_a.get("unreadable", {}), of_b.get("unreadable", {})))
    page = PAGES.get_template("compare.html.j2").render(
        a=a.name,
        b=b.name,
        paths=[a.path, b.path],
        warnings=warnings,
        comparable=comparable,
        differing=[row for row in rows if row.a != row.b],
        same=[row for row in rows if row.a == row.b],
        groups=_compared_groups(of_a, of_b, comparable),
        common=_common(a, b) if same_images else [],
        table1=_compared_table1(a, b),
        same_shown=of_a.get("shown_queries") == of_b.get("shown_queries"),
        stages=sorted(_side_by_side(_stages_by_name(of_a), _stages_by_name(of_b))),
        skipped=[(file, x, y) for file, x, y in skipped if x != y],
        skipped_alike=len([file for file, x, y in skipped if x == y]),
        figures=_compared_figures(shown_figures(a), shown_figures(b)),
    )
    return write_atomically(output or f"compare_{a.name}_{b.name}.html", page)


def _side_by_side(
    a: Mapping[Key, Value], b: Mapping[Key, Value]
) -> list[tuple[Key, Value | None, Value | None]]:
    """Two dicts as rows: [(key, value in a, value in b), ..], None where there is none."""
    return [(key, a.get(key), b.get(key)) for key in {**a, **b}]


# ---- what was run -------------------------------------------------------------------------------


class ComparedFact(NamedTuple):
    """A row of the table of facts."""

    section: str
    name: str
    a: str
    b: str


def _compared_facts(a: Run, b: Run) -> list[ComparedFact]:
    """The facts of both; of their parameters those of the notebooks that both have been through."""
    both = a.metrics.get("seconds", {}).keys() & b.metrics.get("seconds", {}).keys() or None
    rows = []
    for section, of_a, of_b in _side_by_side(facts(a, both), facts(b, both)):
        for name, x, y in _side_by_side(of_a or {}, of_b or {}):
            rows.append(ComparedFact(section, name, x or "–", y or "–"))
    return rows


def _unfinished(a: Run, b: Run) -> list[str]:
    """A warning for each run that is not complete."""
    warnings = []
    for side, run in [("a", a), ("b", b)]:
        status = run.metrics.get("status", "complete")
        if status != "complete":
            warnings.append(
                f"Run {side} is {status}: what it shows may be incomplete, "
                "or in part of an earlier time."
            )
    return warnings


def _same_images(a: Run, b: Run) -> tuple[bool | None, str]:
    """Whether both had the same images, None where it cannot be told; and a remark on it."""
    hashes_a, hashes_b = image_hashes(a), image_hashes(b)
    same, other = [], []
    for part in sorted(hashes_a.keys() & hashes_b.keys()):
        x, y = hashes_a[part], hashes_b[part]
        if "unknown" in x + y:
            continue
        if x == y:
            same.append(part)
        else:
            other.append(part)
    if other:
        return False, (
            f"The runs have other images ({listed(other)}): numbers over different queries or "
            "databases cannot be compared as such, so none is subtracted here."
        )
    if len(same) < 2:
        return None, (
            "Whether the runs had the same images cannot be told (no list of them is left): "
            "the differences mean something only if they had."
        )
    return True, ""


def _stages_by_name(metrics: Metrics) -> dict[str, dict[str, Any]]:
    return {stage["notebook"]: stage for stage in stages(metrics)}


# ---- results ------------------------------------------------------------------------------------


class ComparedResult(NamedTuple):
    """A row of a table of results. `verdict`: "equal", "overlap" or "apart"; "" for none."""

    metric: str
    descriptor: str
    a: Cell | None
    b: Cell | None
    difference: str
    verdict: str


def _compared_groups(
    of_a: Metrics, of_b: Metrics, comparable: bool
) -> dict[str, list[ComparedResult]]:
    """The tables that both runs have, by title."""
    groups_a = {group.title: group for group in result_groups(of_a)}
    groups_b = {group.title: group for group in result_groups(of_b)}
    compared = {}
    for title, group in groups_a.items():
        if title not in groups_b:
            continue
        rows = []
        cells_a, cells_b = _all_cells(group.metrics), _all_cells(groups_b[title].metrics)
        for (metric, descriptor), x, y in _side_by_side(cells_a, cells_b):
            verdict = _verdict(x, y) if x and y and comparable else ""
            difference = ""
            if verdict == "equal":
                difference = "0"
            elif x and y and verdict:
                difference = number(metric, y.value.mean - x.value.mean, "+")
            name = plain_name(descriptor)
            rows.append(ComparedResult(metric, name, x, y, difference, verdict))
        compared[title] = rows
    return compared


def _all_cells(metrics: Mapping[str, Mapping[str, Cell]]) -> dict[tuple[str, str], Cell]:
    """The cells of a group by metric and descriptor."""
    cells = {}
    for metric, row in metrics.items():
        for descriptor, cell in row.items():
            cells[metric, descriptor] = cell
    return cells


def _verdict(x: Cell, y: Cell) -> str:
    """How two means lie to each other; "" where one of them is no number."""
    if not (math.isfinite(x.value.mean) and math.isfinite(y.value.mean)):
        return ""
    if x.value[:3] == y.value[:3]:
        return "equal"
    return "overlap" if x.value.overlaps(y.value) else "apart"


def _common(a: Run, b: Run) -> list[tuple[str, int, float, float, float, float]]:
    """What two runs over the same images found alike.

    Rows of descriptor, k, mean, low, high, share of the queries whose k images are all the same.
    """
    if not all((run.path / "hits").is_dir() for run in (a, b)):
        return []
    hits_a, hits_b = a.load_arrays("hits"), b.load_arrays("hits")
    rows = []
    for descriptor, name in NAMES.items():
        key = f"{descriptor}_indices"
        if key not in hits_a or key not in hits_b:
            continue
        x, y = hits_a[key], hits_b[key]
        if len(x) != len(y):  # one of them is of an earlier time
            continue
        k = min(x.shape[1], y.shape[1])
        common = common_in_top_k(x[:, :k], y[:, :k])
        all_of_them = np.mean(common[np.isfinite(common)] == 1)
        rows.append((name, k, *bootstrap_interval(common), all_of_them))
    return rows


def _compared_table1(a: Run, b: Run) -> list[tuple[str, ...]]:
    """The means of Table I, without the paper's own.

    Rows of group, descriptor, mean of a, mean of b, difference, as text.
    """
    means_a, means_b = _table1_means(a), _table1_means(b)
    rows = []
    for column in {**means_a, **means_b}:
        group, descriptor = column.split(" ", 1)
        x, y = means_a.get(column, math.nan), means_b.get(column, math.nan)
        numbers = []
        for text in (f"{x:.6f}", f"{y:.6f}", f"{y - x:+.6f}"):
            numbers.append("–" if "nan" in text else text)
        rows.append((GROUPS[group], plain_name(descriptor), *numbers))
    return rows


def _table1_means(run: Run) -> dict[str, float]:
    """Our columns of Table I with their means, {"printed eta": .., "published eta": .., ..}."""
    path = run.path / "table1.csv"
    if not path.exists():
        return {}
    means = pd.read_csv(path).iloc[-1]
    ours = [name for name in means.index if name.split()[0] in ("printed", "published")]
    return {name: float(means[name]) for name in ours}


# ---- figures ------------------------------------------------------------------------------------


def _compared_figures(
    of_a: Mapping[str, ShownFigure], of_b: Mapping[str, ShownFigure]
) -> dict[str, list[Any]]:
    """The figures that differ, as pairs; those that are byte for byte the same; the others."""
    figures: dict[str, list[Any]] = {
        "differ": [],
        "identical": [],
        "only in a": [],
        "only in b": [],
    }
    for _, x, y in _side_by_side(of_a, of_b):
        if x is None:
            figures["only in b"].append(y)
        elif y is None:
            figures["only in a"].append(x)
        elif x.png.read_bytes() == y.png.read_bytes():
            figures["identical"].append(x)
        else:
            figures["differ"].append((x, y))
    return figures
