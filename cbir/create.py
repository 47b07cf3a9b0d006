"""Making a store: an empty one for some images, one writer at a time, and whether one fits.

A store is only completed with the settings that made it. store.py says what a store is.
"""

import math
import os
import re
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
from .images import Images
from .labels import is_part
from .networks import Network
from .shards import LEVEL, Zarr
from .store import (
    FORMAT,
    UNFINISHED,
    Extras,
    Store,
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
    images, net, recipe, extras, dtype = settings
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
    group.create_array("sizes", data=_file_sizes(images), chunks=(n,), **stored)
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


def _file_sizes(images: Images) -> NDArray[np.int64]:
    """Bytes of every file, (N,) int64; -1 where it cannot be asked."""
    found = np.full(len(images), -1, dtype=np.int64)
    for i in range(len(images)):
        try:
            found[i] = images.path(i).stat().st_size
        except (OSError, ValueError):
            continue
    return found


def check_same(store: Store, settings: Settings) -> None:
    """Raises ValueError, naming what differs, where other images or settings made a store."""
    images, net, recipe, extras, dtype = settings
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
    differences += _other_images(store, images)
    if differences:
        raise ValueError(
            f"the store {store.location} was made with other settings ({'; '.join(differences)}). "
            "Delete it or choose another path (another run name)."
        )


def _other_images(store: Store, images: Images) -> list[str]:
    """In what the images differ from those that a store was made of; nothing where they do not."""
    files = _unicode(images.files)
    if store.files != files:
        n_other = len(set(store.files) ^ set(files))
        return [f"images: {len(store)} files, now {len(images)}; {n_other} names differ"]
    if store.root != images.root:
        return [f"image folder: {store.root}, now {images.root}"]
    changed = np.flatnonzero(store.sizes != _file_sizes(images))
    if len(changed) == 0:
        return []
    return [
        f"{len(changed)} files have another size than when they were described, "
        f"first {files[changed[0]]}"
    ]
