"""Exact nearest neighbours among blocks of rows: L1, L2 and cosine, any number of descriptors in one pass."""

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .common import Metric
from .store import Part

if TYPE_CHECKING:
    pass
Floats: TypeAlias = NDArray[np.float32]
Parts: TypeAlias = Mapping[str, Sequence[Part]]           # descriptor: what it is made of
Block: TypeAlias = tuple[int, dict[Part, Floats]]         # first row, {part: (n, D_part)}
QUERIES = 256        # queries compared with a block at a time
CHUNK = 1024         # dimensions summed in float32 before float64 takes over
ROUNDING = 2.0 ** -24
TINY = 2.0 ** -126   # float32 products below it vanish
_kernels = Lock()    # numba's simplest threading layer dies of two callers at once


class Hits(NamedTuple):
    """`indices` (Q, k) int64 rows of the store, nearest first; `distances` (Q, k) float64."""

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]


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
