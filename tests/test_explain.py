"""Explanations against sums that are written out, and other recipes against stores made by them."""

import numpy as np
import pytest
import torch
from conftest import make_net, write_image

import cbir
from cbir import explain

OWN = cbir.AS_PRINTED | {"q": 0.05}  # the tiny network's activations are small
UNIT = OWN | {"balance": "l2"}
EXTRAS = {"windows": "windows", "color": "color"}
OTHERS = {
    "as released": cbir.AS_RELEASED,
    "q": OWN | {"q": 0.1},
    "unit length": UNIT,
    "q at unit length": UNIT | {"q": 0.1},
}


@pytest.fixture
def store(folder, tiny_net, tmp_path):
    return cbir.extract(folder, tiny_net, tmp_path / "store", extras=EXTRAS, **OWN)


@pytest.fixture
def explorer(store, tiny_net):
    return cbir.Explorer(store, tiny_net)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_by_the_stores_recipe_it_finds_what_search_finds(explorer, store, metric):
    names = ["h", "eta_conv", "eta", "w_2", "h+color"]
    found = explorer.find(explorer.look(0), names, metric=metric, k=4)
    hits = cbir.search(store, [store.path(0)], names, metric=metric, k=4, net=explorer.net)
    for name, (rows, distances) in found.items():
        assert rows.tolist() == hits[name].indices[0].tolist()
        assert distances == pytest.approx(hits[name].distances[0], abs=1e-9)
        assert rows[0] == 0 and distances[0] < 1e-6
    without = explorer.find(explorer.look(0), names, metric=metric, k=3, without=0)
    assert without["h"][0].tolist() == found["h"][0][1:].tolist()


@pytest.mark.parametrize("recipe", OTHERS.values(), ids=OTHERS)
def test_another_recipe_finds_what_a_store_made_by_it_finds(explorer, folder, tmp_path, recipe):
    anew = cbir.extract(folder, explorer.net, tmp_path / "anew", **recipe)
    found = explorer.find(explorer.look(4), recipe=recipe, k=9)
    hits = cbir.search(anew, [anew.path(4)], list(found), k=9, net=explorer.net)
    for name, (rows, distances) in found.items():
        assert rows.tolist() == hits[name].indices[0].tolist()
        assert distances == pytest.approx(hits[name].distances[0], rel=1e-4, abs=1e-7)


def test_window_means_may_lie_in_another_store(explorer, folder, tmp_path):
    bare = cbir.extract(folder, explorer.net, tmp_path / "bare", **OWN)
    beside = cbir.Explorer(bare, explorer.net, explorer.store)
    wanted = explorer.find(explorer.look(3), recipe=cbir.AS_RELEASED)
    for name, hits in beside.find(beside.look(3), recipe=cbir.AS_RELEASED).items():
        assert np.array_equal(hits, wanted[name])


def test_without_window_means_only_lengths_can_change(explorer, folder, tmp_path):
    bare = cbir.Explorer(cbir.extract(folder, explorer.net, tmp_path / "bare", **OWN), explorer.net)
    assert "-p windows true" in bare.fixed and explorer.fixed == ""
    assert list(bare.recipes) == ["as stored"] and bare.can(UNIT)
    assert list(explorer.recipes) == [*cbir.RECIPES, "as stored"]
    with pytest.raises(ValueError, match="cannot follow"):
        bare.find(bare.look(0), recipe=cbir.AS_RELEASED)
    wanted = explorer.find(explorer.look(3), recipe=UNIT)
    for name, hits in bare.find(bare.look(3), recipe=UNIT).items():
        assert np.allclose(hits, wanted[name], atol=1e-6)


def test_lengths_cannot_be_given_back(explorer, folder, tmp_path):
    store = cbir.extract(folder, explorer.net, tmp_path / "unit", extras=EXTRAS, **UNIT)
    by_length = cbir.Explorer(store, explorer.net)
    assert list(by_length.recipes) == ["unit_length", "as stored"]
    assert by_length.can(UNIT | {"q": 1.0}) and not by_length.can(cbir.AS_PRINTED)


@pytest.mark.parametrize("metric, power", [("l1", 1), ("l2", 2), ("cosine", 2)])
def test_shares_are_sums_over_the_layers(explorer, store, metric, power):
    a, b = store.eta[0].astype(float), store.eta[5].astype(float)
    if metric == "cosine":
        a, b = a / np.sqrt((a**2).sum()), b / np.sqrt((b**2).sum())
    terms = np.abs(a - b) ** power
    shares = explorer.shares(explorer.look(0), 5, "eta", metric=metric)
    ends = np.cumsum([0, 7, 4, 6, 5])
    for name, first, end in zip(["y_4", "w_1", "w_2", "w_3"], ends, ends[1:]):
        assert shares[name] == pytest.approx(terms[first:end].sum() / terms.sum(), abs=1e-6)
    assert list(shares.index) == ["y_4", "w_1", "w_2", "w_3"]


def test_a_sum_has_the_parts_of_its_summands_and_a_copy_has_no_shares(explorer):
    assert list(explorer.shares(explorer.look(0), 1, "h+color").index) == ["y_4", "color"]
    assert explorer.shares(explorer.look(0), 0, "color").tolist() == [0]


@pytest.mark.parametrize("recipe", [OWN, cbir.AS_RELEASED])
def test_regions_count_the_channels_that_are_significant(explorer, recipe):
    look = explorer.look(0)
    y = look.ys[-1][0].numpy()  # (C, H, W)
    least = recipe["q"] if recipe["threshold"] == "absolute" else recipe["q"] * y.max()
    counts = np.zeros(y.shape[1:], int)
    for channel in y:
        counts += channel >= least if recipe["threshold"] == "absolute" else channel > least
    if recipe["counting"] == "union":
        counts = counts > 0
    assert counts.any() and np.array_equal(look.regions(**recipe), counts)


def test_the_figure_has_maps_with_a_bar_histograms_and_shares(explorer, tmp_path):
    query, found = explorer.look(0), explorer.look(1)
    shares = explorer.shares(query, 1)
    fig = explain.explain(query, found, shares, **OWN)
    fig.savefig(tmp_path / "why.png")
    pictures = [ax for ax in fig.axes if ax.images]
    assert len(pictures) == 4
    bars = [child for ax in pictures for child in ax.child_axes]
    assert [bar.get_ylabel() for bar in bars] == ["channels", "channels"]
    *_, last = fig.axes
    widths = [patch.get_width() for patch in last.patches]
    assert widths == pytest.approx(shares.tolist()) and sum(widths) == pytest.approx(1)
    assert look_of(pictures[0]) == pytest.approx(query.aspect, rel=0.02)


def look_of(ax):
    """Width / height that a picture has where it is drawn."""
    height, width = ax.images[0].get_array().shape[:2]
    return width / height / ax.get_aspect()


def test_a_network_without_codes(folder, tmp_path):
    net = make_net(codes=())
    store = cbir.extract(folder, net, tmp_path / "bare", extras={"windows": "windows"})
    explorer = cbir.Explorer(store, net)
    assert "h" not in explorer.descriptors and "eta" in explorer.descriptors
    found = explorer.find(explorer.look(0), ["eta"], cbir.AS_RELEASED, k=2)
    assert found["eta"][0][0] == 0


def test_what_cannot_be_looked_at(explorer, store, tmp_path):
    with pytest.raises(cbir.UnreadableImage):
        explorer.look(store.path(2))
    wide = explorer.look(write_image(tmp_path / "wide.png", size=(90, 30)))
    assert wide.aspect == 3 and wide.picture.shape == (32, 32, 3)
    assert wide.histogram.sum() == pytest.approx(3)
    with pytest.raises(ValueError, match="another network"):
        cbir.Explorer(store, make_net(seed=1))
    assert torch.equal(explorer.look(0).ys[0], explorer.look(store.path(0)).ys[0])
