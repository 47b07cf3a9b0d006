"""Does the selection matter: random selections, an experiment, kept results, README's verdicts."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from compare_outputs import texts
from conftest import make_net
from PIL import Image

import cbir
from cbir import studies
from cbir.common import ROOT
from cbir.statistics import halves, holm
from cbir.studies import RESULTS, read_results, write_results

KEPT = RESULTS / "photographs.json"


def test_elsewhere_is_as_large():
    z_N = torch.from_numpy(np.random.default_rng(0).gamma(0.5, 2, (5, 6, 4, 4))) > 1
    moved = studies.elsewhere(z_N, seed=1)
    assert not torch.equal(moved, z_N)
    assert torch.equal(moved.sum(dim=(2, 3)), z_N.sum(dim=(2, 3)))  # of every channel
    assert torch.equal(*(z.sum(dim=1).flatten(1).sort().values for z in (z_N, moved)))
    assert torch.equal(studies.elsewhere(z_N[:2], seed=1), moved[:2])


def test_amounts_weights_and_classes_kept_by_hand():
    z_N = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    z_N[0, :3, 0, 1] = True
    neurons, positions = studies.amounts(z_N)
    assert neurons.tolist() == [3 / 16] and positions.tolist() == [1 / 4]
    mask = np.zeros((2, 8, 8))
    mask[0, :4, 4:] = 1  # the position above on the right
    mask[1] = 0.3
    z = torch.tensor([[[1, 3], [0, 0]], [[2, 0], [5, 1]]])
    assert studies.weight_on(z, mask).tolist() == pytest.approx([0.75, 0.3])
    assert studies.weight_on(torch.zeros(2, 2, 2), mask).isnan().all()
    y_N = torch.rand(9, 3, 2, 2) + torch.eye(3).repeat(3, 1)[:, :, None, None]
    everything = torch.ones_like(y_N, dtype=torch.bool)
    masks = {"all": everything, "none": ~everything}
    kept = studies.classes_kept(lambda y: y.mean(dim=(2, 3)), y_N, masks)
    assert kept == {"all": 1, "none": pytest.approx(1 / 3)}  # of zeros the first class wins


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A tiny network on noise in three colours, which are the classes."""
    folder = tmp_path_factory.mktemp("trial")
    net = make_net()
    with torch.no_grad():
        net.module.three[0].weight *= 30  # q = 0.5 selects something
    rng, stores = np.random.default_rng(0), []
    colors = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}
    for split in ("database", "queries"):
        for name, color in colors.items():
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = np.clip(rng.normal(color, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{i}.png")
        extras = {"windows": "windows", "color": "color", "relative": {"threshold": "relative"}}
        stores.append(cbir.extract(folder / "images" / split, net, folder / split, extras=extras))
    return studies.Experiment(*stores, high_q=0.7, seed=1)


def test_the_experiment_describes_as_extract_does(trial):
    for part, name in {"q = 0.5": "eta_conv", "relative": "relative"}.items():
        assert np.allclose(trial.queries[name], trial.parts[part][1], atol=1e-5)
    within = trial.subset(12)
    found = trial.found(["h", "q = 0.5"], within=within)
    hits = cbir.search(trial.database.eta[:][within], trial.queries.eta[:], k=5)
    assert set(found.ravel()) <= set(within) and len(within) == 12
    assert (found == np.array(within)[hits.indices]).mean() > 0.97  # near ties may tip
    scores = trial.scores()
    assert len(scores) == 4 + 2 * len(trial.selections) and len(scores["h"]) == 30
    assert len(studies.compared(scores)) == 2 * (3 * 5 + 1 + 1 + 2)  # etas; h; h+average; h+color
    y_N = studies.last_block(trial.database)
    q = studies.high_threshold(trial.database, 0.02)
    assert float((y_N >= q).float().mean()) == pytest.approx(0.02, abs=0.01)


def test_the_ends_of_the_balance(trial):
    """Share 0 is h alone, share 1 the part alone."""
    table = trial.by_share("relative", [0, 1]).drop(columns="share")
    alone = [trial.judge(trial.found([part]), k=5).mean() for part in ("h", "relative")]
    np.testing.assert_allclose(table, alone, atol=0.02)
    common = trial.common_by_share("relative", [0, 1])
    assert common["with h"][0] > 0.97 and common["with η̃"][1] > 0.97
    assert 0 < trial.share("relative") < 1
    few = studies.Experiment(trial.database, trial.queries, high_q=0.7, k=40)
    assert few.found(["h"]).shape == (30, 30)  # the database has no more


def test_a_share_is_chosen_on_the_other_half():
    """The nearest in colour of those that lose at most 0.02 in class, and never by its own half."""
    values = {0.0: (0.8, 0.04), 0.2: (0.79, 0.03), 0.5: (0.77, 0.01), 0.9: (0.9, 0.035)}
    columns = ["class P@5", "histogram distance"]
    by_share = {share: pd.DataFrame([row] * 40, columns=columns) for share, row in values.items()}
    assert studies.nearest_that_keep_the_class(by_share).tolist() == [0.2] * 40
    first, second = halves(40)
    by_share[0.5].loc[first, "class P@5"] = 0.8  # on the first half it is good: for the second
    chosen = studies.nearest_that_keep_the_class(by_share)
    assert set(chosen[second]) == {0.5} and set(chosen[first]) == {0.2}


def check_tables(tables, n_trials):
    """The tables of all sets and networks agree with each other."""
    for name, table in tables.items():
        assert len(table.groupby(["set", "network"])) == n_trials, name
    family = pd.concat([tables["compared"], tables["chosen"]])
    assert family.p_holm.to_numpy() == pytest.approx(holm(family.p), abs=2e-4)
    means = tables["scores"].set_index(["set", "network", "way", "metric", "descriptor"])["mean"]
    for row in tables["compared"].itertuples():
        key = (row.set, row.network, row.way, row.metric)
        difference = means[(*key, row.descriptor)] - means[(*key, row.control)]
        assert row.mean == pytest.approx(difference, abs=2e-6)


def test_tables_of_photographs(trial, tmp_path):
    tables = studies.tables({("noise", "tiny"): trial}, [12, 30, 1000])
    check_tables(read_results(write_results(tmp_path / "noise.json", {}, tables)).tables, 1)
    assert set(tables["common"].images) == {12, 30}  # the database has no more
    scores = tables["scores"].set_index(["way", "descriptor", "metric"])["mean"]
    by_share = tables["by_share"].set_index(["way", "descriptor", "share"])["class P@5"]
    at_half = tables["thresholds"].query("q == 0.5").set_index(["way", "descriptor", "threshold"])
    for way in studies.WAYS:
        assert by_share[way, "h+color", 0.0] == pytest.approx(scores[way, "h", "class P@5"])
        expected = scores[way, "eta, relative", "class P@5"]
        assert at_half["class P@5"][way, "eta", "relative"] == pytest.approx(expected)


def test_results_come_back_as_they_were_written(tmp_path):
    table = pd.DataFrame({"name": ["η̃", 'a "b"'], "n": [1, 2], "x": [0.12345678, np.nan]})
    written = {"one": table, "empty": pd.DataFrame({"x": []})}
    path = write_results(tmp_path / "new" / "results.json", {"seed": 0}, written)
    about, tables = read_results(path)
    assert about == {"seed": 0} and list(tables) == ["one", "empty"]
    pd.testing.assert_frame_equal(tables["one"], table.round(6))
    assert '\n   ["η̃", 1, 0.123457],' in path.read_text(encoding="utf-8")  # a line per row
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")


def test_the_notebook_prints_what_is_kept():
    """Every mean with its interval, and no other; and every decimal of the prose."""
    notebook = nbformat.read(ROOT / "notebooks" / "11_photographs.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "\n".join(text for output in outputs for text in texts(output).values())
    about, tables = read_results(KEPT)
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\", KEPT.read_text(encoding="utf-8"))
    assert {"code", "Python", "packages"} == set(about["made by"]) == set(studies.made_by())
    check_tables(tables, 4)
    scores = tables["scores"]
    kept = {f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in scores.itertuples()}
    assert set(re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", printed)) == kept
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not [x for x in re.findall(r"(?<![\d.])\d\.\d+", prose) if x not in printed]


def test_every_claim_has_evidence_and_the_readme_has_the_verdicts():
    assert studies.verdict_markdown() in (ROOT / "README.md").read_text(encoding="utf-8")
    table = studies.verdict_table()
    cells = table[[*studies.SETTINGS]]
    assert (cells != "").any(axis=1).all() and ((cells != "").sum() >= 7).all()
    pairs = read_results(RESULTS / "original.json").tables["compared"]
    pairs = pairs.set_index(["network", "way", "metric", "descriptor", "control"])
    pair = pairs.loc["VGG16", "as they are", "class P@5", "eta, q = 0.5", "h"]
    cell = table.set_index("evidence").loc["η − h, class", "scenes, VGG16"]
    assert cell == f"{pair['mean']:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}] {pair.verdict}"
