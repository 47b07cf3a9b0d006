"""The page in the browser: pick or upload a picture, see what each descriptor finds, and why."""

import atexit
import errno
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from . import figures
from .common import METRICS, AnyPath, Metric, write_atomically
from .descriptors import Recipe
from .explain import Explorer, Look, explain
from .extract import has_windows_of
from .images import Images, UnreadableImage, list_images, open_image
from .names import plain_name
from .query import open_database
from .run import Run, open_run
from .store import find_store
from .zoo import Weights

Updates = dict[Any, Any]  # {component: its new value}
gr: Any = None  # Gradio, as soon as there is a page: a mistyped address shows before

UPLOAD = 10_000_000  # bytes of a picture
PIXELS = 50_000_000  # of an upload: decoding takes up to 20 bytes each
THUMBNAIL = 224  # pixels of a picture on the page
SHOWN = 60  # images to choose from at a time
MOST = 100  # images found for a picture
FIRST = ("h", "eta_conv", "eta")  # what is searched by as the page opens

# Galleries as rows of squares, with room for three lines below each, as high as they need to be.
CSS = """
label.float ~ .gallery-container .grid-wrap {padding-top: 2rem}
.grid-wrap.fixed-height {min-height: 0 !important; max-height: none !important; height: auto}
.grid-container {grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)) !important}
.thumbnail-item {aspect-ratio: auto !important; height: auto !important}
.thumbnail-item img {aspect-ratio: 1; height: auto !important}
.caption-label {position: static !important; max-width: none !important; border: 0 !important;
    white-space: pre-line !important; overflow-wrap: anywhere; opacity: 1 !important}
"""


class Query(NamedTuple):
    """What is searched for: its look, thumbnail, name, class ("" for none), row of the store."""

    look: Look
    thumbnail: str
    file: str
    label: str
    row: int | None


class Found(NamedTuple):
    """What the page shows: the query, how it was searched for, {descriptor: (rows, distances)}."""

    query: Query
    recipe: Recipe
    metric: Metric
    by: dict[str, Any]


class Page:
    """The page of an explorer; `blocks` is what Gradio serves.

    Args:
        explorer: what is asked.
        images: images to choose from, beside the store's own.
    """

    def __init__(self, explorer: Explorer, images: Images | None = None) -> None:
        global gr
        self.explorer, self.store = explorer, explorer.store
        self.folder = _own_folder()  # before Gradio looks where its files shall lie
        gr = import_module("gradio")
        sources = [self.store] if images is None else [images, self.store]
        self.choices = [(source, row) for source in sources for row in _by_turns(source)]
        self.thumbnail = lru_cache(10_000)(self._thumbnail)
        title = f"{len(self.store):,} images of {'/'.join(self.store.root.parts[-2:])}"
        with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as self.blocks:
            self._lay_out(title)
            self._connect()

    def _lay_out(self, title: str) -> None:
        explorer, own = self.explorer, self.store.recipe
        gr.HTML(f"<h1>{escape(title)}</h1>")
        with gr.Row():
            with gr.Column(scale=2):
                self.word = gr.Textbox(label="Part of an image's name", max_lines=1)
                pages = -(-len(self.choices) // SHOWN)
                self.number = gr.Slider(
                    1, max(2, pages), 1, step=1, label="Page", visible=pages > 1
                )
            self.upload = gr.File(label="A picture of your own, at most 10 MB", height=140)
        first_images = self._drawn(self.choices[:SHOWN])
        self.grid = _gallery("Images to choose from", value=first_images, height=300)
        with gr.Accordion("Settings", open=False), gr.Row():
            names = [(plain_name(name), name) for name in explorer.descriptors]
            first = [name for name in FIRST if name in explorer.descriptors]
            by = gr.CheckboxGroup(names, value=first, label="Search by")
            with gr.Column():
                metric = gr.Radio(list(METRICS), value="l1", label="Distance")
                most = max(2, min(MOST, int(self.store.described.sum())))
                k = gr.Slider(1, most, min(5, most), step=1, label="k, images found")
            with gr.Column():
                unit = own["balance"] == "none" and explorer.can(own | Recipe(balance="l2"))
                recipes = {
                    name: recipe
                    for name, recipe in explorer.recipes.items()
                    if not unit or recipe["balance"] == "none"
                }
                stored = next(name for name, recipe in recipes.items() if recipe == own)
                note = explorer.fixed and f"q cannot be moved: {explorer.fixed}"
                self.recipe = gr.Radio(list(recipes), value=stored, label="Recipe", info=note)
                self.q = gr.Slider(
                    0, _largest_q(own), own["q"], step=0.05, label="q", visible=not note
                )
                balance = gr.Checkbox(label="Every layer at unit length", visible=unit)
        self.controls = [by, metric, k, self.recipe, self.q, balance]
        with gr.Row(visible=False) as self.head:
            self.asked = gr.Image(interactive=False, height=THUMBNAIL, buttons=[])
            with gr.Column():
                gr.HTML("<p>Click on an image to see why it was found. ✓: the query's class.</p>")
                self.save = gr.DownloadButton("Save the hits (JSON)")
        self.rows = {name: _gallery(plain_name(name)) for name in explorer.descriptors}
        self.why = gr.Image(label="Why?", visible=False, buttons=["download", "fullscreen"])
        self.words = gr.HTML(visible=False)
        self.like = gr.Button("More like this one", visible=False)
        # Of every visitor: what the grid shows, the query, what was found, the row explained.
        self.shown = gr.State(list(range(min(SHOWN, len(self.choices)))))
        self.query, self.found, self.row = gr.State(), gr.State(), gr.State()

    def _connect(self) -> None:
        """What happens when the page is used."""
        fewer = [self.grid, self.shown, self.number]
        why = [self.why, self.words, self.like, self.row]
        results = [
            self.query,
            self.found,
            self.head,
            self.asked,
            self.save,
            *self.rows.values(),
            *why,
        ]
        new_query = [self.query, *self.controls]
        _on(self.word.change, self._named, [self.word], fewer)
        _on(self.number.input, self._named, [self.word, self.number], fewer)
        _on(self.grid.select, self._picked, [self.shown, *self.controls], [self.grid, *results])
        _on(
            self.upload.upload,
            self._uploaded,
            [self.upload, *self.controls],
            [self.upload, *results],
        )
        _on(self.like.click, self._liked, [self.row, *self.controls], results)
        for control in self.controls:
            action = self._other_recipe if control is self.recipe else self._show
            _on(control.input, action, new_query, [self.q, *results])
        for name, gallery in self.rows.items():
            _on(gallery.select, partial(self._explain, name), [self.found], why)

    # ---- what happens: the values of components in, {component: its new value} out ---------------

    def _named(self, word: str, number: int = 1) -> Updates:
        """Shows the images with a word in their name, in any case and form of Unicode."""
        word = _plain(word.strip())
        matches = [
            n for n, (images, row) in enumerate(self.choices) if word in _plain(images.files[row])
        ]
        numbers = matches[SHOWN * (number - 1) : SHOWN * number]
        pages = -(-len(matches) // SHOWN)
        label = f"Images to choose from: {len(matches):,}"
        return {
            self.grid: gr.update(
                value=self._drawn([self.choices[n] for n in numbers]), label=label
            ),
            self.shown: numbers,
            self.number: gr.update(maximum=max(2, pages), value=number, visible=pages > 1),
        }

    def _picked(self, index: int, numbers: list[int], *controls: Any) -> Updates:
        query = self._query(*self.choices[numbers[index]])
        return {self.grid: gr.update(selected_index=None)} | self._show(query, *controls)

    def _liked(self, row: int, *controls: Any) -> Updates:
        return self._show(self._query(self.store, row), *controls)

    def _query(self, images: Images, row: int) -> Query:
        path, in_store = images.path(row), row
        if images is not self.store:
            name = os.path.relpath(path, self.store.root).replace(os.sep, "/")
            in_store = self.store.files.index(name) if name in self.store.files else None
        look, small = self.explorer.look(path), self.thumbnail(path)
        return Query(look, small, images.files[row], images.labels[row], in_store)

    def _uploaded(self, path: str, *controls: Any) -> Updates:
        name = Path(path).name
        try:
            image = open_image(path, PIXELS)
        except UnreadableImage as error:
            raise ValueError(f"{name!r} cannot be read: {error}") from error
        finally:
            Path(path).unlink()
        query = Query(self.explorer.look(image), self._thumbnail(image), name, "", None)
        return {self.upload: None} | self._show(query, *controls)

    def _other_recipe(self, query: Query | None, *controls: Any) -> Updates:
        """Another recipe brings its own q."""
        *first, recipe, _, unit = controls
        asked = self.explorer.recipes[recipe]
        q = gr.update(value=asked["q"], maximum=_largest_q(asked))
        return {self.q: q} | self._show(query, *first, recipe, asked["q"], unit)

    def _show(self, query: Query | None, *controls: Any) -> Updates:
        """Searches as the controls say, and shows what was found."""
        if query is None:
            return {self.query: None}
        by, metric, k, recipe, q, unit = controls
        if not by:
            raise ValueError("no descriptor is chosen: tick one of them")
        asked = self.explorer.recipes[recipe] | ({} if self.explorer.fixed else {"q": q})
        if unit:
            asked = asked | {"balance": "l2"}
        found = self.explorer.find(query.look, by, asked, metric, int(k), query.row)
        found = Found(query, asked, metric, found)
        hidden = gr.update(visible=False)
        updates = dict.fromkeys([self.why, self.words, self.like, *self.rows.values()], hidden)
        for name, (rows, distances) in found.by.items():
            captions = []
            for row, distance in zip(rows, distances):
                label = self.store.labels[row]
                about = [label + " ✓" * (label == query.label != ""), _number(distance)]
                captions.append("\n".join([*filter(None, about), Path(self.store.files[row]).name]))
            drawn = self._drawn([(self.store, row) for row in rows], captions)
            updates[self.rows[name]] = gr.update(value=drawn, visible=True, selected_index=None)
        about = f"Query: {', '.join(filter(None, [query.file, query.label]))}"
        return updates | {
            self.query: query,
            self.found: found,
            self.head: gr.update(visible=True),
            self.asked: gr.update(value=query.thumbnail, label=about, alt_text=about),
            self.save: self._saved(found),
        }

    def _explain(self, descriptor: str, rank: int, found: Found) -> Updates:
        """Says why an image was found."""
        row, distance = (values[rank] for values in found.by[descriptor])
        query, look = found.query.look, self.explorer.look(int(row))
        shares = self.explorer.shares(query, row, descriptor, found.recipe, found.metric)
        path = self._new("why.png")
        with plt.rc_context():
            figures.use_style()
            explain(query, look, shares, descriptor, **found.recipe).savefig(path, dpi=160)
        listed = ", ".join(f"{plain_name(str(part))} {share:.1%}" for part, share in shares.items())
        text = (
            f"{self.store.files[row]}, number {rank + 1} by {plain_name(descriptor)}: "
            f"{_number(distance)} apart. What adds to this distance: {listed}."
        )
        return {
            self.why: gr.update(value=str(path), alt_text=text, visible=True),
            self.words: gr.update(value=f"<p>{escape(text)}</p>", visible=True),
            self.like: gr.update(visible=True),
            self.row: int(row),
        }

    # ---- files for the browser -------------------------------------------------------------------

    def _drawn(
        self, choices: Sequence[tuple[Images, int]], captions: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        """Images for a gallery: a thumbnail's file and a caption, by default the name."""
        with ThreadPoolExecutor() as pool:
            paths = [images.path(row) for images, row in choices]
            names = [Path(images.files[row]).name for images, row in choices]
            return list(zip(pool.map(self.thumbnail, paths), captions or names))

    def _thumbnail(self, picture: Path | Image.Image) -> str:
        """The file of a small picture; grey where the image cannot be read now."""
        image = Image.fromarray(figures.thumbnail(picture))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        small = self._new("thumbnail.jpg")
        image.save(small, quality=85)
        return str(small)

    def _saved(self, found: Found) -> str:
        """The file of what was found, as `cbir query` writes it."""
        about: dict[str, Any] = {"file": found.query.file, "root": str(self.store.root)}
        about |= {"metric": found.metric, "recipe": found.recipe}
        for name, hits in found.by.items():
            about[name] = [
                {
                    "file": self.store.files[row],
                    "label": self.store.labels[row],
                    "distance": distance,
                }
                for row, distance in zip(*(values.tolist() for values in hits))
            ]
        stem = re.sub(r"[^\w.-]+", "_", Path(found.query.file).stem)[:50]
        return str(write_atomically(self._new(f"hits_{stem}.json"), json.dumps(about, indent=1)))

    def _new(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder), name)


def open_explorer(
    run: str = "embedded", store: AnyPath = "", pictures: AnyPath = "", weights: Weights = ""
) -> tuple[Explorer, Images | None]:
    """Opens what a page shows; the embedded images are described first if nobody has done so.

    Args:
        run: the run whose database is explored.
        store: the path of another store; "": the run's.
        pictures: a folder to choose from; "": the run's queries.
        weights: of the store's network, as in `open_database`.

    Returns:
        The explorer, and the images to choose from beside its own.

    Raises:
        FileNotFoundError: there is no such run, store or folder; and what `open_database` raises.
    """
    images: Images | None = list_images(pictures) if pictures else None
    if store:
        database, net = open_database(store=store, weights=weights)
        return Explorer(database, net), images
    opened = Run(run) if run == "embedded" else open_run(run, described=True)
    net, database, queries = opened.stores()
    kept = find_store(opened.path / "stores" / "windows" / "database")  # of retrained codes
    fits = kept is not None and kept.files == database.files
    windows = kept if kept and fits and has_windows_of(kept, net.with_head(None)) else None
    return Explorer(database, net, windows), images or queries


def launch(page: Page, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> str:
    """Serves a page beside the caller, on this machine alone unless `auth` is given.

    Args:
        page: the page.
        host: the address to listen on.
        port: the port to listen on, default a free one.
        options: of `gradio.Blocks.launch`, such as `inline` or `auth`.

    Returns:
        The page's address.
    """
    from starlette.middleware import Middleware

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
    _, address, _ = page.blocks.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[],
        max_file_size=UPLOAD,
        theme=theme,
        css=CSS,
        app_kwargs={"middleware": [Middleware(_Gate, host=host)]},
        **options,
    )
    return address


def serve(
    run: str = "embedded",
    store: AnyPath | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    auth: str | None = None,
    pictures: AnyPath | None = None,
    weights: Weights = "",
) -> None:
    """Serves the page until it is interrupted or terminated; then all it wrote is gone.

    Args:
        run: as in `open_explorer`.
        store: as in `open_explorer`.
        host: the address to listen on; any but a loopback address needs `auth`.
        port: the port to listen on; None or 0 for a free one.
        browser: whether a browser is opened.
        auth: what visitors have to give, "user:password".
        pictures: as in `open_explorer`.
        weights: as in `open_explorer`.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: there is no such port, or visitors from elsewhere need no password.
        OSError: the address cannot be listened on; and what `open_explorer` raises.
    """
    if find_spec("gradio") is None:
        raise ImportError("the page needs gradio: pip install 'cbir[explore]'")
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ValueError("--auth needs a name and a password: --auth name:password")
    if auth is None and not _is_loopback(host):
        raise ValueError(f"{host} lets others in: add --auth name:password")
    check_port(host, port or 0)
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    page = Page(*open_explorer(run, store or "", pictures or "", weights))
    credentials = (user, password) if auth else None
    print("The page:", launch(page, host, port, inbrowser=browser, auth=credentials), flush=True)
    print("Ctrl+C ends it.", flush=True)
    try:
        page.blocks.block_thread()
    finally:
        page.blocks.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Raises ValueError or OSError where an address cannot be listened on."""
    if not 0 <= port <= 65535:
        raise ValueError(f"no port {port}: choose one from 1024 to 65535, or leave out --port")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "in use, perhaps by another `cbir explore`"
        raise OSError(f"port {port} of {host}: {reason}; choose another --port") from error


class _Gate:
    """Refuses foreign pages whose name was made to point here, and addresses for Gradio to load."""

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.local = app, _is_loopback(host)

    async def __call__(self, scope: Any, *channels: Any) -> None:
        app = self.app
        if scope["type"] == "http":
            from starlette.requests import Request
            from starlette.responses import PlainTextResponse

            url = Request(scope).url
            foreign = self.local and not _is_loopback(url.hostname or "")
            if foreign or re.search(r"(file|proxy)=/*\w+:", url.path):
                app = PlainTextResponse("not allowed", 403)
        await app(scope, *channels)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@cache
def _own_folder() -> str:
    """The folder of all that the page writes, thumbnails and uploads; gone when Python ends."""
    folder = tempfile.mkdtemp(prefix="cbir_explore_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "0"}
    return folder


def _gallery(label: str, **options: Any) -> Any:
    shown = {"visible": "value" in options, "allow_preview": False, "buttons": [], "columns": None}
    return gr.Gallery(label=label, interactive=False, object_fit="contain", **shown | options)


def _on(
    listener: Any, action: Callable[..., Updates], inputs: list[Any], outputs: list[Any]
) -> None:
    """Lets an action follow an event. Its failure is a message, and the page stays as it was."""

    def act(*values: Any) -> Updates:
        try:
            return action(*values)
        except (ValueError, OSError) as error:
            gr.Warning(escape(str(error)))
            return {outputs[0]: gr.skip()}

    def select(event: gr.SelectData, *values: Any) -> Updates:
        return act(event.index, *values)

    is_select = listener.event_name == "select"
    listener(
        select if is_select else act,
        inputs,
        outputs,
        trigger_mode="always_last",
        concurrency_id="page",  # one at a time: matplotlib's style is of the whole process
        show_progress="minimal",
        scroll_to_output=is_select,
        api_visibility="private",
    )


def _by_turns(images: Images) -> list[int]:
    """The rows of images that can be read: one of every class, then another of every class, .."""
    labels = pd.Series(images.labels)[getattr(images, "described", slice(None))]
    return labels.groupby(labels).cumcount().sort_values(kind="stable").index.tolist()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _number(distance: float) -> str:
    """A distance with four digits; float32's rounding between an image and itself is 0."""
    return f"{round(distance, 6):.4g}"


def _largest_q(recipe: Recipe) -> float:
    return 1 if recipe["threshold"] == "relative" else max(5, 2 * recipe["q"])
