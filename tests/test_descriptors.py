"""Eq. 7-16 against the sets and sums that the paper prints, written out in loops."""

from itertools import product

import numpy as np
import pytest
import torch
from conftest import make_net

import cbir
from cbir import descriptors

CHOICES = ("absolute", "relative"), ("count", "union"), ("mean", "as_released")
OPTIONS = [dict(threshold=t, counting=c, scale=s) for t, c, s in product(*CHOICES)]

# (C_m, H_m, W_m) of every block, last side 7, 3 and 1, with windows of powers of two and others
SHAPES = {
    "N=1, one cell": [(4, 1, 1)],
    "N=2": [(3, 6, 6), (4, 3, 3)],
    "N=3, not square": [(2, 8, 12), (3, 4, 6), (4, 2, 3)],
    "N=3, windows 2 x 5": [(2, 4, 15), (3, 2, 15), (2, 2, 3)],
    "N=5, one cell": [(2, 16, 16), (3, 8, 8), (4, 4, 4), (5, 2, 2), (5, 1, 1)],
    "N=5, side 3": [(2, 48, 48), (3, 24, 24), (2, 12, 12), (3, 6, 6), (4, 3, 3)],
}


def random_blocks(shapes, batch, seed=0):
    """Activations after a ReLU: many zeros, the rest up to about 2."""
    rng = np.random.default_rng(seed)
    ys = (rng.normal(0.1, 0.6, (batch, *shape)).astype(np.float32) for shape in shapes)
    return [torch.from_numpy(np.maximum(0, y)) for y in ys]


def sets_of_block_N(y_N, q, threshold):
    """Eq. 8: for every channel k, the set of its significant positions (i, j)."""
    limit = q if threshold == "absolute" else q * y_N.max()
    found = [set() for _ in y_N]
    for (k, i, j), y in np.ndenumerate(y_N):
        if y > limit or (threshold == "absolute" and y == limit):
            found[k].add((i, j))
    return found


def traced(cells, window):
    """Eq. 11, 12: the positions of block m under the positions `cells` of block N."""
    under = list(product(*map(range, window)))
    return {(window[0] * i + a, window[1] * j + b) for i, j in cells for a, b in under}


def oracle(ys, q=0.5, threshold="absolute", counting="count", scale="mean"):
    """Eq. 8-15 for one image: ys of (C_m, H_m, W_m) in float64 -> (sum C_m,)."""
    y_N, eta_conv = ys[-1], []
    Z_N = sets_of_block_N(y_N, q, threshold)
    if counting == "union":
        Z_N = [set().union(*Z_N)]  # as released: one map for the image
    for m, y_m in enumerate(ys, start=1):
        window = (y_m.shape[1] // y_N.shape[1], y_m.shape[2] // y_N.shape[2])
        Z_m = [traced(cells, window) for cells in Z_N]  # Z_{m,k}
        z_m = {}  # Eq. 13
        for Z in Z_m:
            for position in Z:
                z_m[position] = z_m.get(position, 0) + 1
        for k, channel in enumerate(y_m):
            weights = z_m
            if m == len(ys) and counting == "count":
                weights = dict.fromkeys(Z_N[k], 1)  # z_{N,k}
            above = sum(z * channel[position] for position, z in weights.items())
            below = sum(weights.values())
            if scale == "as_released":  # window sums over C_m and the significant cells
                below = below / (window[0] * window[1]) * len(y_m)
            eta_conv.append(above / below if below else 0.0)  # Eq. 14
    return np.array(eta_conv)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_equals_the_sums_written_out(shapes, options):
    for batch, q in [(1, 0.5), (3, 0.8), (2, 1)]:  # q = 1, relative: no significant neuron
        ys = random_blocks(shapes, batch, seed=batch)
        expected = [oracle([y[b].double().numpy() for y in ys], q, **options) for b in range(batch)]
        w = cbir.conv_descriptor(ys, q=q, **options)
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-5)


def test_recipes_have_names():
    ys = random_blocks(SHAPES["N=3, not square"], 2)
    printed, released, unit = cbir.AS_PRINTED, cbir.AS_RELEASED, cbir.UNIT_LENGTH
    assert list(descriptors.RECIPES.values()) == [printed, released, unit]
    assert cbir.conv_descriptor(ys).equal(cbir.conv_descriptor(ys, **printed))
    switched = cbir.conv_descriptor(ys, threshold="relative", counting="union", scale="as_released")
    assert switched.equal(cbir.conv_descriptor(ys, **released))
    parts = cbir.conv_descriptor(ys, **unit).split([2, 3, 4], dim=1)
    assert all(torch.allclose(part.norm(dim=1), torch.ones(2)) for part in parts)
    assert cbir.named_recipe("as_released", q=0.3) == released | {"q": 0.3}


def test_the_limit_itself():
    """Printed: y >= q. Released: y / max > q."""
    y_N = torch.tensor([[[[1.0, 0.5]]]])
    assert cbir.significant(y_N).tolist() == [[[[True, True]]]]
    assert cbir.significant(y_N, 0.5, "relative").tolist() == [[[[True, False]]]]


@pytest.mark.parametrize("side", [(3, 4), (6, 8), (9, 4), (3, 20), (15, 12)])
@pytest.mark.parametrize("counting", ["count", "union"])
def test_maps_against_the_sets(side, counting):
    y_N = random_blocks([(5, 3, 4)], 1)[0]
    shown = cbir.trace(cbir.significance_map(cbir.significant(y_N), counting), side)
    sets = sets_of_block_N(y_N[0].numpy(), 0.5, "absolute")
    sets = [traced(Z, (side[0] // 3, side[1] // 4)) for Z in sets]
    for i, j in product(*map(range, side)):
        count = sum((i, j) in Z for Z in sets)
        assert shown[0, i, j] == (count if counting == "count" else count > 0)


def test_sides_that_do_not_divide_and_recipes_without_meaning_are_refused():
    for shapes in [(2, 7, 6), (3, 3, 3)], [(2, 6, 7), (3, 3, 3)], [(2, 3, 3), (3, 6, 6)]:
        with pytest.raises(ValueError, match="multiple"):
            cbir.conv_descriptor(random_blocks(shapes, 1))
    recipes = [{"q": -0.1}, {"q": float("nan")}, {"q": 1.01, "threshold": "relative"}]
    recipes += [{"threshold": None}, {"counting": "sum"}, {"scale": "max"}, {"balance": "l3"}]
    for recipe in recipes:
        with pytest.raises(ValueError, match="out of range|unknown .*choose one of"):
            cbir.conv_descriptor(random_blocks(SHAPES["N=2"], 1), **recipe)


@pytest.mark.parametrize("codes", [(), ("hidden",), ("hidden", "hidden.0")])
def test_describe_puts_codes_before_the_blocks(codes):
    net = make_net(codes=codes)
    batch = torch.randn(4, 3, 32, 32)
    ys, outputs = net(batch)
    d = cbir.describe(net, batch, q=0.1, counting="union")
    assert d.h.shape == (4, 7 * len(codes))
    assert d.eta.shape == (4, 7 * len(codes) + 15)
    assert torch.equal(d.h, torch.cat([torch.empty(4, 0), *outputs], dim=1))  # Eq. 7
    assert torch.equal(d.eta_conv, cbir.conv_descriptor(ys, q=0.1, counting="union"))  # Eq. 15
    assert torch.equal(d.eta, torch.cat([d.h, d.eta_conv], dim=1))  # Eq. 16
