"""Exact search of a store or an array, here or on a Dask cluster; see `nearest` for the way."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from .cluster import ahead
from .coarse import Bytes, Doubles, Floats, l1_bounds
from .common import METRICS, AnyPath, Metric, unknown_choice
from .extract import Describer
from .images import ImageSet, list_images
from .nearest import (
    ROWS,
    Block,
    Candidates,
    Device,
    FloatBlock,
    Hits,
    Question,
    array_blocks,
    nearest,
)
from .networks import Network
from .store import Part, Store, shared_store
from .zoo import network_of

if TYPE_CHECKING:
    from distributed import Client

Array: TypeAlias = NDArray[Any]
Queries: TypeAlias = Store | ImageSet | Array | dict[str, Array] | AnyPath | Sequence[AnyPath]

BLOCK = 2**25  # bytes of the database at a time, thrice: compared, read ahead, in decompression


@overload
def search(
    st: Store | Array,
    queries: Queries,
    descriptor: str = "eta",
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> Hits: ...
@overload
def search(
    st: Store,
    queries: Queries,
    descriptor: list[str] | tuple[str, ...],
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> dict[str, Hits]: ...
def search(
    st: Store | Array,
    queries: Queries,
    descriptor: str | list[str] | tuple[str, ...] = "eta",
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> Hits | dict[str, Hits]:
    """The k nearest rows of a store for every query, exactly.

    Results are the same on any machine, bit for bit; memory does not grow with the store.
    Ties go to the lower row. Rows of unreadable images are never found.

    Args:
        st: a store, or an (N, D) array.
        queries: a store, a (Q, D) array, {descriptor: (Q, D) array}, or image files.
        descriptor: "h", "eta_conv", "eta", another one of `st.descriptors`, or several joined by
            "+". A list of these is answered in one pass over the store. Only stores have a choice.
        metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is
            1 - cos, 1 for a row of zeros.
        k: rows for every query.
        net: describes image files; default the one of the name in the store, default weights.
        device: a torch device that computes the bounds ("cuda"); default the processor.
        client: a Dask `Client`, whose workers search a part of the store each.

    Returns:
        `Hits`, or {descriptor: `Hits`} for a list; -1 and NaN for an unreadable query.

    Raises:
        ValueError: unknown metric or descriptor, k out of range, dimensions, networks or recipes
            that do not match, damaged shards.
    """
    if metric not in METRICS:
        raise ValueError(unknown_choice("metric", metric, METRICS))
    names = [descriptor] if isinstance(descriptor, str) else list(descriptor)
    if isinstance(st, Store):
        parts = {name: st.parts(name) for name in names}
    else:
        st = np.asarray(st)
        _check_array(st, descriptor, client)
        parts = {names[0]: [("rows", 0, st.shape[1])]}
    if not 1 <= k <= len(st):
        raise ValueError(f"k = {k} is out of range for {len(st)} rows: choose 1 to {len(st)}")
    columns = _columns(_query_vectors(st, queries, names, net), parts)
    readable = np.all([np.isfinite(column).all(axis=1) for column in columns.values()], axis=0)
    columns = {part: column[readable] for part, column in columns.items()}
    question = Question(columns, parts, metric, k, device)
    if not isinstance(st, Store):
        found = nearest(array_blocks(st, next(iter(columns)), BLOCK), question)
    elif client is None:
        found = nearest(_store_blocks(st, question, 0, len(st)), question)
    else:
        found = _nearest_by_cluster(client, st, question)
    hits = {name: candidates.table(readable, k) for name, candidates in found.items()}
    if any((indices[readable] < 0).any() for indices, _ in hits.values()):
        raise ValueError(f"k = {k} is more than the number of described images among the {len(st)}")
    return hits[descriptor] if isinstance(descriptor, str) else hits


def _check_array(array: Array, descriptor: object, client: object) -> None:
    if array.ndim != 2:
        raise ValueError(
            f"dimensions do not match: the database is {array.shape}, not (N, D): one row an image"
        )
    if client is not None or not isinstance(descriptor, str):
        raise ValueError(
            "only a store can be searched by a cluster, or by several descriptors: "
            "pass the store, or one array and neither"
        )


def _query_vectors(
    st: Store | Array, queries: Queries, names: list[str], net: Network | None
) -> dict[str, Floats]:
    """Whatever the queries are -> {descriptor: (Q, D) float32}."""
    if isinstance(queries, Store):
        if isinstance(st, Store):
            _check_comparable(st, queries, names)
        return {name: queries[name][:] for name in names}
    if isinstance(queries, dict):
        return {name: np.asarray(queries[name], dtype=np.float32) for name in names}
    if isinstance(queries, (str, os.PathLike)):
        queries = list_images(queries) if os.path.isdir(queries) else [queries]
    files = queries
    if not isinstance(queries, ImageSet):
        files = [query for query in queries if isinstance(query, (str, os.PathLike))]
    if 0 < len(files) == len(queries):
        return _describe_files(st, files, names, net)
    return dict.fromkeys(names, np.asarray(queries, dtype=np.float32))


def _check_comparable(st: Store, queries: Store, names: list[str]) -> None:
    """Raises ValueError where the descriptors of two stores were not made in the same way."""
    if (st.network, st.recipe) != (queries.network, queries.recipe):
        raise ValueError(
            "database and queries were described by different networks or recipes: pass the "
            "queries' image files, or extract them again like the database (its `network` and "
            "`recipe`)"
        )
    for name in sorted("+".join(names).split("+")):
        if st.extras.get(name) != queries.extras.get(name):
            raise ValueError(
                f"database and queries have different descriptors of the name {name!r}: "
                "extract one of them again, with the other's `extras`"
            )


def _describe_files(
    st: Store | Array, files: ImageSet | Iterable[AnyPath], names: list[str], net: Network | None
) -> dict[str, Floats]:
    """Image files, described like those of a store; rows of NaN where one cannot be read."""
    if not isinstance(st, Store):
        raise ValueError(
            "image files can only be searched for in a store, which knows how it was described: "
            "pass that, not an array of it"
        )
    made_by = network_of(st.network, net, folder=Path(st.location).parent)
    describer = Describer(made_by, st.recipe, st.extras)
    files = list_images(files)
    vectors = {name: np.full((len(files), st[name].shape[1]), np.nan, np.float32) for name in names}
    for i in range(len(files)):
        decoded = describer.decode(files.path(i))
        if isinstance(decoded, str):
            continue
        arrays = describer([decoded])
        for name in names:
            columns = [arrays[array][0, first:end].cpu() for array, first, end in st.parts(name)]
            vectors[name][i] = np.concatenate(columns)
    return vectors


def _columns(vectors: dict[str, Floats], parts: dict[str, list[Part]]) -> dict[Part, Floats]:
    """The queries' descriptors, cut into the parts of the database: {part: (Q, D_part)}."""
    columns: dict[Part, Floats] = {}
    for name, its_parts in parts.items():
        ends = np.cumsum([end - first for _, first, end in its_parts])
        if vectors[name].ndim != 2 or vectors[name].shape[1] != ends[-1]:
            raise ValueError(
                f"dimensions do not match: the database has {ends[-1]}, the queries are "
                f"{vectors[name].shape}: both must be the same descriptor of the same network"
            )
        pieces = np.split(vectors[name], ends[:-1], axis=1)
        columns |= {part: np.ascontiguousarray(piece) for part, piece in zip(its_parts, pieces)}
    return columns


class ByteBlock(NamedTuple):
    """Rows of a store that are compared by their bytes; floats are read for a few of them.

    records: {array: one (n_i, bytes) array a shard}, see `coarse`. described: (n,) bool.
    """

    first_row: int
    store: Store
    records: dict[str, list[Bytes]]
    described: NDArray[np.bool_]

    def sums(self, queries: Mapping[Part, Floats], question: Question) -> dict[Part, Doubles]:
        """Between what the sums of absolute differences lie, (2, Q, n) for each part."""
        sums = {}
        for part, vectors in queries.items():
            name, first_column, end = part
            widths = self.store.layers(name)
            ends = np.append(0, np.cumsum(widths)).tolist()
            layers = slice(ends.index(first_column), ends.index(end))
            sums[part] = l1_bounds(vectors, self.records[name], widths, layers)
        return sums

    def bounds(self, total: Doubles, dims: int, question: Question) -> tuple[Doubles, Doubles]:
        """See `nearest.Block`."""
        low, high = total / dims
        if np.isnan(low[:1, self.described]).any():
            rows = slice(self.first_row, self.first_row + low.shape[1])
            raise _lost(self.store, self.records, rows)
        low[:, ~self.described] = np.nan
        high[:, ~self.described] = np.nan
        return low, high

    def rows(self, part: Part, which: NDArray[np.int64]) -> Floats:
        """Some rows of a part, (m, D_part), read from the store."""
        name, first_column, end = part
        numbers = self.first_row + which
        rows = self.store.read(name, numbers)[:, first_column:end]
        for lost in numbers[np.isnan(rows).any(axis=1)].tolist():
            raise _lost(self.store, [name], slice(lost, lost + 1))
        return np.ascontiguousarray(rows, dtype=np.float32)


def _store_blocks(st: Store, question: Question, first: int, last: int) -> Iterator[Block]:
    """Rows first to last of a store, from whole shards, in pieces that are read ahead by one."""
    names = list(dict.fromkeys(name for name, _, _ in question.queries))
    by_bytes = question.metric == "l1" and question.device is None and st.has_coarse(names)
    read = _byte_block if by_bytes else _float_block
    row_bytes = sum((1 if by_bytes else 4) * st.arrays[name].shape[1] for name in names)
    shard = st.shard_size
    step = max(1, min(ROWS, BLOCK // max(1, row_bytes)) // shard) * shard
    described = st.described

    def block(start: int) -> Block:
        rows = slice(start, min(start + step, last))
        return read(st, list(question.queries), rows, described[rows])

    with ThreadPoolExecutor(1) as pool:
        yield from ahead(pool, block, range(first, last, step), 1)


def _byte_block(
    st: Store, parts: Sequence[Part], rows: slice, described: NDArray[np.bool_]
) -> ByteBlock:
    size = st.shard_size
    records = {}
    for name, _, _ in parts:
        if name not in records:
            shards = range(rows.start // size, -(-rows.stop // size))
            records[name] = [st.read_coarse(name, shard) for shard in shards]
    return ByteBlock(rows.start, st, records, described)


def _float_block(
    st: Store, parts: Sequence[Part], rows: slice, described: NDArray[np.bool_]
) -> FloatBlock:
    """Rows of a store as they are; NaN where an image is not described."""
    whole: dict[str, Array] = {}
    block = {}
    for name, first_column, end in parts:
        if name not in whole:
            whole[name] = st.read(name, rows)
            if whole[name].shape[1] and np.isnan(whole[name][described, 0]).any():
                raise _lost(st, [name], rows)
            whole[name][~described] = np.nan
        columns = whole[name][:, first_column:end]
        block[name, first_column, end] = np.ascontiguousarray(columns, dtype=np.float32)
    return FloatBlock(rows.start, block)


def _lost(st: Store, names: Iterable[str], rows: slice) -> ValueError:
    return ValueError(
        f"{st.location} has lost a shard of {' or '.join(map(repr, names))} among the rows "
        f"{rows.start} to {rows.stop}: run cbir.extract again"
    )


def _nearest_by_cluster(client: "Client", st: Store, question: Question) -> dict[str, Candidates]:
    """`nearest` with a few tasks for every worker, each over its own shards."""
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    tasks = []
    for shards in np.array_split(np.array(st.shards), min(4 * max(1, n_workers), len(st.shards))):
        rows = shards[0].start, shards[-1].stop
        tasks.append(client.submit(_search_rows, st.location, *rows, question, pure=False))
    pieces = client.gather(tasks)
    names = question.parts
    return {name: Candidates.join([piece[name] for piece in pieces], question.k) for name in names}


def _search_rows(path: str, first: int, last: int, question: Question) -> dict[str, Candidates]:
    """The task of `_nearest_by_cluster`: some rows of the store at `path`."""
    st = shared_store(path)  # without a look for lost shards: they are found when they are read
    return nearest(_store_blocks(st, question, first, last), question)
