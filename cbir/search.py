"""Exact nearest neighbours over a store or an array: L1, L2 and cosine, any number of descriptors in one pass.

Filter and refine: float32 sums (numba for L1, matrix products for L2 and cosine) bound every distance from both sides; the few rows that
can be among the k nearest are compared again in float64. So the result is that of float64 brute force, whatever the blocks, the
threads, the processor or the cluster.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray

from .common import METRICS, AnyPath, Metric, unknown_choice
from .extract import Describer
from .images import ImageSet, list_images
from .nearest import Block, Candidates, Floats, Hits, Parts, _nearest
from .networks import Network
from .store import Part, Store, shared_store
from .zoo import load_network

if TYPE_CHECKING:
    from distributed import Client

Queries: TypeAlias = Store | ImageSet | NDArray[Any] | dict[str, NDArray[Any]] | AnyPath | Sequence[AnyPath]

BLOCK = 2 ** 25      # bytes of the database in memory at a time, thrice: computed with, read ahead, in decompression
ROWS = 2 ** 14       # rows at a time of an array that is in memory as it is


@overload
def search(st: Store | NDArray[Any], queries: Queries, descriptor: str = "eta", metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> Hits: ...
@overload
def search(st: Store, queries: Queries, descriptor: list[str] | tuple[str, ...], metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> dict[str, Hits]: ...
def search(st: Store | NDArray[Any], queries: Queries, descriptor: str | list[str] | tuple[str, ...] = "eta", metric: Metric = "l1", k: int = 5, net: Network | None = None,
           device: str | torch.device | None = None, client: "Client | None" = None) -> Hits | dict[str, Hits]:
    """The k nearest rows of a store for every query, exactly.

    st: a store or an (N, D) array. queries: a store, a (Q, D) array, {descriptor: (Q, D) array}, or image files (described by `net`; without
    one, by the named network that made the store). descriptor: "h", "eta_conv", "eta", another one of `st.descriptors`, or several joined by "+"; or a
    list of these: {descriptor: Hits}, from one pass over the store. Only stores have a choice.
    metric: "l1" and "l2" are divided by the number of dimensions (Sec. IV); "cosine" is 1 - cos, 1 for a row of zeros.
    device: a torch device that computes the bounds ("cuda"), default: the processor. client: a Dask `Client`, whose workers search a part of
    the store each. Results are the same everywhere, bit for bit; memory does not grow with the store.
    Ties go to the lower index. Rows of unreadable images are never found; the distances of an unreadable query are NaN, its indices -1.
    Raises ValueError for an unknown metric or descriptor, k out of range, dimensions, networks or recipes that do not match, damaged shards.
    """
    if metric not in METRICS:
        raise ValueError(unknown_choice("metric", metric, METRICS))
    names = [descriptor] if isinstance(descriptor, str) else list(descriptor)
    if isinstance(st, Store):
        parts = {name: st.parts(name) for name in names}
        described = st.described
    else:
        st = np.asarray(st)
        if st.ndim != 2:
            raise ValueError(f"dimensions do not match: the database is {st.shape}, not (N, D): one row an image")
        if client is not None or not isinstance(descriptor, str):
            raise ValueError("only a store can be searched by a cluster, or by several descriptors: pass the store, or one array and neither")
        parts = {descriptor: [("rows", 0, st.shape[1])]}
        described = None
    if not 1 <= k <= len(st):
        raise ValueError(f"k = {k} is out of range for {len(st)} rows: choose 1 to {len(st)}")
    queries = _query_parts(st, queries, parts, net)
    bad = ~np.all([np.isfinite(q).all(axis=1) for q in queries.values()], axis=0)
    queries = {part: np.where(bad[:, None], np.float32(0), q) for part, q in queries.items()}
    if client is None or not isinstance(st, Store):
        found = _nearest(_blocks(st, list(queries), described), queries, parts, metric, k, device)
    else:
        found = _nearest_by_cluster(client, st, queries, parts, metric, k, device)
    hits = {name: flat.table(len(bad), k) for name, flat in found.items()}
    if any((h.indices[~bad] < 0).any() for h in hits.values()):
        raise ValueError(f"k = {k} is more than the number of described images among the {len(st)}")
    for h in hits.values():
        h.indices[bad], h.distances[bad] = -1, np.nan
    return hits[descriptor] if isinstance(descriptor, str) else hits


def _query_parts(st: Store | NDArray[Any], queries: Queries, parts: Parts, net: Network | None) -> dict[Part, Floats]:
    """Whatever the queries are -> {part of the database: (Q, D_part) float32}."""
    if isinstance(queries, Store):
        if isinstance(st, Store) and (st.network, st.recipe) != (queries.network, queries.recipe):
            raise ValueError("database and queries were described by different networks or recipes: pass the queries' image files, or extract them again like the "
                             "database (its `network` and `recipe`)")
        if isinstance(st, Store):
            other = sorted(n for name in parts for n in name.split("+") if st.extras.get(n) != queries.extras.get(n))
            if other:
                raise ValueError(f"database and queries have different descriptors of the name {other[0]!r}: extract one of them again, with the other's `extras`")
        rows = {name: queries[name][:] for name in parts}
    elif isinstance(queries, dict):
        rows = {name: np.asarray(queries[name], dtype=np.float32) for name in parts}
    else:
        if isinstance(queries, (str, os.PathLike)):
            queries = list_images(queries) if os.path.isdir(queries) else [queries]
        files = queries if isinstance(queries, ImageSet) else [q for q in queries if isinstance(q, (str, os.PathLike))]
        if 0 < len(files) == len(queries):
            rows = describe_files(st, files, parts, net)
        else:
            rows = dict.fromkeys(parts, np.asarray(queries, dtype=np.float32))
    out = {}
    for name, of in parts.items():
        width = sum(b - a for _, a, b in of)
        if rows[name].ndim != 2 or rows[name].shape[1] != width:
            raise ValueError(f"dimensions do not match: the database has {width}, the queries are {rows[name].shape}: both must be the same descriptor of the same network")
        for part, columns in zip(of, np.split(rows[name], np.cumsum([b - a for _, a, b in of])[:-1], axis=1)):
            out[part] = np.ascontiguousarray(columns)
    return out


def describe_files(st: Store | NDArray[Any], files: ImageSet | Sequence[AnyPath], names: Iterable[str], net: Network | None = None) -> dict[str, Floats]:
    """Image files, described like the images of a store: {descriptor: (Q, D) float32}, rows of NaN for those that cannot be read.

    net: the network that made the store; without one, it is loaded by name. Raises ValueError for another one, or where `st` is no store.
    """
    if not isinstance(st, Store):
        raise ValueError("image files can only be searched for in a store, which knows how it was described: pass that, not an array of it")
    net = net or load_network(st.network["name"], precision=st.network.get("precision", "float32"))
    if net.provenance != st.network:
        raise ValueError(f"the store was made by another network or other weights than {net.name!r}: pass that one as `net`")
    files, describer = list_images(files), Describer(net, st.recipe, st.extras)
    out = {name: np.full((len(files), st[name].shape[1]), np.nan, np.float32) for name in names}
    for i in range(len(files)):
        decoded = describer.decode(files.path(i))
        if isinstance(decoded, str):
            continue
        arrays = {name: part[0].cpu().numpy() for name, part in describer([decoded]).items()}
        for name in names:
            out[name][i] = np.concatenate([arrays[array][a:b] for array, a, b in st.parts(name)])
    return out


def _blocks(st: Store | NDArray[Any], parts: Sequence[Part], described: NDArray[np.bool_] | None, first: int = 0, last: int | None = None) -> Iterator[Block]:
    """The database in pieces of at most `BLOCK` bytes: yields (first row, {part: (n, D_part) float32}), reading the next one ahead."""
    last = len(st) if last is None else last
    if not isinstance(st, Store):
        step = ROWS if st.dtype == np.float32 and st.flags.c_contiguous else max(1, BLOCK // max(1, 4 * st.shape[1]))
        for start in range(first, last, step):
            yield start, {parts[0]: np.ascontiguousarray(st[start:min(start + step, last)], dtype=np.float32)}
        return
    arrays, known = list(dict.fromkeys(name for name, _, _ in parts)), st.described if described is None else described
    shard = st.shards[0].stop
    step = max(1, BLOCK // (4 * shard * max(1, sum(st.arrays[name].shape[1] for name in arrays)))) * shard

    def read(start: int) -> Block:
        rows = slice(start, min(start + step, last))
        whole = {name: st.read(name, rows) for name in arrays}
        for name, array in whole.items():
            if array.shape[1] and np.isnan(array[known[rows], 0]).any():
                raise ValueError(f"{st.location} has lost a shard of {name!r} among the rows {rows.start} to {rows.stop}: run cbir.extract again")
            array[~known[rows]] = np.nan
        return start, {(name, a, b): np.ascontiguousarray(whole[name][:, a:b], dtype=np.float32) for name, a, b in parts}

    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(read, first)
        for start in range(first, last, step):
            block = future.result()
            if start + step < last:
                future = ahead.submit(read, start + step)
            yield block


def _nearest_by_cluster(client: "Client", st: Store, queries: dict[Part, Floats], parts: Parts, metric: Metric, k: int,
                        device: str | torch.device | None) -> "dict[str, Candidates]":
    """`_nearest` with a few tasks for every worker, each over its own shards."""
    tasks = 4 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    ranges = [(shards[0].start, shards[-1].stop) for shards in np.array_split(np.array(st.shards), min(tasks, len(st.shards)))]
    found = client.gather([client.submit(_search_rows, st.location, rows, queries, parts, metric, k, device, pure=False) for rows in ranges])
    return {name: Candidates.join([piece[name] for piece in found], k) for name in parts}


def _search_rows(path: str, rows: tuple[int, int], queries: dict[Part, Floats], parts: Parts, metric: Metric, k: int,
                 device: str | torch.device | None) -> "dict[str, Candidates]":
    """The task of `_nearest_by_cluster`: rows (first, last + 1) of the store at `path`."""
    st = shared_store(path)  # lost shards are found when they are read: no listing of all files in every task
    return _nearest(_blocks(st, list(queries), st.described, *rows), queries, parts, metric, k, device)
