"""What every query got: the class, background, palette and colours of its nearest images; means, and comparisons query by query."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .color import color_histogram, histogram_distance
from .images import known_factors, open_image
from .metrics import average_precision, bootstrap_interval, paired_difference, pareto_front, share_in_top_k
from .store import Store

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
