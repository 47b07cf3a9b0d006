"""Judging hits: every number of every query, by hand, on a small store."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_net, write_image
from PIL import Image

import cbir
from cbir.evaluation import HISTOGRAM_DISTANCE as COLOR

GRAYS = {"database/cat/0.png": 0, "database/cat/1.png": 100, "database/dog/2.png": 100, "database/dog/3.png": 200, "queries/cat/a.png": 100,
         "queries/cow/b.png": 0, "queries/dog/c.png": 200}
APART = 6 / 75  # two grey images of different bins


@pytest.fixture
def stores(tmp_path):
    """Grey images: the database's row 4 and the queries' row 3 cannot be read."""
    for name, gray in GRAYS.items():
        path = write_image(tmp_path / name)
        Image.new("RGB", (4, 4), (gray,) * 3).save(path)
    for name in ("database/dog/4.png", "queries/dog/d.png"):
        (tmp_path / name).write_text("no image")
    return [cbir.extract(tmp_path / part, make_net(), tmp_path / f"{part}.store") for part in ("database", "queries")]


def colors(*stores):
    return [np.array([cbir.color_histogram(np.asarray(cbir.open_image(st.path(i)))) if ok else np.full(75, np.nan)
                      for i, ok in enumerate(st.described)]) for st in stores]


INDICES = np.array([[1, 2, 3, 0], [0, 1, 2, 3], [2, 3, 1, 0], [-1] * 4])


def test_by_hand(stores):
    judge = cbir.Evaluation(*stores)
    frame = judge(INDICES, k=2, cutoffs=[1], ap=True)
    assert list(frame) == ["class P@1", "class P@2", "class AP", COLOR]
    expected = [[1, 0.5, (1 + 2 / 4) / 2, 0], [0, 0, np.nan, APART / 2], [1, 1, 1, APART / 2], [np.nan] * 4]
    np.testing.assert_allclose(frame, expected)
    np.testing.assert_allclose(judge.chance["class"], (2 / 4 + 0 + 2 / 4) / 3)


def test_shares_need_no_image(stores):
    judge = cbir.Evaluation(*stores)
    whole = judge(INDICES, k=2, cutoffs=[1], ap=True)
    for part in stores:
        part.path(0).unlink()
    pd.testing.assert_frame_equal(cbir.Evaluation(*stores).shares(INDICES, k=2, cutoffs=[1], ap=True), whole.drop(columns=COLOR))


def test_stored_colors_give_the_same(stores):
    frame = cbir.Evaluation(*stores)(INDICES, k=3)
    pd.testing.assert_frame_equal(frame, cbir.Evaluation(*stores, colors(*stores))(INDICES, k=3))


def test_class_and_color_at_once(stores):
    """Half of the database is as grey as query a: rows 1 and 2, of which row 1 is a cat. Query c is a dog as bright as row 3."""
    frame = cbir.Evaluation(*stores, colors(*stores))(INDICES, k=2, near=0.25)
    assert frame["both P@2"][[0, 2]].tolist() == [0.5, 0.5] and frame["both P@2"][1] == 0 and np.isnan(frame["both P@2"][3])
    everything = cbir.Evaluation(*stores, colors(*stores))(INDICES, k=2, near=1)
    pd.testing.assert_series_equal(everything["both P@2"], everything["class P@2"], check_names=False)


def test_without_classes_there_is_color(stores, tmp_path):
    for part in ("database", "queries"):
        (tmp_path / "flat" / part).mkdir(parents=True)
        for path in (tmp_path / part).rglob("*.png"):
            path.rename(tmp_path / "flat" / part / path.name)
    flat = [cbir.extract(tmp_path / "flat" / part, make_net(), tmp_path / f"{part}.flat") for part in ("database", "queries")]
    judge = cbir.Evaluation(*flat)
    frame = judge(INDICES, k=2, cutoffs=[1, 5], ap=True, near=0.5)
    assert list(frame) == [COLOR] and judge.chance == {} and judge.factors == []
    assert cbir.means({"h": frame}).metric.tolist() == [COLOR]
    assert judge.shares(INDICES).shape == (len(INDICES), 0) and cbir.means({"h": judge.shares(INDICES)}).empty


SCORES = {d: pd.DataFrame({"class P@5": values, COLOR: 1 - np.array(values)}) for d, values in
          {"h": [0.1, 0.3, 0.2, 0.4] * 5, "eta": [0.3, 0.4, 0.4, 0.5] * 5, "gem": [0.4, 0.1, 0.2, 0.9] * 5}.items()}


def test_means():
    table = cbir.means(SCORES, seed=3)
    assert list(table) == ["metric", "descriptor", "mean", "low", "high"]
    assert table[["metric", "descriptor"]].values.tolist() == [[m, d] for m in ("class P@5", COLOR) for d in SCORES]
    assert tuple(table.iloc[1, 2:]) == cbir.bootstrap_interval(SCORES["eta"]["class P@5"], seed=3)


def test_comparisons():
    """Of the histogram distance less is better."""
    table = cbir.comparisons(SCORES, seed=3).set_index(["metric", "descriptor"])
    assert table.verdict.to_dict() == {("class P@5", "h"): "better", ("class P@5", "gem"): "open", (COLOR, "h"): "better", (COLOR, "gem"): "open"}
    assert tuple(table.loc[("class P@5", "h")])[:4] == cbir.paired_difference(SCORES["eta"]["class P@5"], SCORES["h"]["class P@5"], seed=3)
    back = cbir.comparisons(SCORES, reference="h").set_index(["metric", "descriptor"])
    assert set(back.xs("eta", level=1).verdict) == {"worse"}


def test_class_color_plane():
    noise = np.random.default_rng(0).normal(0, 0.01, (30, 2))
    noise -= noise.mean(axis=0)
    scores = {d: pd.DataFrame(noise + centre, columns=["class P@5", COLOR]) for d, centre in [("h", (0.3, 0.5)), ("eta", (0.4, 0.4)), ("gem", (0.1, 0.2))]}
    points = cbir.class_color_plane(cbir.means(scores), "class P@5")
    assert points.columns.tolist() == ["descriptor", "x", "x_low", "x_high", "y", "y_low", "y_high", "front"]
    assert points.descriptor.tolist() == list(scores) and points.front.tolist() == [False, True, True]
    np.testing.assert_allclose(points[["x", "y"]], [(0.3, 0.5), (0.4, 0.4), (0.1, 0.2)])
    assert ((points.x_low < points.x) & (points.x < points.x_high) & (points.y_low < points.y) & (points.y < points.y_high)).all()
