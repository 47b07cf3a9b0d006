"""Figures that compare descriptors, drawn on the axes that they are given. No function here computes a result."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from .figures import SMALL, Panels
from .labels import color, is_part, marker, plain_name, symbol


def intervals(axes: Panels, table: pd.DataFrame, of: str | None = None) -> Panels:
    """Means over all queries with their 95 % intervals, one panel a metric. The points of variants ("eta, whitened") are empty.

    axes: as many as metrics; table: DataFrame with columns metric, descriptor, mean, low, high. of: the descriptor whose colour and marker
    all have, where the column names something else, such as the recipes that it was made by.
    """
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for x, row in enumerate(rows.itertuples()):
            shade = color(of or row.descriptor)
            ax.errorbar(x, row.mean, [[row.mean - row.low], [row.high - row.mean]], fmt=marker(of or row.descriptor), markersize=3.5, capsize=2.5, linewidth=1,
                        color=shade, markerfacecolor="white" if "," in row.descriptor else shade)
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(len(plain_name(d)) for d in rows.descriptor) > 7 else {}
        ax.set_xticks(range(len(rows)), [symbol(d) for d in rows.descriptor], **slant)
        ax.set(title=metric, xlim=(-0.6, len(rows) - 0.4))
        ax.margins(y=0.2)
    return axes


def plane(ax: Axes, table: pd.DataFrame, line: str = "Pareto front") -> Axes:
    """Descriptors in a plane of two metrics: a point with both intervals each, its name beside it, and a line along the Pareto front.

    table: DataFrame with columns descriptor, x, x_low, x_high, y, y_low, y_high and front (bool); x is better to the right, y downwards.
    Points on the front are filled. Names are placed where they cover no point and no other name, as far as there is room.
    """
    front = table[table.front].sort_values("x")
    ax.step(front.x, front.y, where="pre", color="#BBBBBB", linewidth=1, zorder=1, label=line)
    for row in table.itertuples():
        shade = color(row.descriptor)
        ax.errorbar(row.x, row.y, [[row.y - row.y_low], [row.y_high - row.y]], [[row.x - row.x_low], [row.x_high - row.x]], fmt=marker(row.descriptor),
                    markersize=4, color=shade, ecolor=to_rgba(shade, 0.35), elinewidth=0.8, markerfacecolor=shade if row.front else "white")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    ax.locator_params(nbins=6)
    _name(ax, table)
    return ax


def _name(ax: Axes, table: pd.DataFrame) -> None:
    """Names beside points: of the places around each, nearest first, the one that covers least of other points, names and the lines that lead to them."""
    ax.figure.draw_without_rendering()  # the layout decides what covers what
    near = [(1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8), (0, 1.2), (0, -1.2)]
    places = [(5 * x, 5 * y) for x, y in near] + [(r * x, r * y) for r in (12, 20, 30, 42) for x, y in [*near, (0.4, 1.2), (0.4, -1.2), (-0.4, 1.2), (-0.4, -1.2)]]
    points = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in ax.transData.transform(table[["x", "y"]])]
    names, lines = [], []
    for i, row in enumerate(table.itertuples()):
        def write(place: tuple[float, float], **arrow: Any) -> Annotation:
            text = ax.annotate(symbol(row.descriptor), (row.x, row.y), place, textcoords="offset points", fontsize=SMALL,
                               ha=("right", "center", "left")[int(np.sign(place[0])) + 1], va="bottom" if place[1] > 0 else "top", **arrow)
            text.set_in_layout(False)
            return text

        costs, found, taken = [], [], [*names, *points[:i], *points[i + 1:]]
        for n, place in enumerate(places):
            text = write(place)
            box = text.get_window_extent()
            text.remove()
            line = _along(points[i], box) if n >= len(near) else []
            cost = sum(_shared(box, other) for other in [*taken, *lines]) + sum(_shared(piece, other) for piece in line for other in taken)
            costs.append(cost + box.width * box.height - _shared(box, ax.bbox))
            found.append((box, line))
        best = int(np.argmin(np.round(costs)))
        names.append(found[best][0])
        lines += found[best][1]
        write(places[best], **({"arrowprops": {"arrowstyle": "-", "linewidth": 0.4, "color": "#AAAAAA", "shrinkA": 0, "shrinkB": 2}} if found[best][1] else {}))


def _along(a: Bbox, b: Bbox) -> list[Bbox]:
    """Small boxes along the line between the middles of two."""
    start, end = ((box.p0 + box.p1) / 2 for box in (a, b))
    return [Bbox.from_bounds(*(start + t * (end - start) - 2), 4, 4) for t in np.linspace(0.2, 0.8, 10)]


def _shared(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0


def heat_map(ax: Axes, table: pd.DataFrame, best: Literal["max", "min"] = "max", text: str = "%.2f") -> Axes:
    """A DataFrame of numbers as coloured cells with the numbers in them; light is good. Groups of columns (a MultiIndex) are parted by lines.

    best: "max" or "min", whichever is good; text: how a number is written. Cells of NaN stay empty.
    """
    values = table.to_numpy(float)
    rows, cols = (np.arange(n + 1) - 0.5 for n in values.shape)
    image = ax.pcolormesh(cols, rows, np.ma.masked_invalid(values), cmap="cividis" if best == "max" else "cividis_r", edgecolors="white", linewidth=0.4)
    ax.set_ylim(rows[-1], rows[0])
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = np.dot(image.cmap(image.norm(value))[:3], (0.3, 0.6, 0.1)) > 0.5
            ax.text(j, i, text % value, ha="center", va="center", fontsize=SMALL, color="black" if light else "white")
    ax.set_yticks(range(len(table)), [symbol(name) for name in table.index])
    names = [c if isinstance(c, tuple) else ("", c) for c in table.columns]
    ax.set_xticks(range(len(names)), [name for _, name in names])
    for j in range(1, len(names)):
        if names[j][0] != names[j - 1][0]:
            ax.axvline(j - 0.5, color="white", linewidth=3)
    for group in dict.fromkeys(group for group, _ in names):
        ax.text(np.mean([j for j, (g, _) in enumerate(names) if g == group]), -0.65, group, ha="center", va="bottom", fontsize=SMALL)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def curves(axes: Panels, table: pd.DataFrame, x: str, names: Mapping[str, str] | None = None) -> Panels:
    """How metrics change with a setting: one panel a metric, one line a curve, with a point a row.

    axes: as many as metrics; table: DataFrame with columns metric, curve, `x` and value; names: {curve: text} for the legend, in the first panel.
    """
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for curve, points in rows.groupby("curve", sort=False):
            ax.plot(points[x], points.value, marker=marker(curve), markersize=3, linewidth=1, color=color(curve),
                    label=(names or {}).get(curve, symbol(curve)))
        ax.set(title=metric, xlabel=x)
        ax.locator_params(nbins=5)
        ax.margins(y=0.1)
    axes[0].legend()
    return axes


def sweep(axes: Panels, table: pd.DataFrame, name: str) -> Panels:
    """Means over all queries with their 95 % intervals against a parameter, one panel a metric, one line a descriptor.

    axes: as many as metrics; table: DataFrame with columns x, metric, descriptor, mean, low, high; name: the parameter's. Numbers are
    drawn to scale and joined, anything else stands side by side in the order of the table; descriptors stand a little apart.
    """
    values = list(dict.fromkeys(table["x"]))
    numbers = all(isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)) for v in values)
    place = dict(zip(values, values if numbers else range(len(values))))
    descriptors = list(dict.fromkeys(table["descriptor"]))
    step = 0.01 * (max(place.values()) - min(place.values()) or 1) if numbers else 0.12
    for ax, (metric, rows) in zip(axes, table.groupby("metric", sort=False)):
        for descriptor, line in rows.groupby("descriptor", sort=False):
            x = np.array([place[v] for v in line["x"]]) + step * (descriptors.index(descriptor) - (len(descriptors) - 1) / 2)
            order = np.argsort(x)
            mean, low, high = line[["mean", "low", "high"]].to_numpy(float)[order].T
            ax.errorbar(x[order], mean, [mean - low, high - mean], marker=marker(descriptor), markersize=3, linestyle="-" if numbers else "",
                        linewidth=1, capsize=2, color=color(descriptor), label=symbol(descriptor))
        ax.set_xticks([*place.values()], [f"{v:g}" if numbers else str(v) for v in place], rotation=0 if numbers else 20)
        ax.set(title=metric, xlabel=name)
        if not numbers:
            ax.set_xlim(-0.5, len(place) - 0.5)
    return axes


def contributions(ax: Axes, table: pd.DataFrame) -> Axes:
    """What the parts of a descriptor add to a distance: one bar a row, its pieces the shares of the parts, from the left.

    table: DataFrame of numbers >= 0, a row a bar, a column a part "y_6" or "w_1": layers in blues, blocks in reds, later ones darker.
    """
    shares = table.div(table.sum(axis=1), axis=0)
    left = np.zeros(len(table))
    for part, (shade, ink) in part_colors(table.columns).items():
        ax.barh(range(len(table)), shares[part], left=left, height=0.7, color=shade,
                edgecolor="white", linewidth=0.5, label=symbol(part))
        for row, share in enumerate(shares[part]):
            if share > 0.05:
                ax.text(left[row] + share / 2, row, f"{share:.0%}", ha="center", va="center",
                        fontsize=SMALL, color=ink)
        left = left + shares[part].to_numpy()
    ax.set_yticks(range(len(table)), [symbol(name) for name in table.index])
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of the L1 distance")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def part_colors(parts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """How the pieces of a bar are drawn, from the left: {part: (its colour, the colour of text on it)}.

    Layers ("y_6") come first, in blues, then blocks ("w_1") in oranges, then anything else in
    greys; later ones are darker.
    """
    groups: dict[str, list[str]] = {"Blues": [], "Oranges": [], "Greys": []}
    palettes = {"y": "Blues", "w": "Oranges"}
    for part in parts:
        groups[palettes[part[0]] if is_part(part) else "Greys"].append(part)
    colors = {}
    for palette, group in groups.items():
        for n, part in enumerate(group, start=1):
            depth = n / len(group)
            shade = to_hex(plt.get_cmap(palette)(0.25 + 0.6 * depth))
            colors[part] = (shade, "white" if depth > 0.6 else "black")
    return colors
