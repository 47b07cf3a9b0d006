"""Does the selection of neurons matter? One network, one set of images, many selections.

Everything is computed from two stores with the extras "windows" and "color". The control is
h + average: η without any selection.
"""

import itertools
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from .common import ROOT, AnyPath, Balance, Metric, Threshold, write_atomically
from .datasets import SCENES, choose_queries
from .descriptors import (
    AS_RELEASED,
    Recipe,
    Windows,
    balanced,
    significant,
    split_windows,
    weigh,
    weigh_by,
)
from .environment import PACKAGES, commit
from .evaluation import (
    HISTOGRAM_DISTANCE,
    MARGIN,
    Evaluation,
    PairedDifference,
    as_family,
    by_other_half,
    common_in_top_k,
    halves,
    means,
    measure,
    paired_difference,
)
from .images import Images
from .names import plain_name
from .pooling import average
from .search import search
from .store import Store

RESULTS = ROOT / "data" / "results"
DECIMALS = 6  # of every number that is kept


class Results(NamedTuple):
    """What a file of results holds.

    Attributes:
        about: what the numbers come from: images, networks, settings, code, packages.
        tables: {name: table}.
    """

    about: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def made_by() -> dict[str, Any]:
    """The code that runs here: its commit, Python and the packages that results depend on.

    Returns:
        {"code": .., "Python": .., "packages": {name: version}}, nothing of the machine.
    """
    packages = {package: version(package) for package in PACKAGES}
    return {"code": commit(), "Python": platform.python_version(), "packages": packages}


def write_results(
    path: AnyPath, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> Path:
    """Writes results as JSON, a line a row: so a difference of two files can be read.

    Args:
        path: the file. Its folder is made where it does not exist.
        about: what JSON knows, without paths of this machine.
        tables: {name: table} of text and numbers; an index is left out.

    Returns:
        The file's path.
    """
    parts = []
    for name, table in tables.items():
        rows = table.to_dict("split", index=False)["data"]
        lines = ",\n".join(f"   {_json([_plain(value) for value in row])}" for row in rows)
        columns = _json(list(table.columns))
        parts.append(f'  {_json(name)}: {{"columns": {columns}, "rows": [\n{lines}\n  ]}}')
    head = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False).replace("\n", "\n ")
    text = f'{{\n "about": {head},\n "tables": {{\n' + ",\n".join(parts) + "\n }\n}\n"
    return write_atomically(path, text)


def read_results(path: AnyPath) -> Results:
    """Reads what `write_results` wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    tables = {}
    for name, table in content["tables"].items():
        tables[name] = pd.DataFrame(table["rows"], columns=table["columns"])
    return Results(content["about"], tables)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A cell as JSON has it: decimals rounded, no NaN."""
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value


BATCH = 64  # images at a time


def elsewhere(z_N: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random selection of the same size: the same neurons at other positions.

    The positions of an image change places, in all channels alike. So every channel and every
    position has as many neurons as one had before.

    Args:
        z_N: (B, C_N, H_N, W_N) bool.
        seed: of the places; image b's do not depend on B.

    Returns:
        (B, C_N, H_N, W_N) bool.
    """
    rng = np.random.default_rng(seed)
    flat = z_N.flatten(2)  # (B, C_N, H_N * W_N)
    moved = [image[:, torch.from_numpy(rng.permutation(image.shape[1]))] for image in flat]
    return torch.stack(moved).view(z_N.shape)


def amounts(z_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much is selected.

    Args:
        z_N: (B, C_N, H_N, W_N) bool.

    Returns:
        The share of the neurons that are selected, and the share of the positions where at least
        one is, both (B,) float.
    """
    neurons = z_N.float().mean(dim=(1, 2, 3))
    positions = z_N.any(dim=1).float().mean(dim=(1, 2))
    return neurons, positions


def weight_on(z: torch.Tensor, mask: NDArray[np.floating]) -> torch.Tensor:
    """The share of Eq. 13's map z that lies on an object.

    Args:
        z: (B, H_N, W_N), what `significance_map` gives.
        mask: (B, H, W) from 0 to 1, how much of every pixel the object covers.

    Returns:
        (B,) float; NaN where nothing is selected.
    """
    covered = F.adaptive_avg_pool2d(torch.as_tensor(mask)[:, None], (z.shape[1], z.shape[2]))[:, 0]
    return (z * covered).sum(dim=(1, 2)) / z.sum(dim=(1, 2))


def object_masks(images: Images) -> NDArray[np.float32] | None:
    """Reads where the objects of the embedded queries are.

    Args:
        images: an `ImageSet` or a store.

    Returns:
        (n, 224, 224) float32, 1 on the object and 0 elsewhere; None for all other images.
    """
    if images.root != SCENES / "queries":
        return None
    files = [(SCENES / "masks" / "queries" / file).with_suffix(".png") for file in images.files]
    return np.stack([np.asarray(Image.open(file), np.float32) for file in files])


def last_block(store: Store, rows: slice = slice(None)) -> torch.Tensor:
    """y_N of a store's images, from its extra "windows": (n, C_N, H_N, W_N) float32."""
    shape = store.dims["blocks"][-1]
    windows = store.read("windows", rows)[:, -math.prod(shape) :]
    return torch.from_numpy(np.ascontiguousarray(windows)).view(-1, *shape)


def describe_by(
    store: Store, selections: Mapping[str, Callable[[Windows], torch.Tensor]]
) -> dict[str, NDArray[np.float32]]:
    """Descriptors of a store's images by any function of the window means.

    Args:
        store: one with the extra "windows".
        selections: {name: function}, from `Windows` of B images to (B, D).

    Returns:
        {name: (N, D) float32}; rows of NaN for unreadable images.
    """
    pieces: dict[str, list[NDArray[np.float32]]] = {name: [] for name in selections}
    for start in range(0, len(store), BATCH):
        windows = torch.from_numpy(store.read("windows", slice(start, start + BATCH)))
        means = split_windows(windows, store.dims["blocks"])
        for name, function in selections.items():
            pieces[name].append(function(means).float().numpy())
    return {name: np.concatenate(rows) for name, rows in pieces.items()}


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


Tables: TypeAlias = dict[str, pd.DataFrame]
Row: TypeAlias = list[Any]

WAYS: dict[str, Balance] = {"as they are": "none", "unit length": "l2"}
CONTROL = "h+average"
MIXED = {  # descriptors whose share is set: {descriptor: the part beside h}
    CONTROL: "average",
    "eta, q = 0.5": "q = 0.5",
    "eta, relative": "relative",
    "h+color": "color",
}
NEURONS = [0.05, 0.02, 0.01, 0.005, 0.002, 0.001]  # shares that absolute thresholds select
FRACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # of an image's maximum: relative ones
SHARES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # 0 is h alone
PAIR = ["way", "metric", "descriptor", "control", *PairedDifference._fields]


def tables(trials: Mapping[tuple[str, str], Experiment], sizes: Sequence[int]) -> Tables:
    """Judges all descriptors of all trials by class and colour.

    Args:
        trials: {(set of images, network): trial}. The images have classes, the networks codes.
        sizes: numbers of database images in which common hits are counted, as far as a database
            has so many.

    Returns:
        Tables with the columns set and network:

        * "scores": means with intervals;
        * "compared": descriptor less control, query by query;
        * "thresholds": means of η̃ and η by threshold;
        * "chosen": like "compared", where a threshold or a share was chosen on the other half of
          the queries. With "compared" it is one family, see `as_family`;
        * "shares": the share of η̃ in the distance between two η;
        * "by_share": means by a share that is set;
        * "common": common hits of 50.
    """
    by_trial = {names: _of_trial(trial, sizes) for names, trial in trials.items()}
    made = {}
    for name in next(iter(by_trial.values())):
        of_all = {names: its[name] for names, its in by_trial.items()}
        made[name] = pd.concat(of_all, names=["set", "network"]).reset_index(["set", "network"])
    family = as_family(pd.concat([made["compared"], made["chosen"]], ignore_index=True))
    is_chosen = family.chosen.notna()
    made["compared"] = family[~is_chosen].drop(columns=["chosen", "value"])
    made["chosen"] = family[is_chosen]
    return made


def _of_trial(trial: Experiment, sizes: Sequence[int]) -> Tables:
    """The tables of one set and network."""
    scores = {way: _scores(trial, balance) for way, balance in WAYS.items()}
    thresholds, chosen_q = _thresholds(trial, scores)
    by_share = {way: _by_share(trial, balance) for way, balance in WAYS.items()}
    chosen_share = _chosen_shares(by_share["unit length"], trial.seed)
    return {
        "scores": _means(scores, trial.seed),
        "compared": _compared(scores, trial.seed),
        "thresholds": thresholds,
        "chosen": pd.concat([chosen_q, chosen_share], ignore_index=True),
        "shares": _own_shares(trial),
        "by_share": _means_by_share(by_share),
        "common": _common(trial, sizes),
    }


def _metrics(trial: Experiment) -> list[str]:
    """What is kept of an `Evaluation`: the precision in class and the distance in colour."""
    return [f"class P@{trial.k}", HISTOGRAM_DISTANCE]


def _named(trial: Experiment, name: str) -> str:
    """A name that is the same for all networks: their high thresholds differ."""
    high = list(trial.recipes)[1]
    return name.replace(high, "high q")


# ---- all descriptors ----------------------------------------------------------------------------


def _scores(trial: Experiment, balance: Balance) -> Scores:
    """{descriptor: a row a query}."""
    metrics = _metrics(trial)
    return {_named(trial, name): s[metrics] for name, s in trial.scores(balance).items()}


def _means(scores: Mapping[str, Scores], seed: int) -> pd.DataFrame:
    by_way = {way: means(of_all, seed) for way, of_all in scores.items()}
    return pd.concat(by_way, names=["way"]).reset_index("way")


def _compared(scores: Mapping[str, Scores], seed: int) -> pd.DataFrame:
    """Every η, h and h + colour against the control; every η against h; two η against their η̃."""
    rows = []
    for way, of_all in scores.items():
        etas = [name for name in of_all if name.startswith("eta,")]
        pairs = [(name, CONTROL) for name in [*etas, "h", "h+color"]]
        pairs += [(name, "h") for name in etas]
        pairs += [(f"eta, {name}", f"eta_conv, {name}") for name in ("q = 0.5", "relative")]
        for name, control in pairs:
            differences = _differences(of_all[name], of_all[control], seed)
            rows += [[way, metric, name, control, *its] for metric, its in differences.items()]
    return pd.DataFrame(rows, columns=PAIR)


def _differences(a: pd.DataFrame, b: pd.DataFrame, seed: int) -> dict[str, PairedDifference]:
    """The difference of every metric, query by query."""
    pairs = {str(metric): (a[metric], b[metric]) for metric in a.columns}
    return {metric: paired_difference(*pair, seed=seed) for metric, pair in pairs.items()}


# ---- what is chosen on one half of the queries and reported on the other ------------------------


def _choose(by_option: Mapping[float, pd.DataFrame], chosen: "pd.Series[float]") -> pd.DataFrame:
    """Every query's row by the option that was chosen for it."""
    rows = [by_option[option].iloc[row] for row, option in enumerate(chosen)]
    return pd.DataFrame(rows)


def _chosen_rows(
    names: Row, judged: pd.DataFrame, control: pd.DataFrame, chosen: "pd.Series[float]", seed: int
) -> list[Row]:
    """A row a metric: the difference, the options that were chosen, the mean by them."""
    way, descriptor, control_name = names
    options = ", ".join(f"{option:g}" for option in sorted(chosen.unique()))
    rows = []
    for metric, difference in _differences(judged, control, seed).items():
        value = float(judged[metric].mean())
        rows.append([way, metric, descriptor, control_name, *difference, options, value])
    return rows


def nearest_that_keep_the_class(
    by_share: Mapping[float, pd.DataFrame], seed: int = 0
) -> "pd.Series[float]":
    """Chooses a share for every query, on the other half of the queries.

    Of the shares whose precision in class is not more than `MARGIN` below that of share 0, which is
    h alone, it is the one of the least histogram distance.

    Args:
        by_share: {share: a row a query; class first, then the distance}.
        seed: of the `halves`.

    Returns:
        A share a query.
    """
    class_metric, distance = by_share[0.0].columns
    options = list(by_share)
    precision = np.stack([judged[class_metric] for judged in by_share.values()], axis=1)
    distances = np.stack([judged[distance] for judged in by_share.values()], axis=1)
    shares = pd.Series(0.0, index=by_share[0.0].index)
    for chosen_on, reported_on in itertools.permutations(halves(len(shares), seed)):
        of_class = np.nanmean(precision[chosen_on], axis=0)
        keep = of_class >= of_class[options.index(0.0)] - MARGIN
        of_color = np.where(keep, np.nanmean(distances[chosen_on], axis=0), np.inf)
        shares.iloc[reported_on] = options[int(np.argmin(of_color))]
    return shares


def _thresholds(
    trial: Experiment, scores: Mapping[str, Scores]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means by q; and η by the q that is best in class on the other half."""
    metrics = _metrics(trial)
    y_N = last_block(trial.queries)
    rows, chosen = [], []
    kinds: tuple[Threshold, ...] = get_args(Threshold)
    for kind in kinds:
        qs = _grid(trial, kind)
        trial.add({_part(kind, q): Recipe(q=q, threshold=kind) for q in qs})
        neurons = {q: float(amounts(significant(y_N, q, kind))[0].mean()) for q in qs}
        for way, balance in WAYS.items():
            of_eta = {}
            for q in qs:
                found = {"eta_conv": trial.found([_part(kind, q)], balance)}
                found["eta"] = trial.found(["h", _part(kind, q)], balance)
                judged = {name: trial.judge(hits, k=trial.k) for name, hits in found.items()}
                for name, of_all in judged.items():
                    rows.append([way, name, kind, q, neurons[q], *of_all[metrics].mean()])
                of_eta[q] = judged["eta"][metrics]
            precision = pd.DataFrame({q: its[metrics[0]] for q, its in of_eta.items()})
            best = by_other_half(precision, "max", trial.seed).option
            about = [way, f"eta, {kind} q chosen", CONTROL]
            control = scores[way][CONTROL]
            chosen += _chosen_rows(about, _choose(of_eta, best), control, best, trial.seed)
    columns = ["way", "descriptor", "threshold", "q", "neurons", *metrics]
    return pd.DataFrame(rows, columns=columns), _as_chosen(chosen)


def _grid(trial: Experiment, kind: Threshold) -> list[float]:
    """The thresholds that are tried."""
    if kind == "relative":
        return FRACTIONS
    by_neurons = {high_threshold(trial.database, share) for share in NEURONS}
    return sorted({0.5, *by_neurons})


def _part(kind: Threshold, q: float) -> str:
    return f"{kind}, {q:g}"


def _as_chosen(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*PAIR, "chosen", "value"])


# ---- balance and common hits --------------------------------------------------------------------


def _own_shares(trial: Experiment) -> pd.DataFrame:
    """The share that comes by itself, a row a selection."""
    rows = []
    for part in ["average", *trial.selections]:
        shares = [trial.share(part, balance) for balance in WAYS.values()]
        rows.append([_named(trial, part), *shares])
    return pd.DataFrame(rows, columns=["selection", *WAYS])


def _by_share(trial: Experiment, balance: Balance) -> dict[str, dict[float, pd.DataFrame]]:
    """{descriptor: {share: a row a query}}."""
    metrics = _metrics(trial)
    judged = {}
    for descriptor, part in MIXED.items():
        of_part = {share: trial.at_share(part, share, balance)[metrics] for share in SHARES}
        judged[descriptor] = of_part
    return judged


def _means_by_share(
    by_way: Mapping[str, Mapping[str, Mapping[float, pd.DataFrame]]],
) -> pd.DataFrame:
    rows = []
    for way, by_descriptor in by_way.items():
        for descriptor, by_share in by_descriptor.items():
            for share, judged in by_share.items():
                about = {"way": way, "descriptor": descriptor, "share": share}
                rows.append(about | judged.mean().to_dict())
    return pd.DataFrame(rows)


def _chosen_shares(
    by_descriptor: Mapping[str, Mapping[float, pd.DataFrame]], seed: int
) -> pd.DataFrame:
    """Each by the share that is chosen on the other half: against h, and against the control."""
    best = {name: nearest_that_keep_the_class(its, seed) for name, its in by_descriptor.items()}
    judged = {name: _choose(by_descriptor[name], shares) for name, shares in best.items()}
    rows = []
    for name, of_all in judged.items():
        controls = {"h": by_descriptor[name][0.0]}
        if name != CONTROL:
            controls[f"{CONTROL}, share chosen"] = judged[CONTROL]
        for control_name, control in controls.items():
            about = ["unit length", f"{name}, share chosen", control_name]
            rows += _chosen_rows(about, of_all, control, best[name], seed)
    return _as_chosen(rows)


def _common(trial: Experiment, sizes: Sequence[int]) -> pd.DataFrame:
    """Common hits of 50 by recipe and size of the database, a column a pair of descriptors."""
    n = len(trial.database)
    rows = []
    for way, balance in WAYS.items():
        for selection, size in itertools.product(trial.recipes, sizes):
            if size > n:
                continue
            within = trial.subset(size) if size < n else None
            shares = trial.common(selection, balance, within)
            about = {"way": way, "selection": _named(trial, selection), "images": size}
            shares.index = [f"{plain_name(a)} and {plain_name(b)}" for a, b in shares.index]
            rows.append(about | (50 * shares).to_dict())
    return pd.DataFrame(rows)


SETTINGS = {
    "scenes, embedded network": ("scenes", "embedded"),
    "scenes, VGG16": ("scenes", "vgg16_conv"),
    "Imagenette, VGG16": ("imagenette", "vgg16_conv"),
    "Caltech-101, VGG16": ("caltech101", "vgg16_conv"),
}
OTHER_NETWORK = "efficientnet_lite0"
PRINTED = "as they are"
UNIT = "unit length"


class Claim(NamedTuple):
    """A row of the table: a difference of two descriptors in one measure.

    Attributes:
        text: the claim, in words.
        what: the comparison, in words.
        descriptor: what is judged.
        control: what it is compared with.
        metric: the measure.
        way: `PRINTED` or `UNIT`.
        network: another one than the setting's.
    """

    text: str
    what: str
    descriptor: str
    control: str
    metric: str
    way: str = PRINTED
    network: str = ""


ETA = "eta, q = 0.5"
BY_RELATIVE = "eta, relative"
CLASS = "class P@5"
BACKGROUND = "background P@5"
SELECTING = "1. Selecting significant neurons helps"
KEEPS = "2. η keeps the class of h"
NEARER = "3. η is nearer than h in background and colour"
NEAREST = "4. η is the nearest in colour"
CARRIES = "6. It carries over to other networks"
CLAIMS = [
    Claim(SELECTING, "η − (h + average), class", ETA, "h+average", CLASS),
    Claim(SELECTING, "η − (h + average), colour", ETA, "h+average", HISTOGRAM_DISTANCE),
    Claim(
        SELECTING,
        "the same, relative threshold, unit length, class",
        BY_RELATIVE,
        "h+average",
        CLASS,
        UNIT,
    ),
    Claim(SELECTING, "the same, colour", BY_RELATIVE, "h+average", HISTOGRAM_DISTANCE, UNIT),
    Claim(KEEPS, "η − h, class", ETA, "h", CLASS),
    Claim(KEEPS, "the same, unit length", ETA, "h", CLASS, UNIT),
    Claim(NEARER, "η − h, background", ETA, "h", BACKGROUND),
    Claim(NEARER, "η − h, colour", ETA, "h", HISTOGRAM_DISTANCE),
    Claim(NEAREST, "η − η̃, colour", ETA, "eta_conv, q = 0.5", HISTOGRAM_DISTANCE),
    Claim(CARRIES, "EfficientNet-Lite0: η − h, class", ETA, "h", CLASS, PRINTED, OTHER_NETWORK),
    Claim(CARRIES, "the same, colour", ETA, "h", HISTOGRAM_DISTANCE, PRINTED, OTHER_NETWORK),
]


def comparisons() -> pd.DataFrame:
    """All comparisons that are kept, of scenes and photographs.

    Returns:
        Columns set, network, way, metric, descriptor, control, mean, low, high, p, p_holm, verdict.
    """
    scenes = read_results(RESULTS / "original.json").tables["compared"].assign(set="scenes")
    scenes = scenes.replace({"network": {"VGG16": "vgg16_conv"}})
    photographs = read_results(RESULTS / "photographs.json").tables["compared"]
    return pd.concat([scenes, photographs], ignore_index=True)


def table() -> pd.DataFrame:
    """The verdicts.

    Returns:
        Columns claim, evidence and one a setting; cells are "difference [low, high] word", empty
        where there is no such comparison.
    """
    pairs = {}
    for pair in comparisons().itertuples():
        way = pair.set, pair.network, pair.way
        pairs[*way, pair.metric, pair.descriptor, pair.control] = pair
    rows = []
    for claim in CLAIMS:
        row = {"claim": claim.text, "evidence": claim.what}
        for title, (images, network) in SETTINGS.items():
            way = images, claim.network or network, claim.way
            pair = pairs.get((*way, claim.metric, claim.descriptor, claim.control))
            row[title] = _cell(pair) if pair else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(pair: Any) -> str:
    digits = measure(pair.metric).digits + 1
    mean, low, high = (f"{value:+.{digits}f}" for value in (pair.mean, pair.low, pair.high))
    return f"{mean} [{low}, {high}] {pair.verdict}"


def markdown() -> str:
    """The table as Markdown, a claim's name in its first row only."""
    lines = []
    verdicts = table()
    columns = list(verdicts.columns)
    lines.append("| " + " | ".join(columns) + " |")
    lines.append("|" + "---|" * len(columns))
    before = ""
    for row in verdicts.itertuples(index=False):
        first, *others = row
        lines.append("| " + " | ".join(["" if first == before else first, *others]) + " |")
        before = first
    return "\n".join(lines)
