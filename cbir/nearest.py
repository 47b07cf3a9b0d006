"""Exact nearest neighbours among blocks of rows: L1, L2 and cosine.

Filter and refine: sums over bytes (see `coarse`) or in float32 (numba for L1, matrix products for
L2 and cosine) bound every distance from both sides. The few rows that can be among the k nearest
are compared again in float64. So the result is that of float64 brute force, whatever the blocks,
the threads, the processor or the cluster.

Rows may be cut into parts, each an array of its own. A descriptor is made of several parts, and
all descriptors are searched in one pass: what distances are made of adds up over parts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .coarse import Doubles, Floats
from .common import Metric

Device: TypeAlias = str | torch.device | None
Part: TypeAlias = Any  # names an array of a block: whatever can be a dict's key

ROWS = 2**14  # rows at a time of an array that is in memory as it is
QUERIES = 256  # queries compared with a block at a time
CHUNK = 1024  # dimensions summed in float32 before float64 takes over
ROUNDING = 2.0**-24
TINY = 2.0**-126  # float32 products below it vanish
_kernels = Lock()  # numba's simplest threading layer dies of two callers at once


class Hits(NamedTuple):
    """`indices` (Q, k) int64 rows of the store, nearest first; `distances` (Q, k) float64."""

    indices: NDArray[np.int64]
    distances: Doubles


class Candidates(NamedTuple):
    """Rows found for several queries, one after the other, best first within a query.

    `query`, `row` (n,) int64, `distance` (n,) float64.
    """

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    distance: Doubles

    @classmethod
    def join(cls, several: "Sequence[Candidates]", k: int) -> Self:
        """The k best of every query; ties go to the lower row."""
        query, row, distance = (np.concatenate(values) for values in zip(*several))
        order = np.lexsort((row, distance, query))
        kept = order[_ranks(query[order]) < k]
        return cls(query[kept], row[kept], distance[kept])

    def table(self, asked: NDArray[np.bool_], k: int) -> Hits:
        """`Hits` for all queries, -1 and infinity where a query has fewer than k rows.

        asked: (Q,) bool, the queries that these are the candidates of; others get -1 and NaN.
        """
        hits = Hits(np.full((len(asked), k), -1), np.full((len(asked), k), np.nan))
        hits.distances[asked] = np.inf
        query = np.flatnonzero(asked)[self.query]
        rank = _ranks(self.query)
        hits.indices[query, rank] = self.row
        hits.distances[query, rank] = self.distance
        return hits


class Question(NamedTuple):
    """What is asked of every block of rows.

    queries: {part: (Q, D_part) float32}, finite. parts: {descriptor: the parts it is made of}.
    metric: see `cbir.search`. k: rows wanted for every query. device: a torch device that computes
    the bounds, None for the processor.
    """

    queries: Mapping[Part, Floats]
    parts: Mapping[str, Sequence[Part]]
    metric: Metric
    k: int
    device: Device = None


class Block(Protocol):
    """Some consecutive rows of the database."""

    @property
    def first_row(self) -> int:
        """The number of the first row in the database."""

    def sums(self, queries: Mapping[Part, Floats], question: Question) -> dict[Part, Doubles]:
        """What bounds are made of, (S, Q, n) for each part; adds up over the parts."""

    def bounds(self, total: Doubles, dims: int, question: Question) -> tuple[Doubles, Doubles]:
        """Between what every distance lies, (Q, n) twice; NaN for rows of NaN.

        total: `sums`, added up over parts of `dims` dimensions.
        """

    def rows(self, part: Part, which: NDArray[np.int64]) -> Floats:
        """Some rows of a part, (m, D_part)."""


class FloatBlock(NamedTuple):
    """Rows in memory: arrays {part: (n, D_part) float32}."""

    first_row: int
    arrays: Mapping[Part, Floats]

    def sums(self, queries: Mapping[Part, Floats], question: Question) -> dict[Part, Doubles]:
        """See `_sums`."""
        metric, device = question.metric, question.device
        return {part: _sums(q, self.arrays[part], metric, device) for part, q in queries.items()}

    def bounds(self, total: Doubles, dims: int, question: Question) -> tuple[Doubles, Doubles]:
        """See `_bounds`."""
        return _bounds(total, question.metric, dims, question.device)

    def rows(self, part: Part, which: NDArray[np.int64]) -> Floats:
        """Some rows of a part, (m, D_part)."""
        return self.arrays[part][which]


def _ranks(query: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. for every query's candidates; query: sorted."""
    return np.arange(len(query)) - np.searchsorted(query, query)


def array_blocks(rows: NDArray[Any], part: Part, size: int) -> Iterator[FloatBlock]:
    """An (N, D) array of one part, in pieces of `size` bytes; of `ROWS` rows if none is copied."""
    step = max(1, size // max(1, 4 * rows.shape[1]))
    if rows.dtype == np.float32 and rows.flags.c_contiguous:
        step = ROWS  # nothing is copied
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        yield FloatBlock(start, {part: np.ascontiguousarray(piece, dtype=np.float32)})


def nearest(blocks: Iterable[Block], question: Question) -> dict[str, Candidates]:
    """The k rows nearest to every query, by every descriptor: {descriptor: `Candidates`}.

    blocks: the database in pieces. Rows with NaN are never found.
    """
    queries, parts, _, k, _ = question
    n_queries = len(next(iter(queries.values())))
    nothing = Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    best = dict.fromkeys(parts, nothing)
    limits = {name: np.full(n_queries, np.inf) for name in parts}  # distance of the k-th so far
    for block in blocks:
        for first in range(0, n_queries, QUERIES):
            asked = {part: vectors[first : first + QUERIES] for part, vectors in queries.items()}
            sums = block.sums(asked, question)
            for name, its_parts in parts.items():
                limit = limits[name][first : first + QUERIES]
                query, row = _possible(block, sums, its_parts, limit, question)
                which, place = np.unique(row, return_inverse=True)
                pairs = [(asked[part], block.rows(part, which)) for part in its_parts]
                distance = _distances(pairs, query, place, question.metric)
                finite = np.isfinite(distance)
                found = Candidates(
                    query[finite] + first, row[finite] + block.first_row, distance[finite]
                )
                best[name] = Candidates.join([best[name], found], k)
        for name, candidates in best.items():
            limits[name] = candidates.table(np.ones(n_queries, bool), k).distances[:, -1]
    return best


def _possible(
    block: Block,
    sums: Mapping[Part, Doubles],
    parts: Sequence[Part],
    limit: Doubles,
    question: Question,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Queries and rows, (n,) each, that can be among the k nearest by a descriptor of some parts.

    limit: (Q,) the k-th distance so far.
    """
    dims = sum(question.queries[part].shape[1] for part in parts)
    total = sum((sums[part] for part in parts), np.zeros(()))
    low, high = block.bounds(total, dims, question)
    if high.shape[1] >= question.k:
        limit = np.fmin(limit, np.partition(high, question.k - 1, axis=1)[:, question.k - 1])
    query, row = np.nonzero(low <= limit[:, None])
    return query, row


def _sums(queries: Floats, rows: Floats, metric: Metric, device: Device) -> Doubles:
    """What the distances of (Q, D) queries and (n, D) rows are made of, with float32's errors.

    For L1 the sums of absolute differences (1, Q, n). Else (3, Q, n): the dot products, the sums
    of the queries' squares, the sums of the rows' squares.
    """
    if metric == "l1" and device is None:
        with _kernels:
            return _l1(queries, rows)[None]
    q, x = (torch.from_numpy(array).to(device or "cpu") for array in (queries, rows))
    if metric == "l1":
        return torch.cdist(q, x, p=1).cpu().numpy().astype(float)[None]
    dots = (q @ x.T).cpu().numpy().astype(float)
    q_squares, x_squares = (torch.linalg.vector_norm(array, dim=1).square() for array in (q, x))
    q_squares, x_squares = q_squares.cpu().numpy()[:, None], x_squares.cpu().numpy()
    return np.stack([dots, *np.broadcast_arrays(q_squares, x_squares)])


def _bounds(total: Doubles, metric: Metric, dims: int, device: Device) -> tuple[Doubles, Doubles]:
    """Between what every distance lies, (Q, n) twice; NaN for rows of NaN.

    total: `_sums`, added up over the parts. A sum of n terms in float32 is off by n roundings.
    """
    terms = CHUNK if metric == "l1" and device is None else dims
    error = (terms + 8) * ROUNDING
    with np.errstate(invalid="ignore", over="ignore"):
        if metric == "l1":
            low = total[0] * (1 - error) / dims
            high = total[0] * (1 + error) / dims
        elif metric == "l2":
            low, high = _l2_bounds(total, dims, error)
        else:
            low, high = _cosine_bounds(total, dims, error)
    unknown = ~np.isfinite(high)  # float32 overflowed
    low[unknown] = -np.inf
    high[unknown] = np.inf
    row_is_nan = np.isnan(total[-1])
    low[row_is_nan] = np.nan
    high[row_is_nan] = np.nan
    return low, high


def _l2_bounds(total: Doubles, dims: int, error: float) -> tuple[Doubles, Doubles]:
    """|q - x|^2 = q^2 + x^2 - 2 q x."""
    dots, q_squares, x_squares = total
    square = q_squares + x_squares - 2 * dots
    slack = 2 * error * (q_squares + x_squares) + 4 * dims * TINY
    low = np.sqrt(np.maximum(0, square - slack)) / dims
    high = np.sqrt(np.maximum(0, square + slack)) / dims
    return low, high


def _cosine_bounds(total: Doubles, dims: int, error: float) -> tuple[Doubles, Doubles]:
    """1 - q x / (|q| |x|); a vector of zeros has cosine 0."""
    dots, q_squares, x_squares = total
    norms = np.sqrt(q_squares * x_squares)
    cosine = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    slack = 4 * error + 4 * dims * TINY / np.maximum(norms, TINY)
    return 1 - cosine - slack, 1 - cosine + slack


def _distances(
    pairs: Sequence[tuple[Floats, Floats]],
    query: NDArray[np.int64],
    row: NDArray[np.int64],
    metric: Metric,
) -> Doubles:
    """Distances of query[i] and row[i] in float64, (n,). pairs: (queries, rows) of every part."""
    exact = sum(
        (_exact(queries, rows, query, row, metric) for queries, rows in pairs), np.zeros(())
    )
    total, q_square, x_square = exact
    dims = sum(rows.shape[1] for _, rows in pairs)
    if metric == "l1":
        return total / dims
    if metric == "l2":
        return np.sqrt(total) / dims
    norms = np.sqrt(q_square * x_square)
    cosine = np.where(np.isfinite(norms), 0.0, np.nan)
    return 1 - np.divide(total, norms, out=cosine, where=norms > 0)


@numba.njit(parallel=True, fastmath={"reassoc", "contract"}, cache=True)
def _l1(queries: Floats, rows: Floats) -> Doubles:
    """Sums of absolute differences, (Q, n) float64.

    A piece of four rows stays in the processor's first cache for all queries, and shares each load
    of a query. Reassociation lets the compiler use vector registers; NaN stays NaN.
    """
    out = np.empty((queries.shape[0], rows.shape[0]))
    last = rows.shape[0] - 1
    dims = rows.shape[1]
    for group in numba.prange((last + 4) // 4):
        j = 4 * group
        sums = np.zeros((queries.shape[0], 4))
        for start in range(0, dims, CHUNK):
            end = min(start + CHUNK, dims)
            a = rows[j, start:end]
            b = rows[min(j + 1, last), start:end]
            c = rows[min(j + 2, last), start:end]
            d = rows[min(j + 3, last), start:end]
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
def _exact(
    queries: Floats,
    rows: Floats,
    query: NDArray[np.int64],
    row: NDArray[np.int64],
    metric: Metric,
) -> Doubles:
    """What the distance of query[i] and row[i] is made of, in float64, (3, n).

    Sums of |q - x| (l1), of (q - x)^2 (l2), or of q x, q^2 and x^2 (cosine), in one order on any
    machine. Eight sums side by side, since one would wait for each addition.
    """
    out = np.zeros((3, len(query)))
    l1 = metric == "l1"
    l2 = metric == "l2"
    for i in range(len(query)):
        a = queries[query[i]]
        b = rows[row[i]]
        sums = np.zeros((3, 8))
        for start in range(0, len(a), 8):
            for lane in range(min(8, len(a) - start)):
                q = np.float64(a[start + lane])
                x = np.float64(b[start + lane])
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
