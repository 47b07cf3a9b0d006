"""Numbers over all queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score

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


# ---- average precision ------------------------------------------------------------------------------------------------------

def test_average_precision_by_hand():
    """Relevant at ranks 1 and 3: (1/1 + 2/3) / 2. At 2 and 4: (1/2 + 2/4) / 2. None at all: 0."""
    ap = cbir.average_precision(["cat", "dog", "cat"], ["cat", "dog", "cat", "dog"], np.array([[0, 1, 2, 3], [0, 1, 2, 3], [1, 3, 1, 3]]))
    assert ap == pytest.approx([5 / 6, 1 / 2, 0])


def test_average_precision_of_the_first_ranks():
    """Three are relevant. Of two ranks: both right is 1; the second alone (1/2) / 2. Of four ranks two of three: (1 + 2/3) / 3."""
    values = ["cat"] * 3 + ["dog"] * 5
    def ap(*ranks):
        return cbir.average_precision(["cat"], values, np.array([ranks]))[0]
    assert (ap(0, 2), ap(4, 2), ap(1, 5, 0, 7), ap(6, 7)) == pytest.approx((1, 1 / 4, 5 / 9, 0))


def test_average_precision_where_there_is_none():
    """No relevant row; not searched for; and a row of None or NaN is relevant to nobody."""
    ap = cbir.average_precision(["cow", "cat", "dog"], ["cat", "dog", None], np.array([[0, 1, 2], [-1, -1, -1], [1, 0, 2]]))
    assert np.isnan(ap[:2]).all() and ap[2] == 1
    values = np.array(["cat", "dog", np.nan], dtype=object)
    assert cbir.average_precision(["cat"], values, np.array([[2, 0, 1]]))[0] == 0.5


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 4))
def test_average_precision_against_scikit_learn(seed, n, classes):
    rng = np.random.default_rng(seed)
    values, wanted = rng.integers(0, classes, n), rng.integers(0, classes, 5)
    order = np.stack([rng.permutation(n) for _ in wanted])
    for value, ranking, ap in zip(wanted, order, cbir.average_precision(wanted, values, order)):
        if (values == value).any():
            assert ap == pytest.approx(average_precision_score(values[ranking] == value, -np.arange(n)))
        else:
            assert np.isnan(ap)


# ---- pairs ------------------------------------------------------------------------------------------------------------------

def test_pairs_see_what_two_separate_means_do_not():
    """A small gain on every query, among queries of very different difficulty."""
    rng = np.random.default_rng(0)
    difficulty = rng.random(100)
    a, b = difficulty + rng.normal(0.02, 0.01, 100), difficulty
    (_, low_a, _), (_, _, high_b) = cbir.bootstrap_interval(a), cbir.bootstrap_interval(b)
    assert low_a < high_b                                            # the intervals overlap
    d = cbir.paired_difference(a, b)
    assert 0 < d.low < d.mean < d.high and d.mean == pytest.approx((a - b).mean()) and d.p < 0.001
    assert d[:3] == cbir.bootstrap_interval(a - b)


def test_the_sign_flip_test_against_scipy():
    a, b = np.random.default_rng(1).random((2, 30))
    a += 0.1
    exact = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    assert 0.01 < exact < 0.5
    assert cbir.paired_difference(a, b, n=5000).p == pytest.approx(exact, abs=0.02)


def test_the_sign_flip_test_by_hand():
    """Three differences of the same sign: 2 of the 8 ways to flip them have a mean as far from 0."""
    assert cbir.paired_difference([1, 2, 3], [0, 0, 0], n=20_000).p == pytest.approx(2 / 8, abs=0.01)
    assert cbir.paired_difference([1, 2, 3], [1, 2, 3]) == (0, 0, 0, 1)


def test_pairs_are_seeded_and_odd():
    a, b = np.random.default_rng(0).random((2, 25))
    assert cbir.paired_difference(a, b) == cbir.paired_difference(a, b, seed=0)
    assert cbir.paired_difference(a, b)[1:3] != cbir.paired_difference(a, b, seed=1)[1:3]
    there, back = cbir.paired_difference(a, b), cbir.paired_difference(b, a)
    assert back.mean == -there.mean and back.p == there.p


def test_pairs_need_both_values():
    a, b = np.random.default_rng(0).random((2, 10))
    gaps_a, gaps_b = np.insert(a, [0, 3], [np.nan, 5]), np.insert(b, [0, 3], [7, np.nan])
    assert cbir.paired_difference(gaps_a, gaps_b) == cbir.paired_difference(a, b)
    assert np.isnan(cbir.paired_difference([np.nan], [1.0])).all() and np.isnan(cbir.paired_difference([], [])).all()
    with pytest.raises(ValueError, match="not the same queries"):
        cbir.paired_difference([1, 2], [1, 2, 3])


# ---- the Pareto front -------------------------------------------------------------------------------------------------------

def test_front_by_hand():
    """(5, 5) beats (4, 6) and (5, 6); equal points do not beat each other; NaN is never on the front."""
    x = [5, 4, 5, 5, 7, 1, np.nan, 9]
    y = [5, 6, 6, 5, 9, 1, 0, np.nan]
    assert cbir.pareto_front(x, y).tolist() == [True, False, False, True, True, True, False, False]
    assert cbir.pareto_front([], []).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_front_point_by_point(points):
    front = cbir.pareto_front(*zip(*points))
    assert front.any()
    for (x, y), kept in zip(points, front):
        assert kept == (not any(a >= x and b <= y and (a, b) != (x, y) for a, b in points))


# ---- two rankings, and the parts of a distance ------------------------------------------------------------------------------

def test_common_rows_of_two_rankings():
    """Whatever the order; a query that was not searched for has none to share."""
    a = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -1, -1, -1], [5, 6, 7, 8]]
    b = [[4, 3, 2, 1], [9, 2, 8, 4], [5, 6, 7, 8], [-1, -1, -1, -1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(cbir.common_in_top_k(a, b), [1, 0.5, 0, np.nan, np.nan])


def test_parts_of_a_distance():
    a = np.array([[0., 1, 2, 3], [1, 1, 1, 1], [np.nan] * 4])
    b = np.array([[1., 1, 0, 0], [0, 3, 1, 1], [1, 2, 3, 4]])
    np.testing.assert_allclose(cbir.distance_by_part(a, b, [1, 0, 3]), [1, 0, 3.5])      # (1 + 1) / 2; (0 + 2 + 3 + 2 + 0 + 0) / 2
    assert cbir.distance_by_part(a, b, [2, 2]).sum() == pytest.approx(np.abs(a - b)[:2].sum(axis=1).mean())
    with pytest.raises(ValueError, match="do not make up 4"):
        cbir.distance_by_part(a, b, [1, 2])
