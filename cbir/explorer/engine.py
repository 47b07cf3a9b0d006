"""One picture after another against a store, fast enough to play with: what it finds, which regions were significant, what made a distance."""

import re
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from ..color import color_histogram
from ..common import AnyPath, Metric
from ..datasets import load_images
from ..decoding import open_image
from ..descriptors import RECIPES, Recipe, check_recipe, significance_map, significant, trace, weigh
from ..extract import Describer, extract
from ..images import ImageSet, list_images
from ..networks import Network, pick_device, to_picture
from ..search import search
from ..store import Store, find_store, open_store
from ..workflow.query import open_database
from ..workflow.run import Run
from ..zoo import load_network

EXTRAS = {"windows": "windows"}
ROWS = 128  # images at a time whose descriptors are computed anew: what they need stays in the cache


class Look(NamedTuple):
    """One picture and what the network made of it: `picture` (H, W, 3) uint8 as the network saw it, `histogram` (75,) of the image itself,
    `ys` the blocks [(1, C_m, H_m, W_m), ..], `arrays` {array of the store: (1, D)}, tensors on the CPU."""

    picture: NDArray[np.uint8]
    histogram: NDArray[np.float64]
    ys: list[torch.Tensor]
    arrays: dict[str, torch.Tensor]


class Explorer:
    """A store to ask again and again. Its arrays are kept in memory where they fit.

    store: a `Store`; with the extra "windows" every recipe can be asked for (`live`), else those that it holds (`recipes`, {name: recipe}).
    net: the network that made it, default the one that it names. memory: bytes that its arrays may take; a larger store is searched on disk.
    Raises ValueError where `net` is another network.
    """

    def __init__(self, store: Store, net: Network | None = None, memory: float = 4e9) -> None:
        self.net = net or load_network(store.network["name"], precision=store.network.get("precision", "float32"))
        if self.net.provenance != store.network:
            raise ValueError(f"the store was made by another network or other weights than {self.net.name!r}: pass that one as `net`")
        self.live = store.extras.get("windows") == "windows"
        self.store = self._in_memory(store) if sum(4 * a.shape[0] * a.shape[1] for a in store.arrays.values()) <= memory else store
        self.live = self.live and self.store is not store  # from disk it would take minutes
        self.recipes = {self._name(store.recipe): store.recipe} | {name: what for name, what in store.extras.items() if isinstance(what, dict)}
        if self.live:
            self.recipes = RECIPES | self.recipes
        self.descriptors = self.offered(name for name in store.descriptors if name not in {"windows", *self.recipes})
        self._describer = Describer(self.net, store.recipe, store.extras)
        self._of_recipe = lru_cache(4)(self._computed)
        self._looks = lru_cache(64)(self._look_at)

    @staticmethod
    def _in_memory(store: Store) -> Store:
        """The same store with its arrays in memory, as float32; of a lost shard `search` says so."""
        loaded = copy(store)
        loaded.arrays = {name: store.read(name, slice(None)).astype(np.float32, copy=False) for name in store.arrays}
        return loaded

    @staticmethod
    def _name(recipe: Recipe) -> str:
        return next((name for name, known in RECIPES.items() if known == recipe), "as stored")

    def offered(self, descriptors: Iterable[str]) -> list[str]:
        """Those that can be searched by: h has no dimensions where the network has no codes. Raises ValueError for unknown ones."""
        return [name for name in descriptors if self.store[name].shape[1]]

    def look(self, image: AnyPath | int | Image.Image) -> Look:
        """A `Look` at an image: a file, or a row of the store (int), which are remembered, or a `PIL.Image` in RGB.

        Raises UnreadableImage.
        """
        return self._look(image) if isinstance(image, Image.Image) else self._looks(str(self.store.path(image) if isinstance(image, int) else image))

    def _look_at(self, path: str) -> Look:
        return self._look(open_image(path))

    def _look(self, image: Image.Image) -> Look:
        batch = self.net.transform(image)[None]
        ys, codes = self.net(batch)
        histogram = color_histogram(np.asarray(image))
        arrays = self._describer.arrays(ys, codes, torch.from_numpy(histogram).float()[None])
        return Look(to_picture(batch[0], self.net.transform), histogram, [y.float().cpu() for y in ys], {name: a.cpu() for name, a in arrays.items()})

    def find(self, look: Look, descriptors: Iterable[str] = ("h", "eta_conv", "eta"), recipe: Recipe | None = None, metric: Metric = "l1",
             k: int = 5) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """{descriptor: (rows (k,), distances (k,))}, nearest first. recipe: a dict, default the store's.

        Raises ValueError as `search` does, and for a recipe that the store does not have and cannot compute.
        """
        recipe = check_recipe(**recipe or self.store.recipe)
        store, descriptors = self._with(recipe), list(descriptors)
        if not descriptors:
            return {}
        hits = search(store, {d: self._vector(store, look, d, recipe) for d in descriptors}, descriptors, metric=metric, k=k)
        return {d: (h.indices[0], h.distances[0]) for d, h in hits.items()}

    def regions(self, look: Look, recipe: Recipe | None = None) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Eq. 8-13 and what Eq. 14 weighs, for every block: [(z_m (H_m, W_m) counts, z_m * mean_k y_{m,k} (H_m, W_m) float), ..], m = 1..N."""
        recipe = check_recipe(**recipe or self.store.recipe)
        z = significance_map(significant(look.ys[-1], recipe["q"], recipe["threshold"]), recipe["counting"])
        zs = [trace(z, y.shape[-2:])[0].int().numpy() for y in look.ys]
        return [(z_m, z_m * y[0].mean(dim=0).numpy()) for z_m, y in zip(zs, look.ys)]

    def parts(self, look: Look, row: int, descriptor: str = "eta", recipe: Recipe | None = None, metric: Metric = "l1") -> "pd.Series[float]":
        """What each part (y_6, w_1, ..) has of the distance between a picture and a row of the store: a Series of shares, sum 1.

        Of L1 the absolute differences are shared out, of L2 the squared ones, of cosine the squared ones of vectors of unit length,
        whose sum is twice the distance. All 0 where there is no distance.
        """
        recipe = check_recipe(**recipe or self.store.recipe)
        store = self._with(recipe)
        names = [part for name in descriptor.split("+") for part in self._parts(name)]
        a, b = ({part: values.astype(float) for part, values in vectors.items()} for vectors in (
            {part: self._vector(store, look, part, recipe)[0] for part in names}, {part: store[part][row] for part in names}))
        if metric == "cosine":
            for vectors in (a, b):
                norm = np.sqrt(sum((v ** 2).sum() for v in vectors.values()))
                vectors |= {part: v / norm if norm else v for part, v in vectors.items()}
        sums = pd.Series({part: (np.abs(a[part] - b[part]) ** (1 if metric == "l1" else 2)).sum() for part in names})
        return sums / (sums.sum() or 1)

    def _parts(self, descriptor: str) -> list[str]:
        letters = {"h": "y", "eta_conv": "w", "eta": "yw"}.get(descriptor)
        return [name for name in self.store.descriptors if re.fullmatch(rf"[{letters}]_\d+", name)] if letters else [descriptor]

    def _with(self, recipe: Recipe) -> Store:
        """The store as if it had been made by another recipe."""
        if recipe == self.store.recipe:
            return self.store
        name = self._stored(recipe)
        if name is None and not self.live:
            raise ValueError(f"this store holds the recipes {list(self.recipes)} only: describe the images again with extras={{'windows': 'windows'}}, "
                             f"and every other one can be computed")
        other = copy(self.store)
        other.arrays = self.store.arrays | {"conv": self.store.arrays[name] if name else self._of_recipe(tuple(recipe.items()))}
        return other

    def _stored(self, recipe: Recipe) -> str | None:
        """The extra that holds a recipe's eta_conv."""
        return next((name for name, what in self.store.extras.items() if what == recipe), None)

    def _computed(self, recipe: tuple[tuple[str, Any], ...]) -> NDArray[np.float32]:
        """eta_conv of all images by another recipe, from the windows: (N, sum C_m) float32."""
        windows, rows = self.store.arrays["windows"], range(0, len(self.store), ROWS)
        return np.concatenate([weigh(self._means(windows[i:i + ROWS]), **dict(recipe)).numpy() for i in rows])

    def _means(self, windows: NDArray[np.float32]) -> list[tuple[torch.Tensor, int]]:
        """(n, D) of the extra "windows" -> what `window_means` gives."""
        blocks, (_, *last) = self.store.dims["blocks"], self.store.dims["blocks"][-1]
        maps = torch.from_numpy(windows).reshape(len(windows), -1, *last)
        return [(y, h * w // (last[0] * last[1])) for y, (_, h, w) in zip(maps.split([c for c, *_ in blocks], dim=1), blocks)]

    def _vector(self, store: Store, look: Look, descriptor: str, recipe: Recipe) -> NDArray[np.float32]:
        """A picture's descriptor (1, D), by a recipe."""
        arrays = look.arrays
        if recipe != self.store.recipe:  # by the way that the store's rows went, rounding included
            name = self._stored(recipe)
            arrays = arrays | {"conv": arrays[name] if name else weigh(self._means(arrays["windows"].numpy()), **recipe)}
        return np.concatenate([arrays[name][:, a:b] for name, a, b in store.parts(descriptor)], axis=1)


def open_explorer(run: Run, store: AnyPath = "", pictures: AnyPath = "", weights: str | None = "", device: str = "auto") -> tuple[Explorer, ImageSet | Store]:
    """An `Explorer` and the pictures to choose from (an `ImageSet` or a `Store`), by the parameters of notebook 09.

    run: a `Run`, whose database is explored. The embedded images are described now where that has not been done.
    store: the path or URL of another store. pictures: a folder to choose from; "": the run's queries, or the store's own images.
    Raises FileNotFoundError for a run that has not described anything, and what `open_database` raises.
    """
    stores = run.path / "stores"
    if not store and run.name == "embedded":
        net = load_network(device=device)
        for part, images in zip(("database", "queries"), load_images("embedded")):
            known = find_store(stores / part)
            if known is None or known.missing():  # an interrupted one goes on as it began
                extract(images, net, stores / part, extras=known.extras if known else EXTRAS, **(known.recipe if known else {}))
    database, net = open_database(run.name, store, weights)
    chosen = list_images(pictures) if pictures else database if store or not (stores / "queries").is_dir() else open_store(stores / "queries")
    return Explorer(database, net.to(pick_device(device))), chosen
