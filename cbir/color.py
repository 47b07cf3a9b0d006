"""RGB histograms and their distances: Figs 7-10 and Table I."""

import numpy as np

BINS = 25  # per channel


def _check(rgb):
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8, got {rgb.shape} of {rgb.dtype}")
    return rgb.reshape(-1, 3)


def color_histogram(rgb):
    """Colour histogram as the paper describes it: (H, W, 3) uint8 -> (75,) float64.

    25 equal bins over 0..255 for R, then G, then B; every channel sums to 1. Raises ValueError for anything but (H, W, 3) uint8.
    """
    bins = _check(rgb).astype(np.int64) * BINS // 256 + BINS * np.arange(3)  # (pixels, 3), channel c in 25c..25c+24
    return np.bincount(bins.ravel(), minlength=3 * BINS) / len(bins)


def histogram_distance(a, b):
    """The distance as printed (Sec. IV): L1 over the number of dimensions, of (..., 75) histograms; broadcasts."""
    return np.abs(np.asarray(a) - np.asarray(b)).mean(axis=-1)


def published_distances(query, retrieved):
    """The formula behind the numbers printed in Figs 7-10 and Table I, reconstructed from the published pictures.

    query: (H, W, 3) uint8; retrieved: the row's images in the order shown, of any sizes. Returns (len(retrieved),) float64.
    It differs from the text in three ways: a pixel counts in bin value // 10 of its channel without a bounds check, so that
    250..255 of R and of G fall into the next channel's first bin, and of B into the first bin of the row's next retrieved
    image; bars are cut off at 0.3 of the pixels, and set to 1 there; the sum is divided by 37.5.
    """
    h_query, _ = _clipped(query, 0)
    distances, overflow = [], 0
    for image in retrieved:
        h, overflow = _clipped(image, overflow)
        distances.append(2 / (3 * BINS) * np.abs(h_query - h).sum())
    return np.array(distances)


def _clipped(rgb, overflow):
    """Bars (75,) of one image, cut at 1, and the count that spills over its end into the next one's first bin."""
    pixels = _check(rgb)
    counts = np.bincount((pixels // 10 + BINS * np.arange(3)).ravel(), minlength=3 * BINS + 1).astype(float)
    counts[0] += overflow
    return np.minimum(1, counts[:3 * BINS] / len(pixels) / 0.3), counts[3 * BINS]
