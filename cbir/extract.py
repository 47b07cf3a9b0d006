"""Images -> descriptors -> store, shard by shard, here or on a Dask cluster.

What is already in the store is not computed again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from .cluster import ahead, run_on_workers
from .color import color_histogram
from .common import AnyPath, Dtype, unknown_choice
from .create import (
    Earlier,
    Settings,
    check_name,
    check_settings,
    create_store,
    file_sizes,
    find_earlier,
    has_images,
    locked,
    open_or_drop_next,
    place_of_next,
    put_in_place,
    recover,
)
from .descriptors import (
    Recipe,
    Windows,
    check_recipe,
    forward_windows,
    join,
    split_windows,
    weigh,
    window_means,
)
from .images import Images, UnreadableImage, list_images, open_image
from .networks import Network, noise_image, pick_device, split_transform
from .pooling import POOLINGS
from .store import Extras, Store, find_store, local, shared_store

if TYPE_CHECKING:
    from distributed import Client

Decoded = tuple[torch.Tensor, torch.Tensor]  # prepared (3, H, W), colour histogram (75,) or (0,)
Arrays = dict[str, torch.Tensor]  # {array of the store: (B, D) float32}


def extract(
    images: Images | AnyPath | Iterable[AnyPath],
    net: Network,
    path: AnyPath,
    batch_size: int | None = None,
    shard_size: int = 256,
    workers: int | None = None,
    extras: Extras | None = None,
    dtype: Dtype = "float32",
    client: "Client | None" = None,
    shrink: bool = False,
    **recipe: Unpack[Recipe],
) -> Store:
    """Describe images into the store at `path`, and return it.

    Every image is decoded and forwarded once; memory does not grow with their number. An
    interrupted call continues where it stopped; a complete store is returned at once. Unreadable
    images keep their row, as NaN, with the reason in `store.unreadable`. Where files were added to
    the folder, deleted or changed (by their size), only those are described; until the new store is
    complete the old one stays.

    Args:
        images: a folder, a list of files or an `ImageSet`; or a store with the extra "windows"
            whose network is `net` without its head: then no image is opened again.
        net: the network.
        path: a folder, or an fsspec URL (object storage).
        batch_size: images a forward pass; default 32, on a GPU what fits.
        shard_size: rows a unit of work.
        workers: threads that decode ahead of the network; default one a core.
        extras: {name: what}, more descriptors of the same forward pass, each an array of its own.
            what is a recipe (dict), one of `POOLINGS`, "color" for the colour histogram, or
            "windows" for the means over the windows of Eq. 11-12 (sum C_m * H_N * W_N values),
            from which `Explorer` computes any other recipe.
        dtype: "float32", or "float16" for half the size.
        client: a Dask `Client`: its workers see the same files and keep a network each.
        shrink: lets a store drop more than half of its images, where they are no longer asked for.
        recipe: the keywords of `conv_descriptor`.

    Returns:
        The store, complete.

    Raises:
        ValueError: `path` holds a store of another network, recipe or folder, or one most of whose
            images are not among `images`; unknown extras.
        FileNotFoundError: a folder or an image does not exist.
        FileExistsError: something else is at `path`.
        BlockingIOError: another process describes into the same store.
        OSError: the disk is full. What is complete stays.
    """
    images = list_images(images)
    path = local(path)
    describer = Describer(net, recipe, extras)
    if dtype not in get_args(Dtype):
        raise ValueError(unknown_choice("dtype", dtype, get_args(Dtype)))
    settings = Settings(images, file_sizes(images), net, describer.recipe, describer.extras, dtype)
    store = find_store(path)
    widths = None
    if store is None:
        widths = describer.probe()  # faults show before anything is written, a lock among it
    else:
        check_settings(store, settings)
        if has_images(store, settings) and not store.missing():
            # nothing to write: no lock, on a disk that may be read-only
            _fill(store, [], [], f"{Path(path).stem} (reused)")
            return store
    with locked(path):
        recover(path)
        earlier = find_earlier(path, settings, shrink)  # another process may have made it meanwhile
        place: Path | str = path
        if earlier is None:
            store = find_store(path)
        else:
            place = place_of_next(path)
            store = open_or_drop_next(path, settings)
        if store is None:
            store = create_store(place, settings, widths or describer.probe(), shard_size)
        missing = store.missing()
        batch_size = batch_size or default_batch(net)
        if isinstance(images, Store) and describer.can_reuse(images):
            filled = describer.refill(store, images, missing)
        elif client is None:
            filled = describer.fill(store, images.path, missing, batch_size, workers, earlier)
        else:
            filled = _fill_by_cluster(
                client, describer, place, images, missing, batch_size, earlier
            )
        _fill(store, missing, filled, Path(path).stem, earlier)
        if earlier is not None:
            put_in_place(path)
            computed = store.computed
            store = shared_store(path)
            store.computed = computed
    return store


def _fill(
    store: Store,
    missing: Sequence[slice],
    filled: Iterable[slice],
    name: str,
    earlier: Earlier | None = None,
) -> None:
    """Runs through the shards while they are being filled, and counts the images described."""
    to_describe = {rows.start: _n_new(rows, earlier) for rows in missing}
    store.computed = sum(to_describe.values())
    done = len(store) - store.computed
    with tqdm(total=len(store), initial=done, desc=name, unit=" images") as bar:
        for rows in filled:
            bar.update(to_describe[rows.start])


def _n_new(rows: slice, earlier: Earlier | None) -> int:
    """Images of a shard that must be described."""
    if earlier is None:
        return rows.stop - rows.start
    return int(earlier.is_new(rows).sum())


class Describer:
    """What `extract` does with one image after the other: a network, a recipe and extras.

    Raises ValueError for an unknown recipe or extra.
    """

    def __init__(
        self, net: Network, recipe: Recipe | None = None, extras: Extras | None = None
    ) -> None:
        self.net = net
        self._prepare, self._normalize = split_transform(net.transform)
        self.recipe = check_recipe(**recipe or {})
        self.extras: dict[str, str | Recipe] = {}
        for name, what in (extras or {}).items():
            check_name(name)
            if not isinstance(what, str):
                what = check_recipe(**what)
            elif what not in {*POOLINGS, "color", "windows"}:
                unknown = unknown_choice("extra", what, ("color", "windows", *POOLINGS))
                raise ValueError(f"{unknown}, or give a recipe (dict)")
            self.extras[name] = what

    def decode(self, path: AnyPath | Image.Image) -> Decoded | str:
        """What `__call__` needs of an image or file; the reason (str) where it is unreadable."""
        try:
            image = open_image(path)
        except UnreadableImage as error:
            return str(error)
        color = torch.empty(0)
        if "color" in self.extras.values():
            color = torch.from_numpy(color_histogram(np.asarray(image))).float()
        return self._prepare(image), color

    def inputs(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """The network's input (B, 3, H, W) of B images from `decode`, on its device."""
        pixels = torch.stack([image.movedim(0, -1) for image in images])  # as they lie in memory
        if self.net.device.type == "cuda":
            pixels = pixels.pin_memory()
        return self._normalize(pixels.to(self.net.device, non_blocking=True).movedim(-1, 1))

    def __call__(self, decoded: Sequence[Decoded]) -> Arrays:
        """`Arrays` for B decoded images, by one forward pass, on the network's device."""
        images, colors = zip(*decoded)
        inputs, colors = self.inputs(images), torch.stack(colors)
        if any(isinstance(what, str) and what in POOLINGS for what in self.extras.values()):
            ys, codes = self.net(inputs)
            return self.arrays(ys, window_means(ys), codes, colors)
        means, codes = forward_windows(self.net, inputs)
        return self.arrays([], means, codes, colors)

    def arrays(
        self,
        ys: Sequence[torch.Tensor],
        means: Windows,
        codes: Sequence[torch.Tensor],
        colors: torch.Tensor,
    ) -> Arrays:
        """`Arrays` from the blocks, their window means, the codes and colour histograms (B, 75)."""
        eta_conv = weigh(means, **self.recipe)
        arrays = {"conv": eta_conv, "codes": join(codes, eta_conv, self.recipe["balance"])}
        for name, what in self.extras.items():
            if not isinstance(what, str):
                arrays[name] = weigh(means, **what)
            elif what == "color":
                arrays[name] = colors
            elif what == "windows":
                arrays[name] = torch.cat([mean.flatten(1) for mean, _ in means], dim=1)
            else:
                arrays[name] = POOLINGS[what](ys).float()
        return arrays

    def probe(self) -> dict[str, int]:
        """The arrays' widths, {name: D}; by describing noise, which shows what is wrong."""
        _ = self.net.shapes  # raises for blocks that cannot be used
        noise = self([(self._prepare(noise_image()), torch.zeros(75))])
        return {name: array.shape[1] for name, array in noise.items()}

    def fill(
        self,
        store: Store,
        path: Callable[[int], Path],
        shards: Sequence[slice],
        batch_size: int,
        workers: int | None = None,
        earlier: Earlier | None = None,
    ) -> Iterator[slice]:
        """Describes the images `path(row)` of some shards; yields each shard when it is written.

        Rows that an earlier store has are taken from there.
        """
        rows = chain.from_iterable(range(shard.start, shard.stop) for shard in shards)
        if earlier is not None:
            rows = (row for row in rows if earlier.row_before[row] < 0)
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            decoded = ahead(pool, lambda row: self.decode(path(row)), rows, 2 * batch_size)
            for shard in shards:
                n = _n_new(shard, earlier)
                arrays, state = self._shard(store, islice(decoded, n), n, batch_size)
                if earlier is not None:
                    arrays, state = earlier.with_kept(shard, arrays, state)
                store.write(shard, arrays, state)
                yield shard

    def _shard(
        self, store: Store, images: Iterator[Decoded | str], n: int, batch_size: int
    ) -> tuple[dict[str, NDArray[np.floating]], NDArray[np.object_]]:
        """The rows of n images in the store's dtype, {array name: (n, D)}, and their state (n,)."""
        state = np.full(n, "ok", dtype=object)
        readable: list[int] = []
        batches = []  # they stay on the device: nobody waits for it before the shard's end
        for start in range(0, n, batch_size):
            batch = []
            for i, image in enumerate(islice(images, batch_size), start):
                if isinstance(image, str):
                    state[i] = image
                else:
                    batch.append(image)
                    readable.append(i)
            if batch:
                batches.append(self(batch))
        return _rows(store, state, readable, batches), state

    def can_reuse(self, source: Store) -> bool:
        """Whether a store's windows hold all that this describer needs of its images."""
        if self.net.tapped_codes or not has_windows_of(source, self.net.with_head(None)):
            return False
        needs_color = "color" in self.extras.values()
        return not needs_color or source.extras.get("color") == "color"

    def refill(self, store: Store, source: Store, shards: Sequence[slice]) -> Iterator[slice]:
        """`fill` from the windows of another store of the same images, see `can_reuse`."""
        reasons = source.unreadable
        for shard in shards:
            state = np.array([reasons.get(file, "ok") for file in source.files[shard]], object)
            readable = np.flatnonzero(state == "ok").tolist()
            batches = []
            if readable:
                windows = torch.from_numpy(source.read("windows", shard)[readable])
                colors = torch.empty(0)
                if "color" in self.extras.values():
                    colors = torch.from_numpy(source.read("color", shard)[readable])
                batches.append(self._from_windows(windows, source.dims["blocks"], colors))
            store.write(shard, _rows(store, state, readable, batches), state)
            yield shard

    @torch.inference_mode()
    def _from_windows(
        self, windows: torch.Tensor, blocks: Sequence[tuple[int, ...]], colors: torch.Tensor
    ) -> Arrays:
        """`Arrays` from windows (B, D), without a forward pass through the blocks."""
        means = split_windows(windows.to(self.net.device), blocks)
        ys = [mean for mean, _ in means]
        codes = self.net.head(ys[-1]) if self.net.head else []
        return self.arrays(ys, means, codes, colors)


def has_windows_of(store: Store, net: Network) -> bool:
    """Whether a store keeps the window means of just these blocks, at full precision."""
    kept = store.extras.get("windows") == "windows" and store.conv.dtype == np.float32
    return kept and not net.codes and store.network == net.provenance


def _rows(
    store: Store, state: NDArray[np.object_], readable: Sequence[int], batches: Sequence[Arrays]
) -> dict[str, NDArray[np.floating]]:
    """Batches of readable images as rows of a shard, {array name: (n, D)}, in the store's dtype.

    A row that is not finite becomes NaN, and its state says so.
    """
    arrays = {}
    for name, array in store.arrays.items():
        arrays[name] = np.full((len(state), array.shape[1]), np.nan, array.dtype)
        if batches:
            values = torch.cat([batch[name] for batch in batches]).cpu().numpy()
            with np.errstate(over="ignore"):
                arrays[name][readable] = values
    finite = np.all([np.isfinite(array).all(axis=1) for array in arrays.values()], axis=0)
    for i in readable:
        if not finite[i]:
            state[i] = f"its descriptor is not finite as {store.conv.dtype}"
            for array in arrays.values():
                array[i] = np.nan
    return arrays


def default_batch(net: Network) -> int:
    """Images a forward pass: 32; on a GPU, what half of its free memory holds, at most 512."""
    if net.device.type != "cuda":
        return 32
    torch.cuda.reset_peak_memory_stats(net.device)
    before = torch.cuda.memory_allocated(net.device)
    net(net.probe().expand(8, -1, -1, -1))
    bytes_each = (torch.cuda.max_memory_allocated(net.device) - before) / 8
    free, _ = torch.cuda.mem_get_info(net.device)
    return max(1, min(512, int(0.5 * free / bytes_each)))


def _fill_by_cluster(
    client: "Client",
    describer: Describer,
    path: Path | str,
    images: Images,
    shards: Sequence[slice],
    batch_size: int,
    earlier: Earlier | None,
) -> Iterator[slice]:
    """`Describer.fill` with one task a shard; yields the shards as they are written."""
    net = deepcopy(describer.net).to("cpu")
    copied = Describer(net, describer.recipe, describer.extras)
    # A client without a GPU does not keep its workers from theirs.
    device = describer.net.device.type if torch.cuda.is_available() else "auto"
    place = str(path.resolve()) if isinstance(path, Path) else path
    tasks = []
    for rows in shards:
        files = [images.path(row) for row in range(rows.start, rows.stop)]
        kept = None
        if earlier is not None:
            kept = (str(Path(earlier.store.location).resolve()), earlier.row_before[rows])
        tasks.append((device, place, rows, files, batch_size, kept))
    yield from run_on_workers(client, _fill_shard, copied, tasks)


def _fill_shard(
    describer: Describer,
    device: str,
    path: str,
    rows: slice,
    files: list[Path],
    batch_size: int,
    kept: tuple[str, NDArray[np.int64]] | None,
) -> slice:
    """The task of `_fill_by_cluster`, on a worker. kept: an earlier store, its rows (n,)."""
    from distributed import get_worker

    describer.net.to(pick_device(device))
    earlier = None
    if kept is not None:
        before = np.full(rows.start, -1)
        earlier = Earlier(shared_store(kept[0]), np.concatenate([before, kept[1]]))
    file_of = dict(enumerate(files, rows.start)).__getitem__
    threads = get_worker().state.nthreads
    store = shared_store(path)
    return next(describer.fill(store, file_of, [rows], batch_size, threads, earlier))
