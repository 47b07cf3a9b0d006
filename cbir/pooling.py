"""The usual alternatives: the last block pooled into one vector; unit length and whitening.

Every function of `POOLINGS` takes the blocks [y_1..y_N], tensors (B, C_m, H_m, W_m) >= 0, and
returns (B, D) float32 on their device. Most papers then normalise (L2), PCA-whiten and normalise
again. Whitening is fitted to a database, so it is done apart: `l2_normalize`, `pca_whitening`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

Pooling = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def l2_normalize(rows: ArrayLike, parts: Sequence[int] | None = None) -> NDArray[np.floating]:
    """Divides every row of (N, D), or every part of a row, by its L2 norm; zeros and NaN stay.

    `parts` are the widths of the parts, ValueError if their sum is not D. The dtype stays.
    """
    rows = np.asarray(rows)
    widths = [rows.shape[1]] if parts is None else list(parts)
    if sum(widths) != rows.shape[1]:
        raise ValueError(f"parts of {widths} dimensions do not make {rows.shape[1]}")
    pieces = np.split(rows, np.cumsum(widths)[:-1], axis=1)
    norms = [np.linalg.norm(piece, axis=1, keepdims=True) for piece in pieces]
    units = [piece / np.where(norm > 0, norm, 1) for piece, norm in zip(pieces, norms)]
    return np.concatenate(units, axis=1)


class Whitening(NamedTuple):
    """A fitted projection: `mean` (D,) and `matrix` (D, dims), float32."""

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def __call__(self, rows: ArrayLike) -> NDArray[np.floating]:
        """Projects rows: (rows - mean) @ matrix, (N, D) -> (N, dims)."""
        return (np.asarray(rows) - self.mean) @ self.matrix


def pca_whitening(rows: ArrayLike, dims: int | None = None) -> Whitening:
    """PCA-whitening: principal components, each divided by its standard deviation.

    H. Jegou, O. Chum, "Negative Evidences and Co-occurrences in Image Retrieval: The Benefit of PCA
    and Whitening", ECCV 2012. The standard deviation is over N - 1.

    Args:
        rows: (N, D) float to fit to; rows with NaN are left out.
        dims: components to keep, those of the greatest variance first; None for all that the
            rows span (N - 1 at most).

    Raises:
        ValueError: the rows do not vary at all.
    """
    rows = np.asarray(rows)
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    if len(rows) < 2 or not np.ptp(rows, axis=0).any():
        raise ValueError(f"{len(rows)} rows without variance cannot be whitened")
    mean = rows.mean(axis=0)
    centred = rows - mean
    if len(rows) < rows.shape[1]:  # the smaller one of two matrices with the same eigenvalues
        values, vectors = np.linalg.eigh(centred @ centred.T)
        smallest = values[-1] * np.finfo(float).eps
        components = centred.T @ (vectors / np.sqrt(np.maximum(values, smallest)))
    else:
        values, components = np.linalg.eigh(centred.T @ centred)
    varies = values > values[-1] * (max(rows.shape) * np.finfo(np.float32).eps) ** 2
    kept = np.flatnonzero(varies)[::-1][:dims]
    matrix = components[:, kept] * np.sqrt((len(rows) - 1) / values[kept])
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def average(ys: Sequence[torch.Tensor]) -> torch.Tensor:
    """Averages every channel of every block, (B, sum C_m): Eq. 14 with q = 0."""
    return torch.cat([y.float().mean(dim=(2, 3)) for y in ys], dim=1)


def spoc(ys: Sequence[torch.Tensor]) -> torch.Tensor:
    """SPoC: sums of y_N over the positions, those near the centre weighing more, (B, C_N).

    A. Babenko, V. Lempitsky, "Aggregating Deep Convolutional Features for Image Retrieval", ICCV
    2015. The weight is a Gaussian around the centre of the map. Its sigma is a third of the
    distance from the centre to the nearest border.
    """
    y = ys[-1].float()
    height, width = y.shape[2:]
    i = torch.arange(height, device=y.device) - (height - 1) / 2
    j = torch.arange(width, device=y.device) - (width - 1) / 2
    sigma = min(height, width) / 2 / 3
    weight = torch.exp(-(i[:, None] ** 2 + j**2) / (2 * sigma**2))  # (H_N, W_N)
    return torch.einsum("ij,bkij->bk", weight, y)


def mac(ys: Sequence[torch.Tensor]) -> torch.Tensor:
    """MAC: the maximum of every channel of y_N, (B, C_N).

    A. S. Razavian et al., "Visual Instance Retrieval with Deep Convolutional Networks", ITE Trans.
    MTA 2016. The name is from R-MAC's paper.
    """
    return ys[-1].float().amax(dim=(2, 3))


def gem(ys: Sequence[torch.Tensor], p: float = 3) -> torch.Tensor:
    """GeM: the generalised mean (mean of y^p)^(1/p) of every channel of y_N, (B, C_N).

    p = 1 is the mean, p -> infinity MAC. F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN Image
    Retrieval with No Human Annotation", TPAMI 2019. There p may be learned, and comes out near 3;
    so is the whitening.
    """
    return (ys[-1].float() ** p).mean(dim=(2, 3)) ** (1 / p)


def rmac(ys: Sequence[torch.Tensor], scales: int = 3) -> torch.Tensor:
    """R-MAC: the maxima of every channel over each of `regions`, (B, C_N).

    The vector of each region is normalised (L2), then all are added. G. Tolias, R. Sicre, H. Jegou,
    "Particular Object Retrieval with Integral Max-Pooling of CNN Activations", ICLR 2016. The paper
    also PCA-whitens and normalises every region's vector first, which is left out here: it needs a
    fit over the regions of a database.
    """
    y = ys[-1].float()
    squares = regions(y.shape[2], y.shape[3], scales)
    maxima = [y[:, :, i : i + side, j : j + side].amax(dim=(2, 3)) for i, j, side in squares]
    return sum((F.normalize(each, dim=1) for each in maxima), torch.zeros_like(maxima[0]))


def regions(height: int, width: int, scales: int = 3) -> list[tuple[int, int, int]]:
    """R-MAC's square regions of a map: [(top, left, side), ..].

    At scale l = 1..scales the side is 2 min(H, W) / (l + 1), rounded down, and l x (l + more)
    regions are spread evenly. `more` along the longer side is the number at which neighbours of
    scale 1 overlap by as nearly 40 % as can be, 0 for a square map.
    """
    short, long = sorted((height, width))
    more = 0
    if short < long:  # 1 - (long - short) / n / short is the overlap of two neighbours
        more = min(range(1, long + 1), key=lambda n: abs(1 - (long - short) / n / short - 0.4))
    found = []
    for l in range(1, scales + 1):
        side = max(1, 2 * short // (l + 1))
        starts = []  # from the top, from the left
        for length in (height, width):
            n = l + more * (length > short)
            starts.append([i * (length - side) // max(1, n - 1) for i in range(n)])
        found += [(top, left, side) for top, left in itertools.product(*starts)]
    return found


def crow(ys: Sequence[torch.Tensor], epsilon: float = 1e-6) -> torch.Tensor:
    """CroW: sums of y_N over the positions, by how full a position and how rare a channel is.

    Y. Kalantidis, C. Mellina, S. Osindero, "Cross-Dimensional Weighting for Aggregated Deep
    Convolutional Features", ECCV Workshops 2016, with a = b = 2 as there. A position weighs the
    square root of its sum over the channels, these sums divided by their L2 norm. Channel k weighs
    log((C eps + sum_h Q_h) / (eps + Q_k)), where Q_k is its share of positions above 0. (B, C_N).
    """
    y = ys[-1].float()
    sums = y.sum(dim=1)  # (B, H_N, W_N)
    position = F.normalize(sums.flatten(1), dim=1).sqrt().view(sums.shape)
    share = (y > 0).float().mean(dim=(2, 3))  # Q, (B, C_N)
    total = share.sum(dim=1, keepdim=True)
    channel = torch.log((y.shape[1] * epsilon + total) / (epsilon + share))
    return channel * torch.einsum("bij,bkij->bk", position, y)


def pyramid(ys: Sequence[torch.Tensor], levels: Sequence[int] = (1, 2, 4)) -> torch.Tensor:
    """Spatial pyramid pooling: the maxima of every channel of y_N over parts, (B, 21 C_N).

    The map is cut into 1 x 1, 2 x 2 and 4 x 4 parts. K. He et al., "Spatial Pyramid Pooling in Deep
    Convolutional Networks for Visual Recognition", TPAMI 2015: part i of n goes from
    floor((i - 1) H / n) to ceil(i H / n), so that neighbours may share a row. No normalisation.
    """
    y = ys[-1].float()
    return torch.cat([F.adaptive_max_pool2d(y, level).flatten(1) for level in levels], dim=1)


POOLINGS: dict[str, Pooling] = dict(
    average=average, spoc=spoc, mac=mac, gem=gem, rmac=rmac, crow=crow, pyramid=pyramid
)
