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
from cbir.evaluation import (
    HISTOGRAM_DISTANCE,
    MEASURES,
    PairedDifference,
    in_words,
    measure,
    with_interval,
)

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
    table = cbir.comparisons(SCORES, seed=3)
    assert list(table)[2:] == ["mean", "low", "high", "p", "p_holm", "verdict"]
    np.testing.assert_array_equal(table.p_holm, cbir.holm(table.p))
    table = table.set_index(["metric", "descriptor"])
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


def scores_of(difference, metric="class P@5", queries=200):
    """Two descriptors whose values differ by about that much: eta has more."""
    noise = np.random.default_rng(0).normal(0, 0.01, queries)
    of_h = np.linspace(0.3, 0.7, queries)
    of_eta = of_h + difference + noise - noise.mean()
    return {"eta": pd.DataFrame({metric: of_eta}), "h": pd.DataFrame({metric: of_h})}


@pytest.mark.parametrize(
    ("difference", "metric", "queries", "verdict"),
    [
        (0.01, "class P@5", 200, "better"),
        (0, "class P@5", 200, "kept"),
        (-0.01, "class P@5", 200, "worse"),  # within the margin: yet it is a loss
        (-0.01, HISTOGRAM_DISTANCE, 200, "better"),
        (0, HISTOGRAM_DISTANCE, 200, "open"),  # the margin is one of precisions
        (0, "class AP", 200, "open"),
        (0, "class P@5", 10, "open"),  # too few for an interval
    ],
)
def test_verdicts_follow_one_rule(difference, metric, queries, verdict):
    table = cbir.comparisons(scores_of(difference, metric, queries))
    assert table.verdict.tolist() == [verdict]


@pytest.mark.parametrize(("low", "verdict"), [(-0.0199, "kept"), (-0.0201, "open")])
def test_kept_ends_at_the_margin(low, verdict):
    pair = {"metric": "class P@5", "mean": 0.0, "low": low, "high": 0.02, "p": 0.9}
    assert cbir.MARGIN == 0.02
    assert cbir.as_family(pd.DataFrame([pair])).verdict.tolist() == [verdict]


def test_a_family_of_several_tables():
    """Alone p = 0.03 is enough; beside another comparison it is not."""
    pair = {"metric": "class AP", "mean": 0.1, "low": 0.01, "high": 0.2, "p": 0.03}
    alone = cbir.as_family(pd.DataFrame([pair]))
    assert alone.verdict.tolist() == ["better"]
    joined = cbir.as_family(pd.concat([alone, alone.assign(p=0.04)]))
    assert joined.p_holm.tolist() == [0.06, 0.06] and joined.verdict.tolist() == ["open"] * 2


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
    assert cbir.bootstrap_interval([0.25] * 20) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("n", [1, 10, 19])
def test_few_values_have_no_interval(n):
    values = np.random.default_rng(0).random(n)
    with_gap = [np.nan, *values]
    for mean, low, high in (
        cbir.bootstrap_interval(with_gap),
        cbir.paired_difference(with_gap, np.zeros(n + 1))[:3],
        cbir.means({"h": pd.DataFrame({"class P@5": with_gap})}).iloc[0, 2:],
    ):
        assert mean == pytest.approx(values.mean()) and np.isnan([low, high]).all()
    assert np.isfinite(cbir.bootstrap_interval(np.random.default_rng(0).random(20))).all()


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


def scipy_p(a, b, n_resamples):
    options = {"permutation_type": "samples", "n_resamples": n_resamples, "rng": 0}
    return stats.permutation_test((a, b), lambda x, y: np.mean(x - y), **options).pvalue


def test_drawn_sign_flips_against_scipy():
    a, b = np.random.default_rng(1).random((2, 30))
    a += 0.1
    expected = scipy_p(a, b, 20_000)
    assert 0.01 < expected < 0.5
    assert cbir.paired_difference(a, b).p == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_few_sign_flips_against_scipy(n):
    """SciPy too is exact where it may draw more often than there are flips."""
    a, b = np.random.default_rng(n).random((2, n))
    assert cbir.paired_difference(a + 0.2, b).p == pytest.approx(scipy_p(a + 0.2, b, 5_000))


def test_the_exact_test_ends_where_drawing_begins():
    """Fourteen equal differences: 2 of 2^14 flips. Fifteen are drawn: none is as far."""
    assert cbir.paired_difference(np.ones(14), np.zeros(14)).p == 2 / 2**14
    p = cbir.paired_difference(np.ones(15), np.zeros(15), flips=999).p
    assert 1 / 1000 <= p <= 2 / 1000


def test_the_sign_flip_test_by_hand():
    """Three differences 1, 2, 3: of the 8 sums ±1 ±2 ±3, 2 are as far from 0 as 6.

    -1, 2, 3 add up to 4: besides ±4 and ±6 all are nearer, so 4 of 8. 1, 2, -3: all are as far.
    """
    zeros = [0, 0, 0]
    assert cbir.paired_difference([1, 2, 3], zeros).p == 2 / 8
    assert cbir.paired_difference([-1, 2, 3], zeros).p == 4 / 8
    assert cbir.paired_difference([1, 2, -3], zeros).p == 1
    assert cbir.paired_difference([1, 2, 3], [1, 2, 3]).p == 1


def test_pairs_are_seeded_and_odd():
    a, b = np.random.default_rng(0).random((2, 25))
    assert cbir.paired_difference(a, b) == cbir.paired_difference(a, b, seed=0)
    assert cbir.paired_difference(a, b)[1:3] != cbir.paired_difference(a, b, seed=1)[1:3]
    there, back = cbir.paired_difference(a, b), cbir.paired_difference(b, a)
    assert back.mean == -there.mean and back.p == there.p


def test_pairs_need_both_values():
    a, b = np.random.default_rng(0).random((2, 20))
    gaps_a = np.insert(a, [0, 3], [np.nan, 5])
    gaps_b = np.insert(b, [0, 3], [7, np.nan])
    assert cbir.paired_difference(gaps_a, gaps_b) == cbir.paired_difference(a, b)
    assert np.isnan(cbir.paired_difference([np.nan], [1.0])).all()
    assert np.isnan(cbir.paired_difference([], [])).all()
    with pytest.raises(ValueError, match="not the same queries"):
        cbir.paired_difference([1, 2], [1, 2, 3])


# Families and halves


def test_holm_by_hand():
    """In order: 0.005 * 4, 0.01 * 3, 0.03 * 2; 0.04 * 1 would be less than the one before it."""
    adjusted = cbir.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_nan_and_ends_at_one():
    np.testing.assert_allclose(cbir.holm([np.nan, 0.04, 0.6, np.nan]), [np.nan, 0.08, 0.6, np.nan])
    np.testing.assert_allclose(cbir.holm([0.9, 0.8]), [1, 1])
    assert cbir.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_step_by_step(p):
    """As Holm puts it: the smallest of m at 0.05 / m, the next at 0.05 / (m - 1), and so on."""
    adjusted = cbir.holm(p)
    assert (adjusted >= np.array(p)).all() and (adjusted <= 1).all()
    rejected = 0
    for left, value in zip(range(len(p), 0, -1), sorted(p)):
        if value * left >= 0.05:
            break
        rejected += 1
    assert (adjusted < 0.05).sum() == rejected


@pytest.mark.parametrize("n", [0, 1, 10, 201])
def test_halves(n):
    first, second = cbir.halves(n, seed=1)
    assert sorted([*first, *second]) == list(range(n)) and len(second) - len(first) == n % 2
    assert list(first) == sorted(first) and list(second) == sorted(second)
    np.testing.assert_array_equal(first, cbir.halves(n, seed=1)[0])


def test_halves_are_drawn():
    assert list(cbir.halves(100, seed=1)[0]) != list(cbir.halves(100, seed=2)[0])


@pytest.mark.parametrize(("best", "expected"), [("max", 0), ("min", 1)])
def test_what_is_chosen_on_one_half_is_reported_on_the_other(best, expected):
    """Option "a" is 1 on the first half and 0 on the second, "b" the other way round."""
    first, second = cbir.halves(10, seed=4)
    on_first = np.isin(np.arange(10), first).astype(float)
    values = pd.DataFrame({"a": on_first, "b": 1 - on_first})
    reported = cbir.by_other_half(values, best, seed=4)
    assert reported.value.tolist() == [expected] * 10  # never what was seen when it was chosen
    assert set(reported.option[first]) == {"b" if best == "max" else "a"}
    assert set(reported.option[second]) == {"a" if best == "max" else "b"}


def test_an_option_may_have_several_parts():
    values = pd.DataFrame({("unit length", "l1"): [1.0] * 4, ("as they are", "l2"): [2.0] * 4})
    assert cbir.by_other_half(values, "max").option.tolist() == [("as they are", "l2")] * 4


@pytest.mark.parametrize("unknown", [[], [np.nan]])
def test_a_half_without_values_chooses_nothing(unknown):
    """Of one query the first half is empty; of two one may be unreadable."""
    values = pd.DataFrame({"a": [*unknown, 1.0], "b": [*unknown, 2.0]})
    reported = cbir.by_other_half(values, "max")
    assert reported.value.isna().all() and pd.isna(reported.option.iloc[-1])


# Results as text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.0654, 0.0456, 0.0844), "+0.065 [+0.046, +0.084]"),
        ((-0.25, np.nan, np.nan), "-0.250"),
        ((np.nan, np.nan, np.nan), ""),
    ],
)
def test_an_interval_as_text(values, text):
    """Few queries have a mean and no interval."""
    assert with_interval(PairedDifference(*values, p=0.01), 3, "+") == text


@pytest.mark.parametrize(("p", "word"), [(0.01, " better"), (0.9, "")])
def test_a_comparison_in_words(p, word):
    pair = {"metric": "class AP", "mean": 0.0654, "low": 0.0456, "high": 0.0844, "p": p}
    (row,) = cbir.as_family(pd.DataFrame([pair])).itertuples()
    assert in_words(row, 2) == f"+0.07 [+0.05, +0.08]{word}"


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
