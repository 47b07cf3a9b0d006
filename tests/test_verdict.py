"""The verdicts on the paper's claims: README's numbers are those of the files in data/results/."""

import re

import pandas as pd
import pytest

from cbir import studies as results
from cbir import studies as verdict
from cbir.common import ROOT


def test_the_readme_has_the_table():
    """Every number of it, word for word."""
    assert verdict.markdown() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_claim_has_evidence():
    table = verdict.table()
    assert list(table.columns) == ["claim", "evidence", *verdict.SETTINGS]
    assert (table[list(verdict.SETTINGS)] != "").any(axis=1).all()
    for title in verdict.SETTINGS:
        assert (table[title] != "").sum() >= 7, title
    cells = [cell for cell in table[list(verdict.SETTINGS)].to_numpy().ravel() if cell]
    pattern = r"[+-]0\.\d+ \[[+-]0\.\d+, [+-]0\.\d+\] (better|worse|kept|open)"
    assert all(re.fullmatch(pattern, cell) for cell in cells)


def test_a_cell_is_what_the_file_says():
    table = verdict.table().set_index("evidence")
    pairs = results.read_results(results.RESULTS / "original.json").tables["compared"]
    (pair,) = pairs.query(
        "network == 'VGG16' and way == 'as they are' and metric == 'class P@5' "
        "and descriptor == 'eta, q = 0.5' and control == 'h'"
    ).itertuples()
    cell = table.loc["η − h, class", "scenes, VGG16"]
    assert cell.startswith(f"{pair.mean:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]")


def test_results_are_written_and_read(tmp_path):
    tables = {
        "scores": pd.DataFrame({"name": ["h", "η"], "mean": [0.123456789, float("nan")]}),
        "empty": pd.DataFrame({"x": []}),
    }
    path = results.write_results(tmp_path / "more" / "some.json", {"images": 3}, tables)
    about, read = results.read_results(path)
    assert about == {"images": 3} and list(read) == ["scores", "empty"]
    assert read["scores"]["name"].tolist() == ["h", "η"]
    assert read["scores"]["mean"][0] == pytest.approx(0.123457) and pd.isna(
        read["scores"]["mean"][1]
    )
    before = path.read_bytes()
    results.write_results(path, {"images": 3}, tables)
    assert path.read_bytes() == before
