"""Colour histograms, and the formula behind the published numbers against the published numbers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import cbir
from cbir.tables import PAPER

FORMULAS = {"published": {}, "no overflow": dict(overflow=False), "no clipping": dict(clip=False)}
FORMULAS["neither"] = dict(overflow=False, clip=False)  # of `published_distances`' two oddities
images = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)))
SHAPES = [(4, 4), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3), (0, 4, 3)]
NO_IMAGES = [np.zeros(shape, np.uint8) for shape in SHAPES]
NO_IMAGES += [np.zeros((4, 4, 3), dtype) for dtype in (float, np.int64, bool)] + [None]


def one_color(*color, size=(2, 2)):
    return np.full((*size, 3), color, np.uint8)


def test_bins_and_shares_of_the_pixels():
    """25 equal bins over 0..255: the value v lies in floor(25 v / 256)."""
    for value in range(256):
        h = cbir.color_histogram(one_color(value, 255 - value, 0))
        assert np.flatnonzero(h).tolist() == [25 * value // 256, 25 + 25 * (255 - value) // 256, 50]
    image = np.uint8([[[0, 0, 255], [255, 0, 255], [255, 0, 128], [255, 100, 255]]])
    shares = cbir.color_histogram(image)[[0, 24, 25, 25 + 9, 50 + 12, 74]]
    assert shares.tolist() == [0.25, 0.75, 0.75, 0.25, 0.25, 0.75]


@given(images, st.integers(2, 4))
def test_every_channel_sums_to_one_whatever_the_size_and_order_of_the_pixels(image, times):
    h = cbir.color_histogram(image)
    assert h.shape == (75,) and (h >= 0).all()
    np.testing.assert_allclose(h.reshape(3, 25).sum(1), 1)
    again = cbir.color_histogram(np.tile(image, (times, 1, 1))[::-1, ::-1])
    np.testing.assert_allclose(again, h)


@given(images, images)
def test_distance(a, b):
    """At most 6 / 75: two histograms that share nothing differ by 2 per channel."""
    a, b = cbir.color_histogram(a), cbir.color_histogram(b)
    d = cbir.histogram_distance(a, b)
    assert d == cbir.histogram_distance(b, a) and cbir.histogram_distance(a, a) == 0
    assert 0 <= d <= 6 / 75 + 1e-12
    np.testing.assert_allclose(d, np.abs(a - b).sum() / 75)
    table = cbir.histogram_distance(np.stack([a, b])[:, None], [a, b])
    np.testing.assert_allclose(table, [[0, d], [d, 0]])


def n_bars(query, *retrieved, **switches):
    """Distances in units of one bar that is elsewhere."""
    return pytest.approx(cbir.published_distances(query, retrieved, **switches) * 75 / 2)


def test_bars_of_ten_values_are_cut_off_at_three_tenths():
    """Three bars of height 1 each; 10 and 19 share a bin."""
    colors = [(10, 10, 10), (19, 10, 10), (9, 10, 10), (20, 10, 9), (249, 249, 249)]
    assert [0, 0, 2, 4, 6] == n_bars(one_color(10, 10, 10), *(one_color(*c) for c in colors))
    # Ten pixels: up to three of them a bar grows by a third, from there on it stays.
    images = [np.uint8([[[0, 0, 0]] * n + [[100, 0, 0]] * (10 - n)]) for n in range(11)]
    for n, image in enumerate(images):
        assert [min(1, n / 3) + 1 - min(1, (10 - n) / 3)] == n_bars(images[0], image)


def test_values_from_250_fall_into_the_next_channel():
    """R into G's first bin, G into B's first bin, which B's own zeros may have filled already."""
    red, green = one_color(255, 100, 100), one_color(100, 255, 100)
    assert [2] == n_bars(red, one_color(100, 0, 100))  # R's bar, G's bar
    assert [2] == n_bars(green, one_color(100, 100, 0))  # G's bar, B's bar
    assert [2] == n_bars(one_color(250, 250, 100), red)
    assert [1] == n_bars(one_color(249, 0, 0), one_color(255, 0, 0))


def test_blue_from_250_falls_into_the_next_retrieved_image():
    """Into R's first bin, by count; the first retrieved image and the query get nothing."""
    plain, blue = one_color(100, 100, 100), one_color(100, 100, 255)
    small, large = one_color(100, 100, 100, size=(1, 2)), one_color(100, 100, 100, size=(4, 10))
    assert [1, 1, 0] == n_bars(plain, blue, plain, plain)  # lost bar; R's first bin; over
    assert [0, 0, 1] == n_bars(plain, plain, plain, blue)
    assert [1, 1, 0] == n_bars(plain, blue, small, plain)  # 4 of 2 pixels: cut off
    assert [1, 4 / 40 / 0.3, 0] == n_bars(plain, blue, large, plain)
    assert [1, 2, 1] == n_bars(plain, blue, blue, plain)
    assert [0, 1, 2] == n_bars(blue, blue, blue, plain)  # the query's own blue is dropped


def test_the_published_numbers_and_their_order(paper):
    """Ten queries by `h` and `eta`, five images each; on thumbnails, hence not exactly."""
    names = pd.read_csv(paper / "thumbnails" / "manifest.csv").sort_values("position")
    rows = []
    for (descriptor, query), row in names.groupby(["descriptor", "query"]):
        first, *others = (cbir.open_image(paper / "thumbnails" / file) for file in row.file)
        first, others = np.asarray(first), [*map(np.asarray, others)]
        ours = {f: cbir.published_distances(first, others, **on) for f, on in FORMULAS.items()}
        about = {"descriptor": descriptor, "query": query, "position": range(1, 6)}
        rows.append(pd.DataFrame(about | ours))
    printed = pd.read_csv(PAPER / "published_histogram_distances.csv")
    published = pd.concat(rows).merge(printed, on=["descriptor", "query", "position"])
    assert len(published) == 100
    for _, rows in published.groupby("descriptor"):
        assert rows.published.corr(rows.distance) > 0.99
    means = published.groupby("descriptor")[["published", "distance"]].mean()
    np.testing.assert_allclose(means.distance[["h", "eta"]], [0.2541, 0.1893], atol=1e-4)
    np.testing.assert_allclose(means.published, means.distance, rtol=0.02)
    per_row = published.groupby(["query", "descriptor"])[["published", "distance"]].mean()
    winners = per_row.unstack("descriptor")
    assert (winners.published.idxmin(axis=1) == winners.distance.idxmin(axis=1)).all()
    # Mean error: 1 % with both oddities, several times as much without either.
    printed = published.distance
    error = {f: (abs(published[f] - printed) / printed).mean() for f in FORMULAS}
    assert error.pop("published") < min(0.02, min(error.values()) / 2)


def test_the_published_formula_without_its_oddities():
    """Without overflow 255 is in the last bin, like 240; without clipping bars grow on."""
    white, light, dark = one_color(255, 255, 255), one_color(240, 240, 240), one_color(0, 0, 0)
    assert cbir.published_distances(light, [white, light], overflow=False).tolist() == [0, 0]
    assert (cbir.published_distances(light, [white, light]) > 0).all()
    assert [6 / 0.3] == n_bars(light, dark, overflow=False, clip=False)
    assert [6] == n_bars(light, dark, overflow=False)


@pytest.mark.parametrize("image", NO_IMAGES, ids=range(len(NO_IMAGES)))
def test_what_is_no_rgb_image_is_refused(image):
    good = one_color(1, 2, 3)
    with pytest.raises(ValueError, match="expected an RGB image"):
        cbir.color_histogram(image)
    for query, retrieved in [(image, [good]), (good, [good, image])]:
        with pytest.raises(ValueError, match="expected an RGB image"):
            cbir.published_distances(query, retrieved)
