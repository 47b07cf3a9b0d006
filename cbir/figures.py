"""Figs 1-10 of the paper, and those that compare descriptors, drawn on the axes that they are given. No function here computes a result."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray

from .networks import Network

Panels = TypeVar("Panels", bound=Sequence[Axes] | NDArray[Any])  # a row of axes
Grid = TypeVar("Grid", bound=Sequence[Sequence[Axes]] | NDArray[Any])  # rows of axes
Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
SAME, OTHER, QUERY = "#009E73", "#CC79A7", "#222222"
CHANNELS = ("#D55E00", "#009E73", "#0072B2")
TINT_OPACITY = 0.6
HISTOGRAM_TOP = 0.3  # where the bars of a histogram end, as in the paper
WIDTH = 7.16  # inches: the text of a page of two columns. No figure is wider, so that none is printed smaller than it was drawn
SMALL = 7  # points: the smallest text


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
    covers_image = (-0.5, width - 0.5, height - 0.5, -0.5)
    for ax, z in zip(axes, maps):
        rows, cols = z.shape
        significant = stretched(z, height, width) > 0
        ax.imshow(np.where(significant[..., None], image, faded(image)))
        if z.max() > 1:
            cmap, norm = tint(z)
            ax.imshow(np.ma.masked_equal(z, 0), cmap=cmap, norm=norm, alpha=TINT_OPACITY,
                      extent=covers_image, interpolation="nearest")
        if rows <= 28:  # finer grids would cover the picture
            ax.hlines(np.arange(1, rows) * height / rows - 0.5, -0.5, width - 0.5, "white", linewidth=0.25, alpha=0.6)
            ax.vlines(np.arange(1, cols) * width / cols - 0.5, -0.5, height - 0.5, "white", linewidth=0.25, alpha=0.6)
        bare(ax)
    for ax, title in zip(axes, titles):
        ax.set_title(title)
    return axes


def stretched(z: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A map (H_m, W_m) at the size of an image (height, width): every pixel has its cell's value."""
    rows = np.arange(height) * z.shape[0] // height
    cols = np.arange(width) * z.shape[1] // width
    return z[rows][:, cols]


def faded(image: Picture) -> Picture:
    """An image (H, W, 3) in light grey, as Fig. 2 shows what is not significant."""
    gray = image.mean(axis=2, keepdims=True) * 0.35 + 110
    return np.repeat(gray, 3, axis=2).astype(np.uint8)


def tint(z: NDArray[Any]) -> tuple[Colormap, Normalize]:
    """The colours of a map's counts: the more channels agree, the brighter."""
    return colormaps["inferno"], Normalize(-0.2 * z.max(), z.max())


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
            for c, (color, heights) in enumerate(channel_bars(h)):
                ax.stairs(heights, bins + 1.08 * c, fill=True, color=color)
            ax.set(ylim=(0, HISTOGRAM_TOP), xlim=(-0.05, 3.21))
            bare(ax)
            ax.set_xlabel(f"{d[col - 1]:.4f}" if col else "", fontsize=SMALL, labelpad=2)
            for spine in ax.spines.values():
                spine.set(visible=True, color=QUERY if col == 0 else "#BBBBBB", linewidth=1.0 if col == 0 else 0.6)
        for c, letter in enumerate("RGB"):
            axes[row][0].text(1.08 * c + 0.5, -0.012, letter, fontsize=SMALL, ha="center", va="top")
        axes[row][0].set_ylabel(row + 1, rotation=0, ha="right", va="center")
    ranks(axes)
    return axes


def channel_bars(histogram: NDArray[np.floating]) -> list[tuple[str, NDArray[np.floating]]]:
    """A colour histogram (75,) as the bars of R, G and B: three (colour, heights (25,))."""
    return list(zip(CHANNELS, np.minimum(histogram, HISTOGRAM_TOP).reshape(3, 25)))


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
