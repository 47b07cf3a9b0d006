"""Statistics over queries: against SciPy, by hand, and the rule of the verdict."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import cbir
from cbir.evaluation import HISTOGRAM_DISTANCE
from cbir.statistics import as_family, bootstrap_interval, equivalence, holm

VALUES = {"h": [0.1, 0.3, 0.2, 0.4], "eta": [0.3, 0.4, 0.4, 0.5], "gem": [0.4, 0.1, 0.2, 0.9]}
VALUES = {name: np.array(values * 5) for name, values in VALUES.items()}
SCORES = {d: pd.DataFrame({"class P@5": v, HISTOGRAM_DISTANCE: 1 - v}) for d, v in VALUES.items()}


def test_interval_against_scipy():
    values = np.random.default_rng(0).exponential(1, 200)
    mean, low, high = bootstrap_interval(values)
    options = {"method": "percentile", "n_resamples": 5000, "rng": 0}
    expected = stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(expected), abs=0.15 * values.std() / 200**0.5)
    assert bootstrap_interval(np.insert(values, [0, 7, 200], np.nan)) == (mean, low, high)
    assert bootstrap_interval(values, seed=1) != (mean, low, high)
    halves = np.repeat([0.0, 1.0], 50)  # groups that differ widen no interval: they are not drawn
    assert bootstrap_interval(halves, groups=np.repeat(["a", "b"], 50))[1:] == (0.5, 0.5)
    assert bootstrap_interval(halves)[1] < 0.45
    for few in (values[:19], values[:1], []):
        assert np.isnan(bootstrap_interval([np.nan, *few])[1:]).all()


@pytest.mark.parametrize("n, resamples, tolerance", [(12, 5000, 0), (30, 20_000, 0.02)])
def test_sign_flips_against_scipy(n, resamples, tolerance):
    """SciPy too is exact if it may draw more often than there are flips."""
    a, b = np.random.default_rng(n).random((2, n))
    options = {"permutation_type": "samples", "n_resamples": resamples, "rng": 0}
    test = stats.permutation_test((a + 0.1, b), lambda x, y: np.mean(x - y), **options)
    assert cbir.paired_difference(a + 0.1, b).p == pytest.approx(test.pvalue, abs=tolerance or 1e-9)


def test_p_has_no_floor():
    """Exact on the lattice of P@k, and by the saddlepoint between a million flips and 2^-n."""
    rng = np.random.default_rng(0)
    steps = rng.choice([-0.2, 0, 0.2, 0.4], 60)
    flips = np.abs(rng.choice([-1.0, 1.0], (10**6, 60)) @ steps)
    expected = (flips >= steps.sum() - 1e-9).mean()
    assert cbir.paired_difference(steps, 0 * steps).p == pytest.approx(expected, rel=0.2)
    values = np.random.default_rng(1).normal(0.5, 1, 60)
    flips = np.abs(rng.choice([-1.0, 1.0], (10**6, 60)) @ values)
    expected = (flips >= values.sum()).mean()
    assert cbir.paired_difference(values, 0 * values).p == pytest.approx(expected, rel=0.15)
    assert cbir.paired_difference(np.ones(400), np.zeros(400)).p == pytest.approx(2**-399)
    assert cbir.paired_difference(rng.random(300), np.zeros(300)).p == pytest.approx(2**-299)
    assert cbir.paired_difference([1.0, -1.0], [0, 0]).p == 1
    assert cbir.paired_difference(np.zeros(99), np.zeros(99)).p == 1


def test_what_is_alike_within_the_margin():
    rng = np.random.default_rng(0)
    a, few = np.zeros(200), np.zeros(200)
    few[:2] = 0.2
    assert equivalence(few, a, 0.02) < 1e-6
    assert equivalence(rng.choice([-0.4, 0.4], 200), a, 0.02) > 0.05  # too noisy to say
    assert equivalence(np.full(200, 0.04), a, 0.02) == 1


def test_null_data_have_few_words():
    """Of 1,000 families without any effect at most 6.5 % have a "better" or "worse"."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(1000):
        pairs = []
        for _ in range(4):
            d = rng.choice([-0.2, 0, 0, 0.2], 40)
            p, p_margin = cbir.paired_difference(d, 0 * d).p, equivalence(d, 0 * d, 0.02)
            pairs.append({"metric": "class P@5", "mean": d.mean(), "p": p, "p_margin": p_margin})
        wrong += as_family(pd.DataFrame(pairs)).word.isin(["better", "worse"]).any()
    assert wrong <= 65


def test_pairs_need_both_values():
    a, b = np.random.default_rng(0).random((2, 20))
    gaps_a = np.insert(a, [0, 3], [np.nan, 5])
    gaps_b = np.insert(b, [0, 3], [7, np.nan])
    assert cbir.paired_difference(a, b)[:3] == bootstrap_interval(a - b)
    there, back = cbir.paired_difference(gaps_a, gaps_b), cbir.paired_difference(b, a)
    assert there == cbir.paired_difference(a, b)
    assert (back.mean, back.p) == (-there.mean, there.p)
    assert np.isnan(cbir.paired_difference([np.nan], [1.0])).all()
    with pytest.raises(ValueError, match="not the same queries"):
        cbir.paired_difference([1, 2], [1, 2, 3])


def test_holm_by_hand():
    """In order: 0.005 * 4, 0.01 * 3, 0.03 * 2; 0.04 * 1 would be less than the one before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([np.nan, 0.04, 0.6]), [np.nan, 0.08, 0.6])
    assert holm([0.9, 0.8]).tolist() == [1, 1] and holm([]).tolist() == []


@pytest.mark.parametrize(
    ("mean", "p", "p_margin", "metric", "word"),
    [
        (0.01, 0.01, 0.9, "class P@5", "better"),
        (-0.01, 0.01, 0.01, "class P@5", "worse"),  # within the margin: yet it is a loss
        (-0.01, 0.01, 0.9, HISTOGRAM_DISTANCE, "better"),
        (0, 0.9, 0.01, "class P@5", "no difference beyond the margin"),
        (0, 0.9, 0.06, "class P@5", "undecided"),
    ],
)
def test_words_follow_one_rule(mean, p, p_margin, metric, word):
    pair = {"metric": metric, "mean": mean, "p": p, "p_margin": p_margin}
    family = as_family(pd.DataFrame([pair]))
    assert family.word.tolist() == [word] and as_family(pd.DataFrame([pair] * 9)).p_holm[0] <= 1
