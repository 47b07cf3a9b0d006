"""README and docs/results.md say what data/results/ says, and README is short."""

import re
import runpy

import numpy as np
import pandas as pd
import pytest

from cbir import claims, statistics
from cbir.common import ROOT
from cbir.evaluation import HISTOGRAM_DISTANCE

README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
CELLS = claims.read_cells()


def text_of(page):
    """A page's text without code, addresses, tables that are generated, and comments."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall("<!-- end of (.+) -->", text):
        text = re.sub(f"<!-- {name} -->.*<!-- end of {name} -->", "", text, flags=re.S)
    return re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.S)


def test_readme_has_a_claims_word_beside_it():
    rows = re.findall(r"(?m)^\| (\w+)\. ([^|]+?) \| \*\*([^|*]+)\*\* \|", text_of(README))
    assert {key: text for key, text, _ in rows} == {k: c.text for k, c in claims.CLAIMS.items()}
    assert {key: word for key, _, word in rows} == claims.words(CELLS)


@pytest.mark.parametrize("page", [README, RESULTS], ids=lambda page: page.name)
def test_words_and_tables_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "docs" / "update.py"))["filled"](text, CELLS) == text


@pytest.fixture(scope="module")
def known():
    """All numbers that the results give: means, cells, and their spread over seeds and halves."""
    found = [f"{statistics.SIGNIFICANCE:.2f}", f"{claims.MARGIN:.2f}", "0.5"]  # the paper's q
    for setting in claims.SETTINGS:
        scores = claims.read_scores(setting)
        for metric in scores.columns.intersection([*claims.MEASURES.values(), "palette P@5"]):
            means = scores.groupby(["descriptor", "balance"])[metric].mean()
            digits = 4 if metric == HISTOGRAM_DISTANCE else 3
            found += [f"{x:.{digits}f}" for x in means]
    for file in (claims.RESULTS / "beyond").glob("*.csv.gz"):
        scores = pd.read_csv(file)
        of_row = scores.columns.intersection(["setting", "variant", "descriptor", "balance"])
        for metric, means in scores.groupby([*of_row]).mean(numeric_only=True).items():
            digits = 4 if metric == HISTOGRAM_DISTANCE else 3
            found += [f"{x:.{digits}f}" for x in means]
    spread = claims.spread(pd.read_csv(claims.RESULTS / "spread.csv"))
    for table, columns in ((CELLS, ["mean", "low", "high"]), (spread, ["min", "max"])):
        for measure, of_measure in table.groupby("measure"):
            digits = 4 if measure == "colour" else 3
            found += [f"{x:.{digits}f}" for x in np.ravel(of_measure[columns])]
    colour = CELLS[CELLS.measure == "colour"]
    in_percent = colour[["mean", "low", "high"]].div(colour.unit, axis=0)
    found += [f"{x:.1f}" for x in np.ravel(in_percent)]
    return {number.lstrip("-") for number in found}


@pytest.mark.parametrize("page", [README, RESULTS], ids=lambda page: page.name)
def test_decimals_are_results(page, known):
    decimals = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text_of(page))
    assert len(decimals) > 5
    assert not [number for number in decimals if number not in known]


def test_readme_is_short_and_complete():
    text = README.read_text(encoding="utf-8")
    words = re.findall(r"\S*\w\S*", text)
    assert len(words) <= 800
    assert "{{" not in text + RESULTS.read_text(encoding="utf-8")
