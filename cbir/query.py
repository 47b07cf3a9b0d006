"""Here is my picture: its nearest images in a store by each descriptor, drawn and as JSON."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt

from . import figures, project
from . import figures as canvas
from .common import AnyPath, Metric, write_atomically
from .images import ImageSet, UnreadableImage, open_image
from .networks import Network
from .run import Run
from .search import Hits, search
from .store import Store, open_store
from .zoo import network_of


def open_database(
    run: str = "embedded", store: AnyPath = "", weights: str | None = ""
) -> tuple[Store, Network]:
    """Opens the store of a run's database, or another one, and loads the network that made it.

    Args:
        run: a run's name, unused where `store` is given.
        store: a path or URL; "": the run's.
        weights: as in `load_network`; "": the run's, else the default.

    Returns:
        The store and its network.

    Raises:
        FileNotFoundError: the run has no descriptors; and what `open_store` and `network_of` raise.
    """
    if not store:
        store = project.database_of(run)
        if weights == "":
            weights = _weights_of(run)
    if weights == "":
        weights = "default"
    opened = open_store(store)
    folder = Path(opened.location).parent
    return opened, network_of(opened.network, weights=weights, folder=folder)


def _weights_of(run: str) -> str | None:
    """The weights that notebook 02 was given."""
    metrics = Run(run).metrics
    by_notebook = metrics.get("parameters_of", {})
    parameters = by_notebook.get("02_extraction") or metrics.get("parameters", {})
    return parameters.get("weights", "default")


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

    A name that an earlier result of another image has gets a number.
    The JSON holds "file", "root" (the store's image folder), "metric" and, for every descriptor, a
    list of {"file", "label", "distance"}, nearest first. A retrieved image that is no longer there
    keeps its place in both, and is grey in the picture.

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
    readable: list[str] = []
    unreadable: dict[str, str] = {}
    for file in dict.fromkeys(map(str, images)):
        try:
            open_image(file)
        except UnreadableImage as error:
            unreadable[file] = str(error)
        else:
            readable.append(file)
    if not readable:
        return {}, unreadable
    hits = search(store, readable, list(descriptors), metric=metric, k=k, net=net)
    queries = ImageSet(Path(), readable, [""] * len(readable))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: set[str] = set()
    written: dict[str, Path] = {}
    for row, file in enumerate(readable):
        name = _unused_name(folder, file, names)
        names.add(name)
        written[file] = folder / f"{name}.png"
        _draw(queries, store, hits, row, written[file])
        about: dict[str, object] = {"file": file, "root": str(store.root), "metric": metric}
        for descriptor, found in hits.items():
            about[descriptor] = _found(store, found, row)
        write_atomically(folder / f"{name}.json", json.dumps(about, indent=1) + "\n")
    return written, unreadable


def _found(store: Store, hits: Hits, row: int) -> list[dict[str, str | float]]:
    """What one query found, for the JSON."""
    return [
        {"file": store.files[j], "label": store.labels[j], "distance": float(distance)}
        for j, distance in zip(hits.indices[row], hits.distances[row])
    ]


def _draw(queries: ImageSet, store: Store, hits: Mapping[str, Hits], row: int, path: Path) -> None:
    """Saves a query beside its nearest images, one row a descriptor, as notebook 03 draws them."""
    k = max(found.indices.shape[1] for found in hits.values())
    with plt.rc_context():
        canvas.use_style()
        fig, axes = canvas.grid(len(hits), 1 + k, left=0.5)
        figures.retrieval(axes, queries, store, hits, rows=[row])
        fig.savefig(path)
        plt.close(fig)


def _unused_name(folder: Path, file: str, taken: set[str]) -> str:
    """query_<stem>, fit for any file system, with a number where another image has that stem."""
    stem = "query_" + re.sub(r"[^\w.-]+", "_", Path(file).stem)[:50]
    name = stem
    number = 1
    while name in taken or _is_of_another(folder / f"{name}.json", file):
        number += 1
        name = f"{stem}_{number}"
    return name


def _is_of_another(result: Path, file: str) -> bool:
    """Whether an earlier result is there, and not of this image."""
    if not result.exists():
        return False
    try:
        return json.loads(result.read_text(encoding="utf-8")).get("file") != file
    except (ValueError, AttributeError):
        return True
