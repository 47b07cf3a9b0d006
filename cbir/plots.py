"""Figures that compare descriptors, drawn on the axes that they are given; they compute nothing."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from .figures import SMALL, Panels
from .names import color, is_part, marker, plain_name, symbol

LETTER = 4.4  # points that a letter of a name is wide

# Where a name may stand, in points from the point that it names: close to it, or further away at
# the end of a line.
_AROUND = [(1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8), (0, 1.2), (0, -1.2)]
_FURTHER_AROUND = [*_AROUND, (0.4, 1.2), (0.4, -1.2), (-0.4, 1.2), (-0.4, -1.2)]
AMBIGUOUS = 50  # square pixels: what it costs that a name could be another point's
CLOSE = [(5 * x, 5 * y) for x, y in [*_AROUND, (1.8, 0), (-1.8, 0)]]
FAR = [(r * x, r * y) for r, (x, y) in itertools.product((12, 20, 30, 42), _FURTHER_AROUND)]


def intervals(axes: Panels, table: pd.DataFrame, drawn_as: str | None = None) -> Panels:
    """Draws means with their 95 % intervals, one panel a metric, one point a descriptor.

    The points of variants ("eta, whitened") are empty.

    Args:
        axes: as many as metrics.
        table: columns metric, descriptor, mean, low, high, as `means` gives them.
        drawn_as: the descriptor whose colour and marker all points have, where the column names
            something else, such as the recipes that it was made by.

    Returns:
        axes.
    """
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for x, row in enumerate(rows.itertuples()):
            drawn = drawn_as or row.descriptor
            point = {"fmt": marker(drawn), "color": color(drawn), "markersize": 3.5}
            if "," in row.descriptor:
                point["markerfacecolor"] = "white"
            ends = [[row.mean - row.low], [row.high - row.mean]]
            ax.errorbar(x, row.mean, ends, capsize=2.5, linewidth=1, **point)
        ax.set_xticks(range(len(rows)), map(symbol, rows.descriptor))
        longest = rows.descriptor.map(plain_name).str.len().max()
        if LETTER * longest > _room(ax, len(axes), len(rows)):
            plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
        ax.set(title=metric, xlim=(-0.6, len(rows) - 0.4))
        ax.margins(y=0.2)
    return axes


def _room(ax: Axes, panels: int, names: int) -> float:
    """How many points a name has under one of so many panels in a figure."""
    inches = 0.8 * ax.get_figure(root=True).get_figwidth() / panels  # the rest: numbers
    return 72 * inches / names


def plane(ax: Axes, table: pd.DataFrame) -> Axes:
    """Draws descriptors in a plane of two metrics, a line along the Pareto front.

    A descriptor is a point with both intervals, its name beside it; points on the front are filled.
    Names cover no point and no other name, as far as there is room, and are nearest to their own
    point or have a line to it.

    Args:
        ax: x is better to the right, y downwards.
        table: columns descriptor, x, x_low, x_high, y, y_low, y_high, front (bool), as
            `class_color_plane` gives them.

    Returns:
        ax.
    """
    front = table[table.front].sort_values("x")
    line = {"color": "#BBBBBB", "linewidth": 1, "label": "Pareto front"}
    ax.step(front.x, front.y, where="pre", zorder=1, **line)
    for row in table.itertuples():
        shade = color(row.descriptor)
        ax.errorbar(
            row.x,
            row.y,
            [[row.y - row.y_low], [row.y_high - row.y]],
            [[row.x - row.x_low], [row.x_high - row.x]],
            fmt=marker(row.descriptor),
            markersize=4,
            color=shade,
            markerfacecolor=shade if row.front else "white",
            ecolor=to_rgba(shade, 0.35),
            elinewidth=0.8,
        )
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    ax.locator_params(nbins=6)
    ax.margins(0.12)  # for the names
    _name_points(ax, table)
    return ax


class _Spot(NamedTuple):
    """Where a name may stand."""

    offset: tuple[float, float]
    box: Bbox  # what it covers
    line: list[Bbox]  # what the line to its point covers


def _name_points(ax: Axes, table: pd.DataFrame) -> None:
    """Writes every point's name where it covers least, as close as possible."""
    ax.figure.draw_without_rendering()  # the layout decides what covers what
    centers = ax.transData.transform(table[["x", "y"]])
    points = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in centers]
    names: list[Bbox] = []
    lines: list[Bbox] = []
    for i, row in enumerate(table.itertuples()):
        taken = [*names, *points[:i], *points[i + 1 :]]
        spots = []
        costs = []
        for offset in [*CLOSE, *FAR]:
            text = _write(ax, row, offset)
            box = text.get_window_extent()
            text.remove()
            line = _along(points[i], box) if offset in FAR else []
            cost = _shared([box], [*taken, *lines]) + _shared(line, taken)
            cost += box.width * box.height - _shared([box], [ax.bbox])  # outside
            if offset in CLOSE and _is_ambiguous(i, centers, box):
                cost += AMBIGUOUS
            costs.append(cost)
            spots.append(_Spot(offset, box, line))
        best = spots[np.argmin(np.round(costs))]
        _write(ax, row, best.offset, with_line=best.offset in FAR)
        names.append(best.box)
        lines += best.line


def _write(ax: Axes, row: Any, offset: tuple[float, float], with_line: bool = False) -> Annotation:
    """A name beside its point, which does not count in the layout of the figure."""
    x, y = offset
    side = {-1: "right", 0: "center", 1: "left"}[int(np.sign(x))]
    grow = {-1: "top", 0: "center_baseline", 1: "bottom"}[int(np.sign(y))]
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
    if with_line:
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "#AAAAAA"}
        style["arrowprops"] = line | {"shrinkA": 0, "shrinkB": 2}
    name = symbol(row.descriptor)
    text = ax.annotate(name, (row.x, row.y), offset, ha=side, va=grow, **style)
    text.set_in_layout(False)
    return text


def _is_ambiguous(i: int, centers: NDArray[np.floating], box: Bbox) -> bool:
    """Whether a name without a line is nearer to another point than to its own, the i-th."""
    nearest = np.clip(centers, box.p0, box.p1)  # of the name, to each point
    distances = np.linalg.norm(centers - nearest, axis=1)
    return bool((np.delete(distances, i) <= distances[i]).any())


def _along(a: Bbox, b: Bbox) -> list[Bbox]:
    """Small boxes along the line between the middles of two."""
    start = (a.p0 + a.p1) / 2
    end = (b.p0 + b.p1) / 2
    corners = [start + t * (end - start) - 2 for t in np.linspace(0.2, 0.8, 10)]
    return [Bbox.from_bounds(x, y, 4, 4) for x, y in corners]


def _shared(boxes: Sequence[Bbox], others: Sequence[Bbox]) -> float:
    """The area that boxes share with others, pair by pair."""
    area = 0.0
    for box, other in itertools.product(boxes, others):
        both = Bbox.intersection(box, other)
        if both:
            area += both.width * both.height
    return area


def heat_map(
    ax: Axes, table: pd.DataFrame, best: Literal["max", "min"] = "max", text: str = "%.2f"
) -> Axes:
    """Draws a table as coloured cells with the numbers in them; light is good.

    Groups of columns (a MultiIndex) are parted by lines. Cells of NaN stay empty.

    Args:
        ax: the axes.
        table: numbers, a row a descriptor.
        best: "max" or "min", whichever is good.
        text: how a number is written.

    Returns:
        ax.
    """
    values = table.to_numpy(float)
    row_edges = np.arange(len(table) + 1) - 0.5
    column_edges = np.arange(table.shape[1] + 1) - 0.5
    cells = ax.pcolormesh(
        column_edges,
        row_edges,
        np.ma.masked_invalid(values),
        cmap="cividis" if best == "max" else "cividis_r",
        edgecolors="white",
        linewidth=0.4,
    )
    ax.set_ylim(row_edges[-1], row_edges[0])
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = cells.cmap(cells.norm(value))
            is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
            ink = "black" if is_light else "white"
            ax.text(column, row, text % value, ha="center", va="center", fontsize=SMALL, color=ink)
    ax.set_yticks(range(len(table)), map(symbol, table.index))
    columns = pd.Index(list(table.columns))  # of tuples, that has levels
    ax.set_xticks(range(len(columns)), columns.get_level_values(-1))
    if columns.nlevels > 1:
        _part_groups(ax, columns.get_level_values(0))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _part_groups(ax: Axes, groups: "pd.Index[str]") -> None:
    """Lines between groups of columns, their names above. groups: that of every column."""
    columns = pd.Series(range(len(groups)), index=groups)
    for group, members in columns.groupby(level=0, sort=False):
        style = {"ha": "center", "va": "bottom", "fontsize": SMALL}
        ax.text(members.mean(), -0.65, group, **style)
        if members.iloc[0] > 0:
            ax.axvline(members.iloc[0] - 0.5, color="white", linewidth=3)


def curves(
    axes: Panels, table: pd.DataFrame, x: str, names: Mapping[str, str] | None = None
) -> Panels:
    """Draws how metrics change with a setting: one panel a metric, one line a curve.

    Args:
        axes: as many as metrics; a curve is in the legend of the first one that has it.
        table: columns metric, curve, `x` and value, a row a point.
        x: the column of the setting.
        names: {curve: text for the legend}, default the curve's symbol.

    Returns:
        axes.
    """
    names = names or {}
    explained: set[str] = set()
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for curve, points in rows.groupby("curve", sort=False):
            line = {"color": color(curve), "marker": marker(curve), "markersize": 3}
            (drawn,) = ax.plot(points[x], points.value, linewidth=1, **line)
            if curve not in explained:
                drawn.set_label(names.get(curve, symbol(curve)))
        explained |= set(rows.curve)
        ax.set(title=metric, xlabel=x)
        ax.locator_params(nbins=5)
        ax.margins(y=0.1)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    return axes


def sweep(axes: Panels, table: pd.DataFrame, name: str) -> Panels:
    """Draws means with their 95 % intervals against a parameter: one panel a metric.

    Numbers are drawn to scale and joined. Anything else stands side by side, in the order of the
    table. Descriptors stand a little apart.

    Args:
        axes: as many as metrics.
        table: columns x, metric, descriptor, mean, low, high.
        name: the parameter's.

    Returns:
        axes.
    """
    values = list(dict.fromkeys(table["x"]))
    to_scale = all(map(_is_number, values))
    if to_scale:
        positions = dict(zip(values, values))
        texts = [f"{value:g}" for value in values]
        apart = 0.01 * (max(values) - min(values) or 1)
    else:
        positions = {value: n for n, value in enumerate(values)}
        texts = [str(value) for value in values]
        apart = 0.12
    descriptors = list(dict.fromkeys(table["descriptor"]))
    shifts = apart * (np.arange(len(descriptors)) - (len(descriptors) - 1) / 2)
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for descriptor, points in rows.groupby("descriptor", sort=False):
            x = points["x"].map(positions) + shifts[descriptors.index(descriptor)]
            points = points.assign(position=x).sort_values("position")
            ends = [points["mean"] - points["low"], points["high"] - points["mean"]]
            ax.errorbar(
                points["position"],
                points["mean"],
                ends,
                label=symbol(descriptor),
                color=color(descriptor),
                marker=marker(descriptor),
                markersize=3,
                linestyle="-" if to_scale else "",
                linewidth=1,
                capsize=2,
            )
        ax.set_xticks(list(positions.values()), texts, rotation=0 if to_scale else 20)
        ax.set(title=metric, xlabel=name)
        if not to_scale:
            ax.set_xlim(-0.5, len(positions) - 0.5)
    return axes


def _is_number(value: object) -> bool:
    """Whether a parameter's value is a number; True and False are none."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def contributions(ax: Axes, table: pd.DataFrame) -> Axes:
    """Draws what the parts of a descriptor add to a distance, as shares of a bar.

    Args:
        ax: the axes.
        table: numbers >= 0, a row a bar, a column a part ("y_6", "w_1").

    Returns:
        ax.
    """
    shares = table.div(table.sum(axis=1), axis=0)
    left = np.zeros(len(table))
    for part, (shade, ink) in part_colors(table.columns).items():
        style = {"color": shade, "edgecolor": "white", "linewidth": 0.5}
        widths = shares[part].to_numpy()
        ax.barh(range(len(table)), widths, left=left, height=0.7, label=symbol(part), **style)
        for row, share in enumerate(widths):
            if share > 0.05:
                middle = (left[row] + share / 2, row)
                text = {"ha": "center", "va": "center", "fontsize": SMALL, "color": ink}
                ax.text(*middle, f"{share:.0%}", **text)
        left = left + widths
    ax.set_yticks(range(len(table)), map(symbol, table.index))
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of the L1 distance")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def part_colors(parts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Chooses the colours of a bar's pieces.

    Layers ("y_6") come first, in blues, then blocks ("w_1") in oranges, then anything else in
    greys; later ones are darker.

    Args:
        parts: their names.

    Returns:
        {part: (its colour, the colour of text on it)}, in the order of the bar.
    """
    groups: dict[str, list[str]] = {"Blues": [], "Oranges": [], "Greys": []}
    palettes = {"y": "Blues", "w": "Oranges"}
    for part in parts:
        palette = palettes[part[0]] if is_part(part) else "Greys"
        groups[palette].append(part)
    colors = {}
    for palette, group in groups.items():
        for n, part in enumerate(group, start=1):
            depth = n / len(group)
            shade = to_hex(plt.get_cmap(palette)(0.25 + 0.6 * depth))
            colors[part] = (shade, "white" if depth > 0.6 else "black")
    return colors
