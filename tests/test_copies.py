"""Copies: groups of images that are the same picture, in a store and across two."""

import numpy as np
import pytest
from conftest import make_net, write_image
from PIL import Image
from scipy.sparse.csgraph import connected_components

import cbir
from cbir import copies

GROUPS = [["a/1.png", "b/1.webp"], ["a/3.png", "b/again 3.bmp", "b/copy of 3.png"]]
GROUPS += [["a/5.png", "b/copy of 5.tif"]]
ACROSS = [["3.png", *GROUPS[1]], ["7.png", "a/7.png"], ["new.png", "new2.png"]]
ACROSS += [GROUPS[0], GROUPS[2]]


OPTIONS = [{}, {"dtype": "float16"}, {"balance": "l1"}, {"q": 0}]


@pytest.fixture
def stored(tmp_path):
    """A store and one of queries: copies in other batches and files, near ones, unreadable ones."""
    database, queries = tmp_path / "database", tmp_path / "queries"
    for i in range(9):
        write_image(database / "a" / f"{i}.png", seed=i)
    for name, seed in [("b/copy of 3.png", 3), ("b/again 3.bmp", 3), ("b/copy of 5.tif", 5)]:
        write_image(database / name, seed=seed)
    with Image.open(database / "a" / "1.png") as image:
        image.save(database / "a" / "1.jpg", quality=100, subsampling=0)
        image.save(database / "b" / "1.webp", lossless=True)
    for name in ("broken.png", "b/broken.png"):
        (database / name).write_text("no image")
    for name, seed in {"3": 3, "7": 7, "new": 50, "new2": 50, "x": 60}.items():
        write_image(queries / f"{name}.png", seed=seed)

    def describe(**options):
        net = make_net()
        place, sizes = tmp_path / f"{len(list(tmp_path.iterdir()))}", [(database, 4), (queries, 3)]
        return [cbir.extract(f, net, place / f.name, batch_size=n, **options) for f, n in sizes]

    return describe


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_groups(stored, options):
    database, queries = stored(**options)
    assert cbir.duplicates(database) == cbir.duplicates(database.location) == GROUPS
    assert cbir.duplicates(database, queries) == ACROSS
    assert cbir.duplicates(queries) == [["new.png", "new2.png"]]


def test_stores_of_two_precisions_and_of_two_recipes(stored):
    (database, _), (_, queries) = stored(dtype="float16"), stored()
    assert cbir.duplicates(database, queries) == ACROSS
    with pytest.raises(ValueError, match="different networks or recipes"):
        cbir.duplicates(database, stored(q=0)[1])


class FakeStore:
    dtype, network, recipe, extras = "float64", "net", "recipe", {}

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, name):
        return self.rows


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["as they are", "unit length", "nearly alike", "signed"])
def test_none_is_missed(seed, kind):
    """As all pairs, compared by brute force, say: copies of copies too, just within or beyond."""
    rng = np.random.default_rng(seed)
    rows = rng.gamma(1, size=(120, 100)) * (rng.random((120, 100)) < 0.5)
    if kind == "nearly alike":
        rows = rows[0] * (1 + 3e-4 * rng.random((120, 100)))
    elif kind == "signed":
        rows -= 1
    for copy, row in rng.integers(0, 120, (60, 2)):
        off = rng.normal(size=100)
        off *= rng.choice([0, 1e-7, 0.98e-5, 1.02e-5, 1e-4]) / np.abs(off).sum()
        rows[copy] = rows[row] + off * np.abs(rows[row]).sum()
    rows *= rng.choice([1, 1000, 1e-3])
    if kind == "unit length":
        rows /= np.abs(rows).sum(axis=1, keepdims=True)
    rows[7], rows[70] = 0, np.nan
    lengths = np.abs(rows).sum(axis=1)
    apart = np.abs(rows[:, None] - rows).sum(axis=2)
    same = apart <= copies.ROUNDING * np.maximum(lengths[:, None], lengths)
    same[7] = same[:, 7] = False
    n, group_of = connected_components(same)  # with the copies of copies
    groups = [np.flatnonzero(group_of == group).tolist() for group in range(n)]
    found = copies.same_pictures(FakeStore(rows[:50]), FakeStore(rows[50:]))
    assert found == sorted(group for group in groups if len(group) > 1)


def test_many_copies_of_one_picture():
    rows = np.tile(np.random.default_rng(0).random(70), (2000, 1))
    assert copies.same_pictures(FakeStore(rows)) == [list(range(2000))]


def test_a_run_tells_scores_without_copied_queries(stored, tmp_path):
    run = cbir.Run("test", tmp_path / "runs")
    database, queries = stored()
    assert run.record_duplicates(database, queries) == run.metrics["duplicates"] == ACROSS
    assert run.metrics["copied_queries"] == [0, 1]
    judge = cbir.Evaluation(database, queries)
    hits = cbir.search(database, queries, "eta", k=2)
    scores = {"eta": judge(hits.indices, k=2)[["histogram distance"]]}
    results = cbir.means(scores, groups=queries.labels)
    run.record_results(results, scores, groups=queries.labels)
    found = {key: run.metrics[key][0]["mean"] for key in ("results", "results_without_copies")}
    expected = scores["eta"]["histogram distance"]
    assert found["results"] == pytest.approx(expected.mean())
    assert found["results_without_copies"] == pytest.approx(expected[2:].mean())
    assert found["results_without_copies"] > found["results"]
    assert run.record_duplicates(database, database) and run.record_duplicates(queries, database)
    run.record_duplicates(database, queries.load())
    assert run.metrics["results_without_copies"] == []  # of other stores
