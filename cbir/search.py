"""Exact nearest neighbours over a store or an array: L1, L2 and cosine, any number of descriptors in one pass.

Filter and refine: float32 sums (numba for L1, matrix products for L2 and cosine) bound every distance from both sides; the few rows that
can be among the k nearest are compared again in float64. So the result is that of float64 brute force, whatever the blocks, the
threads, the processor or the cluster.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, overload

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .choices import METRICS, AnyPath, Metric, unknown
from .extract import Describer
from .images import ImageSet, list_images
from .networks import Network
from .store import Part, Store, shared_store
from .zoo import load_network

if TYPE_CHECKING:
    from distributed import Client

Queries: TypeAlias = Store | ImageSet | NDArray[Any] | dict[str, NDArray[Any]] | AnyPath | Sequence[AnyPath]
Floats: TypeAlias = NDArray[np.float32]
Parts: TypeAlias = Mapping[str, Sequence[Part]]           # descriptor: what it is made of
Block: TypeAlias = tuple[int, dict[Part, Floats]]         # first row, {part: (n, D_part)}

BLOCK = 2 ** 25      # bytes of the database in memory at a time, thrice: computed with, read ahead, in decompression
ROWS = 2 ** 14       # rows at a time of an array that is in memory as it is
QUERIES = 256        # queries compared with a block at a time
CHUNK = 1024         # dimensions summed in float32 before float64 takes over
ROUNDING = 2.0 ** -24
TINY = 2.0 ** -126   # float32 products below it vanish
_kernels = Lock()    # numba's simplest threading layer dies of two callers at once


class Hits(NamedTuple):
    """`indices` (Q, k) int64 rows of the store, nearest first; `distances` (Q, k) float64."""

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]


@overload
def search(st: Store | NDArray[Any], queries: Queries, descriptor: str = "eta", metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> Hits: ...
@overload
def search(st: Store, queries: Queries, descriptor: list[str] | tuple[str, ...], metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> dict[str, Hits]: ...
def search(st: Store | NDArray[Any], queries: Queries, descriptor: str | list[str] | tuple[str, ...] = "eta", metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> Hits | dict[str, Hits]:
    """The k nearest rows of a store for every query, exactly.

    st: a store or an (N, D) array. queries: a store, a (Q, D) array, {descriptor: (Q, D) array}, or image files (described by `net`; without
    one, by the named network that made the store). descriptor: "h", "eta_conv", "eta", another one of `st.descriptors`, or several joined by "+"; or a
    list of these: {descriptor: Hits}, from one pass over the store. Only stores have a choice.
    metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is 1 - cos, 1 for a row of zeros.
    device: a torch device that computes the bounds ("cuda"), default: the processor. client: a Dask `Client`, whose workers search a part of
    the store each. Results are the same everywhere, bit for bit; memory does not grow with the store.
    Ties go to the lower index. Rows of unreadable images are never found; the distances of an unreadable query are NaN, its indices -1.
    Raises ValueError for an unknown metric or descriptor, k out of range, dimensions, networks or recipes that do not match, damaged shards.
    """
    if metric not in METRICS:
        raise ValueError(unknown("metric", metric, METRICS))
    names = [descriptor] if isinstance(descriptor, str) else list(descriptor)
    if isinstance(st, Store):
        parts = {name: st.parts(name) for name in names}
        described = st.described
    else:
        st = np.asarray(st)
        if st.ndim != 2:
            raise ValueError(f"dimensions do not match: the database is {st.shape}, not (N, D): one row an image")
        if client is not None or not isinstance(descriptor, str):
            raise ValueError("only a store can be searched by a cluster, or by several descriptors: pass the store, or one array and neither")
        parts = {descriptor: [("rows", 0, st.shape[1])]}
        described = None
    if not 1 <= k <= len(st):
        raise ValueError(f"k = {k} is out of range for {len(st)} rows: choose 1 to {len(st)}")
    queries = _query_parts(st, queries, parts, net)
    bad = ~np.all([np.isfinite(q).all(axis=1) for q in queries.values()], axis=0)
    queries = {part: np.where(bad[:, None], np.float32(0), q) for part, q in queries.items()}
    if client is None or not isinstance(st, Store):
        found = _nearest(_blocks(st, list(queries), described), queries, parts, metric, k, device)
    else:
        found = _nearest_by_cluster(client, st, queries, parts, metric, k, device)
    hits = {name: flat.table(len(bad), k) for name, flat in found.items()}
    if any((h.indices[~bad] < 0).any() for h in hits.values()):
        raise ValueError(f"k = {k} is more than the number of described images among the {len(st)}")
    for h in hits.values():
        h.indices[bad], h.distances[bad] = -1, np.nan
    return hits[descriptor] if isinstance(descriptor, str) else hits


def _query_parts(st: Store | NDArray[Any], queries: Queries, parts: Parts, net: Network | None) -> dict[Part, Floats]:
    """Whatever the queries are -> {part of the database: (Q, D_part) float32}."""
    if isinstance(queries, Store):
        if isinstance(st, Store) and (st.network, st.recipe) != (queries.network, queries.recipe):
            raise ValueError("database and queries were described by different networks or recipes: pass the queries' image files, or extract them again like the "
                             "database (its `network` and `recipe`)")
        if isinstance(st, Store):
            other = sorted(n for name in parts for n in name.split("+") if st.extras.get(n) != queries.extras.get(n))
            if other:
                raise ValueError(f"database and queries have different descriptors of the name {other[0]!r}: extract one of them again, with the other's `extras`")
        rows = {name: queries[name][:] for name in parts}
    elif isinstance(queries, dict):
        rows = {name: np.asarray(queries[name], dtype=np.float32) for name in parts}
    else:
        if isinstance(queries, (str, os.PathLike)):
            queries = list_images(queries) if os.path.isdir(queries) else [queries]
        files = queries if isinstance(queries, ImageSet) else [q for q in queries if isinstance(q, (str, os.PathLike))]
        if 0 < len(files) == len(queries):
            rows = describe_files(st, files, parts, net)
        else:
            rows = dict.fromkeys(parts, np.asarray(queries, dtype=np.float32))
    out = {}
    for name, of in parts.items():
        width = sum(b - a for _, a, b in of)
        if rows[name].ndim != 2 or rows[name].shape[1] != width:
            raise ValueError(f"dimensions do not match: the database has {width}, the queries are {rows[name].shape}: both must be the same descriptor of the same network")
        for part, columns in zip(of, np.split(rows[name], np.cumsum([b - a for _, a, b in of])[:-1], axis=1)):
            out[part] = np.ascontiguousarray(columns)
    return out


def describe_files(st: Store | NDArray[Any], files: ImageSet | Sequence[AnyPath], names: Iterable[str], net: Network | None = None) -> dict[str, Floats]:
    """Image files, described like the images of a store: {descriptor: (Q, D) float32}, rows of NaN for those that cannot be read.

    net: the network that made the store; without one, it is loaded by name. Raises ValueError for another one, or where `st` is no store.
    """
    if not isinstance(st, Store):
        raise ValueError("image files can only be searched for in a store, which knows how it was described: pass that, not an array of it")
    net = net or load_network(st.network["name"], precision=st.network.get("precision", "float32"))
    if net.provenance != st.network:
        raise ValueError(f"the store was made by another network or other weights than {net.name!r}: pass that one as `net`")
    files, describer = list_images(files), Describer(net, st.recipe, st.extras)
    out = {name: np.full((len(files), st[name].shape[1]), np.nan, np.float32) for name in names}
    for i in range(len(files)):
        decoded = describer.decode(files.path(i))
        if isinstance(decoded, str):
            continue
        arrays = {name: part[0].cpu().numpy() for name, part in describer([decoded]).items()}
        for name in names:
            out[name][i] = np.concatenate([arrays[array][a:b] for array, a, b in st.parts(name)])
    return out


def _blocks(st: Store | NDArray[Any], parts: Sequence[Part], described: NDArray[np.bool_] | None, first: int = 0, last: int | None = None) -> Iterator[Block]:
    """The database in pieces of at most `BLOCK` bytes: yields (first row, {part: (n, D_part) float32}), reading the next one ahead."""
    last = len(st) if last is None else last
    if not isinstance(st, Store):
        step = ROWS if st.dtype == np.float32 and st.flags.c_contiguous else max(1, BLOCK // max(1, 4 * st.shape[1]))
        for start in range(first, last, step):
            yield start, {parts[0]: np.ascontiguousarray(st[start:min(start + step, last)], dtype=np.float32)}
        return
    arrays, known = list(dict.fromkeys(name for name, _, _ in parts)), st.described if described is None else described
    shard = st.shards[0].stop
    step = max(1, BLOCK // (4 * shard * max(1, sum(st.arrays[name].shape[1] for name in arrays)))) * shard

    def read(start: int) -> Block:
        rows = slice(start, min(start + step, last))
        whole = {name: st.read(name, rows) for name in arrays}
        for name, array in whole.items():
            if array.shape[1] and np.isnan(array[known[rows], 0]).any():
                raise ValueError(f"{st.location} has lost a shard of {name!r} among the rows {rows.start} to {rows.stop}: run cbir.extract again")
            array[~known[rows]] = np.nan
        return start, {(name, a, b): np.ascontiguousarray(whole[name][:, a:b], dtype=np.float32) for name, a, b in parts}

    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(read, first)
        for start in range(first, last, step):
            block = future.result()
            if start + step < last:
                future = ahead.submit(read, start + step)
            yield block


def _nearest_by_cluster(client: "Client", st: Store, queries: dict[Part, Floats], parts: Parts, metric: Metric, k: int,
                        device: str | torch.device | None) -> "dict[str, Candidates]":
    """`_nearest` with a few tasks for every worker, each over its own shards."""
    tasks = 4 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    ranges = [(shards[0].start, shards[-1].stop) for shards in np.array_split(np.array(st.shards), min(tasks, len(st.shards)))]
    found = client.gather([client.submit(_search_rows, st.location, rows, queries, parts, metric, k, device, pure=False) for rows in ranges])
    return {name: Candidates.join([piece[name] for piece in found], k) for name in parts}


def _search_rows(path: str, rows: tuple[int, int], queries: dict[Part, Floats], parts: Parts, metric: Metric, k: int,
                 device: str | torch.device | None) -> "dict[str, Candidates]":
    """The task of `_nearest_by_cluster`: rows (first, last + 1) of the store at `path`."""
    st = shared_store(path)  # lost shards are found when they are read: no listing of all files in every task
    return _nearest(_blocks(st, list(queries), st.described, *rows), queries, parts, metric, k, device)


class Candidates(NamedTuple):
    """Rows found for some queries, side by side: `query`, `row` (n,) int64, `distance` (n,) float64; best first within a query."""

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    distance: NDArray[np.float64]

    @classmethod
    def join(cls, several: "Sequence[Candidates]", k: int) -> Self:
        """The k best of every query; ties to the lower row."""
        query, row, distance = every = [np.concatenate(values) for values in zip(*several)]
        order = np.lexsort((row, distance, query))
        rank = np.arange(len(order)) - np.searchsorted(query[order], query[order])
        return cls(*(values[order[rank < k]] for values in every))

    def table(self, n: int, k: int) -> Hits:
        """`Hits` for n queries; -1 and infinity where there are fewer than k."""
        hits = Hits(np.full((n, k), -1), np.full((n, k), np.inf))
        rank = np.arange(len(self.query)) - np.searchsorted(self.query, self.query)
        hits.indices[self.query, rank], hits.distances[self.query, rank] = self.row, self.distance
        return hits


NONE = Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _nearest(blocks: Iterable[Block], queries: dict[Part, Floats], parts: Parts, metric: Metric, k: int,
             device: str | torch.device | None) -> dict[str, Candidates]:
    """{descriptor: Candidates}, the k nearest of all rows of the blocks. See the module's docstring for the way."""
    n = len(next(iter(queries.values())))
    best, limits = dict.fromkeys(parts, NONE), {name: np.full(n, np.inf) for name in parts}
    for start, block in blocks:
        for i in range(0, n, QUERIES):
            some = {part: q[i:i + QUERIES] for part, q in queries.items()}
            sums = {part: _sums(some[part], block[part], metric, device) for part in queries}
            for name, of in parts.items():
                low, high = _bounds([sums[part] for part in of], metric, sum(b - a for _, a, b in of), device)
                limit = limits[name][i:i + QUERIES]
                if high.shape[1] >= k:
                    limit = np.fmin(limit, np.partition(high, k - 1, axis=1)[:, k - 1])
                query, row = np.nonzero(low <= limit[:, None])
                distance = _distances([(some[part], block[part]) for part in of], query, row, metric)
                finite = np.isfinite(distance)
                found = Candidates(query[finite] + i, row[finite] + start, distance[finite])
                best[name] = Candidates.join([best[name], found], k)
        limits = {name: found.table(n, k).distances[:, -1] for name, found in best.items()}
    return best


def _sums(queries: Floats, rows: Floats, metric: Metric, device: str | torch.device | None) -> NDArray[np.float64]:
    """What distances are made of and what adds up over parts, for (Q, D) queries and (n, D) rows: L1's sums (1, Q, n) or (dot products,
    squares of the queries, squares of the rows), (3, Q, n); with float32's errors."""
    if metric == "l1" and device is None:
        with _kernels:
            return _l1(queries, rows)[None]
    q, x = (torch.from_numpy(a).to(device or "cpu") for a in (queries, rows))
    if metric == "l1":
        return torch.cdist(q, x, p=1).cpu().numpy().astype(float)[None]
    dots = (q @ x.T).cpu().numpy().astype(float)
    squares = [torch.linalg.vector_norm(a, dim=1).square().cpu().numpy() for a in (q, x)]
    return np.stack([dots, *np.broadcast_arrays(squares[0][:, None], squares[1])])


def _bounds(sums: Sequence[NDArray[np.float64]], metric: Metric, dims: int, device: str | torch.device | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between what every distance lies, (Q, n) twice. Rows of NaN get NaN; a sum of n terms in float32 is off by n roundings at most."""
    total = sum(sums, np.zeros(()))
    error = ((CHUNK if metric == "l1" and device is None else dims) + 8) * ROUNDING
    with np.errstate(invalid="ignore", over="ignore"):
        if metric == "l1":
            dead, low, high = np.isnan(total[0]), total[0] * (1 - error) / dims, total[0] * (1 + error) / dims
        else:
            dots, of_queries, of_rows = total
            dead = np.isnan(of_rows)
            if metric == "l2":
                square, slack = of_queries + of_rows - 2 * dots, 2 * error * (of_queries + of_rows) + 4 * dims * TINY
                low, high = (np.sqrt(np.maximum(0, square + sign * slack)) / dims for sign in (-1, 1))
            else:
                norms = np.sqrt(of_queries * of_rows)
                cosine = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
                vague = 4 * error + 4 * dims * TINY / np.maximum(norms, TINY)
                low, high = 1 - cosine - vague, 1 - cosine + vague
    beyond = ~np.isfinite(high)  # float32 overflowed: nothing is known
    low, high = np.where(beyond, -np.inf, low), np.where(beyond, np.inf, high)
    return np.where(dead, np.nan, low), np.where(dead, np.nan, high)


def _distances(pairs: Sequence[tuple[Floats, Floats]], query: NDArray[np.int64], row: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """Distances of some pairs (query[i], row[i]), in float64, (n,). pairs: [(queries, rows), ..], one for every part."""
    total, of_query, of_row = sum((_exact(queries, rows, query, row, metric) for queries, rows in pairs), np.zeros(()))
    if metric != "cosine":
        return (total if metric == "l1" else np.sqrt(total)) / sum(rows.shape[1] for _, rows in pairs)
    norms = np.sqrt(of_query * of_row)
    return 1 - np.divide(total, norms, out=np.where(np.isfinite(norms), 0.0, np.nan), where=norms > 0)


@numba.njit(parallel=True, fastmath={"reassoc", "contract"}, cache=True)
def _l1(queries: Floats, rows: Floats) -> NDArray[np.float64]:
    """Sums of absolute differences, (Q, n) float64. A piece of four rows stays in the processor's first cache for all queries, and shares
    each load of a query; reassociation lets the compiler use vector registers, NaN stays NaN."""
    out = np.empty((queries.shape[0], rows.shape[0]))
    last, dims = rows.shape[0] - 1, rows.shape[1]
    for group in numba.prange((last + 4) // 4):
        j, sums = 4 * group, np.zeros((queries.shape[0], 4))
        for start in range(0, dims, CHUNK):
            end = min(start + CHUNK, dims)
            a, b = rows[j, start:end], rows[min(j + 1, last), start:end]
            c, d = rows[min(j + 2, last), start:end], rows[min(j + 3, last), start:end]
            for i in range(queries.shape[0]):
                q = queries[i, start:end]
                w = x = y = z = np.float32(0)
                for t in range(q.shape[0]):
                    w += abs(q[t] - a[t])
                    x += abs(q[t] - b[t])
                    y += abs(q[t] - c[t])
                    z += abs(q[t] - d[t])
                sums[i, 0] += w
                sums[i, 1] += x
                sums[i, 2] += y
                sums[i, 3] += z
        for i in range(queries.shape[0]):
            for t in range(min(4, last + 1 - j)):
                out[i, j + t] = sums[i, t]
    return out


@numba.njit(cache=True)
def _exact(queries: Floats, rows: Floats, query: NDArray[np.int64], row: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """For every pair, in float64 and in one order on any machine, what `_distances` needs: sums of |q - x| (l1), of (q - x)^2 (l2), or of
    q x, q^2 and x^2 (cosine); (3, n). Eight sums side by side, since one would wait for each addition."""
    out, l1, l2 = np.zeros((3, len(query))), metric == "l1", metric == "l2"
    for i in range(len(query)):
        a, b, sums = queries[query[i]], rows[row[i]], np.zeros((3, 8))
        for start in range(0, len(a), 8):
            for lane in range(min(8, len(a) - start)):
                q, x = np.float64(a[start + lane]), np.float64(b[start + lane])
                if l1:
                    sums[0, lane] += abs(q - x)
                elif l2:
                    sums[0, lane] += (q - x) * (q - x)
                else:
                    sums[0, lane] += q * x
                    sums[1, lane] += q * q
                    sums[2, lane] += x * x
        for kind in range(3):
            for lane in range(8):
                out[kind, i] += sums[kind, lane]
    return out
