"""Shorter descriptors: what is searched, and that queries of any kind are shortened alike."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

import cbir


@pytest.fixture
def stores(folder, tmp_path, tiny_net):
    images = cbir.list_images(folder)
    database = cbir.extract(images[range(9)], tiny_net, tmp_path / "database")
    return database, cbir.extract(images[range(6, 11)], tiny_net, tmp_path / "queries")


@pytest.mark.parametrize("descriptor", ["eta", "h", "h+w_1"])
def test_shortened_rows_are_those_of_a_pca(stores, descriptor):
    database, queries = stores
    short = cbir.compress(database, 3, descriptor)
    fitted = PCA(3, svd_solver="full").fit(database[descriptor][:][database.described])
    theirs = [fitted.transform(store[descriptor][:][store.described]) for store in stores]
    assert short[descriptor].shape == (len(database), 3) and len(short) == len(database)
    assert f"{descriptor} 3 dimensions" in repr(short)
    hits = cbir.search(short, queries, descriptor, metric="l2", k=4)
    for asked, distances in zip(theirs[1], hits.distances[queries.described]):
        expected = np.sort(np.linalg.norm(theirs[0] - asked, axis=1))[:4] / 3
        np.testing.assert_allclose(distances, expected, rtol=1e-3, atol=1e-4)
    assert np.isnan(hits.distances[~queries.described]).all()
    with pytest.raises(ValueError, match="unknown descriptor 'w_2'"):
        short.parts("w_2")


def test_queries_of_any_kind_are_shortened_alike(stores, tiny_net):
    database, queries = stores
    short = cbir.compress(database, 3)
    expected = cbir.search(short, queries, k=3)
    asked = [queries.path(row) for row in range(len(queries))]
    for kind in (queries.eta[:], cbir.compress(queries, 2), asked):
        hits = cbir.search(short, kind, k=3, net=tiny_net)
        np.testing.assert_array_equal(hits.indices, expected.indices)
        np.testing.assert_allclose(hits.distances, expected.distances, rtol=1e-3, atol=1e-5)
    assert hits.files[0] == expected.files[0] and hits.queries is not None


def test_components_of_other_images(stores):
    database, queries = stores
    short = cbir.compress(database, 2, whiten=True, fitted_to=queries)
    other = cbir.compress(queries, 2, whiten=True)
    np.testing.assert_allclose(short.projection.matrix, other.projection.matrix)
    np.testing.assert_allclose(np.nanstd(other.eta[:], axis=0, ddof=1), 1, rtol=1e-3)
