"""A byte a value: bounds that enclose, rows read one by one, and stores without either."""

import importlib

import numpy as np
import pytest
import zarr
from conftest import make_net, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

import cbir
from cbir.coarse import encode, l1_bounds, record_size
from cbir.shards import read_rows

OPTIONS = {"shard_size": 16, "q": 0.1, "extras": {"mac": "mac", "windows": "windows"}}
SEARCH = importlib.import_module("cbir.search")  # `cbir.search` is the function


def l1_sums(queries, rows, widths):
    """Sums of absolute differences of every layer, (L, Q, n) float64."""
    differences = np.abs(queries[:, None].astype(float) - rows[None].astype(float))
    ends = np.cumsum(widths)
    return np.stack([layer.sum(-1) for layer in np.split(differences, ends[:-1], axis=2)])


# ---- bounds ---------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**31),
    widths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    scale=st.sampled_from([1e-42, 1e-9, 1.0, 1e9, 1e37]),
    shift=st.sampled_from([0.0, 3.0]),
    n=st.integers(1, 9),
)
@settings(deadline=None, max_examples=60)
def test_bounds_enclose_the_exact_sums(seed, widths, scale, shift, n):
    """Queries lie in the range of the rows, outside of it, or are one of the rows."""
    rng = np.random.default_rng(seed)
    rows = (scale * (rng.normal(0, 1, (n, sum(widths))) + shift)).astype(np.float32)
    queries = (scale * rng.normal(0, 2, (3, sum(widths)))).astype(np.float32)
    queries = np.concatenate([queries, rows[:1]])
    exact = l1_sums(queries, rows, widths)
    records = encode(rows, widths)
    assert records.shape == (n, record_size(widths))
    for first in range(len(widths)):
        layers = slice(first, len(widths))
        columns = slice(sum(widths[:first]), None)
        low, high = l1_bounds(queries[:, columns], [records], widths, layers)
        assert (low <= exact[layers].sum(0)).all()
        assert (high >= exact[layers].sum(0)).all()


def test_whole_numbers_of_a_byte_have_bounds_without_a_gap():
    """Codes are the numbers themselves, so the sum over bytes is exact."""
    rng = np.random.default_rng(0)
    widths = [64, 1, 130]
    rows = rng.integers(0, 256, (11, sum(widths))).astype(np.float32)
    first_of_layer = [0, 64, 65]
    rows[0, first_of_layer], rows[1, first_of_layer] = 0, 255
    queries = rng.integers(0, 256, (5, sum(widths))).astype(np.float32)
    bounds = l1_bounds(queries, [encode(rows, widths)], widths, slice(0, 3))
    np.testing.assert_allclose(bounds[0], l1_sums(queries, rows, widths).sum(0), rtol=1e-8)
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-8)


def test_bounds_are_tight_enough_to_decide():
    """Half of 1/255 of the range is the largest error of a value."""
    rng = np.random.default_rng(1)
    rows = rng.random((50, 1000), dtype=np.float32)
    low, high = l1_bounds(rows[:4], [encode(rows, [1000])], [1000], slice(0, 1))
    assert (high - low).max() <= 2 * 2 * 1000 * 0.5 / 255


def test_several_shards_are_compared_by_their_own_scales():
    rng = np.random.default_rng(2)
    shards = [scale * rng.random((n, 70), dtype=np.float32) for n, scale in [(3, 1), (5, 1000)]]
    queries = rng.random((2, 70), dtype=np.float32)
    records = [encode(rows, [70]) for rows in shards]
    low, high = l1_bounds(queries, records, [70], slice(0, 1))
    exact = l1_sums(queries, np.concatenate(shards), [70])[0]
    assert (low <= exact).all() and (exact <= high).all()
    assert (high[:, :3] - low[:, :3]).max() < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_do_not_change_the_others(bad):
    rows = np.random.default_rng(3).random((4, 10), dtype=np.float32)
    good = encode(rows, [10])
    rows[2, 3] = bad
    bounds = l1_bounds(rows[:2], [encode(rows, [10])], [10], slice(0, 1))
    assert not np.isfinite(bounds[1, :, 2]).any()
    exact = l1_sums(rows[:2], rows, [10])[0]
    others = [0, 1, 3]
    assert (bounds[0][:, others] <= exact[:, others]).all()
    assert (exact[:, others] <= bounds[1][:, others]).all()
    assert good.shape == (4, record_size([10]))


# ---- stores ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(40):
        write_image(folder / f"{i:02}.png", seed=i)
    return folder


@pytest.fixture
def store(images, tmp_path):
    net = make_net()
    return cbir.extract(images, net, tmp_path / "st", **OPTIONS)


def as_older(store):
    """The same store as version cbir-2 wrote it: one chunk a file, no bytes."""
    group = zarr.open_group(store.location, mode="r+")
    for name, array in store.arrays.items():
        values, size = array[:], store.shards[0].stop
        kept = {"shape": values.shape, "chunks": (size, values.shape[1]), "dtype": values.dtype}
        older = group.create_array(name, overwrite=True, fill_value=np.nan, **kept)
        older[:] = values
    del group["coarse"]
    group.attrs["format"] = "cbir-2"
    return cbir.open_store(store.location)


@pytest.mark.parametrize("descriptor", ["eta", "h", "w_2", "h+w_1", "mac"])
def test_an_older_store_gives_the_same_hits(store, descriptor):
    queries = {name: store[name][:7] for name in (descriptor,)}
    hits = cbir.search(store, queries, [descriptor], k=9)[descriptor]
    older = as_older(store)
    assert older.coarse == {} and not older.has_coarse(["codes"])
    again = cbir.search(older, queries, [descriptor], k=9)[descriptor]
    assert hits.indices.tobytes() == again.indices.tobytes()
    assert hits.distances.tobytes() == again.distances.tobytes()


@pytest.mark.parametrize("older", [False, True], ids=["with bytes", "older"])
def test_a_loaded_store_gives_the_same_hits(store, older):
    queries = {name: store[name][:7] for name in ("eta", "h", "w_2+mac")}
    hits = cbir.search(store, queries, list(queries), k=9)
    loaded = (as_older(store) if older else store).load()
    assert all(isinstance(array, np.ndarray) for array in loaded.arrays.values())
    assert loaded.has_coarse(["codes", "conv", "mac"]) and not loaded.has_coarse(["windows"])
    again = cbir.search(loaded, queries, list(queries), k=9)
    for name in queries:
        assert hits[name].indices.tobytes() == again[name].indices.tobytes()
        assert hits[name].distances.tobytes() == again[name].distances.tobytes()


def test_a_lost_shard_of_a_loaded_store_is_named(store, tmp_path):
    (tmp_path / "st" / "conv" / "c" / "1" / "0").unlink()
    with pytest.raises(ValueError, match="has lost a shard of 'codes' or 'conv' among the rows"):
        cbir.search(store.load(), store.eta[:1], "eta", k=1)
    assert cbir.search(store.load(), store.h[:1], "h", k=1).indices.tolist() == [[0]]


def test_an_older_store_is_completed_as_it_is(images, store, tmp_path):
    whole = store.eta[:].tobytes()
    as_older(store)
    (tmp_path / "st" / "conv" / "c" / "1" / "0").unlink()
    again = cbir.extract(images, make_net(), tmp_path / "st", **OPTIONS)
    assert again.computed == 16 and again.coarse == {}
    assert again.eta[:].tobytes() == whole


def test_a_network_without_codes(images, tmp_path):
    """h has no dimensions, and eta those of its blocks."""
    net = make_net()
    net = cbir.Network(net.module, net.blocks, transform=net.transform)
    store = cbir.extract(images, net, tmp_path / "st", shard_size=16, q=0.1)
    for searched in (store, store.load()):
        hits = cbir.search(searched, {"eta": store.eta[3:5]}, ["eta"], k=2)["eta"]
        assert hits.indices[:, 0].tolist() == [3, 4]
        assert (
            hits.indices.tolist() == cbir.search(store.eta[:], store.eta[3:5], k=2).indices.tolist()
        )


def test_windows_have_no_bytes_and_are_searched_as_floats(store):
    assert "windows" not in store.coarse and "mac" in store.coarse
    rows = store["windows"][:]
    hits = cbir.search(store, {"windows": rows[:3]}, ["windows"], k=4)["windows"]
    assert hits.indices.tobytes() == cbir.search(rows, rows[:3], k=4).indices.tobytes()


def test_floats_are_read_of_few_rows_only(store, monkeypatch):
    """Forty images, one of which is the query: it alone is within reach of the nearest."""
    read = []
    rows = SEARCH.ByteBlock.rows

    def counted(block, part, which):
        read.append(len(which))
        return rows(block, part, which)

    monkeypatch.setattr(SEARCH.ByteBlock, "rows", counted)
    hits = cbir.search(store, store.h[5:6], "h", k=1)
    assert hits.indices.tolist() == [[5]]
    assert sum(read) < 10


@pytest.mark.parametrize(
    "rows",
    [3, -1, slice(None), slice(30, 5, -7), slice(4, 4), [17, 2, 2, 39], np.array([[0, 1], [2, 3]])],
    ids=str,
)
def test_rows_are_those_that_zarr_reads(store, rows):
    whole = store.codes[:]  # by zarr-python
    np.testing.assert_array_equal(read_rows(store.codes, rows), whole[rows])


def test_no_rows(store):
    assert read_rows(store.codes, []).shape == (0, store.h.shape[1])


def test_rows_out_of_range(store):
    with pytest.raises(IndexError):
        store.h[40]


def test_any_flipped_bit_of_the_bytes_is_an_error(store, tmp_path):
    queries = store.h[:2]
    file = tmp_path / "st" / "coarse" / "codes" / "c" / "0" / "0"
    data = file.read_bytes()
    flipped = [
        data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]
        for position in range(0, len(data), len(data) // 23)
    ]
    for damaged in (*flipped, data[:-5], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="coarse/codes.*is damaged"):
            cbir.search(cbir.open_store(tmp_path / "st"), queries, "h", k=1)
    assert [name for _, name in store.damaged()] == ["coarse/codes/c/0/0"]


def test_lost_bytes_are_named_and_made_again(images, store, tmp_path):
    (tmp_path / "st" / "coarse" / "conv" / "c" / "2" / "0").unlink()
    with pytest.raises(ValueError, match="lost, first coarse/conv/c/2/0"):
        cbir.open_store(tmp_path / "st")
    again = cbir.extract(images, make_net(), tmp_path / "st", **OPTIONS)
    assert again.computed == 8
    assert again.damaged() == []
