"""Copies: images whose descriptors are equal but for rounding, in a database and its queries.

Exact, and without comparing all with all. A row's signature is 64 sums over its parts, with random
signs: if two rows are near each other (L1), so are their signatures and the sums of these. Rows
are sorted by that sum; neighbours with near signatures are compared in full.
"""

import numpy as np
from numpy.typing import NDArray

from .common import AnyPath
from .store import Store, check_comparable, open_store

# L1 distance of two rows over the larger one's length. Measured with VGG16: another batch changes
# 6e-8, as float16 4e-7; a JPEG of quality 100 changes at least 1e-4.
ROUNDING = 1e-5
BLOCK = 256  # rows in memory at a time


def duplicates(store: Store | AnyPath, queries: Store | AnyPath | None = None) -> list[list[str]]:
    """Finds the images that are the same picture: their η differ by no more than rounding.

    A picture that was saved again with loss is another one. Images that could not be read are no
    copies, nor are those whose η is all zero, since these tell nothing of the picture.

    `cbir.duplicates(store)` is [["a.jpg", "copy of a.jpg"], ..].

    Args:
        store: a store or its path.
        queries: another one, whose images can be copies too, of each other or of the first's.

    Returns:
        Groups of names of files, two or more each; the queries' come first.

    Raises:
        ValueError: the stores were made by different networks or recipes.
    """
    given = [store] if queries is None else [queries, store]
    stores = [one if isinstance(one, Store) else open_store(one) for one in given]
    files = [file for one in stores for file in one.files]
    return [[files[row] for row in group] for group in same_pictures(*stores)]


def same_pictures(*stores: Store) -> list[list[int]]:
    """`duplicates` as rows of stores one after the other: groups in the order of their first."""
    for store in stores[1:]:
        check_comparable(stores[0], store, ["eta"])
    places = [(store["eta"], line) for store in stores for line in range(len(store))]
    dtype = min(store.dtype for store in stores)  # float16, if one has it
    signatures = np.concatenate([_signatures(store, dtype) for store in stores])
    keys = signatures.sum(axis=1)
    order = np.argsort(keys)[: np.isfinite(keys).sum()]  # NaN comes last
    signatures, keys = signatures[order], keys[order]
    group = np.arange(len(order))
    for shift in range(1, len(order)):
        # Divided by their own lengths, two rows differ by up to twice as much.
        near = np.flatnonzero(keys[shift:] - keys[:-shift] <= 2.1 * ROUNDING)
        if not len(near):
            break
        near = near[group[near] != group[near + shift]]
        apart = np.abs(signatures[near + shift] - signatures[near]).sum(axis=1)
        for i in near[apart <= 2.1 * ROUNDING].tolist():
            if group[i] != group[i + shift]:
                pairs = [places[order[row]] for row in (i, i + shift)]
                a, b = (eta[line].astype(dtype).astype(float) for eta, line in pairs)
                if np.abs(a - b).sum() <= ROUNDING * max(np.abs(a).sum(), np.abs(b).sum()):
                    group[group == group[i + shift]] = group[i]
    members: dict[int, list[int]] = {}
    for row, number in sorted(zip(order.tolist(), group.tolist())):
        members.setdefault(number, []).append(row)
    return [rows for rows in members.values() if len(rows) > 1]


def _signatures(store: Store, dtype: str) -> NDArray[np.float64]:
    """Sums of each row over 64 runs of columns, over its length, (N, 64); NaN for zeros, NaN."""
    eta = store["eta"]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], eta.shape[1])
    runs = np.arange(0, eta.shape[1], -(-eta.shape[1] // 64))
    found = [np.empty((0, len(runs)))]
    for first in range(0, len(store), BLOCK):
        with np.errstate(invalid="ignore", over="ignore"):  # zeros; what float16 cannot hold
            rows = eta[first : first + BLOCK].astype(dtype) * signs
            found.append(np.add.reduceat(rows, runs, axis=1) / np.abs(rows).sum(1, keepdims=True))
    return np.concatenate(found)
