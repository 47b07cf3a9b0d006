"""How good rankings are: the measures, their means over queries, and comparisons query by query."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .color import color_histogram, histogram_distance
from .datasets import known_factors
from .images import open_image
from .store import Store

Rows: TypeAlias = NDArray[np.integer]
Values: TypeAlias = NDArray[np.float64]

HISTOGRAM_DISTANCE = "histogram distance"

MARGIN = 0.02  # in P@k: the loss that non-inferiority allows, stated before any comparison
SIGNIFICANCE = 0.05  # of Holm's p
FEWEST = 20  # values; a percentile bootstrap interval of fewer is too narrow
EXACT = 14  # differences, up to which all 2^n flips of their signs are counted


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
        Mean, low and high end of the interval; NaN where there is no value. Fewer than `FEWEST`
        values have a mean, and ends of NaN.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if len(values) < FEWEST:
        return mean, np.nan, np.nan
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


class PairedDifference(NamedTuple):
    """How much greater one of two samples is, query by query.

    Attributes:
        mean: of the differences.
        low: end of its bootstrap interval, NaN for fewer than `FEWEST` queries.
        high: the other end.
        p: of the sign-flip test, two-sided.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    flips: int = 10_000,
) -> PairedDifference:
    """How much greater the values a are than b, query by query.

    The interval is `bootstrap_interval`'s of a - b: what makes a query easy or hard for both
    cancels. p is that of the permutation test that flips the signs of the differences: the share
    of flips whose mean is as far from 0. Up to `EXACT` queries it is exact, over all 2^Q flips;
    for more, flips are drawn at random and the observed signs are one more of them.

    Args:
        a: (Q,) float.
        b: (Q,) float of the same queries; where either is NaN, a query is left out.
        n: how many samples are drawn for the interval.
        level: of the interval.
        seed: of the draws.
        flips: how many are drawn where there are too many to count.

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
    if len(differences) <= EXACT:
        p = _exact_p(differences)
    else:
        p = _sampled_p(differences, flips, seed)
    return PairedDifference(*bootstrap_interval(differences, n, level, seed), p)


def _exact_p(differences: Values) -> float:
    """The share of all 2^Q flips of the signs whose sum is as far from 0."""
    n = len(differences)
    negative = np.arange(2**n)[:, None] >> np.arange(n) & 1  # (2^Q, Q): the bits of a number
    return float(_as_far(1 - 2 * negative, differences).mean())


def _sampled_p(differences: Values, flips: int, seed: int) -> float:
    """The same over flips drawn at random; the observed signs count as one of them."""
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, flips, 100):  # a hundred at a time: many queries need little memory
        size = min(100, flips - start), len(differences)
        as_far += int(_as_far(2 * rng.integers(0, 2, size) - 1, differences).sum())
    return (1 + as_far) / (1 + flips)


def _as_far(signs: NDArray[np.integer], differences: Values) -> NDArray[np.bool_]:
    """Which rows of signs bring the mean as far from 0 as it is: (n, Q), (Q,) -> (n,)."""
    means = np.abs(signs @ differences) / len(differences)
    return means >= abs(differences.mean()) - 1e-12  # rounding must not part what is equal


def holm(p: ArrayLike) -> Values:
    """Holm's correction of p values that are looked at together.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979. Where every adjusted p
    below 0.05 is believed, the chance of one or more false among them is at most 0.05.

    Args:
        p: (n,) float, one a comparison of the family; NaN is not of the family.

    Returns:
        (n,) float64, adjusted p; NaN stays NaN.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    left = len(order) - np.arange(len(order))  # comparisons that are not yet decided
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * left), 1)
    return adjusted


def halves(n: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Two halves of the queries: what is chosen on one is reported on the other.

    Args:
        n: number of queries.
        seed: of the draw.

    Returns:
        Two ascending arrays of rows, each row in one of them; of an odd number the second has
        one more.
    """
    drawn = np.random.default_rng(seed).permutation(n)
    return np.sort(drawn[: n // 2]), np.sort(drawn[n // 2 :])


def by_other_half(values: pd.DataFrame, best: Literal["max", "min"], seed: int = 0) -> pd.DataFrame:
    """Chooses an option, such as a weight or a metric, on one half of the queries for the other.

    A mean over the queries on which an option was chosen is too good. Here each half is reported
    by the option that is best on the other one; where the other one has no value, by none.

    Args:
        values: (Q, options) float, a measure of every query by every option; NaN is left out.
        best: which mean is chosen.
        seed: of the `halves`.

    Returns:
        Columns value (Q rows, each by the option chosen for it) and option, both missing by none.
    """
    first, second = halves(len(values), seed)
    value = np.full(len(values), np.nan)
    option: list[Any] = [None] * len(values)
    for chosen_on, reported_on in ((first, second), (second, first)):
        means = values.iloc[chosen_on].mean()
        if means.isna().all():
            continue
        chosen = int(np.argmax(means) if best == "max" else np.argmin(means))
        value[reported_on] = values.iloc[reported_on, chosen]
        for row in reported_on.tolist():
            option[row] = values.columns[chosen]  # it may be a tuple
    return pd.DataFrame({"value": value, "option": option}, index=values.index)


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
        Columns metric, descriptor, mean, low, high; fewer than `FEWEST` queries have no interval,
        NaN.
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
        Columns metric, descriptor, those of `PairedDifference`, p_holm and verdict; all rows are
        one family, see `as_family`.
    """
    rows = []
    of_reference = scores[reference]
    others = [descriptor for descriptor in scores if descriptor != reference]
    for metric in of_reference.columns:
        for other in others:
            difference = paired_difference(of_reference[metric], scores[other][metric], seed=seed)
            rows.append([metric, other, *difference])
    columns = ["metric", "descriptor", *PairedDifference._fields]
    return as_family(pd.DataFrame(rows, columns=columns))


def as_family(pairs: pd.DataFrame) -> pd.DataFrame:
    """Judges comparisons as one family, by one rule.

    "better" or "worse" is a claim for the reference, where Holm's p is below 0.05. Of the rest,
    "kept" is a claim for the reference too: its difference to the other descriptor is above
    -`MARGIN`, since the lower end of the interval is. That end is passed by chance in 2.5 % of
    cases, a claim at a time: of many claims of "kept" some may be wrong. Only precisions P@k know
    it, because the margin is one of them. Anything else is "open": neither a difference nor its
    absence is shown.

    Args:
        pairs: what `comparisons` gives, or several of these, one under the other.

    Returns:
        The same with the columns p_holm and verdict over all rows.
    """
    judged = pairs.assign(p_holm=holm(pairs.p))
    return judged.assign(verdict=[_verdict(row) for row in judged.itertuples()])


def _verdict(pair: Any) -> str:
    """The rule of `as_family` for one of its rows."""
    if pair.p_holm < SIGNIFICANCE:
        more_is_good = measure(pair.metric).best == "max"
        return "better" if (pair.mean > 0) == more_is_good else "worse"
    is_precision = re.search(r"P@\d+$", pair.metric) is not None
    return "kept" if is_precision and pair.low > -MARGIN else "open"


def with_interval(row: Any, digits: int = 3, sign: str = "") -> str:
    """A mean and its interval as text, "0.971 [0.953, 0.987]"; the mean alone without interval.

    Args:
        row: a row of `means` or `comparisons`, or a `PairedDifference`: mean, low and high.
        digits: decimals.
        sign: "+" where a difference is to show its sign.

    Returns:
        The text, nothing where there is no mean.
    """
    if not np.isfinite(row.mean):
        return ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (row.mean, row.low, row.high))
    has_interval = np.isfinite(row.low) and np.isfinite(row.high)
    return f"{mean} [{low}, {high}]" if has_interval else mean


def in_words(pair: Any, digits: int = 3) -> str:
    """A row of `as_family` as text, "+0.065 [+0.046, +0.084] better"; "open" is left out.

    Args:
        pair: one of its rows.
        digits: decimals.
    """
    verdict = "" if pair.verdict == "open" else f" {pair.verdict}"
    return with_interval(pair, digits, "+") + verdict


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
