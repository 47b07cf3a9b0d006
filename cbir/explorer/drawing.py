"""What the page draws, as HTML: pictures, colour histograms, maps, shares of a distance, controls.

Colours and shapes are those of `figures` and `plots`. Every name and label is escaped here. What
has a data-key tells the page when it is pressed or changed.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex, to_rgb
from numpy.typing import NDArray
from PIL import Image

from .. import figures, plots
from .. import names as labels
from ..color import histogram_distance
from ..common import Metric
from ..descriptors import Recipe
from ..explorer.engine import Look, Region
from ..figures import Picture

BAR_HEIGHT = 20  # of a histogram, in units of its own
CHANNEL_STEP = 27  # from one channel's bars to the next one's
TEXT_FITS = 0.08  # a piece of the bar with a smaller share has no room for its name
OPACITY = 0.55  # of a map's colours: the picture stays visible
COUNTS, TERMS = colormaps["viridis"], colormaps["inferno"]  # of Eq. 13 and of Eq. 14
MAIN = ("h", "eta_conv", "eta")  # the paper's descriptors; the others are folded away


class Card(NamedTuple):
    """An image on the page.

    Attributes:
        key: what the page is told when it is pressed.
        file: its name.
        label: its class, "" for none.
        image: a data URI.
    """

    key: str
    file: str
    label: str
    image: str


class Hit(NamedTuple):
    """An image that was found.

    Attributes:
        card: what every image has.
        rank: 0 for the nearest.
        distance: from the query.
        same_class: whether the query is of this class, None where that is not known.
        selected: whether its reasons are shown.
        histogram: SVG, "" where the image cannot be read.
    """

    card: Card
    rank: int
    distance: float
    same_class: bool | None
    selected: bool
    histogram: str


class Side(NamedTuple):
    """One of the two pictures that are compared.

    Attributes:
        role: "query" or "found".
        file: its name.
        caption: what else is said of it.
        path: its file, None where there is nothing to copy.
        look: the picture.
        regions: of its blocks, m = 1..N.
    """

    role: str
    file: str
    caption: str
    path: Path | None
    look: Look
    regions: list[Region]


class Choices(NamedTuple):
    """What the controls say.

    Attributes:
        descriptors: {name: whether it is searched by}.
        metric: as in `search`.
        k: images that are found.
        recipe: the name of one of `recipes`.
        q: the threshold.
        unit: whether every layer is divided by its length.
        average: whether all positions count alike, instead of the significant ones.
    """

    descriptors: dict[str, bool]
    metric: Metric
    k: int
    recipe: str
    q: float
    unit: bool
    average: bool


class Offered(NamedTuple):
    """Which controls there are.

    Attributes:
        largest_k: of the slider.
        recipes: their names.
        largest_q: of the slider; 0 where the threshold cannot be moved.
        unit: whether balance is a choice.
        average: whether averaging is a choice.
        fixed: why the threshold cannot be moved, "" where it can.
    """

    largest_k: int
    recipes: Sequence[str]
    largest_q: float
    unit: bool
    average: bool
    fixed: str


# Pictures


def data_uri(pixels: Picture) -> str:
    """Encodes a picture (H, W, 3) uint8 as a JPEG in a data URI."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def counted_picture(image: Picture, z_m: NDArray[np.int32], largest: int) -> Picture:
    """Lays the map of Eq. 13 over a picture: bright where many channels agree, grey without one.

    A map of zeros and ones leaves the picture its own colours.

    Args:
        image: (H, W, 3) uint8.
        z_m: (H_m, W_m) counts.
        largest: the count that is brightest.

    Returns:
        (H, W, 3) uint8.
    """
    if largest <= 1:
        return figures.marked(image, z_m)
    counts = figures.stretched(z_m, *image.shape[:2])  # (H, W)
    opacity = OPACITY * (counts > 0)[..., None]
    return _blend(_grey(image), COUNTS(counts / largest), opacity)


def weighed_picture(image: Picture, weighed: NDArray[np.float32], largest: float) -> Picture:
    """Lays what Eq. 14 weighs over a picture: the more, the brighter and denser.

    Args:
        image: (H, W, 3) uint8.
        weighed: (H_m, W_m), z_m times the block's mean activation.
        largest: the value that is brightest.

    Returns:
        (H, W, 3) uint8.
    """
    strength = figures.stretched(weighed / (largest or 1), *image.shape[:2])  # (H, W)
    return _blend(_grey(image), TERMS(strength), OPACITY * np.sqrt(strength)[..., None])


def _grey(image: Picture) -> Picture:
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)


def _blend(image: Picture, colors: NDArray[np.floating], opacity: NDArray[np.floating]) -> Picture:
    """Colours (H, W, 4) in 0..1 laid over a picture."""
    return (image * (1 - opacity) + 255 * colors[..., :3] * opacity).astype(np.uint8)


def color_bar(cmap: Colormap, low: str, high: str) -> str:
    """Draws the colours of a map, from one value to another."""
    shades = ",".join(to_hex(cmap(x)) for x in np.linspace(0, 1, 9))
    gradient = f"background:linear-gradient(to right,{shades})"
    return (
        f'<span class="cbir-scale">{escape(low)} '
        f'<span style="{gradient};opacity:{1.4 * OPACITY:g}"></span> {escape(high)}</span>'
    )


def _image(alt: str, uri: str, aspect: float = 0) -> str:
    """A picture; with an aspect, pulled back to the proportions that it had."""
    style = f' style="aspect-ratio:{aspect:.4f};object-fit:fill"' if aspect else ""
    return f'<img alt="{escape(alt)}" src="{uri}"{style}>'


# The images to choose from


def head(title: str) -> str:
    """Draws the page's title, the search by name, and the way back to all images."""
    return f"""
<h1>{escape(title)}</h1>
<input type="search" data-key="name" placeholder="part of an image's name"
    aria-label="part of an image's name">
<button type="button" data-key="all">all images</button>"""


def grid(cards: list[Card], sources: Mapping[str, int], shown: str, first: int, total: int) -> str:
    """Draws the images to choose from, a page of them.

    Args:
        cards: the images.
        sources: {name: how many images it has}, between which there is a choice.
        shown: the source that is shown.
        first: the number of the first image, from 0.
        total: how many there are in all.

    Returns:
        HTML.
    """
    choices = ""
    if len(sources) > 1:
        for name, count in sources.items():
            choices += _button(f"of {name}", f"{name} ({count:,})", name == shown)
    pages = ""
    last = first + len(cards)
    if total > len(cards):
        pages = _step("page -1", "previous", first > 0) + _step("page 1", "next", last < total)
    number = f"{first + 1:,} to {last:,} of {total:,}"
    if not total:
        number = f"no image of the {escape(shown)} could be read"
    drawn = "".join(f'<li class="cbir-card">{_choice(card)}</li>' for card in cards)
    return f"""
<section aria-label="images to choose from">
  <div class="cbir-line"><h2>Pick a picture</h2> {choices}
    <span>{number}</span> {pages}</div>
  <ul class="cbir-row">{drawn}</ul>
</section>"""


def _choice(card: Card) -> str:
    return f"""<button type="button" class="cbir-picture" data-key="{escape(card.key)}"
    title="{escape(card.file)}">{_image(card.file, card.image)}</button>{_names(card)}"""


def _names(card: Card) -> str:
    """An image's file name, and its class where there is one."""
    name = f'<span class="cbir-name" title="{escape(card.file)}">{_short(card.file)}</span>'
    return name + (f'<span class="cbir-class">{escape(card.label)}</span>' if card.label else "")


def _short(file: str) -> str:
    return escape(PurePath(file).name)


def _button(key: str, text: str, pressed: bool) -> str:
    state = "true" if pressed else "false"
    return (
        f'<button type="button" data-key="{escape(key)}" aria-pressed="{state}">'
        f"{escape(text)}</button>"
    )


def _step(key: str, text: str, possible: bool) -> str:
    state = "" if possible else " disabled"
    return f'<button type="button" data-key="{key}"{state}>{text}</button>'


# The query and what was found for it


def query(card: Card, path: Path | None, results: str, name: str) -> str:
    """Draws the query, its path to copy, and what was found for it to save.

    Args:
        card: the query.
        path: its file, None where it was uploaded.
        results: what was found, as JSON.
        name: of the file that it is saved to.

    Returns:
        HTML.
    """
    saved = base64.b64encode(results.encode()).decode()
    return f"""
<section aria-label="query" class="cbir-query">
  {_larger(card.key, _image(f"query: {card.file}", card.image))}
  <div><h2 tabindex="-1">{_short(card.file)}</h2>
    {_path(path)}{_frames(card.label)}
    <p><a download="{escape(name)}" href="data:application/json;base64,{saved}">save the hits
    (JSON)</a></p></div>
</section>"""


def section(descriptor: str, hits: list[Hit]) -> str:
    """Draws the images that one descriptor found, under its name."""
    drawn = "".join(_hit(hit) for hit in hits)
    return f"""
<section>
  <h2 style="border-color:{labels.color(descriptor)}">{_name(descriptor)}</h2>
  <ul class="cbir-row">{drawn}</ul>
</section>"""


def _hit(hit: Hit) -> str:
    """An image whose frame tells the class: pressed, it says why; its button searches for it."""
    frame = {True: "same", False: "other", None: ""}[hit.same_class]
    pressed = {True: "true", False: "false"}[hit.selected]
    card = hit.card
    key = escape(card.key)
    about = ", ".join(filter(None, [f"{hit.rank + 1}. {card.file}", card.label]))
    return f"""
<li class="cbir-card {frame}">
  <button type="button" class="cbir-picture" aria-pressed="{pressed}" data-key="{key}"
    title="{escape(card.file)}: why?">{_image(about, card.image)}</button>
  {_names(card)}<span class="cbir-distance">{_number(hit.distance)}</span>
  {hit.histogram}
  <button type="button" class="cbir-like" data-key="{key} like"
    aria-label="more like {escape(card.file)}">more like this</button>
</li>"""


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


def _frames(label: str) -> str:
    """What the frames of the images that were found say, where the query's class is known."""
    if not label:
        return ""
    return f"""<p class="cbir-note"><span class="cbir-frame">{escape(label)}</span>
    <span class="cbir-frame other">another class</span></p>"""


def _larger(key: str, image: str) -> str:
    """A picture that is shown larger when it is pressed."""
    return f"""<button type="button" class="cbir-picture" data-key="{escape(key)}"
    title="larger">{image}</button>"""


def _path(path: Path | None) -> str:
    """A file's path with a button that copies it."""
    if path is None:
        return "<p>uploaded</p>"
    text = escape(str(path))
    return f"""<p class="cbir-path"><code>{text}</code>
    <button type="button" data-copy="{text}">copy path</button></p>"""


def larger(title: str, path: Path | None, picture: Picture) -> str:
    """Draws one picture over the whole page."""
    return f"""
<dialog aria-label="{escape(title)}">
  {_image(title, data_uri(picture))}
  <p>{escape(title)}</p>{_path(path) if path else ""}
  <form method="dialog"><button>close</button></form>
</dialog>"""


# Why it was found


def reasons(
    query: Side,
    found: Side,
    recipe: Recipe,
    average: bool,
    distance: float,
    shares: "pd.Series[float]",
) -> str:
    """Draws why an image was found: colours and maps of both, and what made the distance.

    Args:
        query: the picture that was searched for.
        found: the image that was found.
        recipe: of the maps.
        average: whether all positions count alike, so that there is no map to show.
        distance: between the two.
        shares: {part: share} of the distance.

    Returns:
        HTML.
    """
    sides = (query, found)
    heads = [f'<th scope="col">{side.role}: {_short(side.file)}</th>' for side in sides]
    captions = [escape(query.caption), escape(found.caption) + _path(found.path)]
    images = [_seen(side) for side in sides]
    colors = [histogram(side.look.histogram) for side in sides]
    differ = histogram_distance(query.look.histogram, found.look.histogram)
    rows = [
        _row("", images),
        _row("", captions),
        _row(f"colours<small>differ by {differ:.4f} (L1 / 75)</small>", colors),
    ]
    if not average:
        rows.append(_map_row(sides))
    for m in range(len(query.regions), 0, -1):
        rows.append(_block_row(sides, m, shares))
    return f"""
<section>
  <div class="cbir-line"><h2>Why this one?</h2>
    <button type="button" data-back>back to the images</button></div>
  <h3>What made the distance {_number(distance)}</h3>
  {share_bar(shares)}
  <table>
    <thead><tr><td></td>{"".join(heads)}</tr></thead>
    <tbody>{"".join(rows)}</tbody>
  </table>
  <p>{_explanation(recipe, average)}</p>
</section>"""


def _row(head: str, cells: list[str]) -> str:
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    first = f'<th scope="row">{head}</th>' if head else "<td></td>"
    return f"<tr>{first}{data}</tr>"


def _seen(side: Side) -> str:
    picture = _image(f"{side.role}: {side.file}", data_uri(side.look.picture), side.look.aspect)
    return _larger(f"view {side.role}", picture)


def _map_row(sides: Sequence[Side]) -> str:
    """Eq. 13's map, the same one for all blocks."""
    maps = [side.regions[-1][0] for side in sides]
    largest = max(int(z.max()) for z in maps)
    cells = []
    for side, z in zip(sides, maps):
        share = f"{(z > 0).sum()} of {z.size} positions ({(z > 0).mean():.0%})"
        picture = data_uri(counted_picture(side.look.picture, z, largest))
        cells.append(_image(f"{share} are significant", picture, side.look.aspect) + share)
    scale = ""
    if largest > 1:
        scale = f"<small>channels that agree</small>{color_bar(COUNTS, '0', str(largest))}"
    return _row(f"significant{scale}", cells)


def _block_row(sides: Sequence[Side], m: int, shares: "pd.Series[float]") -> str:
    """What differs by block: its mean activation under the map, its share of the distance."""
    terms = [side.regions[m - 1][1] for side in sides]
    largest = max(float(weighed.max()) for weighed in terms)
    cells = []
    for side, weighed in zip(sides, terms):
        picture = data_uri(weighed_picture(side.look.picture, weighed, largest))
        alt = f"{side.role}: block {m} under the map, at most {_plain(weighed.max())}"
        cells.append(_image(alt, picture, side.look.aspect))
    part = f"w_{m}"
    about = ""
    if part in shares:
        about = f"<small>{_name(part)}: {shares[part]:.1%} of the distance</small>"
    return _row(f"block {m}{about}{color_bar(TERMS, '0', _plain(largest))}", cells)


def _explanation(recipe: Recipe, average: bool) -> str:
    """How the maps are to be read."""
    of_block = "Block m: the block's mean activation"
    if average:
        return f"No neurons are selected: all positions count alike. {of_block} there."
    if recipe["threshold"] == "absolute":
        condition = f"an activation of at least q = {recipe['q']:g}"
    else:
        condition = f"an activation of more than q = {recipe['q']:g} of the image's maximum"
    return (
        f"Significant (Eq. 13): where channels of the last block have {condition}. It is the same "
        f"map for every block. {of_block} times that map, the terms of Eq. 14."
    )


def share_bar(shares: "pd.Series[float]") -> str:
    """Draws the shares {part: share} of a distance as one bar, its pieces labelled."""
    pieces = []
    for part, (color, _) in plots.part_colors(map(str, shares.index)).items():
        share = shares[part]
        text = f"{_name(part)} {share:.0%}" if share > TEXT_FITS else ""
        style = f"width:{share:.2%};background:{color};color:{_ink(color)}"
        pieces.append(f'<li style="{style}" title="{escape(part)}: {share:.1%}">{text}</li>')
    listed = ", ".join(f"{_name(str(part))} {share:.1%}" for part, share in shares.items())
    return f"""
<ul class="cbir-bar" aria-hidden="true">{"".join(pieces)}</ul>
<p class="cbir-parts">{listed}</p>"""


def _ink(color: str) -> str:
    """Black or white, which is read better on a colour (WCAG's contrast)."""
    light = np.array(to_rgb(color))
    linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


# The controls


def settings(chosen: Choices, offered: Offered) -> str:
    """Draws the controls of a search.

    Args:
        chosen: what they say.
        offered: which there are.

    Returns:
        HTML.
    """
    main = [name for name in chosen.descriptors if name in MAIN]
    others = [name for name in chosen.descriptors if name not in MAIN]
    metrics = [("l1", "L1"), ("l2", "L2"), ("cosine", "cosine")]
    radios = [
        _check("radio", "metric", chosen.metric == name, text, name) for name, text in metrics
    ]
    return f"""
<section aria-label="settings">
  <h2>Settings</h2>
  <fieldset><legend>Search by</legend>{_boxes(main, chosen)}
    {_folded(others, chosen)}</fieldset>
  <fieldset><legend>Distance</legend>{"".join(radios)}</fieldset>
  {_slider("k", "k, images found", chosen.k, 1, offered.largest_k, 1)}
  {_neurons(chosen, offered)}
</section>"""


def _boxes(names: Iterable[str], chosen: Choices) -> str:
    boxes = []
    for name in names:
        text = labels.plain_name(name)
        boxes.append(_check("checkbox", f"by {name}", chosen.descriptors[name], text))
    return "".join(boxes)


def _folded(names: list[str], chosen: Choices) -> str:
    """The layers, the blocks and all else that can be searched by."""
    if not names:
        return ""
    return (
        f'<details id="others"><summary>layers, others</summary>{_boxes(names, chosen)}</details>'
    )


def _neurons(chosen: Choices, offered: Offered) -> str:
    """What is made of the blocks, as far as the store can follow."""
    controls = ""
    if len(offered.recipes) > 1:
        options = "".join(_option(name, name == chosen.recipe) for name in offered.recipes)
        controls += f'<label>recipe <select data-key="recipe">{options}</select></label>'
    if offered.largest_q:
        slider = "q, threshold", chosen.q, 0, offered.largest_q, 0.05
        controls += _slider("q", *slider, disabled=chosen.average)
    if offered.average:
        text = "average all positions, without a selection"
        controls += _check("checkbox", "average", chosen.average, text)
    if offered.unit:
        controls += _check("checkbox", "unit", chosen.unit, "every layer at unit length")
    if offered.fixed:
        controls += f'<p class="cbir-note">q cannot be moved: {escape(offered.fixed)}.</p>'
    return f"<fieldset><legend>Significant neurons</legend>{controls}</fieldset>"


def _option(name: str, selected: bool) -> str:
    state = " selected" if selected else ""
    text = escape(name.replace("_", " "))
    return f'<option value="{escape(name)}"{state}>{text}</option>'


def _check(kind: str, key: str, checked: bool, text: str, value: str = "on") -> str:
    """A checkbox, or one of several radio buttons."""
    state = " checked" if checked else ""
    return (
        f'<label><input type="{kind}" name="{escape(key)}" data-key="{escape(key)}" '
        f'value="{value}"{state}> {escape(text)}</label>'
    )


def _slider(
    key: str,
    text: str,
    value: float,
    low: float,
    high: float,
    step: float,
    disabled: bool = False,
) -> str:
    state = " disabled" if disabled else ""
    return f"""
<label class="cbir-slider">{text} <input type="range" data-key="{key}" min="{low:g}"
    max="{high:g}" step="{step:g}" value="{value:g}"{state}> <output>{value:g}</output></label>"""


# Words


def message(text: object) -> str:
    """Draws a message above the results; nothing where there is none."""
    return f'<p class="cbir-message">{escape(str(text))}</p>' if text else ""


def _name(descriptor: str) -> str:
    return escape(labels.plain_name(descriptor))


def _plain(value: float) -> str:
    """An activation with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _number(distance: float) -> str:
    """A distance with four digits; float32's rounding between an image and itself is 0."""
    return f"{round(distance, 6):.4g}"
