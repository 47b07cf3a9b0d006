"""Figs 1-10 of the paper, and the style of all figures.

A function draws on the axes that it is given, and returns them. None computes a result.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anyascii import anyascii
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from PIL import Image

from .common import AnyPath
from .images import Images, UnreadableImage, open_image
from .names import symbol
from .networks import Network

Panels = TypeVar("Panels", bound=Sequence[Axes] | NDArray[Any])  # a row of axes
Grid = TypeVar("Grid", bound=Sequence[Sequence[Axes]] | NDArray[Any])  # rows of axes
WIDTH = 7.16  # inches of text on a page of two columns: a wider figure would be printed smaller
SMALL = 7  # points: the smallest text
DOTS = 200  # pixels that a picture has per inch, on screen as in a file
INCH = 110  # pixels that an inch of it takes on a page
APART = 0.12  # inches between two groups of columns


def use_style() -> None:
    """Sets typography and sizes shared by all figures.

    It starts from matplotlib's own settings, so that a user's matplotlibrc changes nothing. The
    fonts are matplotlib's, the same on every machine.
    """
    plt.rcdefaults()
    plt.rc("font", family="DejaVu Sans", size=8)
    plt.rc("mathtext", fontset="dejavusans")
    plt.rc("pdf", fonttype=42)  # text stays text
    plt.rc("axes", labelsize=8, titlesize=7, linewidth=0.6)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc(("xtick", "ytick"), labelsize=7)
    plt.rc(("xtick.major", "ytick.major"), width=0.6)
    plt.rc("legend", fontsize=7, frameon=False, handlelength=1.5, handletextpad=0.5)
    plt.rc("figure", dpi=INCH)
    plt.rc("figure.constrained_layout", use=True, w_pad=0.06)
    plt.rc("savefig", dpi=DOTS)


def show(fig: Figure, caption: str) -> None:
    """Displays a figure in a notebook, with its caption as alternative text, and closes it.

    It is as sharp as its file (`DOTS`), and an inch of it is `INCH` pixels wide on a page.
    """
    from IPython import get_ipython  # the command line draws without it
    from IPython.display import display

    shell = get_ipython()
    if shell:
        fig.set_dpi(DOTS)
        images, metadata = shell.display_formatter.format(fig)
        about = {"alt": caption, "width": round(fig.get_figwidth() * INCH)}
        for kind in images:
            if kind.startswith("image/"):
                metadata[kind] = metadata.get(kind, {}) | about
        display(images, metadata=metadata, raw=True)
    plt.close(fig)


def grid(
    rows: int,
    columns: int | Sequence[int],
    width: float = 0.95,
    height: float = 0.95,
    below: float = 0.3,
    left: float = 0.25,
    right: float = 0,
    top: float = 0.22,
    gap: float = 0.07,
) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of small axes, for images or histograms.

    The margins are set by hand: an automatic layout of sixty axes takes longer than drawing them.

    Args:
        rows: how many axes are below each other.
        columns: how many are side by side; in several groups, the number of each.
        width: of one, in inches.
        height: of one.
        below: inches for the text under it.
        left: inches for the text before a row.
        right: inches for the text behind a row.
        top: inches for titles, and a legend.
        gap: inches between two columns.

    Returns:
        The figure and its axes (rows, sum of columns).
    """
    groups = [columns] if isinstance(columns, int) else columns
    # A narrow empty column stands between two groups.
    filled = np.concatenate([[True] * n + [False] for n in groups])[:-1]
    widths = np.where(filled, width, APART - 2 * gap)
    w = left + widths.sum() + gap * len(widths) + right
    h = top + rows * (height + below)
    margins = {"left": left / w, "right": 1 - (gap + right) / w}
    margins |= {"top": 1 - top / h, "bottom": below / h}
    margins |= {"wspace": gap / widths.mean(), "hspace": below / height}
    # layout="none" would last for one savefig only
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = plt.figure(figsize=(w, h), layout=by_hand)
    cells = fig.add_gridspec(rows, len(widths), width_ratios=widths, **margins)
    places = itertools.product(range(rows), np.flatnonzero(filled).tolist())
    return fig, np.reshape([fig.add_subplot(cells[place]) for place in places], (rows, -1))


def ranks(axes: Panels) -> None:
    """Writes titles over a figure's first row of axes: the query, then the ranks 1..k."""
    if is_first(axes):
        for rank, ax in enumerate(axes):
            ax.set_title(rank or "query")


def is_first(axes: Panels) -> bool:
    """Whether a row of axes is its figure's first."""
    place = axes[0].get_subplotspec()
    return place is None or place.is_first_row()


def drawable(text: str) -> str:
    """Spells in Latin letters what the figures' font cannot write.

    "蝶々" becomes "DieDie". Fonts of Chinese, Japanese and Korean are tens of megabytes, and which
    ones a machine has differs.
    """
    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else anyascii(c) for c in text).strip()


def bare(ax: Axes) -> Axes:
    """Takes ticks and spines away; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


class Hits(Protocol):
    """What `search` gives."""

    @property
    def indices(self) -> NDArray[np.integer]:
        """(Q, k) rows of the database."""

    @property
    def distances(self) -> NDArray[np.floating]:
        """(Q, k), ascending."""


Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Known: TypeAlias = tuple[pd.DataFrame, pd.DataFrame]  # of queries and images, a column a factor

CONVOLUTION, POOLING, CONNECTED = "#DCE9F5", "#F3B49A", "#F5E6C8"  # Fig. 1
AVERAGING = "#CDE5D2"
WIDEST = 16.61  # VGG16's width in Fig. 1, where the largest map has a side of 3
OUTPUT_GAP = 0.56  # behind a layer whose output has a name
BLOCKS_GAP = 0.5  # behind the last block
LETTER = 0.15  # the width of a letter under a layer, where a figure is as wide as a page
SAME, OTHER, QUERY = "#009E73", "#CC79A7", "#222222"  # frames of Figs 3-6
MARKERS = "oD"  # under the images of Figs 3-6, for what is known besides the class
CHANNELS = ("#D55E00", "#009E73", "#0072B2")  # Figs 7-10
STARTS = (0, 1.08, 2.16)  # of the channels, each 1 wide
MIDDLES = tuple(start + 0.5 for start in STARTS)
HISTOGRAM_TOP = 0.3  # where the bars of a histogram end, as in the paper
LETTERS = 17  # of a class's name under a picture
LAST_LETTERS = 14  # of a file's name: its end, often a number, tells more than its beginning
THUMBNAIL = 400  # pixels that an image has at least after it is reduced; printed, it has 190
GRAY = np.full((THUMBNAIL, THUMBNAIL, 3), 200, np.uint8)  # of an image that cannot be read


def network(ax: Axes, net: Network, key: bool = True) -> Axes:
    """Draws Fig. 1: the network as blocks y_1..y_N and codes y_{N+1}, y_{N+2}.

    Every convolution, pooling and fully connected layer is a slab, found by running the network.
    Its side is the map's side (square root), its thickness the number of channels (logarithm). A
    network of so many layers that it would be wider than `WIDEST` has thinner slabs.

    Args:
        ax: the axes.
        net: the network.
        key: whether the colours are explained.

    Returns:
        ax.
    """
    outputs = {name: m for m, name in enumerate([*net.blocks, *net.codes], start=1)}
    largest = max(shape[-1] for _, _, shape in net.layers if len(shape) == 3)
    slabs = [_slab(shape, largest) for _, _, shape in net.layers]
    free = WIDEST - OUTPUT_GAP * len(outputs) - BLOCKS_GAP
    thinner = min(1, free / sum(thickness + gap for _, thickness, _, gap in slabs))
    edge = {"edgecolor": "#333333", "linewidth": 0.5}
    line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.5}
    kinds = {}  # {text of the legend: colour}
    x = 0.0
    last_note = -np.inf  # where the last text under the slabs ends
    for (name, kind, shape), (side, thickness, depth, gap) in zip(net.layers, slabs):
        thickness, gap = thickness * thinner, gap * thinner
        if name in outputs:
            size = " × ".join(map(str, shape)).removesuffix(" × 1 × 1")
            half = LETTER * len(size) / 2
            x = max(x, last_note + half - thickness / 2)  # beside it, not over it
            last_note = x + thickness / 2 + half
            ends = [(x + thickness / 2, bottom) for bottom in (-side / 2, -2.05)]
            text = f"$y_{outputs[name]}$\n{size}"
            note = ax.annotate(text, *ends, ha="center", va="top", arrowprops=line)
            note.set(fontsize=SMALL, linespacing=1.3)
            gap += OUTPUT_GAP
        if name == net.blocks[-1]:
            gap += BLOCKS_GAP
        label, color = _kind(kind)
        kinds[label] = color
        for face in _faces(x, side, thickness, depth):
            ax.add_patch(Polygon(face, facecolor=color, **edge))
        x += thickness + gap
    ax.set(xlim=(-0.4, x + 0.2), ylim=(-2.75, 2.4), aspect="equal")
    if key:
        handles = [Rectangle((0, 0), 0, 0, facecolor=color, **edge) for color in kinds.values()]
        legend = ax.legend(handles, kinds, ncols=len(kinds), loc="lower right", borderaxespad=0.2)
        legend.set_bbox_to_anchor((1, 1), ax.transAxes)
    ax.axis("off")
    return ax


def _kind(layer: str) -> tuple[str, str]:
    """Returns a layer's name in Fig. 1 and its colour, by its class's name."""
    if layer == "Linear":
        return "fully connected", CONNECTED
    if "Pool" not in layer:
        return "convolution + ReLU", CONVOLUTION
    if "Max" in layer:
        return "max-pool", POOLING
    return "average-pool", AVERAGING


def _slab(shape: tuple[int, ...], largest: int) -> tuple[float, float, float, float]:
    """Returns side, thickness and depth of a layer's slab, and the gap behind it."""
    if len(shape) == 3:
        side = 3 * (shape[-1] / largest) ** 0.5
        depth = 0.28 * side
        return side, 0.035 * np.log2(max(2, shape[0])), depth, 0.62 * depth + 0.06
    return 0.35 + 0.17 * np.log2(shape[0]), 0.16, 0.1, 0.36


def _faces(x: float, side: float, thickness: float, depth: float) -> NDArray[np.float64]:
    """Returns front, top and right side of a slab that begins at x: (3, 4, 2) corners."""
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

    It is drawn as `marked` does it, with the cells of coarse maps.

    Args:
        axes: as many as maps.
        image: (H, W, 3) uint8.
        maps: (H_m, W_m) arrays of counts >= 0.
        titles: one for every map, or none.

    Returns:
        axes.
    """
    height, width = image.shape[:2]
    for ax, z in zip(axes, maps):
        rows, cols = z.shape
        ax.imshow(marked(image, z))
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


def marked(image: Picture, z: NDArray[Any]) -> Picture:
    """Colours an image where a neuron is significant and leaves it light grey elsewhere.

    A map of zeros and ones leaves it its own colours. One that counts channels tints it, the more
    channels, the brighter; light and dark of the image stay.

    Args:
        image: (H, W, 3) uint8.
        z: (H_m, W_m) counts >= 0.

    Returns:
        (H, W, 3) uint8.
    """
    counts = stretched(z, *image.shape[:2])  # (H, W)
    gray = image.mean(axis=2, keepdims=True)
    inside: NDArray[Any] = image
    if z.max() > 1:
        tint = _tint(z).to_rgba(counts)[..., :3]
        inside = np.minimum(255 * tint * (0.35 + 0.95 * gray / 255), 255)
    return np.where(counts[..., None] > 0, inside, gray * 0.35 + 110).astype(np.uint8)


def _tint(z: NDArray[Any]) -> ScalarMappable:
    """Returns the colours of a map's counts: the more channels agree, the brighter."""
    colors = colormaps["viridis"](np.linspace(0.35, 1, 256))  # the darkest would hide the image
    return ScalarMappable(Normalize(0, z.max()), ListedColormap(colors))


def count_bar(ax: Axes, z: NDArray[Any]) -> None:
    """Draws the colour bar of a map's counts beside its axes, if it counts."""
    if z.max() > 1:
        beside = ax.inset_axes((1.08, 0, 0.07, 1))
        bar = ax.figure.colorbar(_tint(z), cax=beside, label="channels")
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(4, integer=True)


def retrieval(
    axes: Grid,
    queries: Images,
    database: Images,
    hits: Hits | Mapping[str, Hits],
    rows: Sequence[int] | NDArray[np.integer] | None = None,
    names: Sequence[str] | None = None,
    known: Known | None = None,
) -> Grid:
    """Draws Figs 3-6: in a row of axes a query, then its k nearest images.

    The class and the distance stand under each; where images have no classes, the name of the
    file. The frame tells whether the class is the query's: green and solid, or pink and dashed. An
    image that cannot be read is grey. Distances have four decimals, or more where they are small.
    Only a figure's first row of axes has titles.

    Of what else is known of the images (background, palette) there is a mark under each, filled
    where it is the query's. Behind a row stands how many of its images have the query's class,
    background, .. The figure's legend says so once.

    Args:
        axes: (R, 1 + k), a row for every query and descriptor.
        queries: an `ImageSet` or a store.
        database: the `ImageSet` or store that was searched.
        hits: what `search` found for all queries, or several of these: {descriptor: hits}.
        rows: which queries to draw, default all.
        names: R texts for the rows; default their numbers, with several descriptors their symbols.
        known: what `known_factors` says of the queries and of the database; default nothing.

    Returns:
        axes.
    """
    rows = range(len(queries)) if rows is None else rows
    found = [hits]
    if isinstance(hits, Mapping):
        found = list(hits.values())
        names = names or [*map(symbol, hits)] * len(rows)
    names = names or range(1, len(rows) + 1)
    decimals = _decimals(np.concatenate([each.distances[rows].ravel() for each in found]))
    picture = functools.cache(thumbnail)
    for row, name, (query, each) in zip(axes, names, itertools.product(rows, found)):
        query_class = queries.labels[query]
        _draw_image(row[0], thumbnail(queries.path(query)), [_name(queries, query)], QUERY)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        same = _agreement(known, query, each.indices[query])
        texts = [f"{distance:.{decimals}f}" for distance in each.distances[query]]
        _draw_found(row[1:], database, each.indices[query], query_class, same, picture, texts)
        counts = [f"{factor} {agree.sum()}/{len(agree)}" for factor, agree in same.items()]
        if counts:
            style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL}
            beside = {"va": "center", "linespacing": 1.5}
            row[-1].annotate("\n".join(counts), (1, 0.5), (7, 0), **beside, **style)
        ranks(row)
    if known and is_first(axes[0]):
        _draw_legend(axes[0][0], known)
    return axes


def summary(
    axes: Grid,
    queries: Images,
    database: Images,
    hits: Mapping[str, Hits],
    rows: Sequence[int] | NDArray[np.integer],
    names: Sequence[str],
    known: Known | None = None,
) -> Grid:
    """Draws queries with what several descriptors found for them, side by side.

    Frames, marks, legend and counts are those of `retrieval`.

    Args:
        axes: (R, 1 + D k), a row a query: it, then k images by each of the D descriptors.
        queries: an `ImageSet` or a store.
        database: the `ImageSet` or store that was searched.
        hits: {descriptor: what `search` found for all queries}.
        rows: the R queries to draw.
        names: R texts for the rows.
        known: as in `retrieval`.

    Returns:
        axes.
    """
    picture = functools.cache(thumbnail)
    for row, query, name in zip(axes, rows, names):
        query_class = queries.labels[query]
        _draw_image(row[0], thumbnail(queries.path(query)), [], QUERY, 1.2)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        groups = np.reshape(row[1:], (len(hits), -1))
        for group, each in zip(groups, hits.values()):
            same = _agreement(known, query, each.indices[query])
            _draw_found(group, database, each.indices[query], query_class, same, picture)
            counts = [f"{factor} {agree.sum()}" for factor, agree in same.items()]
            middle = group[len(group) // 2]
            middle.set_xlabel(" · ".join(counts), fontsize=SMALL, labelpad=10)
    axes[0][0].set_title("query")
    for group, descriptor in zip(np.reshape(axes[0][1:], (len(hits), -1)), hits):
        group[len(group) // 2].set_title(symbol(descriptor), fontsize=10)
    if known:
        _draw_legend(axes[0][0], known)
    return axes


def _agreement(
    known: Known | None, query: int, indices: NDArray[np.integer]
) -> dict[str, NDArray[np.bool_]]:
    """Compares what is known of images with what is known of their query.

    indices: (k,) rows of the database; -1, not found, agrees in nothing. Returns {"class": (k,)
    bool, "background": .., ..}.
    """
    of_query, of_image = known or (pd.DataFrame(), pd.DataFrame())
    same = {}
    for factor in of_query.columns.intersection(of_image.columns):
        value = of_query[factor].iloc[query]
        if value:
            same[factor] = (indices >= 0) & (of_image[factor].to_numpy()[indices] == value)
    return same


def _draw_found(
    axes: Panels,
    database: Images,
    indices: NDArray[np.integer],
    query_class: str,
    same: Mapping[str, NDArray[np.bool_]],
    picture: Callable[[Path], Picture],
    distances: Sequence[str] = (),
) -> None:
    """Draws a query's hits: large with text under them, or without distances small."""
    for n, (ax, i) in enumerate(zip(axes, indices)):
        found_any = i >= 0  # not if the query could not be read
        label = database.labels[i] if found_any else ""
        image = picture(database.path(i)) if found_any else np.copy(GRAY)
        lines = [_name(database, i) if found_any else "", distances[n]] if distances else []
        color = SAME if label == query_class else OTHER
        color = color if label and query_class else QUERY
        _draw_image(ax, image, lines, color, 1.8 if distances else 1.2)
        down = 4.8 + 8.6 * ax.get_xlabel().count("\n")  # on the last line under the picture
        offset = ScaledTranslation(0, -down / 72, ax.figure.dpi_scale_trans)
        agree = [agreement[n] for factor, agreement in same.items() if factor != "class"]
        for x, marker, filled in zip((0.1, 0.9), MARKERS, agree):
            place = ax.transAxes + offset
            ax.add_line(_mark(marker, filled, [x], [0], transform=place, clip_on=False))


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


def _decimals(distances: NDArray[np.floating]) -> int:
    """Returns how many decimals show two digits of the usual distance, but at least 4."""
    positive = distances[distances > 0]
    usual = np.median(positive) if len(positive) else 1
    return max(4, 2 - int(np.floor(np.log10(usual))))


def _frame(color: str, line: float, *size: float) -> Rectangle:
    """Returns a frame of this width and height; that of another class is dashed."""
    style = {"edgecolor": color, "linewidth": line, "linestyle": "-"}
    if color == OTHER:
        style["linestyle"] = (0, (2.5, 1))
    return Rectangle((-0.5, -0.5), *size, fill=False, **style)


def _draw_image(
    ax: Axes, image: Picture, lines: Sequence[str], color: str, frame: float = 1.8
) -> None:
    """Draws an image with its proportions in a square cell, a frame around it, text under it."""
    height, width = image.shape[:2]
    half = max(height, width) / 2
    ax.imshow(image)
    ax.set(xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 + half, height / 2 - half))
    ax.add_patch(_frame(color, frame, width, height)).set_clip_on(False)
    if image is GRAY:  # `thumbnail` says so
        text = "unreadable" if lines else "?"
        ax.text(width / 2, height / 2, text, fontsize=SMALL, ha="center", va="center")
    under = "\n".join(filter(None, lines))
    # a class may be called "$x"
    ax.set_xlabel(under, fontsize=SMALL, labelpad=2, linespacing=1.05, parse_math=False)
    bare(ax)


def _mark(
    marker: str, filled: bool | np.bool_, x: Sequence[float], y: Sequence[float], **place: Any
) -> Line2D:
    """Returns a mark of Figs 3-6, filled or hollow."""
    size = 4 if marker == "o" else 3.4
    style: dict[str, Any] = {"linestyle": "", "markersize": size, "markeredgewidth": 0.7}
    style |= {"markeredgecolor": QUERY, "markerfacecolor": QUERY if filled else "white"}
    return Line2D(x, y, marker=marker, **style, **place)


def _draw_legend(ax: Axes, known: Known) -> None:
    """Explains frames and marks above a figure whose upper left axes these are."""
    factors = known[0].columns.intersection(known[1].columns)
    marks = [factor for factor in factors if factor != "class"]
    keys: dict[str, Any] = {}  # {text: the artists before it}
    if "class" in factors:
        keys["class"] = tuple(_frame(color, 1.2, 1, 1) for color in (SAME, OTHER))
    for marker, factor in zip(MARKERS, marks):
        keys[factor] = tuple(_mark(marker, filled, [], []) for filled in (True, False))
    if keys:
        texts = [f"{factor}: the query's, another" for factor in keys]
        style: dict[str, Any] = {"borderaxespad": 0, "borderpad": 0.2, "columnspacing": 1.5}
        style |= {"handler_map": {tuple: HandlerTuple(None, pad=0.6)}, "handlelength": 2.6}
        style |= {"bbox_to_anchor": (ax.get_position().x0, 1), "ncols": len(keys)}
        ax.figure.legend(list(keys.values()), texts, loc="upper left", **style)


def histograms(
    axes: Grid,
    histograms: Sequence[Sequence[NDArray[np.floating]]] | NDArray[np.floating],
    distances: Sequence[Sequence[float] | NDArray[np.floating]] | NDArray[np.floating],
    pictures: Sequence[Picture] = (),
) -> Grid:
    """Draws Figs 7-10: in a row the query's colour histogram, then those of its k nearest images.

    The distance stands under each; the letters under the query's say which channel is which.

    Args:
        axes: (Q, 1 + k).
        histograms: (Q, 1 + k, 75), every channel with sum 1.
        distances: (Q, k).
        pictures: Q images (H, W, 3) uint8 that stand before the rows, or none.

    Returns:
        axes.
    """
    for number, (row, values, xs) in enumerate(zip(axes, histograms, distances), start=1):
        for ax, each, text in zip(row, values, ["", *(f"{x:.4f}" for x in xs)]):
            _draw_bars(ax, each)
            bare(ax).set_xlabel(text, fontsize=SMALL, labelpad=2)
            ax.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
        row[0].spines[:].set(color=QUERY, linewidth=1)
        for x, letter in zip(MIDDLES, "RGB"):
            row[0].text(x, -0.012, letter, fontsize=SMALL, ha="center", va="top")
        before = row[0]
        if pictures:  # as high as the histogram, at its left
            before = row[0].inset_axes((-1.12, 0, 1, 1))
            before.imshow(pictures[number - 1])
            bare(before).set_anchor("E")
        before.set_ylabel(number, rotation=0, ha="right", va="center")
        ranks(row)
    return axes


def histogram(ax: Axes, values: NDArray[np.floating]) -> Axes:
    """Draws one colour histogram (75,), every channel with sum 1, with its axes."""
    _draw_bars(ax, values)
    ax.set_xticks(np.ravel([(start, start + 1) for start in STARTS]), ["0", "255"] * 3)
    for label, side in zip(ax.get_xticklabels(), ["left", "right"] * 3):
        label.set_horizontalalignment(side)  # 255 of a channel and 0 of the next are neighbours
    for x, letter in zip(MIDDLES, "RGB"):
        ax.annotate(letter, (x, 0), (0, -5.5), textcoords="offset points", ha="center", va="top")
    ax.set(xlabel="value of a channel", ylabel="share of the pixels")
    return ax


def _draw_bars(ax: Axes, values: NDArray[np.floating]) -> None:
    """Draws the bars of a histogram (75,), the three channels side by side; NaN is empty."""
    bins = np.linspace(0, 1, 26)
    heights = np.minimum(values, HISTOGRAM_TOP).reshape(3, 25)
    for start, color, channel in zip(STARTS, CHANNELS, heights):
        ax.stairs(channel, bins + start, fill=True, color=color)
    ax.set(ylim=(0, HISTOGRAM_TOP), xlim=(-0.05, STARTS[-1] + 1.05))
