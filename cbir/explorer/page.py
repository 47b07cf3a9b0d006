"""The explorer as a page of widgets, for JupyterLab and Voila.

On one side a picture, on the other what each descriptor finds for it, and why.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from ..color import color_histogram
from ..common import Metric
from ..datasets import choose_queries
from ..decoding import UnreadableImage, open_image
from ..descriptors import Recipe
from ..images import ImageSet, open_first
from ..labels import plain_name
from ..store import Store
from . import drawing
from .engine import Explorer, Found, Look

try:
    import anywidget
    import ipywidgets
except ImportError as error:
    raise ImportError(
        f"the explorer's page needs {error.name}: pip install 'cbir[explorer]'"
    ) from error

UPLOAD = 10_000_000  # bytes of a picture; Jupyter's servers close a connection that sends more
PIXELS = 50_000_000  # of an upload: decoding takes up to 20 bytes each
THUMBNAIL = 224  # pixels of a picture on the page
CHOICES = 1000  # names offered; any other can be typed
WIDE = {
    "style": {"description_width": "5rem"},
    "layout": {"width": "19rem", "max_width": "100%"},
}

ASSETS = Path(__file__).parent / "assets"


class Upload(anywidget.AnyWidget):
    """A button, and a place to drop a file on.

    It sends {"name", "size"} and the bytes, or no bytes where they are more than `limit`.
    """

    _esm = ASSETS / "upload.js"
    limit = traitlets.Int(UPLOAD).tag(sync=True)


class Clickable(anywidget.AnyWidget):
    """HTML whose elements with a data-key send {"key": ..} when they are clicked."""

    _esm = ASSETS / "clickable.js"
    _css = ASSETS / "page.css"
    html = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)  # whether screen readers tell what appears here


class Page(ipywidgets.VBox):
    """The explorer on a page.

    Args:
        explorer: what is asked.
        pictures: an `ImageSet` or a store to choose query images from.
        descriptors: shown first.
        recipe: a name of `explorer.recipes`, shown first; by default the store's recipe.
        metric: shown first.
        k: images found for a picture, shown first.

    Raises:
        ValueError: a descriptor is unknown.
    """

    def __init__(
        self,
        explorer: Explorer,
        pictures: ImageSet | Store,
        descriptors: Sequence[str] = ("h", "eta_conv", "eta"),
        recipe: str | None = None,
        metric: Metric = "l1",
        k: int = 5,
    ) -> None:
        self.explorer = explorer
        self.pictures = pictures
        self.thumbnail = lru_cache(4096)(self._thumbnail)
        descriptors = explorer.offered(descriptors)
        controls = [
            self._query_controls(),
            self._search_controls(descriptors, metric, k),
            self._significance_controls(recipe),
        ]
        self.message = Clickable(live=True)
        self.results = Clickable()
        self.reasons = Clickable()
        # What is shown: the query, what was found for it, by which recipe and metric.
        self.look: Look | None = None
        self.file = ""
        self.label = ""
        self.found: Found = {}
        self.searched: Recipe = self.recipe.value
        self.measured = metric
        self.selected = (descriptors[-1], 0) if descriptors else ("", 0)
        main = _box([self.results, self.reasons], "cbir-main")
        super().__init__([_box(controls, "cbir-controls"), self.message, main])
        self.add_class("cbir-page")
        self._quiet = False
        self._rng = np.random.default_rng(0)
        self._connect()
        self._guarded(self._show_first)(range(len(pictures)))

    # The controls

    def _query_controls(self) -> ipywidgets.Box:
        self.query = Clickable()
        self.upload = Upload()
        self.name = ipywidgets.Combobox(
            options=list(self.pictures.files[:CHOICES]),
            placeholder="name of an image",
            description="or choose",
            continuous_update=False,
            **WIDE,
        )
        self.another = ipywidgets.Button(
            description="or draw one", tooltip="An image at random", layout={"width": "8rem"}
        )
        column = _column([self.upload, self.name, self.another], "query")
        return _box([self.query, column], "cbir-query")

    def _search_controls(
        self, descriptors: Sequence[str], metric: Metric, k: int
    ) -> ipywidgets.VBox:
        offered = dict.fromkeys([*self.explorer.descriptors, *descriptors])
        self.chosen = {name: _toggle(name, name in descriptors) for name in offered}
        self.metric = ipywidgets.ToggleButtons(
            options={"L1": "l1", "L2": "l2", "cosine": "cosine"},
            value=metric,
            tooltips=["L1, as in the paper"],
            style={"button_width": "4.5rem"},
        )
        described = int(self.explorer.store.described.sum())
        largest = max(1, min(max(k, 20), described))
        self.k = ipywidgets.IntSlider(
            value=min(k, largest), min=1, max=largest, description="images k", **WIDE
        )
        toggles = _box(list(self.chosen.values()), "cbir-toggles")
        return _column([toggles, self.metric, self.k], "search")

    def _significance_controls(self, recipe: str | None) -> ipywidgets.VBox:
        recipes = self.explorer.recipes
        self.recipe = ipywidgets.Dropdown(
            options={name.replace("_", " "): known for name, known in recipes.items()},
            value=recipes[recipe] if recipe else self.explorer.store.recipe,
            description="recipe",
            **WIDE,
        )
        self.q = ipywidgets.FloatSlider(
            value=self.recipe.value["q"],
            min=0,
            max=_largest_q(self.recipe.value),
            step=0.05,
            readout_format=".2f",
            description="threshold q",
            **WIDE,
        )
        self.maps = ipywidgets.ToggleButtons(
            options=["significant", "weighed"],
            tooltips=[
                "Eq. 13: how many channels find a position significant",
                "Eq. 14: the mean activation of the block there, times that number",
            ],
            style={"button_width": "7rem"},
        )
        return _column([self.recipe, self.q, self.maps], "significance")

    def _connect(self) -> None:
        """What every control does."""
        self.upload.on_msg(self._guarded(self._uploaded))
        self.another.on_click(self._guarded(self._drawn))
        self.results.on_msg(self._guarded(self._clicked))
        self.name.observe(self._guarded(self._named), "value")
        self.recipe.observe(self._guarded(self._other_recipe), "value")
        for widget in [*self.chosen.values(), self.q, self.metric, self.k]:
            widget.observe(self._guarded(lambda _change: self.draw()), "value")
        self.maps.observe(self._guarded(lambda _change: self._draw_reasons()), "value")

    # What happens

    def _guarded(self, action: Callable[..., None]) -> Callable[..., None]:
        """An action whose failure is said on the page, which goes on with what it showed."""

        def guarded(*arguments: object) -> None:
            if self._quiet:
                return
            self.say("")
            try:
                action(*arguments)
            except (ValueError, OSError) as error:
                self.say(error)
            except Exception as error:
                self.say(
                    f"{type(error).__name__}: {error}. This is a fault of the page, not yours; "
                    "it goes on with what it showed."
                )
                raise

        return guarded

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """What is set here is no action of the user's."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def say(self, text: object) -> None:
        """Shows a message above the results; "" for none."""
        self.message.html = drawing.message(text)

    def show(self, row: int) -> None:
        """Makes an image of `pictures` the query.

        Args:
            row: its row.

        Raises:
            ValueError: the image cannot be read.
        """
        file = self.pictures.files[row]
        try:
            look = self.explorer.look(self.pictures.path(row))
        except UnreadableImage as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        self._search_for(look, file, self.pictures.labels[row])

    def _show_first(self, rows: Iterable[int]) -> None:
        """Makes the first image that can be read the query."""
        rows = [int(row) for row in rows]
        if isinstance(self.pictures, Store):
            described = self.pictures.described
            rows = [row for row in rows if described[row]]
        row, _ = open_first(self.pictures, rows)
        self.show(row)

    def _named(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        try:
            self.show(choose_queries(self.pictures, names=[change["new"]])[0])
        finally:
            with self._silently():
                self.name.value = ""  # else only this name would be offered next

    def _drawn(self, _button: ipywidgets.Button) -> None:
        self._show_first(self._rng.permutation(len(self.pictures)))

    def _uploaded(self, _widget: Upload, content: dict[str, Any], buffers: Sequence[bytes]) -> None:
        name = str(content.get("name", ""))[:100]
        size = int(content.get("size", 0))
        if "failed" in content:
            raise ValueError(f"the browser could not read {name!r}: try again")
        if not buffers or len(buffers[0]) > UPLOAD:
            raise ValueError(
                f"{name!r} has {size / 1e6:.1f} MB, more than {UPLOAD / 1e6:.0f} MB: "
                "make it smaller and try again"
            )
        image = _decoded(buffers[0], name)
        self._search_for(self.explorer.look(image), name, "")

    def _clicked(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        descriptor, _, rank = str(content.get("key", "")).partition(" ")
        if descriptor in self.found and 0 <= int(rank) < len(self.found[descriptor][0]):
            self.selected = (descriptor, int(rank))
            self._draw_results()
            self._draw_reasons()

    def _other_recipe(self, change: dict[str, Any]) -> None:
        recipe = change["new"]
        with self._silently():
            # Neither the old maximum cuts off the new value nor the new one the old.
            self.q.max = max(self.q.max, recipe["q"])
            self.q.value = recipe["q"]
            self.q.max = _largest_q(recipe)
        self.draw()

    # What is shown

    @property
    def asked(self) -> Recipe:
        """The recipe of the regions, and of the search where the store can follow."""
        return self.recipe.value | {"q": self.q.value}

    def draw(self) -> None:
        """Searches again, and shows all of it."""
        if self.look is not None:
            self._search_for(self.look, self.file, self.label)

    def _search_for(self, look: Look, file: str, label: str) -> None:
        """Makes a picture the query; the page changes only where the search went well."""
        descriptors = [name for name, button in self.chosen.items() if button.value]
        if not descriptors:
            raise ValueError("no descriptor is chosen: press one of the buttons")
        recipe = self.asked if self.explorer.live else self.recipe.value
        found = self.explorer.find(look, descriptors, recipe, self.metric.value, self.k.value)
        self.look = look
        self.file = file
        self.label = label
        self.found = found
        self.searched = recipe
        self.measured = self.metric.value
        descriptor, rank = self.selected
        if descriptor not in found or rank >= self.k.value:
            self.selected = (descriptors[-1], 0)
        self.query.html = drawing.query(look, file)
        self._draw_results()
        self._draw_reasons()

    def _draw_results(self) -> None:
        sections = []
        for descriptor, (rows, distances) in self.found.items():
            ranked = enumerate(zip(rows, distances))
            cards = [self._card(descriptor, rank, int(row), x) for rank, (row, x) in ranked]
            sections.append(drawing.section(descriptor, cards))
        note = "" if self.searched == self.asked else drawing.fixed_q(self.searched)
        self.results.html = note + "".join(sections)

    def _card(self, descriptor: str, rank: int, row: int, distance: float) -> drawing.Card:
        label = self.explorer.store.labels[row]
        try:
            image, histogram = self.thumbnail(row)
        except UnreadableImage:  # gone since: grey, until it is back
            image = drawing.data_uri(_grey())
            histogram = ""
        return drawing.Card(
            descriptor=descriptor,
            rank=rank,
            file=self.explorer.store.files[row],
            label=label,
            distance=distance,
            same_class=label == self.label if label and self.label else None,
            selected=(descriptor, rank) == self.selected,
            image=image,
            histogram=histogram,
        )

    def _thumbnail(self, row: int) -> tuple[str, str]:
        """(picture, histogram) of a row of the store, as HTML. Raises UnreadableImage."""
        image = open_image(self.explorer.store.path(row))
        histogram = drawing.histogram(color_histogram(np.asarray(image)))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return drawing.data_uri(np.asarray(image)), histogram

    def _draw_reasons(self) -> None:
        descriptor, rank = self.selected
        if self.look is None or descriptor not in self.found:
            return
        rows, distances = self.found[descriptor]
        row = int(rows[rank])
        file = self.explorer.store.files[row]
        try:
            look = self.explorer.look(row)
        except UnreadableImage as error:
            self.reasons.html = ""
            raise ValueError(f"{file} cannot be read any more: {error}") from error
        name = self.explorer.store.labels[row] or file
        caption = f"{name}, {plain_name(descriptor)}, rank {rank + 1}"
        self.reasons.html = drawing.reasons(
            self._side("query", self.label or self.file, self.look),
            self._side("found", caption, look),
            self.maps.value,
            self.asked,
            distances[rank],
            self.explorer.parts(self.look, row, descriptor, self.searched, self.measured),
        )

    def _side(self, role: str, caption: str, look: Look) -> drawing.Side:
        return drawing.Side(role, caption, look, self.explorer.regions(look, self.asked))


def _box(children: Sequence[ipywidgets.Widget], name: str) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(name)
    return box


def _column(children: Sequence[ipywidgets.Widget], title: str) -> ipywidgets.VBox:
    box = ipywidgets.VBox([ipywidgets.HTML(f"<b>{title}</b>"), *children])
    box.add_class("cbir-column")
    return box


def _toggle(descriptor: str, pressed: bool) -> ipywidgets.ToggleButton:
    name = plain_name(descriptor)
    return ipywidgets.ToggleButton(
        value=pressed,
        description=name,
        tooltip=f"Search by {name}",
        layout={"width": "auto", "min_width": "2.6rem"},
    )


def _largest_q(recipe: Recipe) -> float:
    """Where the slider of q ends."""
    return 1 if recipe["threshold"] == "relative" else max(5, 2 * recipe["q"])


def _decoded(data: bytes, name: str) -> Image.Image:
    """An upload as an image. Its own name never becomes a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(data)
        try:
            return open_image(path, PIXELS)
        except UnreadableImage as error:
            raise ValueError(f"{name!r} cannot be read: {error}. Try a JPEG or PNG file") from error


def _grey() -> NDArray[np.uint8]:
    return np.full((8, 8, 3), 200, np.uint8)
