"""The descriptor store: one Zarr v3 group, row i = image i, in a folder or at any fsspec URL.

    codes     (N, D_1 + D_2)   y_{N+1}, y_{N+2}                        float32, or float16 where the user wants half the size
    conv      (N, sum C_m)     eta tilde
    <name>    (N, D)           one array for every extra descriptor
    files, labels, state       (N,) str; state: "" not described yet, "ok", or why the image could not be read
    sizes     (N,) int64       bytes of each file when the store was made, -1 where it could not be asked
    attributes                 format, root, network, recipe, extras, dims, versions

All arrays are cut at the same rows, one file a cut (a shard), and a shard's `state` is written last, each file atomically and with a
checksum: what is there is complete. h, eta_conv, eta and the parts y_6, w_1, .. are views: nothing is stored twice. An unreadable
image keeps its row, filled with NaN.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import filelock
import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from .common import AnyPath, Dtype, did_you_mean
from .descriptors import Recipe
from .images import Images
from .networks import Network, Shapes

Zarr: TypeAlias = Any  # an array or a group: zarr's own hints make each item of either a union of all that it might be
Part = tuple[str, int, int]  # array name, first column, last column + 1
Extras = Mapping[str, str | Recipe]
Index = int | np.integer | slice | Sequence[int] | NDArray[np.integer]

FORMAT = "cbir-2"
UNFINISHED = f"{FORMAT} being made"
MOST = 10 ** 8  # images in a store; more can only be a damaged or hostile one


class Rows:
    """Columns of Zarr arrays side by side, read from disk when indexed: `rows[5]`, `rows[2:9]`, `rows[[3, 1]]`, `rows[:]`; float32.

    Raises ValueError where a shard is damaged.
    """

    def __init__(self, *parts: tuple[Zarr, int, int]) -> None:
        self.parts = parts  # (array, first column, last column + 1)
        self.shape = (parts[0][0].shape[0], sum(b - a for _, a, b in parts))
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index) -> NDArray[np.float32]:
        return np.concatenate([_read(array, rows)[..., a:b] for array, a, b in self.parts], axis=-1, dtype=np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def _read(array: Zarr, rows: Index) -> NDArray[Any]:
    """Rows of a Zarr array (or of one in memory), however they are named; ValueError where a shard is damaged."""
    try:
        if isinstance(rows, (int, np.integer, slice)) or isinstance(array, np.ndarray):
            return array[rows]
        rows = np.asarray(rows)
        return array.oindex[rows if rows.size else rows.astype(int)]
    except RuntimeError as error:  # zstd's: checksum, truncation
        raise ValueError(f"a shard of {array.name!r} in {array.store} is damaged ({error}): find its file by `cbir.open_store(path).damaged()`, "
                         "delete it and run cbir.extract again") from error


class Store:
    """An open store. `len(st)`, `st.files`, `st.labels` (lists of str), `st.h`, `st.eta_conv`, `st.eta` (`Rows`), `st[name]` (`Rows` of any
    of `st.descriptors`, or of several joined by "+"), `st.unreadable` (dict: file -> reason), `st.described` (N,) bool, `st.recipe`,
    `st.network` (dicts)."""

    def __init__(self, group: Zarr, path: AnyPath) -> None:
        self._group, self.location = group, str(path)
        self.codes, self.conv, self._state = group["codes"], group["conv"], group["state"]
        self.root = Path(group.attrs["root"])
        attributes: dict[str, Any] = dict(group.attrs)
        self.network: dict[str, Any] = attributes["network"]
        self.recipe: Recipe = attributes["recipe"]
        self.extras: dict[str, str | Recipe] = attributes["extras"]
        self.dims: Shapes = attributes["dims"]
        self.versions: dict[str, str] = attributes["versions"]
        self.computed = 0  # rows that the call of `extract` that returned this store had to compute
        blocks = [channels for channels, *_ in self.dims["blocks"]]
        self.arrays: dict[str, Zarr] = {name: group[name] for name in ("codes", "conv", *self.extras)}
        whole = {name: [(name, 0, array.shape[1])] for name, array in self.arrays.items()}
        self.descriptors = {"h": whole.pop("codes"), "eta_conv": whole.pop("conv")}
        self.descriptors["eta"] = self.descriptors["h"] + self.descriptors["eta_conv"]
        for array, letter, first, widths in [("conv", "w", 1, blocks), ("codes", "y", len(blocks) + 1, self.dims["codes"])]:
            ends = list(accumulate(widths, initial=0))
            self.descriptors |= {f"{letter}_{m}": [(array, *ends[i:i + 2])] for i, m in enumerate(range(first, first + len(widths)))}
        self.descriptors |= whole

    def __len__(self) -> int:
        return self.conv.shape[0]

    def __repr__(self) -> str:
        extras = f", extras {', '.join(self.extras)}" if self.extras else ""
        return (f"<cbir store: {len(self)} images, {len(self.unreadable)} unreadable, h {self.h.shape[1]}, "
                f"eta_conv {self.eta_conv.shape[1]} dimensions{extras}, network {self.network['name']}>")

    def parts(self, descriptor: str) -> list[Part]:
        """What a descriptor is made of: [(array name, first column, last column + 1), ..]. Raises ValueError for an unknown one."""
        unknown = [name for name in descriptor.split("+") if name not in self.descriptors]
        if unknown:
            raise ValueError(f"unknown descriptor {unknown[0]!r}{did_you_mean(unknown[0], self.descriptors)}: this store has {tuple(self.descriptors)}, and sums of them ('h+w_1')")
        return [part for name in descriptor.split("+") for part in self.descriptors[name]]

    def __getitem__(self, descriptor: str) -> Rows:
        return Rows(*((self.arrays[name], a, b) for name, a, b in self.parts(descriptor)))

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython and Jupyter offer after `st["`."""
        return list(self.descriptors)

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        """Rows (slice) of one array of `st.arrays`, as stored. Raises ValueError where a shard is damaged."""
        return _read(self.arrays[name], rows)

    @property
    def h(self) -> Rows:
        """Eq. 7: (N, D_1 + D_2)."""
        return self["h"]

    @property
    def eta_conv(self) -> Rows:
        """Eq. 15: (N, sum C_m)."""
        return self["eta_conv"]

    @property
    def eta(self) -> Rows:
        """Eq. 16: (N, D_1 + D_2 + sum C_m)."""
        return self["eta"]

    @cached_property
    def files(self) -> list[str]:
        return _read(self._group["files"], slice(None)).tolist()

    @cached_property
    def labels(self) -> list[str]:
        return _read(self._group["labels"], slice(None)).tolist()

    def path(self, i: int) -> Path:
        """Where image i lies (or lay, when it was described)."""
        return self.root / self.files[i]

    @property
    def described(self) -> NDArray[np.bool_]:
        return _read(self._state, slice(None)) == "ok"

    @property
    def unreadable(self) -> dict[str, str]:
        return {self.files[i]: s for i, s in enumerate(self._state[:].tolist()) if s not in ("", "ok")}

    @property
    def shards(self) -> list[slice]:
        """The rows of every shard (list of slice)."""
        size = self._state.chunks[0]
        return [slice(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def missing(self) -> list[slice]:
        """The shards that are still to be described (list of slice), those among them whose files were lost."""
        state, lost = self._state[:], {rows.start for rows, _ in self.damaged(lost_only=True)}
        return [rows for rows in self.shards if rows.start in lost or (state[rows] == "").any()]

    def damaged(self, lost_only: bool = False) -> list[tuple[slice, str]]:
        """Shards marked complete that cannot be read: [(slice, file within the store), ..]; reads everything unless `lost_only`."""
        state, shards, found = self._state[:], self.shards, []
        done = [i for i, rows in enumerate(shards) if (state[rows] != "").all()]
        for name, array in self.arrays.items():
            there = sync(_keys(array)) if array.shape[1] else ()
            for i in done if array.shape[1] else ():
                rows, file = shards[i], f"{name}/c/{i}/0"
                try:
                    described = state[rows] == "ok"
                    bad = f"{array.path}/c/{i}/0".lstrip("/") not in there and described.any()
                    bad = bad or not lost_only and described.any() and np.isnan(_read(array, rows)[described, 0]).any()
                except ValueError:
                    bad = True
                if bad:
                    found.append((rows, file))
        return found

    def write(self, rows: slice, arrays: Mapping[str, NDArray[np.floating]], state: Sequence[str] | NDArray[Any]) -> None:
        """One whole shard: {array name: (n, D) float}, state: n strings. Marked complete last."""
        for name, array in self.arrays.items():
            array[rows] = arrays[name]
        self._state[rows] = np.array(state, dtype=object)


async def _keys(array: Zarr) -> set[str]:
    """The files of an array."""
    return {key async for key in array.store.list_prefix(f"{array.path}/")}


def local(path: AnyPath) -> Path | str:
    """A `Path`, or as str the URL of a store that lies elsewhere; file:// is local."""
    path = os.fspath(path).removeprefix("file://")
    return path if "://" in path else Path(path).expanduser()


def check_name(name: str) -> None:
    """Raises ValueError for what is no name of an extra descriptor: an array of the store has it, and figures, and `st[name]`."""
    if not re.fullmatch(r"\w[\w.=-]*", name) or re.fullmatch(r"codes|conv|files|labels|state|sizes|h|eta|eta_conv|[wy]_\d+", name):
        raise ValueError(f"{name!r} can be no extra's name: letters, digits, '_', '-', '=' and '.', and none that every store has")


def open_store(path: AnyPath) -> Store:
    """The store at `path`, a folder or a URL. Raises FileNotFoundError where there is none, ValueError for another format or for
    shards whose files were lost."""
    store = find_store(path)
    if store is None:
        raise FileNotFoundError(f"no descriptor store at {path}: make one with cbir.extract")
    lost = store.damaged(lost_only=True)
    if lost:
        raise ValueError(f"{len(lost)} shard files of the store {path} are lost, first {lost[0][1]}: run cbir.extract again, it describes "
                         "just these images")
    return store


def shared_store(path: AnyPath) -> Store:
    """`find_store` where there must be one: just made, or on a worker of a cluster. Raises FileNotFoundError where there is none."""
    store = find_store(path)
    if store is None:
        raise FileNotFoundError(f"no descriptor store at {path} on this machine: the workers of a cluster must see it under the same path as the one that made it")
    return store


def find_store(path: AnyPath) -> Store | None:
    """The store at `path`, lost shards and all, to be completed; None where there is none, or one whose making was interrupted."""
    path = local(path)
    try:
        group: Zarr = zarr.open_group(path, mode="r+", zarr_format=3)
    except (FileNotFoundError, NotADirectoryError, FileExistsError, zarr.errors.GroupNotFoundError, zarr.errors.ContainsArrayError):
        return None
    if group.attrs.get("format") == UNFINISHED:
        return None
    if group.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} has format {group.attrs.get('format')!r}, this version reads {FORMAT!r}: delete it and extract it again")
    try:
        store = Store(group, path)
        texts = [group[name] for name in ("files", "labels", "sizes")]
        n, shard = len(store), store._state.chunks[0]
        sound = (all(a.shape == (n,) for a in (*texts, store._state)) and all(a.chunks == (n,) for a in texts) and 1 <= n <= MOST
                 and all(a.ndim == 2 and a.shape[0] == n and a.chunks == (shard, max(1, a.shape[1])) and a.dtype.kind == "f" for a in store.arrays.values())
                 and store.codes.shape[1] == sum(store.dims["codes"]) and store.conv.shape[1] == sum(c for c, *_ in store.dims["blocks"]))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is no sound store ({type(error).__name__} {error}): delete it and extract it again") from error
    if not sound:
        raise ValueError(f"{path} is no sound store, its arrays do not fit each other: delete it and extract it again")
    lost = [a.path for a in texts if not sync(_keys(a)) >= {f"{a.path}/c/0".lstrip("/")}]
    if lost:
        raise ValueError(f"the store {path} has lost its {' and '.join(lost)}: delete it and extract it again")
    return store


def create_store(path: AnyPath, images: Images, net: Network, recipe: Recipe, extras: Extras, dtype: Dtype, widths: Mapping[str, int],
                 shard_size: int) -> Store:
    """A new, empty store for an `ImageSet`. extras: {name: what}; widths: {array name: D}.

    Never half made: in a folder it is written aside and moved into place; at a URL it counts as none until its attributes are complete.
    Raises FileExistsError where something else lies there.
    """
    path, n, dims, network = local(path), len(images), net.shapes, net.provenance  # what can fail, before anything is written
    if isinstance(path, Path) and path.exists():
        raise FileExistsError(f"{path} exists and is no descriptor store: choose another path")
    aside = path.with_name(f".{path.name}.new") if isinstance(path, Path) else path
    ours = aside != path or _format(str(path)) == UNFINISHED  # else "w-": what lies at a URL is somebody's, and stays
    group: Zarr = zarr.open_group(aside, mode="w" if ours else "w-", zarr_format=3, attributes={"format": UNFINISHED})
    compressed: dict[str, Any] = {"compressors": ZstdCodec(level=1, checksum=True), "config": {"write_empty_chunks": True}}  # all there, or lost
    for name, width in widths.items():
        group.create_array(name, shape=(n, width), chunks=(min(shard_size, n), max(1, width)), dtype=dtype, fill_value=float("nan"), **compressed)
    for name, values, chunk in [("files", text(images.files), n), ("labels", text(images.labels), n), ("state", [""] * n, shard_size)]:
        array = group.create_array(name, shape=(n,), chunks=(min(chunk, n),), dtype=str, fill_value="", **compressed)
        if name != "state":
            array[:] = np.array(values, dtype=object)
    group.create_array("sizes", data=sizes(images), chunks=(n,), **compressed)
    group.attrs.put({"format": FORMAT, "root": str(images.root), "network": network, "recipe": recipe, "dims": dims,
                     "extras": extras,
                     "versions": {p: version(p) for p in ("cbir", "torch", "torchvision", "numpy", "zarr", "pillow")}})
    if isinstance(aside, Path):
        aside.rename(path)
    return shared_store(path)


def _format(url: str) -> str | None:
    """What the group at a URL says it is; None where there is no group."""
    try:
        group: Zarr = zarr.open_group(url, mode="r", zarr_format=3)
        return group.attrs.get("format")
    except FileNotFoundError:
        return None


@contextmanager
def locked(path: AnyPath) -> Iterator[None]:
    """One process at a time writes a store that lies in a folder. Raises BlockingIOError where another one does.

    Where there are no locks (object storage), two processes do the same work twice and write the same bytes.
    """
    path = local(path)
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.parent / f".{path.name}.lock", timeout=0) if isinstance(path, Path) else nullcontext()
    try:
        with lock:
            yield
    except filelock.Timeout:
        raise BlockingIOError(f"another process is describing images into {path}: wait for it, or choose another path") from None


def text(names: Sequence[str]) -> list[str]:
    """File names as Unicode: bytes that are none come out as \\xe9, so that one odd name does not keep the rest from being stored."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def sizes(images: Images) -> NDArray[np.int64]:
    """Bytes of every file of an `ImageSet`, (N,) int64; -1 where it cannot be asked."""
    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except (OSError, ValueError):
            return -1
    return np.array([size(images.path(i)) for i in range(len(images))], dtype=np.int64)


def check_same(store: Store, images: Images, net: Network, recipe: Recipe, extras: Extras, dtype: Dtype) -> None:
    """Raises ValueError, naming what differs, where a store was not made of these images by this network and recipe."""
    pairs = [("network", store.network, net.provenance), ("recipe", store.recipe, recipe), ("extras", store.extras, extras),
             ("", {"dtype": str(store.conv.dtype)}, {"dtype": dtype})]
    differ = [f"{what} {key}: {mine.get(key)!r}, now {wanted.get(key)!r}".strip()
              for what, mine, wanted in pairs for key in {**mine, **wanted} if mine.get(key) != wanted.get(key)]
    files = text(images.files)
    if store.files != files:
        differ.append(f"images: {len(store)} files, now {len(images)}; {len(set(store.files) ^ set(files))} names differ")
    elif store.root != images.root:
        differ.append(f"image folder: {store.root}, now {images.root}")
    else:
        changed = np.flatnonzero(_read(store._group["sizes"], slice(None)) != sizes(images))
        if len(changed):
            differ.append(f"{len(changed)} files have another size than when they were described, first {files[changed[0]]}")
    if differ:
        raise ValueError(f"the store {store.location} was made with other settings ({'; '.join(differ)}). "
                         "Delete it or choose another path (another run name).")
