"""The explorer without a browser.

Against cbir.search, stores that were described by the other recipe, and literal loops.
"""

import base64
import json
import os
import socket
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import make_net, write_image
from PIL import Image

import cbir
from cbir.explorer import drawing
from cbir.explorer import serve as serving
from cbir.explorer.engine import Explorer
from cbir.explorer.serve import open_explorer, serve

WINDOWS = {"windows": "windows"}
RECIPES = [
    {},
    {"q": 0.05},
    {"q": 0.12},
    {"q": 0.2, "threshold": "relative"},
    cbir.AS_RELEASED,
    {"q": 0.0},
]


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def store(folder, net, tmp_path):
    extras = WINDOWS | {"mac": "mac", "low": {"q": 0.01}}
    return cbir.extract(folder, net, tmp_path / "store", shard_size=4, q=0.05, extras=extras)


@pytest.fixture
def explorer(store, net):
    return Explorer(store, net)


def test_windows_are_the_means_that_any_recipe_starts_from(store, net):
    """Against a mean over each window, one by one."""
    ys, _ = net(net.transform(cbir.open_image(store.path(0)))[None])
    last = ys[-1].shape[-2:]
    expected = []
    for y in ys:
        rows = y.shape[-2] // last[0]
        cols = y.shape[-1] // last[1]
        for c, i, j in np.ndindex(y.shape[1], *last):
            window = y[0, c, rows * i : rows * (i + 1), cols * j : cols * (j + 1)]
            expected.append(window.mean().item())
    np.testing.assert_allclose(store["windows"][0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_finds_what_search_finds(explorer, store, net, metric):
    descriptors = ["h", "eta_conv", "eta", "mac", "w_2", "h+mac"]
    for row in (0, 6):
        found = explorer.find(explorer.look(row), descriptors, metric=metric, k=4)
        for d, (rows, distances) in found.items():
            exact = cbir.search(store, store[d][[row]], d, metric=metric, k=4)
            assert rows.tolist() == exact.indices[0].tolist() and rows[0] == row
            np.testing.assert_allclose(distances, exact.distances[0], atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_any_recipe_gives_the_store_that_it_would_have_made(
    explorer, folder, net, tmp_path, recipe
):
    other = cbir.extract(folder, net, tmp_path / "other", **recipe)
    row = 5
    recipe = cbir.descriptors.check_recipe(**recipe)
    found = explorer.find(explorer.look(row), ["eta_conv", "eta", "w_3"], recipe, k=9)
    for d, (rows, distances) in found.items():
        exact = cbir.search(other, other[d][[row]], d, k=9)
        np.testing.assert_allclose(distances, exact.distances[0], atol=1e-6)
        literal = np.abs(other[d][rows] - other[d][row]).mean(axis=1)
        np.testing.assert_allclose(distances, literal, atol=1e-6)


def test_a_store_without_windows_has_its_recipes_only(folder, net, tmp_path):
    plain = Explorer(
        cbir.extract(folder, net, tmp_path / "plain", extras={"low": {"q": 0.01}}), net
    )
    look = plain.look(0)
    assert not plain.live and list(plain.recipes) == ["as_printed", "low"]
    low = cbir.extract(folder, net, tmp_path / "low", q=0.01)
    found = plain.find(look, ["eta"], plain.recipes["low"], k=3)["eta"]
    assert found[0].tolist() == cbir.search(low, low.eta[[0]], k=3).indices[0].tolist()
    with pytest.raises(ValueError, match="windows"):
        plain.find(look, ["eta"], {"q": 0.3})


def test_a_store_too_large_for_the_memory_is_searched_on_disk(store, net, explorer):
    on_disk = Explorer(store, net, memory=1000)
    assert not on_disk.live and on_disk.store is store and explorer.live
    for d, (rows, distances) in on_disk.find(on_disk.look(3), ["eta", "w_1"], k=3).items():
        other = explorer.find(explorer.look(3), [d], k=3)[d]
        assert rows.tolist() == other[0].tolist() and distances.tolist() == other[1].tolist()


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_regions_against_the_paper_read_literally(explorer, recipe):
    look = explorer.look(1)
    recipe = cbir.descriptors.check_recipe(**recipe)
    y_N = look.ys[-1][0].numpy()
    for y, (z, weighed) in zip(look.ys, explorer.regions(look, recipe)):
        y = y[0].numpy()
        side = y.shape[1] // y_N.shape[1]
        for i, j in np.ndindex(y.shape[1:]):
            column = y_N[:, i // side, j // side]
            if recipe["threshold"] == "absolute":
                on = column >= recipe["q"]
            else:
                on = column > recipe["q"] * y_N.max()
            count = on.sum() if recipe["counting"] == "count" else on.any()
            assert z[i, j] == count
            assert weighed[i, j] == pytest.approx(count * y[:, i, j].mean(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
@pytest.mark.parametrize(
    "descriptor, names",
    [
        ("eta", ["w_1", "w_2", "w_3", "y_4"]),
        ("h", ["y_4"]),
        ("eta_conv", ["w_1", "w_2", "w_3"]),
        ("w_2+mac", ["w_2", "mac"]),
    ],
)
def test_parts_add_up_to_the_distance(explorer, store, metric, descriptor, names):
    shares = explorer.parts(explorer.look(0), 4, descriptor, metric=metric)
    assert sorted(shares.index) == sorted(names) and shares.sum() == pytest.approx(1)
    power = 1 if metric == "l1" else 2
    rows = {name: store[name][[0, 4]].astype(float) for name in names}
    a, b = store[descriptor][[0, 4]].astype(float)
    total = (np.abs(a - b) ** power).sum()
    if metric == "cosine":
        norms = np.sqrt(sum((r**2).sum(axis=1) for r in rows.values()))
        rows = {name: r / norms[:, None] for name, r in rows.items()}
        total = 2 * (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    for name in names:
        part = (np.abs(rows[name][0] - rows[name][1]) ** power).sum()
        assert shares[name] == pytest.approx(part / total, abs=1e-5)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_no_distance_has_no_parts(explorer, metric):
    look = explorer.look(0)
    arrays = explorer.store.arrays
    same = {name: torch.from_numpy(array[[0]]) for name, array in arrays.items()}
    shares = explorer.parts(look._replace(arrays=same), 0, metric=metric)
    assert len(shares) == 4 and (shares == 0).all()


def test_an_uploaded_picture_is_described_like_a_file(explorer, store):
    image = cbir.open_image(store.path(3))
    looks = explorer.look(image), explorer.look(3), explorer.look(store.path(3))
    for look in looks:
        assert explorer.find(look, ["eta"], k=1)["eta"][0].tolist() == [3]
        np.testing.assert_allclose(look.histogram, cbir.color_histogram(np.asarray(image)))
    assert looks[1] is looks[2] and looks[0].picture.shape == (32, 32, 3)


def test_unreadable_images_are_never_found_and_cannot_be_looked_at(explorer):
    for recipe in (None, {"q": 0.0}):
        rows = explorer.find(explorer.look(0), ["eta_conv"], recipe, k=9)["eta_conv"][0]
        assert {2, 7}.isdisjoint(rows.tolist())
    with pytest.raises(cbir.UnreadableImage):
        explorer.look(2)


def test_another_network_is_refused(store):
    with pytest.raises(ValueError, match="another network"):
        Explorer(store, make_net(seed=1))


def test_a_store_that_was_made_with_crop_needs_no_network(tmp_path):
    for i in range(3):
        write_image(tmp_path / "images" / "a" / f"{i}.png", seed=i)
    net = cbir.load_network(crop=True, device="cpu")
    store = cbir.extract(tmp_path / "images", net, tmp_path / "store")
    explorer = Explorer(store)
    assert explorer.net.provenance == net.provenance
    rows, distances = explorer.find(explorer.look(1), ["eta"], k=1)["eta"]
    assert rows.tolist() == [1] and distances[0] == pytest.approx(0, abs=1e-6)


def test_only_the_page_needs_the_packages_of_the_page(monkeypatch):
    code = """import sys
sys.modules |= {"anywidget": None, "voila": None, "ipywidgets": None}
from cbir.explorer.serve import in_browser, open_explorer
print(in_browser())
import cbir.explorer.page"""
    bare = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert "pip install 'cbir[explorer]'" in done.stderr.splitlines()[-1]
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"voila and anywidget: pip install 'cbir\[explorer\]'"):
        serve("embedded")


def test_a_store_by_parameter_and_pictures_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    for i in range(3):
        write_image(tmp_path / "images" / "a" / f"{i}.png", seed=i)
        write_image(tmp_path / "mine" / f"{i}.jpg", seed=9 + i)
    cbir.extract(tmp_path / "images", cbir.load_network(), tmp_path / "store")
    store = str(tmp_path / "store")
    explorer, pictures = open_explorer(cbir.Run("other"), store=store)
    assert len(explorer.store) == 3 and pictures.files == explorer.store.files
    mine = str(tmp_path / "mine")
    _, pictures = open_explorer(cbir.Run("other"), store=store, pictures=mine)
    assert pictures.files == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(FileNotFoundError, match="no run 'other'"):
        open_explorer(cbir.Run("other"))


def test_pages_draw_what_the_explorer_finds(explorer, store):
    """The page's HTML: name, class, distance and reasons; a file that vanished is grey."""
    page = make_page(explorer, store, ("h", "eta"), k=3)
    page.show("database", 0)
    assert page.results.html.count("cbir-card") == 6
    expected = explorer.find(explorer.look(0), ["h", "eta"], k=3, without=0)
    for d, (rows, distances) in expected.items():
        for rank, (row, x) in enumerate(zip(rows, distances)):
            card = page.results.html.split(f'data-key="{d} {rank}"')[1].split("</li>")[0]
            name = store.files[row].split("/")[1]
            assert f">{name}</span>" in card and f">{store.labels[row]}</span>" in card
            assert f">{round(x, 6):.4g}</span>" in card and "more like this" in card
    page._clicked(None, {"key": "h 2"}, [])
    assert page.selected == ("h", 2) and "rank 3" in page.reasons.html
    for key in ("h 7", "h -1", "h x", "eta_conv 0", "", None, "h"):
        page._guarded(page._clicked)(None, {"key": key}, [])
        assert page.selected == ("h", 2)
    before = page.results.html
    page.change(q=0.1)
    assert page.results.html != before and page.asked["q"] == 0.1
    page.change(recipe="as_released")
    assert page._offered().largest_q == 1 and page.asked == cbir.AS_RELEASED
    assert "rank" in page.reasons.html
    set_control(page, "by h", False)
    set_control(page, "by eta", False)
    assert "no descriptor is chosen" in page.message.html
    set_control(page, "by eta", True)
    assert "cbir-message" not in page.message.html
    row = int(page.found["eta"][0][1])
    picture = store.path(row).read_bytes()
    store.path(row).unlink()
    explorer._looks.cache_clear()
    page.thumbnail.cache_clear()
    page._guarded(page._clicked)(None, {"key": "eta 1"}, [])
    assert "cannot be read any more" in page.message.html
    assert page.reasons.html == "" and page.results.html.count("cbir-card") == 3
    store.path(row).write_bytes(picture)
    page._guarded(page._clicked)(None, {"key": "eta 1"}, [])
    assert "cbir-message" not in page.message.html and "rank 2" in page.reasons.html


def make_page(explorer, pictures, descriptors=("eta",), **options):
    from cbir.explorer.page import Page

    return Page(explorer, pictures, descriptors, **options)


def set_control(page, key, value):
    page._guarded(page._set)(page.settings, {"key": key, "value": value}, [])


def choose(page, key, value=None):
    page._guarded(page._chose)(page.grid, {"key": key, "value": value}, [])


def test_the_first_page_shows_images_of_every_class(explorer, store):
    page = make_page(explorer, store)
    assert page.main.layout.display == "none" and page.results.html == ""
    assert page.grid.html.count("cbir-card") == int(store.described.sum())
    first = page.grid.html.split("cbir-card")
    assert "cat" in first[1] and "dog" in first[2]
    assert "of database" not in page.grid.html  # no choice between one source
    choose(page, "pick 4")
    assert page.grid.layout.display == "none" and page.main.layout.display is None
    assert "04.png" in page.query.html and 4 not in page.found["eta"][0]
    choose(page, "all")
    assert page.main.layout.display == "none"
    for key in ("pick 99", "pick -1", "pick", "of nowhere", "", None):
        choose(page, key)
        assert page.asked_for.file == store.files[4]


def test_large_databases_are_shown_page_by_page(net, tmp_path, monkeypatch):
    monkeypatch.setattr("cbir.explorer.page.SHOWN", 4)
    for i in range(10):
        write_image(tmp_path / "images" / f"{i}.png", seed=i)
    store = cbir.extract(tmp_path / "images", net, tmp_path / "store")
    page = make_page(Explorer(store, net), store)
    shown = [page.grid.html]
    for _ in range(3):
        choose(page, "page 1")
        shown.append(page.grid.html)
    counts = [html.count("cbir-card") for html in shown]
    assert counts == [4, 4, 2, 2] and "9 to 10 of 10" in shown[2]
    for _ in range(3):
        choose(page, "page -1")
    assert page.grid.html == shown[0]


def test_images_are_found_by_a_part_of_their_name(folder, store, explorer, net, tmp_path):
    pictures = cbir.list_images(folder)[[4, 9]]
    page = make_page(explorer, pictures)
    assert page.source == "queries" and page.grid.html.count("cbir-card") == 2
    choose(page, "name", "DOG")
    assert page.source == "queries" and page.asked_for.file == "dog/09.png"
    choose(page, "name", "0")
    assert page.grid.html.count("cbir-card") == 2 and page.main.layout.display == "none"
    choose(page, "name", "03")  # not among the queries
    assert page.asked_for.file == "cat/03.png" and page.asked_for.row == 3
    choose(page, "name", "33.png")
    assert "no image has &#x27;33.png&#x27;" in page.message.html
    choose(page, "of database")
    assert page.grid.html.count("cbir-card") == 9
    choose(page, "name", "")
    assert page.source == "database" and page.grid.html.count("cbir-card") == 9


def test_a_query_is_not_among_what_is_found_for_it(explorer, store, folder):
    """Whichever way it was chosen; an upload has no row."""
    row = 4
    look = explorer.look(row)
    every = explorer.find(look, ["h", "eta"], k=9)
    assert all(rows[0] == row for rows, _ in every.values())
    for k in (3, 8, 9):
        for d, (rows, distances) in explorer.find(look, ["h", "eta"], k=k, without=row).items():
            assert rows.tolist() == every[d][0][1:][:k].tolist()
            assert distances.tolist() == every[d][1][1:][:k].tolist()
    assert explorer.row_of(store.path(row)) == row and explorer.row_of(folder / "no.png") is None
    page = make_page(explorer, cbir.list_images(folder)[[row]])
    choose(page, f"pick {0}")
    assert page.asked_for.row == row and row not in page.found["eta"][0]
    hit = int(page.found["eta"][0][2])
    page._clicked(page.results, {"key": "eta 2 like"}, [])
    assert page.asked_for.row == hit and hit not in page.found["eta"][0]
    content = {"name": "mine.png", "size": 9}
    page._uploaded(page.upload, content, [store.path(row).read_bytes()])
    assert page.asked_for.row is None and page.found["eta"][0][0] == row


def test_what_was_found_can_be_saved(explorer, store):
    page = make_page(explorer, store, ("h", "eta"), k=3)
    page.show("database", 1)
    page.change(metric="cosine")
    link = BeautifulSoup(page.query.html, "html.parser").find("a")
    assert link["download"] == "hits_01.json"
    saved = json.loads(base64.b64decode(link["href"].split(",")[1]))
    assert saved["file"] == store.files[1] and saved["metric"] == "cosine"
    assert saved["root"] == str(store.root) and saved["recipe"] == store.recipe
    for d, (rows, distances) in page.found.items():
        assert [hit["file"] for hit in saved[d]] == [store.files[row] for row in rows]
        assert [hit["label"] for hit in saved[d]] == [store.labels[row] for row in rows]
        assert [hit["distance"] for hit in saved[d]] == distances.tolist()


def test_pictures_are_shown_larger_with_their_path(explorer, store):
    page = make_page(explorer, store)
    page._guarded(page._viewed)(page.query, {"key": "view query"}, [])
    assert page.larger.html == ""
    page.show("database", 1)
    page._viewed(page.query, {"key": "view query"}, [])
    assert f'data-copy="{store.path(1)}"' in page.larger.html
    page._closed()
    assert page.larger.html == ""
    page._viewed(page.reasons, {"key": "view found"}, [])
    assert f'data-copy="{store.path(page.found["eta"][0][0])}"' in page.larger.html


def test_the_map_stands_once_and_every_block_has_its_share(explorer, store):
    """Eq. 13's map is one: a row for it, then a row for each block."""
    page = make_page(explorer, store, ("eta", "w_2"))
    page.show("database", 1)
    rows = BeautifulSoup(page.reasons.html, "html.parser").find("tbody").find_all("tr")
    heads = [row.find(["th", "td"]).get_text(" ") for row in rows]
    assert [head.split()[0] for head in heads if head] == ["colours", "significant"] + 3 * ["block"]
    z, _ = explorer.regions(explorer.look(1))[-1]
    expected = f"{(z > 0).sum()} of {z.size} positions ({(z > 0).mean():.0%})"
    assert expected in rows[3].get_text()
    shares = explorer.parts(explorer.look(1), int(page.found["w_2"][0][0]), "w_2")
    page._clicked(page.results, {"key": "w_2 0"}, [])
    assert shares["w_2"] == 1 and page.reasons.html.count("of the distance") == 1
    page.change(average=True)
    assert (
        "significant<" not in page.reasons.html and "No neurons are selected" in page.reasons.html
    )


def test_pictures_stay_visible_under_their_maps():
    """Light stays apart from dark where a map has one value, and nothing is lost without a map."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = picture.mean(axis=2)
    ones = np.ones((2, 2), np.int32)
    for drawn in (
        drawing.counted_picture(picture, 7 * ones, 7),
        drawing.counted_picture(picture, ones, 7),
        drawing.counted_picture(picture, 0 * ones, 7),
        drawing.weighed_picture(picture, ones.astype(np.float32), 1),
        drawing.weighed_picture(picture, 0 * ones.astype(np.float32), 1),
    ):
        slope = np.polyfit(grey.ravel(), drawn.mean(axis=2).ravel(), 1)[0]
        assert slope > 0.4
    union = drawing.counted_picture(picture, ones, 1)
    assert (union == picture).all()


def test_uploads_keep_their_proportions(explorer, tmp_path):
    image = cbir.open_image(write_image(tmp_path / "wide.png", size=(90, 30)))
    assert explorer.look(image).aspect == 3
    net = cbir.load_network(crop=True, device="cpu")
    write_image(tmp_path / "images" / "a.png")
    cropped = Explorer(cbir.extract(tmp_path / "images", net, tmp_path / "cropped"), net)
    assert cropped.look(image).aspect == 1  # the network saw a square of it


def test_controls_offer_what_a_store_can_do(folder, net, tmp_path):
    """Without windows: balance and averaging, and a line on what q would cost. All exact."""
    extras = {"average": "average"}
    store = cbir.extract(folder, net, tmp_path / "plain", q=0.05, extras=extras)
    explorer = Explorer(store, net)
    page = make_page(explorer, store, ("h", "eta_conv", "eta"), k=3)
    html = page.settings.html
    assert "<select" not in html and 'data-key="q"' not in html
    assert "-p windows true" in html and "960 B" not in html
    assert 'data-key="unit"' in html and 'data-key="average"' in html
    made = {
        "unit": {"q": 0.05, "balance": "l2"},
        "average": {"q": 0.0},
        "both": {"q": 0.0, "balance": "l2"},
    }
    page.show("database", 5)
    for name, recipe in made.items():
        other = cbir.extract(folder, net, tmp_path / name, **recipe)
        page.change(unit=name != "average", average=name != "unit")
        for d, (rows, distances) in page.found.items():
            literal = np.abs(other[d][rows] - other[d][5]).mean(axis=1)
            np.testing.assert_allclose(distances, literal, atol=1e-6)
            exact = cbir.search(other, other[d][[5]], d, k=4).distances[0]
            np.testing.assert_allclose(distances, exact[1:], atol=1e-6)
    assert not explorer.can(cbir.descriptors.check_recipe(q=0.3))
    on_disk = Explorer(store, net, memory=100)
    page = make_page(on_disk, store)
    assert "searched on disk" in page.settings.html and 'data-key="unit"' not in page.settings.html
    page.show("database", 5)
    page.change(average=True)
    other = cbir.open_store(tmp_path / "average")
    exact = cbir.search(other, other.eta[[5]], "eta", k=6).distances[0][1:]
    np.testing.assert_allclose(page.found["eta"][1], exact, atol=1e-6)


def test_windows_that_a_run_keeps_beside_its_store_are_used(folder, tmp_path):
    """Runs with retrained codes have them: q moves there too, exactly."""
    trunk = make_net(codes=())
    extras = WINDOWS | {"color": "color"}
    beside = cbir.extract(folder, trunk, tmp_path / "windows", extras=extras)
    net = cbir.train_codes(trunk, beside, widths=(6,), epochs=1)
    store = cbir.extract(beside, net, tmp_path / "store", q=0.05)
    assert not Explorer(store, net).live
    explorer = Explorer(serving.with_windows(store, net, tmp_path / "windows"), net)
    assert explorer.live and list(explorer.store.extras) == ["windows"]
    recipe = cbir.descriptors.check_recipe(q=0.12)
    other = cbir.extract(folder, net, tmp_path / "other", **recipe)
    _, distances = explorer.find(explorer.look(5), ["eta"], recipe, k=9)["eta"]
    exact = cbir.search(other, other.eta[[5]], "eta", k=9).distances[0]
    np.testing.assert_allclose(distances, exact, atol=1e-6)
    fewer = cbir.extract(cbir.list_images(folder)[[0, 1]], trunk, tmp_path / "fewer", extras=extras)
    for path in (fewer.location, tmp_path / "nowhere"):
        assert serving.with_windows(store, net, path) is store


def test_a_run_with_retrained_codes_is_explored_with_its_windows(folder, tmp_path, monkeypatch):
    run = cbir.Run("mine", tmp_path / "runs")
    images = cbir.list_images(folder)
    parts = dict(images=images[[0, 1, 3, 6, 8]], queries=images[[4, 9]])
    net, database, _ = run.describe(**parts, network=make_net(codes=()), code_widths=[6])
    monkeypatch.setattr("cbir.query.open_database", lambda *_: (database, net))
    explorer, _ = serving.open_explorer(run)
    assert explorer.live


def test_a_balanced_store_has_no_switch_for_it(folder, net, tmp_path):
    extras = WINDOWS | {"average": "average"}
    store = cbir.extract(folder, net, tmp_path / "unit", extras=extras, balance="l2")
    page = make_page(Explorer(store, net), store, k=3)
    html = page.settings.html
    assert 'data-key="unit"' not in html and "<select" not in html and 'data-key="q"' in html
    page.show("database", 5)
    page.change(average=True)
    other = cbir.extract(folder, net, tmp_path / "other", q=0, balance="l2")
    exact = cbir.search(other, other.eta[[5]], "eta", k=4).distances[0][1:]
    np.testing.assert_allclose(page.found["eta"][1], exact, atol=1e-6)


def test_settings_from_the_browser_are_checked(explorer, store):
    page = make_page(explorer, store)
    before = page.chosen
    for key, value in [("by x", True), ("metric", "l3"), ("recipe", "x"), ("k", "x"), ("z", 1)]:
        set_control(page, key, value)
        assert page.chosen == before
    set_control(page, "k", "99999")
    set_control(page, "q", "-3")
    assert page.chosen.k == 9 and page.chosen.q == 0


def test_nothing_changes_where_a_search_fails(explorer, store):
    page = make_page(explorer, store, k=3)
    page.show("database", 0)
    shown = (page.query.html, page.results.html, page.reasons.html)
    set_control(page, "by eta", False)
    choose(page, "pick 5")
    assert "no descriptor" in page.message.html and not page.message.busy
    assert (page.query.html, page.results.html, page.reasons.html) == shown
    set_control(page, "by eta", True)
    choose(page, "pick 2")
    assert f"{store.files[2].split('/')[1]} cannot be read" in page.message.html
    assert (page.query.html, page.results.html) == shown[:2]


def test_small_stores_and_networks_without_codes(folder, tmp_path):
    net = make_net(codes=())
    store = cbir.extract(cbir.list_images(folder)[[0, 1, 2]], net, tmp_path / "small", q=0.05)
    page = make_page(Explorer(store, net), store, ("h", "eta_conv", "eta"), k=5)
    page.show("database", 0)
    assert list(page.found) == ["eta_conv", "eta"]
    assert page.results.html.count("cbir-card") == 2 and "cbir-message" not in page.message.html
    store = cbir.extract(cbir.list_images(folder)[[1]], net, tmp_path / "one", q=0.05)
    page = make_page(Explorer(store, net), store)
    choose(page, "pick 0")
    assert "cbir-card" not in page.results.html and page.reasons.html == ""
    store = cbir.extract(cbir.list_images(folder)[[2, 7]], net, tmp_path / "none")
    assert (
        "no image of the database could be read" in make_page(Explorer(store, net), store).grid.html
    )


@pytest.mark.parametrize(
    "recipe, largest", [({"q": 7.5}, 15), (cbir.AS_RELEASED, 1), ({"q": 0.05}, 5)], ids=str
)
def test_the_slider_holds_the_stores_own_threshold(folder, net, tmp_path, recipe, largest):
    extras = WINDOWS | {"low": {"q": 9.0}}
    store = cbir.extract(folder, net, tmp_path / "other", extras=extras, **recipe)
    page = make_page(Explorer(store, net), store, k=2)
    assert page._offered().largest_q == largest and page.asked == store.recipe
    page.change(recipe="low")
    assert (page.chosen.q, page._offered().largest_q, page.asked["q"]) == (9.0, 18, 9.0)
    page.change(recipe="as_released")
    assert (page.chosen.q, page._offered().largest_q) == (0.5, 1)
    assert page.asked == cbir.AS_RELEASED


def test_sums_and_extras_with_a_parts_name(folder, net, tmp_path):
    store = cbir.extract(folder, net, tmp_path / "named", q=0.05, extras={"w_mac": "mac"})
    explorer = Explorer(store, net)
    assert sorted(explorer.parts(explorer.look(0), 4).index) == ["w_1", "w_2", "w_3", "y_4"]
    page = make_page(explorer, store, ("h+w_1",), k=2)
    page.show("database", 0)
    assert list(page.found) == ["h+w_1"]
    with pytest.raises(ValueError, match="unknown descriptor"):
        make_page(explorer, store, ("etta",))
    assert explorer.find(explorer.look(0), []) == {}


def test_half_precision_networks_are_0_from_themselves_by_every_recipe(folder, tmp_path):
    net = make_net().to(dtype=torch.bfloat16)
    extras = WINDOWS | {"low": {"q": 0.01}}
    store = cbir.extract(folder, net, tmp_path / "half", batch_size=1, q=0.05, extras=extras)
    explorer = Explorer(store, net)
    for q in (0.05, 0.01, 0.1):
        recipe = cbir.descriptors.check_recipe(q=q)
        found = explorer.find(explorer.look(5), ["eta_conv"], recipe, k=1)
        rows, distances = found["eta_conv"]
        assert rows.tolist() == [5] and distances[0] < 1e-7


def test_an_interrupted_description_goes_on(monkeypatch, tmp_path):
    """Of the embedded images; here three of them."""
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    for i in range(3):
        write_image(tmp_path / "images" / "a" / f"{i}.png", seed=i)
    images = cbir.list_images(tmp_path / "images")
    net = cbir.load_network()
    monkeypatch.setattr("cbir.datasets.load_images", lambda profile: (images, images))
    run = cbir.Run("embedded")
    path = run.path / "stores" / "database"
    full = cbir.extract(images, net, path, shard_size=2, extras=WINDOWS)
    full._state[2:] = np.array([""], dtype=object)  # as if it had been interrupted
    assert not full.described.all()
    explorer, pictures = open_explorer(run)
    assert explorer.store.described.all() and explorer.live and len(pictures) == 3


@pytest.mark.parametrize(
    "content, buffers, message",
    [
        ({"name": "a.png", "size": 10}, [b"no picture"], "cannot be read"),
        ({"name": "a.png", "size": 10**9}, [], "1000.0 MB"),
        ({"name": "a.png", "size": 5}, [bytes(10_000_001)], "more than 10 MB"),
        ({"name": "a", "size": 0}, [b""], "empty file"),
        ({"name": "a", "size": 1, "failed": True}, [], "could not read"),
        ({}, [], "more than"),
        ({"name": "<b>", "size": 3}, [b"abc"], "&lt;b&gt;"),
    ],
)
def test_bad_uploads_are_told_and_the_page_goes_on(explorer, store, content, buffers, message):
    page = make_page(explorer, store, k=2)
    page.show("database", 0)
    before = page.results.html
    page._guarded(page._uploaded)(page.upload, content, buffers)
    assert message in page.message.html and page.results.html == before
    assert "<b>" not in page.message.html
    path = store.root.parent / "good.png"
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(path)
    good = {"name": "good.png", "size": 9}
    page._guarded(page._uploaded)(page.upload, good, [path.read_bytes()])
    assert "cbir-message" not in page.message.html
    assert "good.png" in page.query.html and page.results.html != before


def test_names_and_labels_cannot_become_html(net, tmp_path):
    hostile = tmp_path / "images" / "<script>alert(1)<"
    for i in range(3):
        write_image(hostile / f'"><img src=x onerror=alert({i})>.png', seed=i)
    store = cbir.extract(tmp_path / "images", net, tmp_path / "store")
    page = make_page(Explorer(store, net), store, k=2)
    page.show("database", 0)
    page._viewed(page.query, {"key": "view query"}, [])
    parts = [page.grid, page.query, page.results, page.reasons, page.settings, page.larger]
    for part in parts:
        assert part.html and "<script" not in part.html and "<img src=x" not in part.html


def test_serving_checks_first_and_takes_paths_as_typed(folder, net, tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr("voila.app.Voila.launch_instance", lambda **given: launched.append(given))
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("JUPYTER_PATH", "")
    monkeypatch.chdir(tmp_path)
    for run, parameters, error in [
        ("typo", {}, FileNotFoundError),
        ("mine", {"store": "nowhere"}, FileNotFoundError),
        ("mine", {"stor": "x"}, ValueError),
        ("mine", {"store": "store", "pictures": "nowhere"}, FileNotFoundError),
    ]:
        cbir.extract(folder, net, tmp_path / "store")
        with pytest.raises(error):
            serve(run, parameters)
        assert not launched and not (tmp_path / "runs").exists()
    serve("mine", {"store": "store", "k": 7}, port=0)
    [options] = launched
    notebook = nbformat.read(options["argv"][0], as_version=4)

    def source(tag):
        return "\n".join(c.source for c in notebook.cells if tag in c.metadata.get("tags", []))

    given = source("injected-parameters")
    assert f'store = "{tmp_path / "store"}"' in given and "k = 7" in given
    assert 'run_name = "mine"' in given
    assert not source("static") and any("Page(" in cell.source for cell in notebook.cells)
    assert {cell.cell_type for cell in notebook.cells} == {"code"}
    assert options["config"].Voila.ip == "127.0.0.1" and not options["config"].Voila.auto_token
    serve("mine", {"store": "store"}, host="0.0.0.0", port=0)
    assert launched[1]["config"].Voila.auto_token


@pytest.mark.parametrize("taken", [False, True], ids=["no such port", "in use"])
def test_a_port_is_refused_before_anything_heavy_is_loaded(taken):
    code = """import sys
from cbir.cli import main
try:
    main(["explore", "--no-browser", "-p", "k", "3", "--port", sys.argv[1]])
finally:
    print(sorted({"torch", "matplotlib", "voila"} & sys.modules.keys()))"""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if taken else 99999
        command = [sys.executable, "-c", code, str(port)]
        done = subprocess.run(command, capture_output=True, text=True)
    reason = f"port {port} is in use" if taken else "no port 99999"
    [line] = done.stderr.splitlines()
    assert reason in line and "from 1024 to 65535" in line
    assert done.returncode == 1 and done.stdout == "[]\n"


def test_addresses_of_others_are_refused():
    with pytest.raises(OSError, match="cannot be listened on"):
        serve(host="192.0.2.1")
