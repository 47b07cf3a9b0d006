"""Exact search of a store or an array, here or on a Dask cluster; see `nearest` for the way."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .cluster import ahead
from .coarse import Bytes, Doubles, Floats, l1_bounds
from .common import METRICS, AnyPath, Metric, unknown_choice
from .extract import Describer
from .images import Images, ImageSet, Pictures, list_images
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
from .store import Part, Store, open_store, shared_store
from .trained import network_of

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

Array: TypeAlias = NDArray[Any]
Picture: TypeAlias = AnyPath | Image.Image | Array  # a file, or pixels (H, W, 3) uint8
Queries: TypeAlias = Store | ImageSet | Array | dict[str, Array] | Picture | Sequence[Picture]

BLOCK = 2**25  # bytes of the database at a time, thrice: compared, read ahead, in decompression


class Found(Hits):
    """`Hits` in a store, which know their files.

    Attributes:
        store: what was searched.
        queries: the queries' images; None where only descriptors were given.
    """

    store: Store
    queries: Images | None

    @property
    def files(self) -> list[list[str]]:
        """Names of the images found, for every query k; none for an unreadable query."""
        return [[self.store.files[i] for i in row if i >= 0] for row in self.indices]

    def show(self, n: int = 5) -> "Figure":
        """Draws the first n queries, each beside its nearest images, with their distances.

        A notebook shows the figure where a cell ends in it.

        Raises:
            ValueError: the queries were descriptors, so there is nothing to draw of them.
        """
        import matplotlib.pyplot as plt  # only those who draw wait for it

        from . import figures
        from . import figures as canvas

        if self.queries is None:
            raise ValueError(
                "the queries were descriptors, not pictures: `files` has the names of what was "
                "found"
            )
        rows = range(min(n, len(self.indices)))
        with plt.rc_context():
            canvas.use_style()
            fig, axes = canvas.grid(len(rows), 1 + self.indices.shape[1], left=0.25)
            figures.retrieval(axes, self.queries, self.store, self, rows=rows)
            plt.close(fig)  # else a notebook would show it twice
        return fig


@overload
def search(
    st: Store | AnyPath,
    queries: Queries,
    descriptor: str = "eta",
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> Found: ...
@overload
def search(
    st: Array,
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
    st: Store | AnyPath,
    queries: Queries,
    descriptor: list[str] | tuple[str, ...],
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> dict[str, Found]: ...
def search(
    st: Store | AnyPath | Array,
    queries: Queries,
    descriptor: str | list[str] | tuple[str, ...] = "eta",
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device = None,
    client: "Client | None" = None,
) -> Hits | Found | dict[str, Found]:
    """The k nearest rows of a store for every query, exactly.

    Results are the same on any machine, bit for bit; memory does not grow with the store.
    Ties go to the lower row. Rows of unreadable images are never found.

    Args:
        st: a store, its path, or an (N, D) array.
        queries: a store, a (Q, D) array, one row (D,), {descriptor: (Q, D) array}; image files, a
            folder, PIL images, pixels (H, W, 3) or (Q, H, W, 3) uint8, one of these or a list.
        descriptor: "h", "eta_conv", "eta", another one of `st.descriptors`, or several joined by
            "+". A list of these is answered in one pass over the store. Only stores have a choice.
        metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is
            1 - cos, 1 for a row of zeros.
        k: rows for every query.
        net: describes image files; default the one of the name in the store, default weights.
        device: a torch device that computes the bounds ("cuda"); default the processor.
        client: a Dask `Client`, whose workers search a part of the store each.

    Returns:
        `Found`, or {descriptor: `Found`} for a list; of an array `Hits`. -1 and NaN for an
        unreadable query.

    Raises:
        ValueError: unknown metric or descriptor, k out of range, dimensions, networks or recipes
            that do not match, damaged shards.
    """
    if metric not in METRICS:
        raise ValueError(unknown_choice("metric", metric, METRICS))
    names = [descriptor] if isinstance(descriptor, str) else list(descriptor)
    if isinstance(st, (str, os.PathLike)):
        st = open_store(st)
    if isinstance(st, Store):
        parts = {name: st.parts(name) for name in names}
    else:
        st = np.asarray(st)
        _check_array(st, descriptor, client)
        parts = {names[0]: [("rows", 0, st.shape[1])]}
    if not 1 <= k <= len(st):
        raise ValueError(f"k = {k} is out of range for {len(st)} rows: choose 1 to {len(st)}")
    queries = _pictures_or_rows(queries, st)
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
    if not isinstance(st, Store):
        return hits[names[0]]
    in_store = {}
    for name, each in hits.items():
        in_store[name] = Found(*each)
        in_store[name].store = st
        in_store[name].queries = queries if isinstance(queries, Images) else None
    return in_store[descriptor] if isinstance(descriptor, str) else in_store


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


def _pictures_or_rows(queries: Queries, st: Store | Array) -> Images | Array | dict[str, Array]:
    """Whatever the queries are -> their images, or their descriptors."""
    if isinstance(queries, (Images, dict)):
        return queries
    if isinstance(queries, (str, os.PathLike)) and os.path.isdir(queries):
        return list_images(queries)
    if isinstance(queries, (str, os.PathLike, Image.Image)):
        queries = [queries]
    if not isinstance(queries, np.ndarray):
        files = [query for query in queries if isinstance(query, (str, os.PathLike))]
        if 0 < len(files) == len(queries):
            _check_can_describe(st)  # before the files are looked for
            return list_images(files)
        if files or any(_is_picture(query) for query in queries):
            return Pictures([_picture(query) for query in queries])
    rows = np.asarray(queries)
    if rows.ndim == 3:
        return Pictures([_picture(rows)])
    if rows.ndim == 4:
        return Pictures([_picture(pixels) for pixels in rows])
    return np.atleast_2d(rows)


def _is_picture(query: Picture) -> bool:
    """Whether a query is an image in memory, and not a row of a descriptor."""
    return isinstance(query, Image.Image) or (isinstance(query, np.ndarray) and query.ndim == 3)


def _picture(picture: Picture) -> AnyPath | Image.Image:
    """A file or an image as it is; pixels as an image."""
    if isinstance(picture, (str, os.PathLike, Image.Image)):
        return picture
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"dimensions do not match: {pixels.shape} of {pixels.dtype} are neither rows (Q, D) of "
            "a descriptor nor pixels (H, W, 3) of uint8"
        )
    return Image.fromarray(pixels)


def _query_vectors(
    st: Store | Array,
    queries: Images | Array | dict[str, Array],
    names: list[str],
    net: Network | None,
) -> dict[str, Floats]:
    """The queries' descriptors {descriptor: (Q, D) float32}."""
    if isinstance(queries, Store):
        if isinstance(st, Store):
            _check_comparable(st, queries, names)
        return {name: queries[name][:] for name in names}
    if isinstance(queries, Images):
        return _describe_images(st, queries, names, net)
    if isinstance(queries, dict):
        return {name: np.asarray(queries[name], dtype=np.float32) for name in names}
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


def _check_can_describe(st: Store | Array) -> Store:
    if isinstance(st, Store):
        return st
    raise ValueError(
        "images can only be searched for in a store, which knows how it was described: "
        "pass that, not an array of it"
    )


def _describe_images(
    st: Store | Array, images: Images, names: list[str], net: Network | None
) -> dict[str, Floats]:
    """Images, described like those of a store; rows of NaN where one cannot be read."""
    st = _check_can_describe(st)
    made_by = network_of(st.network, net, folder=Path(st.location).parent)
    describer = Describer(made_by, st.recipe, st.extras)
    shapes = {name: (len(images), st[name].shape[1]) for name in names}
    vectors = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for i in range(len(images)):
        decoded = describer.decode(images.path(i))
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
