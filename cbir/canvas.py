"""What all figures share: style, sizes, empty axes, and showing a figure in a notebook."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from anyascii import anyascii
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from numpy.typing import NDArray

Panels = TypeVar("Panels", bound=Sequence[Axes] | NDArray[Any])  # a row of axes
Grid = TypeVar("Grid", bound=Sequence[Sequence[Axes]] | NDArray[Any])  # rows of axes
WIDTH = 7.16  # inches of text on a page of two columns: a wider figure would be printed smaller
SMALL = 7  # points: the smallest text
DOTS = 200  # pixels that a picture has an inch, on screen as in a file
INCH = 110  # pixels that an inch of it takes on a page


def use_style() -> None:
    """Sets typography and sizes shared by all figures: those of cbir/canvas.mplstyle."""
    plt.style.use("cbir.canvas")


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
    columns: int,
    width: float = 0.95,
    height: float = 0.95,
    below: float = 0.3,
    left: float = 0.25,
    right: float = 0,
    top: float = 0.22,
) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of small axes, for images or histograms.

    The margins are set by hand: an automatic layout of sixty axes takes longer than drawing them.

    Args:
        rows: how many of them are below each other.
        columns: how many are side by side.
        width: of one, in inches.
        height: of one.
        below: inches for the text under it.
        left: inches for the text before a row.
        right: inches for the text behind a row.
        top: inches for titles, and a legend.

    Returns:
        The figure and its axes (rows, columns).
    """
    gap = 0.07
    w = left + columns * (width + gap) + right
    h = top + rows * (height + below)
    margins = {"left": left / w, "right": 1 - (gap + right) / w}
    margins |= {"top": 1 - top / h, "bottom": below / h}
    margins |= {"wspace": gap / width, "hspace": below / height}
    # layout="none" would last for one savefig only
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = plt.figure(figsize=(w, h), layout=by_hand)
    return fig, fig.subplots(rows, columns, squeeze=False, gridspec_kw=margins)


def side_by_side(
    rows: int, groups: Sequence[int], side: float = 0.38, below: float = 0.32, apart: float = 0.12
) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of small square axes in groups of columns.

    Args:
        rows: how many of them are below each other.
        groups: how many are side by side in each group.
        side: of one, in inches.
        below: inches for the text under it.
        apart: inches between two groups.

    Returns:
        The figure and its axes (rows, sum of groups).
    """
    top, gap, edge = 0.42, 0.035, 0.04
    lefts = []
    left = 0.22  # a row's number stands there
    for columns in groups:
        lefts += [left + (side + gap) * n for n in range(columns)]
        left = lefts[-1] + side + apart
    w = lefts[-1] + side + edge
    h = top + rows * (side + below)
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = plt.figure(figsize=(w, h), layout=by_hand)
    axes = np.empty((rows, len(lefts)), object)
    for row, column in np.ndindex(axes.shape):
        bottom = h - top - row * (side + below) - side
        axes[row, column] = fig.add_axes((lefts[column] / w, bottom / h, side / w, side / h))
    return fig, axes


def ranks(axes: Panels) -> None:
    """Writes titles over a figure's first row of axes: the query, then the ranks 1..k."""
    if is_first(axes):
        for rank, ax in enumerate(axes):
            ax.set_title(rank or "query")


def is_first(axes: Panels) -> bool:
    """Whether a row of axes is its figure's first."""
    place = axes[0].get_subplotspec()
    return place is None or place.is_first_row()


def shorten(name: str, most: int) -> str:
    """Cuts a name to `most` characters, so that it stays under its picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def drawable(text: str) -> str:
    """A text as the figures' font can write it: what it lacks is spelt in Latin letters.

    "蝶々" becomes "DieDie". Fonts of Chinese, Japanese and Korean are tens of megabytes, and which
    ones a machine has differs.
    """
    known = _letters()
    return "".join(c if ord(c) in known else anyascii(c) for c in text).strip()


@functools.cache
def _letters() -> frozenset[int]:
    """The characters that the figures' font has."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def bare(ax: Axes) -> Axes:
    """Takes ticks and spines away; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax
