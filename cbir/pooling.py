"""The usual alternatives: the last block pooled into one vector; unit length and whitening.

Every function of `POOLINGS` takes the blocks [y_1..y_N], tensors (B, C_m, H_m, W_m) >= 0, and
returns (B, D) float32 on their device. Of y_1..y_{N-1} it uses no more than means over y_N's grid:
a store with the extra "windows" has just these, and is taken in the place of the images.

Most papers then normalise (L2), PCA-whiten and normalise again. Whitening is fitted to a database,
so it is done apart: `l2_normalize`, `pca`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

Pooling = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def l2_normalize(rows: ArrayLike) -> NDArray[np.floating]:
    """Divides every row of (N, D) by its L2 norm; zeros, NaN and the dtype stay."""
    rows = np.asarray(rows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


class Projection(NamedTuple):
    """A fitted projection: `mean` (D,) and `matrix` (D, dims), float32."""

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def __call__(self, rows: ArrayLike) -> NDArray[np.floating]:
        """Projects rows: (rows - mean) @ matrix, (N, D) -> (N, dims)."""
        return (np.asarray(rows) - self.mean) @ self.matrix


def pca(rows: ArrayLike, dims: int | None = None, whiten: bool = False) -> Projection:
    """Fits the principal components of rows, for shorter descriptors.

    H. Jegou, O. Chum, "Negative Evidences and Co-occurrences in Image Retrieval: The Benefit of PCA
    and Whitening", ECCV 2012.

    Args:
        rows: (N, D) float to fit to; rows with NaN are left out.
        dims: components to keep, those of the greatest variance first; None for all that the
            rows span (N - 1 at most).
        whiten: divides each component by its standard deviation (over N - 1).

    Raises:
        ValueError: the rows do not vary at all.
    """
    rows = np.asarray(rows)
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    if len(rows) < 2 or not np.ptp(rows, axis=0).any():
        raise ValueError(f"{len(rows)} rows without variance have no principal components")
    mean = rows.mean(axis=0)
    _, spread, components = np.linalg.svd(rows - mean, full_matrices=False)
    varies = spread > spread[0] * max(rows.shape) * np.finfo(np.float32).eps
    matrix = components[varies][:dims].T
    if whiten:
        matrix = matrix * (np.sqrt(len(rows) - 1) / spread[varies][:dims])
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


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


def scda(ys: Sequence[torch.Tensor]) -> torch.Tensor:
    """SCDA: averages and maxima of y_N and y_{N-1} over `scda_mask`, (B, 2 C_N + 2 C_{N-1}).

    X.-S. Wei et al., "Selective Convolutional Descriptor Aggregation for Fine-Grained Image
    Retrieval", TIP 2017, with the earlier layer at half weight as there. A variant: the earlier
    layer is block N - 1, averaged over y_N's grid, where the paper takes block N's last convolution
    and a mask of its own.
    """
    mask = scda_mask(ys[-1].float())[:, None]  # (B, 1, H_N, W_N)
    parts, (height, width) = [], mask.shape[2:]
    for y, weight in zip(ys[:-3:-1], (1, 0.5)):
        y = F.adaptive_avg_pool2d(y.float(), (height, width)) * mask * weight
        parts += [y.sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp_min(1), y.amax(dim=(2, 3))]
    return torch.cat(parts, dim=1)


def scda_mask(y_N: torch.Tensor) -> torch.Tensor:
    """SCDA's selection: positions whose sum over the channels of y_N is above its mean.

    Of these only the largest connected component is kept, (B, H_N, W_N) bool. Positions are
    connected if they touch by a side or a corner.
    """
    sums = y_N.sum(dim=1)  # (B, H_N, W_N)
    above = sums > sums.mean(dim=(1, 2), keepdim=True)
    numbers = torch.arange(1.0, above[0].numel() + 1, device=y_N.device).view(above.shape[1:])
    component = numbers * above  # the greatest number of a component spreads all over it
    while True:
        spread = F.max_pool2d(component[:, None], 3, stride=1, padding=1)[:, 0] * above
        if torch.equal(spread, component):
            break
        component = spread
    flat = component.flatten(1)
    sizes = (flat[:, :, None] == flat[:, None, :]).sum(dim=2) * (flat > 0)  # of a position's own
    best = sizes * (flat.shape[1] + 1) + flat  # of equal ones the last
    return ((best == best.amax(dim=1, keepdim=True)) & (flat > 0)).view(above.shape)


def pwa(ys: Sequence[torch.Tensor], parts: int = 25) -> torch.Tensor:
    """PWA: sums of y_N over the positions, weighed by the channels that vary most, (B, C_N).

    J. Xu et al., "Unsupervised Part-Based Weighting Aggregation of Deep Convolutional Features for
    Image Retrieval", AAAI 2018, with alpha = beta = 2 and 25 channels as there. A variant: channels
    are chosen by their variance over the positions of the image, where the paper takes the variance
    over a data set, joins the sums of all parts and whitens them; here they are added.
    """
    y = ys[-1].float().flatten(2)  # (B, C_N, H_N * W_N)
    chosen = y.var(dim=2, correction=0).topk(min(parts, y.shape[1])).indices
    maps = y.gather(1, chosen[:, :, None].expand(-1, -1, y.shape[2]))
    weights = F.normalize(maps, dim=2).sqrt().sum(dim=1)  # (B, H_N * W_N)
    return torch.einsum("bp,bkp->bk", weights, y)


_ALL = (average, spoc, mac, gem, rmac, crow, pyramid, scda, pwa)
POOLINGS: dict[str, Pooling] = {function.__name__: function for function in _ALL}
