"""RGB histograms (Figs 7-10, Table I), and the formula behind the printed distances."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import ArrayLike, NDArray

Image: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Floats: TypeAlias = NDArray[np.float64]

BINS = 25  # per channel


def color_histogram(rgb: Image) -> Floats:
    """The colour histogram: 25 equal bins over 0..255 for R, then G, then B.

    Returns (75,) float64; every channel sums to 1.
    """
    counts = np.reshape(PIL.Image.fromarray(_checked(rgb)).histogram(), (3, 256))
    first_levels = -(-256 * np.arange(BINS) // BINS)  # of bin b: 256 b / 25, rounded up
    return np.add.reduceat(counts, first_levels, axis=1).ravel() / counts[0].sum()


def histogram_distance(a: ArrayLike, b: ArrayLike) -> Floats:
    """The histogram distance (Sec. IV): L1 / 75 of histograms (..., 75); broadcasts."""
    return np.abs(np.asarray(a) - np.asarray(b)).mean(axis=-1)


def published_distances(
    query: Image, retrieved: Iterable[Image], overflow: bool = True, clip: bool = True
) -> Floats:
    """The formula behind the numbers printed in Figs 7-10 and Table I.

    It was reconstructed from the published pictures, and differs from the text in three ways. A
    pixel counts in bin value // 10 of its channel without a bounds check: 250..255 of R and of G
    fall into the next channel's first bin, of B into the first bin of the next retrieved image.
    Bars are cut off at 0.3 of the pixels, and set to 1 there. The sum is divided by 37.5.

    retrieved: the query's K images in the order shown. overflow=False leaves 250..255 in the last
    bin of their own channel; clip=False lets bars grow beyond 1. Returns (K,) float64.
    """
    query_bars, _ = _bars(query, 0, overflow, clip)
    distances = []
    spilt = 0.0
    for image in retrieved:
        bars, spilt = _bars(image, spilt, overflow, clip)
        distances.append(2 / (3 * BINS) * np.abs(query_bars - bars).sum())
    return np.array(distances)


def _bars(rgb: Image, spilt: float, overflow: bool, clip: bool) -> tuple[Floats, float]:
    """Bars (75,) of an image, and the count that spills over into the next one's first bin."""
    pixels = _checked(rgb).reshape(-1, 3)
    bins = pixels // 10 if overflow else np.minimum(pixels // 10, BINS - 1)
    bins = bins + BINS * np.arange(3)
    counts = np.bincount(bins.ravel(), minlength=3 * BINS + 1).astype(float)
    counts[0] += spilt
    bars = counts[: 3 * BINS] / len(pixels) / 0.3
    return np.minimum(bars, 1 if clip else np.inf), counts[3 * BINS]


def _checked(image: ArrayLike) -> Image:
    """An RGB image as an array; ValueError for anything but (H, W, 3) uint8."""
    rgb = np.asarray(image)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        got = f"{rgb.shape} of {rgb.dtype}"
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8, got {got}")
    return rgb
