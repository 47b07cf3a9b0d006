"""Making a store: an empty one for some images, one writer at a time, and whether one fits.

A store is only completed with the settings that made it. Where its folder has other images by now,
a new store takes its place, with the rows of the images that stay. store.py says what a store is.
"""

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from .coarse import record_size
from .common import AnyPath, Dtype
from .descriptors import Recipe
from .images import KNOWS_HEIC, NEEDS_HEIC, Images
from .names import is_part
from .networks import Network
from .shards import LEVEL, Zarr
from .store import (
    FORMAT,
    UNFINISHED,
    Extras,
    Store,
    find_store,
    layer_widths,
    local,
    open_group,
    searched,
    shared_store,
)

PACKAGES = ("cbir", "torch", "torchvision", "numpy", "zarr", "pillow")  # whose versions it keeps
CHUNK = 2**15  # bytes that are read, and compressed, for one row
ALWAYS_THERE = (
    "codes",
    "conv",
    "coarse",
    "files",
    "labels",
    "state",
    "sizes",
    "h",
    "eta",
    "eta_conv",
)


class Settings(NamedTuple):
    """What makes a store: the arguments of `cbir.extract` that every row depends on."""

    images: Images
    sizes: NDArray[np.int64]  # of their files, see `file_sizes`
    net: Network
    recipe: Recipe
    extras: Extras
    dtype: Dtype


def check_name(name: str) -> None:
    """Raises ValueError for a name that no extra descriptor can have."""
    if not re.fullmatch(r"\w[\w.=-]*", name) or name in ALWAYS_THERE or is_part(name):
        raise ValueError(
            f"{name!r} can be no extra's name: letters, digits, '_', '-', '=' and '.', and none "
            "that every store has"
        )


def create_store(
    path: AnyPath, settings: Settings, widths: Mapping[str, int], shard_size: int
) -> Store:
    """A new, empty store for some images.

    It is never half made: in a folder it is written aside and moved into place, at a URL it counts
    as none until its attributes are complete.

    Args:
        path: a folder or URL where nothing is yet.
        settings: what the store is made by.
        widths: {array name: D}.
        shard_size: rows of a shard.

    Raises:
        FileExistsError: something else lies at `path`.
    """
    images, sizes, net, recipe, extras, dtype = settings
    path = local(path)
    n = len(images)
    attributes = {
        "format": FORMAT,
        "root": str(images.root),
        "network": net.provenance,
        "recipe": recipe,
        "dims": net.shapes,
        "extras": extras,
        "versions": {package: version(package) for package in PACKAGES},
    }
    group = _new_group(path)
    stored: dict[str, Any] = {
        "compressors": ZstdCodec(level=LEVEL, checksum=True),
        "config": {"write_empty_chunks": True},  # of this array object: group[name] has it no more
    }
    shard = min(shard_size, n)
    for name, width in widths.items():
        group.create_array(
            name,
            shape=(n, width),
            chunks=(_rows_together(shard, width), max(1, width)),
            shards=(shard, max(1, width)),
            dtype=dtype,
            fill_value=float("nan"),
            **stored,
        )
    for name in searched(widths, extras):
        size = record_size(layer_widths(net.shapes, extras, name, widths[name]))
        group.create_array(
            f"coarse/{name}",
            shape=(n, size),
            chunks=(shard, max(1, size)),
            dtype=np.uint8,
            compressors=Crc32cCodec(),
            config={"write_empty_chunks": True},
        )
    text: dict[str, Any] = {"shape": (n,), "dtype": str, "fill_value": "", **stored}
    for name, values in [("files", images.files), ("labels", images.labels)]:
        array = group.create_array(name, chunks=(n,), **text)
        array[:] = np.array(_unicode(values), dtype=object)
    group.create_array("state", chunks=(shard,), **text)
    group.create_array("sizes", data=sizes, chunks=(n,), **stored)
    group.attrs.put(attributes)
    if isinstance(path, Path):
        _aside(path).rename(path)
    return shared_store(path)


def _rows_together(shard: int, width: int) -> int:
    """Rows of a chunk within a shard: about `CHUNK` bytes, and whole chunks fill the shard."""
    most = max(1, CHUNK // max(1, 4 * width))
    return math.gcd(shard, 2 ** int(math.log2(most)))


def _new_group(path: Path | str) -> Zarr:
    """An empty group, aside of a folder's place or at a URL."""
    options: dict[str, Any] = {"zarr_format": 3, "attributes": {"format": UNFINISHED}}
    if isinstance(path, Path):
        if path.exists():
            raise FileExistsError(f"{path} exists and is no descriptor store: choose another path")
        return zarr.open_group(_aside(path), mode="w", **options)
    begun = open_group(path)
    if begun is not None and begun.attrs.get("format") == UNFINISHED:
        return zarr.open_group(path, mode="w", **options)
    return zarr.open_group(path, mode="w-", **options)  # what else lies there is somebody's


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


@contextmanager
def locked(path: AnyPath) -> Iterator[None]:
    """One process at a time writes a store that lies in a folder; BlockingIOError for another.

    Where there are no locks (object storage), two processes do the same work twice and write the
    same bytes.
    """
    path = local(path)
    if not isinstance(path, Path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path.parent / f".{path.name}.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise BlockingIOError(
            f"another process is describing images into {path}: wait for it, or choose another path"
        ) from None


def _unicode(names: Sequence[str]) -> list[str]:
    """File names as Unicode; bytes that are none are spelt out, rather than an error."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def file_sizes(images: Images) -> NDArray[np.int64]:
    """Bytes of every file, (N,) int64; -1 where it cannot be asked."""
    found = np.full(len(images), -1, dtype=np.int64)
    for i in range(len(images)):
        try:
            found[i] = images.path(i).stat().st_size
        except (OSError, ValueError):
            continue
    return found


def check_settings(store: Store, settings: Settings) -> None:
    """Raises ValueError, naming what differs, where other settings made a store."""
    differences = _differences(store, settings)
    if differences:
        raise ValueError(
            f"the store {store.location} was made with other settings ({'; '.join(differences)}). "
            "Delete it or choose another path (another run name)."
        )


def _differences(store: Store, settings: Settings) -> list[str]:
    """The settings that a store was not made with, but for the images."""
    _, _, net, recipe, extras, dtype = settings
    compared: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("network ", store.network, net.provenance),
        ("recipe ", store.recipe, recipe),
        ("extras ", store.extras, extras),
        ("", {"dtype": str(store.conv.dtype)}, {"dtype": dtype}),
    ]
    differences = []
    for what, then, now in compared:
        for key in {**then, **now}:
            if then.get(key) != now.get(key):
                differences.append(f"{what}{key}: {then.get(key)!r}, now {now.get(key)!r}")
    return differences


def has_images(store: Store, settings: Settings) -> bool:
    """Whether a store was made of just these files, in this order, as they are now.

    Files that are out of reach, on a disk that is away, say, count as they were.
    """
    images, sizes = settings.images, settings.sizes
    if store.root != images.root or store.files != _unicode(images.files):
        return False
    same = (sizes < 0) | (sizes == store.sizes)
    return bool(same.all()) and not _may_be_read_now(store)


def _may_be_read_now(store: Store) -> bool:
    """Whether an image was skipped for want of a package that is there by now."""
    return KNOWS_HEIC and any(NEEDS_HEIC in reason for reason in store.unreadable.values())


# ---- a folder that has other images by now ------------------------------------------------------


class Earlier(NamedTuple):
    """A store whose folder has changed since, and what of it can be kept.

    row_before: (N,) int64; for each image now its row in `store`, -1 where it must be described.
    """

    store: Store
    row_before: NDArray[np.int64]

    def is_new(self, rows: slice) -> NDArray[np.bool_]:
        """Which images of a shard must be described, (n,) bool."""
        return self.row_before[rows] < 0

    def with_kept(
        self,
        rows: slice,
        arrays: Mapping[str, NDArray[np.floating]],
        state: NDArray[np.object_],
    ) -> tuple[dict[str, NDArray[np.floating]], NDArray[np.object_]]:
        """A shard's arrays {name: (n, D)} and state (n,), from those of its new images alone."""
        new = self.is_new(rows)
        kept = self.row_before[rows][~new]
        whole = {}
        for name, described in arrays.items():
            whole[name] = np.empty((len(new), described.shape[1]), described.dtype)
            whole[name][new] = described
            whole[name][~new] = self.store.read(name, kept)
        states = np.empty(len(new), dtype=object)
        states[new] = state
        states[~new] = self.store.states()[kept]
        return whole, states


def find_earlier(path: AnyPath, settings: Settings, shrink: bool) -> Earlier | None:
    """The store at `path`, if it is there and its folder has changed since.

    Raises ValueError where other settings made it, or where it has mostly other images.
    """
    store = find_store(path)
    if store is None:
        return None
    check_settings(store, settings)
    if has_images(store, settings):
        return None
    earlier = Earlier(store, _kept_rows(store, settings))
    _check_followed(earlier, settings.images, shrink)
    return earlier


def place_of_next(path: AnyPath) -> Path:
    """Where the store is made that is to take the place of the one at `path`."""
    return _beside(path, "next")


def open_or_drop_next(path: AnyPath, settings: Settings) -> Store | None:
    """The store that was begun to take a place; what is of no use there is removed."""
    place = place_of_next(path)
    try:
        begun = find_store(place)
    except ValueError:
        begun = None
    if begun and not _differences(begun, settings) and has_images(begun, settings):
        return begun
    shutil.rmtree(place, ignore_errors=True)
    return None


def put_in_place(path: AnyPath) -> None:
    """Puts the next store, which is complete, in the place of the earlier one."""
    before = _beside(path, "before")
    place = Path(local(path)).resolve()
    place.rename(before)
    place_of_next(path).rename(place)
    shutil.rmtree(before)


def recover(path: AnyPath) -> None:
    """Ends a `put_in_place` that was interrupted: puts the earlier store back, or removes it."""
    if "://" in str(local(path)):
        return
    before = _beside(path, "before")
    if before.is_dir() and not Path(local(path)).exists():
        before.rename(Path(local(path)).resolve())
    shutil.rmtree(before, ignore_errors=True)


def drop(path: AnyPath) -> None:
    """Removes a store; one that is half removed is not in its place any more."""
    dropped = _beside(path, "dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    Path(path).rename(dropped)
    shutil.rmtree(dropped)


def _beside(path: AnyPath, what: str) -> Path:
    """A hidden folder beside a store; beside what a link leads to."""
    path = Path(local(path)).resolve()
    return path.with_name(f".{path.name}.{what}")


def _kept_rows(store: Store, settings: Settings) -> NDArray[np.int64]:
    """For each image the row that has it in a store of the same folder, -1 where none has.

    It is the same image where name and size are, or where its file is out of reach. What could not
    be read is tried again.
    """
    kept = store.described
    for shard in store.missing():
        kept[shard] = False
    row_of = {store.files[row]: row for row in np.flatnonzero(kept)}
    rows = np.full(len(settings.images), -1)
    for i, (file, size) in enumerate(zip(_unicode(settings.images.files), settings.sizes)):
        row = row_of.get(file, -1)
        if row >= 0 and size in (-1, store.sizes[row]):
            rows[i] = row
    return rows


def _check_followed(earlier: Earlier, images: Images, shrink: bool) -> None:
    """Raises ValueError for a store of another folder, or one most of whose images would go."""
    store = earlier.store
    n_gone = len(set(store.files) - set(_unicode(images.files)))
    differs = ""
    if store.root != images.root:
        differs = f"its images are in {store.root}, these in {images.root}"
    elif 2 * n_gone > len(store) and not shrink:
        differs = f"{n_gone} of its {len(store)} images are not among these"
    elif "://" in store.location:
        differs = "its folder has changed since, and only a store on disk can follow"
    if differs:
        raise ValueError(
            f"the store {store.location} was made of other images: {differs}. "
            "Delete it or choose another path (another run name)."
        )
