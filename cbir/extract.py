"""Images -> descriptors -> store, shard by shard. What is already in the store is not computed again."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .descriptors import check_recipe, describe
from .images import UnreadableImage, list_images, open_image
from .store import check_same, create_store, open_store


def extract(images, net, path, batch_size=32, shard_size=256, workers=None, **recipe):
    """Describe all images of a folder, a list of files or an `ImageSet` into the store at `path`, and return it.

    net: a `Network`. recipe: the keywords of `conv_descriptor`. batch_size: images a forward pass; shard_size: rows a unit of
    work. workers: threads that decode ahead of the network, default one a core. An interrupted call continues where it stopped; a complete store
    is returned at once. Unreadable images keep their row, as NaN, with the reason in `store.unreadable`.
    Raises ValueError where `path` holds a store of other images, network or recipe, and what `list_images` raises.
    """
    images, recipe, path = list_images(images), check_recipe(**recipe), Path(path)
    if path.exists():
        store = open_store(path)
        check_same(store, path, images, net, recipe)
    else:
        describe(net, net.probe(), **recipe)  # whatever is wrong with the blocks shows before anything is written
        store = create_store(path, images, net, recipe, shard_size)

    def decode(i):
        try:
            return net.transform(open_image(images.path(i)))
        except UnreadableImage as error:
            return str(error)

    missing = store.missing()
    store.computed = sum(rows.stop - rows.start for rows in missing)
    name = path.stem if missing else f"{path.stem} (reused)"
    with tqdm(total=len(store), initial=len(store) - store.computed, desc=name, unit=" images") as bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        decoded = _ahead(pool, decode, (i for rows in missing for i in range(rows.start, rows.stop)), 2 * batch_size)
        for rows in missing:
            n = rows.stop - rows.start
            codes = np.full((n, store.codes.shape[1]), np.nan, np.float32)
            conv = np.full((n, store.conv.shape[1]), np.nan, np.float32)
            state = ["ok"] * n
            for start in range(0, n, batch_size):
                batch, kept = [], []
                for i, image in enumerate(islice(decoded, min(batch_size, n - start)), start):
                    if isinstance(image, str):
                        state[i] = image
                    else:
                        batch.append(image)
                        kept.append(i)
                if kept:
                    d = describe(net, torch.stack(batch), **recipe)
                    codes[kept], conv[kept] = d.h.float().cpu().numpy(), d.eta_conv.float().cpu().numpy()
                bar.update(min(batch_size, n - start))
            store.write(rows, codes, conv, state)
    return store


def _ahead(pool, function, items, ahead):
    """Like `map`, in order, with `ahead` results being worked on while the caller uses the present one."""
    items = iter(items)
    futures = deque(pool.submit(function, item) for item in islice(items, ahead))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, item) for item in islice(items, 1))
        yield result
