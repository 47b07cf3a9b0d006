"""The tables of notebook 11: all descriptors on several sets of images, by several networks."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
import pandas as pd

from ..common import Balance, Threshold
from ..descriptors import Recipe, significant
from ..evaluation import (
    HISTOGRAM_DISTANCE,
    MARGIN,
    PairedDifference,
    as_family,
    by_other_half,
    halves,
    means,
    paired_difference,
)
from ..experiment import Experiment, Scores, high_threshold
from ..labels import plain_name
from ..selection import amounts, last_block

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
