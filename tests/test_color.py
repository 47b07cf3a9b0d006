"""Colour histograms, and the formula behind the published numbers against the published numbers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import cbir
from cbir.tables import FORMULAS, PAPER

images = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)))


def one_color(*color, size=(2, 2)):
    return np.full((*size, 3), color, np.uint8)


# ---- as the paper describes it --------------------------------------------------------------


def test_bins():
    """25 equal bins over 0..255: the value v lies in floor(25 v / 256)."""
    for value in range(256):
        h = cbir.color_histogram(one_color(value, 255 - value, 0))
        assert np.flatnonzero(h).tolist() == [25 * value // 256, 25 + 25 * (255 - value) // 256, 50]


def test_shares_of_the_pixels():
    image = np.uint8([[[0, 0, 255], [255, 0, 255], [255, 0, 128], [255, 100, 255]]])
    h = cbir.color_histogram(image)
    assert (h[0], h[24]) == (0.25, 0.75)
    assert (h[25], h[25 + 9]) == (0.75, 0.25)
    assert (h[50 + 12], h[74]) == (0.25, 0.75)


@given(images, st.integers(2, 4))
def test_every_channel_sums_to_one_whatever_the_size_and_order_of_the_pixels(image, times):
    h = cbir.color_histogram(image)
    assert h.shape == (75,) and (h >= 0).all()
    np.testing.assert_allclose(h.reshape(3, 25).sum(1), 1)
    again = cbir.color_histogram(np.tile(image, (times, 1, 1))[::-1, ::-1])
    np.testing.assert_allclose(again, h)


@given(images, images)
def test_distance(a, b):
    """Two histograms share nothing in any channel at most: 2 a channel, 3 channels, 75 values."""
    a, b = cbir.color_histogram(a), cbir.color_histogram(b)
    d = cbir.histogram_distance(a, b)
    assert d == cbir.histogram_distance(b, a) and cbir.histogram_distance(a, a) == 0
    assert 0 <= d <= 6 / 75 + 1e-12
    np.testing.assert_allclose(d, np.abs(a - b).sum() / 75)


def test_the_greatest_distance_is_reached_and_distances_broadcast():
    grays = np.stack([cbir.color_histogram(one_color(i, i, i)) for i in (0, 100, 255)])
    table = cbir.histogram_distance(grays[:, None], grays)
    np.testing.assert_allclose(table, 0.08 * (1 - np.eye(3)))


# ---- the formula behind the published numbers -----------------------------------------------


def test_bins_of_ten_values():
    """Three bars of height 1 each, 2/75 apart for every one elsewhere; 10 and 19 share a bin."""
    query = one_color(10, 10, 10)
    colors = [(10, 10, 10), (19, 10, 10), (9, 10, 10), (20, 10, 9), (249, 249, 249)]
    d = cbir.published_distances(query, [one_color(*color) for color in colors])
    np.testing.assert_allclose(d * 75 / 2, [0, 0, 2, 4, 6])


def test_bars_are_cut_off_at_three_tenths():
    """Ten pixels: up to three of them a bar grows by a third, from there on it stays."""

    def image(n):
        return np.uint8([[[0, 0, 0]] * n + [[100, 0, 0]] * (10 - n)])

    for n in range(11):
        expected = min(1, n / 3) + 1 - min(1, (10 - n) / 3)
        assert cbir.published_distances(image(0), [image(n)])[0] * 75 / 2 == pytest.approx(expected)


def test_values_from_250_fall_into_the_next_channel():
    """R into G's first bin, G into B's first bin, which B's own zeros may have filled already."""
    red, green = one_color(255, 100, 100), one_color(100, 255, 100)

    def n_bars(query, image):
        return cbir.published_distances(query, [image])[0] * 75 / 2

    assert n_bars(red, one_color(100, 0, 100)) == pytest.approx(2)  # R's bar, G's bar
    assert n_bars(green, one_color(100, 100, 0)) == pytest.approx(2)  # G's bar, B's bar
    assert n_bars(one_color(250, 250, 100), red) == pytest.approx(2)
    assert n_bars(one_color(249, 0, 0), one_color(255, 0, 0)) == pytest.approx(1)


def test_blue_from_250_falls_into_the_next_retrieved_image():
    """Into R's first bin, by count; the first retrieved image and the query get nothing."""
    plain, blue = one_color(100, 100, 100), one_color(100, 100, 255)
    small, large = one_color(100, 100, 100, size=(1, 2)), one_color(100, 100, 100, size=(4, 10))

    def bars(query, retrieved):
        return (cbir.published_distances(query, retrieved) * 75 / 2).tolist()

    # lost bar; R's first bin; over
    assert bars(plain, [blue, plain, plain]) == pytest.approx([1, 1, 0])
    assert bars(plain, [plain, plain, blue]) == pytest.approx([0, 0, 1])
    assert bars(plain, [blue, small, plain]) == pytest.approx([1, 1, 0])  # 4 of 2 pixels: cut off
    assert bars(plain, [blue, large, plain]) == pytest.approx([1, 4 / 40 / 0.3, 0])
    assert bars(plain, [blue, blue, plain]) == pytest.approx([1, 2, 1])
    # the query's own blue is dropped
    assert bars(blue, [blue, blue, plain]) == pytest.approx([0, 1, 2])


@pytest.fixture
def published(paper):
    """Printed numbers and those of every formula, for `h` and `eta`: ten queries, five images."""
    names = pd.read_csv(paper / "thumbnails" / "manifest.csv").sort_values("position")
    printed = pd.read_csv(PAPER / "published_histogram_distances.csv")
    rows = []
    for (descriptor, query), row in names.groupby(["descriptor", "query"]):
        pictures = [Image.open(paper / "thumbnails" / file).convert("RGB") for file in row.file]
        first, *others = map(np.asarray, pictures)
        ours = {
            formula: cbir.published_distances(first, others, **switches)
            for formula, switches in FORMULAS.items()
        }
        about = {"descriptor": descriptor, "query": query, "position": range(1, 6)}
        rows.append(pd.DataFrame(about | ours))
    table = pd.concat(rows).merge(printed, on=["descriptor", "query", "position"])
    assert len(table) == 100
    return table


def test_the_published_numbers_and_their_order(published):
    """On thumbnails of 100 px, hence not exactly."""
    for _, rows in published.groupby("descriptor"):
        assert rows.published.corr(rows.distance) > 0.99
    means = published.groupby("descriptor")[["published", "distance"]].mean()
    assert means.published["eta"] < means.published["h"]
    np.testing.assert_allclose(means.distance[["h", "eta"]], [0.2541, 0.1893], atol=1e-4)
    np.testing.assert_allclose(means.published, means.distance, rtol=0.02)
    per_row = published.groupby(["query", "descriptor"])[["published", "distance"]].mean()
    winners = per_row.unstack("descriptor")
    assert (winners.published.idxmin(axis=1) == winners.distance.idxmin(axis=1)).all()


def test_only_both_oddities_give_the_published_numbers(published):
    """Mean error on the thumbnails: 1 % with both, several times as much without either."""
    error = {
        formula: (abs(published[formula] - published.distance) / published.distance).mean()
        for formula in FORMULAS
    }
    assert error.pop("published") < min(0.02, min(error.values()) / 2)


def test_the_published_formula_without_its_oddities():
    """Without overflow 255 is in the last bin, like 240; without clipping bars grow on."""
    white, light, dark = one_color(255, 255, 255), one_color(240, 240, 240), one_color(0, 0, 0)
    assert cbir.published_distances(light, [white, light], overflow=False).tolist() == [0, 0]
    assert (cbir.published_distances(light, [white, light]) > 0).all()
    neither = cbir.published_distances(light, [dark], overflow=False, clip=False)
    assert neither[0] == pytest.approx(2 / 75 * 6 / 0.3)
    assert cbir.published_distances(light, [dark], overflow=False)[0] == pytest.approx(2 / 75 * 6)


def test_without_both_the_published_formula_is_a_multiple_of_the_printed_one():
    """Where bins of ten values and of 256 / 25 hold the same: at multiples of 51, say."""
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    a, b = (rng.integers(0, 5, (6, 7, 3)).astype(np.uint8) * 51 for rng in rngs)
    expected = cbir.histogram_distance(cbir.color_histogram(a), cbir.color_histogram(b)) * 2 / 0.3
    neither = cbir.published_distances(a, [b], overflow=False, clip=False)
    assert neither[0] == pytest.approx(expected)


# ---- errors ---------------------------------------------------------------------------------


SHAPES = [(4, 4), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3), (0, 4, 3)]
NO_IMAGES = [np.zeros(shape, np.uint8) for shape in SHAPES]
NO_IMAGES += [np.zeros((4, 4, 3), dtype) for dtype in (float, np.int64, bool)] + [None]


@pytest.mark.parametrize("image", NO_IMAGES, ids=range(len(NO_IMAGES)))
def test_what_is_no_rgb_image_is_refused(image):
    good = one_color(1, 2, 3)
    for call in (
        lambda: cbir.color_histogram(image),
        lambda: cbir.published_distances(image, [good]),
        lambda: cbir.published_distances(good, [good, image]),
    ):
        with pytest.raises(ValueError, match="expected an RGB image"):
            call()
