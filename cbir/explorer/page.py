"""The explorer as a page of widgets, for JupyterLab and Voila: a picture on one side, on the other what each descriptor finds for it, and why."""

import base64
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from .. import figures, labels
from ..color import color_histogram, histogram_distance
from ..common import Metric
from ..datasets import choose_queries
from ..decoding import UnreadableImage, open_image
from ..descriptors import Recipe
from ..images import ImageSet, open_first
from ..labels import NAMES
from ..store import Store
from .engine import Explorer, Look

Found = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
UPLOAD = 10_000_000  # bytes of a picture; Jupyter's servers close a connection that sends more than 10 MiB at once
PIXELS = 50_000_000  # of an upload: decoding takes up to 20 bytes each
SIDE = 224           # pixels of a picture on the page
CHOICES = 1000       # names offered; any other can be typed

ASSETS = Path(__file__).parent / "assets"


def in_browser() -> bool:
    """Whether this kernel was started by JupyterLab or Voila, for somebody to look at, and not headless (papermill, nbconvert, nbval)."""
    return "JPY_SESSION_NAME" in os.environ or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


class Upload(anywidget.AnyWidget):
    """A button, and a place to drop a file on. Sends {"name", "size"} and the bytes; without the bytes where they are more than `limit`."""

    _esm = ASSETS / "upload.js"
    limit = traitlets.Int(UPLOAD).tag(sync=True)


class Clickable(anywidget.AnyWidget):
    """HTML, whose elements with a data-key tell when they are clicked: {"key": ..}."""

    _esm = ASSETS / "clickable.js"
    _css = ASSETS / "page.css"
    html = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)  # whether screen readers tell what appears here


class Page(ipywidgets.VBox):
    """The explorer on a page.

    explorer: an `Explorer`. pictures: an `ImageSet` or a store to choose query images from. descriptors, recipe (a name of
    `explorer.recipes`), metric, k: what is shown first.
    """

    def __init__(self, explorer: Explorer, pictures: ImageSet | Store, descriptors: Sequence[str] = ("h", "eta_conv", "eta"), recipe: str | None = None,
                 metric: Metric = "l1", k: int = 5) -> None:
        self.explorer, self.pictures = explorer, pictures
        self.thumbnail = lru_cache(4096)(self._thumbnail)
        self.message, self.query, self.results, self.reasons = Clickable(live=True), Clickable(), Clickable(), Clickable()
        names = [*pictures.files[:CHOICES]]
        wide = {"style": {"description_width": "5rem"}, "layout": {"width": "19rem", "max_width": "100%"}}
        self.upload = Upload()
        self.name = ipywidgets.Combobox(options=names, placeholder="name of an image", description="or choose", continuous_update=False, **wide)
        self.another = ipywidgets.Button(description="or draw one", tooltip="An image at random", layout={"width": "8rem"})
        descriptors = explorer.offered(descriptors)
        self.chosen = {d: ipywidgets.ToggleButton(value=d in descriptors, description=_plain(d), tooltip=f"Search by {_plain(d)}",
                                                  layout={"width": "auto", "min_width": "2.6rem"})
                       for d in dict.fromkeys([*explorer.descriptors, *descriptors])}
        named = {name.replace("_", " "): what for name, what in explorer.recipes.items()}
        self.recipe = ipywidgets.Dropdown(options=named, value=explorer.recipes[recipe] if recipe else explorer.store.recipe, description="recipe", **wide)
        self.q = ipywidgets.FloatSlider(value=self.recipe.value["q"], min=0, max=_most(self.recipe.value), step=0.05, readout_format=".2f", description="threshold q", **wide)
        self.metric = ipywidgets.ToggleButtons(options={"L1": "l1", "L2": "l2", "cosine": "cosine"}, value=metric, tooltips=["L1, as in the paper"],
                                               style={"button_width": "4.5rem"})
        most = max(1, min(max(k, 20), int(explorer.store.described.sum())))
        self.k = ipywidgets.IntSlider(value=min(k, most), min=1, max=most, description="images k", **wide)
        self.heat = ipywidgets.ToggleButtons(options={"significant": 0, "weighed": 1}, tooltips=[
            "Eq. 13: how many channels find a place significant", "Eq. 14: the mean activation of the block there, times that number"],
            style={"button_width": "7rem"})
        self.selected = (descriptors[-1], 0) if descriptors else ("", 0)
        self.look: Look | None = None
        self.file = self.label = ""
        self.found: Found = {}
        self.searched: Recipe = self.recipe.value
        self.measured = metric
        super().__init__([
            _box([_box([self.query, _column([self.upload, self.name, self.another], "query")], "cbir-query"),
                  _column([_box([*self.chosen.values()], "cbir-toggles"), self.metric, self.k], "search"),
                  _column([self.recipe, self.q, self.heat], "significance")], "cbir-controls"),
            self.message, _box([self.results, self.reasons], "cbir-main")])
        self.add_class("cbir-page")
        self._quiet = False
        self.upload.on_msg(self._guarded(self._uploaded))
        self.name.observe(self._guarded(self._named), "value")
        self.another.on_click(self._guarded(self._drawn))
        self.results.on_msg(self._guarded(self._clicked))
        self.recipe.observe(self._guarded(self._other_recipe), "value")
        for widget in [*self.chosen.values(), self.q, self.metric, self.k]:
            widget.observe(self._guarded(lambda _change: self.draw()), "value")
        self.heat.observe(self._guarded(lambda _change: self._draw_reasons()), "value")
        self._rng = np.random.default_rng(0)
        self._guarded(self._first)(range(len(pictures)))

    # What happens

    def _guarded(self, action: Callable[..., None]) -> Callable[..., None]:
        """An action whose failure is said on the page, which goes on with what it showed."""
        def guarded(*given: object) -> None:
            if self._quiet:
                return
            self.say("")
            try:
                action(*given)
            except (ValueError, OSError) as error:
                self.say(error)
            except Exception as error:
                self.say(f"{type(error).__name__}: {error}. This is a fault of the page, not yours; it goes on with what it showed.")
                raise
        return guarded

    def say(self, text: object) -> None:
        """A message above the results; "" for none."""
        self.message.html = f'<p class="cbir-message">{escape(str(text))}</p>' if text else ""

    def show(self, row: int) -> None:
        """Makes an image of `pictures` the query."""
        try:
            look = self.explorer.look(self.pictures.path(row))
        except UnreadableImage as error:
            raise ValueError(f"{self.pictures.files[row]} cannot be read: {error}") from error
        self._ask(look, self.pictures.files[row], self.pictures.labels[row])

    def _first(self, rows: Iterable[int]) -> None:
        """Makes the first of some images that can be read the query."""
        described = getattr(self.pictures, "described", None)
        row, _ = open_first(self.pictures, [int(row) for row in rows if described is None or described[row]])
        self.show(row)

    def _named(self, change: dict[str, Any]) -> None:
        if change["new"]:
            try:
                self.show(choose_queries(self.pictures, names=[change["new"]])[0])
            finally:
                with self._silently():
                    self.name.value = ""  # else only this name would be offered next

    def _drawn(self, _button: ipywidgets.Button) -> None:
        self._first(self._rng.permutation(len(self.pictures)))

    def _uploaded(self, _widget: Upload, content: dict[str, Any], buffers: Sequence[bytes]) -> None:
        name, size = str(content.get("name", ""))[:100], int(content.get("size", 0))
        if "failed" in content:
            raise ValueError(f"the browser could not read {name!r}: try again")
        if not buffers or len(buffers[0]) > UPLOAD:
            raise ValueError(f"{name!r} has {size / 1e6:.1f} MB, more than {UPLOAD / 1e6:.0f} MB: make it smaller and try again")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture")  # never a name that came with it
            path.write_bytes(buffers[0])
            try:
                image = open_image(path, PIXELS)
            except UnreadableImage as error:
                raise ValueError(f"{name!r} cannot be read: {error}. Try a JPEG or PNG file") from error
        self._ask(self.explorer.look(image), name, "")

    def _clicked(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        descriptor, _, rank = str(content.get("key", "")).partition(" ")
        if descriptor in self.found and 0 <= int(rank) < len(self.found[descriptor][0]):
            self.selected = (descriptor, int(rank))
            self._draw_results()
            self._draw_reasons()

    def _other_recipe(self, change: dict[str, Any]) -> None:
        with self._silently():
            self.q.max = max(self.q.max, change["new"]["q"])  # the old maximum must not cut off the new value, nor the new one the old
            self.q.value = change["new"]["q"]
            self.q.max = _most(change["new"])
        self.draw()

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """What is set here is no action of the user's."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    # What is shown

    @property
    def asked(self) -> Recipe:
        """The recipe of the regions, and of the search where the store can follow."""
        return self.recipe.value | {"q": self.q.value}

    def draw(self) -> None:
        """Searches, and shows all of it."""
        if self.look is not None:
            self._ask(self.look, self.file, self.label)

    def _ask(self, look: Look, file: str, label: str) -> None:
        """Searches for a picture; the page changes only when that went well, and then all of it."""
        descriptors = [d for d, button in self.chosen.items() if button.value]
        if not descriptors:
            raise ValueError("no descriptor is chosen: press one of the buttons")
        searched = self.asked if self.explorer.live else self.recipe.value
        found = self.explorer.find(look, descriptors, searched, self.metric.value, self.k.value)
        self.look, self.file, self.label, self.found, self.searched, self.measured = look, file, label, found, searched, self.metric.value
        if self.selected[0] not in found or self.selected[1] >= self.k.value:
            self.selected = (descriptors[-1], 0)
        self.query.html = f'<figure><img alt="the query" src="{_uri(look.picture)}"><figcaption>{escape(file)}</figcaption></figure>'
        self._draw_results()
        self._draw_reasons()

    def _draw_results(self) -> None:
        sections = [self._section(d, *hits) for d, hits in self.found.items()]
        note = "" if self.searched == self.asked else (
            f'<p class="cbir-note">The store was described with q = {self.searched["q"]:g}: moving q changes the regions, not what is found.</p>')
        self.results.html = note + "".join(sections)

    def _section(self, d: str, rows: NDArray[np.int64], distances: NDArray[np.float64]) -> str:
        cards = "".join(self._card(d, rank, int(row), x) for rank, (row, x) in enumerate(zip(rows, distances)))
        return f'<section><h2 style="border-color:{labels.color(d)}">{_name(d)}</h2><div class="cbir-row">{cards}</div></section>'

    def _card(self, d: str, rank: int, row: int, distance: float) -> str:
        try:
            picture, histogram = self.thumbnail(row)
        except UnreadableImage:  # gone since: grey, until it is back
            picture, histogram = _uri(np.full((8, 8, 3), 200, np.uint8)), ""
        label = self.explorer.store.labels[row]
        kind = "" if not (label and self.label) else "same" if label == self.label else "other"
        pressed = str((d, rank) == self.selected).lower()
        return (f'<button type="button" class="cbir-card {kind}" data-key="{escape(d)} {rank}" aria-pressed="{pressed}" '
                f'title="{escape(self.explorer.store.files[row])}: why?"><img alt="{escape(f"{rank + 1}. {label}")}" src="{picture}">'
                f'<span>{escape(label)}</span><span>{_number(distance)}</span>{histogram}</button>')

    def _thumbnail(self, row: int) -> tuple[str, str]:
        """(data URI of the picture, its histogram as SVG) of a row of the store. Raises UnreadableImage."""
        image = open_image(self.explorer.store.path(row))
        histogram = _svg(color_histogram(np.asarray(image)))
        image.thumbnail((SIDE, SIDE))
        return _uri(np.asarray(image)), histogram

    def _draw_reasons(self) -> None:
        d, rank = self.selected
        if self.look is None or d not in self.found:
            return
        rows, distances = self.found[d]
        row, store = int(rows[rank]), self.explorer.store
        query, regions = self.look, self.explorer.regions(self.look, self.asked)
        try:
            found = self.explorer.look(row)
        except UnreadableImage as error:
            self.reasons.html = ""
            raise ValueError(f"{store.files[row]} cannot be read any more: {error}") from error
        theirs = self.explorer.regions(found, self.asked)
        blocks = "".join(f'<tr><th scope="row">block {m}</th>{_heat(query.picture, mine, self.heat.value)}{_heat(found.picture, other, self.heat.value)}</tr>'
                         for m, mine, other in reversed(list(zip(range(1, len(regions) + 1), regions, theirs))))
        title = f'{escape(store.labels[row] or store.files[row])}, {_name(d)}, rank {rank + 1}'
        self.reasons.html = (
            f'<section><h2>Why this one?</h2><table><thead><tr><td></td><th scope="col">query<br>{escape(self.label or self.file)}</th>'
            f'<th scope="col">found<br>{title}</th></tr></thead><tbody>'
            f'<tr><td></td><td><img alt="query" src="{_uri(query.picture)}"></td><td><img alt="found" src="{_uri(found.picture)}"></td></tr>'
            f'<tr><th scope="row">colours</th><td>{_svg(query.histogram)}</td><td>{_svg(found.histogram)}</td></tr>{blocks}</tbody></table>'
            f'<p>{self._explained()}</p>'
            f'<h3>What made the distance {_number(distances[rank])}</h3>{_bar(self.explorer.parts(query, row, d, self.searched, self.measured))}'
            f'<p>Colour-histogram distance (L1 / 75): {histogram_distance(query.histogram, found.histogram):.4f}</p></section>')

    def _explained(self) -> str:
        how = "at least" if self.asked["threshold"] == "absolute" else "more than"
        of = "" if self.asked["threshold"] == "absolute" else " of the image's maximum"
        what = ("Colours stay where a neuron of the last block is significant" if not self.heat.value
                else "Bright is where the block's mean activation weighs most")
        return f"{what} (activation {how} q = {self.asked['q']:g}{of}); brighter where more channels agree."


def _box(children: Sequence[ipywidgets.Widget], name: str) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(name)
    return box


def _column(children: Sequence[ipywidgets.Widget], title: str) -> ipywidgets.VBox:
    box = ipywidgets.VBox([ipywidgets.HTML(f"<b>{title}</b>"), *children])
    box.add_class("cbir-column")
    return box


def _most(recipe: Recipe) -> float:
    """Where the slider of q ends."""
    return 1 if recipe["threshold"] == "relative" else max(5, 2 * recipe["q"])


def _plain(d: str) -> str:
    """A descriptor's name: of parts, w_1, with the index below."""
    name, _, index = d.partition("_")
    return NAMES.get(d) or (name + index.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")) if index.isdigit() else d)


def _name(d: str) -> str:
    return escape(_plain(d))


def _number(distance: float) -> str:
    """A distance with four digits; what is float32's rounding between an image and itself is 0."""
    return f"{round(distance, 6):.4g}"


def _uri(pixels: NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _svg(histogram: NDArray[np.float64]) -> str:
    """A colour histogram (75,): R, G and B side by side; bars end at 0.3, as in the paper."""
    heights = np.minimum(histogram, 0.3) / 0.3 * 20
    paths = []
    for c, color in enumerate(figures.CHANNELS):
        steps = "".join(f"V{20 - h:.1f}h1" for h in heights[25 * c:25 * c + 25])
        paths.append(f'<path d="M{27 * c} 20{steps}V20z" fill="{color}"/>')
    return f'<svg viewBox="0 0 79 20" preserveAspectRatio="none" role="img" aria-label="histogram of red, green and blue">{"".join(paths)}</svg>'


def _heat(picture: NDArray[np.uint8], region: tuple[NDArray[np.int32], NDArray[np.float32]], kind: int) -> str:
    """A block's region over a picture, as a cell. kind 0: grey where nothing is significant, tinted by the count z_m; 1: by what Eq. 14 weighs."""
    z = region[kind].astype(float)
    rows, cols = (np.arange(side) * cells // side for side, cells in zip(picture.shape[:2], z.shape))
    z = z[rows][:, cols]
    gray = np.repeat(picture.mean(axis=2, keepdims=True) * 0.35 + 110, 3, axis=2)
    tint = 255 * colormaps["inferno"](z / (z.max() or 1))[..., :3]
    strength = (z / (z.max() or 1))[..., None]
    opacity = 0.8 * np.sqrt(strength) if kind else 0.7 * strength * (region[0].max() > 1)
    out = np.where((z > 0)[..., None] & (not kind), picture, gray) * (1 - opacity) + tint * opacity
    share = (region[0] > 0).mean()
    return f'<td><img alt="{share:.0%} significant" title="{share:.0%} significant" src="{_uri(out.astype(np.uint8))}"></td>'


def _bar(shares: "pd.Series[float]") -> str:
    """Shares of a distance as one bar, its pieces labelled: layers in blues, blocks in oranges, later ones darker."""
    pieces = []
    for letter, palette in (("y", "Blues"), ("w", "Oranges"), ("", "Greys")):
        parts = [name for name in map(str, shares.index) if (re.fullmatch(rf"{letter}_\d+", name) if letter else not re.fullmatch(r"[wy]_\d+", name))]
        for n, part in enumerate(parts, start=1):
            r, g, b, _ = colormaps[palette](0.25 + 0.6 * n / len(parts), bytes=True)
            text = f"{_name(part)} {shares[part]:.0%}"
            pieces.append(f'<li style="width:{100 * shares[part]:.2f}%;background:rgb({r},{g},{b});color:{"#fff" if n / len(parts) > 0.6 else "#111"}" '
                          f'title="{escape(part)}: {shares[part]:.1%}">{text if shares[part] > 0.08 else ""}</li>')
    listed = ", ".join(f"{_name(str(part))} {share:.1%}" for part, share in shares.items())
    return f'<ul class="cbir-bar" aria-hidden="true">{"".join(pieces)}</ul><p class="cbir-parts">{listed}</p>'
