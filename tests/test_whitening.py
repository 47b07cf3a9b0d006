"""L2 normalisation and PCA-whitening."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

import cbir


def cloud(n=50, d=6, seed=0):
    """Correlated rows, far from the origin."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5).astype(np.float32)


def test_rows_of_length_one():
    np.testing.assert_allclose(cbir.l2_normalize(cloud()), normalize(cloud()), rtol=1e-6)
    assert cbir.l2_normalize([[3.0, 4.0]]).tolist() == [[0.6, 0.8]]
    assert cbir.l2_normalize(cloud()).dtype == np.float32


def test_parts_of_length_one():
    assert cbir.l2_normalize([[3.0, 4.0, -2.0, 0.0, 0.0]], parts=[2, 1, 2]).tolist() == [[0.6, 0.8, -1, 0, 0]]
    x = cbir.l2_normalize(cloud(), parts=[2, 4])
    np.testing.assert_allclose([np.linalg.norm(x[:, :2], axis=1), np.linalg.norm(x[:, 2:], axis=1)], 1, rtol=1e-6)


def test_zeros_stay_and_so_does_nan():
    x = cbir.l2_normalize(np.array([[0, 0, 0], [np.nan] * 3, [0, 0, 2]], np.float32), parts=[2, 0, 1])
    assert x[0].tolist() == [0, 0, 0] and np.isnan(x[1]).all() and x[2].tolist() == [0, 0, 1]


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="do not make 6"):
        cbir.l2_normalize(cloud(), parts=[2, 3])


def distances(x):
    return np.linalg.norm(x[:, None] - x, axis=-1)


@pytest.mark.parametrize("dims", [1, 3, 6, None])
@pytest.mark.parametrize("shape", [(50, 6), (8, 20)], ids=["more rows", "more dimensions"])
def test_whitening_against_scikit_learn(dims, shape):
    """Up to the signs of the components, which distances do not see; on rows that were not fitted, too."""
    rows, others = cloud(*shape), cloud(*shape, seed=1)
    ours = cbir.pca_whitening(rows, dims)
    kept = dims or min(shape[0] - 1, shape[1])
    theirs = PCA(kept, whiten=True, svd_solver="full").fit(rows.astype(float))
    assert ours(rows).shape == (len(rows), kept) and ours(rows).dtype == np.float32
    np.testing.assert_allclose(np.abs(ours(rows)), np.abs(theirs.transform(rows)), atol=1e-3)
    np.testing.assert_allclose(distances(ours(others)), distances(theirs.transform(others)), rtol=2e-3, atol=1e-3)


def test_whitened_rows_are_uncorrelated_with_variance_one():
    x = cbir.pca_whitening(cloud(500))(cloud(500))
    np.testing.assert_allclose(np.cov(x.T), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-3)


def test_what_does_not_vary_is_left_out():
    """A channel that is always 0, and one that is another's double."""
    rows = cloud(40, 3)
    rows = np.column_stack([rows, np.zeros(40, np.float32), 2 * rows[:, 0]])
    assert cbir.pca_whitening(rows)(rows).shape == (40, 3) == cbir.pca_whitening(rows, 5)(rows).shape


def test_unreadable_images_take_no_part():
    rows = cloud()
    gap = np.vstack([rows, np.full((2, 6), np.nan, np.float32)])
    np.testing.assert_array_equal(cbir.pca_whitening(gap).matrix, cbir.pca_whitening(rows).matrix)
    assert np.isnan(cbir.pca_whitening(rows)(gap)[-2:]).all()


@pytest.mark.parametrize("rows", [np.zeros((5, 3)), np.ones((1, 3)), np.full((4, 3), np.nan)], ids=["equal", "one", "unreadable"])
def test_rows_without_variance_are_refused(rows):
    with pytest.raises(ValueError, match="without variance"):
        cbir.pca_whitening(rows)
