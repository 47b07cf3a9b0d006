"""Statistics over queries: bootstrap intervals, paired sign flips, Holm's correction, the verdict.

The paper prints means alone. Here queries are the sample, and every comparison is paired.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .evaluation import Rows, Values, measure

MARGIN = 0.02  # in P@k: the loss that non-inferiority allows, stated before any comparison
SIGNIFICANCE = 0.05  # of Holm's p
FEWEST = 20  # values; a percentile bootstrap interval of fewer is too narrow
DRAWS = 2000  # samples of a bootstrap interval
FLIPS = 10_000  # draws of signs where there are too many to count
EXACT = 14  # differences, up to which all 2^n flips of their signs are counted


def bootstrap_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """Computes the 95 % percentile bootstrap interval of a mean over queries.

    Args:
        values: (Q,) float; NaN is left out.
        seed: seed of the draws.

    Returns:
        Mean, lower and upper end; all NaN if there is no value, the ends if there are fewer than
        `FEWEST`.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    low = high = np.nan
    if len(values) >= FEWEST:
        rng = np.random.default_rng(seed)
        means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)]
        low, high = np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2]).tolist()
    return float(values.mean()), low, high


class PairedDifference(NamedTuple):
    """How much greater one of two samples is, query by query.

    Attributes:
        mean: mean of the differences.
        low: lower end of its bootstrap interval, NaN for fewer than `FEWEST` queries.
        high: upper end.
        p: of the sign-flip test, two-sided.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int = 0) -> PairedDifference:
    """Computes how much greater the values a are than b, query by query.

    The interval is `bootstrap_interval`'s of a - b: what makes a query easy or hard for both
    cancels. p is that of the permutation test that flips the signs of the differences: the share
    of flips whose mean is as far from 0. Up to `EXACT` queries it is exact, over all 2^Q flips;
    for more, `FLIPS` are drawn at random and the observed signs are one more of them.

    Args:
        a: (Q,) float.
        b: (Q,) float of the same queries; a query is left out if either is NaN.
        seed: seed of the draws.

    Returns:
        A `PairedDifference`, of NaN if no query is left.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"not the same queries: {a.shape} and {b.shape} values")
    differences = (a - b)[np.isfinite(a - b)]
    n_queries = len(differences)
    if not n_queries:
        return PairedDifference(np.nan, np.nan, np.nan, np.nan)

    def as_far(signs: NDArray[np.integer]) -> int:
        """Counts the rows of signs that bring the mean as far from 0: (n, Q) -> n at most."""
        means = np.abs(signs @ differences) / n_queries
        # equal means must not differ by rounding
        return int(np.count_nonzero(means >= abs(differences.mean()) - 1e-12))

    if n_queries <= EXACT:
        bits = np.arange(2**n_queries)[:, None] >> np.arange(n_queries) & 1
        p = as_far(1 - 2 * bits) / len(bits)
    else:
        rng = np.random.default_rng(seed)
        count = 1  # the observed signs
        for _ in range(0, FLIPS, 100):  # a hundred at a time: many queries need little memory
            count += as_far(2 * rng.integers(0, 2, (100, n_queries)) - 1)
        p = count / (1 + FLIPS)
    return PairedDifference(*bootstrap_interval(differences, seed), p)


def holm(p: ArrayLike) -> Values:
    """Corrects p values that are looked at together, by Holm's method.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979. If every adjusted p
    below 0.05 is believed, the chance of one or more false among them is at most 0.05.

    Args:
        p: (n,) float, one per comparison of the family; NaN is not of the family.

    Returns:
        (n,) float64, adjusted p; NaN stays NaN.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    finite = np.flatnonzero(np.isfinite(p))
    order = finite[np.argsort(p[finite], kind="stable")]
    left = len(order) - np.arange(len(order))  # comparisons that are not yet decided
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * left), 1)
    return adjusted


# ---- what is chosen on one half is reported on the other ----------------------------------------


def halves(n: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Draws two halves of n queries, ascending rows; of an odd n the second has one more."""
    drawn = np.random.default_rng(seed).permutation(n)
    return np.sort(drawn[: n // 2]), np.sort(drawn[n // 2 :])


def by_other_half(values: pd.DataFrame, best: Literal["max", "min"], seed: int = 0) -> pd.DataFrame:
    """Chooses an option, such as a weight or a metric, on one half of the queries for the other.

    Choosing and reporting on the same queries is optimistic. Here each half is reported by the
    option that is best on the other one, or by none if the other one has no value.

    Args:
        values: (Q, options) float, a measure of every query by every option; NaN is left out.
        best: which mean is chosen.
        seed: seed of the `halves`.

    Returns:
        Columns value (Q rows, each by the option chosen for it) and option, both missing if none.
    """
    value = np.full(len(values), np.nan)
    option: list[Any] = [None] * len(values)
    for chosen_on, reported_on in itertools.permutations(halves(len(values), seed)):
        means = values.iloc[chosen_on].mean()
        if means.notna().any():
            chosen = int(np.argmax(means) if best == "max" else np.argmin(means))
            value[reported_on] = values.iloc[reported_on, chosen]
            for row in reported_on.tolist():
                option[row] = values.columns[chosen]  # it may be a tuple
    return pd.DataFrame({"value": value, "option": option}, index=values.index)


# ---- tables -------------------------------------------------------------------------------------


def means(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Computes means over queries with their 95 % bootstrap intervals.

    Args:
        scores: {descriptor: what `Evaluation` gives}.
        seed: seed of the draws.

    Returns:
        Columns metric, descriptor, mean, low, high.
    """
    pairs = itertools.product(next(iter(scores.values())), scores)
    rows = [(m, d, *bootstrap_interval(scores[d][m], seed)) for m, d in pairs]
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high"])


def comparisons(
    scores: Mapping[str, pd.DataFrame], reference: str = "eta", seed: int = 0
) -> pd.DataFrame:
    """Subtracts every other descriptor from the reference, query by query, for every measure.

    Args:
        scores: {descriptor: what `Evaluation` gives}.
        reference: the descriptor that the others are compared with.
        seed: seed of the draws.

    Returns:
        Columns metric, descriptor, those of `PairedDifference`, p_holm and verdict; all rows are
        one family, see `as_family`.
    """
    ours = scores[reference]
    pairs = itertools.product(ours, [d for d in scores if d != reference])
    rows = [(m, d, *paired_difference(ours[m], scores[d][m], seed)) for m, d in pairs]
    columns = ["metric", "descriptor", *PairedDifference._fields]
    return as_family(pd.DataFrame(rows, columns=columns))


def as_family(pairs: pd.DataFrame) -> pd.DataFrame:
    """Judges comparisons as one family, by one rule.

    "better" and "worse" are significant: Holm's p is below 0.05. "kept" means non-inferior: the
    interval's lower end is above -`MARGIN`. Each such claim is wrong in at most 2.5 % of cases,
    without correction for several claims. It is defined for P@k only, the unit of the margin. All
    others are "open".

    Args:
        pairs: what `comparisons` gives, or several of these, one under the other.

    Returns:
        The same with the columns p_holm and verdict over all rows.
    """
    p_holm = holm(pairs.p)
    significant = p_holm < SIGNIFICANCE
    more_is_better = np.array([measure(name).best == "max" for name in pairs.metric], bool)
    better = (pairs["mean"] > 0) == more_is_better
    kept = pairs.metric.str.contains("P@") & (pairs.low > -MARGIN)
    verdict = np.where(kept, "kept", "open")
    verdict = np.where(significant, np.where(better, "better", "worse"), verdict)
    return pairs.assign(p_holm=p_holm, verdict=verdict)


def with_interval(mean: float, low: float, high: float, digits: int = 3, sign: str = "") -> str:
    """Formats a mean and its interval, "0.971 [0.953, 0.987]"; sign="+" shows a difference's sign.

    Without an interval (NaN) it is the mean alone; without a mean, "".
    """
    text = f"{mean:{sign}.{digits}f}" if np.isfinite(mean) else ""
    if np.isfinite([mean, low, high]).all():
        text += f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return text


def in_words(pair: Any, digits: int = 3) -> str:
    """Formats a row of `as_family`, "+0.065 [+0.046, +0.084] better"; "open" is left out."""
    verdict = "" if pair.verdict == "open" else f" {pair.verdict}"
    return with_interval(pair.mean, pair.low, pair.high, digits, "+") + verdict
