"""Figures that compare descriptors, drawn on the axes that they are given; they compute nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .claims import SETTINGS
from .figures import SMALL, Panels
from .names import IMAGE_MARKERS, NETWORK_COLORS, color, is_part, marker, symbol

BAND = "#E8E8E8"  # what is within a margin


def intervals(
    axes: Panels, table: pd.DataFrame, chance: Mapping[str, float] | None = None
) -> Panels:
    """Draws means with their 95 % intervals as a forest plot: a panel per measure, names once.

    Args:
        axes: as many as measures, side by side; the first has the descriptors' names at its left.
        table: columns metric, descriptor, mean, low, high, as `means` gives them; variants ("eta,
            whitened") have empty points.
        chance: {measure: what random images would have}, drawn as a thin line.
    """
    descriptors = [*table.descriptor.unique()]
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        if chance and str(metric) in chance:
            ax.axvline(chance[str(metric)], color="#888888", linewidth=0.6, zorder=0)
        for row in rows.itertuples():
            name, y = row.descriptor, descriptors.index(row.descriptor)
            look = _look(marker(name), color(name), "," not in name, 3.5)
            _interval(ax, (row.mean, row.low, row.high), y, linewidth=1, clip_on=False, **look)
        first = ax is axes[0]
        ax.set_yticks(range(len(descriptors)), [symbol(d) if first else "" for d in descriptors])
        ax.tick_params(axis="y", length=0)
        ax.set(title=metric, ylim=(len(descriptors) - 0.4, -0.6))
    return axes


def _look(shape: str, tone: str, filled: bool, size: float) -> dict[str, Any]:
    """Returns the style of a single mark, filled or hollow."""
    face = tone if filled else "white"
    look = {"marker": shape, "color": tone, "markerfacecolor": face, "markersize": size}
    return look | {"linestyle": ""}


def _interval(ax: Axes, ends: Sequence[float], y: float, **style: Any) -> None:
    """Draws a mean with its interval, lying; ends: mean, low, high."""
    mean, low, high = ends
    ax.errorbar(mean, y, xerr=[[abs(mean - low)], [abs(high - mean)]], **style)


def _legend(figure: Figure, looks: Mapping[str, dict[str, Any]]) -> None:
    """Explains marks below a figure: {text: look}."""
    handles = [Line2D([], [], label=text, **look) for text, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def plane(ax: Axes, table: pd.DataFrame) -> Axes:
    """Draws descriptors, in the columns descriptor, x and y, as points with names at the right."""
    for row in table.itertuples():
        ax.plot(row.x, row.y, **_look(marker(row.descriptor), color(row.descriptor), True, 5))
    ax.margins(0.05)
    return _name(ax, table)


def _name(ax: Axes, points: pd.DataFrame) -> Axes:
    """Writes names at the right of axes, as far apart as they need, with lines to their points."""
    points = points.sort_values("y")
    low, high = ax.get_ylim()
    rows = ax.get_subplotspec().get_gridspec().nrows if ax.get_subplotspec() else 1
    height = 0.75 * 72 * ax.get_figure(root=True).get_figheight() / rows  # of axes, in points
    steps = min(1 / len(points), 1.4 * SMALL / height) * np.arange(len(points))
    heights = np.maximum.accumulate((points.y - low) / (high - low) - steps) + steps
    heights = np.minimum(heights, 1 - steps[::-1])
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": "#AAAAAA", "shrinkA": 0, "shrinkB": 2}
    line["relpos"] = (0, 0.5)  # from the name's left end
    style = {"textcoords": "axes fraction", "va": "center", "fontsize": SMALL, "arrowprops": line}
    for at, row in zip(heights, points.itertuples()):
        tone = color(row.descriptor)
        ax.annotate(symbol(row.descriptor), (row.x, row.y), (1.03, at), color=tone, **style)
    return ax


def curves(
    axes: Panels, table: pd.DataFrame, x: str, shaded: tuple[float, float] | None = None
) -> Panels:
    """Draws how measures change with `x`: a panel per measure, a line per curve, named at its end.

    Args:
        axes: as many as measures.
        table: columns metric, curve, `x`, value and mark. A row with a mark ("as printed") is a
            single point of the curve's colour and the mark's marker, off the line.
        x: the column on the horizontal axis, and its label.
        shaded: from where to where on it the ground is grey.

    Returns:
        axes.
    """
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        if shaded:
            ax.axvspan(*shaded, color=BAND, zorder=0)
        for (curve, mark), points in rows.groupby(["curve", "mark"], sort=False):
            look = {"marker": ".", "color": color(curve), "markersize": 3, "linewidth": 1}
            if mark:
                look = _look(marker(mark), color(curve), False, 6) | {"zorder": 3}
            ax.plot(points[x], points.value, **look)
        ax.set(title=metric, xlabel=x)
        ax.margins(y=0.1)
    ends = rows[rows["mark"] == ""].groupby("curve", sort=False).last().reset_index()
    _name(ax, ends.rename(columns={"curve": "descriptor", x: "x", "value": "y"}))
    return axes


def marks(figure: Figure, names: Iterable[str]) -> None:
    """Draws a legend of markers, those of `curves`' marks or of `dots`, below a figure."""
    _legend(figure, {symbol(name): _look(marker(name), color(name), False, 5) for name in names})


def dots(axes: Panels, table: pd.DataFrame) -> Panels:
    """Draws a dot plot: a panel per measure, a line per row, a mark per descriptor.

    The table has the columns metric, row, descriptor and value.
    """
    rows = list(dict.fromkeys(table["row"]))
    for ax, (metric, of_metric) in zip(axes, table.groupby("metric", sort=False)):
        for name, points in of_metric.groupby("descriptor", sort=False):
            look = _look(marker(name), color(name), False, 5) | {"markerfacecolor": "none"}
            ax.plot(points.value, [rows.index(row) for row in points["row"]], **look)
        ax.set(title=metric, ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=[])
        ax.grid(axis="y", linewidth=0.4)
        ax.margins(x=0.08)
    axes[0].set_yticklabels(map(symbol, rows))
    marks(axes[0].get_figure(root=True), dict.fromkeys(table.descriptor))
    return axes


def sweep(axes: Panels, table: pd.DataFrame, name: str) -> Panels:
    """Draws means with 95 % intervals against a parameter of that name: one panel per measure.

    The table has the columns x, metric, descriptor, mean, low, high. Numbers x are drawn to scale
    and joined; anything else stands side by side.
    """
    values = table["x"].unique()
    to_scale = pd.api.types.is_any_real_numeric_dtype(table["x"].infer_objects())
    positions = values if to_scale else np.arange(len(values))
    apart = 0.01 * (np.ptp(positions) or 1) if to_scale else 0.12
    numbers, descriptors = table["descriptor"].factorize()
    position = positions[table["x"].factorize()[0]]
    table = table.assign(position=position + apart * (numbers - (len(descriptors) - 1) / 2))
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for descriptor, points in rows.groupby("descriptor", sort=False):
            points = points.sort_values("position")
            ends = [points["mean"] - points["low"], points["high"] - points["mean"]]
            style = {"color": color(descriptor), "marker": marker(descriptor), "markersize": 3}
            style |= {"linestyle": "-" if to_scale else "", "linewidth": 1, "capsize": 2}
            ax.errorbar(points["position"], points["mean"], ends, label=symbol(descriptor), **style)
        texts = [f"{value:g}" if to_scale else str(value) for value in values]
        ax.set_xticks(positions, texts, rotation=0 if to_scale else 20)
        ax.set(title=metric, xlabel=name)
        if not to_scale:
            ax.set_xlim(-0.5, len(positions) - 0.5)
    return axes


def contributions(ax: Axes, table: pd.DataFrame) -> Axes:
    """Draws what the layers of a descriptor add to a distance, as shares of a bar.

    The table has a row per bar, a column per layer ("y_6", "w_1"). Codes come first, in blues, then
    blocks in oranges, then anything else in greys.
    """
    shares = table.div(table.sum(axis=1), axis=0)
    left = np.zeros(len(table))
    kinds = [layer[0] if is_part(layer) else "" for layer in table.columns]
    for kind, palette in {"y": "Blues", "w": "Oranges", "": "Greys"}.items():
        group = table.columns[[each == kind for each in kinds]]
        for depth, layer in zip(np.arange(1, len(group) + 1) / len(group), group):
            shade = plt.get_cmap(palette)(0.25 + 0.6 * depth)
            style = {"color": shade, "edgecolor": "white", "linewidth": 0.5, "height": 0.7}
            widths = shares[layer].to_numpy()
            bars = ax.barh(range(len(table)), widths, left=left, label=symbol(layer), **style)
            texts = [f"{width:.0%}" if width > 0.05 else "" for width in widths]
            ink = "white" if depth > 0.6 else "black"
            ax.bar_label(bars, texts, label_type="center", color=ink, fontsize=SMALL)
            left = left + widths
    ax.set_yticks(range(len(table)), map(symbol, table.index))
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of the L1 distance")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def verdict(axes: Panels, cells: pd.DataFrame) -> Panels:
    """Draws the primary family as a forest plot: a panel per measure, right is better.

    A row is a comparison with one recipe; a mark a setting, by `NETWORK_COLORS` and
    `IMAGE_MARKERS`, with its 95 % interval. It is filled if the cell's word is "better" or
    "worse". The band is the margin.

    Args:
        axes: three: class, background and colour.
        cells: what `claims.cells` gives.

    Returns:
        axes.
    """
    rows = list(dict.fromkeys(zip(cells["row"], cells.recipe)))
    settings = list(SETTINGS)
    for ax, (measure, of_measure) in zip(axes, cells.groupby("measure", sort=False)):
        margin = of_measure.margin.iloc[0] / of_measure.unit.iloc[0]
        ax.axvspan(-margin, margin, color=BAND, zorder=0)
        ax.axvline(0, color="#888888", linewidth=0.6, zorder=1)
        cell: Any
        for cell in of_measure.itertuples():
            images, _, network = SETTINGS[cell.setting].title.partition(", ")
            place = (settings.index(cell.setting) + 0.5) / len(settings)
            y = rows.index((cell.row, cell.recipe)) + 0.8 * (place - 0.5)
            unit = -cell.unit if measure == "colour" else cell.unit  # a smaller distance is better
            ends = [end / unit for end in (cell.mean, cell.low, cell.high)]
            filled = cell.word in ("better", "worse")
            look = _look(IMAGE_MARKERS[images], NETWORK_COLORS[network], filled, 2.8)
            _interval(ax, ends, y, elinewidth=0.6, markeredgewidth=0.7, **look)
        for line in range(1, len(rows)):
            wide = rows[line][0] != rows[line - 1][0]
            ax.axhline(line - 0.5, color="#BBBBBB", linewidth=1 if wide else 0.3, zorder=0)
        ax.set(ylim=(len(rows) - 0.5, -0.5), yticks=[])
        ax.tick_params(axis="y", length=0)
        better = "nearer, % of h's distance →" if measure == "colour" else "P@5, more →"
        ax.set(title=measure, xlabel=better)
    axes[0].set_yticks(range(len(rows)), [f"{row}\n{recipe}" for row, recipe in rows])
    looks = {name: _look("o", tone, True, 4) for name, tone in NETWORK_COLORS.items()}
    looks |= {name: _look(shape, "#666666", False, 4) for name, shape in IMAGE_MARKERS.items()}
    _legend(axes[0].get_figure(root=True), looks)
    return axes
