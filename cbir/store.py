"""The descriptor store on disk: one Zarr v3 group, row i = image i.

    codes  (N, D_1 + D_2) float32   y_{N+1}, y_{N+2}
    conv   (N, sum C_m)   float32   eta tilde
    files, labels, state  (N,) str  state: "" not described yet, "ok", or why the image could not be read
    attributes                      format, root, network, recipe, dims, versions

All arrays are cut at the same rows, one file a cut (a shard), and a shard's `state` is written last, each file atomically: what is
there is complete. h, eta_conv and eta are views of codes and conv. An unreadable image keeps its row, filled with NaN.
"""

import os
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

FORMAT = "cbir-1"


class Rows:
    """Columns of Zarr arrays side by side, read from disk when indexed: `rows[5]`, `rows[2:9]`, `rows[[3, 1]]`, `rows[:]`."""

    def __init__(self, *arrays):
        self.arrays = arrays
        self.shape = (arrays[0].shape[0], sum(a.shape[1] for a in arrays))
        self.dtype = arrays[0].dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, (int, np.integer, slice)):
            parts = [a[rows] for a in self.arrays]
        else:
            rows = np.asarray(rows)
            parts = [a.oindex[rows if rows.size else rows.astype(int)] for a in self.arrays]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype=dtype)


class Store:
    """An open store. `len(st)`, `st.files`, `st.labels` (lists of str), `st.h`, `st.eta_conv`, `st.eta` (`Rows`),
    `st.unreadable` (dict: file -> reason), `st.described` (N,) bool, `st.recipe`, `st.network` (dicts)."""

    def __init__(self, group):
        self._group = group
        self.codes, self.conv, self._state = group["codes"], group["conv"], group["state"]
        self.root = Path(group.attrs["root"])
        self.network, self.recipe, self.dims, self.versions = (group.attrs[key] for key in ("network", "recipe", "dims", "versions"))
        self.computed = 0  # rows that the call of `extract` that returned this store had to compute
        self.h, self.eta_conv, self.eta = Rows(self.codes), Rows(self.conv), Rows(self.codes, self.conv)

    def __len__(self):
        return self.conv.shape[0]

    def __repr__(self):
        return (f"<cbir store: {len(self)} images, {len(self.unreadable)} unreadable, h {self.h.shape[1]}, "
                f"eta_conv {self.eta_conv.shape[1]} dimensions, network {self.network['name']}>")

    @cached_property
    def files(self):
        return self._group["files"][:].tolist()

    @cached_property
    def labels(self):
        return self._group["labels"][:].tolist()

    def path(self, i):
        """Where image i lies (or lay, when it was described)."""
        return self.root / self.files[i]

    @property
    def described(self):
        return self._state[:] == "ok"

    @property
    def unreadable(self):
        return {self.files[i]: s for i, s in enumerate(self._state[:].tolist()) if s not in ("", "ok")}

    @property
    def shards(self):
        """The rows of every shard (list of slice)."""
        size = self._state.chunks[0]
        return [slice(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def missing(self):
        """The shards that are still to be described (list of slice)."""
        state = self._state[:]
        return [rows for rows in self.shards if (state[rows] == "").any()]

    def write(self, rows, codes, conv, state):
        """One whole shard: codes (n, D_1 + D_2), conv (n, sum C_m) float32, state n strings. Marked complete last."""
        self.codes[rows], self.conv[rows] = codes, conv
        self._state[rows] = np.array(state, dtype=object)


def open_store(path):
    """The store at `path`. Raises FileNotFoundError where there is none, ValueError for another format."""
    try:
        group = zarr.open_group(path, mode="r+")
    except (FileNotFoundError, NotADirectoryError, FileExistsError, zarr.errors.GroupNotFoundError,
            zarr.errors.ContainsArrayError) as error:
        raise FileNotFoundError(f"no descriptor store at {path}: make one with cbir.extract") from error
    if group.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} has format {group.attrs.get('format')!r}, this version reads {FORMAT!r}: extract it again")
    return Store(group)


def create_store(path, images, net, recipe, shard_size):
    """A new, empty store for an `ImageSet`; written aside and moved into place, so that a store is never half made."""
    path, n, dims, network = Path(path), len(images), net.shapes, net.provenance  # what can fail, before anything is written
    aside = path.with_name(f".{path.name}.new")
    group = zarr.open_group(aside, mode="w")
    compressed = {"compressors": ZstdCodec(level=1, checksum=True)}
    for name, width in [("codes", sum(dims["codes"])), ("conv", sum(c for c, *_ in dims["blocks"]))]:
        group.create_array(name, shape=(n, width), chunks=(min(shard_size, n), max(1, width)), dtype="float32",
                           fill_value=float("nan"), **compressed)
    for name, values, chunk in [("files", _text(images.files), n), ("labels", _text(images.labels), n), ("state", None, shard_size)]:
        array = group.create_array(name, shape=(n,), chunks=(min(chunk, n),), dtype=str, fill_value="", **compressed)
        if values is not None:
            array[:] = np.array(values, dtype=object)
    group.attrs.update(format=FORMAT, root=str(images.root), network=network, recipe=recipe, dims=dims,
                       versions={p: version(p) for p in ("cbir", "torch", "torchvision", "numpy", "zarr", "pillow")})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(path)
    return open_store(path)


def _text(names):
    """File names as Unicode: bytes that are none come out as \\xe9, so that one odd name does not keep the rest from being stored."""
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def check_same(store, path, images, net, recipe):
    """Raises ValueError, naming what differs, where a store was not made of these images by this network and recipe."""
    wanted = {"network": net.provenance, "recipe": recipe}
    differ = [f"{what} {key}: {mine.get(key)!r}, now {wanted[what][key]!r}"
              for what, mine in [("network", store.network), ("recipe", store.recipe)]
              for key in wanted[what] if mine.get(key) != wanted[what][key]]
    files = _text(images.files)
    if store.files != files:
        differ.append(f"images: {len(store)} files, now {len(images)}; {len(set(store.files) ^ set(files))} names differ")
    elif store.root != images.root:
        differ.append(f"image folder: {store.root}, now {images.root}")
    if differ:
        raise ValueError(f"the store {path} was made with other settings ({'; '.join(differ)}). "
                         "Delete it or choose another path (another run name).")
