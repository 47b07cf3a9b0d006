"""Numbers over all queries."""

import numpy as np
import pytest

import cbir


def test_share_in_top_k_by_hand():
    shares = cbir.share_in_top_k(["cat", "dog", "fox"], ["cat", "dog", "cat", "cow"], np.array([[0, 2], [1, 3], [0, 3]]))
    assert shares.tolist() == [1.0, 0.5, 0.0]


def test_share_in_top_k_of_numbers():
    assert cbir.share_in_top_k([3], [3, 4, 3], np.array([[0, 1, 2]])).tolist() == [pytest.approx(2 / 3)]


def test_an_unreadable_query_has_no_share():
    """`search` gives it the indices -1: no row, and not the last one."""
    shares = cbir.share_in_top_k(["cat", "dog"], ["dog", "cat"], np.array([[1, 0], [-1, -1]]))
    assert shares[0] == 0.5 and np.isnan(shares[1])


def test_interval_of_equal_values():
    assert cbir.bootstrap_interval([0.25] * 7) == (0.25, 0.25, 0.25)
    assert cbir.bootstrap_interval([3.0]) == (3.0, 3.0, 3.0)


def test_interval_is_seeded():
    values = np.random.default_rng(0).random(40)
    assert cbir.bootstrap_interval(values) == cbir.bootstrap_interval(values, seed=0)
    assert cbir.bootstrap_interval(values) != cbir.bootstrap_interval(values, seed=1)
    assert all(isinstance(x, float) for x in cbir.bootstrap_interval(values))


def test_interval_against_the_normal_one():
    """For many values the two agree: mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).normal(5, 2, 1000)
    mean, low, high = cbir.bootstrap_interval(values)
    error = values.std() / len(values) ** 0.5
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(mean - 1.96 * error, abs=0.15 * error), pytest.approx(mean + 1.96 * error, abs=0.15 * error))


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for level in (0.5, 0.95):
        intervals = [cbir.bootstrap_interval(rng.exponential(1, 100), n=200, level=level) for _ in range(300)]
        covered = np.mean([low <= 1 <= high for _, low, high in intervals])
        assert abs(covered - level) < 0.08


def test_nan_is_left_out():
    values = np.random.default_rng(0).random(20)
    with_gaps = np.insert(values, [0, 7, 20], np.nan)
    assert cbir.bootstrap_interval(with_gaps) == cbir.bootstrap_interval(values)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_value_no_interval(values):
    assert np.isnan(cbir.bootstrap_interval(values)).all()
