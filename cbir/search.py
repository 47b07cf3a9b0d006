"""Exact search of a store or an array, here or on a Dask cluster: L1, L2 and cosine.

Filter and refine: sums in float32 (numba for L1, matrix products for L2 and cosine) bound every
distance from both sides. Rows that can be among the k nearest are compared again in float64. So the
result is that of float64 brute force, whatever the shards, the threads, the processor or the
cluster.

A descriptor is made of parts, columns of a store's arrays. The sums add up over parts, so that
several descriptors are searched in one pass.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, overload

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .common import METRICS, AnyPath, Metric, check_choice, cores
from .extract import Describer, default_batch, run_on_workers
from .images import Images, ImageSet, Pictures, is_csv, list_images
from .networks import Device, Network
from .store import Part, Shards, Store, by_shard, check_comparable, open_store
from .trained import network_of

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Picture: TypeAlias = AnyPath | Image.Image | Array  # a file, or pixels (H, W, 3) uint8
Queries: TypeAlias = Store | ImageSet | Array | dict[str, Array] | Picture | Sequence[Picture]
Several: TypeAlias = list[str] | tuple[str, ...]
Arrays: TypeAlias = Mapping[Part, Array | Shards]  # {part: the array that it is columns of}
PartsOf: TypeAlias = dict[str, list[Part]]  # {descriptor: the parts it is made of}
# {part: (Q, D_part) float32, finite}, the parts, metric, k, device
Question: TypeAlias = tuple[dict[Part, Floats], PartsOf, Metric, int, Device | None]
Found: TypeAlias = tuple[Ints, Ints, Doubles]  # query, row, distance (n,), best first per query

FILE = (str, os.PathLike)
OPENED = (*FILE, Image.Image)  # what `open_image` opens
ROWS = 2**11  # rows of an array that a thread searches at a time; of a store, a shard
QUERIES = 256  # queries that are compared at a time
CHUNK = 1024  # dimensions summed in float32 before float64 takes over
ROUNDING = 2.0**-24
TINY = 2.0**-126  # float32 products below it vanish


@dataclass(frozen=True, eq=False)
class Hits:
    """The result of `search`.

    Attributes:
        indices: (Q, k) int64 rows of what was searched, nearest first.
        distances: (Q, k) float64.
        store: what was searched; None for an array.
        queries: the queries' images; None where only descriptors were given.
    """

    indices: Ints
    distances: Doubles
    store: Store | None = None
    queries: Images | None = None

    @property
    def files(self) -> list[list[str]]:
        """Names of the images found, k per query; none for an unreadable query."""
        if self.store is None:
            raise _needs_store("asked for names")
        files = self.store.files
        return [[files[i] for i in row if i >= 0] for row in self.indices]

    def show(self, n: int = 5) -> "Figure":
        """Draws the first n queries, each beside its nearest images, with their distances.

        Raises ValueError if the queries were descriptors, or an array was searched.
        """
        import matplotlib.pyplot as plt  # only those who draw wait for it

        from . import figures

        if self.queries is None or self.store is None:
            raise ValueError("the queries were descriptors, not pictures: `files` has the names")
        rows = range(min(n, len(self.indices)))
        with plt.rc_context():
            figures.use_style()
            fig, axes = figures.grid(len(rows), 1 + self.indices.shape[1], left=0.25)
            figures.retrieval(axes, self.queries, self.store, self, rows=rows)
            plt.close(fig)  # else a notebook would show it twice
        return fig


def _needs_store(what: str) -> ValueError:
    return ValueError(f"an array cannot be {what}: pass the store, which knows its images")


class Options(TypedDict, total=False):
    """The options of `search`, the same in all its forms."""

    metric: Metric
    k: int
    net: Network | None
    device: Device | None
    client: "Client | None"


@overload
def search(
    st: Store | AnyPath | Array, queries: Queries, descriptor: str = "eta", **o: Unpack[Options]
) -> Hits: ...
@overload
def search(
    st: Store | AnyPath, queries: Queries, descriptor: Several, **o: Unpack[Options]
) -> dict[str, Hits]: ...
def search(
    st: Store | AnyPath | Array,
    queries: Queries,
    descriptor: str | Several = "eta",
    metric: Metric = "l1",
    k: int = 5,
    net: Network | None = None,
    device: Device | None = None,
    client: "Client | None" = None,
) -> Hits | dict[str, Hits]:
    """Finds the k nearest rows of a store for every query, exactly.

    Results are the same on any machine, bit for bit; memory does not grow with the store.
    Ties go to the lower row. Rows of unreadable images, and those still to come, are never found.

    `cbir.search(store, "photo.jpg", k=5).files[0]` are the names of the five nearest images.

    Args:
        st: a store, its path, or an (N, D) array.
        queries: a store or its path, a (Q, D) array, one row (D,), {descriptor: (Q, D) array}; a
            folder, a CSV; image files, PIL images, pixels (H, W, 3) or (Q, H, W, 3) uint8, one of
            these or a list.
        descriptor: "h", "eta_conv", "eta", another one of `st.descriptors`, or several joined by
            "+". A list of these is answered in one pass over the store. Only stores have a choice.
        metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is
            1 - cos, 1 for a row of zeros.
        k: rows for every query.
        net: describes image files; default the one of the name in the store, default weights.
        device: a torch device that computes the bounds ("cuda"); default the processor.
        client: a Dask `Client`, whose workers search a shard each.

    Returns:
        `Hits`, or {descriptor: `Hits`} for a list; -1 and NaN for an unreadable query.

    Raises:
        ValueError: unknown metric or descriptor, k out of range, no query, dimensions, networks or
            recipes that do not match.
    """
    check_choice("metric", metric, METRICS)
    names = [descriptor] if isinstance(descriptor, str) else list(descriptor)
    if isinstance(st, FILE):
        st = open_store(st)
    if isinstance(st, Store):
        parts = {name: st.parts(name) for name in names}
        arrays = {part: st.arrays[part[0]] for its in parts.values() for part in its}
    else:
        st = np.asarray(st)
        if st.ndim != 2:
            shape = f"the database is {st.shape}, not (N, D), one row an image"
            raise ValueError(f"dimensions do not match: {shape}")
        if client is not None or not isinstance(descriptor, str):
            raise _needs_store("searched by a cluster, or by several descriptors")
        parts = {names[0]: [("rows", 0, st.shape[1])]}
        arrays = {parts[names[0]][0]: st}
    if not 1 <= k <= len(st):
        raise ValueError(f"k = {k} is out of range for {len(st)} rows: choose 1 to {len(st)}")
    queries = _pictures_or_rows(queries)
    seen = queries if isinstance(queries, Images) else None
    columns = _query_columns(st, queries, parts, net)
    readable = np.all([np.isfinite(column).all(axis=1) for column in columns.values()], axis=0)
    asked, shape = np.flatnonzero(readable), (len(readable), k)
    store = st if isinstance(st, Store) else None
    hits = {n: Hits(np.full(shape, -1), np.full(shape, np.nan), store, seen) for n in names}
    for first in range(0, len(asked), QUERIES):
        some = asked[first : first + QUERIES]
        question = {p: c[some] for p, c in columns.items()}, parts, metric, k, device
        for name, (_, rows, distances) in _nearest(arrays, question, client).items():
            if len(rows) < k * len(some):
                raise ValueError(f"k = {k} is more than the described images among the {len(st)}")
            hits[name].indices[some] = rows.reshape(-1, k)
            hits[name].distances[some] = distances.reshape(-1, k)
    return hits[descriptor] if isinstance(descriptor, str) else hits


def _pictures_or_rows(queries: Any) -> Images | Array | dict[str, Array]:
    """Converts any kind of queries to images or to descriptors."""
    if isinstance(queries, (Images, dict)):
        return queries
    if isinstance(queries, FILE) and Path(queries, "store.json").expanduser().is_file():
        return open_store(queries)
    if isinstance(queries, FILE) and (Path(queries).expanduser().is_dir() or is_csv(queries)):
        return list_images(queries)
    if _is_picture(queries):
        queries = [queries]
    if not isinstance(queries, np.ndarray) and not len(queries):
        raise ValueError("no queries: the list is empty")
    if not any(map(_is_picture, queries)):
        return np.atleast_2d(np.asarray(queries))
    if all(isinstance(query, FILE) for query in queries):
        return list_images(queries)
    return Pictures([q if isinstance(q, OPENED) else _from_pixels(q) for q in queries])


def _is_picture(query: Any) -> bool:
    return isinstance(query, OPENED) or getattr(query, "ndim", 0) == 3


def _from_pixels(pixels: Any) -> Image.Image:
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        wanted = "neither rows (Q, D) of a descriptor nor pixels (H, W, 3) of uint8"
        got = f"{pixels.shape} of {pixels.dtype}"
        raise ValueError(f"dimensions do not match: {got} are {wanted}")
    return Image.fromarray(pixels)


def _query_columns(
    st: Store | Array, queries: Images | Array | dict[str, Array], parts_of: PartsOf, net: Any
) -> dict[Part, Floats]:
    """The queries' descriptors by part, {part: (Q, D_part)}; NaN where an image is unreadable."""
    if isinstance(st, Store) and st.source and st.projection:  # made by `compress`
        whole = {name: st.source.parts(name) for name in parts_of}
        queries = getattr(queries, "source", None) or queries
        pieces = _query_columns(st.source, queries, whole, net)
        queries = st.projection(np.concatenate([*pieces.values()], axis=1))
    found: Any = queries if isinstance(queries, dict | Store) else dict.fromkeys(parts_of, queries)
    if isinstance(queries, Images) and not isinstance(queries, Store):
        if not isinstance(st, Store):
            raise _needs_store("searched for images")
        net = network_of(st, net)
        needed = {array for parts in parts_of.values() for array, *_ in parts}
        extras = {name: what for name, what in st.extras.items() if name in needed}
        describer = Describer(net, st.recipe, extras)
        describer.widths = {name: st.arrays[name].shape[1] for name in ("h", "eta_conv", *extras)}
        describer.batch_size = default_batch(net)
        decoded = describer.decode_ahead(map(queries.path, range(len(queries))))
        found = copy(st)
        found.arrays, *_ = describer.describe(decoded, len(queries))
    elif isinstance(queries, Store) and isinstance(st, Store):
        check_comparable(st, queries, parts_of)
    columns: dict[Part, Floats] = {}
    for name, parts in parts_of.items():
        rows = np.asarray(found[name], dtype=np.float32)
        ends = np.cumsum([end - first for _, first, end in parts])
        if rows.ndim != 2 or rows.shape[1] != ends[-1]:
            problem = f"the queries are {rows.shape}, the database has {ends[-1]}"
            advice = "both must be the same descriptor of the same network"
            raise ValueError(f"dimensions do not match: {problem}: {advice}")
        pieces = np.split(rows, ends[:-1], axis=1)
        columns |= {part: np.ascontiguousarray(piece) for part, piece in zip(parts, pieces)}
    return columns


# ---- exact nearest neighbours --------------------------------------------------------------------


def _join(several: Sequence[Found], k: int) -> Found:
    """The k best of every query; ties go to the lower row."""
    query, row, distance = (np.concatenate(values) for values in zip(*several))
    order = np.lexsort((row, distance, query))
    query = query[order]
    kept = np.arange(len(query)) - np.searchsorted(query, query) < k
    return query[kept], row[order][kept], distance[order][kept]


def _nearest(arrays: Arrays, question: Question, client: "Client | None") -> dict[str, Found]:
    """Finds the k rows nearest to every query, by every descriptor."""
    _, parts_of, metric, k, device = question
    array = next(iter(arrays.values()))
    places = array.rows if isinstance(array, Shards) else np.arange(len(array))
    size = array.shard_size if isinstance(array, Shards) else ROWS
    blocks = [lines for _, lines in by_shard(places, size)]
    if client is None:
        search_block = partial(_search_block, (arrays, question), highs={})
        # Our kernel has no threads of its own: they would wait for each other after every shard.
        with ThreadPoolExecutor(cores() if metric == "l1" and device is None else 1) as pool:
            found = list(pool.map(search_block, blocks))
    else:
        tasks: Any = ((lines, {}) for lines in blocks)
        found = list(run_on_workers(client, _search_block, (arrays, question), tasks))
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    return {name: _join([nothing, *(best[name] for best in found)], k) for name in parts_of}


@np.errstate(invalid="ignore", over="ignore")
def _search_block(
    kept: tuple[Arrays, Question], lines: Ints, highs: dict[str, Doubles]
) -> dict[str, Found]:
    """The k best of a block's lines, or those of them that can be among the k best of all.

    highs: {descriptor: the k lowest upper bounds so far, (Q, k)}, of all blocks that share it.
    """
    arrays, (queries, parts_of, metric, k, device) = kept
    rows, sums, best = {}, {}, {}
    for part, array in arrays.items():
        is_stored = isinstance(array, Shards)
        block = array.view(lines) if is_stored else array[lines[0] : lines[-1] + 1]
        rows[part] = np.ascontiguousarray(block[:, part[1] : part[2]], dtype=np.float32)
        sums[part] = _sums(queries[part], rows[part], metric, device)
    for name, parts in parts_of.items():
        dims = sum(queries[part].shape[1] for part in parts)
        terms = CHUNK if metric == "l1" and device is None else dims
        error = (terms + 8) * ROUNDING  # a sum of n terms in float32 is off by n roundings
        total = sum((sums[part] for part in parts), np.zeros(()))
        low, high = (_distance(total, metric, dims, error, sign) for sign in (-1, 1))
        overflowed = ~np.isfinite(high) & ~np.isnan(total[-1])  # NaN is a row of NaN
        low[overflowed], high[overflowed] = -np.inf, np.inf
        so_far = highs.get(name, np.full((len(high), k), np.inf))
        # Another thread may replace it meanwhile: then rows are missing, none is counted twice.
        so_far = np.partition(np.hstack([so_far, high]), k - 1, axis=1)[:, :k]
        highs[name] = so_far
        query, column = np.nonzero(low <= so_far[:, -1:])
        exact = [_exact_sums(queries[part], rows[part], query, column, metric) for part in parts]
        distance = _distance(sum(exact, np.zeros(())), metric, dims)
        finite = np.isfinite(distance)
        best[name] = _join([(query[finite], lines[column[finite]], distance[finite])], k)
    return best


# What a distance is made of, to be added up over the parts of a descriptor: for L1 the absolute
# differences; for L2 the squared ones, then what their rounding goes by; for cosine the products,
# the queries' squares and the rows'.


def _sums(queries: Floats, rows: Floats, metric: Metric, device: Device | None) -> Doubles:
    """Sums, made in float32, for all (Q, D) queries and (n, D) rows: (S, Q, n)."""
    if metric == "l1" and device is None:
        return _l1(queries, rows)[None]
    q, x = (torch.from_numpy(array).to(device or "cpu") for array in (queries, rows))
    if metric == "l1":
        return torch.cdist(q, x, p=1).cpu().numpy().astype(float)[None]
    dots = (q @ x.T).cpu().numpy().astype(float)
    of_q, of_x = (torch.linalg.vector_norm(a, dim=1).square().cpu().numpy() for a in (q, x))
    if metric == "cosine":
        return np.stack([dots, *np.broadcast_arrays(of_q[:, None], of_x)])
    scale = of_q[:, None].astype(float) + of_x
    return np.stack([scale - 2 * dots, scale])  # |q - x|^2 = q^2 + x^2 - 2 q x


def _exact_sums(queries: Floats, rows: Floats, query: Ints, row: Ints, metric: Metric) -> Doubles:
    """Sums in float64 for query[i] and row[i]: (S, n)."""
    pairs = [(queries, rows, query, row)]
    if metric == "cosine":
        pairs += [(queries, queries, query, query), (rows, rows, row, row)]
    return np.stack([_exact(*pair, metric) for pair in pairs])


def _distance(sums: Doubles, metric: Metric, dims: int, error: float = 0, sign: int = 0) -> Doubles:
    """Distances from their sums; by a sign, bounds from sums that are off by `error` at most."""
    vanished = 4 * dims * TINY
    if metric == "l1":
        return sums[0] * (1 + sign * error) / dims
    if metric == "l2":
        slack = 2 * error * sums[-1] + vanished
        return np.sqrt(np.maximum(0, sums[0] + sign * slack)) / dims
    dots, *squares = sums
    norms = np.sqrt(squares[0] * squares[1])  # 1 - q x / (|q| |x|); cosine 0 of a row of zeros
    cosine = np.where(np.isfinite(norms), 0.0, np.nan)
    np.divide(dots, norms, out=cosine, where=norms > 0)
    return 1 - cosine + sign * (4 * error + vanished / np.maximum(norms, TINY))


def _compiled(function: Any, **options: Any) -> Any:
    """`numba.njit` whose result is kept for the next process, where there is a place for it."""
    try:
        return numba.njit(function, cache=True, nogil=True, **options)
    except RuntimeError:  # no folder can be written
        return numba.njit(function, nogil=True, **options)


@partial(_compiled, fastmath={"reassoc", "contract"})
def _l1(queries: Floats, rows: Floats) -> Doubles:
    """Sums of absolute differences, (Q, n) float64.

    A piece of four rows stays in the processor's first cache for all queries, and shares each load
    of a query. Reassociation lets the compiler use vector registers; NaN stays NaN.
    """
    out = np.zeros((queries.shape[0], rows.shape[0]))
    for j in range(0, rows.shape[0], 4):
        last = min(3, rows.shape[0] - 1 - j)
        for start in range(0, rows.shape[1], CHUNK):
            end = start + CHUNK
            a, b = rows[j, start:end], rows[j + min(1, last), start:end]
            c, d = rows[j + min(2, last), start:end], rows[j + last, start:end]
            for i in range(queries.shape[0]):
                q = queries[i, start:end]
                w = x = y = z = np.float32(0)
                for t in range(q.shape[0]):
                    w += abs(q[t] - a[t])
                    x += abs(q[t] - b[t])
                    y += abs(q[t] - c[t])
                    z += abs(q[t] - d[t])
                for t, total in enumerate((w, x, y, z)):
                    if t <= last:
                        out[i, j + t] += total
    return out


@_compiled
def _exact(queries: Floats, rows: Floats, query: Ints, row: Ints, metric: Metric) -> Doubles:
    """Sums for query[i] and row[i] in float64, in one order on any machine, (n,).

    Of |q - x| (l1), of (q - x)^2 (l2), or of q x (cosine). Eight sums side by side, since one
    would wait for each addition.
    """
    out = np.zeros(len(query))
    l1, l2 = metric == "l1", metric == "l2"
    for i in range(len(query)):
        a, b = queries[query[i]], rows[row[i]]
        sums = np.zeros(8)
        for start in range(0, len(a), 8):
            for lane in range(min(8, len(a) - start)):
                q, x = np.float64(a[start + lane]), np.float64(b[start + lane])
                if l1:
                    sums[lane] += abs(q - x)
                elif l2:
                    sums[lane] += (q - x) * (q - x)
                else:
                    sums[lane] += q * x
        for total in sums:
            out[i] += total
    return out
