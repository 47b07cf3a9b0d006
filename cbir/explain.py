"""Why an image was found: one picture against a store by any recipe, and what made a distance."""

from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from . import descriptors, figures, plots
from .color import color_histogram
from .common import AnyPath, Metric
from .descriptors import RECIPES, Recipe, check_recipe
from .extract import Describer, has_windows_of
from .images import open_image
from .names import layer_names, symbol
from .networks import Network, to_picture
from .search import search
from .store import Store, find_store
from .trained import network_of

BATCH = 128  # images that are described again at once: what they need stays in the cache
MEMORY = 4  # GB that may be read to describe all images again: more would take minutes


class Look(NamedTuple):
    """One picture and what the network made of it.

    Attributes:
        picture: (H, W, 3) uint8, reduced; where the network saw a part, that part.
        histogram: (75,) float64, of the image itself.
        ys: the blocks [(1, C_m, H_m, W_m), ..], float32 on the CPU.
        codes: [(1, D), ..], float32 on the CPU.
    """

    picture: NDArray[np.uint8]
    histogram: NDArray[np.float64]
    ys: list[torch.Tensor]
    codes: list[torch.Tensor]

    def regions(self, **recipe: Any) -> NDArray[np.int64]:
        """Eq. 8 and 13: how many channels of the last block find a position significant.

        Returns:
            (H_N, W_N) int64. The blocks before have the same map, its cells enlarged (Eq. 11-12).
        """
        recipe = check_recipe(**recipe)
        z_N = descriptors.significant(self.ys[-1], recipe["q"], recipe["threshold"])
        return descriptors.significance_map(z_N, recipe["counting"])[0].long().numpy()


class Explorer:
    """A store to ask again and again, by its own recipe and by others.

    Where window means are kept the images follow every recipe; elsewhere they follow the store's
    own, and the same at unit length. Stores of retrained codes have them in windows/database,
    beside them.

    Args:
        store: the store.
        net: the network that made it, by default the one that the store names.

    Attributes:
        fixed: why q cannot be moved, "" where it can.
        recipes: {name: recipe}, those that can be asked for.
        descriptors: the names that can be searched by.

    Raises:
        ValueError: `net` is not the network that made the store.

    Example:
        explorer = Explorer(cbir.open_store("runs/embedded/stores/database"))
        look = explorer.look("mug.jpg")
        rows, distances = explorer.find(look, ["eta"], cbir.AS_PRINTED | {"q": 1})["eta"]
        explorer.shares(look, rows[0])
    """

    def __init__(self, store: Store, net: Network | None = None) -> None:
        beside = Path(store.location).parent
        self.store, self.net = store, network_of(store.network, net, folder=beside)
        kept = store if "windows" in store.extras else find_store(beside / "windows" / "database")
        if kept not in (store, None) and not has_windows_of(kept, self.net.with_head(None)):
            kept = None
        self.windows: Any = kept if kept and kept.files == store.files else None
        size = 4e-9 * np.prod(store.dims["blocks"][-1][1:]) * store.eta_conv.shape[1] * len(store)
        fits = self.windows is not None and size <= MEMORY
        needs = f"it needs windows (-p windows true), {size:.2g} GB here, of at most {MEMORY} GB"
        self.fixed = "" if fits else needs
        own = store.recipe
        choices = RECIPES | {"as_stored": own, "stored_at_unit_length": own | {"balance": "l2"}}
        self.recipes: dict[str, Recipe] = {}
        for name, recipe in choices.items():
            if self.can(recipe) and recipe not in self.recipes.values():
                self.recipes[name] = recipe
        self.descriptors = [d for d in store.descriptors if d != "windows" and store[d].shape[1]]
        self._again = lru_cache(4)(self._describe_again)

    def can(self, recipe: Recipe) -> bool:
        """Returns whether all images can be described by a recipe (all of its settings)."""
        own, balance = self.store.recipe, recipe["balance"]
        if recipe == own or own["balance"] not in ("none", balance):
            return recipe == own  # lengths cannot be given back
        small = 4e-9 * self.store.eta.shape[1] * len(self.store) <= MEMORY
        return not self.fixed or (small and recipe == own | Recipe(balance=balance))

    def look(self, image: AnyPath | int | Image.Image) -> Look:
        """Looks at a file, a row of the store, or an image. Raises UnreadableImage."""
        image = open_image(self.store.path(image) if isinstance(image, int) else image)
        batch = self.net.transform(image)[None]  # (1, 3, H, W)
        ys, codes = ([part.float().cpu() for part in parts] for parts in self.net(batch))
        picture = figures.thumbnail(image)
        if "Crop" in str(self.net.transform):
            picture = to_picture(batch[0], self.net.transform)
        return Look(picture, color_histogram(np.asarray(image)), ys, codes)

    def find(
        self,
        look: Look,
        descriptors: Iterable[str] = ("h", "eta_conv", "eta"),
        recipe: Recipe | None = None,
        metric: Metric = "l1",
        k: int = 5,
        without: int | None = None,
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Finds the k nearest images by each descriptor.

        Args:
            look: the picture that is searched for.
            descriptors: names as in `search`.
            recipe: default the store's.
            metric: as in `search`.
            k: how many images are found.
            without: a row that is not to be found, that of the picture itself.

        Returns:
            {descriptor: (rows (k,), distances (k,))}, nearest first.

        Raises:
            ValueError: what `search` raises, and for a recipe that the images cannot follow.
        """
        query, images = self._described(look, recipe)
        wanted = k if without is None else min(k + 1, int(self.store.described.sum()))
        queries = {name: query[name][:] for name in descriptors}
        found = {}
        hits_by = search(images, queries, list(queries), metric=metric, k=wanted)
        for name, hits in hits_by.items():
            others = np.flatnonzero(hits.indices[0] != without)[:k]
            found[name] = (hits.indices[0][others], hits.distances[0][others])
        return found

    def shares(
        self, look: Look, row: int, name: str, recipe: Recipe | None = None, metric: Metric = "l1"
    ) -> "pd.Series[float]":
        """Shares a distance out among the parts of a descriptor (y_6, w_1, ..).

        Of L1 the absolute differences are shared out, of L2 the squared ones; of cosine the squared
        ones of vectors of unit length, whose sum is twice the distance.

        Args:
            look: the picture.
            row: the row of the store that it is compared with.
            name: of the descriptor, or several joined by "+".
            recipe: default the store's.
            metric: as in `search`.

        Returns:
            {part: share} with sum 1, or all 0 where there is no distance.
        """
        blocks, codes = layer_names(*(len(self.store.dims[kind]) for kind in ("blocks", "codes")))
        layers = {"h": codes, "eta_conv": blocks, "eta": codes + blocks}
        parts = [part for one in name.split("+") for part in layers.get(one, [one])]
        query, images = self._described(look, recipe)
        a, b = query["+".join(parts)][0].astype(float), images["+".join(parts)][row].astype(float)
        if metric == "cosine":
            a, b = (x / (np.linalg.norm(x) or 1) for x in (a, b))
        terms = np.abs(a - b) ** (1 if metric == "l1" else 2)
        ends = np.cumsum([self.store[part].shape[1] for part in parts])
        sums = pd.Series([piece.sum() for piece in np.split(terms, ends[:-1])], index=parts)
        return sums / (sums.sum() or 1)

    def _described(self, look: Look, recipe: Recipe | None) -> tuple[Store, Store]:
        """A picture and all images, described by a recipe: the store with other arrays."""
        recipe = check_recipe(**recipe or self.store.recipe)
        if not self.can(recipe):
            raise ValueError(f"the images cannot follow the recipe {recipe}: {self.fixed}")
        query, images = copy(self.store), copy(self.store)
        colors = torch.from_numpy(look.histogram).float()[None]
        describer = Describer(self.net, recipe, self.store.extras)
        arrays = describer.arrays(look.ys, descriptors.window_means(look.ys), look.codes, colors)
        query.arrays = {name: array.numpy() for name, array in arrays.items()}
        if recipe != self.store.recipe:
            images.arrays = images.arrays | self._again(tuple(recipe.items()))
        return query, images

    def _describe_again(self, recipe: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        """H and eta_conv of all images by another recipe, {name: (N, D)}."""
        asked, blocks = check_recipe(**dict(recipe)), self.store.dims["blocks"]
        if self.fixed:  # only lengths change: w_m is like a window of one cell, all significant
            source, blocks = self.store.eta_conv, [(count, 1, 1) for count, *_ in blocks]
            asked = check_recipe(q=0, balance=asked["balance"])
        else:
            source = self.windows["windows"]
        describer = Describer(self.net, asked)
        batches = []
        for first in range(0, len(self.store), BATCH):
            rows = slice(first, first + BATCH)
            means = descriptors.split_windows(torch.from_numpy(source[rows]), blocks)
            codes = torch.from_numpy(self.store.h[rows]).split(self.store.dims["codes"], dim=1)
            batches.append(describer.arrays([], means, codes, torch.empty(0)))
        return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}


def explain(
    query: Look, found: Look, shares: "pd.Series[float]", descriptor: str = "eta", **recipe: Any
) -> Figure:
    """Draws why an image was found.

    A row is a picture: the image, where neurons are significant (Eq. 13), its colours.
    The bar below shows what each layer adds to the distance.

    Args:
        query: the picture that was searched for.
        found: the image that was found.
        shares: {part: share} of the distance, as `Explorer.shares` gives them.
        descriptor: that they are the parts of.
        recipe: of the map, the keywords of `conv_descriptor`.

    Returns:
        The figure; no window shows it.
    """
    fig = Figure(figsize=(7.2, 4.3), layout="constrained")
    ratios = {"width_ratios": [0.8, 1, 2.9], "height_ratios": [1, 1, 0.35]}
    *panels, bar = fig.subplot_mosaic("abc;def;ggg", gridspec_kw=ratios).values()
    for role, look, first in [("query", query, 0), ("found", found, 3)]:
        picture, regions, colors = panels[first : first + 3]
        figures.bare(picture).imshow(look.picture)
        picture.set_ylabel(role)
        z = look.regions(**recipe)
        figures.significant_regions([regions], look.picture, [z])
        figures.count_bar(regions, z)
        figures.histogram(colors, look.histogram)
    panels[1].set_title("significant neurons")
    panels[2].set(title="colours", xlabel="")
    plots.contributions(bar, shares.to_frame(descriptor).T)
    bar.set_xlabel(f"what each layer adds to the distance by {symbol(descriptor)}")
    bar.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9), ncols=len(shares))
    return fig
