"""What all figures share: style, sizes, empty axes, and showing a figure in a notebook."""

from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from numpy.typing import NDArray

Panels = TypeVar("Panels", bound=Sequence[Axes] | NDArray[Any])  # a row of axes
Grid = TypeVar("Grid", bound=Sequence[Sequence[Axes]] | NDArray[Any])  # rows of axes
WIDTH = 7.16  # inches of text on a page of two columns: a wider figure would be printed smaller
SMALL = 7  # points: the smallest text


def use_style() -> None:
    """Sets typography and sizes shared by all figures: those of cbir/canvas.mplstyle."""
    plt.style.use("cbir.canvas")


def show(fig: Figure, caption: str) -> None:
    """Displays a figure in a notebook, with its caption as alternative text, and closes it."""
    from IPython import get_ipython  # the command line draws without it
    from IPython.display import display

    shell = get_ipython()
    if shell:
        images, metadata = shell.display_formatter.format(fig)
        for kind in images:
            if kind.startswith("image/"):
                metadata[kind] = metadata.get(kind, {}) | {"alt": caption}
        display(images, metadata=metadata, raw=True)
    plt.close(fig)


def grid(
    rows: int,
    columns: int,
    width: float = 0.95,
    height: float = 0.95,
    below: float = 0.3,
    left: float = 0.25,
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

    Returns:
        The figure and its axes (rows, columns).
    """
    top, gap = 0.22, 0.07
    w = left + columns * (width + gap)
    h = top + rows * (height + below)
    margins = {"left": left / w, "right": 1 - gap / w, "top": 1 - top / h, "bottom": below / h}
    margins |= {"wspace": gap / width, "hspace": below / height}
    # layout="none" would last for one savefig only
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    fig = plt.figure(figsize=(w, h), layout=by_hand)
    return fig, fig.subplots(rows, columns, squeeze=False, gridspec_kw=margins)


def ranks(axes: Panels) -> None:
    """Writes titles over a figure's first row of axes: the query, then the ranks 1..k."""
    place = axes[0].get_subplotspec()
    if place is None or place.is_first_row():
        for rank, ax in enumerate(axes):
            ax.set_title(rank or "query")


def shorten(name: str, most: int) -> str:
    """Cuts a name to `most` characters, so that it stays under its picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def bare(ax: Axes) -> Axes:
    """Takes ticks and spines away; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax
