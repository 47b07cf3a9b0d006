"""The primary family: kept scores give the kept cells, and the cells the words."""

import json
import re

import numpy as np
import pandas as pd

from cbir import claims, statistics

KEPT = claims.read_cells()


def test_the_kept_scores_give_the_kept_cells():
    made = claims.cells()
    exact = ["setting", "row", "recipe", "measure", "word"]
    pd.testing.assert_frame_equal(made[exact], KEPT[exact])
    for column in ("mean", "low", "high", "p", "p_margin", "p_holm", "unit", "margin"):
        np.testing.assert_allclose(made[column], KEPT[column], rtol=1e-3, atol=1e-7, err_msg=column)


def test_the_family_is_whole():
    """Claim x measure x recipe x setting: background where it is known; exploring adds nothing."""
    scenes = sum(s.images == "scenes" for s in claims.SETTINGS.values())
    assert len(KEPT) == len(claims.ROWS) * (2 * len(claims.SETTINGS) + scenes)
    np.testing.assert_allclose(statistics.holm(KEPT.p), KEPT.p_holm, rtol=1e-6)
    assert KEPT.p_holm.min() < 1e-6


def test_words_of_claims_by_hand():
    claim = claims.CLAIMS["2"]
    for cells, word in {
        ("better", claims.SAME): "yes",
        ("better", "worse"): "in part",
        ("undecided", claims.SAME): "in part",
        ("undecided", "worse"): "no",
        ("undecided", "undecided"): "undecided",
    }.items():
        assert claims.word(claim, pd.DataFrame({"word": cells})) == word


def test_results_name_a_clean_commit():
    about = json.loads((claims.RESULTS / "about.json").read_text(encoding="utf-8"))
    assert list(about) == list(claims.SETTINGS)
    beyond = claims.RESULTS / "beyond"
    further = json.loads((beyond / "about.json").read_text(encoding="utf-8"))
    assert {f"{question}.csv.gz" for question in further} == {f.name for f in beyond.glob("*.gz")}
    about |= further
    for made in about.values():
        assert {"code", "Python", "packages"} <= made.keys()
        assert re.fullmatch("[0-9a-f]{40}", made["code"]), made["code"]
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\", json.dumps(about))


def test_the_spread_is_of_five_seeds_and_halves():
    spread = claims.spread(pd.read_csv(claims.RESULTS / "spread.csv"))
    assert (spread["count"] == 5).all() and set(spread.varied) == {"seed", "half"}
    assert set(spread[spread.varied == "half"].setting) == set(claims.SETTINGS)
