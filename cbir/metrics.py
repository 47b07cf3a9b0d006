"""Numbers over all queries: shares of the top k, average precision, bootstrap intervals, paired comparisons, the Pareto front."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def share_in_top_k(query_values: ArrayLike, database_values: ArrayLike, indices: NDArray[np.integer]) -> NDArray[np.float64]:
    """Precision at k per query: the share of its hits that have the query's value (class, background, ..).

    query_values: Q values; database_values: N values; indices: (Q, k) rows of the database. Returns (Q,) float64, NaN for a
    query that was not searched for (indices of -1).
    """
    share = (np.asarray(database_values)[indices] == np.asarray(query_values)[:, None]).mean(axis=1)
    return np.where((np.asarray(indices) < 0).any(axis=1), np.nan, share)


def common_in_top_k(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Share of the rows that two rankings have in common, whatever their order: (Q, k), (Q, k) -> (Q,) float64, NaN for a query that was
    not searched for (indices of -1)."""
    a, b = np.asarray(a), np.asarray(b)
    share = (a[:, :, None] == b[:, None]).any(axis=2).mean(axis=1)
    return np.where((a < 0).any(axis=1) | (b < 0).any(axis=1), np.nan, share)


def distance_by_part(a: ArrayLike, b: ArrayLike, widths: Sequence[int]) -> NDArray[np.float64]:
    """What each part of a descriptor adds to the L1 distance, on the average over pairs of rows: (len(widths),) float64, whose sum is the distance.

    a, b: (P, D) rows, pairs with NaN are left out; widths: of the parts, one after the other. Raises ValueError where they do not add up to D.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if sum(widths) != a.shape[1]:
        raise ValueError(f"parts of {list(widths)} dimensions do not make up {a.shape[1]}")
    each = np.nanmean(np.abs(a - b), axis=0)
    return np.array([part.sum() for part in np.split(each, np.cumsum(widths)[:-1])])


def average_precision(query_values: ArrayLike, database_values: ArrayLike, indices: ArrayLike) -> NDArray[np.float64]:
    """Average precision per query over a ranking: mAP is its mean. Returns (Q,) float64.

    query_values: Q values; database_values: N values, None or NaN for a row that is relevant to nobody (an unreadable image);
    indices: (Q, K) rows, nearest first. AP = 1 / min(R, K) * the sum, over those ranks j <= K that hold a relevant row, of the
    precision at j, where R rows of the database are relevant. Over the whole database (K = N) this is the usual average precision,
    without interpolation; over fewer ranks it is AP@K, 1 where the first min(R, K) ranks are all relevant.
    NaN for a query without any relevant row, and for one that was not searched for (indices of -1).
    """
    query_values, database_values, indices = np.asarray(query_values), np.asarray(database_values), np.asarray(indices)
    relevant = database_values[indices] == query_values[:, None]                                  # (Q, K)
    precision = relevant.cumsum(axis=1) / np.arange(1, indices.shape[1] + 1)
    known = np.minimum([(database_values == value).sum() for value in query_values], indices.shape[1])
    ap = (precision * relevant).sum(axis=1) / np.maximum(known, 1)
    return np.where((known == 0) | (indices < 0).any(axis=1), np.nan, ap)


def bootstrap_interval(values: ArrayLike, n: int = 2000, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Percentile bootstrap of a mean over queries: (mean, low, high). values: (Q,) float, NaN left out.

    Returns NaNs where there is no value.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return (np.nan,) * 3
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


class PairedDifference(NamedTuple):
    """`mean` of the per-query differences, its bootstrap interval from `low` to `high`, and `p` of the sign-flip test."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(a: ArrayLike, b: ArrayLike, n: int = 2000, level: float = 0.95, seed: int = 0) -> PairedDifference:
    """How much greater the values a are than b, query by query: a `PairedDifference`.

    a, b: (Q,) float of the same queries; queries where either is NaN are left out, NaNs come back where none is left. The interval
    is `bootstrap_interval`'s of a - b: what makes a query easy or hard for both cancels. p is two-sided, of the permutation test
    that flips signs at random n times: the share of flips, the observed one among them, whose mean is as far from 0.
    Raises ValueError for arrays of different shapes.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"not the same queries: {a.shape} and {b.shape} values")
    d = (a - b)[np.isfinite(a - b)]
    if not len(d):
        return PairedDifference(*(np.nan,) * 4)
    rng = np.random.default_rng(seed)
    flipped = [abs((d * rng.choice([-1, 1], len(d))).mean()) for _ in range(n)]
    extreme = (np.array(flipped) >= abs(d.mean()) - 1e-12).sum()  # rounding must not part what is equal
    return PairedDifference(*bootstrap_interval(d, n, level, seed), float((1 + extreme) / (1 + n)))


def pareto_front(maximised: ArrayLike, minimised: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats: (n,) bool. Another beats it that is at least as good in both values and better in one.

    maximised, minimised: (n,) float; a point with NaN is never on the front.
    """
    x, y = np.asarray(maximised, float), np.asarray(minimised, float)
    beaten = (x[None] >= x[:, None]) & (y[None] <= y[:, None]) & ((x[None] > x[:, None]) | (y[None] < y[:, None]))
    return ~beaten.any(axis=1) & np.isfinite(x) & np.isfinite(y)
