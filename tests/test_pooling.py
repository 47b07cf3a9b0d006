"""Poolings against loops that are what their papers say; whitening against scikit-learn."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

import cbir
from cbir import descriptors, pooling


def blocks(size=(7, 7)):
    """Two blocks of three images; y_2's channel 0 and all of image 1 are 0."""
    torch.manual_seed(0)
    ys = [torch.randn(3, c, *(s * f for s in size)).relu() for c, f in [(3, 2), (5, 1)]]
    ys[1][:, 0] = 0
    ys[1][1] = 0
    return ys


def literal_spoc(y):
    _, height, width = y.shape
    sigma = min(height / 2, width / 2) / 3
    squares = [(np.arange(n) - (n - 1) / 2) ** 2 for n in (height, width)]
    weights = np.exp(-np.add.outer(*squares) / (2 * sigma * sigma))
    return [(weights * channel).sum() for channel in y]


def literal_crow(y, eps=1e-6):
    total = y.sum(axis=0)
    spatial = np.sqrt(total / (math.sqrt((total**2).sum()) or 1))
    nonzero = (y > 0).mean(axis=(1, 2))
    rare = [math.log((len(y) * eps + sum(nonzero)) / (eps + share)) for share in nonzero]
    return [weight * (spatial * channel).sum() for weight, channel in zip(rare, y)]


def literal_rmac(y):
    total = np.zeros(len(y))
    for top, left, side in pooling.regions(*y.shape[1:]):
        mac = y[:, top : top + side, left : left + side].max(axis=(1, 2))
        total += mac / (math.sqrt(sum(v * v for v in mac)) or 1)
    return total


def literal_pyramid(y):
    channels, height, width = y.shape
    found = []
    for n in (1, 2, 4):
        for k, a, b in product(range(channels), range(n), range(n)):
            rows = range(a * height // n, -(-(a + 1) * height // n))
            cols = range(b * width // n, -(-(b + 1) * width // n))
            found.append(max(y[k, i, j] for i, j in product(rows, cols)))
    return found


def literal_scda(ys):
    """By scipy's connected components; blocks of whole windows."""
    sums = sum(ys[-1])
    labels, n = ndimage.label(sums > np.mean(sums), structure=np.ones((3, 3)))
    if not n:
        return np.zeros(2 * sum(len(y) for y in ys))
    largest = max(range(1, n + 1), key=lambda label: (labels == label).sum())
    found = []
    for y, weight in zip(reversed(ys), (1, 0.5)):
        side = y.shape[1] // labels.shape[0]
        for pool in (np.mean, np.max):
            for channel in y:
                cut = channel.reshape(labels.shape[0], side, labels.shape[1], side).mean((1, 3))
                found.append(weight * pool(cut[labels == largest]))
    return found


def literal_pwa(y):
    total = np.zeros(len(y))
    for part in sorted(y, key=lambda channel: -np.var(channel))[:25]:
        norm = math.sqrt((part**2).sum()) or 1
        total += [(np.sqrt(part / norm) * channel).sum() for channel in y]
    return total


LITERAL = {
    "spoc": literal_spoc,
    "mac": lambda y: [channel.max() for channel in y],
    "gem": lambda y: [(channel**3).mean() ** (1 / 3) for channel in y],
    "rmac": literal_rmac,
    "crow": literal_crow,
    "pyramid": literal_pyramid,
    "pwa": literal_pwa,
}


@pytest.mark.parametrize("size", [(7, 7), (4, 9), (8, 3), (1, 1)])
@pytest.mark.parametrize("name", LITERAL)
def test_against_the_literal_version(name, size):
    *_, y_N = ys = blocks(size)
    pooled = cbir.POOLINGS[name](ys)
    expected = np.array([LITERAL[name](y) for y in y_N.double().numpy()])
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(cbir.POOLINGS["average"](ys), cbir.conv_descriptor(ys, q=0))


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (14, 14), (1, 1)])
def test_scda_against_the_literal_version(size):
    """Also from window means: the same as from the whole maps."""
    ys = [*blocks(size)[:1], torch.relu(torch.randn(3, 4, *size))]
    ys[1][1] = 0
    expected = [literal_scda([y[b].double().numpy() for y in ys]) for b in range(3)]
    pooled = cbir.POOLINGS["scda"](ys)
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=2e-5, atol=1e-6)
    means = [mean for mean, _ in descriptors.window_means(ys)]
    torch.testing.assert_close(cbir.POOLINGS["scda"](means), pooled)


def test_regions():
    """Sides 7, 4, 3: 1, 4, 9 regions. 10 x 16: 2 of side 10, 2 x 3 of side 6, 3 x 4 of side 5."""
    found = pooling.regions(7, 7)
    assert found[:5] == [(0, 0, 7), (0, 0, 4), (0, 3, 4), (3, 0, 4), (3, 3, 4)]
    assert found[5:] == [(i, j, 3) for i in (0, 2, 4) for j in (0, 2, 4)]
    found = pooling.regions(10, 16)
    assert found[:2] == [(0, 0, 10), (0, 6, 10)]
    assert [sum(side == s for *_, side in found) for s in (10, 6, 5)] == [2, 6, 12]
    assert sorted(pooling.regions(16, 10)) == sorted((left, top, side) for top, left, side in found)


@pytest.mark.parametrize("name", cbir.POOLINGS)
def test_images_are_described_one_by_one(name):
    """An image without any activation gives zeros, not NaN; half precision comes out as float32."""
    ys = blocks()
    pooled = cbir.POOLINGS[name](ys)
    assert torch.isfinite(pooled).all() and (pooled >= 0).all()
    assert (pooled[1, -5:] == 0).all()
    for b in range(3):
        torch.testing.assert_close(cbir.POOLINGS[name]([y[b : b + 1] for y in ys])[0], pooled[b])
    assert cbir.POOLINGS[name]([y.half() for y in ys]).dtype == torch.float32


def cloud(n=50, d=6, seed=0):
    """Correlated rows, far from the origin."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5).astype(np.float32)


def test_rows_of_length_one():
    np.testing.assert_allclose(pooling.l2_normalize(cloud()), normalize(cloud()), rtol=1e-6)
    assert pooling.l2_normalize(cloud()).dtype == np.float32
    odd = pooling.l2_normalize([[3.0, -4.0], [0.0, 0.0], [np.nan, 1.0]])
    np.testing.assert_array_equal(odd, [[0.6, -0.8], [0, 0], [np.nan, 1]])


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dims", [1, 3, 6, None])
@pytest.mark.parametrize("shape", [(50, 6), (8, 20)], ids=["more rows", "more dimensions"])
def test_principal_components_against_scikit_learn(dims, shape, whiten):
    """Up to the components' signs, which distances do not see; also on rows not fitted."""
    rows, others = cloud(*shape), cloud(*shape, seed=1)
    ours = pooling.pca(rows, dims, whiten)
    kept = dims or min(shape[0] - 1, shape[1])
    theirs = PCA(kept, whiten=whiten, svd_solver="full").fit(rows.astype(float))
    assert ours(rows).shape == (len(rows), kept) and ours(rows).dtype == np.float32
    np.testing.assert_allclose(np.abs(ours(rows)), np.abs(theirs.transform(rows)), atol=1e-3)
    expected = pdist(theirs.transform(others))
    np.testing.assert_allclose(pdist(ours(others)), expected, rtol=2e-3, atol=1e-3)


def test_what_does_not_vary_or_cannot_be_read_is_left_out():
    """A channel that is always 0, and one that is another's double; rows of NaN."""
    rows = cloud(40, 3)
    rows = np.column_stack([rows, np.zeros(40, np.float32), 2 * rows[:, 0]])
    fitted = pooling.pca(rows)
    assert fitted(rows).shape == (40, 3) == pooling.pca(rows, 5)(rows).shape
    gap = np.vstack([rows, np.full((2, 5), np.nan, np.float32)])
    np.testing.assert_array_equal(pooling.pca(gap).matrix, fitted.matrix)
    for rows in (np.zeros((5, 3)), np.ones((1, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(ValueError, match="without variance"):
            pooling.pca(rows)
