"""Why an image was found: one picture against a store by any recipe, and what made a distance."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from . import figures, plots
from .color import color_histogram
from .common import AnyPath, Metric
from .descriptors import (
    RECIPES,
    Recipe,
    check_recipe,
    significance_map,
    significant,
    split_windows,
    window_means,
)
from .extract import Describer
from .images import open_image
from .names import layer_names, symbol
from .networks import Network, to_picture
from .search import search
from .store import Part, Store
from .trained import network_of

BATCH = 128  # images that are described again at once: what they need stays in the cache
MEMORY = 4e9  # bytes that may be read to describe all images again: more would take minutes


class Look(NamedTuple):
    """One picture and what the network made of it.

    Attributes:
        picture: (H, W, 3) uint8, as the network saw it.
        aspect: width / height of what it shows, before it was stretched.
        histogram: (75,) float64, of the image itself.
        ys: the blocks [(1, C_m, H_m, W_m), ..], float32 on the CPU.
        codes: [(1, D), ..], float32 on the CPU.
    """

    picture: NDArray[np.uint8]
    aspect: float
    histogram: NDArray[np.float64]
    ys: list[torch.Tensor]
    codes: list[torch.Tensor]

    def regions(self, **recipe: Any) -> NDArray[np.int64]:
        """Eq. 8 and 13: how many channels of the last block find a position significant.

        Returns:
            (H_N, W_N) int64. The blocks before have the same map, its cells enlarged (Eq. 11-12).
        """
        recipe = check_recipe(**recipe)
        z_N = significant(self.ys[-1], recipe["q"], recipe["threshold"])
        return significance_map(z_N, recipe["counting"])[0].long().numpy()


class Explorer:
    """A store to ask again and again, by its own recipe and by others.

    With the extra "windows" the images follow every recipe; without it they follow the store's own,
    and the same at unit length.

    Args:
        store: the store.
        net: the network that made it, by default the one that the store names.
        windows: a store of the same images that has "windows", where they lie in another one.

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

    def __init__(
        self, store: Store, net: Network | None = None, windows: Store | None = None
    ) -> None:
        self.store, self.windows = store, windows or store
        self.net = network_of(store.network, net, folder=Path(store.location).parent)
        channels = sum(count for count, *_ in store.dims["blocks"])
        _, height, width = store.dims["blocks"][-1]
        each = 4 * channels * height * width  # bytes
        self.fixed = ""
        if "windows" not in self.windows.extras:
            self.fixed = (
                "the store has no window means. Describe the images with -p windows true and "
                f"another --name: they take {each / 1e3:.0f} kB an image"
            )
        elif each * len(store) > MEMORY:
            self.fixed = f"describing all images again takes {each * len(store) / 1e9:.1f} GB"
        self.recipes = {name: recipe for name, recipe in RECIPES.items() if self.can(recipe)}
        if store.recipe not in self.recipes.values():
            self.recipes["as stored"] = store.recipe
        self.descriptors = [
            name for name in store.descriptors if name != "windows" and store[name].shape[1]
        ]
        self._again = lru_cache(4)(self._describe_again)
        self._looks = lru_cache(64)(self._look)

    def can(self, recipe: Recipe) -> bool:
        """Returns whether all images can be described by a recipe (all of its settings)."""
        own, balance = self.store.recipe, recipe["balance"]
        if recipe == own or own["balance"] not in ("none", balance):
            return recipe == own  # lengths cannot be given back
        if self.fixed:
            small = 4 * self.store["eta"].shape[1] * len(self.store) <= MEMORY
            return small and recipe == own | Recipe(balance=balance)
        return True

    def look(self, image: AnyPath | int | Image.Image) -> Look:
        """Looks at a file, a row of the store, or an RGB image. Files and rows are remembered.

        Raises:
            UnreadableImage: the file cannot be read.
        """
        if isinstance(image, Image.Image):
            return self._look(image)
        return self._looks(str(self.store.path(image) if isinstance(image, int) else image))

    def _look(self, image: AnyPath | Image.Image) -> Look:
        image = open_image(image)
        batch = self.net.transform(image)[None]  # (1, 3, H, W)
        ys, codes = self.net(batch)
        picture = to_picture(batch[0], self.net.transform)
        height, width = picture.shape[:2]
        crops = "Crop" in str(self.net.transform)
        return Look(
            picture=picture,
            aspect=width / height if crops else image.width / image.height,
            histogram=color_histogram(np.asarray(image)),
            ys=[y.float().cpu() for y in ys],
            codes=[code.float().cpu() for code in codes],
        )

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
        query, database = self._arrays(look, recipe)
        wanted = k if without is None else min(k + 1, int(self.store.described.sum()))
        found = {}
        for name in descriptors:
            parts = self.store.parts(name)
            if database is self.store.arrays:
                hits = search(self.store, _columns(query, parts), name, metric, wanted)
            else:
                rows = _columns(database, parts)
                hits = search(rows, _columns(query, parts), metric=metric, k=wanted)
            others = np.flatnonzero(hits.indices[0] != without)[:k]
            found[name] = (hits.indices[0][others], hits.distances[0][others])
        return found

    def shares(
        self,
        look: Look,
        row: int,
        descriptor: str = "eta",
        recipe: Recipe | None = None,
        metric: Metric = "l1",
    ) -> "pd.Series[float]":
        """Shares a distance out among the parts of a descriptor (y_6, w_1, ..).

        Of L1 the absolute differences are shared out, of L2 the squared ones; of cosine the squared
        ones of vectors of unit length, whose sum is twice the distance.

        Args:
            look: the picture.
            row: the row of the store that it is compared with.
            descriptor: a name, or several joined by "+".
            recipe: default the store's.
            metric: as in `search`.

        Returns:
            {part: share} with sum 1, or all 0 where there is no distance.
        """
        blocks, codes = layer_names(*(len(self.store.dims[kind]) for kind in ("blocks", "codes")))
        layers = {"h": codes, "eta_conv": blocks, "eta": codes + blocks}
        parts = [part for name in descriptor.split("+") for part in layers.get(name, [name])]
        pair = []
        for arrays, which in zip(self._arrays(look, recipe), (0, row)):
            rows = {p: _columns(arrays, self.store.parts(p), which).astype(float) for p in parts}
            length = np.linalg.norm(np.concatenate(list(rows.values()))) or 1
            pair.append({p: x / length if metric == "cosine" else x for p, x in rows.items()})
        power = 1 if metric == "l1" else 2
        sums = pd.Series({p: (np.abs(pair[0][p] - pair[1][p]) ** power).sum() for p in parts})
        return sums / (sums.sum() or 1)

    def _arrays(self, look: Look, recipe: Recipe | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays of a picture and of all images by a recipe, {name: (1, D)}, {name: (N, D)}."""
        recipe = check_recipe(**recipe or self.store.recipe)
        if not self.can(recipe):
            raise ValueError(f"the images cannot follow the recipe {recipe}: {self.fixed}")
        describer = Describer(self.net, recipe, self.store.extras)
        colors = torch.from_numpy(look.histogram).float()[None]
        query = describer.arrays(look.ys, window_means(look.ys), look.codes, colors)
        if recipe == self.store.recipe:
            return query, self.store.arrays
        return query, self.store.arrays | self._again(tuple(recipe.items()))

    def _describe_again(self, recipe: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        """H and eta_conv of all images by another recipe, {name: (N, D)}."""
        asked = check_recipe(**dict(recipe))
        blocks = self.store.dims["blocks"]
        if self.fixed:  # only lengths change: w_m is like a window of one cell, all significant
            source, blocks = self.store["eta_conv"], [(count, 1, 1) for count, *_ in blocks]
            asked = check_recipe(q=0, balance=asked["balance"])
        else:
            source = self.windows["windows"]
        describer = Describer(self.net, asked)
        batches = []
        for first in range(0, len(self.store), BATCH):
            rows = slice(first, first + BATCH)
            means = split_windows(torch.from_numpy(source[rows]), blocks)
            codes = torch.from_numpy(self.store["h"][rows]).split(self.store.dims["codes"], dim=1)
            batches.append(describer.arrays([], means, codes, torch.empty(0)))
        return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}


def _columns(arrays: dict[str, Any], parts: Iterable[Part], rows: Any = slice(None)) -> Any:
    """Parts of a descriptor side by side: (n, D), or (D,) of one row."""
    pieces = [np.asarray(arrays[name][rows])[..., first:end] for name, first, end in parts]
    return np.concatenate(pieces, axis=-1, dtype=np.float32)


def explain(
    query: Look, found: Look, shares: "pd.Series[float]", descriptor: str = "eta", **recipe: Any
) -> Figure:
    """Draws why an image was found.

    A row is a picture: as the network saw it, where neurons are significant (Eq. 13), its colours.
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
    grid = fig.add_gridspec(3, 3, width_ratios=[0.8, 1, 2.9], height_ratios=[1, 1, 0.35])
    for line, (role, look) in enumerate({"query": query, "found": found}.items()):
        picture, regions, colors = (fig.add_subplot(grid[line, column]) for column in range(3))
        figures.bare(picture).imshow(look.picture)
        picture.set_ylabel(role)
        z = look.regions(**recipe)
        figures.significant_regions([regions], look.picture, [z])
        figures.count_bar(regions, z)
        height, width = look.picture.shape[:2]
        for ax in (picture, regions):  # pulled back to the proportions that the image had
            ax.set_aspect(width / height / look.aspect)
        figures.histogram(colors, look.histogram)
        if line == 0:
            colors.set_xlabel("")
            regions.set_title("significant neurons")
            colors.set_title("colours")
    bar = fig.add_subplot(grid[2, :])
    plots.contributions(bar, shares.to_frame(descriptor).T)
    bar.set_xlabel(f"what each layer adds to the distance by {symbol(descriptor)}")
    bar.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9), ncols=len(shares))
    return fig
