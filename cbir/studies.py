"""Does the selection of neurons matter? What notebooks 00, 10 and 11 compare and keep.

Everything is computed from two stores with the extras "windows" and "color". The control is
h + average: η without any selection. `verdict_table` sums up the files in data/results/.
"""

import itertools
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from . import statistics
from .common import (
    PACKAGES,
    ROOT,
    AnyPath,
    Balance,
    Metric,
    Threshold,
    commit,
    write_atomically,
)
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
from .evaluation import HISTOGRAM_DISTANCE, Evaluation, Rows, common_in_top_k, measure
from .images import Images
from .names import plain_name
from .pooling import average
from .search import search
from .store import Store

Array: TypeAlias = NDArray[np.float32]
Scores: TypeAlias = dict[str, pd.DataFrame]  # {descriptor: what `Evaluation` gives}
Tables: TypeAlias = dict[str, pd.DataFrame]
ByOption: TypeAlias = dict[float, pd.DataFrame]  # a row per query, by a threshold or a share

RESULTS = ROOT / "data" / "results"
WAYS: dict[str, Balance] = {"as they are": "none", "unit length": "l2"}
CONTROL = "h+average"
PAIR = ["metric", "descriptor", "control", *statistics.PairedDifference._fields]


# ---- results that are kept ----------------------------------------------------------------------


class Results(NamedTuple):
    """A file of results.

    Attributes:
        about: where the numbers come from: images, networks, settings, code, packages.
        tables: {name: table}.
    """

    about: dict[str, Any]
    tables: Tables


def made_by() -> dict[str, Any]:
    """Returns the commit, Python and packages that results depend on, nothing of the machine."""
    packages = {package: version(package) for package in PACKAGES}
    return {"code": commit(), "Python": platform.python_version(), "packages": packages}


def write_results(
    path: AnyPath, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> Path:
    """Writes results as JSON with six decimals, a line per row: so files can be compared.

    Args:
        path: the file. Its folder is made if it does not exist.
        about: what JSON can hold, without paths of this machine.
        tables: {name: table} of text and numbers; an index is left out, NaN becomes null.

    Returns:
        The file's path.
    """

    def as_json(value: object, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)

    written = []
    for name, table in tables.items():
        rounded = table.round(6).astype(object).where(table.notna(), None)
        rows = rounded.to_dict("split", index=False)["data"]
        lines = ",\n".join(f"   {as_json(row)}" for row in rows)
        columns = as_json(list(table.columns))
        written.append(f'  {as_json(name)}: {{"columns": {columns}, "rows": [\n{lines}\n  ]}}')
    head = as_json(about, indent=1).replace("\n", "\n ")
    text = f'{{\n "about": {head},\n "tables": {{\n' + ",\n".join(written) + "\n }\n}\n"
    return write_atomically(path, text)


def read_results(path: AnyPath) -> Results:
    """Reads what `write_results` wrote. Raises FileNotFoundError if there is no such file."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    tables = {}
    for name, table in content["tables"].items():
        tables[name] = pd.DataFrame(table["rows"], columns=table["columns"])
    return Results(content["about"], tables)


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


def amounts(z_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the shares of neurons selected and of positions with any such neuron, both (B,).

    Args:
        z_N: (B, C_N, H_N, W_N) bool.
    """
    neurons = z_N.float().mean(dim=(1, 2, 3))
    positions = z_N.any(dim=1).float().mean(dim=(1, 2))
    return neurons, positions


def weight_on(z: torch.Tensor, mask: NDArray[np.floating]) -> torch.Tensor:
    """Returns the share of Eq. 13's map z that lies on an object.

    Args:
        z: (B, H_N, W_N), what `significance_map` gives.
        mask: (B, H, W) from 0 to 1, how much of every pixel the object covers.

    Returns:
        (B,) float; NaN if nothing is selected.
    """
    covered = F.adaptive_avg_pool2d(torch.as_tensor(mask)[:, None], (z.shape[1], z.shape[2]))[:, 0]
    return (z * covered).sum(dim=(1, 2)) / z.sum(dim=(1, 2))


def classes_kept(
    scores: Callable[..., torch.Tensor], y_N: torch.Tensor, masks: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Counts how often the predicted class stays if only some neurons of y_N are left.

    Args:
        scores: y_N -> (B, classes), the network from y_N on.
        y_N: (B, C_N, H_N, W_N).
        masks: {name: (B, C_N, H_N, W_N) or (B, 1, H_N, W_N) bool}, the neurons that are left.

    Returns:
        {name: share of the images that keep their predicted class}.
    """
    with torch.inference_mode():
        predicted = scores(y_N).argmax(1)
        kept = {}
        for name, mask in masks.items():
            kept[name] = float((scores(y_N * mask).argmax(1) == predicted).float().mean())
    return kept


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
    """Returns y_N of a store's images, from its extra "windows": (n, C_N, H_N, W_N) float32."""
    shape = store.dims["blocks"][-1]
    y_N = store["windows"][rows][:, -math.prod(shape) :]
    return torch.from_numpy(np.ascontiguousarray(y_N)).view(-1, *shape)


def high_threshold(store: Store, share: float = 0.01) -> float:
    """Returns the value that only a share of the neurons y_N reaches, in the first 200 images.

    It is rounded to two digits: a threshold that does not depend on the last bit.

    Args:
        store: one with the extra "windows".
        share: of all neurons.
    """
    y_N = last_block(store, slice(0, 200)).numpy()
    return float(f"{np.nanquantile(y_N, 1 - share):.1e}")


# ---- one network on one set of images -----------------------------------------------------------


class Experiment:
    """The selections of one network on one set of images.

    Args:
        database: a store with the extras "windows" and "color".
        queries: one of the same network.
        high_q: a threshold under which few neurons are significant.
        k: images retrieved for a query; all if there are fewer.
        seed: seed of the random selection and of all that is drawn.

    Attributes:
        recipes: {selection: recipe}; beside them there is the random one, "elsewhere".
        parts: {part: (database (N, D), queries (Q, D))}; "h", "average", "color" and a part for
            every selection.
        judge: the `Evaluation` of both.
    """

    def __init__(
        self, database: Store, queries: Store, high_q: float, k: int = 5, seed: int = 0
    ) -> None:
        self.database, self.queries, self.k, self.seed = database, queries, k, seed
        relative = Recipe(q=0.5, threshold="relative")
        self.recipes = {"q = 0.5": Recipe(q=0.5), "high q": Recipe(q=high_q), "relative": relative}
        self.recipes["as released"] = AS_RELEASED
        self.selections = [*self.recipes, "elsewhere"]
        self.judge = Evaluation(database, queries, (database["color"][:], queries["color"][:]))
        self.parts = {name: (database[name][:], queries[name][:]) for name in ("h", "color")}
        self._layers = {"h": list(database.dims["codes"]), "color": [75]}
        self._found: dict[tuple[object, ...], Rows] = {}
        self.add({name: partial(weigh, **recipe) for name, recipe in self.recipes.items()})
        self.add({"average": lambda windows: average([y for y, _ in windows])})
        self.add({"elsewhere": self._elsewhere})

    def _elsewhere(self, windows: Windows) -> torch.Tensor:
        """Selects as many neurons as the relative threshold, at random positions."""
        z_N = significant(windows[-1][0], 0.5, "relative")
        return weigh_by(elsewhere(z_N, self.seed), windows)

    def add(self, functions: Mapping[str, Callable[[Windows], torch.Tensor]]) -> None:
        """Makes more parts of the images' window means: {part: function}, see `weigh`."""
        for name in functions:
            self._layers[name] = [channels for channels, *_ in self.database.dims["blocks"]]
        both = []
        for store in (self.database, self.queries):
            pieces: dict[str, list[Array]] = {name: [] for name in functions}
            for start in range(0, len(store), 64):  # images at a time
                flat = torch.from_numpy(store["windows"][start : start + 64])
                windows = split_windows(flat, store.dims["blocks"])
                for name, function in functions.items():
                    pieces[name].append(function(windows).float().numpy())
            both.append({name: np.concatenate(rows) for name, rows in pieces.items()})
        self.parts |= {name: (both[0][name], both[1][name]) for name in functions}

    def descriptors(self) -> dict[str, list[str]]:
        """Returns the descriptors that are compared, each with its parts."""
        joined = {"h": ["h"], "average": ["average"], "h+average": ["h", "average"]}
        joined["h+color"] = ["h", "color"]
        joined |= {f"eta_conv, {name}": [name] for name in self.selections}
        joined |= {f"eta, {name}": ["h", name] for name in self.selections}
        if not self._layers["h"]:  # a network without codes
            return {name: parts for name, parts in joined.items() if "h" not in parts}
        return joined

    def rows(
        self, parts: Sequence[str], balance: Balance, factors: Sequence[float] | None = None
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
        for split in range(2):
            layers = []
            for part, factor in zip(parts, factors or [1.0] * len(parts)):
                of_part = torch.from_numpy(self.parts[part][split]).split(self._layers[part], dim=1)
                layers += [factor * layer for layer in balanced(of_part, balance)]
            both.append(torch.cat(layers, dim=1).numpy())
        return both[0], both[1]

    def found(
        self,
        parts: Sequence[str],
        balance: Balance = "none",
        metric: Metric = "l1",
        within: Sequence[int] | None = None,
        factors: Sequence[float] | None = None,
    ) -> Rows:
        """Searches by a descriptor; what was found before is remembered.

        Args:
            parts: as in `rows`.
            balance: as in `rows`.
            metric: as in `search`.
            within: the rows of the database that are searched; default all.
            factors: as in `rows`.

        Returns:
            (Q, k) rows of the database.
        """
        key = (*parts, balance, metric, tuple(within or ()), tuple(factors or ()))
        if key not in self._found:
            images, queries = self.rows(parts, balance, factors)
            rows = np.arange(len(images)) if within is None else np.asarray(within)
            k = min(self.k, int(self.database.described[rows].sum()))
            hits = search(images[rows], queries, metric=metric, k=k).indices
            self._found[key] = np.where(hits < 0, -1, rows[hits])
        return self._found[key]

    def scores(self, balance: Balance = "none", metric: Metric = "l1") -> Scores:
        """Judges all descriptors: {descriptor: what `Evaluation` gives}."""
        return {
            name: self.judge(self.found(parts, balance, metric), k=self.k)
            for name, parts in self.descriptors().items()
        }

    def mean_distance(self, part: str, balance: Balance = "none") -> float:
        """Estimates the mean L1 distance (a sum, not divided) of 2000 random pairs."""
        rng = np.random.default_rng(self.seed)
        images, queries = self.rows([part], balance)
        a = images[rng.integers(0, len(images), 2000)]
        b = queries[rng.integers(0, len(queries), 2000)]
        return float(np.nanmean(np.abs(a - b).sum(axis=1)))

    def share(self, part: str, balance: Balance = "none") -> float:
        """Returns the share of a part in the distance between two [h, part], 0 to 1."""
        of_h, of_part = self.mean_distance("h", balance), self.mean_distance(part, balance)
        return of_part / (of_h + of_part)

    def found_at_share(self, part: str, share: float, balance: Balance = "none") -> Rows:
        """Searches by [h, part] if the part has that share in the mean distance: (Q, k).

        Args:
            part: a key of `parts`.
            share: from 0, h alone, to 1, the part alone.
            balance: as in `rows`.
        """
        of_h, of_part = self.mean_distance("h", balance), self.mean_distance(part, balance)
        factors = [(1 - share) / of_h, share / of_part]
        return self.found(["h", part], balance, factors=factors)

    def by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Judges `found_at_share`: a row per share with "share" and the means of `Evaluation`."""
        rows = []
        for share in shares:
            judged = self.judge(self.found_at_share(part, share), k=self.k)
            rows.append({"share": share} | judged.mean().to_dict())
        return pd.DataFrame(rows)

    def common_by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Counts the hits that [h, part] has in common with its parts, by the share of the part.

        Returns a row per share: "share", and the shares of common hits "with h" and "with η̃".
        """
        rows = []
        for share in shares:
            found, row = self.found_at_share(part, share), {"share": share}
            for name, alone in {"with h": "h", "with η̃": part}.items():
                row[name] = float(np.nanmean(common_in_top_k(found, self.found([alone]))))
            rows.append(row)
        return pd.DataFrame(rows)

    def common(
        self, selection: str, balance: Balance = "none", within: Sequence[int] | None = None
    ) -> "pd.Series[float]":
        """Counts the hits that pairs of descriptors have in common.

        Args:
            selection: the one that η̃ and η are made by.
            balance: as in `rows`.
            within: as in `found`.

        Returns:
            {(descriptor, descriptor): mean share of common hits}, of the k hits.
        """
        parts = {"h": ["h"], "eta_conv": [selection], "eta": ["h", selection]}
        controls = {"average": ["average"], "h+average": ["h", "average"]}
        found = {d: self.found(p, balance, within=within) for d, p in (parts | controls).items()}
        pairs = [("h", "eta_conv"), ("eta", "h"), ("eta", "eta_conv")]
        pairs += itertools.product(controls, parts)
        shares = {(a, b): np.nanmean(common_in_top_k(found[a], found[b])) for a, b in pairs}
        return pd.Series(shares)

    def subset(self, n: int) -> list[int]:
        """Draws rows of n images of the database, balanced over the classes."""
        return sorted(choose_queries(self.database, n, self.seed))


def compared(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Compares every η, h and h + average query by query with what they must beat.

    The controls are h + average (η without a selection), h, and for every η the η̃ of its selection.

    Args:
        scores: {descriptor: a row per query}, of `Experiment.scores`.
        seed: seed of the draws.

    Returns:
        Columns metric, descriptor, control and those of `PairedDifference`: of the descriptor less
        the control.
    """
    pairs = []
    for name in scores:
        if name in ("h", "h+average", "h+color") or name.startswith("eta,"):
            pairs += [(name, control) for control in (CONTROL, "h") if control != name]
        if name.startswith("eta,"):
            pairs.append((name, name.replace("eta,", "eta_conv,")))
    return _differences(scores, pairs, seed)


def _differences(
    scores: Mapping[str, pd.DataFrame], pairs: Iterable[tuple[str, str]], seed: int
) -> pd.DataFrame:
    """Subtracts, for each pair of descriptors and each measure, the second from the first."""
    rows = []
    for descriptor, control in pairs:
        if control in scores:
            for metric, values in scores[descriptor].items():
                of_control = scores[control][metric]
                difference = statistics.paired_difference(values, of_control, seed=seed)
                rows.append([metric, descriptor, control, *difference])
    return pd.DataFrame(rows, columns=PAIR)


# ---- several networks on several sets of images: notebook 11 ------------------------------------


MIXED = {  # descriptors whose share is set: {descriptor: the part beside h}
    CONTROL: "average",
    "eta, q = 0.5": "q = 0.5",
    "eta, relative": "relative",
    "h+color": "color",
}
NEURONS = [0.05, 0.02, 0.01, 0.005, 0.002, 0.001]  # shares that absolute thresholds select
FRACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # of an image's maximum: relative ones
SHARES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # 0 is h alone


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
        * "chosen": like "compared", for thresholds and shares chosen on the other half of the
          queries. With "compared" it is one family, see `as_family`;
        * "shares": the share of η̃ in the distance between two η;
        * "by_share": means by a share that is set;
        * "common": common hits of 50.
    """
    made: dict[tuple[str, str], Tables] = {}
    for key, trial in trials.items():
        metrics = [f"class P@{trial.k}", HISTOGRAM_DISTANCE]
        scores = {}
        for way, balance in WAYS.items():
            scores[way] = {name: s[metrics] for name, s in trial.scores(balance).items()}
        of_all = {way: statistics.means(s, trial.seed) for way, s in scores.items()}
        own_shares = [
            [part, *(trial.share(part, balance) for balance in WAYS.values())]
            for part in ["average", *trial.selections]
        ]
        thresholds, chosen_q = _thresholds(trial, scores)
        by_share, chosen_share = _by_share(trial, metrics)
        made[key] = {
            "scores": _stacked(of_all, "way"),
            "compared": _compared(scores, trial.seed),
            "thresholds": thresholds,
            "chosen": pd.concat([chosen_q, chosen_share], ignore_index=True),
            "shares": pd.DataFrame(own_shares, columns=["selection", *WAYS]),
            "by_share": by_share,
            "common": _common(trial, sizes),
        }
    joined = {}
    for name in next(iter(made.values())):
        joined[name] = _stacked({key: of[name] for key, of in made.items()}, "set", "network")
    family = pd.concat([joined["compared"], joined["chosen"]], ignore_index=True)
    family = statistics.as_family(family)
    is_chosen = family.chosen.notna()
    joined["compared"] = family[~is_chosen].drop(columns=["chosen", "value"])
    joined["chosen"] = family[is_chosen]
    return joined


def _stacked(frames: Mapping[Any, pd.DataFrame], *names: str) -> pd.DataFrame:
    """Stacks tables, their keys as the first columns."""
    return pd.concat(frames, names=[*names]).reset_index([*names]).reset_index(drop=True)


def _compared(scores: Mapping[str, Scores], seed: int) -> pd.DataFrame:
    """Every η, h and h + colour against the control; every η against h; two η against their η̃."""
    etas = [name for name in next(iter(scores.values())) if name.startswith("eta,")]
    pairs = [(name, CONTROL) for name in [*etas, "h", "h+color"]]
    pairs += [(name, "h") for name in etas]
    pairs += [(f"eta, {name}", f"eta_conv, {name}") for name in ("q = 0.5", "relative")]
    return _stacked({way: _differences(s, pairs, seed) for way, s in scores.items()}, "way")


def _thresholds(
    trial: Experiment, scores: Mapping[str, Scores]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means by q; and η by the q that is best in class on the other half."""
    metrics = list(scores["unit length"][CONTROL])
    y_N = last_block(trial.queries)
    absolute = sorted({0.5, *(high_threshold(trial.database, share) for share in NEURONS)})
    rows, chosen = [], []
    for kind in get_args(Threshold):
        qs = absolute if kind == "absolute" else FRACTIONS
        part_of = {q: f"{kind}, {q:g}" for q in qs}
        trial.add({part_of[q]: partial(weigh, q=q, threshold=kind) for q in qs})
        neurons = {q: float(amounts(significant(y_N, q, kind))[0].mean()) for q in qs}
        for way, balance in WAYS.items():
            of_eta = {}
            for q in qs:
                for name, parts in {"eta_conv": [part_of[q]], "eta": ["h", part_of[q]]}.items():
                    judged = trial.judge(trial.found(parts, balance), k=trial.k)[metrics]
                    rows.append([way, name, kind, q, neurons[q], *judged.mean()])
                of_eta[q] = judged  # the last one, of eta
            precision = pd.DataFrame({q: of_q[metrics[0]] for q, of_q in of_eta.items()})
            best = statistics.by_other_half(precision, "max", trial.seed).option
            control = {CONTROL: scores[way][CONTROL]}
            name = f"eta, {kind} q chosen"
            chosen.append(_chosen(name, of_eta, best, control, trial.seed).assign(way=way))
    columns = ["way", "descriptor", "threshold", "q", "neurons", *metrics]
    return pd.DataFrame(rows, columns=columns), pd.concat(chosen)[["way", *chosen[0].columns[:-1]]]


def _chosen(
    name: str, by_option: ByOption, chosen: "pd.Series[float]", controls: Scores, seed: int
) -> pd.DataFrame:
    """Compares every query by the option chosen for it, with the options and the mean by them."""
    judged = _choose(by_option, chosen)
    table = _differences({name: judged} | controls, [(name, c) for c in controls], seed)
    options = ", ".join(f"{option:g}" for option in sorted(chosen.unique()))
    return table.assign(chosen=options, value=table.metric.map(judged.mean()))


def _choose(by_option: ByOption, chosen: "pd.Series[float]") -> pd.DataFrame:
    """Returns every query's row by the option that was chosen for it."""
    return pd.DataFrame([by_option[option].iloc[row] for row, option in enumerate(chosen)])


def nearest_that_keep_the_class(by_share: ByOption, seed: int = 0) -> "pd.Series[float]":
    """Chooses a share for every query, on the other half of the queries.

    Of the shares whose precision in class is not more than `MARGIN` below that of share 0, which is
    h alone, it is the one of the least histogram distance.

    Args:
        by_share: {share: a row per query; class first, then the distance}.
        seed: seed of the `halves`.

    Returns:
        A share per query.
    """
    options = list(by_share)
    precision, distances = np.stack([judged.T for judged in by_share.values()], axis=2)  # (Q, n)
    shares = pd.Series(0.0, index=by_share[0.0].index)
    for chosen_on, reported_on in itertools.permutations(statistics.halves(len(shares), seed)):
        of_class = np.nanmean(precision[chosen_on], axis=0)
        keep = of_class >= of_class[options.index(0.0)] - statistics.MARGIN
        of_color = np.where(keep, np.nanmean(distances[chosen_on], axis=0), np.inf)
        shares.iloc[reported_on] = options[int(np.argmin(of_color))]
    return shares


def _by_share(trial: Experiment, metrics: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means by share; and at unit length, by the share chosen on the other half."""
    rows = []
    judged: dict[str, ByOption] = {}
    for (way, balance), (name, part) in itertools.product(WAYS.items(), MIXED.items()):
        judged[name] = {}  # of the last way, at unit length, some are chosen
        for share in SHARES:
            found = trial.found_at_share(part, share, balance)
            judged[name][share] = trial.judge(found, k=trial.k)[metrics]
            means_of = judged[name][share].mean().to_dict()
            rows.append({"way": way, "descriptor": name, "share": share} | means_of)
    best = {name: nearest_that_keep_the_class(of, trial.seed) for name, of in judged.items()}
    of_control = _choose(judged[CONTROL], best[CONTROL])
    chosen = []
    for name, by_share in judged.items():
        controls = {"h": by_share[0.0]}
        if name != CONTROL:
            controls[f"{CONTROL}, share chosen"] = of_control
        chosen.append(_chosen(f"{name}, share chosen", by_share, best[name], controls, trial.seed))
    return pd.DataFrame(rows), _stacked({"unit length": pd.concat(chosen)}, "way")


def _common(trial: Experiment, sizes: Sequence[int]) -> pd.DataFrame:
    """Common hits of 50 by recipe and size of the database, a column per pair of descriptors."""
    n = len(trial.database)
    rows = []
    for way, selection, size in itertools.product(WAYS, trial.recipes, sizes):
        if size <= n:
            within = trial.subset(size) if size < n else None
            shares = trial.common(selection, WAYS[way], within)
            shares.index = [f"{plain_name(a)} and {plain_name(b)}" for a, b in shares.index]
            row = {"way": way, "selection": selection, "images": size}
            rows.append(row | (50 * shares).to_dict())
    return pd.DataFrame(rows)


# ---- the verdict on the paper's claims ----------------------------------------------------------

SETTINGS = {  # columns of the verdict: (set of images, network)
    "scenes, embedded network": ("scenes", "embedded"),
    "scenes, VGG16": ("scenes", "vgg16_conv"),
    "Imagenette, VGG16": ("imagenette", "vgg16_conv"),
    "Caltech-101, VGG16": ("caltech101", "vgg16_conv"),
}


def verdict_table() -> pd.DataFrame:
    """Looks up the evidence for the paper's claims, data/results/claims.csv, in the kept results.

    Returns:
        Columns claim, evidence and one per setting; cells are "difference [low, high] word", empty
        if there is no such comparison.
    """
    scenes = read_results(RESULTS / "original.json").tables["compared"].assign(set="scenes")
    scenes = scenes.replace({"network": {"VGG16": "vgg16_conv"}})
    photographs = read_results(RESULTS / "photographs.json").tables["compared"]
    columns = ["set", "network", "way", "metric", "descriptor", "control"]
    cells = {}
    for pair in pd.concat([scenes, photographs]).to_dict("records"):
        numbers = pair["mean"], pair["low"], pair["high"]
        difference = statistics.with_interval(*numbers, measure(pair["metric"]).digits + 1, "+")
        cells[*(pair[name] for name in columns)] = f"{difference} {pair['verdict']}"
    claims = pd.read_csv(RESULTS / "claims.csv", keep_default_na=False)
    for title, (images, network) in SETTINGS.items():
        of_title = claims.assign(set=images, network=claims.network.replace("", network))
        claims[title] = [cells.get(key, "") for key in of_title[columns].itertuples(False, None)]
    return claims[["claim", "evidence", *SETTINGS]]


def verdict_markdown() -> str:
    """Formats the verdicts as Markdown, a claim's name in its first row only."""
    table = verdict_table()
    table["claim"] = table.claim.where(~table.claim.duplicated(), "")
    rows = [list(table), *table.to_numpy().tolist()]
    head, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines])
