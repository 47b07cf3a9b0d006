"""Statistics over queries: bootstrap intervals, exact sign flips, Holm's correction, and words.

The paper prints means alone. Here queries are the sample, and every comparison is paired.
"""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .evaluation import Values, measure

SAME = "no difference beyond the margin"  # a word of `as_family`
SIGNIFICANCE = 0.05  # of p after Holm's correction
FEWEST = 20  # values; a percentile bootstrap interval of fewer is too narrow
DRAWS = 2000  # samples of a bootstrap interval
COUNTED = 14  # differences, up to which all 2^n flips of their signs are counted
LATTICE = 100  # the largest denominator of differences whose sums are counted exactly


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, groups: ArrayLike | None = None
) -> tuple[float, float, float]:
    """Computes the 95 % percentile bootstrap interval of a mean over queries.

    Args:
        values: (Q,) float; NaN is left out.
        seed: seed of the draws.
        groups: (Q,) the queries' classes: each sample draws as many queries of every class as
            there are, since the classes were chosen, not drawn. None: all queries are one group.

    Returns:
        Mean, lower and upper end; all NaN without values, the ends with fewer than `FEWEST`.
    """
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    groups = np.zeros(len(values)) if groups is None else np.asarray(groups)
    values, groups = values[finite], groups[finite]
    if not len(values):
        return np.nan, np.nan, np.nan
    low = high = np.nan
    if len(values) >= FEWEST:
        rng, sums = np.random.default_rng(seed), np.zeros(DRAWS)
        for group in np.unique(groups):
            of_group = values[groups == group]
            drawn = rng.integers(0, len(of_group), (DRAWS, len(of_group)))
            sums += of_group[drawn].sum(axis=1)
        low, high = np.quantile(sums / len(values), [0.025, 0.975]).tolist()
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


def paired_difference(
    a: ArrayLike, b: ArrayLike, seed: int = 0, groups: ArrayLike | None = None
) -> PairedDifference:
    """Computes how much greater the values a are than b, query by query.

    The interval is `bootstrap_interval`'s of a - b: what makes a query easy or hard for both
    cancels. p is that of the permutation test that flips the signs of the differences, see
    `flip_tail`: it has no floor, and nothing in it is drawn.

    Example:
        >>> cbir.paired_difference(eta["class P@5"], h["class P@5"], groups=queries.labels)

    Args:
        a: (Q,) float.
        b: (Q,) float of the same queries; a query is left out if either is NaN.
        seed: seed of the interval's draws.
        groups: (Q,) as in `bootstrap_interval`.

    Returns:
        A `PairedDifference`, of NaN if no query is left.

    Raises:
        ValueError: the shapes differ.
    """
    differences = _differences(a, b)
    interval = bootstrap_interval(differences, seed, groups)
    finite = differences[np.isfinite(differences)]
    if not len(finite):
        return PairedDifference(*interval, np.nan)
    # an all but empty sum is 0 but for rounding, and then no flip is less extreme
    is_zero = abs(finite.sum()) <= 1e-12 * np.abs(finite).sum()
    return PairedDifference(*interval, 1.0 if is_zero else min(1, 2 * flip_tail(finite)))


def equivalence(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """Tests whether the mean of a - b lies within +-margin: two one-sided sign-flip tests.

    Args:
        a: (Q,) float.
        b: (Q,) float of the same queries.
        margin: > 0, in the unit of a and b.

    Returns:
        The larger p of the two tests; NaN if no query is left.
    """
    differences = _differences(a, b)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return np.nan
    sides = (margin + differences, margin - differences)
    return max(flip_tail(side, up=True) for side in sides)


def _differences(a: ArrayLike, b: ArrayLike) -> Values:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"not the same queries: {a.shape} and {b.shape} values")
    return a - b


def flip_tail(differences: Values, up: bool = False) -> float:
    """Computes how rarely flipped signs give a sum as extreme as the differences' own.

    Up to `COUNTED` differences all flips are counted. Differences that are multiples of 1/n, as
    those of P@k are, have sums on a lattice, whose distribution is an exact convolution. All
    others take Lugannani and Rice's saddlepoint approximation, which has no floor either.

    Args:
        differences: (n,) finite.
        up: whether to ask for sums at least as large, rather than as far from 0 on one side.

    Returns:
        The one-sided p, from 2^-n to 1.

    References:
        R. Lugannani, S. Rice, Saddle point approximation for the distribution of the sum of
        independent random variables, 1980.
    """
    sizes, total = np.abs(differences), float(differences.sum())
    sizes = sizes[sizes > 0]
    total = total if up else abs(total)
    if total < 0:  # the distribution is symmetric, and counts what is equal
        return 1.0
    slack = 1e-9 * max(sizes.sum(), 1e-300)  # equal sums must not differ by rounding
    if len(sizes) <= COUNTED:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums - size, sums + size])
        return float(np.mean(sums >= total - slack))
    for n in range(1, LATTICE + 1):
        steps = np.rint(sizes * n).astype(int)
        if np.allclose(sizes * n, steps, rtol=0, atol=1e-9) and steps.all():
            return _lattice_tail(steps, round(total * n))
    return _saddlepoint_tail(sizes, total)


def _lattice_tail(steps: NDArray[np.integer], total: int) -> float:
    """Convolves the n distributions of +-step exactly, and sums the tail from `total`."""
    half = int(steps.sum())
    chances = np.zeros(2 * half + 1)  # of the sums -half..half
    chances[half] = 1
    for step in steps.tolist():
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2  # the ends are still 0
    return float(chances[half + total :].sum())


def _saddlepoint_tail(sizes: Values, total: float) -> float:
    """Approximates the tail by the cumulants of the sum, K(s) = sum log cosh(size s)."""
    least = 0.5 ** len(sizes)
    if total >= sizes.sum() * (1 - 1e-9):  # no flip goes further
        return least
    deviation = math.sqrt((sizes**2).sum())
    if total < 1e-3 * deviation:  # the formula is 0 / 0 at 0
        return _normal_tail(total / deviation)
    low, high = 0.0, 1 / sizes.max()
    while (sizes * np.tanh(sizes * high)).sum() < total:
        high *= 2
    for _ in range(100):  # bisection, to the last bit
        s = (low + high) / 2
        low, high = (s, high) if (sizes * np.tanh(sizes * s)).sum() < total else (low, s)
    scaled = sizes * s
    cumulant = (np.logaddexp(scaled, -scaled) - math.log(2)).sum()
    w = math.sqrt(2 * (s * total - cumulant))
    u = s * math.sqrt((sizes**2 / np.cosh(np.minimum(scaled, 300)) ** 2).sum())
    density = math.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
    return float(min(max(_normal_tail(w) + density * (1 / u - 1 / w), least), 1))


def _normal_tail(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


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


def as_family(pairs: pd.DataFrame) -> pd.DataFrame:
    """Finds a word for every comparison of one family.

    * "better", "worse": p is below 0.05 after Holm's correction over the family.
    * "no difference beyond the margin": else, if `equivalence`'s p is, corrected alike.
    * "undecided": else.

    Args:
        pairs: columns metric, mean, p and p_margin, a row per comparison.

    Returns:
        The same with the columns p_holm, p_margin_holm and word.
    """
    p, p_margin = holm(pairs.p), holm(pairs.p_margin)
    more_is_better = np.array([measure(name).best == "max" for name in pairs.metric], bool)
    better = (pairs["mean"] > 0) == more_is_better
    word = np.where(p_margin < SIGNIFICANCE, SAME, "undecided")
    word = np.where(p < SIGNIFICANCE, np.where(better, "better", "worse"), word)
    return pairs.assign(p_holm=p, p_margin_holm=p_margin, word=word)


# ---- tables -------------------------------------------------------------------------------------


def means(
    scores: Mapping[str, pd.DataFrame], seed: int = 0, groups: ArrayLike | None = None
) -> pd.DataFrame:
    """Computes means over queries with their 95 % bootstrap intervals.

    Args:
        scores: {descriptor: what `Evaluation` gives}.
        seed: seed of the draws.
        groups: as in `bootstrap_interval`.

    Returns:
        Columns metric, descriptor, mean, low, high.
    """
    pairs = itertools.product(next(iter(scores.values())), scores)
    rows = [(m, d, *bootstrap_interval(scores[d][m], seed, groups)) for m, d in pairs]
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high"])


def with_interval(mean: float, low: float, high: float, digits: int = 3, sign: str = "") -> str:
    """Formats a mean and its interval, "0.971 [0.953, 0.987]"; sign="+" shows a difference's sign.

    Without an interval (NaN) it is the mean alone; without a mean, "".
    """
    text = f"{mean:{sign}.{digits}f}" if np.isfinite(mean) else ""
    if np.isfinite([mean, low, high]).all():
        text += f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return text


def in_digits(p: float) -> str:
    """Formats a p value: two digits, or "< 1e-6"."""
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"
