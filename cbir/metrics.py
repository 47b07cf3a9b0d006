"""Numbers over all queries: shares of the top k, and bootstrap intervals."""

import numpy as np


def share_in_top_k(query_values, database_values, indices):
    """Precision at k per query: the share of its hits that have the query's value (class, background, ..).

    query_values: Q values; database_values: N values; indices: (Q, k) rows of the database. Returns (Q,) float64, NaN for a
    query that was not searched for (indices of -1).
    """
    share = (np.asarray(database_values)[indices] == np.asarray(query_values)[:, None]).mean(axis=1)
    return np.where((np.asarray(indices) < 0).any(axis=1), np.nan, share)


def bootstrap_interval(values, n=2000, level=0.95, seed=0):
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
