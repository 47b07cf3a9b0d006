"""Exact search against brute force in float64."""

import dataclasses
import importlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import make_net, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cbir

MODULE = importlib.import_module("cbir.search")  # `cbir.search` is the function
METRICS = ["l1", "l2", "cosine"]
ARRAYS = [(1, 1, 1, 1), (5, 3, 5, 1), (50, 64, 10, 1), (20, 9664, 5, 1)]
ARRAYS += [(30, 50, 6, scale) for scale in (1e-30, 1e-12, 1e12, 1e25, 3e37)]


def distances(rows, queries, metric):
    """All (Q, N) distances, written out in float64."""
    a, b = np.asarray(queries, float)[:, None], np.asarray(rows, float)[None]
    if metric == "l1":
        return np.abs(a - b).sum(-1) / a.shape[-1]
    if metric == "l2":
        return np.sqrt(((a - b) ** 2).sum(-1)) / a.shape[-1]
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return 1 - np.where(norms > 0, (a * b).sum(-1) / np.where(norms > 0, norms, 1), 0)


def brute_force(rows, queries, metric, k):
    """(indices, distances); rows of NaN come last."""
    d = distances(rows, queries, metric)
    order = np.argsort(np.where(np.isnan(d), np.inf, d), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(d, order, 1)


def codes(n, d, seed=0):
    """Like the activations of a network: non-negative, many zeros."""
    return np.maximum(0, np.random.default_rng(seed).normal(0.2, 1, (n, d))).astype(np.float32)


@pytest.fixture(params=[2**11, 3], ids="blocks of {} rows".format)
def blocks(request, monkeypatch):
    """Rows that are searched at a time, and fewer queries than there are."""
    monkeypatch.setattr(MODULE, "ROWS", request.param)
    monkeypatch.setattr(MODULE, "QUERIES", 3)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A database of 9 images, one of them unreadable, and 3 queries, one of them unreadable."""
    root, net = tmp_path_factory.mktemp("stores"), make_net()
    for name, n in [("database", 9), ("queries", 3)]:
        for i in range(n):
            write_image(root / name / f"{i}.png", seed=i + 100 * n)
    (root / "database" / "4.png").write_text("no image")
    (root / "queries" / "1.png").write_text("no image")
    how = dict(batch_size=2, shard_size=4, q=0.1)
    return [cbir.extract(root / s, net, root / f"st_{s}", **how) for s in ("database", "queries")]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n, d, k, scale", ARRAYS)
def test_arrays(blocks, metric, n, d, k, scale):
    """Also where float32's squares and sums overflow or vanish."""
    rows, queries = codes(n, d) * np.float32(scale), codes(4, d, seed=1) * np.float32(scale)
    hits = cbir.search(rows, queries, metric=metric, k=k)
    indices, expected = brute_force(rows, queries, metric, k)
    assert hits.indices.dtype == np.int64 and hits.distances.dtype == np.float64
    np.testing.assert_array_equal(hits.indices, indices)
    np.testing.assert_allclose(hits.distances, expected, rtol=1e-5, atol=1e-7 * scale)


@pytest.mark.parametrize("metric", METRICS)
def test_stores_by_several_descriptors_in_one_pass_or_by_one(stores, metric):
    names = ["h", "eta_conv", "eta", "w_2", "w_1+h"]
    together = cbir.search(*stores, descriptor=names, metric=metric, k=8)
    assert list(together) == names
    for name in names:
        rows, asked = (store[name][:] for store in stores)
        indices, expected = brute_force(rows, asked, metric, 8)
        for hits in (together[name], cbir.search(stores[0], asked, name, metric, 8)):
            there = hits.distances[[0, 2]]
            np.testing.assert_allclose(there, expected[[0, 2]], rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(hits.indices[[0, 2]], indices[[0, 2]])
            assert 4 not in hits.indices  # the unreadable image
            assert (hits.indices[1] == -1).all() and np.isnan(hits.distances[1]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_bounds_from_torch(blocks, metric, device):
    rows, queries = codes(60, 300), codes(5, 300, seed=1)
    rows[7] = np.nan
    plain, other = (cbir.search(rows, queries, "eta", metric, 9, device=d) for d in (None, device))
    np.testing.assert_array_equal(plain.indices, other.indices)
    np.testing.assert_array_equal(plain.distances, other.distances)


@pytest.mark.parametrize("metric", METRICS)
def test_nearly_equal_rows_in_the_order_of_float64(blocks, metric):
    """Differences far below what float32 sums can tell."""
    rows = np.repeat(codes(1, 2000, seed=3), 40, axis=0)
    order = np.random.default_rng(0).permutation(40)
    rows[np.arange(40), np.arange(40) * 7] += (order + 1) * np.float32(1e-5)
    queries = codes(2, 2000, seed=1)
    hits = cbir.search(rows, queries, metric=metric, k=25)
    exact = distances(rows, queries, metric)
    found = np.take_along_axis(exact, hits.indices, 1)
    rtol = 1e-9 if metric == "cosine" else 1e-13
    np.testing.assert_allclose(found, np.sort(exact, axis=1)[:, :25], rtol=rtol)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(METRICS), st.integers(1, 12), st.integers(1, 3))
def test_small_whole_numbers(blocks, data, metric, n, d):
    """Many ties, and sums without rounding: the very order of brute force."""
    row = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    rows = np.float32(data.draw(st.lists(row, min_size=n, max_size=n)))
    queries = np.float32(data.draw(st.lists(row, min_size=1, max_size=3)))
    k = data.draw(st.integers(1, n))
    hits = cbir.search(rows, queries, metric=metric, k=k)
    indices, expected = brute_force(rows, queries, metric, k)
    np.testing.assert_allclose(hits.distances, expected, rtol=1e-6, atol=1e-7)
    if metric != "cosine":  # parallel rows tie there but for the last bit
        np.testing.assert_array_equal(hits.indices, indices)
    assert all(len(set(row)) == k for row in hits.indices.tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_and_queries_that_are_not_finite(blocks, metric, bad):
    rows, queries = codes(20, 6), codes(3, 6, seed=1)
    gaps = [0, 3, 4, 7, 12, 19]
    rows[gaps] = np.nan
    rows[7] = 0
    rows[7, 2] = np.nan
    queries[1, 2] = bad
    hits = cbir.search(rows, queries, metric=metric, k=14)
    assert hits.indices[1].tolist() == [-1] * 14 and np.isnan(hits.distances[1]).all()
    for index in hits.indices[[0, 2]]:
        assert sorted(index) == sorted(set(range(20)) - {*gaps})
    assert np.isfinite(hits.distances[[0, 2]]).all()
    with pytest.raises(ValueError, match="k = 15.*described"):
        cbir.search(rows, queries, metric=metric, k=15)


@pytest.mark.parametrize("metric", METRICS)
def test_a_hundred_copies_come_in_their_order(metric):
    """Of a row whose float32 distance is rounded; others lie as near as float64 can tell."""
    row, query = codes(1, 9664, seed=5), codes(1, 9664, seed=6)
    rows = np.vstack([row + np.float32(1e-7), *[row] * 100, row * np.float32(1 + 2e-7)])
    [found] = cbir.search(rows, query, metric=metric, k=102).indices
    assert [i for i in found if 1 <= i <= 100] == list(range(1, 101))
    exact = distances(rows, query, metric)[0][found]
    np.testing.assert_allclose(exact, np.sort(exact), rtol=1e-12)


def test_queries_of_every_kind(stores, tmp_path, monkeypatch):
    """A file that cannot be read is a row of NaN: no hits for it, and the others keep theirs."""
    database, net = stores[0], make_net()
    files = [database.path(i) for i in (6, 4, 3)]
    (tmp_path / "folder").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "folder")
    images = [cbir.open_image(database.path(i)) for i in (6, 0)]
    pixels = [np.asarray(image) for image in images]
    taller = cbir.open_image(write_image(tmp_path / "taller.png", size=(20, 50)))
    asked = [files, [*map(str, files)], files[0], tmp_path / "folder", database.eta[3].tolist()]
    asked += [images, images[0], pixels, np.stack(pixels), pixels[0], [images[0], database.path(3)]]
    asked += ["~/folder", database.location]
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [[6, -1, 3], [6, -1, 3], [6], [3, -1, 6], [3], [6, 0], [6], [6, 0], [6, 0], [6], [6, 3]]
    rows += [[3, -1, 6], np.where(database.described, range(len(database)), -1).tolist()]
    for queries, expected in zip(asked, rows):
        hits = cbir.search(database.location, queries, k=1, net=net)
        assert hits.indices[:, 0].tolist() == expected
        assert np.isnan(hits.distances[hits.indices < 0]).all()
        np.testing.assert_allclose(hits.distances[hits.indices >= 0], 0, atol=1e-6)
    assert len(cbir.search(database, [pixels[0], np.asarray(taller)], k=1, net=net).indices) == 2


def test_image_files_need_a_store_and_its_network(stores, tmp_path):
    file, net = stores[0].path(0), make_net()
    # "tiny" is no network that can be loaded by name.
    for by, message in [(make_net(seed=1), "other weights|another network"), (None, "net")]:
        with pytest.raises(ValueError, match=message):
            cbir.search(stores[0], [file], net=by)
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        cbir.search(stores[0], tmp_path / "nowhere.png", net=net)


def test_image_files_are_described_in_batches(stores, tmp_path):
    """As `extract` does it: a batch for a forward pass, decoded by several threads."""
    net, seen = make_net(), []
    files = [write_image(tmp_path / f"{i:02}.png", seed=i) for i in range(40)]
    net.module.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    hits = cbir.search(stores[0], files, k=1, net=net)
    assert max(seen) == 32 and sum(seen) <= 40 + 2  # the first passes look at the network
    store = cbir.extract(files, net, tmp_path / "st", q=0.1)
    np.testing.assert_array_equal(hits.indices, cbir.search(stores[0], store, k=1).indices)


def test_what_was_found_has_names_and_a_picture(stores):
    database, queries = stores
    hits = cbir.search(database, queries, k=2)
    assert hits.files == [[database.files[i] for i in row if i >= 0] for row in hits.indices]
    assert hits.files[1] == []  # it cannot be read
    assert dataclasses.replace(hits, distances=hits.distances + 1).files == hits.files
    with pytest.raises(ValueError, match="pass the store"):
        _ = cbir.search(database.eta[:4], database.eta[:1], k=1).files
    figure = hits.show(2)
    assert len([ax for ax in figure.axes if ax.images]) == 6
    image = cbir.open_image(queries.path(0))
    [ax, *_] = cbir.search(database, image, k=2, net=make_net()).show().axes
    assert ax.images
    with pytest.raises(ValueError, match="`files` has the names"):
        cbir.search(database, queries.eta[:], k=2).show()


def test_options_out_of_range_and_dimensions_that_do_not_match():
    rows = codes(6, 4)
    for k in (0, -1, 7):
        with pytest.raises(ValueError, match=f"k = {k}"):
            cbir.search(rows, rows, k=k)
    for shape in [(2, 5), (5,), (2, 2, 4), (2, 2, 3), (1, 2, 2, 3)]:
        with pytest.raises(ValueError, match="dimensions"):
            cbir.search(rows, np.zeros(shape, np.float32), k=1)
    assert cbir.search(rows, rows[:0], k=2).indices.shape == (0, 2)


def test_queries_of_another_descriptor_or_recipe(stores, tmp_path):
    with pytest.raises(ValueError, match="no queries"):
        cbir.search(stores[0], [])
    with pytest.raises(ValueError, match="dimensions"):
        cbir.search(stores[0], stores[1].h[:], descriptor="eta")
    other = cbir.extract(stores[1].root, make_net(), tmp_path / "other", q=0.2)
    with pytest.raises(ValueError, match="other|different"):
        cbir.search(stores[0], other)


def test_several_threads_search_at_once(stores):
    expected = cbir.search(*stores, k=3).indices
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(cbir.search, *stores, k=3) for _ in range(8)]
        for hits in found:
            np.testing.assert_array_equal(hits.result().indices, expected)


def test_a_machine_where_no_compiled_code_can_be_kept():
    code = """
import numba.core.caching as caching, numpy as np
caching.CacheImpl._locator_classes = []  # as where neither the package nor a home can be written
import cbir
rows = np.eye(3, dtype="f4")
assert cbir.search(rows, rows, k=1).indices.tolist() == [[0], [1], [2]]
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
