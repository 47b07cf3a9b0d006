"""Images -> descriptors -> store, shard by shard, here or on a Dask cluster. What is already in the store is not computed again."""

import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_args

import numpy as np
import torch
from tqdm import tqdm

from .color import color_histogram
from .common import AnyPath, Dtype, unknown_choice
from .decoding import UnreadableImage, open_image
from .descriptors import Recipe, check_recipe, join, weigh, window_means
from .images import Images, list_images
from .networks import Network, pick_device
from .pooling import POOLINGS
from .store import Extras, Store, check_name, check_same, create_store, find_store, local, locked, shared_store

if TYPE_CHECKING:
    from distributed import Client, Worker

Decoded = tuple[torch.Tensor, torch.Tensor]  # the network's input (3, H, W), the colour histogram (75,) or nothing (0,)
Item = TypeVar("Item")
Result = TypeVar("Result")


def extract(images: Images | AnyPath | Iterable[AnyPath], net: Network, path: AnyPath, batch_size: int | None = None, shard_size: int = 256,
            workers: int | None = None, extras: Extras | None = None, dtype: Dtype = "float32", client: "Client | None" = None,
            **recipe: Unpack[Recipe]) -> Store:
    """Describe all images of a folder, a list of files or an `ImageSet` into the store at `path`, and return it.

    net: a `Network`. path: a folder, or an fsspec URL (object storage). recipe: the keywords of `conv_descriptor`.
    extras: {name: what} more descriptors of the same forward pass, each an array of its own: what is a recipe (dict), one of
    `POOLINGS` (str), "color", the colour histogram, or "windows", the blocks' means over the windows of Eq. 11-12 (sum C_m * H_N * W_N
    values), from which `Explorer` computes any other recipe. dtype: "float32", or "float16" for half the size.
    batch_size: images a forward pass, default 32, on a GPU what fits. shard_size: rows a unit of work. workers: threads that decode
    ahead of the network, default one a core. client: a Dask `Client` whose workers see the same files: shards are its tasks, and
    every worker keeps one copy of the network, on its GPU where it has one.

    Images are decoded and forwarded once; memory does not grow with their number. An interrupted call continues where it stopped; a
    complete store is returned at once. Unreadable images keep their row, as NaN, with the reason in `store.unreadable`.
    Raises ValueError where `path` holds a store of other images, network or recipe, for unknown extras, and what `list_images` raises;
    BlockingIOError while another process describes into the same store; OSError where the disk is full: what is complete stays.
    """
    images, path = list_images(images), local(path)
    describer = Describer(net, recipe, extras)
    if dtype not in get_args(Dtype):
        raise ValueError(unknown_choice("dtype", dtype, get_args(Dtype)))
    wanted = images, net, describer.recipe, describer.extras, dtype
    store = find_store(path)
    if store:
        check_same(store, *wanted)
        if not store.missing():  # nothing to write: no lock either, on a disk that may be read-only
            _fill(store, [], [], f"{Path(path).stem} (reused)")
            return store
    widths = None if store else describer.probe()  # faults show before anything is written, a folder or a lock among it
    with locked(path):
        store = find_store(path) or create_store(path, *wanted, widths or describer.probe(), shard_size)
        check_same(store, *wanted)  # another process may have made it meanwhile
        missing, batch_size = store.missing(), batch_size or default_batch(net)
        _fill(store, missing, describer.fill(store, images.path, missing, batch_size, workers) if client is None
              else _fill_by_cluster(client, describer, path, images, missing, batch_size), Path(path).stem)
    return store


def _fill(store: Store, missing: Sequence[slice], done: Iterable[slice], name: str) -> None:
    """Lets `done` fill the missing shards, and counts."""
    store.computed = sum(rows.stop - rows.start for rows in missing)
    with tqdm(total=len(store), initial=len(store) - store.computed, desc=name, unit=" images") as bar:
        for rows in done:
            bar.update(rows.stop - rows.start)


class Describer:
    """What `extract` does with one image after the other: a network, a recipe and extras, see there. Raises ValueError for unknown ones."""

    def __init__(self, net: Network, recipe: Recipe | None = None, extras: Extras | None = None) -> None:
        self.net, self.recipe = net, check_recipe(**recipe or {})
        self.extras: dict[str, str | Recipe] = {}
        for name, what in (extras or {}).items():
            check_name(name)
            if isinstance(what, str) and what not in {*POOLINGS, "color", "windows"}:
                raise ValueError(f"{unknown_choice('extra', what, ('color', 'windows', *POOLINGS))}, or give a recipe (dict)")
            self.extras[name] = what if isinstance(what, str) else check_recipe(**what)

    def decode(self, path: AnyPath) -> Decoded | str:
        """An image file -> (the network's input (3, H, W), the colour histogram (75,) if an extra asks for it); the reason (str) if unreadable."""
        try:
            image = open_image(path)
        except UnreadableImage as error:
            return str(error)
        color = torch.from_numpy(color_histogram(np.asarray(image))).float() if "color" in self.extras.values() else torch.empty(0)
        return self.net.transform(image), color

    def __call__(self, decoded: Sequence[Decoded]) -> dict[str, torch.Tensor]:
        """A batch of what `decode` gave -> {array name: (B, D) float32 tensor on the network's device}, by one forward pass."""
        inputs, colors = (torch.stack(part) for part in zip(*decoded))
        return self.arrays(*self.net(inputs.pin_memory() if self.net.device.type == "cuda" else inputs), colors)

    def arrays(self, ys: list[torch.Tensor], codes: list[torch.Tensor], colors: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a forward pass gave, and the colour histograms (B, 75) -> {array name: (B, D) float32 tensor}."""
        means = window_means(ys)
        arrays = {"conv": weigh(means, **self.recipe)}
        arrays["codes"] = join(codes, arrays["conv"])
        for name, what in self.extras.items():
            arrays[name] = (weigh(means, **what) if isinstance(what, dict) else colors if what == "color"
                            else torch.cat([mean.flatten(1) for mean, _ in means], dim=1) if what == "windows" else POOLINGS[what](ys).float())
        return arrays

    def probe(self) -> dict[str, int]:
        """The widths of the arrays, {name: D}; by describing noise, which shows whatever is wrong with the blocks."""
        _ = self.net.shapes
        return {name: part.shape[1] for name, part in self([(self.net.probe()[0], torch.zeros(75))]).items()}

    def fill(self, store: Store, path: Callable[[int], Path], shards: Sequence[slice], batch_size: int, workers: int | None = None) -> Iterator[slice]:
        """Describes the images `path(row)` of some shards (list of slice) into an open store; yields each shard when it is written."""
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            decoded = ahead(pool, lambda row: self.decode(path(row)), (i for rows in shards for i in range(rows.start, rows.stop)), 2 * batch_size)
            for rows in shards:
                n, parts, kept = rows.stop - rows.start, [], []
                state = np.full(n, "ok", dtype=object)
                for start in range(0, n, batch_size):
                    batch = list(enumerate(islice(decoded, min(batch_size, n - start)), start))
                    state[[i for i, image in batch if isinstance(image, str)]] = [image for _, image in batch if isinstance(image, str)]
                    good = [(i, image) for i, image in batch if not isinstance(image, str)]
                    if good:
                        kept += [i for i, _ in good]
                        parts.append(self([image for _, image in good]))  # stays on the device: no waiting for it before the shard's end
                arrays = {}
                for name, array in store.arrays.items():
                    arrays[name] = np.full((n, array.shape[1]), np.nan, array.dtype)
                    if kept:
                        with np.errstate(over="ignore"):
                            arrays[name][kept] = torch.cat([part[name] for part in parts]).cpu().numpy()
                for i in kept:
                    if not all(np.isfinite(a[i]).all() for a in arrays.values()):
                        state[i] = f"its descriptor is not finite as {store.conv.dtype}"
                        for a in arrays.values():
                            a[i] = np.nan
                store.write(rows, arrays, state)
                yield rows


def default_batch(net: Network) -> int:
    """Images a forward pass: 32; on a GPU, what half of its free memory holds, at most 512."""
    if net.device.type != "cuda":
        return 32
    torch.cuda.reset_peak_memory_stats(net.device)
    before = torch.cuda.memory_allocated(net.device)
    net(net.probe().expand(8, -1, -1, -1))
    each = (torch.cuda.max_memory_allocated(net.device) - before) / 8
    return max(1, min(512, int(0.5 * torch.cuda.mem_get_info(net.device)[0] / each)))


def ahead(pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], n_ahead: int) -> Iterator[Result]:
    """Like `map`, in order, with `n_ahead` results being worked on while the caller uses the present one."""
    items = iter(items)
    futures = deque(pool.submit(function, item) for item in islice(items, n_ahead))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, item) for item in islice(items, 1))
        yield result


def _fill_by_cluster(client: "Client", describer: Describer, path: Path | str, images: Images, shards: Sequence[slice], batch_size: int) -> Iterator[slice]:
    """`Describer.fill` with one task a shard; yields the shards as they are written. Tasks of workers that die go to others."""
    if not shards:
        return
    from distributed import WorkerPlugin, as_completed

    class Keep(WorkerPlugin):
        """The network, once a worker; a worker that starts later, or again, gets it too."""

        def __init__(self, describer: Describer, device: str) -> None:
            self.describer, self.device = describer, device

        def setup(self, worker: "Worker") -> None:
            self.lock = Lock()  # threads of a worker take turns: the taps of two forward passes would mix
            self.describer.net.to(pick_device(self.device))

    here = Describer(deepcopy(describer.net).to("cpu"), describer.recipe, describer.extras)
    device = describer.net.device.type if torch.cuda.is_available() else "auto"  # a client without a GPU does not keep its workers from theirs
    name = f"cbir-{uuid.uuid4()}"
    client.register_plugin(Keep(here, device), name=name)
    path = path if isinstance(path, str) else str(path.resolve())
    futures = [client.submit(_fill_shard, name, path, {i: images.path(i) for i in range(rows.start, rows.stop)}, rows, batch_size, pure=False)
               for rows in shards]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        client.cancel(futures)
        client.unregister_worker_plugin(name)


def _fill_shard(name: str, path: str, files: dict[int, Path], rows: slice, batch_size: int) -> slice:
    """The task of `_fill_by_cluster`, on a worker."""
    from distributed import get_worker
    plugin: Any = get_worker().plugins[name]
    with plugin.lock:
        return next(plugin.describer.fill(shared_store(path), files.__getitem__, [rows], batch_size, get_worker().state.nthreads))
