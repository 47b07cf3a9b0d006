"""The explorer without a page: one picture after another against a store, fast enough to play with.

It says what a picture finds, which regions were significant, and what made a distance.
"""

from collections.abc import Iterable, Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2 as T

from ..color import color_histogram
from ..common import AnyPath, Balance, Metric
from ..descriptors import (
    AS_PRINTED,
    RECIPES,
    Recipe,
    balanced,
    check_recipe,
    significance_map,
    significant,
    split_windows,
    trace,
    weigh,
    window_means,
)
from ..extract import Describer
from ..images import open_image
from ..names import layer_names
from ..networks import Network, Transform, to_picture
from ..search import search
from ..store import Store
from ..zoo import network_of

BATCH = 128  # images whose descriptors are computed at once: what they need stays in the cache
AVERAGED: Recipe = AS_PRINTED | Recipe(q=0)  # every neuron is significant: no selection

# {descriptor: (rows (k,) int64, distances (k,) float64)}, nearest first
Answers: TypeAlias = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
# a block's (z_m, z_m * mean_k y_{m,k}), both (H_m, W_m)
Region: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]


class Look(NamedTuple):
    """One picture and what the network made of it.

    Attributes:
        picture: (H, W, 3) uint8, as the network saw it.
        aspect: width / height of what the picture shows, before it was stretched.
        histogram: (75,) float64, of the image itself.
        ys: the blocks [(1, C_m, H_m, W_m), ..], float32 on the CPU.
        arrays: {array of the store: (1, D)}, tensors on the CPU.
    """

    picture: NDArray[np.uint8]
    aspect: float
    histogram: NDArray[np.float64]
    ys: list[torch.Tensor]
    arrays: dict[str, torch.Tensor]


class Explorer:
    """A store to ask again and again. Its arrays are kept in memory where they fit.

    Args:
        store: the store. With the extra "windows" every recipe can be asked for; without it those
            that the store holds, by any balance.
        net: the network that made it, by default the one that the store names.
        memory: bytes that the arrays may take. A larger store is searched on disk.

    Attributes:
        live: whether every threshold can be asked for.
        fixed: why not, and how to get it; "" where it can.
        recipes: {name: recipe}, those that a page offers.
        descriptors: the names that can be searched by, without the recipes' arrays.

    Raises:
        ValueError: `net` is not the network that made the store.
    """

    def __init__(self, store: Store, net: Network | None = None, memory: float = 4e9) -> None:
        self.net = network_of(store.network, net, folder=Path(store.location).parent)
        size = sum(5 * array.shape[0] * array.shape[1] for array in store.arrays.values())
        self._in_memory = size <= memory
        self.store = store.load() if self._in_memory else store
        # From disk, another recipe would take minutes.
        self.live = self._in_memory and store.extras.get("windows") == "windows"
        self.fixed = ""
        if not self._in_memory:
            self.fixed = (
                f"this store is searched on disk, since it would take {_bytes(size)} of memory, "
                f"more than {_bytes(memory)}"
            )
        elif not self.live:
            self.fixed = _without_windows(store)
        self.recipes = _stored_recipes(store)
        if self.live:
            self.recipes = self._computable() | self.recipes
        hidden = {"windows", *self.recipes}
        self.descriptors = self.offered(name for name in store.descriptors if name not in hidden)
        self._describer = Describer(self.net, store.recipe, store.extras)
        self._conv_by_recipe = lru_cache(4)(self._all_conv_descriptors)
        self._codes_by_balance = lru_cache(2)(self._all_codes)
        self._looks = lru_cache(64)(self._look_at_file)

    def offered(self, descriptors: Iterable[str]) -> list[str]:
        """Selects the descriptors that can be searched by.

        Args:
            descriptors: names of the store's descriptors.

        Returns:
            Those that have dimensions: h has none where the network has no codes.

        Raises:
            ValueError: a descriptor is unknown.
        """
        return [name for name in descriptors if self.store[name].shape[1]]

    def look(self, image: AnyPath | int | Image.Image) -> Look:
        """Describes an image. Files and rows are remembered.

        Args:
            image: a file, a row of the store (int), or a `PIL.Image` in RGB.

        Returns:
            The `Look`.

        Raises:
            UnreadableImage: the file cannot be read.
        """
        if isinstance(image, Image.Image):
            return self._look(image)
        if isinstance(image, int):
            image = self.store.path(image)
        return self._looks(str(image))

    def _look_at_file(self, path: str) -> Look:
        return self._look(open_image(path))

    def _look(self, image: Image.Image) -> Look:
        batch = self.net.transform(image)[None]  # (1, 3, H, W)
        ys, codes = self.net(batch)
        histogram = color_histogram(np.asarray(image))
        colors = torch.from_numpy(histogram).float()[None]
        arrays = self._describer.arrays(ys, window_means(ys), codes, colors)
        picture = to_picture(batch[0], self.net.transform)
        shown = image if _stretches(self.net.transform) else Image.fromarray(picture)
        return Look(
            picture=picture,
            aspect=shown.width / shown.height,
            histogram=histogram,
            ys=[y.float().cpu() for y in ys],
            arrays={name: array.cpu() for name, array in arrays.items()},
        )

    def find(
        self,
        look: Look,
        descriptors: Iterable[str] = ("h", "eta_conv", "eta"),
        recipe: Recipe | None = None,
        metric: Metric = "l1",
        k: int = 5,
        without: int | None = None,
    ) -> Answers:
        """Finds the k nearest images by each descriptor.

        Args:
            look: the picture that is searched for.
            descriptors: names as in `search`.
            recipe: of eta_conv, by default the store's.
            metric: as in `search`.
            k: how many images are found.
            without: a row that is not to be found, that of the picture itself.

        Returns:
            {descriptor: (rows (k,) int64, distances (k,) float64)}, nearest first.

        Raises:
            ValueError: what `search` raises, and for a recipe that the store neither holds nor can
                compute.
        """
        recipe = check_recipe(**recipe or self.store.recipe)
        store = self._store_by(recipe)
        descriptors = list(descriptors)
        if not descriptors:
            return {}
        # One more, since the picture itself is among the nearest.
        wanted = k if without is None else min(k + 1, int(store.described.sum()))
        queries = {name: self._vector(store, look, name, recipe) for name in descriptors}
        hits = search(store, queries, descriptors, metric=metric, k=wanted)
        found = {}
        for name, each in hits.items():
            rows, distances = each.indices[0], each.distances[0]
            others = np.flatnonzero(rows != without)[:k]
            found[name] = (rows[others], distances[others])
        return found

    def row_of(self, path: Path) -> int | None:
        """Finds an image in the store.

        Args:
            path: its file.

        Returns:
            Its row, or None where the store does not have it.
        """
        try:
            return self.store.files.index(path.relative_to(self.store.root).as_posix())
        except ValueError:
            return None

    def can(self, recipe: Recipe) -> bool:
        """Tells whether a recipe can be asked for.

        Args:
            recipe: all of its settings.

        Returns:
            Whether the store holds it, or what it can be computed from.
        """
        stored = self.store.recipe["balance"]
        follows = stored == recipe["balance"] or (stored == "none" and self._in_memory)
        return follows and self._source_of(recipe) != ""

    def regions(self, look: Look, recipe: Recipe | None = None) -> list[Region]:
        """Computes the significant regions of every block (Eq. 8-13), and what Eq. 14 weighs.

        Args:
            look: the picture.
            recipe: by default the store's.

        Returns:
            [(z_m (H_m, W_m) int32, z_m * mean_k y_{m,k} (H_m, W_m) float32), ..], m = 1..N.
        """
        recipe = check_recipe(**recipe or self.store.recipe)
        z_N = significant(look.ys[-1], recipe["q"], recipe["threshold"])
        z = significance_map(z_N, recipe["counting"])  # (1, H_N, W_N)
        regions = []
        for y in look.ys:
            z_m = trace(z, y.shape[-2:])[0].int().numpy()  # (H_m, W_m)
            regions.append((z_m, z_m * y[0].mean(dim=0).numpy()))
        return regions

    def parts(
        self,
        look: Look,
        row: int,
        descriptor: str = "eta",
        recipe: Recipe | None = None,
        metric: Metric = "l1",
    ) -> "pd.Series[float]":
        """Shares a distance out among the parts of a descriptor (y_6, w_1, ..).

        Of L1 the absolute differences are shared out, of L2 the squared ones. Of cosine it is the
        squared ones of vectors of unit length, whose sum is twice the distance.

        Args:
            look: the picture.
            row: the row of the store that it is compared with.
            descriptor: a name, or several joined by "+".
            recipe: by default the store's.
            metric: as in `search`.

        Returns:
            {part: share} with sum 1, or all 0 where there is no distance.
        """
        recipe = check_recipe(**recipe or self.store.recipe)
        store = self._store_by(recipe)
        query, found = {}, {}
        for name in self._part_names(descriptor):
            query[name] = self._vector(store, look, name, recipe)[0].astype(float)
            found[name] = store[name][row].astype(float)
        if metric == "cosine":
            query = _unit(query)
            found = _unit(found)
        power = 1 if metric == "l1" else 2
        sums = pd.Series(
            {name: (np.abs(query[name] - found[name]) ** power).sum() for name in query}
        )
        return sums / (sums.sum() or 1)

    def _part_names(self, descriptor: str) -> list[str]:
        """The layers and blocks of a descriptor; what has none is its own only part."""
        dims = self.store.dims
        blocks, codes = layer_names(len(dims["blocks"]), len(dims["codes"]))
        layers = {"h": codes, "eta_conv": blocks, "eta": blocks + codes}
        names: list[str] = []
        for name in descriptor.split("+"):
            names += layers.get(name, [name])
        return names

    def _store_by(self, recipe: Recipe) -> Store:
        """The store as if it had been made by another recipe."""
        if recipe == self.store.recipe:
            return self.store
        if not self.can(recipe):
            raise ValueError(
                f"this store holds the recipes {list(self.recipes)} only: {self.fixed}"
            )
        name = self._source_of(recipe)
        if self._kept().get(name) == recipe:
            conv = self.store.arrays[name]
        else:
            conv = self._conv_by_recipe(tuple(recipe.items()))
        other = copy(self.store)
        other.arrays = self.store.arrays | {
            "eta_conv": conv,
            "h": self._codes_by_balance(recipe["balance"]),
        }
        return other

    def _computable(self) -> dict[str, Recipe]:
        """The recipes of `RECIPES` that windows and codes give: lengths cannot be given back."""
        balance = self.store.recipe["balance"]
        if balance == "none":
            return dict(RECIPES)
        return {name: recipe for name, recipe in RECIPES.items() if recipe["balance"] == balance}

    def _all_codes(self, balance: Balance) -> Any:
        """The codes of all images by another balance, (N, D_1 + D_2)."""
        codes = self.store.arrays["h"]
        if balance == self.store.recipe["balance"]:
            return codes
        return self._balanced_codes(torch.from_numpy(np.asarray(codes[:])), balance).numpy()

    def _balanced_codes(self, codes: torch.Tensor, balance: Balance) -> torch.Tensor:
        """Codes (n, D_1 + D_2) as stored, by another balance."""
        stored = self.store.recipe["balance"]
        if balance == stored:
            return codes
        if stored != "none":
            raise ValueError(f"this store holds codes of balance {stored!r} only")
        parts = codes.split(list(self.store.dims["codes"]), dim=1)
        return torch.cat(balanced(parts, balance), dim=1) if parts else codes

    def _kept(self) -> dict[str, Recipe]:
        """{array: the recipe by which it is eta_conv}."""
        kept = {"eta_conv": self.store.recipe}
        for name, what in self.store.extras.items():
            if isinstance(what, dict):
                kept[name] = what
            elif what == "average":
                kept[name] = AVERAGED
        return kept

    def _source_of(self, recipe: Recipe) -> str:
        """The array that is eta_conv by a recipe, or gives it; "" where there is none."""
        kept = self._kept()
        unbalanced = recipe | Recipe(balance="none")
        for wanted in [recipe, unbalanced] if self._in_memory else [recipe]:
            for name, made_by in kept.items():
                if made_by == wanted:
                    return name
        return "windows" if self.live else ""

    def _conv(self, arrays: Mapping[str, Any], recipe: Recipe) -> torch.Tensor:
        """eta_conv (n, sum C_m) by a recipe, from some rows of the arrays {name: (n, D)}."""
        name = self._source_of(recipe)
        blocks = self.store.dims["blocks"]
        source = torch.as_tensor(arrays[name])
        if name == "windows":
            return weigh(split_windows(source, blocks), **recipe)
        if self._kept()[name] == recipe:
            return source
        parts = source.split([channels for channels, *_ in blocks], dim=1)
        return torch.cat(balanced(parts, recipe["balance"]), dim=1)

    def _all_conv_descriptors(self, recipe: tuple[tuple[str, Any], ...]) -> NDArray[np.float32]:
        """eta_conv of all images by a recipe that no array holds: (N, sum C_m) float32."""
        asked = check_recipe(**dict(recipe))
        name = self._source_of(asked)
        array = self.store.arrays[name]
        pieces = []
        for start in range(0, len(self.store), BATCH):
            pieces.append(self._conv({name: array[start : start + BATCH]}, asked).numpy())
        return np.concatenate(pieces)

    def _vector(
        self, store: Store, look: Look, descriptor: str, recipe: Recipe
    ) -> NDArray[np.float32]:
        """A picture's descriptor (1, D) by a recipe, made as the store's rows were."""
        arrays = look.arrays
        if recipe != self.store.recipe:
            codes = self._balanced_codes(arrays["h"], recipe["balance"])
            arrays = arrays | {"eta_conv": self._conv(arrays, recipe), "h": codes}
        pieces = [arrays[name][:, first:end] for name, first, end in store.parts(descriptor)]
        return np.concatenate(pieces, axis=1)


def _without_windows(store: Store) -> str:
    """Why the threshold of a store cannot be moved, how it could, and what that costs."""
    _, height, width = store.dims["blocks"][-1]
    size = 4 * height * width * sum(channels for channels, *_ in store.dims["blocks"])
    return (
        "this store does not keep the blocks' means over windows. To get them, describe the images "
        "again with -p windows true and another --name (in Python: "
        'extras={"windows": "windows"}). They take '
        f"{_bytes(size)} an image, {_bytes(size * len(store))} for these {len(store):,}"
    )


def _bytes(size: float) -> str:
    """A number of bytes in words."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.0f} {unit}"
    return f"{size / 1000:.1f} GB"


def _stretches(transform: Transform) -> bool:
    """Whether a transform begins with a resize to a square, so that the whole image is seen."""
    first, *_ = getattr(transform, "transforms", [None])
    return isinstance(first, T.Resize) and len(first.size) == 2


def _stored_recipes(store: Store) -> dict[str, Recipe]:
    """The recipes that a store holds: its own, and those of its extras."""
    recipes = {_recipe_name(store.recipe): store.recipe}
    for name, made_by in store.extras.items():
        if isinstance(made_by, dict):
            recipes[name] = made_by
    return recipes


def _recipe_name(recipe: Recipe) -> str:
    for name, known in RECIPES.items():
        if known == recipe:
            return name
    return "as stored"


def _unit(parts: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Parts of one vector, divided by the length of the whole; zeros stay zeros."""
    norm = np.sqrt(sum((part**2).sum() for part in parts.values()))
    return {name: part / (norm or 1) for name, part in parts.items()}
