"""Colour histograms, and the formula behind the published numbers against the published numbers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import stats

import cbir
from cbir.color import FORMULAS
from cbir.tables import PAPER

images = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)))


def one_color(*color, size=(2, 2)):
    return np.full((*size, 3), color, np.uint8)


# ---- as the paper describes it ----------------------------------------------------------------------------------------------

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


@given(images)
def test_every_channel_sums_to_one(image):
    h = cbir.color_histogram(image)
    assert h.shape == (75,) and (h >= 0).all()
    np.testing.assert_allclose(h.reshape(3, 25).sum(1), 1)


@given(images, st.integers(2, 4))
def test_size_and_order_of_pixels_do_not_matter(image, times):
    np.testing.assert_allclose(cbir.color_histogram(np.tile(image, (times, 1, 1))[::-1, ::-1]), cbir.color_histogram(image))


@given(images, images)
def test_distance(a, b):
    """Two histograms share nothing in any channel at most: 2 a channel, 3 channels, 75 values."""
    a, b = cbir.color_histogram(a), cbir.color_histogram(b)
    d = cbir.histogram_distance(a, b)
    assert d == cbir.histogram_distance(b, a) and cbir.histogram_distance(a, a) == 0
    assert 0 <= d <= 6 / 75 + 1e-12
    np.testing.assert_allclose(d, np.abs(a - b).sum() / 75)


def test_the_greatest_distance_is_reached():
    black, white = cbir.color_histogram(one_color(0, 0, 0)), cbir.color_histogram(one_color(255, 255, 255))
    assert cbir.histogram_distance(black, white) == pytest.approx(0.08)


def test_distances_broadcast():
    a = np.stack([cbir.color_histogram(one_color(i, i, i)) for i in (0, 100, 200)])
    table = cbir.histogram_distance(a[:, None], a)
    assert table.shape == (3, 3) and (np.diag(table) == 0).all() and (table[~np.eye(3, dtype=bool)] > 0).all()


# ---- the formula behind the published numbers -------------------------------------------------------------------------------

def test_bins_of_ten_values():
    """Three bars of height 1 each, 2/75 apart for every one that is elsewhere; 9 and 10 are neighbours, 10 and 19 the same."""
    query = one_color(10, 10, 10)
    d = cbir.published_distances(query, [query, one_color(19, 10, 10), one_color(9, 10, 10), one_color(20, 10, 9), one_color(249, 249, 249)])
    np.testing.assert_allclose(d * 75 / 2, [0, 0, 2, 4, 6])


def test_bars_are_cut_off_at_three_tenths():
    """Ten pixels: up to three of them a bar grows by a third, from there on it stays."""
    def image(n):
        return np.uint8([[[0, 0, 0]] * n + [[100, 0, 0]] * (10 - n)])
    for n in range(11):
        expected = min(1, n / 3) + 1 - min(1, (10 - n) / 3)
        assert cbir.published_distances(image(0), [image(n)])[0] * 75 / 2 == pytest.approx(expected)


def test_values_from_250_fall_into_the_next_channel():
    """R into G's first bin and G into B's first bin, which B's own zeros may have filled already."""
    bars = {"red": (255, 100, 100), "green": (100, 255, 100), "both": (250, 250, 100)}
    same = {"red": one_color(100, 0, 100), "green": one_color(100, 100, 0)}
    # 255 of R: no bar of R's own, one in G's first bin
    assert cbir.published_distances(one_color(*bars["red"]), [same["red"]])[0] * 75 / 2 == pytest.approx(2)       # R's bar, G's bar
    assert cbir.published_distances(one_color(*bars["green"]), [same["green"]])[0] * 75 / 2 == pytest.approx(2)   # G's bar, B's bar
    assert cbir.published_distances(one_color(*bars["both"]), [one_color(*bars["red"])])[0] * 75 / 2 == pytest.approx(2)
    assert cbir.published_distances(one_color(249, 0, 0), [one_color(255, 0, 0)])[0] * 75 / 2 == pytest.approx(1)


def test_blue_from_250_falls_into_the_next_retrieved_image():
    """Into R's first bin, by the count of pixels; the first retrieved image and the query get nothing."""
    plain, blue = one_color(100, 100, 100), one_color(100, 100, 255)
    small, large = one_color(100, 100, 100, size=(1, 2)), one_color(100, 100, 100, size=(4, 10))
    def bars(query, retrieved):
        return (cbir.published_distances(query, retrieved) * 75 / 2).tolist()
    assert bars(plain, [blue, plain, plain]) == pytest.approx([1, 1, 0])                  # lost bar; R's first bin; over
    assert bars(plain, [plain, plain, blue]) == pytest.approx([0, 0, 1])
    assert bars(plain, [blue, small, plain]) == pytest.approx([1, 1, 0])                  # 4 of 2 pixels: cut off
    assert bars(plain, [blue, large, plain]) == pytest.approx([1, 4 / 40 / 0.3, 0])
    assert bars(plain, [blue, blue, plain]) == pytest.approx([1, 2, 1])
    assert bars(blue, [blue, blue, plain]) == pytest.approx([0, 1, 2])                    # the query's own blue is dropped


def test_published_distances_of_nothing():
    assert cbir.published_distances(one_color(1, 2, 3), []).shape == (0,)


@pytest.fixture
def published(paper):
    """Printed numbers and the formula's, for `h` and `eta`: ten queries, five images each."""
    names = pd.read_csv(paper / "thumbnails" / "manifest.csv")
    printed = pd.read_csv(PAPER / "published_histogram_distances.csv")
    rows = []
    for (descriptor, query), row in names.sort_values("position").groupby(["descriptor", "query"]):
        query_image, *retrieved = (np.asarray(Image.open(paper / "thumbnails" / f).convert("RGB")) for f in row.file)
        rows += [(descriptor, query, position, d) for position, d in enumerate(cbir.published_distances(query_image, retrieved), start=1)]
    ours = pd.DataFrame(rows, columns=["descriptor", "query", "position", "ours"])
    table = ours.merge(printed, on=["descriptor", "query", "position"])
    assert len(table) == 100
    return table


def test_the_published_numbers(published):
    """On thumbnails of 100 px, hence not exactly."""
    for descriptor in ("h", "eta"):
        rows = published[published.descriptor == descriptor]
        assert rows.ours.corr(rows.distance) > 0.99
    assert (np.abs(published.ours - published.distance) / published.distance).mean() < 0.03


def test_the_published_order(published):
    means = published.groupby("descriptor")[["ours", "distance"]].mean()
    assert means.ours["eta"] < means.ours["h"]
    np.testing.assert_allclose(means.distance[["h", "eta"]], [0.2541, 0.1893], atol=1e-4)
    np.testing.assert_allclose(means.ours, means.distance, rtol=0.02)
    winners = published.groupby(["query", "descriptor"])[["ours", "distance"]].mean().unstack("descriptor")
    assert (winners.ours.idxmin(axis=1) == winners.distance.idxmin(axis=1)).all()


def test_the_published_formula_without_its_oddities():
    """Without overflow 255 is in the last bin, like 240; without clipping bars grow on."""
    white, light, dark = one_color(255, 255, 255), one_color(240, 240, 240), one_color(0, 0, 0)
    assert cbir.published_distances(light, [white, light], overflow=False).tolist() == [0, 0]
    assert (cbir.published_distances(light, [white, light]) > 0).all()
    assert cbir.published_distances(light, [dark], overflow=False, clip=False)[0] == pytest.approx(2 / 75 * 6 / 0.3)
    assert cbir.published_distances(light, [dark], overflow=False)[0] == pytest.approx(2 / 75 * 6)


def test_without_both_the_published_formula_is_a_multiple_of_the_printed_one():
    """Where bins of ten values and of 256 / 25 hold the same: at multiples of 51, say."""
    a, b = (np.random.default_rng(seed).integers(0, 5, (6, 7, 3)).astype(np.uint8) * 51 for seed in (0, 1))
    expected = cbir.histogram_distance(cbir.color_histogram(a), cbir.color_histogram(b)) * 2 / 0.3
    assert cbir.published_distances(a, [b], overflow=False, clip=False)[0] == pytest.approx(expected)


def test_only_both_oddities_give_the_published_numbers(paper):
    """Mean error on the thumbnails: with overflow and clipping 1 %, without either of them several times as much."""
    names, printed = pd.read_csv(paper / "thumbnails" / "manifest.csv"), pd.read_csv(PAPER / "published_histogram_distances.csv")
    error = dict.fromkeys(FORMULAS, 0.0)
    for (descriptor, query), row in names.sort_values("position").groupby(["descriptor", "query"]):
        first, *others = (np.asarray(Image.open(paper / "thumbnails" / f).convert("RGB")) for f in row.file)
        numbers = printed[(printed.descriptor == descriptor) & (printed["query"] == query)].sort_values("position").distance
        for formula, switches in FORMULAS.items():
            error[formula] += float((abs(cbir.published_distances(first, others, **switches) - numbers) / numbers).mean()) / 20
    assert error["published"] < 0.02 and min(error[f] for f in FORMULAS if f != "published") > 2 * error["published"]


# ---- Parzen windows ---------------------------------------------------------------------------------------------------------

def test_density_is_a_mean_of_gaussians():
    """Pixel by pixel, with scipy's density."""
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    expected = [np.mean([stats.norm.pdf(np.arange(256), loc=float(v), scale=3.5) for v in image[..., c].ravel()], axis=0) for c in range(3)]
    np.testing.assert_allclose(cbir.parzen_density(image, 3.5), expected, atol=1e-15)


@given(images, st.floats(1, 30))
def test_density_sums_to_one_but_for_the_ends(image, bandwidth):
    density = cbir.parzen_density(image, bandwidth)
    assert density.shape == (3, 256) and (density >= 0).all()
    total = density.sum(axis=1)
    assert (total <= 1 + 1e-7).all() and (total > 0.5).all()
    if bandwidth < 10 and image.min() >= 64 and image.max() <= 191:
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_half_a_kernel_is_lost_at_an_end():
    total = cbir.parzen_density(one_color(0, 255, 128), 4).sum(axis=1)
    assert total == pytest.approx([0.5 + stats.norm.pdf(0, scale=4) / 2, 0.5 + stats.norm.pdf(0, scale=4) / 2, 1])


def test_overlap_of_two_gaussians():
    """Two equal Gaussians d apart overlap by 2 Phi(-d / 2 sigma); here d = 0, 6 and much in the three channels."""
    overlap = cbir.parzen_overlap(one_color(100, 100, 60), one_color(100, 106, 200, size=(3, 5)), bandwidth=3)
    assert isinstance(overlap, float)
    assert overlap == pytest.approx((1 + 2 * stats.norm.cdf(-1) + 0) / 3, abs=2e-3)


@given(images, images)
def test_overlap(a, b):
    overlap = cbir.parzen_overlap(a, b)
    assert overlap == cbir.parzen_overlap(b, a) and 0 <= overlap <= min(cbir.parzen_overlap(a, a), cbir.parzen_overlap(b, b))
    assert cbir.parzen_overlap(a, a) == pytest.approx(cbir.parzen_density(a).sum() / 3)


def test_overlaps_broadcast():
    densities = np.stack([cbir.parzen_density(one_color(i, i, i)) for i in (50, 52, 200)])
    table = cbir.density_overlap(densities[:, None], densities)
    assert table.shape == (3, 3) and table[0, 1] == cbir.parzen_overlap(one_color(50, 50, 50), one_color(52, 52, 52))
    assert table[0, 2] < 1e-12 < table[0, 1] < table[0, 0]


@pytest.mark.parametrize("bandwidth", [0, 0.5, -2, np.nan])
def test_a_bandwidth_below_a_level_is_refused(bandwidth):
    with pytest.raises(ValueError, match="below 1 level"):
        cbir.parzen_density(one_color(1, 2, 3), bandwidth)


def test_the_published_overlaps(paper):
    """The default bandwidth, on thumbnails of 100 px; half of it and tenfold are further away."""
    names = pd.read_csv(paper / "thumbnails" / "manifest.csv").sort_values("position")
    pictures = {f: np.asarray(Image.open(paper / "thumbnails" / f).convert("RGB")) for f in names.file}
    query = names[names.position == 0].set_index(["descriptor", "query"]).file
    found = names[names.position > 0].merge(pd.read_csv(PAPER / "published_parzen_overlaps.csv"), on=["descriptor", "query", "position"])
    assert len(found) == 100

    def ours(**bandwidth):
        return found.apply(lambda r: cbir.parzen_overlap(pictures[query[r.descriptor, r.query]], pictures[r.file], **bandwidth), axis=1)

    by_default = ours()
    assert by_default.corr(found.overlap) > 0.99 and (by_default - found.overlap).abs().mean() < 0.025
    assert max(ours(bandwidth=b).corr(found.overlap) for b in (1, 20)) < by_default.corr(found.overlap)


# ---- errors -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("image", [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8),
    np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 3), bool), np.zeros((0, 4, 3), np.uint8), None],
    ids=lambda image: f"{getattr(image, 'shape', '')} {getattr(image, 'dtype', '')}")
def test_what_is_no_rgb_image_is_refused(image):
    good = one_color(1, 2, 3)
    for call in (lambda: cbir.color_histogram(image), lambda: cbir.published_distances(image, [good]),
                 lambda: cbir.published_distances(good, [good, image]), lambda: cbir.parzen_density(image)):
        with pytest.raises(ValueError, match="expected an RGB image"):
            call()
