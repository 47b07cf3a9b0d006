"""Exact nearest neighbours over a store: L1, L2 and cosine."""

import os
from typing import NamedTuple

import numba
import numpy as np
from tqdm import tqdm

from .descriptors import describe
from .images import ImageSet, UnreadableImage, list_images, open_image
from .store import Store
from .zoo import load_network

METRICS = ("l1", "l2", "cosine")
DESCRIPTORS = ("h", "eta_conv", "eta")
BLOCK = 1024  # rows held in memory at a time


class Hits(NamedTuple):
    """`indices` (Q, k) int64 rows of the store, nearest first; `distances` (Q, k) float64."""

    indices: np.ndarray
    distances: np.ndarray


def search(st, queries, descriptor="eta", metric="l1", k=5, net=None):
    """The k nearest rows of a store for every query, exactly.

    st: a store or an (N, D) array. queries: a store, a (Q, D) array, or image files (described by `net`; without one, by the
    named network that made the store). descriptor: "h", "eta_conv" or "eta"; only stores have a choice.
    metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is 1 - cos, 1 for a row of zeros.
    Ties go to the lower index. Rows of unreadable images are never found; the distances of an unreadable query are NaN, its indices -1.
    Raises ValueError for an unknown metric or descriptor, k out of range, dimensions, networks or recipes that do not match.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {METRICS}")
    if descriptor not in DESCRIPTORS:
        raise ValueError(f"unknown descriptor {descriptor!r}: choose one of {DESCRIPTORS}")
    rows = getattr(st, descriptor) if isinstance(st, Store) else np.asarray(st)
    queries = _query_rows(st, queries, descriptor, net)
    if queries.ndim != 2 or len(rows.shape) != 2 or queries.shape[1] != rows.shape[1]:
        raise ValueError(f"dimensions do not match: the database is {rows.shape}, the queries {queries.shape}")
    if not 1 <= k <= len(rows):
        raise ValueError(f"k = {k} is out of range for {len(rows)} rows")
    bad = ~np.isfinite(queries).all(axis=1)
    queries = np.where(bad[:, None], np.float32(0), queries)
    indices, distances = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0))
    for start in tqdm(range(0, len(rows), BLOCK), desc=f"search by {descriptor}", unit=" blocks", disable=len(rows) < 50 * BLOCK or None):
        block = np.ascontiguousarray(rows[start:start + BLOCK], dtype=np.float32)
        new = _distances(queries, block, metric)
        new[np.isnan(new)] = np.inf                                             # unreadable images
        index = np.broadcast_to(np.arange(start, start + len(block)), new.shape)
        indices, distances = np.hstack([indices, index]), np.hstack([distances, new])
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]              # earlier rows stand first: ties
        indices, distances = (np.take_along_axis(a, best, axis=1) for a in (indices, distances))
    if np.isinf(distances[~bad]).any():
        raise ValueError(f"k = {k} is more than the number of described images among the {len(rows)}")
    indices[bad], distances[bad] = -1, np.nan
    return Hits(indices, distances)


def _query_rows(st, queries, descriptor, net):
    """Whatever the queries are -> (Q, D) float32."""
    if isinstance(queries, Store):
        if isinstance(st, Store) and (st.network, st.recipe) != (queries.network, queries.recipe):
            raise ValueError("database and queries were described by different networks or recipes")
        return np.ascontiguousarray(getattr(queries, descriptor)[:])
    if isinstance(queries, (str, os.PathLike)):
        queries = list_images(queries) if os.path.isdir(queries) else [queries]
    if len(queries) == 0 or not (isinstance(queries, ImageSet) or all(isinstance(q, (str, os.PathLike)) for q in queries)):
        return np.ascontiguousarray(queries, dtype=np.float32)
    if not isinstance(st, Store):
        raise ValueError("image files can only be searched for in a store: it knows how it was described")
    net = net or load_network(st.network["name"])
    if net.provenance != st.network:
        raise ValueError(f"the store was made by another network or other weights than {net.name!r}: pass that one as `net`")
    files = list_images(queries)
    out = np.full((len(files), getattr(st, descriptor).shape[1]), np.nan, np.float32)
    for i in range(len(files)):
        try:
            batch = net.transform(open_image(files.path(i)))[None]
        except UnreadableImage:
            continue
        out[i] = getattr(describe(net, batch, **st.recipe), descriptor)[0].float().cpu().numpy()
    return out


def _distances(queries, rows, metric):
    """(Q, D), (n, D) float32 -> (Q, n) float64."""
    if metric == "l1":
        return _l1(queries, rows) / queries.shape[1]
    if metric == "l2":  # as differences: the expanded square loses the small distances, which are those that count
        return np.stack([np.linalg.norm(rows - q, axis=1) for q in queries]) / queries.shape[1]
    queries, rows = queries.astype(float), rows.astype(float)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    dots = np.stack([(rows * q).sum(axis=1) for q in queries])  # a matrix product would round equal rows differently
    return 1 - np.divide(dots, norms, out=np.where(np.isnan(norms), np.nan, 0.0), where=norms > 0)


@numba.njit(parallel=True, fastmath={"reassoc", "contract"}, cache=True)
def _l1(queries, rows):
    """Sums of absolute differences; reassociation lets the compiler use vector registers, NaN stays NaN."""
    out = np.empty((queries.shape[0], rows.shape[0]))
    for j in numba.prange(rows.shape[0]):
        for i in range(queries.shape[0]):
            total = np.float32(0)
            for d in range(rows.shape[1]):
                total += abs(queries[i, d] - rows[j, d])
            out[i, j] = total
    return out
