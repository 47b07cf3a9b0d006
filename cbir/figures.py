"""Figs 1-10 of the paper, drawn on the axes that they are given. No function computes a result."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from .canvas import SMALL, Grid, Panels, bare, ranks, shorten
from .decoding import UnreadableImage, open_image
from .images import Images
from .labels import symbol
from .nearest import Hits
from .networks import Network

Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3)

CONVOLUTION, POOLING, CONNECTED = "#DCE9F5", "#F3B49A", "#F5E6C8"  # Fig. 1
TINT_OPACITY = 0.6  # Fig. 2
SAME, OTHER, QUERY = "#009E73", "#CC79A7", "#222222"  # frames of Figs 3-6
CHANNELS = ("#D55E00", "#009E73", "#0072B2")  # Figs 7-10
HISTOGRAM_TOP = 0.3  # where the bars of a histogram end, as in the paper
GRAY = np.full((8, 8, 3), 200, np.uint8)  # in place of an image that cannot be read
THUMBNAIL = 400  # pixels that an image has at least after it is reduced; printed, it has 190


def network(ax: Axes, net: Network) -> Axes:
    """Draws Fig. 1: the network as blocks y_1..y_N and codes y_{N+1}, y_{N+2}.

    Every convolution, pooling and fully connected layer is a slab, found by running the network.
    Its side is the map's side (square root), its thickness the number of channels (logarithm).
    """
    colors = {"Conv2d": CONVOLUTION, "Linear": CONNECTED}
    outputs = {name: m for m, name in enumerate([*net.blocks, *net.codes], start=1)}
    largest = max(shape[-1] for _, _, shape in net.layers if len(shape) == 3)
    edge = {"edgecolor": "#333333", "linewidth": 0.5}
    line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.5}
    x = 0.0
    for name, kind, shape in net.layers:
        side, thickness, depth, gap = _slab(shape, largest)
        for face in _faces(x, side, thickness, depth):
            ax.add_patch(Polygon(face, facecolor=colors.get(kind, POOLING), **edge))
        if name in outputs:
            text = f"$y_{outputs[name]}$\n" + " × ".join(map(str, shape))
            ends = [(x + thickness / 2, bottom) for bottom in (-side / 2, -2.05)]
            note = ax.annotate(text, *ends, ha="center", va="top", arrowprops=line)
            note.set(fontsize=SMALL, linespacing=1.3)
            gap += 0.56
        if name == net.blocks[-1]:
            gap += 0.5
        x += thickness + gap
    legend = {CONVOLUTION: "convolution + ReLU", POOLING: "max-pool", CONNECTED: "fully connected"}
    for color, label in legend.items():
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=color, label=label, **edge))
    ax.set(xlim=(-0.4, x + 0.2), ylim=(-2.7, 2.6), aspect="equal")
    ax.legend(loc="upper right")
    ax.axis("off")
    return ax


def _slab(shape: tuple[int, ...], largest: int) -> tuple[float, float, float, float]:
    """Side, thickness and depth of a layer's slab, and the gap behind it."""
    if len(shape) == 3:
        side = 3 * (shape[-1] / largest) ** 0.5
        depth = 0.28 * side
        return side, 0.035 * np.log2(max(2, shape[0])), depth, 0.62 * depth + 0.06
    return 0.35 + 0.17 * np.log2(shape[0]), 0.16, 0.1, 0.36


def _faces(x: float, side: float, thickness: float, depth: float) -> NDArray[np.float64]:
    """Front, top and right side of a slab that begins at x: (3, 4, 2) corners."""
    right, bottom, top = x + thickness, -side / 2, side / 2
    front = np.array([(x, bottom), (right, bottom), (right, top), (x, top)])
    back = front + depth
    above = [front[3], front[2], back[2], back[3]]
    beside = [front[1], back[1], back[2], front[2]]
    return np.array([front, above, beside])


def significant_regions(
    axes: Panels, image: Picture, maps: Sequence[NDArray[Any]], titles: Sequence[str] = ()
) -> Panels:
    """Draws Fig. 2: maps z_m over an image.

    The image keeps its colours where a neuron is significant and is grey elsewhere. Where maps
    count channels, the more agree, the brighter the tint.

    Args:
        axes: as many as maps.
        image: (H, W, 3) uint8.
        maps: (H_m, W_m) arrays of counts >= 0.
        titles: one for every map, or none.

    Returns:
        axes.
    """
    height, width = image.shape[:2]
    whole_image = (-0.5, width - 0.5, height - 0.5, -0.5)
    for ax, z in zip(axes, maps):
        rows, cols = z.shape
        significant = stretched(z, height, width) > 0
        ax.imshow(np.where(significant[..., None], image, faded(image)))
        if z.max() > 1:
            cmap, norm = tint(z)
            counts = np.ma.masked_equal(z, 0)
            layer = ax.imshow(counts, cmap=cmap, norm=norm, interpolation="nearest")
            layer.set(alpha=TINT_OPACITY, extent=whole_image)
        if rows <= 28:  # finer grids would cover the picture
            line = {"colors": "white", "linewidth": 0.25, "alpha": 0.6}
            ax.hlines(np.arange(1, rows) * height / rows - 0.5, -0.5, width - 0.5, **line)
            ax.vlines(np.arange(1, cols) * width / cols - 0.5, -0.5, height - 0.5, **line)
        bare(ax)
    for ax, title in zip(axes, titles):
        ax.set_title(title)
    return axes


def stretched(z: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Enlarges a map (H_m, W_m) to (height, width): every pixel has its cell's value."""
    rows = np.arange(height) * z.shape[0] // height
    cols = np.arange(width) * z.shape[1] // width
    return z[rows][:, cols]


def faded(image: Picture) -> Picture:
    """Turns an image (H, W, 3) light grey, as Fig. 2 shows what is not significant."""
    gray = image.mean(axis=2, keepdims=True) * 0.35 + 110
    return np.repeat(gray, 3, axis=2).astype(np.uint8)


def tint(z: NDArray[Any]) -> tuple[Colormap, Normalize]:
    """Gives the colours of a map's counts: the more channels agree, the brighter."""
    return colormaps["inferno"], Normalize(-0.2 * z.max(), z.max())


def retrieval(
    axes: Grid,
    queries: Images,
    database: Images,
    hits: Hits | Mapping[str, Hits],
    rows: Sequence[int] | NDArray[np.integer] | None = None,
    names: Sequence[str] | None = None,
) -> Grid:
    """Draws Figs 3-6: in a row of axes a query, then its k nearest images.

    The class and the distance stand under each. The frame tells whether the class is the query's:
    green and solid, or pink and dashed. An image that cannot be read is grey. Distances have four
    decimals, or more where they are small. Only a figure's first row of axes has titles.

    Args:
        axes: (R, 1 + k), a row for every query and descriptor.
        queries: an `ImageSet` or a store.
        database: the `ImageSet` or store that was searched.
        hits: what `search` found for all queries, or several of these: {descriptor: hits}.
        rows: which queries to draw, default all.
        names: R texts for the rows; default their numbers, with several descriptors their symbols.

    Returns:
        axes.
    """
    rows = range(len(queries)) if rows is None else rows
    found = list(hits.values()) if isinstance(hits, Mapping) else [hits]
    if names is None:
        numbers = range(1, len(rows) + 1)
        names = [*map(symbol, hits)] * len(rows) if isinstance(hits, Mapping) else numbers
    decimals = _decimals(np.concatenate([each.distances[rows].ravel() for each in found]))
    thumbnail = functools.cache(_thumbnail)
    lines = list(itertools.product(rows, found))
    for row, name, (query, each) in zip(axes, names, lines):
        query_class = queries.labels[query]
        _draw_image(row[0], thumbnail(queries.path(query)), [query_class], QUERY)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, i, distance in zip(row[1:], each.indices[query], each.distances[query]):
            found_any = i >= 0  # not if the query could not be read
            label = database.labels[i] if found_any else ""
            image = thumbnail(database.path(i)) if found_any else GRAY
            text = [label, f"{distance:.{decimals}f}"]
            _draw_image(ax, image, text, _frame(query_class, label))
        ranks(row)
    return axes


def _thumbnail(path: Path) -> Picture:
    """An image, reduced for drawing; grey where it cannot be read."""
    try:
        image = open_image(path)
    except UnreadableImage:
        return GRAY
    return np.asarray(image.reduce(max(1, max(image.size) // THUMBNAIL)))


def _decimals(distances: NDArray[np.floating]) -> int:
    """How many decimals show two digits of the usual distance, but at least 4."""
    positive = distances[distances > 0]
    usual = np.median(positive) if len(positive) else 1
    return max(4, 2 - int(np.floor(np.log10(usual))))


def _frame(query_class: str, label: str) -> str:
    """The colour of an image's frame."""
    if not (query_class and label):
        return QUERY
    return SAME if label == query_class else OTHER


def _draw_image(ax: Axes, image: Picture, lines: Sequence[str], color: str) -> None:
    """An image with its proportions in a square cell, a frame around it, lines of text under it."""
    height, width = image.shape[:2]
    half = max(height, width) / 2
    ax.imshow(image)
    ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + half, height / 2 - half))
    style = (0, (2.5, 1)) if color == OTHER else "-"
    line = {"edgecolor": color, "linewidth": 1.8, "linestyle": style}
    ax.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False, **line))
    text = "\n".join(shorten(line, 17) for line in lines if line)
    # a class may be called "$x"
    ax.set_xlabel(text, fontsize=SMALL, labelpad=2, linespacing=1.05, parse_math=False)
    bare(ax)


def histograms(
    axes: Grid,
    histograms: Sequence[Sequence[NDArray[np.floating]]] | NDArray[np.floating],
    distances: Sequence[Sequence[float] | NDArray[np.floating]] | NDArray[np.floating],
) -> Grid:
    """Draws Figs 7-10: in a row the query's colour histogram, then those of its k nearest images.

    The distance stands under each; the letters under the query's say which channel is which.

    Args:
        axes: (Q, 1 + k).
        histograms: (Q, 1 + k, 75), every channel with sum 1.
        distances: (Q, k).

    Returns:
        axes.
    """
    bins = np.linspace(0, 1, 26)
    for number, (row, row_histograms, xs) in enumerate(zip(axes, histograms, distances), start=1):
        for ax, histogram, text in zip(row, row_histograms, ["", *(f"{x:.4f}" for x in xs)]):
            for channel, (color, heights) in enumerate(channel_bars(histogram)):
                ax.stairs(heights, bins + 1.08 * channel, fill=True, color=color)
            ax.set(ylim=(0, HISTOGRAM_TOP), xlim=(-0.05, 3.21))
            bare(ax).set_xlabel(text, fontsize=SMALL, labelpad=2)
            ax.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
        row[0].spines[:].set(color=QUERY, linewidth=1)
        row[0].set_ylabel(number, rotation=0, ha="right", va="center")
        for channel, letter in enumerate("RGB"):
            row[0].text(1.08 * channel + 0.5, -0.012, letter, fontsize=SMALL, ha="center", va="top")
        ranks(row)
    return axes


def channel_bars(histogram: NDArray[np.floating]) -> list[tuple[str, NDArray[np.floating]]]:
    """Cuts a colour histogram (75,) into the bars of R, G and B: three (colour, heights (25,))."""
    return list(zip(CHANNELS, np.minimum(histogram, HISTOGRAM_TOP).reshape(3, 25)))
