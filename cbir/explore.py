"""The page in the browser: pick or upload a picture, see what each descriptor finds, and why."""

import json
import os
import re
import signal
import socket
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
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
from .common import METRICS, PACKAGE, AnyPath
from .explain import Explorer, Look, explain
from .images import Images, UnreadableImage, open_image
from .names import plain_name
from .query import hits_record, safe_stem
from .run import Run, open_run
from .store import open_store

Updates = dict[Any, Any]  # {component: its new value}
gr: Any = None  # Gradio, as soon as there is a page: a mistyped address shows before

UPLOAD, PIXELS = 10_000_000, 50_000_000  # bytes of an upload, and pixels, of up to 20 bytes each
THUMBNAIL = 224  # pixels of a picture on the page
SHOWN, MOST = 60, 100  # images to choose from at a time; images found for a picture
LOOPBACK = ["localhost", "127.0.0.1", "::1", "[::1]"]

GALLERY = dict(interactive=False, object_fit="contain", allow_preview=False, columns=None)
GALLERY |= dict(buttons=[], format="jpeg")
CSS = PACKAGE / "explore.css"


class Query(NamedTuple):
    """The query, and what was found: {descriptor: (rows, distances)}."""

    look: Look
    file: str
    label: str = ""
    row: int | None = None  # of the store
    recipe: Any = None
    metric: Any = None
    found: Any = None


class Page:
    """The page of an explorer, with `images` to choose from; Gradio serves its `blocks`."""

    def __init__(self, explorer: Explorer, images: Images | None = None) -> None:
        global gr
        self.folder = _own_folder().name  # before Gradio looks where its files shall lie
        gr = import_module("gradio")
        self.explorer, self.store = explorer, explorer.store
        sources = [self.store] if images is None else [images, self.store]
        self.choices = [(source, row) for source in sources for row in _by_turns(source)]
        self.thumbnail = lru_cache(1000)(_thumbnail)
        title = f"{len(self.store):,} images of {'/'.join(self.store.root.parts[-2:])}"
        with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(f"<h1>{escape(title)}</h1>")
            self._lay_out(explorer, explorer.recipes)

    def _lay_out(self, explorer: Explorer, recipes: dict[str, Any]) -> None:
        with gr.Row():
            word = gr.Textbox(label="Part of an image's name", max_lines=1, scale=2)
            self.upload = gr.File(label="A picture of your own, at most 10 MB", height=160)
        self.grid = gr.Gallery(**self._named(""), height=300, **GALLERY)
        with gr.Accordion("Settings", open=False), gr.Row():
            names = [(plain_name(name), name) for name in explorer.descriptors]
            first = [name for name in ("h", "eta_conv", "eta") if name in explorer.descriptors]
            by = gr.CheckboxGroup(names, value=first, label="Search by")
            with gr.Column():
                metric = gr.Radio([*METRICS], value="l1", label="Distance")
                most = max(2, min(MOST, int(self.store.described.sum())))
                k = gr.Slider(1, most, min(5, most), step=1, label="k, images found")
            with gr.Column():
                stored = next(name for name in recipes if recipes[name] == self.store.recipe)
                note = explorer.fixed and f"q cannot be moved: {explorer.fixed}"
                recipe = gr.Radio(list(recipes), value=stored, label="Recipe", info=note)
                self.q = gr.Slider(0, **self._q(stored), step=0.05, label="q", visible=not note)
        settings = [by, metric, k, recipe, self.q]
        with gr.Row(visible=False) as self.head:
            self.asked = gr.Image(interactive=False, height=THUMBNAIL, buttons=[])
            with gr.Column():
                gr.HTML("<p>Click on an image to see why it was found. ✓: the query's class.</p>")
                self.save = gr.DownloadButton("Save the hits (JSON)")
        self.rows = {name: gr.Gallery(label=l, visible=False, **GALLERY) for l, name in names}
        with gr.Column(visible=False) as self.reasons:
            self.why = gr.Image(label="Why?", buttons=["download", "fullscreen"])
            self.words = gr.HTML()
            like = gr.Button("More like this one")
        self.query, self.row = gr.State(), gr.State()  # of each visitor; the row that is explained

        results = [self.query, self.head, self.asked, self.save, self.reasons, *self.rows.values()]
        why = [self.reasons, self.why, self.words, self.row]
        _on(word.change, lambda w: {self.grid: gr.update(**self._named(w))}, [word], [self.grid])
        _on(self.grid.select, self._picked, [word, *settings], [self.grid, *results])
        _on(self.upload.upload, self._uploaded, [self.upload, *settings], [self.upload, *results])
        _on(like.click, partial(self._show, self.store), [self.row, *settings], results)
        for setting in settings:
            action = self._other_recipe if setting is recipe else self._answer
            _on(setting.input, action, [self.query, *settings], [self.q, *results])
        for name, gallery in self.rows.items():
            _on(gallery.select, partial(self._explain, name), [self.query], why)

    def _q(self, recipe: str) -> dict[str, float]:
        chosen = self.explorer.recipes[recipe]
        most = 1 if chosen["threshold"] == "relative" else max(5, 2 * chosen["q"])
        return {"value": chosen["q"], "maximum": most}

    def _matches(self, word: str) -> list[tuple[Images, int]]:
        """Finds images with a word in their name, in any case and form of Unicode."""
        return [(of, row) for of, row in self.choices if _plain(word) in _plain(of.files[row])]

    def _named(self, word: str) -> dict[str, Any]:
        """Returns the value and the label of the grid."""
        found = self._matches(word)
        paths = [images.path(row) for images, row in found[:SHOWN]]
        value = list(zip(self._thumbnails(paths), [path.name for path in paths]))
        return {"value": value, "label": f"Images to choose from: {len(paths)} of {len(found):,}"}

    def _thumbnails(self, paths: Iterable[Path]) -> list[Image.Image]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.thumbnail, paths))

    def _picked(self, index: int, word: str, *settings: Any) -> Updates:
        images, row = self._matches(word)[index]
        return {self.grid: gr.update(selected_index=None)} | self._show(images, row, *settings)

    def _show(self, images: Images, row: int, *settings: Any) -> Updates:
        own = row if images is self.store else None
        look = self.explorer.look(images.path(row))
        return self._answer(Query(look, images.files[row], images.labels[row], own), *settings)

    def _uploaded(self, path: str, *settings: Any) -> Updates:
        name = Path(path).name
        try:
            query = Query(self.explorer.look(open_image(path, PIXELS)), name)
        except UnreadableImage as error:
            gr.Warning(escape(f"{name!r} cannot be read: {error}"))
            return {self.upload: None}
        finally:
            Path(path).unlink()
        return {self.upload: None} | self._answer(query, *settings)

    def _other_recipe(self, query: Query | None, *settings: Any) -> Updates:
        """Answers by another recipe, with its own q."""
        q = self._q(settings[-2])
        return {self.q: gr.update(**q)} | self._answer(query, *settings[:-1], q["value"])

    def _answer(self, query: Query | None, *settings: Any) -> Updates:
        """Searches as the settings say, and shows what was found."""
        by, metric, k, recipe, q = settings
        if query is None:
            return {self.query: None}
        if not by:
            raise ValueError("no descriptor is chosen: tick one of them")
        asked = self.explorer.recipes[recipe] | ({} if self.explorer.fixed else {"q": q})
        updates: Updates = dict.fromkeys(self.rows.values(), gr.update(visible=False))
        found = self.explorer.find(query.look, by, asked, metric, int(k), query.row)
        for name, (rows, distances) in found.items():
            paths, captions = list(map(self.store.path, rows)), []
            for path, row, distance in zip(paths, rows, distances):
                label = self.store.labels[row]
                marked = label and label + " ✓" * (label == query.label)
                captions.append(f"{marked}\n{_number(distance)}\n{path.name}".lstrip())
            drawn = list(zip(self._thumbnails(paths), captions))
            updates[self.rows[name]] = gr.update(value=drawn, visible=True, selected_index=None)
        saved = hits_record(query.file, self.store, metric, found) | {"recipe": asked}
        path = self._new(f"hits_{safe_stem(query.file)}.json")
        path.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        about = f"Query: {query.file}" + f", {query.label}" * bool(query.label)
        small = _thumbnail(Image.fromarray(query.look.picture))
        return updates | {
            self.query: query._replace(recipe=asked, metric=metric, found=found),
            self.head: gr.update(visible=True),
            self.asked: gr.update(value=small, label=about, alt_text=about),
            self.save: str(path),
            self.reasons: gr.update(visible=False),
        }

    def _explain(self, name: str, rank: int, query: Query) -> Updates:
        row, distance = (values[rank].item() for values in query.found[name])
        shares = self.explorer.shares(query.look, row, name, query.recipe, query.metric)
        path = self._new("why.png")
        with plt.rc_context():
            figures.use_style()
            fig = explain(query.look, self.explorer.look(row), shares, name, **query.recipe)
            fig.savefig(path, dpi=160)
        text = f"{self.store.files[row]}, number {rank + 1} by {plain_name(name)}: "
        text += f"{_number(distance)} apart. "
        parts = (f"{plain_name(str(part))} {share:.1%}" for part, share in shares.items())
        text += f"What adds to this distance: {', '.join(parts)}."
        return {
            self.reasons: gr.update(visible=True),
            self.why: gr.update(value=str(path), alt_text=text),
            self.words: f"<p>{escape(text)}</p>",
            self.row: row,
        }

    def _new(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder), name)


def open_explorer(run: str = "scenes", store: AnyPath = "") -> tuple[Explorer, Images | None]:
    """Opens what a page shows, the database of a run or another store, and the run's queries.

    The scenes are described first if nobody has done so.

    Raises:
        FileNotFoundError: there is no such run or store; and what `Explorer` raises.
    """
    if store:
        return Explorer(open_store(store)), None
    opened = Run(run) if run == "scenes" else open_run(run, described=True)
    net, database, queries = opened.stores()
    return Explorer(database, net), queries


def launch(page: Page, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> str:
    """Serves a page beside the caller, by default on a free port; returns its address.

    Further options are those of `gradio.Blocks.launch`, such as `inline` or `auth`.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
    # A foreign page whose name was made to point here is no host of ours.
    hosts = LOOPBACK if host in LOOPBACK else ["*"]
    gates = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_gate)]
    fixed: Any = dict(server_name=host, server_port=port or None, app_kwargs={"middleware": gates})
    fixed |= dict(share=False, ssr_mode=False, quiet=True, footer_links=[], run_history=False)
    fixed |= dict(theme=theme, css_paths=CSS, max_file_size=UPLOAD, prevent_thread_lock=True)
    return page.blocks.launch(**fixed | options)[1]


def serve(
    run: str, store: AnyPath | None, host: str, port: int | None, browser: bool, auth: str | None
) -> None:
    """Serves the page until it is interrupted or terminated; then all it wrote is gone.

    Any host but a loopback address needs `auth`, "user:password"; port None or 0 is a free one.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: visitors from elsewhere need no password.
        OSError: the address cannot be listened on; and what `open_explorer` raises.
    """
    if find_spec("gradio") is None:
        raise ImportError("the page needs gradio: pip install 'cbir[explore]'")
    user, _, password = (auth or "").partition(":")
    if not (user and password) and (auth is not None or host not in LOOPBACK):
        raise ValueError(f"visitors of {host} need a name and a password: --auth name:password")
    try:
        socket.create_server((host, port or 0)).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"port {port} of {host}: {reason}; choose another --port") from error
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    page = Page(*open_explorer(run, store or ""))
    address = launch(page, host, port, inbrowser=browser, auth=(user, password) if auth else None)
    print(f"The page: {address}\nCtrl+C ends it.", flush=True)
    try:
        page.blocks.block_thread()
    finally:
        page.blocks.close(verbose=False)  # before the folder that it serves from is removed


def _gate(app: Any) -> Any:
    """Refuses what Gradio would load from elsewhere and hand on."""
    from starlette.responses import PlainTextResponse

    async def gate(scope: Any, *channels: Any) -> None:
        elsewhere = re.search(r"(file|proxy)=/*\w{2,}:", scope.get("path", ""))
        await (PlainTextResponse("not allowed", 403) if elsewhere else app)(scope, *channels)

    return gate


@cache
def _own_folder() -> "tempfile.TemporaryDirectory[str]":
    """Makes the folder of all that the page writes; gone when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="cbir_explore_", ignore_cleanup_errors=True)
    os.environ |= {"GRADIO_TEMP_DIR": folder.name, "GRADIO_ANALYTICS_ENABLED": "0"}
    return folder


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

    # One at a time, matplotlib's style is of the whole process; the last of many moves of a slider.
    options = dict(concurrency_id="page", trigger_mode="always_last", show_progress="minimal")
    selects = listener.event_name == "select"
    options |= dict(scroll_to_output=selects, api_visibility="private")
    listener(select if selects else act, inputs, outputs, **options)


def _by_turns(images: Images) -> list[int]:
    """Lists the rows of readable images: one of every class, then another of every class, .."""
    labels = pd.Series(images.labels)[getattr(images, "described", slice(None))]
    return labels.groupby(labels).cumcount().sort_values(kind="stable").index.tolist()


def _thumbnail(picture: Path | Image.Image) -> Image.Image:
    """Makes a small picture, grey if the image cannot be read now."""
    image = Image.fromarray(figures.thumbnail(picture))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip()).casefold()


def _number(distance: float) -> str:
    """Writes a distance with four digits; float32's rounding is 0."""
    return f"{round(distance, 6):.4g}"
