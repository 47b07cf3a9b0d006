"""The descriptor store: one Zarr v3 group, row i = image i, in a folder or at any fsspec URL.

    codes     (N, D_1 + D_2)   y_{N+1}, y_{N+2}; float32, or float16 for half the size
    conv      (N, sum C_m)     eta tilde
    <name>    (N, D)           one array for every extra descriptor
    coarse/   (N, bytes) uint8 a byte a value of every array above, for `search`; see coarse.py
    files, labels, state       (N,) str; state: "" not described yet, "ok", or why it is unreadable
    sizes     (N,) int64       bytes of each file when the store was made, -1 where unknown
    attributes                 format, root, network, recipe, extras, dims, versions

All arrays are cut at the same rows into shards, one file each. Within a shard, chunks of a few
rows can be read by themselves. Stores of format cbir-2 have neither such chunks nor `coarse`.

A shard's `state` is written last, and every file atomically and with a checksum: what is there is
complete. h, eta_conv, eta and the parts y_6, w_1, .. are views: nothing is stored twice. An
unreadable image keeps its row, as NaN.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.core.sync import sync

from .coarse import encode, record_size
from .common import AnyPath, did_you_mean
from .descriptors import Recipe, check_recipe
from .names import layer_names
from .networks import Shapes
from .shards import Index, Zarr, is_local, read_bytes, read_rows, write_shard

Part = tuple[str, int, int]  # array name, first column, last column + 1
Extras = Mapping[str, str | Recipe]

FORMAT = "cbir-3"
OLDER = "cbir-2"  # is read and completed as it is
UNFINISHED = f"{FORMAT} being made"
MOST = 10**8  # images in a store; more can only be a damaged or hostile one


class Rows:
    """Columns of arrays side by side, read when indexed: `rows[5]`, `rows[2:9]`, `rows[[3, 1]]`.

    parts: [(Zarr or numpy array, first column, last column + 1), ..]. Items are float32, of
    `rows.shape` (N, D). Raises ValueError where a shard is damaged.
    """

    def __init__(self, *parts: tuple[Zarr, int, int]) -> None:
        self.parts = parts
        self.shape = (parts[0][0].shape[0], sum(end - first for _, first, end in parts))
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index) -> NDArray[np.float32]:
        columns = [_read(array, rows)[..., first:end] for array, first, end in self.parts]
        return np.concatenate(columns, axis=-1, dtype=np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def _read(array: Zarr, rows: Index) -> NDArray[Any]:
    """Rows of a Zarr or numpy array, however they are named."""
    if isinstance(array, np.ndarray):
        return array[rows]
    with _named_damage(array):
        return read_rows(array, rows) if array.ndim == 2 else array[rows]


@contextmanager
def _named_damage(array: Zarr) -> Iterator[None]:
    """Says of which array a shard is damaged, and what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # zstd's: checksum, truncation; ours
        raise ValueError(
            f"a shard of {array.name!r} in {array.store} is damaged ({error}): find its file by "
            "`cbir.open_store(path).damaged()`, delete it and run cbir.extract again"
        ) from error


class Store:
    """An open store of N images.

    Attributes:
        files, labels: N strings each.
        h, eta_conv, eta: (N, D) `Rows`; `store[name]` gives those of any of `descriptors`, or of
            several joined by "+".
        shard_size: rows of a shard.
        described: (N,) bool. unreadable: {file: reason}.
        network, recipe, extras: what made it (dicts).
        computed: rows that the call of `extract` that returned this store had to compute.
    """

    def __init__(self, group: Zarr, path: AnyPath) -> None:
        attributes: dict[str, Any] = dict(group.attrs)
        self._group = group
        self._state: Zarr = group["state"]
        self.shard_size: int = self._state.chunks[0]
        self._final_states: NDArray[Any] | None = None
        self.location = str(path)
        self._folder = _identity(self.location)
        self.root = Path(attributes["root"])
        self.network: dict[str, Any] = attributes["network"]
        self.recipe = check_recipe(**attributes["recipe"])  # older stores know no balance
        self.extras: dict[str, str | Recipe] = {}
        for name, what in attributes["extras"].items():
            self.extras[name] = what if isinstance(what, str) else check_recipe(**what)
        self.dims: Shapes = attributes["dims"]
        self.versions: dict[str, str] = attributes["versions"]
        self.computed = 0
        self.arrays: dict[str, Zarr] = {n: group[n] for n in ("codes", "conv", *self.extras)}
        self.codes, self.conv = self.arrays["codes"], self.arrays["conv"]
        self.coarse: dict[str, Zarr] = {}
        if attributes["format"] == FORMAT:
            self.coarse = {
                name: group[f"coarse/{name}"] for name in searched(self.arrays, self.extras)
            }
        self.descriptors = self._descriptors()

    def layers(self, name: str) -> list[int]:
        """Dimensions of the layers that an array consists of, one after the other."""
        return layer_widths(self.dims, self.extras, name, self.arrays[name].shape[1])

    def _descriptors(self) -> dict[str, list[Part]]:
        """{descriptor: the columns that it is made of}."""
        whole = {name: [(name, 0, array.shape[1])] for name, array in self.arrays.items()}
        h, eta_conv = whole.pop("codes"), whole.pop("conv")
        blocks = [channels for channels, *_ in self.dims["blocks"]]
        block_names, code_names = layer_names(len(blocks), len(self.dims["codes"]))
        joined = {"h": h, "eta_conv": eta_conv, "eta": h + eta_conv}
        blocks_parts = _side_by_side("conv", block_names, blocks)
        codes_parts = _side_by_side("codes", code_names, self.dims["codes"])
        return joined | blocks_parts | codes_parts | whole

    def __len__(self) -> int:
        return self.conv.shape[0]

    def __repr__(self) -> str:
        extras = f", extras {', '.join(self.extras)}" if self.extras else ""
        return (
            f"<cbir store: {len(self)} images, {len(self.unreadable)} unreadable, "
            f"h {self.codes.shape[1]}, eta_conv {self.conv.shape[1]} dimensions{extras}, "
            f"network {self.network['name']}>"
        )

    def parts(self, descriptor: str) -> list[Part]:
        """The columns that a descriptor is made of. Raises ValueError for an unknown one."""
        parts = []
        for name in descriptor.split("+"):
            if name not in self.descriptors:
                raise ValueError(
                    f"unknown descriptor {name!r}{did_you_mean(name, self.descriptors)}: this "
                    f"store has {tuple(self.descriptors)}, and sums of them ('h+w_1')"
                )
            parts += self.descriptors[name]
        return parts

    def __getitem__(self, descriptor: str) -> Rows:
        parts = self.parts(descriptor)
        self._check_in_place()
        return Rows(*((self.arrays[name], first, end) for name, first, end in parts))

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython and Jupyter offer after `st["`."""
        return list(self.descriptors)

    def read(self, name: str, rows: Index) -> NDArray[Any]:
        """Rows of one array of `arrays`, as stored. Raises ValueError where a shard is damaged."""
        self._check_in_place()
        return _read(self.arrays[name], rows)

    def _check_in_place(self) -> None:
        """Raises ValueError where another store lies in this one's place by now."""
        if isinstance(self.conv, np.ndarray):
            return  # it is in memory
        if _identity(self.location) != self._folder:
            raise ValueError(
                f"the store {self.location} was replaced or moved since it was opened, as "
                "cbir.extract does where the folder of images has changed: open it again"
            )

    def read_coarse(self, name: str, shard: int) -> NDArray[np.uint8]:
        """The records of one shard of an array, see `coarse`. Raises ValueError where damaged."""
        self._check_in_place()
        array = self.coarse[name]
        if array.shape[1] == 0:  # h of a network without codes: there is no file
            n_rows = min(self.shard_size, len(self) - shard * self.shard_size)
            return np.empty((n_rows, 0), np.uint8)
        if isinstance(array, np.ndarray):
            return array[shard * self.shard_size : (shard + 1) * self.shard_size]
        with _named_damage(array):
            return read_bytes(array, shard)

    def has_coarse(self, names: Iterable[str]) -> bool:
        """Whether arrays can be searched by their bytes, and their rows then read one by one."""
        found = [self.coarse.get(name) for name in names]
        return all(isinstance(array, np.ndarray) or is_local(array) for array in found)

    def load(self) -> "Store":
        """The same store with its arrays in memory, as float32: the fastest for many searches.

        It takes 4 bytes a value, and one more for `search`. Raises ValueError where a shard is
        damaged.
        """
        _ = self.files, self.labels, self.sizes  # read, so that the copy has them
        loaded = copy(self)
        loaded._final_states = self.states()
        loaded.arrays = {
            name: self.read(name, slice(None)).astype(np.float32, copy=False)
            for name in self.arrays
        }
        loaded.codes, loaded.conv = loaded.arrays["codes"], loaded.arrays["conv"]
        loaded.coarse = {}
        for name in searched(self.arrays, self.extras):
            rows, layers = loaded.arrays[name], self.layers(name)
            loaded.coarse[name] = np.concatenate([encode(rows[s], layers) for s in self.shards])
        return loaded

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
        """N names relative to `root`."""
        return self._read_whole("files").tolist()

    @cached_property
    def labels(self) -> list[str]:
        """N class names, "" for none."""
        return self._read_whole("labels").tolist()

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) bytes of each file when the store was made, -1 where unknown."""
        return self._read_whole("sizes")

    def _read_whole(self, name: str) -> NDArray[Any]:
        self._check_in_place()
        return _read(self._group[name], slice(None))

    def path(self, i: int) -> Path:
        """Where image i lies (or lay, when it was described)."""
        return self.root / self.files[i]

    @property
    def described(self) -> NDArray[np.bool_]:
        """(N,) bool: which images have a descriptor."""
        return self.states() == "ok"

    def states(self) -> NDArray[Any]:
        """(N,) str: "ok", why an image is unreadable, or "" for one that is still to come."""
        if self._final_states is not None:  # no more can come
            return self._final_states
        states = self._read_whole("state")
        if (states != "").all():
            self._final_states = states
        return states

    @property
    def unreadable(self) -> dict[str, str]:
        """{file: why it could not be read}."""
        states = zip(self.files, self.states().tolist())
        return {file: state for file, state in states if state not in ("", "ok")}

    @property
    def shards(self) -> list[slice]:
        """The rows of every shard."""
        size = self.shard_size
        return [slice(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def missing(self) -> list[slice]:
        """The shards that are still to be described, or have lost a file."""
        state = self._state[:]
        lost = {rows.start for rows, _ in self.damaged(lost_only=True)}
        return [rows for rows in self.shards if rows.start in lost or (state[rows] == "").any()]

    def damaged(self, lost_only: bool = False) -> list[tuple[slice, str]]:
        """Files of complete shards that cannot be read: [(rows, file within the store), ..].

        lost_only: only those that are gone; else everything is read.
        """
        state = self._state[:]
        shards = list(enumerate(self.shards))
        complete = [(i, rows) for i, rows in shards if (state[rows] != "").all()]
        damaged = []
        for array in (*self.arrays.values(), *self.coarse.values()):
            files = _files_of(array)
            for i, rows in complete:
                described = state[rows] == "ok"
                if array.shape[1] == 0 or not described.any():
                    continue
                file = f"c/{i}/0"
                if file not in files or not (lost_only or _is_whole(array, i, rows, described)):
                    damaged.append((rows, f"{array.path}/{file}"))
        return damaged

    def write(
        self,
        rows: slice,
        arrays: Mapping[str, NDArray[np.floating]],
        state: Sequence[str] | NDArray[Any],
    ) -> None:
        """Writes a whole shard: {array name: (n, D)}, n states. It is marked complete last."""
        self._final_states = None
        if (self._state[rows] != "").any():  # its files must not be taken for those to come
            self._state[rows] = np.full(rows.stop - rows.start, "", dtype=object)
        for name, array in self.arrays.items():
            if array.shards is None:
                array[rows] = arrays[name]
            else:
                write_shard(array, rows.start // self.shard_size, arrays[name])
        for name, array in self.coarse.items():
            array[rows] = encode(arrays[name], self.layers(name))
        self._state[rows] = np.array(state, dtype=object)


def _identity(location: str) -> int | None:
    """Tells a folder from another one that takes its place; None where there is no folder."""
    try:
        return os.stat(location).st_ino
    except OSError:
        return None


def searched(arrays: Iterable[str], extras: Extras) -> list[str]:
    """The arrays that are kept as bytes too: nobody searches by windows."""
    return [name for name in arrays if extras.get(name) != "windows"]


def layer_widths(dims: Shapes, extras: Extras, name: str, width: int) -> list[int]:
    """Dimensions of the layers of an array: those of the network, or one of all its `width`."""
    blocks = [channels for channels, *_ in dims["blocks"]]
    if name == "codes":
        return list(dims["codes"])
    if name == "conv" or isinstance(extras.get(name), dict):
        return blocks
    return [width]


def _side_by_side(array: str, names: list[str], widths: list[int]) -> dict[str, list[Part]]:
    """Parts that fill an array's columns from left to right: {name: [part]}."""
    parts = {}
    first = 0
    for name, width in zip(names, widths):
        parts[name] = [(array, first, first + width)]
        first += width
    return parts


def _is_whole(array: Zarr, shard: int, rows: slice, described: NDArray[np.bool_]) -> bool:
    """Whether a shard can be read and holds what its state promises."""
    try:
        if array.dtype == np.uint8:
            return len(read_bytes(array, shard)) == len(described)
        return not np.isnan(_read(array, rows)[described, 0]).any()
    except ValueError:
        return False


def _files_of(array: Zarr) -> set[str]:
    """The files of an array: {"zarr.json", "c/0/0", ..}."""

    async def listed(prefix: str) -> set[str]:
        return {key.removeprefix(prefix) async for key in array.store.list_prefix(prefix)}

    return sync(listed(f"{array.path}/"))


def local(path: AnyPath) -> Path | str:
    """A `Path`, or as str the URL of a store that lies elsewhere; file:// is local."""
    path = os.fspath(path).removeprefix("file://")
    return path if "://" in path else Path(path).expanduser()


def open_store(path: AnyPath) -> Store:
    """The store at a folder or URL.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another format, or shards whose files were lost.
    """
    store = find_store(path)
    if store is None:
        raise FileNotFoundError(f"no descriptor store at {path}: make one with cbir.extract")
    lost = store.damaged(lost_only=True)
    if lost:
        raise ValueError(
            f"{len(lost)} shard files of the store {path} are lost, first {lost[0][1]}: run "
            "cbir.extract again, it describes just these images"
        )
    return store


def shared_store(path: AnyPath) -> Store:
    """`find_store` where there must be one: just made, or on a worker of a cluster."""
    store = find_store(path)
    if store is None:
        raise FileNotFoundError(
            f"no descriptor store at {path} on this machine: the workers of a cluster must see it "
            "under the same path as the one that made it"
        )
    return store


def find_store(path: AnyPath) -> Store | None:
    """The store at `path`, lost shards and all; None where there is none, or an unfinished one."""
    path = local(path)
    group = open_group(path)
    if group is None:
        return None
    found = group.attrs.get("format")
    if found == UNFINISHED:
        return None
    if found not in (FORMAT, OLDER):
        raise ValueError(
            f"{path} has format {found!r}, this version reads {FORMAT!r}: delete it and extract "
            "it again"
        )
    try:
        store = Store(group, path)
        texts = [group[name] for name in ("files", "labels", "sizes")]
        fitting = _arrays_fit(store, texts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} is no sound store ({type(error).__name__} {error}): delete it and extract it "
            "again"
        ) from error
    if not fitting:
        raise ValueError(
            f"{path} is no sound store, its arrays do not fit each other: delete it and extract "
            "it again"
        )
    lost = [array.path for array in texts if "c/0" not in _files_of(array)]
    if lost:
        raise ValueError(
            f"the store {path} has lost its {' and '.join(lost)}: delete it and extract it again"
        )
    return store


def open_group(path: Path | str) -> Zarr | None:
    """The Zarr group at a folder or URL; None where there is none.

    Raises:
        ImportError: the package for this kind of URL is missing.
    """
    try:
        return zarr.open_group(path, mode="r+", zarr_format=3)
    except ImportError as error:
        raise ImportError(
            f"{path} needs another package ({error}): pip install 'cbir[s3]' brings that of s3://"
        ) from error
    except (FileNotFoundError, NotADirectoryError, FileExistsError, zarr.errors.ContainsArrayError):
        return None


def _arrays_fit(store: Store, texts: Sequence[Zarr]) -> bool:
    """Whether all arrays have the shapes and chunks that the attributes and each other demand."""
    n = len(store)
    shard = store._state.chunks[0]
    per_image = all(array.shape == (n,) for array in (*texts, store._state))
    in_one_chunk = all(array.chunks == (n,) for array in texts)
    if not (1 <= n <= MOST and per_image and in_one_chunk):
        return False
    for array in store.arrays.values():
        if array.ndim != 2 or array.dtype.kind != "f":
            return False
        if array.shape[0] != n or (array.shards or array.chunks) != (shard, max(1, array.shape[1])):
            return False
    for name, array in store.coarse.items():
        size = record_size(store.layers(name))
        if (array.shape, array.chunks, array.dtype) != ((n, size), (shard, max(1, size)), np.uint8):
            return False
    n_conv = sum(channels for channels, *_ in store.dims["blocks"])
    return store.codes.shape[1] == sum(store.dims["codes"]) and store.conv.shape[1] == n_conv
