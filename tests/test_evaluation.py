"""Judging hits: every measure of every query by hand, and numbers over all queries."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_net, write_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn.metrics import average_precision_score

import cbir
from cbir.evaluation import HISTOGRAM_DISTANCE, MEASURES, measure

GRAYS = {
    "database/cat/0.png": 0,
    "database/cat/1.png": 100,
    "database/dog/2.png": 100,
    "database/dog/3.png": 200,
    "queries/cat/a.png": 100,
    "queries/cow/b.png": 0,
    "queries/dog/c.png": 200,
}
APART = 6 / 75  # two grey images of different bins
INDICES = np.array([[1, 2, 3, 0], [0, 1, 2, 3], [2, 3, 1, 0], [-1] * 4])


def describe(folder):
    """Both parts of a folder: [database, queries]."""
    parts = [folder / "database", folder / "queries"]
    return [cbir.extract(part, make_net(), part.with_suffix(".store")) for part in parts]


@pytest.fixture
def stores(tmp_path):
    """Grey images: the database's row 4 and the queries' row 3 cannot be read."""
    for name, gray in GRAYS.items():
        path = write_image(tmp_path / name)
        Image.new("RGB", (4, 4), (gray,) * 3).save(path)
    for name in ("database/dog/4.png", "queries/dog/d.png"):
        (tmp_path / name).write_text("no image")
    return describe(tmp_path)


def colors(*stores):
    """The colour histograms of their images, as an extra of `extract` gives them."""
    histograms = []
    for store in stores:
        rows = np.full((len(store), 75), np.nan)
        for row, histogram in cbir.color_histograms(store, np.flatnonzero(store.described)).items():
            rows[row] = histogram
        histograms.append(rows)
    return histograms


def test_by_hand(stores):
    judge = cbir.Evaluation(*stores)
    frame = judge(INDICES, k=2, cutoffs=[1], ap=True)
    assert list(frame) == ["class P@1", "class P@2", "class AP", HISTOGRAM_DISTANCE]
    expected = [
        [1, 0.5, (1 + 2 / 4) / 2, 0],
        [0, 0, np.nan, APART / 2],
        [1, 1, 1, APART / 2],
        [np.nan] * 4,
    ]
    np.testing.assert_allclose(frame, expected)
    np.testing.assert_allclose(judge.chance["class"], (2 / 4 + 0 + 2 / 4) / 3)


def test_shares_need_no_image(stores):
    options = {"k": 2, "cutoffs": [1], "ap": True}
    whole = cbir.Evaluation(*stores)(INDICES, **options)
    for part in stores:
        part.path(0).unlink()
    shares = cbir.Evaluation(*stores).shares(INDICES, **options)
    pd.testing.assert_frame_equal(shares, whole.drop(columns=HISTOGRAM_DISTANCE))


def test_stored_colors_give_the_same(stores):
    frame = cbir.Evaluation(*stores)(INDICES, k=3)
    stored = cbir.Evaluation(*stores, colors(*stores))(INDICES, k=3)
    pd.testing.assert_frame_equal(frame, stored)


def test_class_and_color_at_once(stores):
    """Half of the database is as grey as query a: rows 1 and 2, of which row 1 is a cat.

    Query c is a dog as bright as row 3.
    """
    judge = cbir.Evaluation(*stores, colors(*stores))
    both = judge(INDICES, k=2, near=0.25)["both P@2"]
    np.testing.assert_array_equal(both, [0.5, 0, 0.5, np.nan])
    everything = judge(INDICES, k=2, near=1)
    np.testing.assert_array_equal(everything["both P@2"], everything["class P@2"])


def test_without_classes_there_is_color(stores, tmp_path):
    for part in ("database", "queries"):
        (tmp_path / "flat" / part).mkdir(parents=True)
        for path in (tmp_path / part).rglob("*.png"):
            path.rename(tmp_path / "flat" / part / path.name)
    judge = cbir.Evaluation(*describe(tmp_path / "flat"))
    frame = judge(INDICES, k=2, cutoffs=[1, 5], ap=True, near=0.5)
    assert list(frame) == [HISTOGRAM_DISTANCE] and judge.chance == {} and judge.factors == []
    assert cbir.means({"h": frame}).metric.tolist() == [HISTOGRAM_DISTANCE]
    shares = judge.shares(INDICES)
    assert shares.shape == (len(INDICES), 0) and cbir.means({"h": shares}).empty


def test_every_measure_says_which_is_better_and_its_digits(stores):
    frame = cbir.Evaluation(*stores, colors(*stores))(INDICES, k=2, ap=True, near=0.5)
    assert list(frame) == ["class P@2", "class AP", "both P@2", HISTOGRAM_DISTANCE]
    assert [measure(name).best for name in frame] == ["max", "max", "max", "min"]
    assert [measure(name).digits for name in frame] == [2, 2, 2, 3]


@pytest.mark.parametrize("name", ["class P@1", "class P@50", "same class"])
def test_a_measure_has_several_names(name):
    assert measure(name) == MEASURES["class P@k"]


def test_any_other_name_is_taken_for_a_share():
    assert measure("share of the top 5 that stays")[1:] == ("max", 2)


VALUES = {"h": [0.1, 0.3, 0.2, 0.4], "eta": [0.3, 0.4, 0.4, 0.5], "gem": [0.4, 0.1, 0.2, 0.9]}
SCORES = {}
for descriptor, values in VALUES.items():
    shares = np.array(values * 5)
    SCORES[descriptor] = pd.DataFrame({"class P@5": shares, HISTOGRAM_DISTANCE: 1 - shares})


def test_means():
    table = cbir.means(SCORES, seed=3)
    assert list(table) == ["metric", "descriptor", "mean", "low", "high"]
    assert table.metric.tolist() == ["class P@5"] * 3 + [HISTOGRAM_DISTANCE] * 3
    assert table.descriptor.tolist() == [*SCORES, *SCORES]
    assert tuple(table.iloc[1, 2:]) == cbir.bootstrap_interval(SCORES["eta"]["class P@5"], seed=3)


def test_comparisons():
    """Of the histogram distance less is better."""
    table = cbir.comparisons(SCORES, seed=3).set_index(["metric", "descriptor"])
    assert table.verdict.to_dict() == {
        ("class P@5", "h"): "better",
        ("class P@5", "gem"): "open",
        (HISTOGRAM_DISTANCE, "h"): "better",
        (HISTOGRAM_DISTANCE, "gem"): "open",
    }
    eta, h = SCORES["eta"]["class P@5"], SCORES["h"]["class P@5"]
    by_hand = cbir.paired_difference(eta, h, seed=3)
    assert tuple(table.loc[("class P@5", "h")])[:4] == by_hand
    back = cbir.comparisons(SCORES, reference="h").set_index(["metric", "descriptor"])
    assert set(back.xs("eta", level=1).verdict) == {"worse"}


def test_a_comparison_without_values_is_open():
    nothing = pd.DataFrame({"class P@5": [np.nan, np.nan]})
    assert cbir.comparisons({"eta": nothing, "h": nothing}).verdict.tolist() == ["open"]


def test_class_color_plane():
    noise = np.random.default_rng(0).normal(0, 0.01, (30, 2))
    noise -= noise.mean(axis=0)
    centers = {"h": (0.3, 0.5), "eta": (0.4, 0.4), "gem": (0.1, 0.2)}
    columns = ["class P@5", HISTOGRAM_DISTANCE]
    scores = {d: pd.DataFrame(noise + center, columns=columns) for d, center in centers.items()}
    points = cbir.class_color_plane(cbir.means(scores), "class P@5")
    assert " ".join(points) == "descriptor x x_low x_high y y_low y_high front"
    assert points.descriptor.tolist() == list(scores)
    assert points.front.tolist() == [False, True, True]
    np.testing.assert_allclose(points[["x", "y"]], list(centers.values()))
    assert ((points.x_low < points.x) & (points.x < points.x_high)).all()
    assert ((points.y_low < points.y) & (points.y < points.y_high)).all()


# Metrics


def test_share_in_top_k_by_hand():
    queries, database = ["cat", "dog", "fox"], ["cat", "dog", "cat", "cow"]
    shares = cbir.share_in_top_k(queries, database, np.array([[0, 2], [1, 3], [0, 3]]))
    assert shares.tolist() == [1.0, 0.5, 0.0]


def test_share_in_top_k_of_numbers():
    shares = cbir.share_in_top_k([3], [3, 4, 3], np.array([[0, 1, 2]]))
    assert shares.tolist() == [pytest.approx(2 / 3)]


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
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for level in (0.5, 0.95):
        samples = rng.exponential(1, (300, 100))
        intervals = [cbir.bootstrap_interval(x, n=200, level=level) for x in samples]
        covered = np.mean([low <= 1 <= high for _, low, high in intervals])
        assert abs(covered - level) < 0.08


def test_nan_is_left_out():
    values = np.random.default_rng(0).random(20)
    with_gaps = np.insert(values, [0, 7, 20], np.nan)
    assert cbir.bootstrap_interval(with_gaps) == cbir.bootstrap_interval(values)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_value_no_interval(values):
    assert np.isnan(cbir.bootstrap_interval(values)).all()


# Average precision


def test_average_precision_by_hand():
    """Relevant at ranks 1 and 3: (1/1 + 2/3) / 2. At 2 and 4: (1/2 + 2/4) / 2. None at all: 0."""
    queries, database = ["cat", "dog", "cat"], ["cat", "dog", "cat", "dog"]
    indices = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [1, 3, 1, 3]])
    ap = cbir.average_precision(queries, database, indices)
    assert ap == pytest.approx([5 / 6, 1 / 2, 0])


def test_average_precision_of_the_first_ranks():
    """Three are relevant. Of two ranks: both right is 1; the second alone (1/2) / 2.

    Of four ranks two of three: (1 + 2/3) / 3.
    """
    values = ["cat"] * 3 + ["dog"] * 5

    def ap(*ranks):
        return cbir.average_precision(["cat"], values, np.array([ranks]))[0]

    assert (ap(0, 2), ap(4, 2), ap(1, 5, 0, 7), ap(6, 7)) == pytest.approx((1, 1 / 4, 5 / 9, 0))


def test_average_precision_where_there_is_none():
    """No relevant row; not searched for; and a row of None or NaN is relevant to nobody."""
    queries, database = ["cow", "cat", "dog"], ["cat", "dog", None]
    indices = np.array([[0, 1, 2], [-1, -1, -1], [1, 0, 2]])
    ap = cbir.average_precision(queries, database, indices)
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
            expected = average_precision_score(values[ranking] == value, -np.arange(n))
            assert ap == pytest.approx(expected)
        else:
            assert np.isnan(ap)


# Pairs


def test_pairs_see_what_two_separate_means_do_not():
    """A small gain on every query, among queries of very different difficulty."""
    rng = np.random.default_rng(0)
    difficulty = rng.random(100)
    a, b = difficulty + rng.normal(0.02, 0.01, 100), difficulty
    (_, low_a, _), (_, _, high_b) = cbir.bootstrap_interval(a), cbir.bootstrap_interval(b)
    assert low_a < high_b  # the intervals overlap
    d = cbir.paired_difference(a, b)
    assert 0 < d.low < d.mean < d.high and d.mean == pytest.approx((a - b).mean()) and d.p < 0.001
    assert d[:3] == cbir.bootstrap_interval(a - b)


def test_the_sign_flip_test_against_scipy():
    a, b = np.random.default_rng(1).random((2, 30))
    a += 0.1
    options = {"permutation_type": "samples", "n_resamples": 20_000, "rng": 0}
    exact = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), **options)
    assert 0.01 < exact.pvalue < 0.5
    assert cbir.paired_difference(a, b, n=5000).p == pytest.approx(exact.pvalue, abs=0.02)


def test_the_sign_flip_test_by_hand():
    """Three differences of the same sign: 2 of 8 ways to flip them have a mean as far from 0."""
    p = cbir.paired_difference([1, 2, 3], [0, 0, 0], n=20_000).p
    assert p == pytest.approx(2 / 8, abs=0.01)
    assert cbir.paired_difference([1, 2, 3], [1, 2, 3]) == (0, 0, 0, 1)


def test_pairs_are_seeded_and_odd():
    a, b = np.random.default_rng(0).random((2, 25))
    assert cbir.paired_difference(a, b) == cbir.paired_difference(a, b, seed=0)
    assert cbir.paired_difference(a, b)[1:3] != cbir.paired_difference(a, b, seed=1)[1:3]
    there, back = cbir.paired_difference(a, b), cbir.paired_difference(b, a)
    assert back.mean == -there.mean and back.p == there.p


def test_pairs_need_both_values():
    a, b = np.random.default_rng(0).random((2, 10))
    gaps_a = np.insert(a, [0, 3], [np.nan, 5])
    gaps_b = np.insert(b, [0, 3], [7, np.nan])
    assert cbir.paired_difference(gaps_a, gaps_b) == cbir.paired_difference(a, b)
    assert np.isnan(cbir.paired_difference([np.nan], [1.0])).all()
    assert np.isnan(cbir.paired_difference([], [])).all()
    with pytest.raises(ValueError, match="not the same queries"):
        cbir.paired_difference([1, 2], [1, 2, 3])


# The Pareto front


def test_front_by_hand():
    """(5, 5) beats (4, 6) and (5, 6), equal points do not beat each other, NaN is never there."""
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


# Two rankings, and the parts of a distance


def test_common_rows_of_two_rankings():
    """Whatever the order; a query that was not searched for has none to share."""
    a = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -1, -1, -1], [5, 6, 7, 8]]
    b = [[4, 3, 2, 1], [9, 2, 8, 4], [5, 6, 7, 8], [-1, -1, -1, -1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(cbir.common_in_top_k(a, b), [1, 0.5, 0, np.nan, np.nan])


def test_parts_of_a_distance():
    a = np.array([[0.0, 1, 2, 3], [1, 1, 1, 1], [np.nan] * 4])
    b = np.array([[1.0, 1, 0, 0], [0, 3, 1, 1], [1, 2, 3, 4]])
    by_part = cbir.distance_by_part(a, b, [1, 0, 3])
    np.testing.assert_allclose(by_part, [(1 + 1) / 2, 0, (0 + 2 + 3 + 2 + 0 + 0) / 2])
    distance = np.abs(a - b)[:2].sum(axis=1).mean()
    assert cbir.distance_by_part(a, b, [2, 2]).sum() == pytest.approx(distance)
    with pytest.raises(ValueError, match="do not make up 4"):
        cbir.distance_by_part(a, b, [1, 2])
