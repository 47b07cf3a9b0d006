"""How good rankings are: the measures, their means over queries, and comparisons query by query."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .color import color_histogram, histogram_distance
from .datasets import known_factors
from .decoding import open_image
from .store import Store

Rows: TypeAlias = NDArray[np.integer]
Values: TypeAlias = NDArray[np.float64]

HISTOGRAM_DISTANCE = "histogram distance"


def share_in_top_k(query_values: ArrayLike, database_values: ArrayLike, indices: Rows) -> Values:
    """Precision at k of every query: the share of its hits that have its value (its class, ..).

    Args:
        query_values: Q values.
        database_values: N values.
        indices: (Q, k) rows of the database.

    Returns:
        (Q,) float64, NaN for a query that was not searched for (indices of -1).
    """
    same = np.asarray(database_values)[indices] == np.asarray(query_values)[:, None]  # (Q, k)
    return np.where(_searched(indices), same.mean(axis=1), np.nan)


def common_in_top_k(a: ArrayLike, b: ArrayLike) -> Values:
    """The share of the rows that two rankings have in common, whatever their order.

    Args:
        a: (Q, k) rows of the database.
        b: (Q, k) rows of the same.

    Returns:
        (Q,) float64, NaN for a query that was not searched for (indices of -1).
    """
    a, b = np.asarray(a), np.asarray(b)
    share = (a[:, :, None] == b[:, None]).any(axis=2).mean(axis=1)
    return np.where(_searched(a) & _searched(b), share, np.nan)


def _searched(indices: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which queries were searched for: (Q, k) -> (Q,)."""
    return np.all(indices >= 0, axis=1)


def distance_by_part(a: ArrayLike, b: ArrayLike, widths: Sequence[int]) -> Values:
    """What each part of a descriptor adds to the L1 distance, on the average over pairs of rows.

    Args:
        a: (P, D) rows; pairs with NaN are left out.
        b: (P, D) rows, the other ones of the pairs.
        widths: dimensions of the parts, one after the other.

    Returns:
        (len(widths),) float64, whose sum is the distance.

    Raises:
        ValueError: the widths do not add up to D.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if sum(widths) != a.shape[1]:
        raise ValueError(f"parts of {list(widths)} dimensions do not make up {a.shape[1]}")
    by_dimension = np.nanmean(np.abs(a - b), axis=0)
    parts = np.split(by_dimension, np.cumsum(widths)[:-1])
    return np.array([part.sum() for part in parts])


def average_precision(
    query_values: ArrayLike, database_values: ArrayLike, indices: ArrayLike
) -> Values:
    """Average precision of every query over a ranking; mAP is its mean.

    AP = 1 / min(R, K) * the sum, over those ranks j <= K that hold a relevant row, of the
    precision at j, where R rows of the database are relevant. Over the whole database (K = N) this
    is the usual average precision, without interpolation. Over fewer ranks it is AP@K: 1 where the
    first min(R, K) ranks are all relevant.

    Args:
        query_values: Q values.
        database_values: N values, None or NaN for a row that is relevant to nobody.
        indices: (Q, K) rows of the database, nearest first.

    Returns:
        (Q,) float64, NaN for a query without any relevant row, and for one that was not searched
        for (indices of -1).
    """
    query_values, database_values = np.asarray(query_values), np.asarray(database_values)
    indices = np.asarray(indices)
    ranks = np.arange(1, indices.shape[1] + 1)
    relevant = database_values[indices] == query_values[:, None]  # (Q, K)
    precision = relevant.cumsum(axis=1) / ranks
    in_database = [(database_values == value).sum() for value in query_values]  # R
    most = np.minimum(in_database, len(ranks))
    ap = (precision * relevant).sum(axis=1) / np.maximum(most, 1)
    return np.where((most > 0) & _searched(indices), ap, np.nan)


def bootstrap_interval(
    values: ArrayLike, n: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The percentile bootstrap of a mean over queries.

    Args:
        values: (Q,) float; NaN is left out.
        n: how many samples are drawn.
        level: of the interval.
        seed: of the draws.

    Returns:
        Mean, low and high end of the interval; NaN where there is no value.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


class PairedDifference(NamedTuple):
    """How much greater one of two samples is, query by query.

    Attributes:
        mean: of the differences.
        low: end of its bootstrap interval.
        high: the other end.
        p: of the sign-flip test, two-sided.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    a: ArrayLike, b: ArrayLike, n: int = 2000, level: float = 0.95, seed: int = 0
) -> PairedDifference:
    """How much greater the values a are than b, query by query.

    The interval is `bootstrap_interval`'s of a - b: what makes a query easy or hard for both
    cancels. p is that of the permutation test that flips signs at random: the share of flips, the
    observed one among them, whose mean is as far from 0.

    Args:
        a: (Q,) float.
        b: (Q,) float of the same queries; where either is NaN, a query is left out.
        n: how many samples and how many flips are drawn.
        level: of the interval.
        seed: of the draws.

    Returns:
        A `PairedDifference`, of NaN where no query is left.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"not the same queries: {a.shape} and {b.shape} values")
    differences = (a - b)[np.isfinite(a - b)]
    if not len(differences):
        return PairedDifference(np.nan, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    flips = [rng.choice([-1, 1], len(differences)) for _ in range(n)]
    flipped = np.array([abs((differences * signs).mean()) for signs in flips])
    as_far = flipped >= abs(differences.mean()) - 1e-12  # rounding must not part what is equal
    p = float((1 + as_far.sum()) / (1 + n))
    return PairedDifference(*bootstrap_interval(differences, n, level, seed), p)


def pareto_front(maximised: ArrayLike, minimised: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats.

    Another one beats a point if it is at least as good in both values and better in one.

    Args:
        maximised: (n,) float, of which more is better.
        minimised: (n,) float, of which less is better.

    Returns:
        (n,) bool; False for a point with NaN.
    """
    x, y = np.asarray(maximised, float), np.asarray(minimised, float)
    as_good = (x >= x[:, None]) & (y <= y[:, None])  # (n, n): the column's point beats the row's
    better = (x > x[:, None]) | (y < y[:, None])
    beaten = (as_good & better).any(axis=1)
    return ~beaten & np.isfinite(x) & np.isfinite(y)


class Measure(NamedTuple):
    """How a ranking is measured.

    Attributes:
        values: (judge, indices (Q, k), near) -> (Q,) float64, NaN for a query that was not searched
            for. near: the share of the database that counts as near to a query in colour.
        best: "max" or "min", whichever is good.
        digits: decimals that are shown of a mean.
    """

    values: Callable[["Evaluation", Rows, float | None], Values]
    best: Literal["max", "min"]
    digits: int


def _precision(factor: str) -> Callable[["Evaluation", Rows, float | None], Values]:
    """The share of the hits that have the query's class, background, .."""

    def share(judge: "Evaluation", indices: Rows, near: float | None) -> Values:
        return share_in_top_k(judge.of_query[factor], judge.of_image[factor], indices)

    return share


def _class_ap(judge: "Evaluation", indices: Rows, near: float | None) -> Values:
    return average_precision(judge.of_query["class"], judge.of_image["class"], indices)


def _both(judge: "Evaluation", indices: Rows, near: float | None) -> Values:
    """The share of the hits that have the query's class and are near to it in colour."""
    query_class = judge.of_query["class"].to_numpy()[:, None]
    same_class = judge.of_image["class"].to_numpy()[indices] == query_class  # (Q, k)
    is_near = judge.color_distances(indices) <= judge.near_distances(near)[:, None]
    return np.where(_searched(indices), (same_class & is_near).mean(axis=1), np.nan)


def _histogram_distance(judge: "Evaluation", indices: Rows, near: float | None) -> Values:
    return judge.color_distances(indices).mean(axis=1)


MEASURES = {
    "class P@k": Measure(_precision("class"), "max", 2),
    "class AP": Measure(_class_ap, "max", 2),
    "background P@k": Measure(_precision("background"), "max", 2),
    "palette P@k": Measure(_precision("palette"), "max", 2),
    "both P@k": Measure(_both, "max", 2),
    HISTOGRAM_DISTANCE: Measure(_histogram_distance, "min", 3),
}


def measure(name: str) -> Measure:
    """Finds the row of `MEASURES` by the name of a column or of a result.

    Args:
        name: "class P@5", or "same class" for the same thing. Any other name is taken for a share.
    """
    row = re.sub(r"P@\d+$", "P@k", re.sub(r"^same (.+)$", r"\1 P@k", name))
    return MEASURES.get(row, Measure(_precision(name), "max", 2))


class Evaluation:
    """Judges what the queries of one store found in another by all that is known of the images.

    Attributes:
        factors: what is known of both: "class", and for the embedded scenes "background" and
            "palette".
        chance: {factor: how often a random image of the database has the query's value}.
    """

    def __init__(
        self, database: Store, queries: Store, colors: Sequence[ArrayLike] | None = None
    ) -> None:
        """Reads what is known of the images.

        Args:
            database: the store that is searched.
            queries: the store of the queries.
            colors: colour histograms of both, (N, 75) and (Q, 75), as an extra of `extract` gives
                them. Without, an image is decoded when it is first found.
        """
        self.of_image = known_factors(database)
        self.of_image[~database.described] = None  # an unreadable image is relevant to nobody
        self.of_query = known_factors(queries)
        self.factors = list(self.of_query.columns.intersection(self.of_image.columns))
        self.chance = {}
        for factor in self.factors:
            share = self.of_image[factor].value_counts(normalize=True)
            described = self.of_query[factor][queries.described]
            self.chance[factor] = float(described.map(share).fillna(0).mean())
        self.colors = [np.asarray(stored) for stored in colors] if colors else None
        image_colors, query_colors = self.colors or (None, None)
        self._color_of_image = _color_of(database, image_colors)
        self._color_of_query = _color_of(queries, query_colors)
        self._near_distances: dict[float | None, Values] = {}

    def __call__(
        self,
        indices: Rows,
        k: int = 5,
        cutoffs: Sequence[int] = (),
        ap: bool = False,
        near: float | None = None,
    ) -> pd.DataFrame:
        """Measures the ranking of every query.

        Args:
            indices: (Q, K) rows of the database, nearest first.
            k: how many ranks count.
            cutoffs: further ranks c at which "class P@c" is taken.
            ap: whether "class AP" is taken, over all K ranks.
            near: the share of the database that counts as near to a query in colour. With it, with
                classes and `colors`, there is "both P@k": of the same class and near.

        Returns:
            A row a query, NaN where it was unreadable; the columns of `shares`, "both P@k" and
            "histogram distance".
        """
        ranks = self._share_ranks(k, cutoffs, indices.shape[1] if ap else 0)
        if near and "class" in self.factors and self.colors:
            ranks[f"both P@{k}"] = k
        ranks[HISTOGRAM_DISTANCE] = k
        return self._measured(indices, ranks, near)

    def shares(
        self, indices: Rows, k: int = 5, cutoffs: Sequence[int] = (), ap: bool = False
    ) -> pd.DataFrame:
        """Measures the ranking of every query by what needs no colours, hence no image.

        Args:
            indices: (Q, K) rows of the database, nearest first.
            k: how many ranks count.
            cutoffs: further ranks c at which "class P@c" is taken.
            ap: whether "class AP" is taken, over all K ranks.

        Returns:
            A row a query, NaN where it was unreadable; columns "class P@c" for k and the cutoffs,
            "class AP", "background P@k" and "palette P@k", as far as they are known.
        """
        return self._measured(indices, self._share_ranks(k, cutoffs, indices.shape[1] if ap else 0))

    def _share_ranks(self, k: int, cutoffs: Sequence[int], ap_ranks: int) -> dict[str, int]:
        """The measures that need no colours: {name: how many ranks it takes}."""
        ranks: dict[str, int] = {}
        for factor in self.factors:
            if factor == "class":
                ranks |= {f"class P@{c}": c for c in sorted({k, *cutoffs})}
            else:
                ranks[f"{factor} P@{k}"] = k
            if factor == "class" and ap_ranks:
                ranks["class AP"] = ap_ranks
        return ranks

    def _measured(
        self, indices: Rows, ranks: Mapping[str, int], near: float | None = None
    ) -> pd.DataFrame:
        """A column for every measure, over the ranks that it takes."""
        scores = {}
        for name, most in ranks.items():
            scores[name] = measure(name).values(self, indices[:, :most], near)
        return pd.DataFrame(scores, index=range(len(indices)))

    def color_distances(self, indices: Rows) -> Values:
        """Histogram distances of the queries to their hits: (Q, k), NaN where not searched for."""
        distances = np.full(indices.shape, np.nan)
        for query in np.flatnonzero(_searched(indices)).tolist():
            found = [self._color_of_image(row) for row in indices[query].tolist()]
            distances[query] = histogram_distance(self._color_of_query(query), found)
        return distances

    def near_distances(self, near: float | None) -> Values:
        """The histogram distance from each query within which that share of the database lies.

        It is the same for every ranking: (Q,), NaN for an unreadable query.
        """
        if near not in self._near_distances:
            assert self.colors and near  # `__call__` looks
            of_images, of_queries = self.colors
            distances = np.full(len(of_queries), np.nan)
            for query in np.flatnonzero(np.isfinite(of_queries).all(axis=1)):
                to_images = histogram_distance(of_images, of_queries[query])
                distances[query] = np.nanquantile(to_images, near)
            self._near_distances[near] = distances
        return self._near_distances[near]


def _color_of(store: Store, stored: NDArray[np.floating] | None) -> Callable[[int], Values]:
    """How to get an image's colour histogram: stored, or from the file when it is first needed."""
    if stored is not None:
        return stored.__getitem__

    @functools.cache
    def decode(row: int) -> Values:
        return color_histogram(np.asarray(open_image(store.path(row))))

    return decode


def means(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Means over queries with their 95 % bootstrap intervals.

    Args:
        scores: {descriptor: what `Evaluation` gives}.
        seed: of the draws.

    Returns:
        Columns metric, descriptor, mean, low, high.
    """
    rows = []
    for metric in next(iter(scores.values())).columns:
        for descriptor, frame in scores.items():
            rows.append([metric, descriptor, *bootstrap_interval(frame[metric], seed=seed)])
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high"])


def comparisons(
    scores: Mapping[str, pd.DataFrame], reference: str = "eta", seed: int = 0
) -> pd.DataFrame:
    """The reference less every other descriptor, query by query, for every measure.

    Args:
        scores: {descriptor: what `Evaluation` gives}.
        reference: the descriptor that the others are compared with.
        seed: of the draws.

    Returns:
        Columns metric, descriptor, those of `PairedDifference`, and verdict: "better" or "worse",
        for the reference, where the interval does not hold 0, "open" where it does.
    """
    rows = []
    of_reference = scores[reference]
    others = [descriptor for descriptor in scores if descriptor != reference]
    for metric in of_reference.columns:
        for other in others:
            values = scores[other][metric]
            difference = paired_difference(of_reference[metric], values, seed=seed)
            rows.append([metric, other, *difference, _verdict(metric, difference)])
    columns = ["metric", "descriptor", *PairedDifference._fields, "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(metric: str, difference: PairedDifference) -> str:
    """Whether more of this measure is better, worse, or neither for certain."""
    more, less = difference.low > 0, difference.high < 0
    if not (more or less):
        return "open"
    good = more if measure(metric).best == "max" else less
    return "better" if good else "worse"


def class_color_plane(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arranges means for `plots.plane`: precision in class against histogram distance.

    Args:
        results: what `means` gives.
        metric: the precision in class, "class P@5".

    Returns:
        Columns descriptor, x, x_low, x_high (class), y, y_low, y_high (distance), and front:
        whether no other descriptor's means beat it.
    """
    points = _interval(results, metric, "x").join(_interval(results, HISTOGRAM_DISTANCE, "y"))
    return points.assign(front=pareto_front(points.x, points.y)).reset_index()


def _interval(results: pd.DataFrame, metric: str, axis: str) -> pd.DataFrame:
    """Mean and interval of one measure, a row a descriptor, as coordinates on an axis."""
    rows = results[results.metric == metric].set_index("descriptor")
    return rows[["mean", "low", "high"]].set_axis([axis, f"{axis}_low", f"{axis}_high"], axis=1)
