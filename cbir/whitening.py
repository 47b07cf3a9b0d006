"""What is often done to descriptors before they are compared: L2 normalisation, of the whole or per part, and PCA-whitening."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def l2_normalize(rows: ArrayLike, parts: Sequence[int] | None = None) -> NDArray[np.floating]:
    """Every row divided by its L2 norm; with `parts`, every part of it by its own. (N, D) -> (N, D).

    parts: widths of the parts, with sum D. A part of zeros stays as it is, NaN stays NaN. Raises ValueError where the widths do not add up to D.
    """
    rows = np.asarray(rows)
    parts = [rows.shape[1]] if parts is None else list(parts)
    if sum(parts) != rows.shape[1]:
        raise ValueError(f"parts of {parts} dimensions do not make {rows.shape[1]}")
    return np.concatenate([_unit(part) for part in np.split(rows, np.cumsum(parts)[:-1], axis=1)], axis=1)


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1) if rows.shape[1] else rows


class Whitening(NamedTuple):
    """A fitted projection: `whitening(rows)`, (N, D) -> (N, dims), is (rows - mean) @ matrix. `mean` (D,), `matrix` (D, dims)."""

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def __call__(self, rows: ArrayLike) -> NDArray[np.floating]:
        return (np.asarray(rows) - self.mean) @ self.matrix


def pca_whitening(rows: ArrayLike, dims: int | None = None) -> Whitening:
    """PCA-whitening fitted to rows (N, D), those with NaN left out: principal components, each over its standard deviation (N - 1).

    dims: how many components to keep, those of the greatest variance first; None: all. There are never more than the rows span (at most
    N - 1): what does not vary cannot be whitened. Returns a `Whitening`. Raises ValueError for rows that do not vary at all.
    H. Jegou, O. Chum, "Negative Evidences and Co-occurrences in Image Retrieval: The Benefit of PCA and Whitening", ECCV 2012.
    """
    rows = np.asarray(rows)
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    if len(rows) < 2 or not np.ptp(rows, axis=0).any():
        raise ValueError(f"{len(rows)} rows without variance cannot be whitened")
    mean = rows.mean(axis=0)
    centred = rows - mean
    if len(rows) < rows.shape[1]:  # the smaller one of the two matrices with the same eigenvalues
        values, vectors = np.linalg.eigh(centred @ centred.T)
        components = centred.T @ (vectors / np.sqrt(np.maximum(values, values[-1] * np.finfo(float).eps)))
    else:
        values, components = np.linalg.eigh(centred.T @ centred)
    varies = values > values[-1] * (max(rows.shape) * np.finfo(np.float32).eps) ** 2
    kept = np.flatnonzero(varies)[::-1][:dims]
    matrix = components[:, kept] * np.sqrt((len(rows) - 1) / values[kept])
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))
