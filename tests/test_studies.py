"""Does the selection matter: random selections, and an experiment."""

import numpy as np
import pytest
import torch
from conftest import make_net
from PIL import Image

import cbir
from cbir import studies


def test_elsewhere_is_as_large():
    z_N = torch.from_numpy(np.random.default_rng(0).gamma(0.5, 2, (5, 6, 4, 4))) > 1
    moved = studies.elsewhere(z_N, seed=1)
    assert not torch.equal(moved, z_N)
    assert torch.equal(moved.sum(dim=(2, 3)), z_N.sum(dim=(2, 3)))  # of every channel
    assert torch.equal(*(z.sum(dim=1).flatten(1).sort().values for z in (z_N, moved)))
    assert torch.equal(studies.elsewhere(z_N[:2], seed=1), moved[:2])


def test_amounts_by_hand():
    z_N = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    z_N[0, :3, 0, 1] = True
    neurons, positions = studies.amounts(z_N)
    assert neurons.tolist() == [3 / 16] and positions.tolist() == [1 / 4]


def test_random_neurons_of_the_same_mass():
    """As much activation as the selection has, but for the neuron that completes it."""
    y_N = torch.from_numpy(np.random.default_rng(0).gamma(0.5, 2, (5, 6, 4, 4)))
    z_N = y_N > 3
    chosen = studies.equal_mass(y_N, z_N, seed=1)
    over = ((y_N * chosen).sum(dim=(1, 2, 3)) - (y_N * z_N).sum(dim=(1, 2, 3))) / y_N.amax()
    assert ((over >= 0) & (over <= 1)).all() and (chosen.sum() > 2 * z_N.sum()).all()
    assert torch.equal(studies.equal_mass(y_N[:2], z_N[:2], seed=1), chosen[:2])


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
    return studies.Experiment(*stores, seed=1)


def test_the_experiment_describes_as_extract_does(trial):
    for part, name in {"q = 0.5": "eta_conv", "relative": "relative"}.items():
        assert np.allclose(trial.queries[name], trial.parts[part][1], atol=1e-5)
    within = [0, 3, 4, 8, 9, 11, 15, 17, 20, 22, 25, 29]
    found = trial.found(["h", "q = 0.5"], within=within)
    hits = cbir.search(trial.database.eta[:][within], trial.queries.eta[:], k=5)
    assert set(found.ravel()) <= set(within)
    assert (found == np.array(within)[hits.indices]).mean() > 0.97  # near ties may tip
    scores = trial.scores()
    assert len(scores) == 4 + 2 * 4 and len(scores["h"]) == 30


def test_the_ends_of_the_balance(trial):
    """Share 0 is h alone, share 1 the part alone; another h is another descriptor."""
    table = trial.by_share("relative", [0, 1]).drop(columns="share")
    alone = [trial.judge(trial.found([part]), k=5).mean() for part in ("h", "relative")]
    np.testing.assert_allclose(table, alone, atol=0.02)
    assert 0 < trial.share("relative") < 1
    few = studies.Experiment(trial.database, trial.queries, k=40)
    assert few.found(["h"]).shape == (30, 30)  # the database has no more
    few.set_h(*few.parts["color"], [75])
    assert (few.found(["h"]) == few.found(["color"])).all()
