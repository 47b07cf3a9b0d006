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

from . import descriptors as equations
from . import figures, plots
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
    """One picture and what the network made of it, float32 on the CPU."""

    picture: NDArray[np.uint8]  # (H, W, 3), reduced; if the network saw a part, that part
    histogram: NDArray[np.float64]  # (75,), of the image itself
    ys: list[torch.Tensor]  # the blocks (1, C_m, H_m, W_m)
    codes: list[torch.Tensor]  # (1, D)

    def regions(self, **recipe: Any) -> NDArray[np.int64]:
        """Counts the channels of y_N that find a position significant (Eq. 8, 13): (H_N, W_N)."""
        recipe = check_recipe(**recipe)
        z_N = equations.significant(self.ys[-1], recipe["q"], recipe["threshold"])
        return equations.significance_map(z_N, recipe["counting"])[0].long().numpy()


class Explorer:
    """A store to ask again and again, by its own recipe and by others.

    Images with window means, in the store or in windows/database beside it, follow every recipe;
    others the store's own, and the same at unit length. Of a store whose own recipe has a balance
    they follow only recipes of that balance, without window means only its own.

    Args:
        store: the store.
        net: the network that made it, default the one that the store names.

    Attributes:
        fixed: why q cannot be moved, "" if it can.
        recipes: {name: recipe}, those that can be asked for.
        descriptors: the names that can be searched by.

    Raises:
        ValueError: `net` is not the network that made the store.

    Example:
        explorer = Explorer(cbir.open_store("runs/scenes/stores/database"))
        look = explorer.look("mug.jpg")
        rows, distances = explorer.find(look, ["eta"], cbir.AS_PRINTED | {"q": 1})["eta"]
        explorer.shares(look, rows[0])
    """

    def __init__(self, store: Store, net: Network | None = None) -> None:
        self.store, self.net = store, network_of(store, net)
        self.windows: Any = store
        if "windows" not in store.extras:
            kept = find_store(Path(store.location).parent / "windows" / "database")
            trunk = self.net.with_head(None)
            usable = kept and kept.files == store.files and has_windows_of(kept, trunk)
            self.windows = kept if usable else None
        size = 4e-9 * np.prod(store.dims["blocks"][-1][1:]) * store.eta_conv.shape[1] * len(store)
        needs = f"it needs windows (-p windows true), {size:.2g} GB here, of at most {MEMORY} GB"
        self.fixed = "" if self.windows is not None and size <= MEMORY else needs
        own = store.recipe
        choices = RECIPES | {"as_stored": own, "stored_at_unit_length": own | {"balance": "l2"}}
        self.recipes: dict[str, Recipe] = {}
        for name, recipe in choices.items():
            if self.can(recipe) and recipe not in self.recipes.values():
                self.recipes[name] = recipe
        self.descriptors = [d for d in store.descriptors if d != "windows" and store[d].shape[1]]
        self._again = lru_cache(4)(self._describe_again)

    def can(self, recipe: Recipe) -> bool:
        """Tells whether all images can be described by a recipe (all of its settings)."""
        own, balance = self.store.recipe, recipe["balance"]
        if recipe == own or own["balance"] not in ("none", balance):
            return recipe == own  # lengths cannot be given back
        small = 4e-9 * self.store.eta.shape[1] * len(self.store) <= MEMORY
        return not self.fixed or (small and recipe == own | Recipe(balance=balance))

    def look(self, image: AnyPath | int | Image.Image) -> Look:
        """Looks at a file, a row of the store, or an image; may raise UnreadableImage."""
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
        """Finds the k nearest images by each descriptor, by default with the store's recipe.

        The row `without`, that of the picture itself, is not found.

        Returns:
            {descriptor: (rows (k,), distances (k,))}, nearest first.

        Raises:
            ValueError: the images cannot follow the recipe; and what `search` raises.
        """
        query, images = self._described(look, recipe)
        wanted = k if without is None else min(k + 1, int(self.store.described.sum()))
        queries = {name: query[name][:] for name in descriptors}
        found = {}
        for name, hits in search(images, queries, [*queries], metric=metric, k=wanted).items():
            others = np.flatnonzero(hits.indices[0] != without)[:k]
            found[name] = (hits.indices[0][others], hits.distances[0][others])
        return found

    def shares(
        self, look: Look, row: int, name: str, recipe: Recipe | None = None, metric: Metric = "l1"
    ) -> "pd.Series[float]":
        """Shares a distance out among the parts of a descriptor (y_6, w_1, ..).

        Shared out are absolute differences for L1, squared ones for L2, those of vectors of unit
        length for cosine. The row is of the store; a name may join several by "+".

        Returns:
            {part: share} with sum 1, or all 0 if there is no distance.
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
        """Returns the store with other arrays: of the picture, and of all images, by a recipe."""
        recipe = check_recipe(**recipe or self.store.recipe)
        if not self.can(recipe):
            why = self.fixed if self.store.recipe["balance"] == "none" else "lengths are lost"
            raise ValueError(f"the images cannot follow the recipe {recipe}: {why}")
        query, images = copy(self.store), copy(self.store)
        colors = torch.from_numpy(look.histogram).float()[None]
        describer = Describer(self.net, recipe, self.store.extras)
        arrays = describer.arrays(look.ys, equations.window_means(look.ys), look.codes, colors)
        query.arrays = {name: array.numpy() for name, array in arrays.items()}
        if recipe != self.store.recipe:
            images.arrays = images.arrays | self._again(tuple(recipe.items()))
        return query, images

    def _describe_again(self, recipe: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        """Describes all images by another recipe: h and eta_conv, {name: (N, D)}."""
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
            means = equations.split_windows(torch.from_numpy(source[rows]), blocks)
            codes = torch.from_numpy(self.store.h[rows]).split(self.store.dims["codes"], dim=1)
            batches.append(describer.arrays([], means, codes, torch.empty(0)))
        return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}


def explain(
    query: Look, found: Look, shares: "pd.Series[float]", descriptor: str = "eta", **recipe: Any
) -> Figure:
    """Draws why an image was found: significant neurons (Eq. 13), colours, shares of the distance.

    Args:
        query: the picture that was searched for.
        found: the image that was found.
        shares: as `Explorer.shares` gives them.
        descriptor: that they are the parts of.
        recipe: of the map, the keywords of `conv_descriptor`.
    """
    fig: Any = Figure(figsize=(7.2, 4.3), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=[2.6, 1])
    panels, bar = above.subplots(2, 3, width_ratios=[1, 1, 2.4]), below.subplots()
    maps = [look.regions(**recipe) for look in (query, found)]
    scale = np.concatenate([z.ravel() for z in maps])  # one for both
    figures.count_bar(panels[0, 1], scale)
    looks = zip(("query", "found"), (query, found), maps, panels)
    for role, look, z, (picture, regions, colors) in looks:
        figures.bare(picture).imshow(look.picture)
        picture.set_ylabel(role)
        figures.significant_regions([regions], look.picture, [z], scale=scale)
        figures.histogram(colors, look.histogram)
    panels[0, 1].set_title("significant neurons")
    panels[0, 2].set(title="colours", xlabel="")
    plots.contributions(bar, shares.to_frame(descriptor).T)
    bar.set_xlabel(f"what each layer adds to the distance by {symbol(descriptor)}")
    bar.get_legend().remove()
    below.legend(loc="outside lower center", ncols=len(shares))
    return fig
