"""Figs 1-10 of the paper, drawn on axes that are given and returned; the style of all figures."""

import base64
import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anyascii import anyascii
from matplotlib import cm, colors, font_manager, lines, patches, transforms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .common import PACKAGE, AnyPath
from .images import Images, UnreadableImage, open_image
from .names import symbol
from .networks import Network

Panels = TypeVar("Panels", bound=Sequence[Any] | NDArray[Any])  # axes, or rows of them
WIDTH = 7.16  # inches of text on a page of two columns: a wider figure would be printed smaller
SMALL = 7  # points: the smallest text
DOTS, INCH = 200, 110  # of the style, pixels of an inch: of a picture, and on a page
INCHES = {"width": 0.95, "height": 0.95, "below": 0.3, "left": 0.25, "right": 0.0}  # of a `grid`
INCHES |= {"top": 0.22, "gap": 0.07}


def use_style() -> None:
    """Sets typography and sizes of all figures; a user's matplotlibrc changes nothing."""
    plt.rcdefaults()
    plt.style.use(PACKAGE / "figures.mplstyle")


def show(fig: Figure, caption: str) -> None:
    """Displays a figure in a notebook, and closes it.

    The caption is its alternative text; an inch of it is `INCH` pixels wide on a page. A PNG has a
    palette of 256 colours there, at a fourth of the bytes; its file has all.
    """
    from IPython import get_ipython  # the command line draws without it
    from IPython.display import display

    if shell := get_ipython():
        fig.set_dpi(DOTS)
        images, metadata = shell.display_formatter.format(fig)
        if "image/png" in images:
            with Image.open(io.BytesIO(base64.b64decode(images["image/png"]))) as png:
                few = png.convert("RGB").quantize(kmeans=2, dither=Image.Dither.NONE)
            few.save(kept := io.BytesIO(), "png", optimize=True)
            images["image/png"] = base64.b64encode(kept.getvalue()).decode()
        about = {"alt": caption, "width": round(fig.get_figwidth() * INCH)}
        metadata |= {kind: metadata.get(kind, {}) | about for kind in images if "image/" in kind}
        display(images, metadata=metadata, raw=True)
    plt.close(fig)


def grid(rows: int, columns: int, **inches: float) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of small axes, for images or histograms.

    Args:
        rows: axes below each other.
        columns: axes side by side.
        inches: instead of `INCHES`: `width` and `height` of each of the axes; the room `below` each
            for text, `left` and `right` of a row, at the `top`; the `gap` between two columns.

    Returns:
        The figure and its axes (rows, columns).

    Raises:
        ValueError: there is no such size.
    """
    # By hand: an automatic layout of sixty axes takes longer than drawing them.
    width, height, below, left, right, top, gap = (INCHES | inches).values()
    w, h = left + (width + gap) * columns + right, top + rows * (height + below)
    margins = {"left": left / w, "right": 1 - (gap + right) / w}
    margins |= {"top": 1 - top / h, "bottom": below / h}
    margins |= {"wspace": gap / width, "hspace": below / height}
    # layout="none" would last for one savefig only
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = plt.figure(figsize=(w, h), layout=by_hand)
    return fig, fig.subplots(rows, columns, squeeze=False, gridspec_kw=margins)


def ranks(axes: Panels) -> bool:
    """Writes "query" and the ranks over a figure's first row of axes; returns whether it is."""
    place = axes[0].get_subplotspec()
    first = place is None or place.is_first_row()
    for rank, ax in enumerate(axes if first else ()):
        ax.set_title(rank or "query")
    return first


def drawable(text: str) -> str:
    """Spells in Latin letters what the figures' font cannot write: "DieDie" for "蝶々"."""
    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else anyascii(c) for c in text).strip()


def bare(ax: Axes) -> Axes:
    """Takes ticks and spines away; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


Hits: TypeAlias = Any  # `indices` and `distances`, both (Q, k)
Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Known: TypeAlias = tuple[pd.DataFrame, pd.DataFrame]  # of queries and images, a column a factor

KINDS = {  # of layers in Fig. 1, by a part of their class's name, and their colours
    "Linear": ("fully connected", "#F5E6C8"),
    "MaxPool": ("max-pool", "#F3B49A"),
    "Pool": ("average-pool", "#CDE5D2"),
    "": ("convolution + ReLU", "#DCE9F5"),
}
WIDEST = 16.61  # VGG16's width in Fig. 1, where the largest map has a side of 3
OUTPUT_GAP, BLOCKS_GAP = 0.56, 0.5  # behind a layer whose output has a name, and the last block
LETTER = 0.15  # the width of a letter under a layer, where a figure is as wide as a page
SAME, OTHER, QUERY = "#009E73", "#CC79A7", "#222222"  # frames of Figs 3-6
MARKERS = "oD"  # under the images of Figs 3-6, for what is known besides the class
CHANNELS = ("#D55E00", "#009E73", "#0072B2")  # Figs 7-10
STARTS = (0, 1.08, 2.16)  # of the channels, each 1 wide
HISTOGRAM_TOP = 0.3  # where the bars of a histogram end, as in the paper
PALE = 0.25  # how opaque the bars of a retrieved image are under its difference to the query
LETTERS, LAST_LETTERS = 17, 14  # under a picture: of a class's name; of a file's, its end
THUMBNAIL = 400  # pixels that an image has at least after it is reduced; printed, it has 190
GRAY = np.full((THUMBNAIL, THUMBNAIL, 3), 200, np.uint8)  # of an image that cannot be read


def network(ax: Axes, net: Network) -> Axes:
    """Draws Fig. 1: the network as blocks y_1..y_N and codes y_{N+1}, y_{N+2}.

    Every convolution, pooling and fully connected layer is a slab. Its side is the map's side
    (square root), its thickness the number of channels (logarithm), less in a network that would be
    wider than `WIDEST`.
    """
    outputs = {name: m for m, name in enumerate([*net.blocks, *net.codes], start=1)}
    largest = max(shape[-1] for _, _, shape in net.layers if len(shape) == 3)
    slabs = [_slab(shape, largest) for _, _, shape in net.layers]
    free = WIDEST - OUTPUT_GAP * len(outputs) - BLOCKS_GAP
    thinner = min(1, free / sum(thickness + gap for _, thickness, _, gap in slabs))
    edge = {"edgecolor": "#333333", "linewidth": 0.5}
    under: dict[str, Any] = dict(ha="center", va="top", fontsize=SMALL, linespacing=1.3)
    under["arrowprops"] = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.5}
    kinds = {}  # {text of the legend: a slab}
    x, last_note = 0.0, -np.inf  # where the next slab begins, and the last text under them ends
    for (name, kind, shape), (side, thickness, depth, gap) in zip(net.layers, slabs):
        thickness, gap = thickness * thinner, gap * thinner
        if name in outputs:
            size = " × ".join(map(str, shape)).removesuffix(" × 1 × 1")
            half = LETTER * len(size) / 2
            x = max(x, last_note + half - thickness / 2)  # beside it, not over it
            last_note = x + thickness / 2 + half
            ends = [(x + thickness / 2, bottom) for bottom in (-side / 2, -2.05)]
            ax.annotate(f"$y_{outputs[name]}$\n{size}", *ends, **under)
            gap += OUTPUT_GAP
        gap += BLOCKS_GAP * (name == net.blocks[-1])
        label, color = next(drawn for part, drawn in KINDS.items() if part in kind)
        front = [x, -side / 2] + np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * [thickness, side]
        back = front + depth
        faces = front, [*front[:1:-1], *back[2:]], [front[1], *back[1:3], front[2]]
        for face in faces:
            kinds[label] = ax.add_patch(patches.Polygon(face, facecolor=color, **edge))
        x += thickness + gap
    ax.set(xlim=(-0.4, x + 0.2), ylim=(-2.75, 2.4), aspect="equal")
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    ax.legend(list(kinds.values()), kinds, ncols=len(kinds), **place)
    ax.axis("off")
    return ax


def _slab(shape: tuple[int, ...], largest: int) -> tuple[float, float, float, float]:
    """Returns side, thickness and depth of a layer's slab, and the gap behind it."""
    if len(shape) == 3:
        side = 3 * (shape[-1] / largest) ** 0.5
        depth = 0.28 * side
        return side, 0.035 * np.log2(max(2, shape[0])), depth, 0.62 * depth + 0.06
    return 0.35 + 0.17 * np.log2(shape[0]), 0.16, 0.1, 0.36


def significant_regions(
    axes: Panels,
    image: Picture,
    maps: Sequence[NDArray[Any]],
    titles: Sequence[str] = (),
    scale: NDArray[Any] | None = None,
) -> Panels:
    """Draws Fig. 2: an image `marked` by maps z_m, one on each axes, with coarse maps' cells."""
    height, width = image.shape[:2]
    for ax, (z, title) in zip(axes, itertools.zip_longest(maps, titles)):
        rows, cols = z.shape
        ax.imshow(marked(image, z, scale))
        bare(ax).set_title(title or "")
        if rows <= 32:  # finer grids would cover the picture
            line = {"colors": "white", "linewidth": 0.25, "alpha": 0.6}
            ax.hlines(np.arange(1, rows) * height / rows - 0.5, -0.5, width - 0.5, **line)
            ax.vlines(np.arange(1, cols) * width / cols - 0.5, -0.5, height - 0.5, **line)
    return axes


def marked(image: Picture, z: NDArray[Any], scale: NDArray[Any] | None = None) -> Picture:
    """Leaves an image (H, W, 3) its colours where a map (H_m, W_m) is not 0, else light grey.

    A map that counts channels tints it: the more channels, the brighter. The brightest are as many
    as the most of `scale`, of the map itself by default.
    """
    cells = (np.arange(n) * m // n for n, m in zip(image.shape, z.shape))  # of every row, column
    counts = z[np.ix_(*cells)]  # (H, W)
    gray = image.mean(axis=2, keepdims=True)
    inside: NDArray[Any] = image
    if z.max() > 1:
        tint = _tint(z if scale is None else scale).to_rgba(counts)[..., :3]
        inside = np.minimum(255 * tint * (0.35 + 0.95 * gray / 255), 255)
    return np.where(counts[..., None] > 0, inside, gray * 0.35 + 110).astype(np.uint8)


def _tint(z: NDArray[Any]) -> cm.ScalarMappable:
    """Returns the colours of a map's counts, from 1: where there is none the image is grey."""
    shades = plt.get_cmap("viridis")(np.linspace(0.35, 1, 256))  # the darkest would hide the image
    return cm.ScalarMappable(colors.Normalize(1, z.max()), colors.ListedColormap(shades))


def count_bar(ax: Axes, z: NDArray[Any]) -> None:
    """Draws the colour bar of a map's counts beside its axes, if it counts."""
    if z.max() > 1:
        ticks, place = np.unique(np.linspace(1, z.max(), 3).round()), (1.08, 0, 0.07, 1)
        bar = ax.figure.colorbar(_tint(z), cax=ax.inset_axes(place), label="channels", ticks=ticks)
        bar.outline.set_visible(False)


def retrieval(
    axes: Panels,
    queries: Images,
    database: Images,
    hits: Hits | Mapping[str, Hits],
    rows: Sequence[int] | NDArray[np.integer] | None = None,
    names: Sequence[str] | None = None,
    known: Known | None = None,
) -> Panels:
    """Draws Figs 3-6: in a row of axes a query, then its k nearest images.

    Under each stand its class, or the file's name, and the distance. The frame is green and solid
    if the class is the query's, else pink and dashed. An image that cannot be read is grey.

    What else is `known` (background, palette) has a mark under each image, filled if it is the
    query's. Counts of the images that share it stand behind the row.

    Args:
        axes: (R, 1 + k), a row per query and descriptor.
        queries: an `ImageSet` or a store.
        database: the one that was searched.
        hits: what `search` found for all queries, or several of these: {descriptor: hits}.
        rows: which queries to draw, default all.
        names: R texts for the rows; default their numbers, with several descriptors their symbols.
        known: what `known_factors` says of the queries and of the database; default nothing.
    """
    rows = range(len(queries)) if rows is None else rows
    by_descriptor = hits if isinstance(hits, Mapping) else {"": hits}
    if names is None:
        several = isinstance(hits, Mapping)
        names = [*map(symbol, hits)] * len(rows) if several else range(1, len(rows) + 1)
    picture = functools.cache(thumbnail)
    of_query, of_image = known or (pd.DataFrame(), pd.DataFrame())
    drawn_rows = itertools.product(rows, by_descriptor.values())
    for row, name, (query, found) in zip(axes, names, drawn_rows):
        of_all = found.distances[rows]
        usual = np.median(of_all[of_all > 0]) if (of_all > 0).any() else 1
        decimals = max(1, 2 - int(np.floor(np.log10(usual))))  # three of its digits
        first = ranks(row)
        _draw_image(row[0], thumbnail(queries.path(query)), _name(queries, query), QUERY)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        indices, distances = found.indices[query], found.distances[query]
        same = {}
        for factor in of_query.columns.intersection(of_image.columns):
            if value := of_query[factor].iloc[query]:
                same[factor] = (indices >= 0) & (of_image[factor].to_numpy()[indices] == value)
        for n, (ax, i, distance) in enumerate(zip(row[1:], indices, distances)):
            image, text, color = np.copy(GRAY), "", QUERY
            if i >= 0:  # the query could be read
                image, text = picture(database.path(i)), _name(database, i)
                label, asked = database.labels[i], queries.labels[query]
                if label and asked:
                    color = SAME if label == asked else OTHER
            text = f"{text}\n{distance:.{decimals}f}".strip()
            agree = [agrees[n] for factor, agrees in same.items() if factor != "class"]
            _draw_image(ax, image, text, color, agree)
        if same:
            counts = [f"{factor} {a.sum()}/{len(a)}" for factor, a in same.items()]
            place = {"xycoords": "axes fraction", "textcoords": "offset points"}
            style = {"va": "center", "linespacing": 1.5, "fontsize": SMALL}
            row[-1].annotate("\n".join(counts), (1, 0.5), (7, 0), **place, **style)
        if known and first:
            _draw_legend(row[0], known)
    return axes


def _name(images: Images, row: int) -> str:
    """Returns an image's class, or the end of its file's name if no image has one."""
    if any(images.labels):
        label = drawable(images.labels[row])
        return label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
    name = drawable(Path(images.files[row]).stem)
    return name if len(name) <= LAST_LETTERS + 1 else f"…{name[-LAST_LETTERS:]}"


def thumbnail(path: AnyPath | Image.Image) -> Picture:
    """Opens an image or its file, reduced for drawing, (H, W, 3); grey if it cannot be read."""
    try:
        image = open_image(path)
    except UnreadableImage:
        return GRAY
    return np.asarray(image.reduce(max(1, max(image.size) // THUMBNAIL)))


def _frame(color: str, line: float, *size: float) -> patches.Rectangle:
    """Returns a frame of this width and height; that of another class is dashed."""
    dashes: Any = (0, (2.5, 1)) if color == OTHER else "-"
    return patches.Rectangle((-0.5, -0.5), *size, fill=False, ec=color, lw=line, ls=dashes)


def _draw_image(
    ax: Axes, image: Picture, under: str, color: str, agree: Sequence[Any] = ()
) -> None:
    """Draws an image in a square cell, framed, with text and marks (filled: `agree`) under it."""
    height, width = image.shape[:2]
    half = max(height, width) / 2
    ax.imshow(image)
    ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + half, height / 2 - half))
    ax.add_patch(_frame(color, 1.8, width, height)).set_clip_on(False)
    if image is GRAY:  # `thumbnail` says so
        ax.text(width / 2, height / 2, "unreadable", fontsize=SMALL, ha="center", va="center")
    # A class may be called "$x".
    bare(ax).set_xlabel(under, fontsize=SMALL, labelpad=2, linespacing=1.05, parse_math=False)
    down = 4.8 + 8.6 * under.count("\n")  # on the last line under the picture
    place = ax.transAxes + transforms.ScaledTranslation(0, -down / 72, ax.figure.dpi_scale_trans)
    for x, marker, filled in zip((0.1, 0.9), MARKERS, agree):
        ax.add_line(_mark(marker, filled, [x], transform=place, clip_on=False))


def _mark(marker: str, filled: bool, x: Sequence[float], **style: Any) -> lines.Line2D:
    """Returns a mark of Figs 3-6, filled or hollow."""
    style |= {"linestyle": "", "markersize": 4 if marker == "o" else 3.4, "markeredgewidth": 0.7}
    style |= {"markeredgecolor": QUERY, "markerfacecolor": QUERY if filled else "white"}
    return lines.Line2D(x, np.zeros(len(x)), marker=marker, **style)


def _draw_legend(ax: Axes, known: Known) -> None:
    """Explains frames and marks above a figure whose upper left axes these are."""
    factors = list(known[0].columns.intersection(known[1].columns))
    keys: dict[str, Any] = {}  # {text: the artists before it}
    if "class" in factors:
        factors.remove("class")
        keys["class"] = tuple(_frame(color, 1.2, 1, 1) for color in (SAME, OTHER))
    for marker, factor in zip(MARKERS, factors):
        keys[factor] = tuple(_mark(marker, filled, []) for filled in (True, False))
    texts = [f"same {factor} / other" for factor in keys]
    style: dict[str, Any] = {"borderaxespad": 0, "borderpad": 0.2, "columnspacing": 1.5, "ncols": 3}
    style |= {"handler_map": {tuple: HandlerTuple(None, pad=0.6)}, "handlelength": 2.6}
    style |= {"loc": "upper left", "bbox_to_anchor": (ax.get_position().x0, 1)}
    ax.figure.legend(list(keys.values()), texts, **style)


def histograms(
    axes: Panels, histograms: ArrayLike, distances: ArrayLike, pictures: Sequence[Picture] = ()
) -> Panels:
    """Draws Figs 7-10: in a row the query's colour histogram, then those of its k nearest images.

    The query's outline stands over each of these, and what differs from it is filled: the mean
    height of that area is the distance. Axes are (Q, 1 + k), histograms (Q, 1 + k, 75) with sum 1
    per channel, distances (Q, k). Q pictures (H, W, 3) may stand before the rows.
    """
    rows = zip(axes, np.asarray(histograms), np.asarray(distances))
    for number, (row, values, xs) in enumerate(rows, start=1):
        ranks(row)
        outlines = [None] + [values[0]] * len(xs)
        for ax, *each, text in zip(row, values, outlines, ["", *(f"{x:.4f}" for x in xs)]):
            _draw_bars(ax, *each)
            bare(ax).set_xlabel(text, fontsize=SMALL, labelpad=2)
            ax.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
        row[0].spines[:].set(color=QUERY, linewidth=1)
        if number == 1:
            row[-1].yaxis.tick_right()
            row[-1].set_yticks([0, HISTOGRAM_TOP])
        for start, letter in zip(STARTS, "RGB"):
            row[0].text(start + 0.5, -0.012, letter, fontsize=SMALL, ha="center", va="top")
        before = row[0]
        if pictures:  # as high as the histogram, at its left
            before = row[0].inset_axes((-1.12, 0, 1, 1))
            before.imshow(pictures[number - 1])
            bare(before).set_anchor("E")
        before.set_ylabel(number, rotation=0, ha="right", va="center")
    return axes


def histogram(ax: Axes, values: NDArray[np.floating]) -> Axes:
    """Draws one colour histogram (75,), every channel with sum 1, with its axes."""
    _draw_bars(ax, values)
    ax.set_xticks(np.ravel([(start, start + 1) for start in STARTS]), ["0", "255"] * 3)
    for label, side in zip(ax.get_xticklabels(), ["left", "right"] * 3):
        label.set_horizontalalignment(side)  # 255 of a channel and 0 of the next are neighbours
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top"}
    for start, letter in zip(STARTS, "RGB"):
        ax.annotate(letter, (start + 0.5, 0), (0, -5.5), **style)
    ax.set(xlabel="value of a channel", ylabel="share of the pixels")
    return ax


def _draw_bars(
    ax: Axes, values: NDArray[np.floating], query: NDArray[np.floating] | None = None
) -> None:
    """Draws a histogram (75,), the three channels side by side; NaN is empty.

    With a query's, it is pale, and the area between the two is filled.
    """
    bins = np.linspace(0, 1, 26)
    heights = np.minimum(values, HISTOGRAM_TOP).reshape(3, 25)
    for channel, (start, color) in enumerate(zip(STARTS, CHANNELS)):
        shade = 1 if query is None else PALE
        ax.stairs(heights[channel], bins + start, fill=True, color=color, alpha=shade)
        if query is not None:
            outline = np.minimum(query, HISTOGRAM_TOP).reshape(3, 25)[channel]
            ax.stairs(heights[channel], bins + start, baseline=outline, fill=True, color=color)
            ax.stairs(outline, bins + start, color=QUERY, linewidth=0.5)
    ax.set(ylim=(0, HISTOGRAM_TOP), xlim=(-0.05, STARTS[-1] + 1.05))
