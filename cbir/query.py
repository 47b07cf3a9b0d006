"""Here is my picture: its nearest images in a store by each descriptor, drawn and as JSON."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from . import figures
from .common import AnyPath, Metric, write_atomically
from .images import ImageSet, UnreadableImage, is_csv, list_images, open_image
from .networks import Network
from .search import search
from .store import Store


def hits_record(file: str, store: Store, metric: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Arranges what each descriptor found for a file, {name: (rows, distances)}, for JSON."""
    about = {"file": file, "root": str(store.root), "metric": metric}
    for name, (rows, distances) in found.items():
        table = store.table.loc[rows, ["file", "label"]].assign(distance=distances)
        about[name] = table.to_dict("records")
    return about


def safe_stem(file: AnyPath) -> str:
    """Returns a file's name without suffix, at most 50 characters that any file may have."""
    return re.sub(r"[^\w.-]+", "_", Path(file).stem)[:50]


def query(
    images: Iterable[AnyPath],
    store: Store,
    net: Network | None = None,
    descriptors: Iterable[str] = ("h", "eta_conv", "eta"),
    metric: Metric = "l1",
    k: int = 5,
    folder: AnyPath = ".",
) -> tuple[dict[str, Path], dict[str, str]]:
    """Searches for files; writes query_<stem>.png and query_<stem>.json for each into a folder.

    A CSV stands for its images. A name that another image's result has gets a number. The JSON
    holds "file", "root" (the store's image folder), "metric" and, per descriptor, a list of
    {"file", "label", "distance"}. By default the store names the network; `descriptors`, `metric`
    and `k` are as in `search`.

    Returns:
        The .png of every image (file -> path), and what could not be read (file -> reason).

    Raises:
        ValueError: the store does not have a descriptor; and what `search` raises.
    """
    readable: list[str] = []
    written: dict[str, Path] = {}
    unreadable: dict[str, str] = {}
    files: list[AnyPath] = []
    for image in images:
        listed = list_images(image) if is_csv(image) else None
        files += map(listed.path, range(len(listed))) if listed else [image]
    for file in dict.fromkeys(map(str, files)):
        try:
            open_image(file)
            readable.append(file)
        except UnreadableImage as error:
            unreadable[file] = str(error)
    if not readable:
        return written, unreadable
    hits = search(store, readable, list(descriptors), metric=metric, k=k, net=net)
    queries = ImageSet(Path(), readable, [""] * len(readable))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for row, file in enumerate(readable):
        png = _result(Path(folder), file)
        found = {name: (of.indices[row], of.distances[row]) for name, of in hits.items()}
        with plt.rc_context():
            figures.use_style()
            fig, axes = figures.grid(len(hits), 1 + k, left=0.5)
            figures.retrieval(axes, queries, store, hits, rows=[row])
            fig.savefig(png)
            plt.close(fig)
        about = json.dumps(hits_record(file, store, metric, found), indent=1)
        write_atomically(png.with_suffix(".json"), about + "\n")
        written[file] = png
    return written, unreadable


def _result(folder: Path, file: str) -> Path:
    """Returns query_<stem>.png, with a number where another image has that stem."""
    stem = f"query_{safe_stem(file)}"
    for number in itertools.count(1):
        taken = folder / (f"{stem}.json" if number == 1 else f"{stem}_{number}.json")
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of somebody else
            if not taken.exists() or json.loads(taken.read_text(encoding="utf-8"))["file"] == file:
                break
    return folder / f"{taken.stem}.png"
