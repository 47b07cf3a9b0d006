"""The explorer without a browser.

Against cbir.search, stores that were described by the other recipe, and literal loops.
"""

import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from conftest import make_net, write_image
from PIL import Image

import cbir
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
    """The page's HTML: rank, class, distance and reasons; a file that vanished is grey."""
    from cbir.explorer.page import Page

    page = Page(explorer, store, ("h", "eta"), k=3)
    assert page.results.html.count("<button") == 6
    for d, (rows, distances) in explorer.find(explorer.look(0), ["h", "eta"], k=3).items():
        for rank, (row, x) in enumerate(zip(rows, distances)):
            card = page.results.html.split(f'data-key="{d} {rank}"')[1].split("</button>")[0]
            shown = f"<span>{store.labels[row]}</span><span>{round(x, 6):.4g}</span>"
            assert shown in card
    page._clicked(None, {"key": "h 2"}, [])
    assert page.selected == ("h", 2) and "rank 3" in page.reasons.html
    for key in ("h 7", "eta_conv 0", "", None, "h"):
        page._guarded(page._clicked)(None, {"key": key}, [])
        assert page.selected == ("h", 2)
    before = page.results.html
    page.q.value = 0.1
    assert page.results.html != before
    page.recipe.value = cbir.AS_RELEASED
    assert page.q.max == 1 and page.asked == cbir.AS_RELEASED
    assert "rank" in page.reasons.html
    for button in page.chosen.values():
        button.value = False
    assert "no descriptor is chosen" in page.message.html
    page.chosen["eta"].value = True
    assert "cbir-message" not in page.message.html
    row = int(page.found["eta"][0][1])
    picture = store.path(row).read_bytes()
    store.path(row).unlink()
    explorer._looks.cache_clear()
    page.thumbnail.cache_clear()
    page._guarded(page._clicked)(None, {"key": "eta 1"}, [])
    assert "cannot be read any more" in page.message.html
    assert page.reasons.html == "" and page.results.html.count("<button") == 3
    store.path(row).write_bytes(picture)
    page._guarded(page._clicked)(None, {"key": "eta 1"}, [])
    assert "cbir-message" not in page.message.html and "rank 2" in page.reasons.html


def test_nothing_changes_where_a_search_fails(explorer, store):
    from cbir.explorer.page import Page

    page = Page(explorer, store, ("eta",), k=3)
    shown = (page.query.html, page.results.html, page.reasons.html)
    page.chosen["eta"].value = False
    page.name.value = store.files[5]
    assert "no descriptor" in page.message.html and page.name.value == ""
    assert (page.query.html, page.results.html, page.reasons.html) == shown
    page.chosen["eta"].value = True
    page.name.value = store.files[2]
    name = store.files[2].split("/")[1]
    assert f"{name} cannot be read" in page.message.html
    assert (page.query.html, page.results.html) == shown[:2]
    for _ in range(20):
        page._guarded(page._drawn)(page.another)
        assert "cbir-message" not in page.message.html


def test_small_stores_and_networks_without_codes(folder, tmp_path):
    from cbir.explorer.page import Page

    net = make_net(codes=())
    store = cbir.extract(cbir.list_images(folder)[[0, 1, 2]], net, tmp_path / "small", q=0.05)
    page = Page(Explorer(store, net), store, k=5)
    assert list(page.found) == ["eta_conv", "eta"]
    assert page.results.html.count("<button") == 4 and "cbir-message" not in page.message.html
    store = cbir.extract(cbir.list_images(folder)[[2, 7]], net, tmp_path / "none")
    assert "can be read" in Page(Explorer(store, net), store).message.html


@pytest.mark.parametrize(
    "recipe, largest", [({"q": 7.5}, 15), (cbir.AS_RELEASED, 1), ({"q": 0.05}, 5)], ids=str
)
def test_the_slider_holds_the_stores_own_threshold(folder, net, tmp_path, recipe, largest):
    from cbir.explorer.page import Page

    extras = WINDOWS | {"low": {"q": 9.0}}
    store = cbir.extract(folder, net, tmp_path / "other", extras=extras, **recipe)
    page = Page(Explorer(store, net), store, ("eta",), k=2)
    assert page.q.max == largest and page.searched == store.recipe
    page.recipe.value = cbir.descriptors.check_recipe(q=9.0)
    assert (page.q.value, page.q.max, page.searched["q"]) == (9.0, 18, 9.0)
    page.recipe.value = cbir.AS_RELEASED
    assert (page.q.value, page.q.max) == (0.5, 1) and page.searched == cbir.AS_RELEASED


def test_sums_and_extras_with_a_parts_name(folder, net, tmp_path):
    from cbir.explorer.page import Page

    store = cbir.extract(folder, net, tmp_path / "named", q=0.05, extras={"w_mac": "mac"})
    explorer = Explorer(store, net)
    assert sorted(explorer.parts(explorer.look(0), 4).index) == ["w_1", "w_2", "w_3", "y_4"]
    assert list(Page(explorer, store, ("h+w_1",), k=2).found) == ["h+w_1"]
    with pytest.raises(ValueError, match="unknown descriptor"):
        Page(explorer, store, ("etta",))
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
    monkeypatch.setattr("cbir.explorer.serve.load_images", lambda profile: (images, images))
    run = cbir.Run("embedded")
    path = run.path / "stores" / "database"
    full = cbir.extract(images, net, path, shard_size=2, extras=WINDOWS)
    full._state[2:] = np.array([""], dtype=object)  # as if it had been interrupted
    assert not full.described.all()
    explorer, pictures = open_explorer(run)
    assert explorer.store.described.all() and explorer.live and len(pictures) == 3


def test_a_page_says_that_a_plain_store_does_not_follow_q(folder, net, tmp_path):
    from cbir.explorer.page import Page

    store = cbir.extract(folder, net, tmp_path / "plain")
    page = Page(Explorer(store, net), cbir.open_store(tmp_path / "plain"), ("eta",), k=2)
    assert "cbir-note" not in page.results.html
    distances = page.found["eta"][1].tolist()
    reasons = page.reasons.html
    page.q.value = 0.1
    assert "cbir-note" in page.results.html and page.found["eta"][1].tolist() == distances
    assert page.reasons.html != reasons


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
    from cbir.explorer.page import Page

    page = Page(explorer, store, ("eta",), k=2)
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
    from cbir.explorer.page import Page

    hostile = tmp_path / "images" / "<script>alert(1)<"
    for i in range(3):
        write_image(hostile / f'"><img src=x onerror=alert({i})>.png', seed=i)
    store = cbir.extract(tmp_path / "images", net, tmp_path / "store")
    page = Page(Explorer(store, net), store, ("eta",), k=2)
    for html in (page.results.html, page.reasons.html, page.query.html):
        assert "<script" not in html and "<img src=x" not in html


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
    assert options["config"].Voila.ip == "127.0.0.1" and not options["config"].Voila.auto_token
    serve("mine", {"store": "store"}, host="0.0.0.0", port=0)
    assert launched[1]["config"].Voila.auto_token
