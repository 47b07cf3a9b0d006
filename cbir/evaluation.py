"""How good rankings are, query by query: shares of the nearest images, average precision, colour.

An image of unknown class (its label is "") is relevant to no query, and has no class score as one.

Rankings are `indices` (Q, k), rows of the database, nearest first; -1 for a query that was not
searched for. Values of Q queries and N database images, such as classes, are None or NaN if
unknown. Measures are (Q,) float64, NaN if there is nothing to measure.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .color import color_histogram, histogram_distance
from .common import check_choice
from .datasets import known_factors
from .images import open_image
from .store import Store

Ints: TypeAlias = NDArray[np.integer]
Values: TypeAlias = NDArray[np.float64]

HISTOGRAM_DISTANCE = "histogram distance"


class Measure(NamedTuple):
    """How a measure is read: whether "max" or "min" is best, and how many decimals are shown."""

    best: Literal["max", "min"]
    digits: int


_SHARES = ["class P@k", "class AP", "background P@k", "palette P@k"]
MEASURES = dict.fromkeys(_SHARES, Measure("max", 2)) | {HISTOGRAM_DISTANCE: Measure("min", 3)}


def measure(name: str) -> Measure:
    """Finds a measure by a column of `Evaluation`, "class P@5", or "same class"; or ValueError."""
    general = re.sub(r"P@\d+$", "P@k", re.sub(r"^same (.+)$", r"\1 P@k", name))
    check_choice("measure", general, MEASURES)
    return MEASURES[general]


def share_in_top_k(query_values: ArrayLike, database_values: ArrayLike, indices: Ints) -> Values:
    """Computes precision at k: the share of a query's hits that have its value (class, ..)."""
    query_values = np.asarray(query_values)
    same = np.asarray(database_values)[indices] == query_values[:, None]  # (Q, k)
    return np.where(_searched(indices) & pd.notna(query_values), same.mean(axis=1), np.nan)


def common_in_top_k(a: ArrayLike, b: ArrayLike) -> Values:
    """Computes the share of rows that two rankings (Q, k) have in common, in any order: (Q,)."""
    a, b = np.asarray(a), np.asarray(b)
    share = (a[:, :, None] == b[:, None]).any(axis=2).mean(axis=1)
    return np.where(_searched(a) & _searched(b), share, np.nan)


def _searched(indices: Ints) -> NDArray[np.bool_]:
    """Tells which queries were searched for: (Q, k) -> (Q,)."""
    return np.all(indices >= 0, axis=1)


def average_precision(query_values: ArrayLike, database_values: ArrayLike, indices: Ints) -> Values:
    """Computes the average precision of every query over a ranking; mAP is its mean.

    AP = 1 / min(R, K) * the sum, over those ranks j <= K that hold a relevant row, of the
    precision at j, if R rows of the database are relevant. Over the whole database (K = N) this
    is the usual average precision, without interpolation; over fewer ranks it is AP@K. NaN for
    queries without a relevant row.
    """
    query_values, database_values = np.asarray(query_values), np.asarray(database_values)
    relevant = database_values[indices] == query_values[:, None]  # (Q, K)
    precision = relevant.cumsum(axis=1) / np.arange(1, indices.shape[1] + 1)
    in_database = [(database_values == value).sum() for value in query_values]  # R
    most = np.minimum(in_database, indices.shape[1]) * pd.notna(query_values)
    ap = (precision * relevant).sum(axis=1) / np.maximum(most, 1)
    return np.where((most > 0) & _searched(indices), ap, np.nan)


def distance_by_layer(a: ArrayLike, b: ArrayLike, widths: Sequence[int]) -> Values:
    """Computes what each layer of a descriptor adds to the L1 distance, as a mean over pairs.

    Args:
        a: (P, D) rows; pairs with NaN are left out.
        b: (P, D) rows, the other ones of the pairs.
        widths: dimensions of the layers, one after the other, or ValueError if not D in sum.

    Returns:
        (len(widths),) float64, whose sum is the distance.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if sum(widths) != a.shape[1]:
        raise ValueError(f"layers of {list(widths)} dimensions do not make up {a.shape[1]}")
    layers = np.split(np.nanmean(np.abs(a - b), axis=0), np.cumsum(widths)[:-1])
    return np.array([layer.sum() for layer in layers])


class Evaluation:
    """Judges rankings by all that is known about the images of two stores.

    >>> judge = cbir.Evaluation(database, queries)
    >>> judge.shares(hits.indices, k=5).mean()

    Attributes:
        factors: what is known of both: "class", and for the scenes "background" and
            "palette".
        chance: {factor: how often a random image of the database has the query's value}.
    """

    def __init__(self, database: Store, queries: Store, colors: Sequence[Any] = ()) -> None:
        """Reads what is known about the images of both stores.

        `colors` are the colour histograms of both, (N, 75) and (Q, 75), as the extra "color" of
        `extract`. Without, a file is opened when its image is first found.
        """
        of_image, of_query = map(known_factors, (database, queries))
        of_image[~database.described] = None
        self.of_image, self.of_query = (known.where(known != "") for known in (of_image, of_query))
        self.factors = list(of_query.columns.intersection(of_image.columns))
        self.chance = {}
        for factor in self.factors:
            share = self.of_image[factor].value_counts() / database.described.sum()
            wanted = self.of_query[factor][queries.described].dropna()
            self.chance[factor] = float(wanted.map(share).fillna(0).mean())
        of_files = [functools.cache(functools.partial(_color, st)) for st in (database, queries)]
        stored = [np.asarray(histograms).__getitem__ for histograms in colors]
        self._color_of: Sequence[Callable[[int], Values]] = stored or of_files

    def shares(self, indices: Ints, k: int = 5, ap: bool = False) -> pd.DataFrame:
        """Measures rankings by classes and factors; no image is opened.

        Args:
            indices: (Q, K).
            k: how many ranks count; all if there are fewer, as in a small database.
            ap: adds "class AP", over all K ranks.

        Returns:
            A row per query; columns "class P@k", "class AP", "background P@k" and "palette P@k", as
            far as these are known.
        """
        columns = {}
        for factor in self.factors:
            values = self.of_query[factor], self.of_image[factor]
            columns[f"{factor} P@{k}"] = share_in_top_k(*values, indices[:, :k])
            if factor == "class" and ap:
                columns["class AP"] = average_precision(*values, indices)
        return pd.DataFrame(columns, index=range(len(indices)))

    def __call__(self, indices: Ints, k: int = 5, ap: bool = False) -> pd.DataFrame:
        """Measures rankings by all that is known: `shares`, and "histogram distance"."""
        scores = self.shares(indices, k, ap)
        return scores.assign(**{HISTOGRAM_DISTANCE: self._color_distances(indices[:, :k])})

    def _color_distances(self, indices: Ints) -> Values:
        """Returns the mean histogram distance of each query to its hits, (Q,)."""
        of_image, of_query = self._color_of
        distances = np.full(len(indices), np.nan)
        for query in np.flatnonzero(_searched(indices)).tolist():
            found = [of_image(row) for row in indices[query].tolist()]
            distances[query] = histogram_distance(of_query(query), found).mean()
        return distances


def _color(store: Store, row: int) -> Values:
    """Returns the colour histogram of a store's file, (75,)."""
    return color_histogram(np.asarray(open_image(store.path(row))))
