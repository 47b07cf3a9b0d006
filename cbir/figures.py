"""Figs 1-10 of the paper, and those that compare descriptors, drawn on the axes that they are given. No function here computes a result."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from .descriptors import NAMES, SYMBOLS
from .networks import Network

Panels = TypeVar("Panels", bound=Sequence[Axes] | NDArray[Any])  # a row of axes
Grid = TypeVar("Grid", bound=Sequence[Sequence[Axes]] | NDArray[Any])  # rows of axes
Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3)

# One colour and one marker per descriptor everywhere. The colours are Okabe and Ito's, told apart by colour-blind readers too (their black as a
# dark grey); in grey some of them are alike, hence the markers.
COLORS = {"im": "#444444", "h": "#56B4E9", "eta_conv": "#E69F00", "eta": "#D55E00", "color": "#009E73", "h+color": "#CC79A7"}
MARKERS = {"im": "s", "h": "o", "eta_conv": "^", "eta": "D", "color": "P", "h+color": "X"}
BASELINE = "#0072B2"  # of every other descriptor: so many colours cannot be told apart, they are named where they stand
SAME, OTHER, QUERY = "#009E73", "#CC79A7", "#222222"
CHANNELS = ("#D55E00", "#009E73", "#0072B2")
WIDTH = 7.16  # inches: the text of a page of two columns. No figure is wider, so that none is printed smaller than it was drawn
SMALL = 7  # points: the smallest text


def color(descriptor: str) -> str:
    """A descriptor's colour; variants of it ("eta, whitened") have the same one."""
    return COLORS.get(descriptor.split(",")[0], BASELINE)


def marker(descriptor: str) -> str:
    """A descriptor's marker; variants of it have the same one."""
    return MARKERS.get(descriptor.split(",")[0], "v")


def symbol(descriptor: str, names: Mapping[str, str] = SYMBOLS) -> str:
    """How a descriptor is written: as in `names` (`SYMBOLS`, or `NAMES` for plain text), parts w_1, y_6, .. as formulas; a variant's remark
    stays behind the comma."""
    name, *remark = descriptor.split(",")
    return ",".join([names.get(name, re.sub(r"^([wy]_\d+)$", r"$\1$", name)), *remark])


def use_style() -> None:
    """Typography and sizes shared by all figures; the fonts are matplotlib's own, the same on every machine. PDFs keep their text as text."""
    plt.rcParams.update({
        "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans", "font.size": 8, "axes.titlesize": SMALL, "axes.labelsize": 8,
        "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "legend.frameon": False, "legend.handlelength": 1.5,
        "legend.handletextpad": 0.5, "figure.constrained_layout.w_pad": 0.06, "axes.linewidth": 0.6,
        "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110, "savefig.dpi": 200,
        "pdf.fonttype": 42, "figure.constrained_layout.use": True, "image.interpolation": "antialiased"})


def show(fig: Figure, caption: str) -> None:
    """Displays a figure in a notebook, in the formats of its inline backend, with the caption as alternative text, and closes it."""
    from IPython import get_ipython  # the command line draws without it
    from IPython.display import display
    if shell := get_ipython():
        shown, metadata = shell.display_formatter.format(fig)
        display(shown, metadata=metadata | {kind: {**metadata.get(kind, {}), "alt": caption} for kind in shown if kind.startswith("image/")}, raw=True)
    plt.close(fig)


def grid(rows: int, columns: int, width: float = 0.95, height: float = 0.95, below: float = 0.3, left: float = 0.25) -> tuple[Figure, NDArray[Any]]:
    """A figure with rows x columns axes, each `width` x `height` inches with `below` inches under it and `left` before a row for text: (fig, axes).

    The margins are set by hand: an automatic layout of sixty axes takes longer than drawing them.
    """
    top, gap = 0.22, 0.07
    w, h = left + columns * (width + gap), top + rows * (height + below)
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)  # "none" would last for one savefig only
    return plt.subplots(rows, columns, figsize=(w, h), squeeze=False, layout=by_hand, gridspec_kw={
        "left": left / w, "right": 1 - gap / w, "top": 1 - top / h, "bottom": below / h, "wspace": gap / width, "hspace": below / height})


def network(ax: Axes, net: Network) -> Axes:
    """Fig. 1. The network as blocks y_1..y_N and codes: every convolution, pooling and fully connected layer of `net`, found by
    running it. The side of a slab is the map's side (square root), its thickness the number of channels (logarithm)."""
    x, taps = 0.0, {name: f"$y_{m}$" for m, name in enumerate([*net.blocks, *net.codes], start=1)}
    scale = max(s[-1] for _, _, s in net.layers if len(s) == 3) ** 0.5
    for name, kind, shape in net.layers:
        maps = len(shape) == 3
        side = shape[-1] ** 0.5 / scale * 3 if maps else 0.35 + 0.17 * np.log2(shape[0])
        width = 0.035 * np.log2(max(2, shape[0])) if maps else 0.16
        color = {"Conv2d": "#DCE9F5", "Linear": "#F5E6C8"}.get(kind, "#F3B49A")
        depth = 0.28 * side if maps else 0.1
        y0 = -side / 2
        faces = [[(x, y0), (x + width, y0), (x + width, y0 + side), (x, y0 + side)],
                 [(x, y0 + side), (x + width, y0 + side), (x + width + depth, y0 + side + depth), (x + depth, y0 + side + depth)],
                 [(x + width, y0), (x + width + depth, y0 + depth), (x + width + depth, y0 + side + depth), (x + width, y0 + side)]]
        for face in faces:
            ax.add_patch(Polygon(face, facecolor=color, edgecolor="#333333", linewidth=0.5))
        tapped = name in taps
        if tapped:
            size = f"{shape[0]} × {shape[1]} × {shape[2]}" if maps else f"{shape[0]}"
            ax.annotate(f"{taps[name]}\n{size}", (x + width / 2, y0), (x + width / 2, -2.05), ha="center", va="top", fontsize=SMALL,
                        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#888888"}, linespacing=1.3)
        x += width + (0.62 * depth if maps else 0.3) + (0.62 if tapped else 0.06) + (0.5 if name == net.blocks[-1] else 0)
    for color, label in [("#DCE9F5", "convolution + ReLU"), ("#F3B49A", "max-pool"), ("#F5E6C8", "fully connected")]:
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=color, edgecolor="#333333", linewidth=0.5, label=label))
    ax.set(xlim=(-0.4, x + 0.2), ylim=(-2.7, 2.6), aspect="equal")
    ax.legend(loc="upper right")
    ax.axis("off")
    return ax


def significant_regions(axes: Panels, image: Picture, maps: Sequence[NDArray[Any]], titles: Sequence[str] = ()) -> Panels:
    """Fig. 2. Maps z_m over the image, which keeps its colours where a neuron is significant and is grey elsewhere. Where maps count
    channels, the more agree, the brighter the tint.

    axes: as many as maps; image: (H, W, 3) uint8; maps: list of (H_m, W_m) arrays of counts >= 0.
    """
    height, width = image.shape[:2]
    gray = np.repeat(image.mean(axis=2, keepdims=True) * 0.35 + 110, 3, axis=2).astype(np.uint8)
    for ax, z in zip(axes, maps):
        rows, cols = z.shape
        marked = (z > 0)[np.arange(height) * rows // height][:, np.arange(width) * cols // width]
        ax.imshow(np.where(marked[..., None], image, gray))
        if z.max() > 1:
            ax.imshow(np.ma.masked_equal(z, 0), cmap="inferno", alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                      interpolation="nearest", vmin=-0.2 * z.max())
        if rows <= 28:  # finer grids would cover the picture
            ax.hlines(np.arange(1, rows) * height / rows - 0.5, -0.5, width - 0.5, "white", linewidth=0.25, alpha=0.6)
            ax.vlines(np.arange(1, cols) * width / cols - 0.5, -0.5, height - 0.5, "white", linewidth=0.25, alpha=0.6)
        bare(ax)
    for ax, title in zip(axes, titles):
        ax.set_title(title)
    return axes


def retrieval(axes: Grid, images: Sequence[Sequence[Picture]], labels: Sequence[Sequence[str]], distances: Sequence[Sequence[float]] | NDArray[np.floating],
              names: Sequence[str] | None = None) -> Grid:
    """Figs 3-6. One row a query: the query, then its k nearest images, the class and the distance under each.

    axes: (Q, 1 + k); images: Q lists of 1 + k arrays (H, W, 3); labels: Q lists of 1 + k names ("" for none); distances: (Q, k).
    names: Q texts for the rows, else their numbers. The frame tells whether the class is the query's: green and solid, or pink and dashed. Images keep
    their proportions, in cells of one size; distances have four decimals, or more where they are small.
    """
    typical = np.median([x for d in distances for x in d if x > 0] or [1])
    decimals = max(4, 2 - int(np.floor(np.log10(typical))))
    for row, (pictures, classes, d) in enumerate(zip(images, labels, distances)):
        for col, (ax, picture, name) in enumerate(zip(axes[row], pictures, classes)):
            height, width = picture.shape[:2]
            half = max(height, width) / 2
            ax.imshow(picture)
            ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + half, height / 2 - half))
            color = QUERY if col == 0 or not (name and classes[0]) else SAME if name == classes[0] else OTHER
            ax.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=color, linewidth=1.8, clip_on=False,
                                   linestyle=(0, (2.5, 1)) if color == OTHER else "-"))
            ax.set_xlabel("\n".join(filter(None, [shorten(name, 17), f"{d[col - 1]:.{decimals}f}" if col else ""])), fontsize=SMALL, labelpad=2,
                          linespacing=1.05, parse_math=False)  # a class may be called "$x"
            bare(ax)
        axes[row][0].set_ylabel(names[row] if names else row + 1, rotation=0, ha="right", va="center")
    ranks(axes)
    return axes


def histograms(axes: Grid, histograms: Sequence[Sequence[NDArray[np.floating]]] | NDArray[np.floating],
               numbers: Sequence[Sequence[float] | NDArray[np.floating]] | NDArray[np.floating]) -> Grid:
    """Figs 7-10. One row a query: the colour histogram of the query, then of its k nearest images, the distance under each.

    axes: (Q, 1 + k); histograms: (Q, 1 + k, 75), each channel with sum 1; numbers: (Q, k). The letters under the query's say which channel is which.
    Bars end at 0.3, as in the paper.
    """
    bins = np.linspace(0, 1, 26)
    for row, (hs, d) in enumerate(zip(histograms, numbers)):
        for col, (ax, h) in enumerate(zip(axes[row], hs)):
            for c, color in enumerate(CHANNELS):
                ax.stairs(np.minimum(h[25 * c:25 * c + 25], 0.3), bins + 1.08 * c, fill=True, color=color)
            ax.set(ylim=(0, 0.3), xlim=(-0.05, 3.21))
            bare(ax)
            ax.set_xlabel(f"{d[col - 1]:.4f}" if col else "", fontsize=SMALL, labelpad=2)
            for spine in ax.spines.values():
                spine.set(visible=True, color=QUERY if col == 0 else "#BBBBBB", linewidth=1.0 if col == 0 else 0.6)
        for c, letter in enumerate("RGB"):
            axes[row][0].text(1.08 * c + 0.5, -0.012, letter, fontsize=SMALL, ha="center", va="top")
        axes[row][0].set_ylabel(row + 1, rotation=0, ha="right", va="center")
    ranks(axes)
    return axes


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
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(len(symbol(d, NAMES)) for d in rows.descriptor) > 7 else {}
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
    for letter, palette in (("y", "Blues"), ("w", "Oranges")):
        parts = [c for c in table.columns if c.startswith(letter)]
        for n, part in enumerate(parts, start=1):
            ax.barh(range(len(table)), shares[part], left=left, height=0.7, color=plt.get_cmap(palette)(0.25 + 0.6 * n / len(parts)),
                    edgecolor="white", linewidth=0.5, label=symbol(part))
            for row, share in enumerate(shares[part]):
                if share > 0.05:
                    ax.text(left[row] + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=SMALL, color="white" if n / len(parts) > 0.6 else "black")
            left = left + shares[part].to_numpy()
    ax.set_yticks(range(len(table)), [symbol(name) for name in table.index])
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of the L1 distance")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def ranks(axes: Sequence[Sequence[Axes]] | NDArray[Any]) -> None:
    """Titles over the first row of a grid: the query, then the ranks 1..k."""
    for rank, ax in enumerate(axes[0]):
        ax.set_title(rank or "query")


def shorten(name: str, most: int) -> str:
    """A name cut to `most` characters, so that it stays under its picture."""
    return name if len(name) <= most else f"{name[:most - 1]}…"


def bare(ax: Axes) -> Axes:
    """No ticks and no spines; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax
