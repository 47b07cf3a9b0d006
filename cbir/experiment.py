"""Does the selection of neurons matter? One network, one set of images, many selections.

Everything is computed from two stores with the extras "windows" and "color". The control is
h + average: η without any selection.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from .common import Balance, Metric
from .datasets import choose_queries
from .descriptors import AS_RELEASED, Recipe, Windows, balanced, significant, weigh, weigh_by
from .evaluation import Evaluation, PairedDifference, common_in_top_k, paired_difference
from .pooling import average
from .search import search
from .selection import describe_by, elsewhere, last_block
from .store import Store

Array = NDArray[np.float32]
Scores = dict[str, pd.DataFrame]

RELATIVE = Recipe(q=0.5, threshold="relative")
PAIRS = 2000  # of a query and an image, by which a mean distance is estimated


def recipes(high_q: float) -> dict[str, Recipe]:
    """The selections that are compared, beside the random one: {name: recipe}."""
    return {
        "q = 0.5": Recipe(q=0.5),
        "high q": Recipe(q=high_q),
        "relative": RELATIVE,
        "as released": AS_RELEASED,
    }


def high_threshold(store: Store, share: float = 0.01) -> float:
    """A threshold that selects few neurons: the value that a share of them reaches.

    Args:
        store: one with the extra "windows", whose last columns are y_N.
        share: of all neurons y_N of the first 200 images.

    Returns:
        The value, rounded to two digits: a threshold that does not hang on the last bit.
    """
    y_N = last_block(store, slice(0, 200)).numpy()
    return float(f"{np.nanquantile(y_N, 1 - share):.1e}")


class Experiment:
    """The selections of one network on one set of images.

    Args:
        database: a store with the extras "windows" and "color".
        queries: one of the same network.
        high_q: a threshold under which few neurons are significant.
        k: images retrieved for a query.
        seed: of the random selection, and of what is drawn.

    Attributes:
        parts: {part: (database (N, D), queries (Q, D))}; "h", "average", "color" and a part for
            every selection.
        widths: {part: dimensions of its layers}, for `balance`.
        judge: the `Evaluation` of both.
    """

    def __init__(
        self, database: Store, queries: Store, high_q: float, k: int = 5, seed: int = 0
    ) -> None:
        self.database, self.queries, self.k, self.seed = database, queries, k, seed
        self.recipes = recipes(high_q)
        self.judge = Evaluation(database, queries, (database["color"], queries["color"]))
        functions = {"average": lambda means: average([y for y, _ in means])}
        for name, recipe in self.recipes.items():
            functions[name] = by_recipe(recipe)
        functions["elsewhere"] = self._elsewhere
        of_images, of_queries = (describe_by(st, functions) for st in (database, queries))
        self.parts = {name: (of_images[name], of_queries[name]) for name in functions}
        self.parts["h"] = database.h[:], queries.h[:]
        self.parts["color"] = database["color"][:], queries["color"][:]
        channels = [shape[0] for shape in database.dims["blocks"]]
        self.widths = dict.fromkeys(functions, channels)
        self.widths |= {"h": list(database.dims["codes"]), "color": [75]}
        self._found: dict[tuple[Any, ...], NDArray[np.int64]] = {}

    def _elsewhere(self, means: Windows) -> torch.Tensor:
        """As many neurons as the relative threshold selects, at random positions."""
        z_N = significant(means[-1][0], RELATIVE["q"], RELATIVE["threshold"])
        return weigh_by(elsewhere(z_N, self.seed), means)

    @property
    def selections(self) -> list[str]:
        """The names of all selections, the random one last."""
        return [*self.recipes, "elsewhere"]

    def descriptors(self) -> dict[str, list[str]]:
        """The descriptors that are compared, each with its parts."""
        joined = {"h": ["h"], "average": ["average"], "h+average": ["h", "average"]}
        joined["h+color"] = ["h", "color"]
        for name in self.selections:
            joined[f"eta_conv, {name}"] = [name]
        for name in self.selections:
            joined[f"eta, {name}"] = ["h", name]
        if not sum(self.widths["h"]):  # a network without codes
            return {name: parts for name, parts in joined.items() if "h" not in parts}
        return joined

    def add(self, recipes: Mapping[str, Recipe]) -> None:
        """Makes η̃ by more recipes: a part for each, under its name."""
        functions = {name: by_recipe(recipe) for name, recipe in recipes.items()}
        of_images, of_queries = (describe_by(st, functions) for st in (self.database, self.queries))
        for name in recipes:
            self.parts[name] = of_images[name], of_queries[name]
            self.widths[name] = self.widths["average"]

    def rows(
        self,
        parts: Sequence[str],
        balance: Balance = "none",
        factors: Sequence[float] | None = None,
    ) -> tuple[Array, Array]:
        """Joins parts into one descriptor.

        Args:
            parts: keys of `parts`.
            balance: as in `conv_descriptor`; of every layer of every part.
            factors: what each part is multiplied by.

        Returns:
            Database (N, D) and queries (Q, D), float32.
        """
        both = []
        for side in range(2):
            pieces = []
            for part, factor in zip(parts, factors or [1.0] * len(parts)):
                layers = torch.from_numpy(self.parts[part][side]).split(self.widths[part], dim=1)
                pieces += [factor * layer for layer in balanced(layers, balance)]
            both.append(torch.cat(pieces, dim=1).numpy())
        return both[0], both[1]

    def found(
        self,
        parts: Sequence[str],
        balance: Balance = "none",
        metric: Metric = "l1",
        within: Sequence[int] | None = None,
    ) -> NDArray[np.int64]:
        """Searches by a descriptor.

        Args:
            parts: as in `rows`.
            balance: as in `rows`.
            metric: as in `search`.
            within: the rows of the database that are searched; default all.

        Returns:
            (Q, k) rows of the database.
        """
        key = (*parts, balance, metric, None if within is None else tuple(within))
        if key not in self._found:
            images, queries = self.rows(parts, balance)
            if within is None:
                self._found[key] = search(images, queries, metric=metric, k=self.k).indices
            else:
                hits = search(images[list(within)], queries, metric=metric, k=self.k)
                self._found[key] = np.asarray(within)[hits.indices]
        return self._found[key]

    def scores(self, balance: Balance = "none", metric: Metric = "l1") -> Scores:
        """Judges all descriptors: {descriptor: what `Evaluation` gives}."""
        return {
            name: self.judge(self.found(parts, balance, metric), k=self.k)
            for name, parts in self.descriptors().items()
        }

    def mean_distance(self, part: str, balance: Balance = "none") -> float:
        """The mean L1 distance (a sum, not divided) between queries and images at random."""
        rng = np.random.default_rng(self.seed)
        images, queries = self.rows([part], balance)
        a = images[rng.integers(0, len(images), PAIRS)]
        b = queries[rng.integers(0, len(queries), PAIRS)]
        return float(np.nanmean(np.abs(a - b).sum(axis=1)))

    def share(self, part: str, balance: Balance = "none") -> float:
        """The share of a part in the distance between two descriptors [h, part], 0 to 1."""
        of_h, of_part = self.mean_distance("h", balance), self.mean_distance(part, balance)
        return of_part / (of_h + of_part)

    def by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Judges [h, part] where the part has a given share in the mean distance.

        Args:
            part: a key of `parts`.
            shares: from 0, h alone, to 1, the part alone.

        Returns:
            A row a share: "share", and the means of what `Evaluation` gives.
        """
        rows = []
        for share in shares:
            rows.append({"share": share} | self.at_share(part, share).mean().to_dict())
        return pd.DataFrame(rows)

    def at_share(self, part: str, share: float, balance: Balance = "none") -> pd.DataFrame:
        """Judges [h, part] at one share in the mean distance: what `Evaluation` gives.

        Args:
            part: a key of `parts`.
            share: from 0, h alone, to 1, the part alone.
            balance: as in `rows`.
        """
        return self.judge(self._found_by_share(part, share, balance), k=self.k)

    def _found_by_share(
        self, part: str, share: float, balance: Balance = "none"
    ) -> NDArray[np.int64]:
        """What [h, part] finds where the part has that share in the mean distance: (Q, k)."""
        of_h, of_part = self.mean_distance("h", balance), self.mean_distance(part, balance)
        factors = [(1 - share) / of_h, share / of_part]
        images, queries = self.rows(["h", part], balance, factors)
        return search(images, queries, metric="l1", k=self.k).indices

    def common(
        self, selection: str, balance: Balance = "none", within: Sequence[int] | None = None
    ) -> "pd.Series[float]":
        """How many of the hits pairs of descriptors have in common.

        Args:
            selection: the one that η̃ and η are made by.
            balance: as in `rows`.
            within: as in `found`.

        Returns:
            {(descriptor, descriptor): mean share of common hits}, of the k hits.
        """
        parts = {
            "h": ["h"],
            "eta_conv": [selection],
            "eta": ["h", selection],
            "average": ["average"],
            "h+average": ["h", "average"],
        }
        found = {name: self.found(its, balance, within=within) for name, its in parts.items()}
        pairs = [("h", "eta_conv"), ("eta", "h"), ("eta", "eta_conv")]
        pairs += [(name, other) for name in ("average", "h+average") for other in list(parts)[:3]]
        shares = {(a, b): np.nanmean(common_in_top_k(found[a], found[b])) for a, b in pairs}
        return pd.Series(shares)

    def common_by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Counts what [h, part] finds in common with its parts, by the share of the part.

        Args:
            part: a key of `parts`.
            shares: as in `by_share`.

        Returns:
            A row a share: "share", and the shares of common hits "with h" and "with η̃".
        """
        alone = self.found(["h"]), self.found([part])
        rows = []
        for share in shares:
            found = self._found_by_share(part, share)
            with_h, with_part = (np.nanmean(common_in_top_k(found, other)) for other in alone)
            rows.append({"share": share, "with h": with_h, "with η̃": with_part})
        return pd.DataFrame(rows)

    def subset(self, n: int) -> list[int]:
        """Rows of n images of the database, balanced over the classes."""
        return sorted(choose_queries(self.database, n, self.seed))


def compared(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Compares every η, h and h + average query by query with what they must beat.

    The controls are h + average (η without a selection), h, and for every η the η̃ of its selection.

    Args:
        scores: {descriptor: a row a query}, of `Experiment.scores`.
        seed: of the draws.

    Returns:
        Columns metric, descriptor, control and those of `PairedDifference`: of the descriptor less
        the control.
    """
    rows = []
    for descriptor, frame in scores.items():
        controls = ["h+average", "h"]
        if descriptor.startswith("eta,"):
            controls.append(descriptor.replace("eta,", "eta_conv,"))
        elif descriptor not in ("h", "h+average", "h+color"):
            continue
        for control in controls:
            if control == descriptor or control not in scores:
                continue
            for metric in frame.columns:
                difference = paired_difference(frame[metric], scores[control][metric], seed=seed)
                rows.append([metric, descriptor, control, *difference])
    columns = ["metric", "descriptor", "control", *PairedDifference._fields]
    return pd.DataFrame(rows, columns=columns)


def by_recipe(recipe: Recipe) -> Any:
    """The function of the window means that makes η̃ by a recipe."""
    return lambda means: weigh(means, **recipe)


def classes_kept(
    scores: Any, y_N: torch.Tensor, masks: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How often the predicted class stays when only some neurons of y_N are left.

    Args:
        scores: y_N -> (B, classes), the network from y_N on.
        y_N: (B, C_N, H_N, W_N).
        masks: {name: (B, C_N, H_N, W_N) or (B, 1, H_N, W_N) bool}, what is left.

    Returns:
        {name: share of the images that keep their predicted class}.
    """
    with torch.inference_mode():
        predicted = scores(y_N).argmax(1)
        kept = {}
        for name, mask in masks.items():
            kept[name] = float((scores(y_N * mask).argmax(1) == predicted).float().mean())
    return kept
