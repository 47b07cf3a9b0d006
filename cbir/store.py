"""The descriptor store: files that NumPy and pandas open without this package.

    store.json           format, network, recipe, extras, dimensions, dtype, rows a shard, versions
    images.csv           the folder as it is now, a line an image: file, label, bytes, modified
                         (ns), and row: shard * shard_size + place, where its descriptor lies
    h/00000.npy ..       (rows, D_1 + D_2) float32 or float16, one file a shard and array
    eta_conv/00000.npy ..
    <extra>/00000.npy ..
    done/00000.json      written last: file, bytes, modified, CRC-32 and state ("ok", or why it is
                         unreadable) of each row; size and CRC-32 of the shard's files

Every file is written beside its place and moved there. Shards are only ever added: where a folder
has changed, new rows are appended, then images.csv is replaced. What no line names is dead, and
comes to life again with its image. `len(store)`, `store.h[i]` and hits speak of lines.
"""

import csv
import errno
import io
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, TypeAlias

import filelock
import numpy as np
import pandas as pd
import torch
from numpy.typing import DTypeLike, NDArray

from .common import AnyPath, did_you_mean, write_atomically
from .images import Images
from .names import layer_names
from .pooling import Projection

Part = tuple[str, int, int]  # array name, first column, last column + 1
Index: TypeAlias = Any  # whatever picks rows of an array
Extras = Mapping[str, Any]  # {name: a word, or a recipe (dict)}

FORMAT = "cbir-4"
OLD = '{"format": "cbir-3"}'  # what a store.json would have said
KEPT = ("network", "recipe", "extras", "dims", "dtype", "versions", "shard_size")
FACTS = ["file", "bytes", "modified", "crc32", "state"]  # what done/ says of a row
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what disks without locks answer
MAPS = 2**12  # files of an array that stay mapped; Linux allows 2**16 in all


class Shards:
    """One array of a store, (N, D) by lines; rows still to come are NaN.

    Files are mapped once, by torch: NumPy's mappings keep their files open, and a process may open
    few.
    """

    def __init__(
        self, folder: Path, width: int, dtype: DTypeLike, shard_size: int, rows: NDArray[np.int64]
    ) -> None:
        self.folder = folder
        self.shape = (len(rows), width)
        self.dtype = np.dtype(dtype)
        self.shard_size = shard_size
        self.rows = rows  # (N,), -1 where there is none
        self._maps: dict[int, NDArray[Any]] = {}

    def __getitem__(self, index: Index) -> NDArray[Any]:
        rows = np.asarray(self.rows[index])
        flat = rows.ravel()
        out = np.full((flat.size, self.shape[1]), np.nan, self.dtype)
        for shard, places in by_shard(flat, self.shard_size):
            out[places] = self._map(shard)[flat[places] % self.shard_size]
        return out.reshape(*rows.shape, self.shape[1])

    def _map(self, shard: int) -> NDArray[Any]:
        if shard in self._maps:
            return self._maps[shard]
        path = self.folder / f"{shard:05}.npy"
        header = np.load(path, mmap_mode="r", allow_pickle=False)
        content = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8).numpy()
        rows = content[header.offset :].view(header.dtype).reshape(header.shape)
        if len(self._maps) < MAPS:
            self._maps[shard] = rows
        return rows

    def view(self, lines: NDArray[np.int64]) -> NDArray[Any]:
        """Returns lines of one shard, (n, D): a view of its file if they lie there in order."""
        shards, places = np.divmod(self.rows[lines], self.shard_size)
        in_order = (np.diff(places) == 1).all()
        return self._map(int(shards[0]))[slice(places[0], places[-1] + 1) if in_order else places]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a worker maps the files itself


class Rows:
    """Columns of arrays side by side, (N, D) float32, read when indexed: `rows[5]`, `rows[[3, 1]]`.

    parts: [(array, first column, last column + 1), ..].
    """

    def __init__(self, *parts: tuple[Any, int, int]) -> None:
        self.parts = parts
        self.shape = (parts[0][0].shape[0], sum(end - first for _, first, end in parts))
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index) -> NDArray[np.float32]:
        columns = [array[rows][..., first:end] for array, first, end in self.parts]
        return np.concatenate(columns, axis=-1, dtype=np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


class Store(Images):
    """An open store of N images, as it was when it was opened.

    Attributes:
        files, labels: N strings each.
        h, eta_conv, eta: (N, D) `Rows` (Eq. 7, 15, 16); `store[name]` gives those of any of
            `descriptors`, or of several joined by "+".
        arrays: {"h", "eta_conv" and the extras: (N, D) array as stored}.
        states: (N,) str: "ok", why an image is unreadable, or "" for one that is still to come.
        described: (N,) bool. unreadable: {file: reason}.
        network, recipe, extras, dims, dtype: what made it.
        damaged: {shard: its file that is lost or damaged}; such rows are still to come.
        source, projection: what `compress` made it of; else None.
        computed: rows that the call of `extract` that returned this store had to compute.
    """

    source: "Store | None" = None
    projection: Projection | None = None

    def __init__(self, path: AnyPath, check: bool = False) -> None:
        """Opens a folder, which may be damaged; see `open_store`."""
        folder = Path(path).expanduser()
        self.location = str(folder)
        self.computed = 0
        about = folder / "store.json"
        if not about.is_file() and not (folder / "zarr.json").is_file():
            raise FileNotFoundError(f"no descriptor store at {folder}: make one with cbir.extract")
        try:
            text = about.read_text(encoding="utf-8") if about.is_file() else OLD
            self.about: dict[str, Any] = json.loads(text)
            if self.about["format"] != FORMAT:
                raise ValueError(f"made by an earlier version, {self.about['format']}")
            self.root = Path(self.about["root"])
            self.network, self.recipe, self.extras, self.dims, self.dtype, self.versions, size = (
                self.about[key] for key in KEPT
            )
            self.shard_size: int = size
            if size < 1:
                raise ValueError(f"shards of {size} rows")
            words = {"file": str, "label": str}
            self.table = pd.read_csv(folder / "images.csv", dtype=words, keep_default_na=False)
            self.known, self.damaged = _read_done(folder, size, check)
            self.files: list[str] = self.table["file"].tolist()
            self.labels: list[str] = self.table["label"].tolist()
            rows = self.table["row"].to_numpy(np.int64)
            self.states = self.known["state"].reindex(rows, fill_value="").to_numpy(object)
            self.described: NDArray[np.bool_] = self.states == "ok"
            there = self.states != ""
            unreadable = np.flatnonzero(there & ~self.described)
            self.unreadable: dict[str, str] = {self.files[i]: self.states[i] for i in unreadable}
            rows = np.where(there, rows, -1)
            self.arrays: dict[str, Any] = {
                name: Shards(folder / name, width, self.dtype, size, rows)
                for name, width in self.about["widths"].items()
            }
            self.descriptors = self._descriptors()
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ValueError(
                f"{path} is no sound store ({type(error).__name__}: {error}): delete it and "
                "extract it again"
            ) from error

    @property
    def h(self) -> "Rows":
        """Eq. 7."""
        return self["h"]

    @property
    def eta_conv(self) -> "Rows":
        """Eq. 15."""
        return self["eta_conv"]

    @property
    def eta(self) -> "Rows":
        """Eq. 16."""
        return self["eta"]

    def _descriptors(self) -> dict[str, list[Part]]:
        """Returns {descriptor: the columns that it is made of}."""
        whole = {name: [(name, 0, array.shape[1])] for name, array in self.arrays.items()}
        h, eta_conv = whole.pop("h"), whole.pop("eta_conv")
        widths = [channels for channels, *_ in self.dims["blocks"]], self.dims["codes"]
        layers: dict[str, list[Part]] = {}
        for array, names, ds in zip(("eta_conv", "h"), layer_names(*map(len, widths)), widths):
            for name, end, d in zip(names, np.cumsum(ds, dtype=int).tolist(), ds):
                layers[name] = [(array, end - d, end)]
        return {"h": h, "eta_conv": eta_conv, "eta": h + eta_conv} | layers | whole

    def __repr__(self) -> str:
        extras = f", extras {', '.join(self.extras)}" if self.extras else ""
        names = self.descriptors if self.source else ("h", "eta_conv")
        dims = ", ".join(f"{name} {self[name].shape[1]}" for name in names)
        return (
            f"<cbir store: {len(self)} images, {len(self.unreadable)} unreadable, "
            f"{dims} dimensions{extras}, network {self.network['name']}>"
        )

    def parts(self, descriptor: str) -> list[Part]:
        """Columns of a descriptor: "eta" -> [("h", 0, 8192), ("eta_conv", 0, 1472)]."""
        parts = []
        for name in [descriptor] if descriptor in self.descriptors else descriptor.split("+"):
            if name not in self.descriptors:
                raise ValueError(
                    f"unknown descriptor {name!r}{did_you_mean(name, self.descriptors)}: this "
                    f"store has {tuple(self.descriptors)}, and sums of them ('h+w_1')"
                )
            parts += self.descriptors[name]
        return parts

    def __getitem__(self, descriptor: str) -> Rows:
        return Rows(*((self.arrays[name], *ends) for name, *ends in self.parts(descriptor)))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.descriptors)

    def load(self) -> "Store":
        """Returns the same store with its arrays in memory as float32, for many searches."""
        loaded = copy(self)
        loaded.arrays = {name: np.asarray(a[:], np.float32) for name, a in self.arrays.items()}
        return loaded


def by_shard(rows: NDArray[np.int64], shard_size: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yields every shard of some rows, and which of them lie there, ascending; -1 in none."""
    shards = rows // shard_size
    order = np.argsort(shards, kind="stable")
    numbers, starts = np.unique(shards[order], return_index=True)
    for shard, places in zip(numbers.tolist(), np.split(order, starts[1:])):
        if shard >= 0:
            yield shard, places


def open_store(path: AnyPath, check: bool = False) -> Store:
    """Opens the store in a folder. One that is being filled has what is there.

    Args:
        path: the folder.
        check: reads all files and compares their CRC-32; else just their sizes are compared.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another version made it, or files are lost or damaged.
    """
    store = Store(path, check)
    for file in store.damaged.values():
        raise ValueError(f"{Path(path, file)} is lost or damaged: run cbir.extract again")
    return store


def find_store(path: AnyPath, check: bool = False) -> Store | None:
    """Returns the store in a folder, damaged or not; None if there is none."""
    try:
        return Store(path, check)
    except FileNotFoundError:
        return None


def check_comparable(st: Store, queries: Store, names: Iterable[str]) -> None:
    """Raises ValueError where the descriptors of two stores were not made in the same way."""
    if (st.network, st.recipe) != (queries.network, queries.recipe):
        problem = "database and queries were described by different networks or recipes"
        raise ValueError(f"{problem}: pass the queries' image files")
    for name in sorted("+".join(names).split("+")):
        if st.extras.get(name) != queries.extras.get(name):
            advice = "extract one again, with the other's `extras`"
            raise ValueError(f"different descriptors {name!r}: {advice}")


def _read_done(folder: Path, shard_size: int, check: bool) -> tuple[pd.DataFrame, dict[int, str]]:
    """Returns `FACTS` by row of the shards that are whole, and {shard: file} of damaged ones."""
    columns: dict[str, list[Any]] = {key: [] for key in FACTS}
    rows: list[int] = []
    damaged = {}
    for path in sorted(folder.glob("done/*.json")):
        shard = int(path.stem)
        try:
            done = json.loads(path.read_text(encoding="utf-8"))
            files = done["files"].items()
        except (ValueError, KeyError):
            damaged[shard] = f"done/{path.name}"
            continue
        for name, (size, crc) in files:
            whole = (folder / name).is_file() and (folder / name).stat().st_size == size
            if not whole or (check and checksum(folder / name) != crc):
                damaged[shard] = name
        if shard not in damaged:
            rows += range(shard * shard_size, shard * shard_size + len(done["state"]))
            for key, values in columns.items():
                values += done[key]
    return pd.DataFrame(columns, pd.Index(rows, dtype=int), dtype=object), damaged


def checksum(path: Path) -> int:
    """Returns the CRC-32 of a file; -1 where it cannot be read."""
    crc = 0
    with suppress(OSError), open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
        return crc
    return -1


# ---- writing ------------------------------------------------------------------------------------


def create(path: Path, about: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Makes an empty store in a new folder, all at once.

    about: what store.json holds beside the format. table: its images.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is no descriptor store: choose another path")
    aside = path.with_name(f".{path.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    write_about(aside, about)
    write_table(aside, table)
    for name in ("done", *about["widths"]):
        (aside / name).mkdir()
    aside.rename(path)


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Writes store.json."""
    write_atomically(path / "store.json", json.dumps({"format": FORMAT} | dict(about), indent=1))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes images.csv: a line an image, with file, label, bytes, modified and row."""
    text = table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    write_atomically(path / "images.csv", text)


def write_shard(
    path: Path, shard: int, arrays: Mapping[str, NDArray[Any]], facts: pd.DataFrame
) -> None:
    """Writes a shard, arrays {name: (n, D)} and n `FACTS`; marks it as done when all is there."""
    done = path / "done" / f"{shard:05}.json"
    done.unlink(missing_ok=True)  # its files must not be taken for those to come
    files = {}
    for name, rows in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, rows)
        content = buffer.getbuffer()
        place = path / name / f"{shard:05}.npy"
        aside = place.with_name(f".{place.name}.new")
        aside.write_bytes(content)
        aside.replace(place)
        files[f"{name}/{place.name}"] = len(content), zlib.crc32(content)
    write_atomically(done, json.dumps(facts[FACTS].to_dict("list") | {"files": files}))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time writes a store; BlockingIOError for another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.parent / f".{path.name}.lock"
    lock = filelock.FileLock(file, timeout=0)
    try:
        try:
            held = lock.acquire()
        except OSError as error:
            # Where a disk has no locks, the file itself is one; an empty one is nobody's.
            if error.errno not in NO_LOCKS and not isinstance(lock, filelock.SoftFileLock):
                raise
            if file.exists() and not file.stat().st_size:
                file.unlink()
            held = filelock.SoftFileLock(file, timeout=0).acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            f"another process is describing images into {path}: wait for it, or choose another "
            f"path. If there is none, delete its lock file {file}"
        ) from None
    with held:
        yield


def differences(store: Store, about: Mapping[str, Any]) -> list[str]:
    """Names the settings with which a store was not made: ["recipe q: 0.5, now 0.25"]."""

    def flat(about: Mapping[str, Any]) -> dict[str, Any]:
        parts = ("network", "recipe", "extras")
        values = {f"{part} {key}": about[part][key] for part in parts for key in about[part]}
        return values | {"dtype": about["dtype"]}

    then, now = flat(store.about), flat(json.loads(json.dumps(about)))  # lists for tuples
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key}: {then.get(key)!r}, now {now.get(key)!r}" for key in changed]
