"""Images -> descriptors -> store, shard by shard, here or on a Dask cluster of the user's.

What is already in the store is not computed again.
"""

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from . import descriptors
from . import store as stores
from .color import color_histogram
from .common import AnyPath, Dtype, check_choice, cores, explained
from .descriptors import Recipe, Windows, check_recipe
from .images import Images, Pictures, UnreadableImage, list_images, may_pass, open_image
from .names import is_part
from .networks import Network, noise_image, pick_device, split_transform
from .pooling import POOLINGS
from .store import Extras, Store, by_shard, checksum, find_store

if TYPE_CHECKING:
    from distributed import Client

Decoded = tuple[torch.Tensor, torch.Tensor, int]  # prepared (3, H, W), histogram (75,), CRC-32
Arrays = dict[str, torch.Tensor]  # {array of the store: (B, D) float32}
Table: TypeAlias = pd.DataFrame
Tensors = Sequence[torch.Tensor]
Plan = dict[int, NDArray[np.int64]]  # {shard to write: its lines}
Stored = dict[str, NDArray[np.floating]]  # rows as a shard has them, {array: (n, D)}
Tick: TypeAlias = Callable[[int], object]  # takes the size of a batch that is described
Finished = tuple[Stored, NDArray[np.object_], NDArray[np.int64]]

VERSIONED = ("cbir", "torch", "torchvision", "numpy", "pillow")  # whose versions a store keeps
ALREADY = ("h", "eta", "eta_conv", "done", "store.json", "images.csv")  # no extra's name


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
    on_shard: Callable[[], object] = lambda: None,
    **recipe: Unpack[Recipe],
) -> Store:
    """Describes images into the store at `path`, and returns it.

    Every image is decoded and forwarded once; memory does not grow with their number. An
    interrupted call continues where it stopped; a complete store is returned at once. Unreadable
    images keep their row, as NaN, with the reason in `store.unreadable`. If files were added,
    deleted or changed, or the folder has moved, only what is new is described; until then the store
    stays as it is. Shards whose files are lost or damaged are described again.

    `store = cbir.extract("photos/", net, "stores/photos", extras={"color": "color"})`

    Args:
        images: a folder, a list of files or an `ImageSet`; or a store with the extra "windows"
            whose network is `net` without its head: then no image is opened again.
        net: the network.
        path: a folder.
        batch_size: images a forward pass; default 32, on a GPU what fits.
        shard_size: rows a unit of work, where the store is made.
        workers: threads that decode ahead of the network; default one a core.
        extras: {name: what}, more descriptors of the same forward pass, each an array of its own.
            what is a recipe (dict), one of `POOLINGS`, "color" for the colour histogram, or
            "windows" for the means over the windows of Eq. 11-12 (sum C_m * H_N * W_N values),
            from which any other recipe can be computed.
        dtype: "float32", or "float16" for half the size.
        client: a Dask `Client`: its workers see the same files and keep a network each.
        on_shard: called after each shard that is written; the store can be searched by then.
        recipe: the keywords of `conv_descriptor`.

    Raises:
        ValueError: `path` holds a store of another network, recipe or folder; unknown extras.
        FileNotFoundError: a folder or an image does not exist.
        FileExistsError: something else is at `path`.
        BlockingIOError: another process describes into the same store.
        OSError: the disk is full. What is complete stays.
    """
    images = list_images(images)
    if "://" in str(path):
        raise ValueError(f"{path}: a store is a folder, on a disk of this machine or a shared one")
    path = Path(path).expanduser()
    describer = Describer(net, recipe, extras)
    check_choice("dtype", dtype, get_args(Dtype))
    if isinstance(images, Store) and describer.can_reuse(images):
        describer.source = images
        listed = images.table.assign(row=range(len(images)))
    else:
        listed = _list(images)
    about: dict[str, Any] = {"root": str(images.root), "network": net.provenance, "dtype": dtype}
    about |= {"recipe": describer.recipe, "extras": describer.extras}
    store = find_store(path, check=True)
    if store is None:  # faults show before anything is written, a lock among it
        about |= {"dims": net.shapes, "shard_size": shard_size}
        about["versions"] = {package: version(package) for package in VERSIONED}
        noise = describer([(describer.prepare(noise_image()), torch.zeros(75), -1)])
        about["widths"] = {name: array.shape[1] for name, array in noise.items()}
    else:
        table, plan = _plan(store, images, listed, about)
        if not plan and store.root == images.root and table.equals(store.table):
            return store  # nothing to write: no lock, on a disk that may be read-only
    with explained(path), stores.locked(path):
        for shard in store.damaged if store else ():
            (path / "done" / f"{shard:05}.json").unlink(missing_ok=True)
        store = find_store(path)  # another process may have made or filled it meanwhile
        if store is None:
            stores.create(path, about, listed)
            store = Store(path)
        table, plan = _plan(store, images, listed, about)
        describer.widths, describer.dtype = store.about["widths"], dtype
        describer.batch_size, describer.workers = batch_size or default_batch(net), workers
        computed, n = sum(map(len, plan.values())), len(table)
        with tqdm(total=n, initial=n - computed, desc=path.name, unit=" images") as bar:
            if client is None or describer.source:
                filled = _fill(describer, path, images, table, plan, bar.update)
            else:
                filled = _fill_by_cluster(client, describer, path.resolve(), images, table, plan)
            done = n - computed
            for shard in filled:
                done += len(plan[shard])
                bar.update(done - bar.n)  # 0 if its batches were counted one by one
                on_shard()
        if store.root != images.root:
            stores.write_about(path, store.about | {"root": str(images.root)})
        if not table.equals(store.table):
            stores.write_table(path, table)
        store = Store(path)
    store.computed = computed
    return store


# ---- what is to be described --------------------------------------------------------------------


def _list(images: Images) -> pd.DataFrame:
    """Images as their files are now, a line each, in the first rows of a store."""
    facts = np.full((len(images), 2), -1, dtype=np.int64)  # where a file is out of reach
    for i in range(len(images)):
        with suppress(OSError, ValueError):
            about = images.path(i).stat()
            facts[i] = about.st_size, about.st_mtime_ns
    # bytes that are no Unicode are spelt out, rather than an error
    names = [os.fsencode(file).decode("utf-8", "backslashreplace") for file in images.files]
    labels = [os.fsencode(label).decode("utf-8", "backslashreplace") for label in images.labels]
    columns = {"file": names, "label": labels, "bytes": facts[:, 0], "modified": facts[:, 1]}
    return pd.DataFrame(columns | {"row": range(len(images))})


def _plan(
    store: Store, images: Images, listed: Table, about: Mapping[str, Any]
) -> tuple[Table, Plan]:
    """Returns the next images.csv, and the shards that are missing for it.

    Raises ValueError if the store was made with other settings or of other images.
    """
    problem = "; ".join(stores.differences(store, about))
    if problem:
        problem = f"with other settings ({problem})"
    elif store.root != images.root:  # it may have moved
        n_there = len(listed[["file", "bytes"]].merge(store.table[["file", "bytes"]]))
        if 2 * n_there < len(store):
            problem = f"of other images: its images are in {store.root}, these in {images.root}"
    if problem:
        hint = "Delete it or choose another path (another run name)."
        raise ValueError(f"the store {store.location} was made {problem}. {hint}")
    table, rows = _find_rows(store, images, listed)
    before, size = store.table["row"].to_numpy(), store.shard_size
    state = store.known["state"].reindex(rows, fill_value="").to_numpy(object)
    if table[["file", "label"]].equals(store.table[["file", "label"]]):
        planned = np.where(store.states == "", -1, before)
        again = (checksum(images.path(i)) >= 0 for i, why in enumerate(state) if may_pass(why))
        if (rows == planned).all() and not any(again):
            return table.assign(row=before), dict(by_shard(np.where(rows < 0, before, -1), size))
    # What could not be read is tried again.
    new = (rows < 0) | ((state != "ok") & (listed["bytes"].to_numpy() >= 0))
    first = max([*before, *store.known.index]) // size + 1
    rows[new] = first * size + np.arange(new.sum())
    return table.assign(row=rows), dict(by_shard(np.where(new, rows, -1), size))


def _find_rows(store: Store, images: Images, listed: Table) -> tuple[Table, NDArray[np.int64]]:
    """The images' table, and the rows (N,) that they have in a store, -1 for none.

    It is the same image if name, size and time of its file are, or name, size and CRC-32, or if
    the file is out of reach, on a disk that is away, say.
    """
    table, rows = listed.copy(), np.full(len(listed), -1)
    # images.csv has a later time than done/ if a file was touched and stayed as it was.
    time_of = dict(zip(store.table["row"], store.table["modified"]))
    facts_of: dict[str, list[Any]] = {}
    for fact in sorted(store.known.itertuples(), key=lambda fact: fact.Index not in time_of):
        facts_of.setdefault(str(fact.file), []).append(fact)
    for line, file, size, time in listed[["file", "bytes", "modified"]].itertuples():
        facts = [fact for fact in facts_of.get(file, ()) if size in (-1, fact.bytes)]
        found = [f for f in facts if size < 0 or time_of.get(f.Index, f.modified) == time]
        if not found and any(fact.crc32 >= 0 for fact in facts):
            crc = checksum(images.path(line))
            found = [fact for fact in facts if fact.crc32 == crc != -1]
        for fact in found[:1]:
            facts_of[file].remove(fact)  # a file that is listed twice has two rows
            rows[line] = fact.Index
            if size < 0:
                table.loc[line, ["bytes", "modified"]] = fact.bytes, fact.modified
    return table, rows


# ---- describing ---------------------------------------------------------------------------------


class Describer:
    """Describes images by a network, a recipe and extras; ValueError if these are unknown."""

    widths: Mapping[str, int]  # of the arrays to make, {array: D}
    dtype = "float32"
    batch_size = 32
    workers: int | None = None  # threads that decode; default one a core
    source: Store | None = None  # of windows, see `can_reuse`

    def __init__(
        self, net: Network, recipe: Recipe | None = None, extras: Extras | None = None
    ) -> None:
        self.net = net
        self.prepare, self._normalize = split_transform(net.transform)
        self.recipe = check_recipe(**recipe or {})
        self.extras: dict[str, str | Recipe] = {}
        for name, what in (extras or {}).items():
            if not re.fullmatch(r"\w[\w.=-]*", name) or name.lower() in ALREADY or is_part(name):
                rule = "letters, digits, '_', '-', '=' and '.', and none that every store has"
                raise ValueError(f"{name!r} can be no extra's name: {rule}")
            if not isinstance(what, str):
                what = check_recipe(**what)
            else:
                known = ("color", "windows", *POOLINGS)
                check_choice("extra", what, known, ", or give a recipe (dict)")
            self.extras[name] = what
        self._color = "color" in self.extras.values()

    def decode(self, path: AnyPath | Image.Image) -> Decoded | str:
        """Returns what `__call__` needs of an image or file, or why it is unreadable."""
        try:
            image = open_image(path)
        except UnreadableImage as error:
            return str(error)
        color = color_histogram(np.asarray(image)) if self._color else np.empty(0)
        crc = -1 if isinstance(path, Image.Image) else checksum(Path(path))
        return self.prepare(image), torch.from_numpy(color).float(), crc

    def decode_ahead(self, paths: Iterable[AnyPath | Image.Image]) -> Iterator[Decoded | str]:
        """Yields `decode` of files, in order; threads decode two batches ahead of the caller."""
        futures: deque[Future[Decoded | str]] = deque()
        with ThreadPoolExecutor(self.workers or cores()) as pool:
            for path in paths:
                futures.append(pool.submit(self.decode, path))
                if len(futures) > 2 * self.batch_size:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()

    def __call__(self, decoded: Sequence[Decoded]) -> Arrays:
        """Returns `Arrays` for B decoded images, by one forward pass, on the network's device."""
        images, colors, _ = zip(*decoded)
        pixels = torch.stack([image.movedim(0, -1) for image in images])  # as they lie in memory
        if self.net.device.type == "cuda":
            pixels = pixels.pin_memory()
        inputs = self._normalize(pixels.to(self.net.device, non_blocking=True).movedim(-1, 1))
        colors = torch.stack(colors)
        if any(isinstance(what, str) and what in POOLINGS for what in self.extras.values()):
            ys, codes = self.net(inputs)
            return self.arrays(ys, descriptors.window_means(ys), codes, colors)
        means, codes = descriptors.forward_windows(self.net, inputs)
        return self.arrays([], means, codes, colors)

    def arrays(self, ys: Tensors, means: Windows, codes: Tensors, colors: torch.Tensor) -> Arrays:
        """Returns `Arrays` from blocks, their window means, codes and colour histograms (B, 75)."""
        eta_conv = descriptors.weigh(means, **self.recipe)
        h = descriptors.join(codes, eta_conv, self.recipe["balance"])
        arrays = {"h": h, "eta_conv": eta_conv}
        for name, what in self.extras.items():
            if not isinstance(what, str):
                arrays[name] = descriptors.weigh(means, **what)
            elif what == "color":
                arrays[name] = colors
            elif what == "windows":
                arrays[name] = torch.cat([mean.flatten(1) for mean, _ in means], dim=1)
            else:
                arrays[name] = POOLINGS[what](ys).float()
        return arrays

    def describe(
        self, images: Iterator[Decoded | str], n: int, tick: Tick = lambda n: None
    ) -> Finished:
        """Returns rows, states (n,) and files' CRC-32 of the next n images, in batches.

        `tick` is called after each batch with its size.
        """
        states, crc32 = np.full(n, "ok", dtype=object), np.full(n, -1)
        batches = []  # they stay on the device: nobody waits for it before the end
        for start in range(0, n, self.batch_size):
            batch = []
            for i, image in enumerate(islice(images, min(self.batch_size, n - start)), start):
                if isinstance(image, str):
                    states[i] = image
                else:
                    batch.append(image)
                    crc32[i] = image[2]
            if batch:
                batches.append(self(batch))
            tick(min(self.batch_size, n - start))
        return self._rows(batches, states), states, crc32

    def can_reuse(self, source: Store) -> bool:
        """Tells whether a store's windows hold all that this describer needs of its images."""
        if self.net.tapped_codes or not has_windows_of(source, self.net.with_head(None)):
            return False
        return not self._color or source.extras.get("color") == "color"

    @torch.inference_mode()
    def reuse(self, source: Store, lines: NDArray[np.int64]) -> Finished:
        """Returns what `describe` does for some lines of a store, see `can_reuse`."""
        states = source.states[lines]
        crc32 = source.known["crc32"].reindex(source.table["row"][lines], fill_value=-1)
        readable = lines[states == "ok"]
        batches = []
        if len(readable):
            windows = torch.from_numpy(source.arrays["windows"][readable]).to(self.net.device)
            means = descriptors.split_windows(windows, source.dims["blocks"])
            ys = [mean for mean, _ in means]
            codes = self.net.head(ys[-1].to(self.net.dtype)) if self.net.head else []
            kept = source.arrays["color"][readable] if self._color else np.empty(0)
            batches.append(self.arrays(ys, means, codes, torch.from_numpy(kept)))
        return self._rows(batches, states), states, crc32.to_numpy(np.int64)

    def _rows(self, batches: Sequence[Arrays], states: NDArray[np.object_]) -> Stored:
        """Rows of the batches' images; NaN if unreadable or not finite, which their state says."""
        readable, n = states == "ok", len(states)
        rows = {name: np.full((n, d), np.nan, self.dtype) for name, d in self.widths.items()}
        for name, array in rows.items() if batches else ():
            with np.errstate(over="ignore"):
                array[readable] = torch.cat([batch[name] for batch in batches]).cpu().numpy()
        finite = np.all([np.isfinite(array).all(axis=1) for array in rows.values()], axis=0)
        states[readable & ~finite] = f"its descriptor is not finite as {self.dtype}"
        for array in rows.values():
            array[~finite] = np.nan
        return rows


def has_windows_of(store: Store, net: Network) -> bool:
    """Tells whether a store keeps the window means of just these blocks, at full precision."""
    kept = store.extras.get("windows") == "windows" and store.dtype == "float32"
    return kept and not net.codes and store.network == net.provenance


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


# ---- shard by shard, here or on a cluster ----------------------------------------------------


def _fill(
    describer: Describer, path: Path, images: Images, table: Table, plan: Plan, tick: Tick
) -> Iterator[int]:
    """Describes and writes the shards of a plan; yields each when it is written."""
    paths = (images.path(line) for lines in plan.values() for line in lines.tolist())
    decoded = describer.decode_ahead(paths)
    for shard, lines in plan.items():
        if describer.source:
            arrays, states, crc32 = describer.reuse(describer.source, lines)
        else:
            arrays, states, crc32 = describer.describe(decoded, len(lines), tick)
        facts = table.iloc[lines][["file", "bytes", "modified"]]
        stores.write_shard(path, shard, arrays, facts.assign(crc32=crc32, state=states))
        yield shard


def _fill_by_cluster(
    client: "Client", describer: Describer, path: Path, images: Images, table: Table, plan: Plan
) -> Iterator[int]:
    """`_fill` with one task a shard; yields the shards as they are written."""
    # A client without a GPU does not keep its workers from theirs.
    device = describer.net.device.type if torch.cuda.is_available() else "auto"
    copied = deepcopy(describer)
    copied.net.to("cpu")
    tasks = (
        (device, path, [images.path(line) for line in lines.tolist()], table.iloc[lines], shard)
        for shard, lines in plan.items()
    )
    return run_on_workers(client, _fill_shard, copied, tasks)


@contextmanager
def connect(scheduler: str | None = None) -> "Iterator[Client | None]":
    """Yields a Dask client for the time of a `with` block; None for no scheduler.

    Args:
        scheduler: "local" for this machine, one process a core; else the address of a running
            scheduler ("tcp://host:8786"; dask-jobqueue and Kubernetes clusters tell theirs), whose
            workers have cbir installed. OSError if nobody answers there.
    """
    if not scheduler:
        yield None
        return
    from distributed import Client  # half a second that no other work need pay

    address: dict[str, Any] = {"address": scheduler, "timeout": "10s"}
    local: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
    with Client(**(local if scheduler == "local" else address)) as client:
        yield client


def run_on_workers(
    client: "Client", function: Callable[..., Any], kept: Any, tasks: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
    """Yields function(kept, *task) of all tasks, as they come, with one `kept` on each worker.

    Workers may start later, or again; tasks of those that die go to others.
    """
    from distributed import as_completed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "large graph": it is the network
        # not scattered: a copy is made again
        copies = client.submit(lambda kept: kept, kept, pure=False)
    futures = [client.submit(function, copies, *task, pure=False) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        client.cancel(futures)


def _fill_shard(
    describer: Describer, device: str, path: Path, files: list[Path], table: Table, shard: int
) -> int:
    """Fills a shard of a store with the images of a table, on a worker."""
    from distributed import get_worker

    if not (path / "store.json").is_file():
        rule = "the workers of a cluster must see it under the path of the one that made it"
        raise FileNotFoundError(f"no descriptor store at {path} on this machine: {rule}")
    with _turns:
        describer.workers = get_worker().state.nthreads
        describer.net.to(pick_device(device))
        plan = {shard: np.arange(len(files))}
        return next(_fill(describer, path, Pictures(files), table, plan, lambda n: None))


_turns = Lock()  # threads of a worker have one network
