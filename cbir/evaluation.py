"""What every query got: the class, background, palette and colours of its nearest images; means, and comparisons query by query."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .color import color_histogram, histogram_distance
from .datasets import known_factors
from .decoding import open_image
from .store import Store


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


COLOR = "histogram distance"  # the one metric of which less is better


class Evaluation:
    """Judges hits of the query store `queries` in the store `database` by all that is known about their images.

    colors: colour histograms of both, (N, 75) and (Q, 75), as an extra of `extract` gives them; without, images are decoded when they are
    first found. `chance`: {factor: how often a random image of the database has the query's value}.
    """

    def __init__(self, database: Store, queries: Store, colors: Sequence[ArrayLike] | None = None) -> None:
        self.database, self.queries = database, queries
        self.colors: tuple[NDArray[Any], ...] | None = tuple(np.asarray(c) for c in colors) if colors else None
        self.of_image, self.of_query = known_factors(database), known_factors(queries)
        self.factors = list(self.of_query.columns.intersection(self.of_image.columns))
        self.of_image[~database.described] = None                       # an unreadable image is relevant to nobody
        self.chance = {f: float(self.of_query[f][queries.described].map(self.of_image[f].value_counts(normalize=True)).fillna(0).mean())
                       for f in self.factors}
        self._decoded: dict[Any, NDArray[np.float64]] = {}

    def __call__(self, indices: NDArray[np.integer], k: int = 5, cutoffs: Sequence[int] = (), ap: bool = False, near: float | None = None) -> pd.DataFrame:
        """A DataFrame with a row a query, NaN where it was unreadable. indices: (Q, K) rows of the database, nearest first.

        The columns of `shares`; "histogram distance", the mean to the first k. near: with class and `colors`, "both P@k" is the share of the
        first k that has the query's class and is among that share of the database which is nearest to the query in colour.
        """
        scores = self.shares(indices, k, cutoffs, ap)
        distances = self._distances(indices[:, :k])
        if near and "class" in self.factors and self.colors:
            same = self.of_image["class"].to_numpy()[indices[:, :k]] == self.of_query["class"].to_numpy()[:, None]
            both = (same & (distances <= self._threshold(near)[:, None])).mean(axis=1)
            scores[f"both P@{k}"] = np.where(np.isnan(distances).any(axis=1), np.nan, both)
        return scores.assign(**{COLOR: distances.mean(axis=1)})

    def shares(self, indices: NDArray[np.integer], k: int = 5, cutoffs: Sequence[int] = (), ap: bool = False) -> pd.DataFrame:
        """What needs no colours, like the whole: "class P@c" for every c of `cutoffs` and k; "class AP" over all K ranks, if `ap`;
        "background P@k", "palette P@k" where known."""
        scores = {}
        for factor in self.factors:
            of_query, of_image = self.of_query[factor], self.of_image[factor]
            for c in sorted({k, *cutoffs}) if factor == "class" else [k]:
                scores[f"{factor} P@{c}"] = share_in_top_k(of_query, of_image, indices[:, :c])
            if ap and factor == "class":
                scores["class AP"] = average_precision(of_query, of_image, indices)
        return pd.DataFrame(scores, index=range(len(indices)))

    def _distances(self, indices: NDArray[np.integer]) -> NDArray[np.float64]:
        """(Q, k) colour-histogram distances of every query to its hits."""
        out = np.full(indices.shape, np.nan)
        for i in np.flatnonzero((indices >= 0).all(axis=1)).tolist():
            out[i] = histogram_distance(self._color(1, i), [self._color(0, j) for j in indices[i]])
        return out

    def _color(self, part: int, row: int) -> NDArray[np.float64]:
        if self.colors:
            return self.colors[part][row]
        if (part, row) not in self._decoded:
            self._decoded[part, row] = color_histogram(np.asarray(open_image((self.database, self.queries)[part].path(row))))
        return self._decoded[part, row]

    def _threshold(self, near: float) -> NDArray[np.float64]:
        """(Q,) the distance within which that share of the database lies; the same for every ranking."""
        if near not in self._decoded:
            assert self.colors  # `__call__` looks
            of_image, of_query = self.colors
            self._decoded[near] = np.array([np.nanquantile(histogram_distance(of_image, h), near) if np.isfinite(h).all() else np.nan for h in of_query])
        return self._decoded[near]


def means(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Means with 95 % bootstrap intervals: DataFrame (metric, descriptor, mean, low, high). scores: {descriptor: what `Evaluation` gives}."""
    metrics = next(iter(scores.values())).columns
    return pd.DataFrame([[metric, d, *bootstrap_interval(frame[metric], seed=seed)] for metric in metrics for d, frame in scores.items()],
                        columns=["metric", "descriptor", "mean", "low", "high"])


def comparisons(scores: Mapping[str, pd.DataFrame], reference: str = "eta", seed: int = 0) -> pd.DataFrame:
    """`paired_difference` of the reference less every other descriptor, for every metric: DataFrame (metric, descriptor, mean, low, high, p, verdict).

    verdict: "better" or "worse", for the reference, where the interval does not hold 0; "open" where it does.
    """
    rows = []
    for metric in scores[reference].columns:
        for other in scores:
            if other != reference:
                d = paired_difference(scores[reference][metric], scores[other][metric], seed=seed)
                more, less = ("worse", "better") if metric == COLOR else ("better", "worse")
                rows.append([metric, other, *d, more if d.low > 0 else less if d.high < 0 else "open"])
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high", "p", "verdict"])


def class_color_plane(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`figures.plane`'s table from that of `means`: x is `metric` (class precision), y the histogram distance, front the Pareto front of the means."""
    x, y = (results[results.metric == name].set_index("descriptor")[["mean", "low", "high"]] for name in (metric, COLOR))
    points = x.set_axis(["x", "x_low", "x_high"], axis=1).join(y.set_axis(["y", "y_low", "y_high"], axis=1))
    return points.assign(front=pareto_front(points.x, points.y)).reset_index()
