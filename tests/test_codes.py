"""Codes retrained on a database, and stores made from window means."""

import json

import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image
from safetensors import safe_open
from torch import nn

import cbir
from cbir import trained as codes
from cbir import zoo

COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}
WINDOWS = {"windows": "windows", "color": "color"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of twelve noisy pictures that colour tells apart; one cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir()
        for i in range(12):
            pixels = np.clip(rng.normal(color, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    (folder / "red" / "broken.png").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def net():
    """Two blocks, no codes."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    return cbir.Network(module, ["2", "5"], transform=cbir.resize_transform(32), name="small")


@pytest.fixture(scope="module")
def trained(net, pictures):
    return cbir.train_codes(net, pictures, widths=(16, 12), epochs=60, lr=1e-2, dropout=0)


def test_they_learn_the_classes(trained, net, pictures):
    about = trained.head.about
    assert about["classes"] == sorted(COLORS) and about["widths"] == [16, 12]
    assert about["trained on"] == 36 - 4 and 0 <= about["accuracy"] <= 1
    images = cbir.list_images(pictures)
    rows = [row for row, file in enumerate(images.files) if "broken" not in file]
    inputs = [net.transform(cbir.open_image(images.path(row))) for row in rows]
    answers = trained.head.classify(net(torch.stack(inputs)).ys[-1]).argmax(1)
    expected = [about["classes"].index(images.labels[row]) for row in rows]
    assert np.mean(answers.numpy() == expected) > 0.8
    assert trained.shapes["codes"] == [16, 12] and trained.shapes["blocks"] == net.shapes["blocks"]
    assert all("retrained" in name for name in trained.codes)


def test_the_layers_are_linear_relu_linear_relu_softmax(trained):
    y_N = torch.rand(5, *trained.shapes["blocks"][-1])
    first, second = trained.head.layers
    y_6 = torch.relu(y_N.flatten(1) @ first.weight.T + first.bias)
    y_7 = torch.relu(y_6 @ second.weight.T + second.bias)
    got = trained.head(y_N)
    assert torch.allclose(got[0], y_6, atol=1e-5) and torch.allclose(got[1], y_7, atol=1e-5)
    scores = y_7 @ trained.head.classifier.weight.T + trained.head.classifier.bias
    assert torch.allclose(trained.head.classify(y_N), scores, atol=1e-5)


def test_dropout_is_for_training_only(trained):
    module = codes.Codes(30, [400], 2, dropout=0.5)
    x = torch.rand(1, 30)
    assert torch.equal(module.eval().classify(x), module.classify(x))
    module.train()
    assert not torch.equal(module.classify(x), module.classify(x))
    kept = module._dropped(torch.ones(1, 20_000), True)
    assert set(kept.unique().tolist()) == {0.0, 2.0} and abs(kept.mean() - 1) < 0.05


def test_the_same_seed_gives_the_same_codes(trained, net, pictures):
    options = dict(widths=(16, 12), epochs=60, lr=1e-2, dropout=0)
    state = torch.random.get_rng_state()
    again = cbir.train_codes(net, pictures, **options)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.weights_hash == trained.weights_hash
    assert cbir.train_codes(net, pictures, seed=1, **options).weights_hash != trained.weights_hash


def test_h_is_the_codes(trained, pictures, tmp_path):
    store = cbir.extract(pictures, trained, tmp_path / "store")
    assert store.h.shape == (37, 28) and store.eta_conv.shape == (37, 14)
    row = store.files.index("green/03.png")
    ys, made = trained(trained.transform(cbir.open_image(store.path(row)))[None])
    assert np.allclose(store["y_3"][row], made[0][0], atol=1e-5)
    assert np.allclose(store["y_4"][row], made[1][0], atol=1e-5)


def test_they_are_kept_in_a_file(net, pictures, tmp_path):
    path = tmp_path / "run" / "codes.safetensors"
    options = dict(widths=(8,), epochs=2, path=path)
    first = cbir.train_codes(net, pictures, **options)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["network"] == net.provenance and about["widths"] == [8]
    changed = path.stat().st_mtime_ns
    again = cbir.train_codes(net, pictures, **options)
    assert again.weights_hash == first.weights_hash and path.stat().st_mtime_ns == changed
    assert again.head.about == first.head.about
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        cbir.train_codes(net, pictures, seed=3, **options)
    with pytest.raises(ValueError, match=r"other settings \(images\)"):
        cbir.train_codes(net, cbir.list_images(pictures)[range(36)], **options)


def test_files_that_hold_no_codes(net, trained, tmp_path):
    path = tmp_path / "codes.safetensors"
    with pytest.raises(FileNotFoundError, match="no retrained codes"):
        cbir.load_codes(net, path)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="holds no codes"):
        cbir.load_codes(net, path)
    codes._save(trained.head, path)
    assert cbir.load_codes(net, path).weights_hash == trained.weights_hash
    other = cbir.load_network("embedded", device="cpu")
    with pytest.raises(ValueError, match="another network than 'embedded'"):
        cbir.load_codes(other, path)


def test_without_classes_there_is_nothing_to_learn(net, tmp_path):
    write_image(tmp_path / "a.png", seed=0)
    with pytest.raises(ValueError, match="fewer than two classes"):
        cbir.train_codes(net, tmp_path)


def test_a_networks_own_codes_are_left_out(pictures):
    own = cbir.load_network("embedded", device="cpu")
    images = cbir.list_images(pictures)[range(0, 37, 4)]
    retrained = cbir.train_codes(own, images, widths=(4,), epochs=1)
    assert len(own.codes) == 2 and retrained.codes == ["fc6, 4 retrained"]


# ---- from window means ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windows(net, pictures, tmp_path_factory):
    """A store of window means, for networks with any codes on the same blocks."""
    return cbir.extract(pictures, net, tmp_path_factory.mktemp("windows") / "st", extras=WINDOWS)


def test_codes_are_trained_from_window_means_alike(trained, net, windows):
    again = cbir.train_codes(net, windows, widths=(16, 12), epochs=60, lr=1e-2, dropout=0)
    for a, b in zip(again.head.parameters(), trained.head.parameters()):
        assert torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("recipe", cbir.RECIPES.values(), ids=cbir.RECIPES)
def test_a_store_is_made_from_window_means(trained, windows, pictures, recipe, tmp_path):
    """The same as from the images, but for rounding, and no image is opened."""
    extras = WINDOWS | {"average": "average", "gem": "gem", "q0": {"q": 0}}
    direct = cbir.extract(pictures, trained, tmp_path / "direct", extras=extras, **recipe)
    moved = cbir.open_store(windows.location)
    moved.root = tmp_path / "nowhere"
    made = cbir.extract(moved, trained, tmp_path / "made", extras=extras, **recipe)
    assert made.unreadable == direct.unreadable and len(made.unreadable) == 1
    for name in ("h", "eta_conv", *extras):
        a, b = made[name][:], direct[name][:]
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True), name


def test_other_blocks_are_described_anew(windows, pictures, tmp_path):
    """Window means of another network, or without colours that are asked for, do not serve."""
    other = cbir.load_network("embedded", device="cpu")
    small = cbir.extract(windows, other, tmp_path / "other")
    assert small.h.shape[1] == 1024 and np.isfinite(small.h[1]).all()


def test_the_network_is_found_again_beside_its_store(net, trained, pictures, tmp_path, monkeypatch):
    store = cbir.extract(pictures, trained, tmp_path / "stores" / "database")
    monkeypatch.setattr(zoo, "load_network", lambda *args, **options: net)
    query = [store.path(4)]
    with pytest.raises(FileNotFoundError, match="beside the stores"):
        cbir.search(store, query, k=1)
    codes._save(trained.head, tmp_path / "stores" / codes.CODES_FILE)
    hits = cbir.search(store, query, k=1)
    assert hits.indices.tolist() == [[4]]


def test_a_run_describes_with_retrained_codes(net, pictures, tmp_path):
    run = cbir.Run("trial", tmp_path)
    images = cbir.list_images(pictures)
    parts = dict(images=images[range(30)], queries=images[range(30, 37)])
    options = dict(network=net, code_widths=[6, 5], extras={"average": "average"})
    made, database, queries = run.describe(**parts, **options)
    assert database.h.shape == (30, 11) and queries.h.shape == (7, 11)
    assert (run.path / "stores" / "codes.safetensors").is_file()
    assert (run.path / "stores" / "windows" / "queries" / "store.json").is_file()
    again, database, _ = run.describe(**parts, **options)
    assert database.computed == 0 and again.weights_hash == made.weights_hash
    _, other, _ = run.describe(**parts, **options, folder="more_", recipe="unit_length")
    assert np.allclose(np.linalg.norm(other["y_3"][:], axis=1), 1, atol=1e-5)


def test_a_run_with_retrained_codes_follows_its_folder(net, pictures, tmp_path):
    """As if made anew, in batches of one image: a larger batch may be rounded in another way."""
    images = cbir.list_images(pictures)
    queries = images[range(30, 37)]
    options = dict(network=net, code_widths=[6, 5], batch_size=1)
    run = cbir.Run("trial", tmp_path)
    before, *_ = run.describe(images=images[range(26)], queries=queries, **options)
    now, database, _ = run.describe(images=images[range(30)], queries=queries, **options)
    assert now.weights_hash != before.weights_hash and len(database) == 30
    anew, other, _ = cbir.Run("anew", tmp_path).describe(
        images=images[range(30)], queries=queries, **options
    )
    assert now.weights_hash == anew.weights_hash
    assert np.array_equal(database.eta[:], other.eta[:])
