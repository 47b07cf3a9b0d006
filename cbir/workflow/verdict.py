"""The paper's claims on one page: each claim, its evidence in four settings, and a verdict.

Every number comes from the files in data/results/; the words follow from `evaluation.as_family`.
"""

from typing import Any, NamedTuple

import pandas as pd

from ..evaluation import HISTOGRAM_DISTANCE, measure
from .results import RESULTS, read_results

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
RELATIVE = "eta, relative"
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
        RELATIVE,
        "h+average",
        CLASS,
        UNIT,
    ),
    Claim(SELECTING, "the same, colour", RELATIVE, "h+average", HISTOGRAM_DISTANCE, UNIT),
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
