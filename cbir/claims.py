"""The paper's claims, the comparisons that bear on them, and the rule that gives each a word.

    cells = claims.read_cells()       # what the verdict plot draws
    claims.words(cells)               # {claim: "yes", "in part", "no" or "undecided"}
    claims.cells()                    # the same cells, from every query's scores

Here the primary family is declared: `ROWS` x `SETTINGS` x measures, whatever the answers are.
Holm's correction runs over these cells alone; all other comparisons are exploratory. `MARGIN` was
chosen after the first comparisons on the slim network, before VGG16 and the photographs;
`COLOR_MARGIN` and the rows were fixed when earlier results for these were known.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import statistics
from .common import ROOT
from .evaluation import HISTOGRAM_DISTANCE

RESULTS = ROOT / "data" / "results"
MARGIN = 0.02  # in P@k
COLOR_MARGIN = 0.05  # in h's mean histogram distance
SAME = statistics.SAME
MEASURES = {"class": "class P@5", "background": "background P@5", "colour": HISTOGRAM_DISTANCE}


class Setting(NamedTuple):
    """A network on a set of images; its scores are in data/results/scores/."""

    title: str
    images: str
    network: str


SETTINGS = {
    "scenes_vgg16": Setting("scenes, VGG16", "scenes", "vgg16_conv"),
    "scenes_vgg16_wide": Setting("scenes, VGG16, wide h", "scenes", "vgg16_conv"),
    "scenes_slim": Setting("scenes, slim VGG16", "scenes", "embedded"),
    "scenes_efficientnet": Setting("scenes, EfficientNet", "scenes", "efficientnet_lite0"),
    "imagenette_vgg16": Setting("Imagenette, VGG16", "imagenette", "vgg16_conv"),
    "imagenette_efficientnet": Setting(
        "Imagenette, EfficientNet", "imagenette", "efficientnet_lite0"
    ),
    "caltech101_vgg16": Setting("Caltech-101, VGG16", "caltech101", "vgg16_conv"),
    "caltech101_efficientnet": Setting(
        "Caltech-101, EfficientNet", "caltech101", "efficientnet_lite0"
    ),
}


class Row(NamedTuple):
    """A comparison: a descriptor less its control, both with the same balance."""

    title: str
    recipe: str
    descriptor: str
    control: str
    balance: str


_SELECTED = "η − (h + average)"
ROWS = [
    Row("η − h", "as printed", "eta, q = 0.5", "h", "as they are"),
    Row("η − h", "unit length", "eta, q = 0.5", "h", "unit length"),
    Row("η − h", "as released", "eta, as released", "h", "as they are"),
    Row("η − h", "as released, unit length", "eta, as released", "h", "unit length"),
    Row(_SELECTED, "as printed", "eta, q = 0.5", "h+average", "as they are"),
    Row(_SELECTED, "relative threshold, unit length", "eta, relative", "h+average", "unit length"),
    Row("η − η̃", "as printed", "eta, q = 0.5", "eta_conv, q = 0.5", "as they are"),
    Row("η − η̃", "as released", "eta, as released", "eta_conv, as released", "as they are"),
]


class Claim(NamedTuple):
    """A claim of the paper: its cells, and which words speak for and against it."""

    text: str
    row: str
    measures: Collection[str]
    settings: Collection[str]
    support: Collection[str]
    against: Collection[str]


_OTHER = [key for key in SETTINGS if "efficientnet" in key]
_GAIN = {"support": {"better"}, "against": {"worse", SAME}}
_KEPT = {"support": {"better", SAME}, "against": {"worse"}}
CLAIMS = {
    "1": Claim("Selecting neurons helps", _SELECTED, MEASURES, SETTINGS, **_GAIN),
    "2": Claim("η keeps the class of h", "η − h", ["class"], SETTINGS, **_KEPT),
    "3a": Claim("η is nearer than h in background", "η − h", ["background"], SETTINGS, **_GAIN),
    "3b": Claim("η is nearer than h in colour", "η − h", ["colour"], SETTINGS, **_GAIN),
    "4": Claim("η is the nearest in colour", "η − η̃", ["colour"], SETTINGS, **_GAIN),
    "6": Claim("It carries over to another network", "η − h", MEASURES, _OTHER, **_GAIN),
}


def word(claim: Claim, of_cells: pd.DataFrame) -> str:
    """Sums up a claim's cells: the rule behind the words in README.

    "yes" if every cell supports it; "in part" if some do; else "no" if any cell speaks against
    it, and "undecided" if none does.
    """
    support, against = (of_cells.word.isin(words) for words in (claim.support, claim.against))
    if support.all():
        return "yes"
    if support.any():
        return "in part"
    return "no" if against.any() else "undecided"


def words(table: pd.DataFrame) -> dict[str, str]:
    """Returns {key of `CLAIMS`: its word}, for what `cells` gives."""
    return {key: word(claim, cells_of(claim, table)) for key, claim in CLAIMS.items()}


def cells_of(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of `cells` that bear on a claim."""
    compared = table.measure.isin(claim.measures) & table.setting.isin(claim.settings)
    return table[compared & (table["row"] == claim.row)]


def read_scores(setting: str, folder: Path = RESULTS) -> pd.DataFrame:
    """Reads every query's scores: query, class, descriptor, balance and a column per measure."""
    return pd.read_csv(folder / "scores" / f"{setting}.csv.gz")


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """Compares all `ROWS` on one setting, by the measures that are known there.

    Args:
        scores: as `read_scores` gives them.

    Returns:
        A row per cell: row, recipe, measure, metric, mean, low, high (in P@5 or in histogram
        distance), p, p_margin, unit (what the verdict plot divides by: 1, or 1 % of h's mean
        distance) and margin.
    """
    by: Any = scores.set_index(["descriptor", "balance", "query"]).sort_index()
    made = []
    for row in ROWS:
        of_row = (row.descriptor, row.control, "h")
        ours, control, h = (by.loc[descriptor, row.balance] for descriptor in of_row)
        control = control.loc[ours.index]
        for measure, metric in MEASURES.items():
            if metric not in ours:
                continue
            unit = h[metric].mean() / 100 if measure == "colour" else 1.0
            margin = COLOR_MARGIN * 100 * unit if measure == "colour" else MARGIN
            a, b = ours[metric], control[metric]
            pair = statistics.paired_difference(a, b, groups=ours["class"])
            p_margin = statistics.equivalence(a, b, margin)
            about = [row.title, row.recipe, measure, metric]
            made.append([*about, *pair, p_margin, unit, margin])
    names = ["row", "recipe", "measure", "metric", *statistics.PairedDifference._fields]
    return pd.DataFrame(made, columns=[*names, "p_margin", "unit", "margin"])


def cells(folder: Path = RESULTS) -> pd.DataFrame:
    """Computes the primary family from the scores of all settings, kept in a folder.

    Returns:
        The rows of `compare` with the column setting, and those of `as_family` over all.
    """
    found = {setting: compare(read_scores(setting, folder)) for setting in SETTINGS}
    table = pd.concat(found, names=["setting"]).reset_index("setting")
    return statistics.as_family(table.reset_index(drop=True))


def read_cells() -> pd.DataFrame:
    """Reads what `cells` computed when the results were made, data/results/cells.csv."""
    return pd.read_csv(RESULTS / "cells.csv")


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """Finds the least and the greatest mean of every cell over seeds and halves.

    Args:
        table: data/results/spread.csv: setting, varied ("seed", "half"), value, row, recipe,
            measure and mean.
    """
    keys = ["setting", "varied", "row", "recipe", "measure"]
    found = table.groupby(keys, sort=False)["mean"].agg(["min", "max", "count"])
    return found.reset_index().astype({"count": np.int64})
