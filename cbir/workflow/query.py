"""Here is my picture: its nearest images in a store, by each descriptor, as a picture and as JSON."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import figures, labels
from ..common import AnyPath, Metric, did_you_mean
from ..decoding import UnreadableImage, open_image
from ..networks import Network
from ..search import search
from ..store import Store, open_store
from ..zoo import load_network
from . import project
from .project import runs_folder
from .run import Run


def open_database(run: str = "embedded", store: AnyPath = "", weights: str | None = "") -> tuple[Store, Network]:
    """The store of a run's database, or another one, and the network that made it: (`Store`, `Network`).

    store: a path or URL; "": the run's. weights: as in `load_network`; "": the run's, else the default.
    Raises FileNotFoundError for a run without descriptors, and what `open_store` and `load_network` raise.
    """
    if not store:
        store = runs_folder() / run / "stores" / "database"
        if not store.is_dir():
            raise FileNotFoundError(f"no run {run!r} with descriptors in {runs_folder()}{did_you_mean(run, project.runs())}: run `cbir reproduce` first, "
                                    f"or give a store; runs that have one: {', '.join(project.runs()) or 'none'}")
        known = Run(run).metrics
        made = known.get("parameters_of", {}).get("02_extraction") or known.get("parameters", {})
        weights = made.get("weights", "default") if weights == "" else weights
    store = open_store(store)
    return store, load_network(store.network["name"], weights="default" if weights == "" else weights, crop="CenterCrop" in store.network["transform"],
                               precision=store.network.get("precision", "float32"))


def query(images: Iterable[AnyPath], store: Store, net: Network | None = None, descriptors: Iterable[str] = ("h", "eta_conv", "eta"), metric: Metric = "l1",
          k: int = 5, folder: AnyPath = ".") -> tuple[dict[str, Path], dict[str, str]]:
    """Writes query_<stem>.png and query_<stem>.json into `folder` for every image.

    Returns (pictures, unreadable): the .png of every image (dict: file -> path), and what could not be read (dict: file -> reason).

    images: files. store: an open store. net: the network that made it, default the one that the store names. k, metric: see `search`.
    The JSON: {"file", "root" (the store's image folder), "metric", <descriptor>: [{"file", "label", "distance"}, ..] nearest first}.
    A retrieved image that is no longer there keeps its place in both and is grey in the picture.
    Raises ValueError as `search` does, and for a descriptor that the store does not have.
    """
    pictures, unreadable = {}, {}
    for file in dict.fromkeys(map(str, images)):
        try:
            pictures[file] = np.asarray(open_image(file))
        except UnreadableImage as error:
            unreadable[file] = str(error)
    if not pictures:
        return {}, unreadable
    hits = search(store, list(pictures), list(descriptors), metric=metric, k=k, net=net)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    written: dict[str, Path] = {}
    for i, (file, picture) in enumerate(pictures.items()):
        found = {d: [{"file": store.files[j], "label": store.labels[j], "distance": float(x)} for j, x in zip(h.indices[i], h.distances[i])]
                 for d, h in hits.items()}
        path = folder / _name(file, taken)
        with plt.rc_context():
            written[file] = path.with_name(f"{path.name}.png")
            _draw(picture, found, store).savefig(written[file])
            plt.close()
        path.with_name(f"{path.name}.json").write_text(
            json.dumps({"file": file, "root": str(store.root), "metric": metric, **found}, indent=1) + "\n", encoding="utf-8")
    return written, unreadable


def _draw(picture: NDArray[np.uint8], found: Mapping[str, Sequence[Mapping[str, Any]]], store: Store) -> Figure:
    """The query beside its nearest images, one row a descriptor, as notebook 03 draws them."""
    figures.use_style()
    fig, axes = figures.grid(len(found), 1 + max(map(len, found.values())), left=0.5)
    figures.retrieval(axes, [[picture] + [_picture(store.root / hit["file"]) for hit in row] for row in found.values()],
                      [[""] + [hit["label"] for hit in row] for row in found.values()],
                      [[hit["distance"] for hit in row] for row in found.values()], names=[labels.symbol(d) for d in found])
    return fig


def _picture(path: Path) -> NDArray[np.uint8]:
    try:
        return np.asarray(open_image(path))
    except UnreadableImage:
        return np.full((8, 8, 3), 200, np.uint8)


def _name(file: str, taken: set[str]) -> str:
    """query_<stem>, fit for any file system, with a number where another image has that stem already."""
    stem = name = "query_" + re.sub(r"[^\w.-]+", "_", Path(file).stem)[:50]
    n = 1
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    taken.add(name)
    return name
