"""Does the selection of neurons matter? What notebooks 05 to 07 and data/results/ compare.

Everything is computed from two stores with the extras "windows" and "color": no image is opened
again. The control is h + average: η without any selection.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from .common import Balance, Metric
from .descriptors import AS_RELEASED, Windows, balanced, significant, split_windows, weigh, weigh_by
from .evaluation import Evaluation, Ints
from .pooling import average
from .search import search
from .store import Store

Array: TypeAlias = NDArray[np.float32]
Scores: TypeAlias = dict[str, pd.DataFrame]  # {descriptor: what `Evaluation` gives}
Parts: TypeAlias = Sequence[str] | Mapping[str, float]
Some: TypeAlias = Sequence[int] | None

EXTRAS = {"windows": "windows", "color": "color"}  # that an `Experiment` needs
BALANCES: dict[str, Balance] = {"as they are": "none", "unit length": "l2"}
SELECTIONS: dict[str, Any] = {
    "q = 0.5": {"q": 0.5},  # as printed
    "relative": {"q": 0.5, "threshold": "relative"},
    "as released": AS_RELEASED,
}


# ---- selections of neurons ----------------------------------------------------------------------


def elsewhere(z_N: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Moves a selection to random positions, where it has the same size.

    The positions of an image are permuted, in all channels alike. So the number of neurons of every
    channel stays, and those of the positions do, in another order.

    Args:
        z_N: (B, C_N, H_N, W_N) bool.
        seed: seed of the permutations; image b's does not depend on B.

    Returns:
        (B, C_N, H_N, W_N) bool.
    """
    rng = np.random.default_rng(seed)
    flat = z_N.flatten(2)  # (B, C_N, H_N * W_N)
    moved = [image[:, torch.from_numpy(rng.permutation(image.shape[1]))] for image in flat]
    return torch.stack(moved).view(z_N.shape)


def equal_mass(y_N: torch.Tensor, z_N: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Selects random neurons whose activations add up to those of a selection.

    A selection of strong neurons moved `elsewhere` meets mostly zeros, so it is no fair control.
    Neurons are taken in random order until the sum is reached, image by image.

    Args:
        y_N: (B, C_N, H_N, W_N) float >= 0.
        z_N: (B, C_N, H_N, W_N) bool.
        seed: seed of the orders; image b's does not depend on B.

    Returns:
        (B, C_N, H_N, W_N) bool.
    """
    rng = np.random.default_rng(seed)
    chosen = torch.zeros_like(z_N).flatten(1)
    mass = (y_N * z_N).flatten(1).sum(dim=1)
    for image, activations in enumerate(y_N.flatten(1)):
        order = torch.from_numpy(rng.permutation(len(activations)))
        before = activations[order].cumsum(0) - activations[order]
        chosen[image, order[before < mass[image]]] = True
    return chosen.view(z_N.shape)


def amounts(z_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the shares of neurons selected and of positions with any such neuron, both (B,).

    Args:
        z_N: (B, C_N, H_N, W_N) bool.
    """
    return z_N.float().mean(dim=(1, 2, 3)), z_N.any(dim=1).float().mean(dim=(1, 2))


def last_block(store: Store, rows: slice = slice(None)) -> torch.Tensor:
    """Returns y_N of a store's images, from its extra "windows": (n, C_N, H_N, W_N) float32."""
    shape = store.dims["blocks"][-1]
    y_N = store["windows"][rows][:, -math.prod(shape) :]
    return torch.from_numpy(np.ascontiguousarray(y_N)).view(-1, *shape)


# ---- one network on one set of images -----------------------------------------------------------


class Experiment:
    """The selections of one network on one set of images.

    Args:
        database: a store with the extras "windows" and "color".
        queries: one of the same network.
        k: images retrieved for a query; all if there are fewer.
        seed: seed of the random selection and of all that is drawn.

    Attributes:
        parts: {part: (database (N, D), queries (Q, D))}; "h", "average", "color" and a part for
            each of `SELECTIONS`, and "elsewhere", the relative one moved to random positions.
        layers: {part: the widths of its layers}.
        judge: the `Evaluation` of both.
        classes: the queries' classes, (Q,).
    """

    def __init__(self, database: Store, queries: Store, k: int = 5, seed: int = 0) -> None:
        self.database, self.queries, self.k, self.seed = database, queries, k, seed
        self.judge = Evaluation(database, queries, (database["color"][:], queries["color"][:]))
        self.classes = np.asarray(queries.labels)
        self.parts = {"color": (database["color"][:], queries["color"][:])}
        self.layers = {"color": [75]}
        if database.dims["codes"]:
            self.set_h(database["h"][:], queries["h"][:], database.dims["codes"])
        self.add({name: partial(weigh, **recipe) for name, recipe in SELECTIONS.items()})
        self.add({"average": lambda windows: average([y for y, _ in windows])})
        self.add({"elsewhere": self._elsewhere})

    def set_h(self, database: Array, queries: Array, widths: Sequence[int]) -> None:
        """Takes other neural codes for h: (N, D), (Q, D), and the widths of their layers."""
        self.parts["h"], self.layers["h"] = (database, queries), list(widths)

    def _elsewhere(self, windows: Windows) -> torch.Tensor:
        """Selects as many neurons as the relative threshold, at random positions."""
        z_N = significant(windows[-1][0], 0.5, "relative")
        return weigh_by(elsewhere(z_N, self.seed), windows)

    def add(self, functions: Mapping[str, Callable[[Windows], torch.Tensor]]) -> None:
        """Makes more parts of the images' window means: {part: function}, see `weigh`."""
        pieces: dict[str, tuple[list[Array], list[Array]]] = {name: ([], []) for name in functions}
        for split, store in enumerate((self.database, self.queries)):
            for start in range(0, len(store), 64):  # images at a time
                flat = torch.from_numpy(store["windows"][start : start + 64])
                windows = split_windows(flat, store.dims["blocks"])
                for name, function in functions.items():
                    pieces[name][split].append(function(windows).float().numpy())
        for name, (images, queries) in pieces.items():
            self.parts[name] = np.concatenate(images), np.concatenate(queries)
            self.layers[name] = [channels for channels, *_ in self.database.dims["blocks"]]

    def descriptors(self) -> dict[str, list[str]]:
        """Returns the descriptors that are compared, each with its parts."""
        joined = {name: name.split("+") for name in ("h", "average", "h+average", "h+color")}
        for name in (*SELECTIONS, "elsewhere"):
            joined |= {f"eta_conv, {name}": [name], f"eta, {name}": ["h", name]}
        return {name: parts for name, parts in joined.items() if set(parts) <= set(self.parts)}

    def rows(self, parts: Parts, balance: Balance) -> tuple[Array, Array]:
        """Joins parts into one descriptor.

        Args:
            parts: keys of `parts`, or {key: what the part is multiplied by}.
            balance: as in `conv_descriptor`; of every layer of every part.

        Returns:
            Database (N, D) and queries (Q, D), float32.
        """
        layers: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        factors = parts if isinstance(parts, Mapping) else dict.fromkeys(parts, 1.0)
        for part, factor in factors.items():
            for joined, rows in zip(layers, self.parts[part]):
                of_part = torch.from_numpy(rows).split(self.layers[part], dim=1)
                joined += [factor * layer for layer in balanced(of_part, balance)]
        return torch.cat(layers[0], dim=1).numpy(), torch.cat(layers[1], dim=1).numpy()

    def found(
        self, parts: Parts, balance: Balance = "none", metric: Metric = "l1", within: Some = None
    ) -> Ints:
        """Searches by a descriptor.

        Args:
            parts: as in `rows`.
            balance: as in `rows`.
            metric: as in `search`.
            within: the rows of the database that are searched; default all.

        Returns:
            (Q, k) rows of the database.
        """
        images, queries = self.rows(parts, balance)
        rows = np.arange(len(images)) if within is None else np.asarray(within)
        k = min(self.k, int(self.database.described[rows].sum()))
        hits = search(images[rows], queries, metric=metric, k=k).indices
        return np.where(hits < 0, -1, rows[hits])

    def scores(
        self, balance: Balance = "none", names: Iterable[str] = (), within: Some = None
    ) -> Scores:
        """Judges descriptors: {descriptor: what `Evaluation` gives}.

        Args:
            balance: as in `rows`.
            names: of `descriptors`; default all.
            within: as in `found`.
        """
        parts = self.descriptors()
        found = {name: self.found(parts[name], balance, within=within) for name in names or parts}
        return {name: self.judge(indices, k=self.k) for name, indices in found.items()}

    def mean_distance(self, part: str, balance: Balance = "none") -> float:
        """Estimates the mean L1 distance (a sum, not divided) of 2000 random pairs."""
        rng = np.random.default_rng(self.seed)
        a, b = (rows[rng.integers(0, len(rows), 2000)] for rows in self.rows([part], balance))
        return float(np.nanmean(np.abs(a - b).sum(axis=1)))

    def share(self, part: str, balance: Balance = "none") -> float:
        """Returns the share of a part in the distance between two [h, part], 0 to 1."""
        of_h, of_part = self.mean_distance("h", balance), self.mean_distance(part, balance)
        return of_part / (of_h + of_part)

    def by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Judges [h, part] by the share that the part has in the mean distance.

        Args:
            part: a key of `parts`.
            shares: from 0, h alone, to 1, the part alone.

        Returns:
            A row per share with "share" and the means of `Evaluation`.
        """
        of_h, of_part = self.mean_distance("h"), self.mean_distance(part)
        factors = {share: {"h": (1 - share) / of_h, part: share / of_part} for share in shares}
        judged = {s: self.judge(self.found(both), k=self.k).mean() for s, both in factors.items()}
        return pd.DataFrame(judged).T.rename_axis("share").reset_index()
