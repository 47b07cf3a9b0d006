"""Does the selection of neurons matter? What notebooks 00, 10 and 11 compare and keep.

Everything is computed from two stores with the extras "windows" and "color". The control is
h + average: η without any selection. `verdict_table` sums up the files in data/results/.
"""

import itertools
import json
import math
import platform
from collections import defaultdict
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
from .common import PACKAGES, ROOT, AnyPath, Balance, Metric, Threshold, commit, write_atomically
from .datasets import SCENES, choose_queries
from .descriptors import AS_RELEASED, Windows, balanced, significant, split_windows, weigh, weigh_by
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
Parts: TypeAlias = Sequence[str] | Mapping[str, float]
Some: TypeAlias = Sequence[int] | None

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


def write_results(path: AnyPath, about: Mapping[str, Any], tables: Tables) -> Path:
    """Writes results as JSON with six decimals, a line per row: so files can be compared.

    Args:
        path: the file. Its folder is made if it does not exist.
        about: what JSON can hold, without paths of this machine.
        tables: {name: table} of text and numbers; an index is left out, NaN becomes null.

    Returns:
        The file's path.
    """
    as_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    written = []
    for name, table in tables.items():
        rounded = table.round(6).astype(object).where(table.notna(), None)
        lines = ",\n".join(f"   {as_json(row)}" for row in rounded.to_numpy().tolist())
        columns = as_json(list(table.columns))
        written.append(f'  {as_json(name)}: {{"columns": {columns}, "rows": [\n{lines}\n  ]}}')
    head = as_json(about, indent=1).replace("\n", "\n ")
    text = f'{{\n "about": {head},\n "tables": {{\n' + ",\n".join(written) + "\n }\n}\n"
    return write_atomically(path, text)


def read_results(path: AnyPath) -> Results:
    """Reads what `write_results` wrote. Raises FileNotFoundError if there is no such file."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    kept = content["tables"].items()
    tables = {name: pd.DataFrame(of["rows"], columns=of["columns"]) for name, of in kept}
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
    return z_N.float().mean(dim=(1, 2, 3)), z_N.any(dim=1).float().mean(dim=(1, 2))


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
        same = {name: scores(y_N * mask).argmax(1) == predicted for name, mask in masks.items()}
    return {name: float(kept.float().mean()) for name, kept in same.items()}


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
        self.recipes: dict[str, Any] = {"q = 0.5": {"q": 0.5}, "high q": {"q": high_q}}
        self.recipes |= {
            "relative": {"q": 0.5, "threshold": "relative"},
            "as released": AS_RELEASED,
        }
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
        pieces: dict[str, tuple[list[Array], list[Array]]] = {name: ([], []) for name in functions}
        for split, store in enumerate((self.database, self.queries)):
            for start in range(0, len(store), 64):  # images at a time
                flat = torch.from_numpy(store["windows"][start : start + 64])
                windows = split_windows(flat, store.dims["blocks"])
                for name, function in functions.items():
                    pieces[name][split].append(function(windows).float().numpy())
        for name, (images, queries) in pieces.items():
            self.parts[name] = np.concatenate(images), np.concatenate(queries)
            self._layers[name] = [channels for channels, *_ in self.database.dims["blocks"]]

    def descriptors(self) -> dict[str, list[str]]:
        """Returns the descriptors that are compared, each with its parts."""
        joined = {name: name.split("+") for name in ("h", "average", "h+average", "h+color")}
        joined |= {f"eta_conv, {name}": [name] for name in self.selections}
        joined |= {f"eta, {name}": ["h", name] for name in self.selections}
        codes = self._layers["h"]  # of some networks there are none
        return {name: parts for name, parts in joined.items() if codes or "h" not in parts}

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
                of_part = torch.from_numpy(rows).split(self._layers[part], dim=1)
                joined += [factor * layer for layer in balanced(of_part, balance)]
        return torch.cat(layers[0], dim=1).numpy(), torch.cat(layers[1], dim=1).numpy()

    def found(
        self, parts: Parts, balance: Balance = "none", metric: Metric = "l1", within: Some = None
    ) -> Rows:
        """Searches by a descriptor; what was found before is remembered.

        Args:
            parts: as in `rows`.
            balance: as in `rows`.
            metric: as in `search`.
            within: the rows of the database that are searched; default all.

        Returns:
            (Q, k) rows of the database.
        """
        key = (str(parts), balance, metric, *(within or ()))
        if key not in self._found:
            images, queries = self.rows(parts, balance)
            rows = np.arange(len(images)) if within is None else np.asarray(within)
            k = min(self.k, int(self.database.described[rows].sum()))
            hits = search(images[rows], queries, metric=metric, k=k).indices
            self._found[key] = np.where(hits < 0, -1, rows[hits])
        return self._found[key]

    def scores(self, balance: Balance = "none") -> Scores:
        """Judges all descriptors: {descriptor: what `Evaluation` gives}."""
        parts = self.descriptors()
        return {name: self.judge(self.found(parts[name], balance), k=self.k) for name in parts}

    def mean_distance(self, part: str, balance: Balance = "none") -> float:
        """Estimates the mean L1 distance (a sum, not divided) of 2000 random pairs."""
        rng = np.random.default_rng(self.seed)
        a, b = (rows[rng.integers(0, len(rows), 2000)] for rows in self.rows([part], balance))
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
        return self.found({"h": (1 - share) / of_h, part: share / of_part}, balance)

    def by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Judges `found_at_share`: a row per share with "share" and the means of `Evaluation`."""
        found = {share: self.found_at_share(part, share) for share in shares}
        judged = {share: self.judge(indices, k=self.k).mean() for share, indices in found.items()}
        return pd.DataFrame(judged).T.rename_axis("share").reset_index()

    def common_by_share(self, part: str, shares: Iterable[float]) -> pd.DataFrame:
        """Counts the hits that [h, part] has in common with its parts, by the share of the part.

        Returns a row per share: "share", and the shares of common hits "with h" and "with η̃".
        """
        found = {share: self.found_at_share(part, share) for share in shares}
        table = pd.DataFrame({"share": list(found)})
        for name, alone in {"with h": self.found(["h"]), "with η̃": self.found([part])}.items():
            table[name] = [np.nanmean(common_in_top_k(each, alone)) for each in found.values()]
        return table

    def common(self, selection: str, balance: Balance = "none", within: Some = None) -> Any:
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
        return pd.Series({p: np.nanmean(common_in_top_k(found[p[0]], found[p[1]])) for p in pairs})

    def subset(self, n: int) -> list[int]:
        """Draws rows of n images of the database, balanced over the classes."""
        return sorted(choose_queries(self.database, n, self.seed))


def compared(scores: Scores, seed: int = 0) -> pd.DataFrame:
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
        if name.startswith(("h", "eta,")):
            pairs += [(name, control) for control in (CONTROL, "h") if control != name]
        if name.startswith("eta,"):
            pairs.append((name, name.replace("eta,", "eta_conv,")))
    return _differences(scores, pairs, seed)


def _differences(scores: Scores, pairs: Iterable[tuple[str, str]], seed: int) -> pd.DataFrame:
    """Subtracts, for each pair of descriptors and each measure, the second from the first."""
    rows = []
    for descriptor, control in pairs:
        for metric, values in scores[control].items() if control in scores else ():
            difference = statistics.paired_difference(scores[descriptor][metric], values, seed)
            rows.append([metric, descriptor, control, *difference])
    return pd.DataFrame(rows, columns=PAIR)


# ---- several networks on several sets of images: notebook 11 ------------------------------------


MIXED = {CONTROL: "average", "eta, q = 0.5": "q = 0.5", "eta, relative": "relative"}
MIXED["h+color"] = "color"  # descriptors whose share is set: {descriptor: the part beside h}
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
    made: dict[str, dict[tuple[str, str], pd.DataFrame]] = defaultdict(dict)
    for key, trial in trials.items():
        metrics = [f"class P@{trial.k}", HISTOGRAM_DISTANCE]
        scores = {}
        for way, balance in WAYS.items():
            scores[way] = {name: s[metrics] for name, s in trial.scores(balance).items()}
        of_all = {way: statistics.means(s, trial.seed) for way, s in scores.items()}
        made["scores"][key] = _stacked(of_all, "way")
        made["compared"][key] = _compared(scores, trial.seed)
        made["thresholds"][key], chosen_q = _thresholds(trial, scores)
        by_share, chosen_share = _by_share(trial, metrics)
        chosen = pd.concat([chosen_q, chosen_share])
        made["chosen"][key] = chosen[["way", *chosen.columns.drop("way")]]
        made["shares"][key] = shares = pd.DataFrame({"selection": ["average", *trial.selections]})
        for way, balance in WAYS.items():
            shares[way] = [trial.share(part, balance) for part in shares.selection]
        made["by_share"][key] = by_share
        made["common"][key] = _common(trial, sizes)
    joined = {name: _stacked(by_key, "set", "network") for name, by_key in made.items()}
    family = pd.concat([joined["compared"], joined["chosen"]], ignore_index=True)
    family = statistics.as_family(family)
    joined["compared"] = family[family.chosen.isna()].drop(columns=["chosen", "value"])
    joined["chosen"] = family[family.chosen.notna()]
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


def _thresholds(trial: Experiment, scores: dict[str, Scores]) -> tuple[pd.DataFrame, pd.DataFrame]:
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
            for q, (name, beside) in itertools.product(qs, {"eta_conv": [], "eta": ["h"]}.items()):
                found = trial.found([*beside, part_of[q]], balance)
                of_eta[q] = judged = trial.judge(found, k=trial.k)[metrics]  # of eta: the last one
                rows.append([way, name, kind, q, neurons[q], *judged.mean()])
            precision = pd.DataFrame({q: of_q[metrics[0]] for q, of_q in of_eta.items()})
            best = statistics.by_other_half(precision, "max", trial.seed).option
            control = {CONTROL: scores[way][CONTROL]}
            name = f"eta, {kind} q chosen"
            chosen.append(_chosen(name, of_eta, best, control, trial.seed).assign(way=way))
    columns = ["way", "descriptor", "threshold", "q", "neurons", *metrics]
    return pd.DataFrame(rows, columns=columns), pd.concat(chosen)


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
    precision, distances = np.stack([judged.T for judged in by_share.values()], axis=2)  # (Q, n)
    shares = pd.Series(0.0, index=by_share[0.0].index)
    for chosen_on, reported_on in itertools.permutations(statistics.halves(len(shares), seed)):
        of_class = np.nanmean(precision[chosen_on], axis=0)
        keep = of_class >= of_class[list(by_share).index(0.0)] - statistics.MARGIN
        of_color = np.where(keep, np.nanmean(distances[chosen_on], axis=0), np.inf)
        shares.iloc[reported_on] = list(by_share)[int(np.argmin(of_color))]
    return shares


def _by_share(trial: Experiment, metrics: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means by share; and at unit length, by the share chosen on the other half."""
    rows, chosen = [], []
    of_control: Scores = {}
    for (way, balance), (name, part) in itertools.product(WAYS.items(), MIXED.items()):
        found = {share: trial.found_at_share(part, share, balance) for share in SHARES}
        judged = {share: trial.judge(found[share], k=trial.k)[metrics] for share in SHARES}
        rows += [[way, name, share, *judged[share].mean()] for share in SHARES]
        if way == "unit length":  # the control is the first
            best, title = nearest_that_keep_the_class(judged, trial.seed), f"{name}, share chosen"
            controls = {"h": judged[0.0]} | of_control
            chosen.append(_chosen(title, judged, best, controls, trial.seed).assign(way=way))
            of_control = of_control or {title: _choose(judged, best)}
    return pd.DataFrame(rows, columns=["way", "descriptor", "share", *metrics]), pd.concat(chosen)


def _common(trial: Experiment, sizes: Sequence[int]) -> pd.DataFrame:
    """Common hits of 50 by recipe and size of the database, a column per pair of descriptors."""
    n = len(trial.database)
    rows = []
    for way, selection, size in itertools.product(WAYS, trial.recipes, sizes):
        if size <= n:
            shares = trial.common(selection, WAYS[way], trial.subset(size) if size < n else None)
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
        numbers = pair["mean"], pair["low"], pair["high"], measure(pair["metric"]).digits + 1, "+"
        text = f"{statistics.with_interval(*numbers)} {pair['verdict']}"
        cells[*(pair[name] for name in columns)] = text
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
