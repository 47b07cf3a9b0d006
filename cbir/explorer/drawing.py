"""What the page draws, as HTML: pictures, colour histograms, regions and the shares of a distance.

Colours and shapes are those of `figures` and `plots`. Every name and label is escaped here.
"""

import base64
import io
from html import escape
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from .. import figures, labels, plots
from ..color import histogram_distance
from ..descriptors import Recipe
from ..figures import Picture
from .engine import Look, Region

BAR_HEIGHT = 20  # of a histogram, in units of its own
CHANNEL_STEP = 27  # from one channel's bars to the next one's
TEXT_FITS = 0.08  # a piece of the bar with a smaller share has no room for its name

Maps = Literal["significant", "weighed"]


class Card(NamedTuple):
    """An image that was found.

    Attributes:
        descriptor: what it was found by.
        rank: 0 for the nearest.
        file: its name.
        label: its class, "" for none.
        distance: from the query.
        same_class: whether the query is of this class, None where that is not known.
        selected: whether its reasons are shown.
        image: a data URI.
        histogram: SVG, "" where the image cannot be read.
    """

    descriptor: str
    rank: int
    file: str
    label: str
    distance: float
    same_class: bool | None
    selected: bool
    image: str
    histogram: str


class Side(NamedTuple):
    """One of the two pictures that are compared.

    Attributes:
        role: "query" or "found".
        caption: what stands under the role.
        look: the picture.
        regions: of its blocks, m = 1..N.
    """

    role: str
    caption: str
    look: Look
    regions: list[Region]


# Pictures


def data_uri(pixels: Picture) -> str:
    """Encodes a picture (H, W, 3) uint8 as a JPEG in a data URI."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def significant_picture(image: Picture, z_m: NDArray[np.int32]) -> Picture:
    """Draws Fig. 2 in pixels: what is not significant is grey, more channels are brighter.

    Args:
        image: (H, W, 3) uint8.
        z_m: (H_m, W_m) counts.

    Returns:
        (H, W, 3) uint8.
    """
    return figures.marked(image, z_m)


def weighed_picture(image: Picture, weighed: NDArray[np.float32]) -> Picture:
    """Draws what Eq. 14 weighs over a grey picture: the more, the brighter and denser.

    Args:
        image: (H, W, 3) uint8.
        weighed: (H_m, W_m), z_m times the block's mean activation.

    Returns:
        (H, W, 3) uint8.
    """
    strength = figures.stretched(weighed / (weighed.max() or 1), *image.shape[:2])  # (H, W)
    opacity = 0.8 * np.sqrt(strength)[..., None]
    return _blend(figures.faded(image), colormaps["inferno"](strength), opacity)


def _blend(
    image: Picture, colors: NDArray[np.floating], opacity: float | NDArray[np.floating]
) -> Picture:
    """Colours (H, W, 4) in 0..1 laid over a picture."""
    return (image * (1 - opacity) + 255 * colors[..., :3] * opacity).astype(np.uint8)


# What an image that was found looks like


def query(look: Look, file: str) -> str:
    """Draws the query with its file's name."""
    return f"""
<figure>
  <img alt="the query" src="{data_uri(look.picture)}">
  <figcaption>{escape(file)}</figcaption>
</figure>"""


def section(descriptor: str, cards: list[Card]) -> str:
    """Draws the images that one descriptor found, under its name."""
    drawn = "".join(map(_card, cards))
    return f"""
<section>
  <h2 style="border-color:{labels.color(descriptor)}">{_name(descriptor)}</h2>
  <div class="cbir-row">{drawn}</div>
</section>"""


def _card(card: Card) -> str:
    """A button whose frame tells the class."""
    frame = {True: "same", False: "other", None: ""}[card.same_class]
    pressed = {True: "true", False: "false"}[card.selected]
    return f"""
<button type="button" class="cbir-card {frame}" aria-pressed="{pressed}"
    data-key="{escape(card.descriptor)} {card.rank}" title="{escape(card.file)}: why?">
  <img alt="{card.rank + 1}. {escape(card.label)}" src="{card.image}">
  <span>{escape(card.label)}</span><span>{_number(card.distance)}</span>
  {card.histogram}
</button>"""


def histogram(values: NDArray[np.float64]) -> str:
    """Draws a colour histogram (75,) as SVG: R, G and B side by side, as in Figs 7-10."""
    paths = []
    for channel, (color, heights) in enumerate(figures.channel_bars(values)):
        tops = BAR_HEIGHT * (1 - heights / figures.HISTOGRAM_TOP)
        steps = "".join(f"V{top:.1f}h1" for top in tops)
        left = CHANNEL_STEP * channel
        paths.append(f'<path d="M{left} {BAR_HEIGHT}{steps}V{BAR_HEIGHT}z" fill="{color}"/>')
    width = 2 * CHANNEL_STEP + 25
    return f"""
<svg viewBox="0 0 {width} {BAR_HEIGHT}" preserveAspectRatio="none"
    role="img" aria-label="histogram of red, green and blue">{"".join(paths)}</svg>"""


# Why it was found


def reasons(
    query: Side,
    found: Side,
    maps: Maps,
    recipe: Recipe,
    distance: float,
    shares: "pd.Series[float]",
) -> str:
    """Draws why an image was found: colours and regions of both, and what made the distance.

    Args:
        query: the picture that was searched for.
        found: the image that was found.
        maps: "significant" draws z_m, "weighed" what Eq. 14 weighs.
        recipe: of the regions.
        distance: between the two.
        shares: {part: share} of the distance.

    Returns:
        HTML.
    """
    sides = (query, found)
    heads = [f'<th scope="col">{side.role}<br>{escape(side.caption)}</th>' for side in sides]
    images = [_image(side.role, data_uri(side.look.picture)) for side in sides]
    colors = [histogram(side.look.histogram) for side in sides]
    rows = [_row("", images), _row("colours", colors)]
    for m in range(len(query.regions), 0, -1):
        pictures = [_region(side.look.picture, side.regions[m - 1], maps) for side in sides]
        rows.append(_row(f"block {m}", pictures))
    colors_differ = histogram_distance(query.look.histogram, found.look.histogram)
    return f"""
<section>
  <h2>Why this one?</h2>
  <table>
    <thead><tr><td></td>{"".join(heads)}</tr></thead>
    <tbody>{"".join(rows)}</tbody>
  </table>
  <p>{_explanation(maps, recipe)}</p>
  <h3>What made the distance {_number(distance)}</h3>
  {share_bar(shares)}
  <p>Histogram distance (L1 / 75): {colors_differ:.4f}</p>
</section>"""


def _row(head: str, cells: list[str]) -> str:
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{head}</th>{data}</tr>'


def _image(text: str, uri: str) -> str:
    return f'<img alt="{text}" title="{text}" src="{uri}">'


def _region(image: Picture, region: Region, maps: Maps) -> str:
    """A block's region over its picture."""
    z_m, weighed = region
    if maps == "significant":
        picture = significant_picture(image, z_m)
    else:
        picture = weighed_picture(image, weighed)
    return _image(f"{(z_m > 0).mean():.0%} significant", data_uri(picture))


def _explanation(maps: Maps, recipe: Recipe) -> str:
    """How the regions are to be read."""
    if recipe["threshold"] == "absolute":
        condition = f"activation at least q = {recipe['q']:g}"
    else:
        condition = f"activation more than q = {recipe['q']:g} of the image's maximum"
    if maps == "significant":
        shown = "Colours stay where a neuron of the last block is significant"
    else:
        shown = "Bright is where the block's mean activation weighs most"
    return f"{shown} ({condition}); brighter where more channels agree."


def share_bar(shares: "pd.Series[float]") -> str:
    """Draws the shares {part: share} of a distance as one bar, its pieces labelled."""
    pieces = []
    for part, (color, ink) in plots.part_colors(map(str, shares.index)).items():
        share = shares[part]
        text = f"{_name(part)} {share:.0%}" if share > TEXT_FITS else ""
        style = f"width:{share:.2%};background:{color};color:{ink}"
        pieces.append(f'<li style="{style}" title="{escape(part)}: {share:.1%}">{text}</li>')
    listed = ", ".join(f"{_name(str(part))} {share:.1%}" for part, share in shares.items())
    return f"""
<ul class="cbir-bar" aria-hidden="true">{"".join(pieces)}</ul>
<p class="cbir-parts">{listed}</p>"""


# Words


def message(text: object) -> str:
    """Draws a message above the results; nothing where there is none."""
    return f'<p class="cbir-message">{escape(str(text))}</p>' if text else ""


def fixed_q(recipe: Recipe) -> str:
    """Draws the note that the search does not follow the slider of q."""
    return f"""
<p class="cbir-note">The store was described with q = {recipe["q"]:g}:
moving q changes the regions, not what is found.</p>"""


def _name(descriptor: str) -> str:
    return escape(labels.plain_name(descriptor))


def _number(distance: float) -> str:
    """A distance with four digits; float32's rounding between an image and itself is 0."""
    return f"{round(distance, 6):.4g}"
