"""The explorer as a page of widgets, for JupyterLab and Voila.

It begins with the images to choose from. For the one that is picked, or uploaded, it shows what
each descriptor finds, and why; from there any image that was found can be searched for.
"""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import traitlets
from PIL import Image

from ..color import color_histogram
from ..common import METRICS, Metric, did_you_mean
from ..descriptors import Recipe
from ..explorer.engine import AVERAGED, Answers, Explorer, Look
from ..images import Images, ImageSet, UnreadableImage, open_image
from ..names import plain_name
from ..store import Store
from . import drawing

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
LARGE = 1200  # pixels of one that is shown larger
SHOWN = 48  # images to choose from at a time
MOST = 100  # images found for a picture

ASSETS = Path(__file__).parent / "assets"
GREY = drawing.data_uri(np.full((8, 8, 3), 200, np.uint8))  # an image that cannot be read


class Upload(anywidget.AnyWidget):
    """A button, and a place to drop a file on.

    It sends {"name", "size"} and the bytes, or no bytes where they are more than `limit`.
    """

    _esm = ASSETS / "upload.js"
    limit = traitlets.Int(UPLOAD).tag(sync=True)


class Clickable(anywidget.AnyWidget):
    """HTML whose elements with a data-key send {"key", "value"} when they are used."""

    _esm = ASSETS / "clickable.js"
    _css = ASSETS / "page.css"
    html = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)  # whether screen readers tell what appears here
    busy = traitlets.Bool(False).tag(sync=True)  # whether the page shows that it works
    revealed = traitlets.Int(0).tag(sync=True)  # counts how often it is brought into view

    def reveal(self) -> None:
        """Brings this part of the page into view."""
        self.revealed += 1


class Query(NamedTuple):
    """What is searched for.

    Attributes:
        look: its descriptors.
        file: its name.
        label: its class, "" for none.
        path: its file, None where it was uploaded.
        row: its row of the store, None where it is not there.
        image: a JPEG's worth of it, at most `LARGE` pixels wide and high.
    """

    look: Look
    file: str
    label: str
    path: Path | None
    row: int | None
    image: Image.Image


class Page(ipywidgets.VBox):
    """The explorer on a page.

    Args:
        explorer: what is asked.
        pictures: an `ImageSet` or a store to choose query images from, beside the store's own.
        descriptors: shown first.
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
        metric: Metric = "l1",
        k: int = 5,
    ) -> None:
        self.explorer = explorer
        self.thumbnail = lru_cache(4096)(_thumbnail)
        self.sources: dict[str, Images] = {"database": explorer.store}
        if getattr(pictures, "location", "") != explorer.store.location:
            self.sources = {"queries": pictures} | self.sources
        self.recipes = self._offered_recipes()
        self.chosen = self._first_choices(descriptors, metric, k)
        # What is shown: the images to choose from, the query, what was found for it.
        self.source = next(iter(self.sources))
        self.rows = _by_turns(self.sources[self.source])
        self.first = 0
        self.asked_for: Query | None = None
        self.found: Answers = {}
        self.found_by = self.chosen
        self.selected = ("", 0)
        self.head = Clickable()
        self.upload = Upload()
        self.message = Clickable(live=True)
        self.grid = Clickable()
        self.query = Clickable()
        self.results = Clickable()
        self.reasons = Clickable()
        self.settings = Clickable()
        self.larger = Clickable()
        self.main = _box([self.query, self.results, self.reasons, self.settings], "cbir-main")
        top = _box([self.head, self.upload], "cbir-top")
        super().__init__([top, self.message, self.grid, self.main, self.larger])
        self.add_class("cbir-page")
        self._connect()
        root = explorer.store.root
        self.head.html = drawing.head(
            f"{len(explorer.store):,} images of {'/'.join(root.parts[-2:])}"
        )
        self.settings.html = drawing.settings(self.chosen, self._offered())
        self._show_grid()

    # The controls

    def _offered_recipes(self) -> dict[str, Recipe]:
        """The recipes to choose from; where unit length is a control, not those that it makes."""
        recipes = {}
        for name, recipe in self.explorer.recipes.items():
            unbalanced = recipe | Recipe(balance="none")
            made = recipe != unbalanced and unbalanced in self.explorer.recipes.values()
            if self.explorer.can(recipe) and not (made and self._has_unit()):
                recipes[name] = recipe
        return recipes

    def _has_unit(self) -> bool:
        recipe = self.explorer.store.recipe
        return recipe["balance"] == "none" and self.explorer.can(recipe | Recipe(balance="l2"))

    def _has_average(self) -> bool:
        return self.explorer.can(AVERAGED | Recipe(balance=self.explorer.store.recipe["balance"]))

    def _first_choices(self, descriptors: Sequence[str], metric: Metric, k: int) -> drawing.Choices:
        descriptors = self.explorer.offered(descriptors)
        known = dict.fromkeys([*self.explorer.descriptors, *descriptors])
        own = self.explorer.store.recipe
        return drawing.Choices(
            descriptors={name: name in descriptors for name in known},
            metric=metric,
            k=max(1, min(k, self._largest_k(k))),
            recipe=next(name for name, recipe in self.recipes.items() if recipe == own),
            q=own["q"],
            unit=False,
            average=False,
        )

    def _largest_k(self, k: int) -> int:
        return max(1, min(max(k, MOST), int(self.explorer.store.described.sum())))

    def _offered(self) -> drawing.Offered:
        largest_q = 0.0
        if self.explorer.live:
            largest_q = _largest_q(self.recipes[self.chosen.recipe])
        return drawing.Offered(
            largest_k=self._largest_k(self.chosen.k),
            recipes=list(self.recipes),
            largest_q=largest_q,
            unit=self._has_unit(),
            average=self._has_average(),
            fixed=self.explorer.fixed,
        )

    def _connect(self) -> None:
        """What every part of the page does when it is used."""
        self.upload.on_msg(self._guarded(self._uploaded))
        self.head.on_msg(self._guarded(self._chose))
        self.grid.on_msg(self._guarded(self._chose))
        self.query.on_msg(self._guarded(self._viewed))
        self.results.on_msg(self._guarded(self._clicked))
        self.reasons.on_msg(self._guarded(self._viewed))
        self.settings.on_msg(self._guarded(self._set))
        self.larger.on_msg(self._guarded(self._closed))

    # What happens

    def _guarded(self, action: Callable[..., None]) -> Callable[..., None]:
        """An action whose failure is said on the page, which goes on with what it showed."""

        def guarded(*arguments: object) -> None:
            self.say("")
            self.message.busy = True
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
            finally:
                self.message.busy = False

        return guarded

    def say(self, text: object) -> None:
        """Shows a message above the results; "" for none."""
        self.message.html = drawing.message(text)

    def show(self, source: str, row: int) -> None:
        """Makes an image the query.

        Args:
            source: "queries" or "database", one of `sources`.
            row: its row there.

        Raises:
            ValueError: the image cannot be read.
        """
        images = self.sources[source]
        file, path = images.files[row], images.path(row)
        try:
            image = open_image(path)
        except UnreadableImage as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if source != "database":
            found = self.explorer.row_of(path)
        else:
            found = row
        self._search_for(self._query(image, file, images.labels[row], path, found))

    def _query(
        self, image: Image.Image, file: str, label: str, path: Path | None, row: int | None
    ) -> Query:
        look = self.explorer.look(image)
        image.thumbnail((LARGE, LARGE))
        return Query(look, file, label, path, row, image)

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
        self._search_for(self._query(_decoded(buffers[0], name), name, "", None, None))

    def _chose(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        """An image was picked, or others are to be shown."""
        command, _, what = str(content.get("key", "")).partition(" ")
        if command == "pick":
            row = int(what)
            if 0 <= row < len(self.sources[self.source]):
                self.show(self.source, row)
        elif command == "name":
            self._named(str(content.get("value", "")).strip())
        elif command == "page":
            first = self.first + SHOWN * int(what)
            self.first = max(0, min(first, (len(self.rows) - 1) // SHOWN * SHOWN))
            self._show_grid()
        elif command == "all" or what in self.sources:
            self._show_source(what or self.source)

    def _show_source(self, source: str) -> None:
        self.source = source
        self.rows = _by_turns(self.sources[source])
        self.first = 0
        self._show_grid()

    def _named(self, word: str) -> None:
        """Shows the images whose name has a word in it; the only one becomes the query."""
        if not word:
            self._show_source(self.source)
            return
        for source in dict.fromkeys([self.source, *self.sources]):
            rows = _matches(self.sources[source].files, word)
            if len(rows) == 1:
                self.show(source, rows[0])
                return
            if rows:
                self.source, self.rows, self.first = source, rows, 0
                self._show_grid()
                return
        files = [Path(file).name for images in self.sources.values() for file in images.files]
        raise ValueError(f"no image has {word!r} in its name{did_you_mean(word, files)}")

    def _clicked(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        """An image that was found: why, or more like it."""
        descriptor, _, rest = str(content.get("key", "")).partition(" ")
        rank, _, command = rest.partition(" ")
        query = self.asked_for
        if query is None or descriptor not in self.found:
            return
        rows, _ = self.found[descriptor]
        if not 0 <= int(rank or -1) < len(rows):
            return
        if command == "like":
            self.show("database", int(rows[int(rank)]))
            return
        self.selected = (descriptor, int(rank))
        self._draw_results(query)
        self._draw_reasons(query)
        self.reasons.reveal()

    def _viewed(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        """One of the two pictures, larger."""
        if self.asked_for is None:
            return
        _, file, label, path, _, image = self.asked_for
        if content.get("key") == "view found":
            descriptor, rank = self.selected
            row = int(self.found[descriptor][0][rank])
            store = self.explorer.store
            file, label, path = store.files[row], store.labels[row], store.path(row)
            image = open_image(path)
            image.thumbnail((LARGE, LARGE))
        title = ", ".join(filter(None, [file, label]))
        self.larger.html = drawing.larger(title, path, np.asarray(image))

    def _closed(self, *_arguments: object) -> None:
        self.larger.html = ""

    def _set(self, _widget: Clickable, content: dict[str, Any], _buffers: object) -> None:
        """A control was moved."""
        key, _, name = str(content.get("key", "")).partition(" ")
        value = content.get("value")
        if key == "by" and name in self.chosen.descriptors:
            self.change(descriptors=self.chosen.descriptors | {name: bool(value)})
        elif key == "metric" and value in METRICS:
            self.change(metric=value)
        elif key == "recipe" and value in self.recipes:
            self.change(recipe=value)
        elif key in ("unit", "average"):
            self.change(**{key: bool(value)})
        elif key == "k":
            self.change(k=max(1, min(int(str(value)), self._largest_k(self.chosen.k))))
        elif key == "q":
            self.change(q=max(0.0, min(float(str(value)), self._offered().largest_q)))

    def change(self, **choices: Any) -> None:
        """Sets controls, and searches again.

        Args:
            choices: fields of `drawing.Choices`; another recipe brings its own threshold.

        Raises:
            ValueError: no descriptor is chosen.
        """
        if "recipe" in choices:
            choices = {"q": self.recipes[choices["recipe"]]["q"]} | choices
        self.chosen = self.chosen._replace(**choices)
        if choices.keys() & {"recipe", "average"}:  # they change the slider of q
            self.settings.html = drawing.settings(self.chosen, self._offered())
        if self.asked_for is not None:
            self._search_for(self.asked_for)

    # What is shown

    @property
    def asked(self) -> Recipe:
        """The recipe that is chosen."""
        return self._recipe_of(self.chosen)

    def _recipe_of(self, chosen: drawing.Choices) -> Recipe:
        recipe = self.recipes[chosen.recipe]
        if self.explorer.live:
            recipe = recipe | Recipe(q=chosen.q)
        if chosen.average:
            recipe = AVERAGED | Recipe(balance=recipe["balance"])
        if chosen.unit:
            recipe = recipe | Recipe(balance="l2")
        return recipe

    def _show_grid(self) -> None:
        """Shows the images to choose from."""
        images = self.sources[self.source]
        rows = self.rows[self.first : self.first + SHOWN]
        drawn = self._thumbnails([images.path(row) for row in rows], False)
        cards = []
        for row, (uri, _) in zip(rows, drawn):
            cards.append(drawing.Card(f"pick {row}", images.files[row], images.labels[row], uri))
        counts = {name: len(source) for name, source in self.sources.items()}
        self.grid.html = drawing.grid(cards, counts, self.source, self.first, len(self.rows))
        self._switch_to(self.grid)

    def _switch_to(self, part: ipywidgets.Widget) -> None:
        """Shows the images to choose from, or what was found."""
        for each in (self.grid, self.main):
            each.layout.display = None if each is part else "none"

    def _search_for(self, query: Query) -> None:
        """Makes a picture the query; the page changes only where the search went well."""
        descriptors = [name for name, wanted in self.chosen.descriptors.items() if wanted]
        if not descriptors:
            raise ValueError("no descriptor is chosen: tick one of the boxes")
        chosen = self.chosen
        found = self.explorer.find(
            query.look, descriptors, self.asked, chosen.metric, chosen.k, query.row
        )
        is_new = query is not self.asked_for
        self.asked_for = query
        self.found, self.found_by = found, chosen
        descriptor, rank = self.selected
        if is_new or descriptor not in found or rank >= len(found[descriptor][0]):
            self.selected = (descriptors[-1], 0)
        self._draw_query(query)
        self._draw_results(query)
        self._switch_to(self.main)
        if is_new:
            self.query.reveal()
        self._draw_reasons(query)

    def _draw_query(self, query: Query) -> None:
        _, file, label, path, _, image = query
        small = image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        card = drawing.Card("view query", file, label, drawing.data_uri(np.asarray(small)))
        name = re.sub(r"[^\w.-]+", "_", Path(file).stem)
        self.query.html = drawing.query(card, path, self.saved(query), f"hits_{name}.json")

    def saved(self, query: Query) -> str:
        """Writes what was found as `cbir query` does.

        Args:
            query: what was searched for.

        Returns:
            JSON: "file", "root", "metric", "recipe"; for every descriptor a list of {"file",
            "label", "distance"}, nearest first.
        """
        store = self.explorer.store
        about: dict[str, Any] = {
            "file": query.file,
            "root": str(store.root),
            "metric": self.found_by.metric,
            "recipe": self._recipe_of(self.found_by),
        }
        for descriptor, (rows, distances) in self.found.items():
            about[descriptor] = [
                {"file": store.files[row], "label": store.labels[row], "distance": float(distance)}
                for row, distance in zip(rows, distances)
            ]
        return json.dumps(about, indent=1)

    def _draw_results(self, query: Query) -> None:
        sections = []
        for descriptor, (rows, distances) in self.found.items():
            drawn = self._thumbnails([self.explorer.store.path(row) for row in rows], True)
            ranked = enumerate(zip(rows, distances, drawn))
            hits = [self._hit(query.label, descriptor, rank, *found) for rank, found in ranked]
            sections.append(drawing.section(descriptor, hits))
        self.results.html = "".join(sections)

    def _hit(
        self,
        of_query: str,
        descriptor: str,
        rank: int,
        row: int,
        distance: float,
        drawn: tuple[str, str],
    ) -> drawing.Hit:
        file, label = self.explorer.store.files[row], self.explorer.store.labels[row]
        uri, histogram = drawn
        return drawing.Hit(
            card=drawing.Card(f"{descriptor} {rank}", file, label, uri),
            rank=rank,
            distance=distance,
            same_class=label == of_query if label and of_query else None,
            selected=(descriptor, rank) == self.selected,
            histogram=histogram,
        )

    def _thumbnails(self, paths: Sequence[Path], colors: bool) -> list[tuple[str, str]]:
        """(data URI, histogram) of images; grey for one that cannot be read now."""

        def drawn(path: Path) -> tuple[str, str]:
            try:
                return self.thumbnail(path, colors)
            except UnreadableImage:
                return GREY, ""

        with ThreadPoolExecutor() as pool:
            return list(pool.map(drawn, paths))

    def _draw_reasons(self, query: Query) -> None:
        descriptor, rank = self.selected
        rows, distances = self.found[descriptor]
        if not len(rows):
            self.reasons.html = ""
            return
        row = int(rows[rank])
        store = self.explorer.store
        try:
            look = self.explorer.look(row)
        except UnreadableImage as error:
            self.reasons.html = ""
            raise ValueError(f"{store.files[row]} cannot be read any more: {error}") from error
        recipe, metric = self._recipe_of(self.found_by), self.found_by.metric
        shares = self.explorer.parts(query.look, row, descriptor, recipe, metric)
        said = f"{plain_name(descriptor)}, rank {rank + 1}"
        caption = ", ".join(filter(None, [store.labels[row], said]))
        self.reasons.html = drawing.reasons(
            self._side("query", query.file, query.label, query.path, query.look),
            self._side("found", store.files[row], caption, store.path(row), look),
            recipe,
            self.found_by.average,
            distances[rank],
            shares,
        )

    def _side(
        self, role: str, file: str, caption: str, path: Path | None, look: Look
    ) -> drawing.Side:
        regions = self.explorer.regions(look, self._recipe_of(self.found_by))
        return drawing.Side(role, file, caption, path, look, regions)


def _box(children: Sequence[ipywidgets.Widget], name: str) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(name)
    return box


def _by_turns(images: Images) -> list[int]:
    """The rows of images that can be read: one of every class, then another of every class, .."""
    described = getattr(images, "described", np.ones(len(images), bool))  # a store knows
    taken: dict[str, int] = {}
    turns = []
    for row in np.flatnonzero(described).tolist():
        label = images.labels[row]
        taken[label] = taken.get(label, 0) + 1
        turns.append((taken[label], row))
    return [row for _, row in sorted(turns)]


def _matches(files: Sequence[str], word: str) -> list[int]:
    """The rows of the files with this name, or else of those that have the word in it."""
    named = [row for row, file in enumerate(files) if f"/{file}".endswith(f"/{word}")]
    if named:
        return named
    return [row for row, file in enumerate(files) if word.lower() in file.lower()]


def _largest_q(recipe: Recipe) -> float:
    """Where the slider of q ends."""
    return 1 if recipe["threshold"] == "relative" else max(5, 2 * recipe["q"])


def _thumbnail(path: Path, colors: bool) -> tuple[str, str]:
    """(picture, histogram or "") of an image file, as HTML. Raises UnreadableImage."""
    image = open_image(path)
    histogram = drawing.histogram(color_histogram(np.asarray(image))) if colors else ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return drawing.data_uri(np.asarray(image)), histogram


def _decoded(data: bytes, name: str) -> Image.Image:
    """An upload as an image. Its own name never becomes a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(data)
        try:
            return open_image(path, PIXELS)
        except UnreadableImage as error:
            raise ValueError(f"{name!r} cannot be read: {error}. Try a JPEG or PNG file") from error
