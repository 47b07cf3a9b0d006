"""Judging hits: every measure of every query by hand, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_net, write_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

import cbir
from cbir import evaluation
from cbir.evaluation import HISTOGRAM_DISTANCE, MEASURES, measure

GRAYS = {"cat/0": 0, "cat/1": 100, "dog/2": 100, "dog/3": 200}  # of the database
GRAYS_OF_QUERIES = {"cat/a": 100, "cow/b": 0, "dog/c": 200}
APART = 6 / 75  # two grey images of different bins
INDICES = np.array([[1, 2, 3, 0], [0, 1, 2, 3], [2, 3, 1, 0], [-1] * 4])


def describe(folder):
    """The stores of both splits of a folder: [database, queries]."""
    net, options = make_net(), {"extras": {"color": "color"}}
    splits = [folder / "database", folder / "queries"]
    return [cbir.extract(split, net, split.with_suffix(".store"), **options) for split in splits]


@pytest.fixture
def stores(tmp_path):
    """Grey images: the database's row 4 and the queries' row 3 cannot be read."""
    for split, grays in {"database": GRAYS, "queries": GRAYS_OF_QUERIES}.items():
        for name, gray in grays.items():
            path = write_image(tmp_path / split / f"{name}.png")
            Image.new("RGB", (4, 4), (gray,) * 3).save(path)
        (tmp_path / split / "dog" / "e.png").write_text("no image")
    return describe(tmp_path)


def test_by_hand(stores):
    judge = cbir.Evaluation(*stores)
    frame = judge(INDICES, k=2, ap=True)
    assert list(frame) == ["class P@2", "class AP", HISTOGRAM_DISTANCE]
    expected = [[0.5, (1 + 2 / 4) / 2, 0], [0, np.nan, APART / 2], [1, 1, APART / 2]]
    np.testing.assert_allclose(frame, [*expected, [np.nan] * 3])
    np.testing.assert_allclose(judge.chance["class"], (2 / 4 + 0 + 2 / 4) / 3)
    stored = cbir.Evaluation(*stores, [store["color"] for store in stores])
    pd.testing.assert_frame_equal(stored(INDICES, k=2, ap=True), frame)
    for store in stores:
        store.path(0).unlink()
    shares = cbir.Evaluation(*stores).shares(INDICES, k=2, ap=True)  # opens no image
    pd.testing.assert_frame_equal(shares, frame.drop(columns=HISTOGRAM_DISTANCE))


def test_an_image_beside_the_class_folders_is_of_no_class(tmp_path):
    """Loose images find each other, and score nothing; for others they are no hit."""
    for name in ("cat/0.png", "cat/1.png", "2.png", "3.png", "4.png"):
        write_image(tmp_path / "database" / name)
    store = cbir.extract(tmp_path / "database", make_net(), tmp_path / "store")
    rows = {file: row for row, file in enumerate(store.files)}
    cats, loose = [rows["cat/0.png"], rows["cat/1.png"]], [rows[f"{i}.png"] for i in (2, 3, 4)]
    indices = np.empty((5, 3), int)
    indices[cats] = [*cats, loose[0]]
    indices[loose] = loose
    judge = cbir.Evaluation(store, store)
    frame = judge.shares(indices, k=3, ap=True)
    assert frame.iloc[loose].isna().all(axis=None)
    assert frame["class P@3"][cats].tolist() == [2 / 3] * 2
    assert frame["class AP"][cats].tolist() == [1, 1] and judge.chance == {"class": 2 / 5}


def test_a_folder_smaller_than_k_and_one_without_classes(tmp_path):
    for name in ("database/cat/0", "database/dog/1", "database/cat/2", "queries/cat/a"):
        write_image(tmp_path / f"{name}.png")
    judge = cbir.Evaluation(*describe(tmp_path))
    frame = judge(np.array([[2, 1, 0]]), k=5, ap=True)
    assert frame["class P@5"].tolist() == [2 / 3]
    table = cbir.means({"eta": frame, "h": frame})
    assert np.isfinite(table["mean"]).all() and table.low.isna().all()
    for name in ("database/0", "database/1", "queries/a"):
        write_image(tmp_path / "loose" / f"{name}.png")
    judge = cbir.Evaluation(*describe(tmp_path / "loose"))
    frame = judge(np.array([[1, 0]]), k=2, ap=True)
    assert list(frame) == [HISTOGRAM_DISTANCE] and judge.chance == {} and judge.factors == []
    assert cbir.means({"h": judge.shares(np.array([[1, 0]]))}).empty


def test_names_of_measures():
    names = ["class P@1", "class P@50", "same class"]
    assert {measure(name) for name in names} == {MEASURES["class P@k"]} == {("max", 2)}
    assert measure("histogram distance") == ("min", 3)
    with pytest.raises(ValueError, match="unknown measure .*did you mean 'histogram distance'"):
        measure("Histogramm distance")


def test_average_precision_by_hand():
    """Of three relevant ones; then of none, not searched for, and None, to which none is."""
    values = ["cat"] * 3 + ["dog"] * 5
    rankings = [0, 2], [4, 2], [1, 5, 0, 7], [6, 7]
    ap = [evaluation.average_precision(["cat"], values, np.array([ranks]))[0] for ranks in rankings]
    assert ap == pytest.approx([1, (1 / 2) / 2, (1 + 2 / 3) / 3, 0])
    queries, database = ["cow", "cat", "dog", None], ["cat", "dog", None]
    indices = np.array([[0, 1, 2], [-1, -1, -1], [1, 0, 2], [2, 1, 0]])
    ap = evaluation.average_precision(queries, database, indices)
    np.testing.assert_array_equal(ap, [np.nan, np.nan, 1, np.nan])


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 4))
def test_average_precision_against_scikit_learn(seed, n, classes):
    rng = np.random.default_rng(seed)
    values, wanted = rng.integers(0, classes, n), rng.integers(0, classes, 5)
    order = np.stack([rng.permutation(n) for _ in wanted])
    found = evaluation.average_precision(wanted, values, order)
    for value, ranking, ap in zip(wanted, order, found):
        if (values == value).any():
            expected = average_precision_score(values[ranking] == value, -np.arange(n))
            assert ap == pytest.approx(expected)
