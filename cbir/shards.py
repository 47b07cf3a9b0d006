"""Rows of a Zarr array, a few at a time, from shards: files of many chunks and an index.

zarr-python needs about a millisecond for each chunk of a shard, so shards are read and written
here, by Zarr's layout "sharding_indexed": zarr-python, and others, can read them too. Old stores
have one chunk a file and are left to zarr-python.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd, decompress
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

Zarr: TypeAlias = Any  # an array or a group: zarr's own hints make each item a union of all kinds
Index: TypeAlias = int | np.integer | slice | Sequence[int] | NDArray[np.integer]

LEVEL = 1  # of compression: higher ones take longer and hardly less room
NOTHING = 2**64 - 1  # offset of a chunk that has only NaN
CHECKSUM = 4  # bytes of a CRC32C


def read_rows(array: Zarr, rows: Index) -> NDArray[Any]:
    """Rows of a Zarr array of two dimensions; NaN where a shard has no file.

    Raises:
        IndexError: a row is out of range.
        ValueError: a shard is damaged.
        RuntimeError: zstd finds a chunk damaged.
    """
    if array.shards is None:
        if isinstance(rows, (int, np.integer, slice)):
            return array[rows]
        return array.oindex[_numbers(rows, array.shape[0])]
    wanted = _numbers(rows, array.shape[0])
    sorted_rows, places = np.unique(wanted, return_inverse=True)
    out = np.full((len(sorted_rows), array.shape[1]), np.nan, array.dtype)
    for number, first, end in _runs(sorted_rows // array.shards[0]):
        _read_shard(array, number, sorted_rows[first:end] % array.shards[0], out[first:end])
    return out[places.reshape(wanted.shape)]


def _runs(sorted_values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Where equal values lie: [(value, first, end), ..]."""
    values, first = np.unique(sorted_values, return_index=True)
    ends = np.append(first[1:], len(sorted_values))
    return list(zip(values.tolist(), first.tolist(), ends.tolist()))


def _numbers(rows: Index, n: int) -> NDArray[np.int64]:
    """The numbers of rows of n, however they are named."""
    if isinstance(rows, slice):
        return np.arange(n)[rows]
    numbers = np.asarray(rows)
    return np.arange(n)[numbers if numbers.size else numbers.astype(int)]


def _read_shard(array: Zarr, number: int, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Fills (n, D) `out` with n rows of a shard, ascending, by Zarr's layout "sharding_indexed".

    The file ends with an index of (offset, length) of every chunk, and its CRC32C.
    """
    together, width = array.chunks
    data = read_file(array, number)
    if data is None or width == 0:
        return
    index = _checked(data, 16 * (array.shards[0] // together)).view("<u8").reshape(-1, 2).tolist()
    values = np.empty((together, width), array.dtype)
    for chunk, first, end in _runs(rows // together):
        offset, length = index[chunk]
        if offset != NOTHING:
            values.fill(np.nan)
            decompress(data[offset : offset + length], values)
            out[first:end] = values[rows[first:end] % together]


def write_shard(array: Zarr, number: int, rows: NDArray[Any]) -> None:
    """Writes all rows of a shard, (n, D); n is less than a shard's rows at the array's end."""
    if array.shape[1] == 0:
        return
    together, width = array.chunks
    n_chunks = -(-len(rows) // together)
    padded = np.full((n_chunks * together, width), np.nan, array.dtype)
    padded[: len(rows)] = rows
    zstd = Zstd(level=LEVEL, checksum=True)
    with ThreadPoolExecutor() as pool:
        chunks = list(pool.map(zstd.encode, padded.reshape(n_chunks, together, width)))
    index = np.full((array.shards[0] // together, 2), NOTHING, "<u8")
    lengths = [len(chunk) for chunk in chunks]
    index[:n_chunks, 0] = np.cumsum(lengths) - lengths
    index[:n_chunks, 1] = lengths
    checksum = google_crc32c.value(index.tobytes()).to_bytes(CHECKSUM, "little")
    content = b"".join([*chunks, index.tobytes(), checksum])
    buffer = default_buffer_prototype().buffer.from_bytes(content)
    sync(array.store.set(_key(array, number), buffer))


def read_bytes(array: Zarr, number: int) -> NDArray[np.uint8]:
    """One chunk of an uncompressed (N, D) array of bytes, without a copy if it is on this machine.

    Raises ValueError where it is damaged or lost.
    """
    data = read_file(array, number)
    if data is None:
        raise ValueError(f"chunk {number} of {array.name!r} in {array.store} is lost")
    rows = _checked(data, array.chunks[0] * array.chunks[1]).reshape(array.chunks)
    return rows[: array.shape[0] - number * array.chunks[0]]


def read_file(array: Zarr, number: int) -> NDArray[np.uint8] | None:
    """The file that holds a chunk or shard of all columns; None where it is not there."""
    key = _key(array, number)
    if is_local(array):
        try:
            with open(f"{array.store.root}/{key}", "rb") as file:
                size = os.fstat(file.fileno()).st_size
                mapped = mmap(file.fileno(), 0, access=ACCESS_READ) if size else b""
        except FileNotFoundError:
            return None
        return np.frombuffer(mapped, np.uint8)
    data = sync(array.store.get(key, default_buffer_prototype()))
    return None if data is None else np.frombuffer(data.to_bytes(), np.uint8)


def _key(array: Zarr, number: int) -> str:
    """The name of the file that holds a chunk or shard of all columns, within the array's store."""
    return f"{array.path}/c/{number}/0"


def is_local(array: Zarr) -> bool:
    """Whether an array is there, and its files lie in a folder."""
    return array is not None and isinstance(array.store, LocalStore)


def _checked(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The `size` bytes before the CRC32C that ends a file. Raises ValueError where it differs."""
    content = data[-(size + CHECKSUM) : -CHECKSUM]
    found = int.from_bytes(data[-CHECKSUM:].tobytes(), "little")
    if content.size != size or google_crc32c.value(content) != found:
        raise ValueError("its length or checksum does not fit")
    return content
