"""RGB histograms and their distances: Figs 7-10 and Table I; the overlap of kernel densities, as in the authors' later figures."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 25  # per channel
# `published_distances` and what is left of it without its two oddities.
FORMULAS: dict[str, dict[str, bool]] = {"published": {}, "no overflow": {"overflow": False}, "no clipping": {"clip": False}, "neither": {"overflow": False, "clip": False}}


def _check(image: ArrayLike) -> NDArray[np.uint8]:
    rgb = np.asarray(image)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8, got {rgb.shape} of {rgb.dtype}")
    return rgb.reshape(-1, 3)


def color_histogram(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colour histogram as the paper describes it: (H, W, 3) uint8 -> (75,) float64.

    25 equal bins over 0..255 for R, then G, then B; every channel sums to 1. Raises ValueError for anything but (H, W, 3) uint8.
    """
    pixels, levels = _check(rgb), np.zeros((3, 256), np.int64)
    for i in range(0, len(pixels), 2 ** 20):  # in pieces: numpy counts in eight bytes a value
        levels += [np.bincount(channel, minlength=256) for channel in pixels[i:i + 2 ** 20].T]
    return np.add.reduceat(levels, -(-256 * np.arange(BINS) // BINS), axis=1).ravel() / len(pixels)  # a bin begins at ceil(256 b / 25)


def histogram_distance(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """The distance as printed (Sec. IV): L1 over the number of dimensions, of (..., 75) histograms; broadcasts."""
    return np.abs(np.asarray(a) - np.asarray(b)).mean(axis=-1)


def published_distances(query: NDArray[np.uint8], retrieved: Iterable[NDArray[np.uint8]], overflow: bool = True, clip: bool = True) -> NDArray[np.float64]:
    """The formula behind the numbers printed in Figs 7-10 and Table I, reconstructed from the published pictures.

    query: (H, W, 3) uint8; retrieved: the row's images in the order shown, of any sizes. Returns (len(retrieved),) float64.
    It differs from the text in three ways: a pixel counts in bin value // 10 of its channel without a bounds check, so that
    250..255 of R and of G fall into the next channel's first bin, and of B into the first bin of the row's next retrieved
    image; bars are cut off at 0.3 of the pixels, and set to 1 there; the sum is divided by 37.5.
    overflow=False leaves 250..255 in the last bin of their own channel; clip=False lets bars grow beyond 1.
    """
    h_query, _ = _bars(query, 0, overflow, clip)
    distances, spilt = [], 0.0
    for image in retrieved:
        h, spilt = _bars(image, spilt, overflow, clip)
        distances.append(2 / (3 * BINS) * np.abs(h_query - h).sum())
    return np.array(distances)


def _bars(rgb: NDArray[np.uint8], spilt: float, overflow: bool, clip: bool) -> tuple[NDArray[np.float64], float]:
    """Bars (75,) of one image, 1 for 0.3 of the pixels, and the count that spills over its end into the next one's first bin."""
    pixels = _check(rgb)
    bins = pixels // 10 if overflow else np.minimum(pixels // 10, BINS - 1)
    counts = np.bincount((bins + BINS * np.arange(3)).ravel(), minlength=3 * BINS + 1).astype(float)
    counts[0] += spilt
    return np.minimum(1 if clip else np.inf, counts[:3 * BINS] / len(pixels) / 0.3), counts[3 * BINS]


def parzen_density(rgb: NDArray[np.uint8], bandwidth: float = 2.0) -> NDArray[np.float64]:
    """Parzen-window estimate of the density of every channel's values, at the 256 levels: (H, W, 3) uint8 -> (3, 256) float64.

    The kernel is a Gaussian; bandwidth: its standard deviation, in levels. What a kernel leaves outside 0..255 is lost: a channel
    sums to 1 or, with values near the ends, to less. Raises ValueError for anything but (H, W, 3) uint8, and for a bandwidth below
    1, where a sum over whole levels is no integral any more.
    """
    if not bandwidth >= 1:
        raise ValueError(f"bandwidth = {bandwidth} is below 1 level")
    shares = np.stack([np.bincount(values, minlength=256) for values in _check(rgb).T]) / (np.size(rgb) / 3)
    levels = np.arange(256)
    kernel = np.exp(-((levels[:, None] - levels) / bandwidth) ** 2 / 2) / (bandwidth * np.sqrt(2 * np.pi))
    return shares @ kernel


def density_overlap(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Mean over the channels of the overlap (the integral of the smaller one) of densities (..., 3, 256); broadcasts."""
    return np.minimum(a, b).sum(axis=-1).mean(axis=-1)


def parzen_overlap(a: NDArray[np.uint8], b: NDArray[np.uint8], bandwidth: float = 2.0) -> float:
    """How alike two images (H, W, 3) uint8 of any sizes are in colour: `density_overlap` of their `parzen_density`; higher is more alike.

    The authors' later figures print such numbers, but neither kernel nor bandwidth. Of Gaussian kernels, standard deviations near 2
    come closest: on 100-px thumbnails of the published pictures the 100 printed numbers of h and eta come out with correlation
    0.995 and a mean error of 0.02. Densities that sum to 1 in spite of the ends give 0.978.
    """
    return float(density_overlap(parzen_density(a, bandwidth), parzen_density(b, bandwidth)))
