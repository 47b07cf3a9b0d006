"""Explanations against sums that are written out, and other recipes against stores made by them."""

import numpy as np
import pytest
from conftest import make_net, write_image

import cbir
from cbir import descriptors, explain

OWN = cbir.AS_PRINTED | {"q": 0.05}  # the tiny network's activations are small
UNIT = OWN | {"balance": "l2"}
WINDOWS = {"windows": "windows"}
NAMES = ["h", "eta_conv", "eta"]


@pytest.fixture
def explorer(folder, tiny_net, tmp_path):
    extras = WINDOWS | {"color": "color"}
    store = cbir.extract(folder, tiny_net, tmp_path / "store", extras=extras, **OWN)
    return explain.Explorer(store, tiny_net)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_by_the_stores_recipe_it_finds_what_search_finds(explorer, metric):
    store, names = explorer.store, [*NAMES, "w_2", "h+color"]
    found = explorer.find(explorer.look(0), names, metric=metric, k=4)
    hits = cbir.search(store, [store.path(0)], names, metric=metric, k=4, net=explorer.net)
    for name, (rows, distances) in found.items():
        assert rows.tolist() == hits[name].indices[0].tolist()
        assert rows[0] == 0 and distances[0] < 1e-6
        assert distances == pytest.approx(hits[name].distances[0], abs=1e-9)
    without = explorer.find(explorer.look(0), names, metric=metric, k=3, without=0)
    assert without["h"][0].tolist() == found["h"][0][1:].tolist()


@pytest.mark.parametrize("recipe", [cbir.AS_RELEASED, OWN | {"q": 0.1}, UNIT, UNIT | {"q": 0.1}])
def test_another_recipe_finds_what_a_store_made_by_it_finds(explorer, folder, tmp_path, recipe):
    anew = cbir.extract(folder, explorer.net, tmp_path / "anew", **recipe)
    found = explorer.find(explorer.look(4), NAMES, recipe, k=9)
    hits = cbir.search(anew, [anew.path(4)], NAMES, k=9, net=explorer.net)
    for name, (rows, distances) in found.items():
        assert rows.tolist() == hits[name].indices[0].tolist()
        assert distances == pytest.approx(hits[name].distances[0], rel=1e-4, abs=1e-7)


def test_without_window_means_only_lengths_can_change(explorer, folder, tmp_path):
    place = tmp_path / "stores" / "database"
    bare = explain.Explorer(cbir.extract(folder, explorer.net, place, **OWN), explorer.net)
    assert "-p windows true" in bare.fixed and explorer.fixed == ""
    assert list(bare.recipes.values()) == [OWN, UNIT]
    assert list(explorer.recipes.values()) == [*descriptors.RECIPES.values(), OWN, UNIT]
    with pytest.raises(ValueError, match="cannot follow"):
        bare.find(bare.look(0), NAMES, cbir.AS_RELEASED)
    wanted = explorer.find(explorer.look(3), NAMES, UNIT)
    for name, hits in bare.find(bare.look(3), NAMES, UNIT).items():
        assert np.allclose(hits, wanted[name], atol=1e-6)
    # Those of the blocks may lie beside it, as a run with retrained codes keeps them.
    trunk = explorer.net.with_head(None)
    cbir.extract(folder, trunk, tmp_path / "stores" / "windows" / "database", extras=WINDOWS)
    beside = explain.Explorer(bare.store, explorer.net)
    wanted = explorer.find(explorer.look(3), NAMES, cbir.AS_RELEASED)
    for name, hits in beside.find(beside.look(3), NAMES, cbir.AS_RELEASED).items():
        assert np.allclose(hits, wanted[name])


def test_lengths_cannot_be_given_back(folder, tiny_net, tmp_path):
    store = cbir.extract(folder, tiny_net, tmp_path / "unit", extras=WINDOWS, **UNIT)
    by_length = explain.Explorer(store, tiny_net)
    assert list(by_length.recipes.values()) == [cbir.UNIT_LENGTH, UNIT]
    assert by_length.can(UNIT | {"q": 1.0}) and not by_length.can(cbir.AS_PRINTED)


@pytest.mark.parametrize("metric, power", [("l1", 1), ("l2", 2), ("cosine", 2)])
def test_shares_are_sums_over_the_layers(explorer, metric, power):
    a, b = explorer.store.eta[[0, 5]].astype(float)
    if metric == "cosine":
        a, b = a / np.sqrt((a**2).sum()), b / np.sqrt((b**2).sum())
    terms = np.abs(a - b) ** power
    shares = explorer.shares(explorer.look(0), 5, "eta", metric=metric)
    assert list(shares.index) == ["y_4", "w_1", "w_2", "w_3"]
    ends = np.cumsum([0, 7, 4, 6, 5])
    for share, first, end in zip(shares, ends, ends[1:]):
        assert share == pytest.approx(terms[first:end].sum() / terms.sum(), abs=1e-6)
    assert list(explorer.shares(explorer.look(0), 1, "h+color").index) == ["y_4", "color"]
    assert explorer.shares(explorer.look(0), 0, "color").tolist() == [0]


@pytest.mark.parametrize("recipe", [OWN, cbir.AS_RELEASED], ids=str)
def test_regions_count_the_channels_that_are_significant(explorer, recipe):
    look = explorer.look(0)
    y = look.ys[-1][0].numpy()  # (C, H, W)
    significant = y >= recipe["q"] if recipe["threshold"] == "absolute" else y > 0.5 * y.max()
    counts = significant.sum(axis=0) if recipe["counting"] == "count" else significant.any(axis=0)
    assert counts.any() and np.array_equal(look.regions(**recipe), counts)


def test_the_figure_has_maps_with_a_bar_histograms_and_shares(explorer, tmp_path):
    query = explorer.look(write_image(tmp_path / "wide.png", size=(90, 30)))
    shares = explorer.shares(query, 1, "eta")
    fig = explain.explain(query, explorer.look(1), shares, **OWN)
    fig.savefig(tmp_path / "why.png")
    pictures = [ax for ax in fig.axes if ax.images]
    assert len(pictures) == 4 and pictures[0].images[0].get_array().shape == (30, 90, 3)
    bars = [child.get_ylabel() for ax in pictures for child in ax.child_axes]
    assert bars == ["channels"]  # one scale for both
    left, right = (ax.get_position() for ax in pictures[2:])
    assert right.x0 - left.x1 < 0.05  # no gap between picture and map
    widths = [patch.get_width() for patch in fig.axes[-1].patches]
    assert widths == pytest.approx(shares.tolist()) and sum(widths) == pytest.approx(1)


def test_a_network_without_codes(folder, tmp_path):
    net = make_net(codes=())
    explorer = explain.Explorer(cbir.extract(folder, net, tmp_path / "bare", extras=WINDOWS), net)
    assert "h" not in explorer.descriptors and "eta" in explorer.descriptors
    assert explorer.store.h[:].shape == (11, 0)
    assert explorer.find(explorer.look(0), ["eta"], cbir.AS_RELEASED, k=2)["eta"][0][0] == 0


def test_what_cannot_be_looked_at(explorer):
    with pytest.raises(cbir.UnreadableImage):
        explorer.look(2)
    with pytest.raises(ValueError, match="another network"):
        explain.Explorer(explorer.store, make_net(seed=1))
