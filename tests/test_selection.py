"""Selections of neurons: random ones, how much they hold, and what they find."""

import numpy as np
import pandas as pd
import pytest
import torch

import cbir
from cbir import studies as experiment
from cbir import studies as selection
from cbir.descriptors import split_windows, weigh_by, window_means

SHAPES = [(4, 8, 8), (6, 4, 4), (5, 2, 2)]


def blocks(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.gamma(0.5, 2, (n, *shape))).float() for shape in SHAPES]


def test_elsewhere_is_as_large():
    z_N = blocks(5)[1] > 1
    moved = selection.elsewhere(z_N, seed=1)
    assert moved.shape == z_N.shape and not torch.equal(moved, z_N)
    assert torch.equal(moved.sum(dim=(2, 3)), z_N.sum(dim=(2, 3)))  # of every channel
    counts = [z.sum(dim=1).flatten(1).sort(dim=1).values for z in (z_N, moved)]
    assert torch.equal(*counts)  # of the positions
    assert torch.equal(selection.elsewhere(z_N[:2], seed=1), moved[:2])


def test_amounts_by_hand():
    z_N = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    z_N[0, :3, 0, 1] = True
    neurons, positions = selection.amounts(z_N)
    assert neurons.tolist() == [3 / 16] and positions.tolist() == [1 / 4]


def test_weight_on_an_object_by_hand():
    mask = np.zeros((2, 8, 8))
    mask[0, :4, 4:] = 1  # the position above on the right
    mask[1] = 0.3
    z = torch.tensor([[[1, 3], [0, 0]], [[2, 0], [5, 1]]])
    assert selection.weight_on(z, mask).tolist() == pytest.approx([0.75, 0.3])
    assert selection.weight_on(torch.zeros(2, 2, 2), mask).isnan().all()


def test_windows_are_split_as_they_were_joined():
    means = window_means(blocks())
    flat = torch.cat([mean.flatten(1) for mean, _ in means], dim=1)
    for (a, cells), (b, expected) in zip(split_windows(flat, SHAPES), means):
        assert torch.equal(a, b) and cells == expected


def test_any_selection_weighs_as_eq_14():
    ys = blocks()
    z_N = selection.elsewhere(cbir.significant(ys[-1], 1.0))
    got = weigh_by(z_N, window_means(ys))
    z = cbir.significance_map(z_N)
    for start, y in zip((0, 4), ys[:2]):
        z_m = cbir.trace(z, y.shape[-2:])[:, None]
        w = (z_m * y).sum(dim=(2, 3)) / z_m.sum(dim=(2, 3)).clamp_min(1)
        assert torch.allclose(got[:, start : start + y.shape[1]], w, atol=1e-5)


@pytest.mark.parametrize("balance, power", [("l1", 1), ("l2", 2)])
def test_balanced_parts_have_length_one(balance, power):
    ys = blocks()
    plain = cbir.conv_descriptor(ys)
    got = cbir.conv_descriptor(ys, balance=balance)
    for part, unit in zip(plain.split([4, 6, 5], dim=1), got.split([4, 6, 5], dim=1)):
        assert torch.allclose((unit**power).sum(dim=1), torch.ones(3), atol=1e-5)
        assert torch.allclose(unit * part.norm(p=power, dim=1, keepdim=True), part, atol=1e-5)
    nothing = [torch.zeros_like(y) for y in ys]
    assert (cbir.conv_descriptor(nothing, balance=balance) == 0).all()
    with pytest.raises(ValueError, match="unknown balance 'unit'"):
        cbir.conv_descriptor(ys, balance="unit")


def test_masks_of_the_embedded_queries():
    database, queries = cbir.load_images("embedded")
    masks = selection.object_masks(queries[[199, 0, 20]])
    assert masks.shape == (3, 224, 224) and set(np.unique(masks)) == {0, 1}
    assert (masks[:, 0] == 0).all()  # sky
    assert (masks[1] == selection.object_masks(queries[[0]])[0]).all()
    assert selection.object_masks(database) is None


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """The embedded network on 60 and 20 scenes."""
    folder = tmp_path_factory.mktemp("trial")
    net = cbir.load_network("embedded", device="cpu")
    extras = {"windows": "windows", "color": "color"}
    stores = []
    for images in cbir.load_images("embedded", max_images=60, max_queries=20):
        stores.append(cbir.extract(images, net, folder / images.root.name, extras=extras))
    return experiment.Experiment(*stores, high_q=2.0)


def test_the_experiment_describes_as_extract_does(trial, tmp_path):
    """At the paper's recipe, and by search in a store."""
    found = trial.found(["h", "q = 0.5"])
    hits = cbir.search(trial.database, trial.queries, "eta")
    assert (found == hits.indices).mean() > 0.97  # near ties may tip
    released = cbir.extract(
        cbir.load_images("embedded", max_queries=20)[1],
        cbir.load_network("embedded", device="cpu"),
        tmp_path / "released",
        **cbir.AS_RELEASED,
    )
    assert np.allclose(released.eta_conv[:], trial.parts["as released"][1], atol=1e-4)


def test_all_descriptors_are_judged(trial):
    scores = trial.scores()
    assert {"h", "average", "h+average", "h+color", "eta, elsewhere"} <= set(scores)
    assert len(scores) == 4 + 2 * len(trial.selections)
    assert all(len(frame) == 20 for frame in scores.values())
    assert scores["h"]["class P@5"].mean() > 0.8  # h was trained on the class


def test_the_ends_of_the_balance(trial):
    """Share 0 is h alone, share 1 the part alone, and the stated share is reached between."""
    table = trial.by_share("relative", [0, 1]).drop(columns="share")
    alone = [trial.judge(trial.found([part]), k=5).mean() for part in ("h", "relative")]
    for row, expected in zip(table.to_dict("records"), alone):
        assert row == pytest.approx(expected.to_dict(), abs=0.02)
    of_h, of_part = trial.mean_distance("h"), trial.mean_distance("relative")
    assert trial.share("relative") == pytest.approx(of_part / (of_h + of_part))


def test_common_hits(trial):
    common = trial.common("q = 0.5")
    assert common.between(0, 1).all()
    small = trial.subset(30)
    assert len(small) == 30 and pd.Series(np.array(trial.database.labels)[small]).nunique() == 10
    found = trial.found(["h"], within=small)
    assert set(found.ravel()) <= set(small)
    again = cbir.search(trial.database.h[:][small], trial.queries.h[:])
    assert (np.array(small)[again.indices] == found).all()


def test_the_high_threshold_selects_its_share(trial):
    q = experiment.high_threshold(trial.database, 0.02)
    y_N = selection.last_block(trial.database)
    assert float((y_N >= q).float().mean()) == pytest.approx(0.02, abs=0.003)


def test_classes_kept(trial):
    net = cbir.load_network("embedded", device="cpu")
    y_N = selection.last_block(trial.queries)

    def scores(y):
        return net.module.classifier(y.flatten(1))

    everything = torch.ones_like(y_N, dtype=torch.bool)
    kept = experiment.classes_kept(scores, y_N, {"all": everything, "none": ~everything})
    assert kept["all"] == 1 and kept["none"] < 0.5
