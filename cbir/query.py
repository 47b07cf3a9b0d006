"""Here is my picture: its nearest images in a store by each descriptor, drawn and as JSON."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt

from . import figures
from .common import AnyPath, Metric, write_atomically
from .images import ImageSet, UnreadableImage, open_image
from .networks import Network
from .run import open_run
from .search import search
from .store import Store, open_store
from .trained import network_of
from .zoo import Weights


def open_database(
    run: AnyPath = "embedded", store: AnyPath = "", weights: Weights = ""
) -> tuple[Store, Network]:
    """Opens the store of a run's database, or another one, and loads the network that made it.

    Args:
        run: a run's name or folder, unused where `store` is given.
        store: a path; "": the run's.
        weights: as in `load_network`; "": the run's, else the default.

    Raises:
        FileNotFoundError: the run has no descriptors; and what `open_store` and `network_of` raise.
    """
    if not store:
        opened_run = open_run(run, described=True)
        store = opened_run.path / "stores" / "database"
        if weights == "":
            weights = opened_run.settings.get("weights", "default")
    opened = open_store(store)
    weights = "default" if weights == "" else weights
    return opened, network_of(opened.network, weights=weights, folder=Path(store).parent)


def query(
    images: Iterable[AnyPath],
    store: Store,
    net: Network | None = None,
    descriptors: Iterable[str] = ("h", "eta_conv", "eta"),
    metric: Metric = "l1",
    k: int = 5,
    folder: AnyPath = ".",
) -> tuple[dict[str, Path], dict[str, str]]:
    """Searches for images; writes query_<stem>.png and query_<stem>.json for each of them.

    A name that an earlier result of another image has gets a number. The JSON holds "file", "root"
    (the store's image folder), "metric" and, for every descriptor, a list of {"file", "label",
    "distance"}, nearest first. A retrieved image that is no longer there is grey in the picture.

    Args:
        images: files.
        store: an open store.
        net: the network that made it, default the one that the store names.
        descriptors: what is compared, see `search`.
        metric: as in `search`.
        k: images found for each.
        folder: where the results go.

    Returns:
        The .png of every image (file -> path), and what could not be read (file -> reason).

    Raises:
        ValueError: the store does not have a descriptor; and what `search` raises.
    """
    reasons = {file: _reason(file) for file in dict.fromkeys(map(str, images))}
    unreadable = {file: reason for file, reason in reasons.items() if reason}
    readable = [file for file in reasons if file not in unreadable]
    written: dict[str, Path] = {}
    if not readable:
        return written, unreadable
    hits = search(store, readable, list(descriptors), metric=metric, k=k, net=net)
    queries = ImageSet(Path(), readable, [""] * len(readable))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for row, file in enumerate(readable):
        png = _result(Path(folder), file)
        about: dict[str, object] = {"file": file, "root": str(store.root), "metric": metric}
        for descriptor, found in hits.items():
            near = zip(found.indices[row].tolist(), found.distances[row].tolist())
            keys = ("file", "label", "distance")
            about[descriptor] = [
                dict(zip(keys, (store.files[j], store.labels[j], distance))) for j, distance in near
            ]
        with plt.rc_context():
            figures.use_style()
            fig, axes = figures.grid(len(hits), 1 + k, left=0.5)
            figures.retrieval(axes, queries, store, hits, rows=[row])
            fig.savefig(png)
            plt.close(fig)
        write_atomically(png.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
        written[file] = png
    return written, unreadable


def _reason(file: str) -> str:
    """Returns why an image cannot be read, "" if it can."""
    try:
        open_image(file)
    except UnreadableImage as error:
        return str(error)
    return ""


def _result(folder: Path, file: str) -> Path:
    """Returns query_<stem>.png, with a number where another image has that stem."""
    stem = "query_" + re.sub(r"[^\w.-]+", "_", Path(file).stem)[:50]
    for number in itertools.count(1):
        taken = folder / (f"{stem}.json" if number == 1 else f"{stem}_{number}.json")
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of somebody else
            if not taken.exists() or json.loads(taken.read_text(encoding="utf-8"))["file"] == file:
                break
    return folder / f"{taken.stem}.png"
