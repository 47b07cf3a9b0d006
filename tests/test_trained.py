"""Layers trained on a database: retrained codes and the IM-like descriptor."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cbir
from cbir import trained as layers

COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}
OPTIONS = dict(widths=(16, 12), epochs=60, lr=1e-2, dropout=0)
FAST = dict(width=16, epochs=25, batch_size=16, lr=1e-2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of twelve noisy pictures that colour tells apart; one cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, (name, color) in product(range(12), COLORS.items()):
        (folder / name).mkdir(exist_ok=True)
        pixels = np.clip(rng.normal(color, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    (folder / "red" / "broken.png").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)]
    second = [nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    transform = cbir.resize_transform(32)
    return cbir.Network(nn.Sequential(*first, *second), ["2", "5"], (), transform, name="small")


@pytest.fixture(scope="module")
def trained(net, pictures):
    return cbir.train_codes(net, pictures, **OPTIONS)


def test_they_learn_the_classes(trained, net, pictures):
    about = trained.head.about
    assert about["classes"] == sorted(COLORS) and about["widths"] == [16, 12]
    assert about["images"] == 37 and about["trained on"] == 36 - 4 and about["accuracy"] > 0.7
    assert trained.shapes["codes"] == [16, 12] and trained.shapes["blocks"] == net.shapes["blocks"]
    assert trained.codes == ["fc6, 16 retrained", "fc7, 12 retrained"]
    # The layers are linear, ReLU, linear, ReLU, softmax.
    y_N = torch.rand(5, *trained.shapes["blocks"][-1])
    (first, second), scores = trained.head.layers, trained.head.classifier
    y_6 = torch.relu(y_N.flatten(1) @ first.weight.T + first.bias)
    y_7 = torch.relu(y_6 @ second.weight.T + second.bias)
    got = [*trained.head(y_N), trained.head.classify(y_N)]
    torch.testing.assert_close(got, [y_6, y_7, y_7 @ scores.weight.T + scores.bias])


def test_the_same_seed_gives_the_same_codes(trained, net, pictures, tmp_path):
    state = torch.random.get_rng_state()
    again = cbir.train_codes(net, pictures, **OPTIONS)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.weights_hash == trained.weights_hash
    assert cbir.train_codes(net, pictures, seed=1, **OPTIONS).weights_hash != trained.weights_hash
    windows = cbir.extract(pictures, net, tmp_path / "windows", extras={"windows": "windows"})
    windows.root = tmp_path / "nowhere"
    means = cbir.train_codes(net, windows, **OPTIONS).head.state_dict()
    torch.testing.assert_close(means, trained.head.state_dict(), atol=1e-3, rtol=1e-5)


def test_every_class_keeps_an_image_and_unknown_classes_take_no_part(net, pictures):
    some = cbir.list_images(pictures)[[*range(4), *range(14, 18)]]
    loose = cbir.ImageSet(some.root, some.files, [*"abcd", "", "", "a", "d"])
    options = dict(widths=(4,), epochs=1, held_out=0.9)
    about = cbir.train_codes(net, loose, **options).head.about
    assert about["classes"] == ["a", "b", "c", "d"] and about["trained on"] == 4
    for share in (0.9, 0):
        about = cbir.train_codes(net, loose[range(4)], **options | {"held_out": share}).head.about
        assert about["trained on"] == 4 and np.isnan(about["accuracy"])
    with pytest.raises(ValueError, match="fewer than two classes"):
        cbir.train_codes(net, loose[[1]])


def test_they_are_trained_once_and_stay(net, pictures, tmp_path):
    path = tmp_path / "run" / "codes.safetensors"
    options = dict(widths=(8,), epochs=2, path=path)
    images = cbir.list_images(pictures)
    first = cbir.train_codes(net, images[range(30)], **options)
    again = cbir.train_codes(net, images, **options)
    assert again.weights_hash == first.weights_hash
    assert again.head.about == first.head.about and again.head.about["images"] == 30
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        cbir.train_codes(net, images, seed=3, **options)


def test_h_is_the_codes_and_the_network_is_found_beside_its_store(pictures, tmp_path):
    stores, path = tmp_path / "stores", tmp_path / "stores" / "codes.safetensors"
    embedded = cbir.load_network(device="cpu")
    trained = cbir.train_codes(embedded, pictures, widths=(6, 5), epochs=1, path=path)
    assert len(trained.codes) == 2  # those of the network itself are left out
    store = cbir.extract(pictures, trained, stores / "database")
    assert store.h.shape == (37, 11) and store.eta_conv.shape == (37, 184)
    row = store.files.index("green/03.png")
    ys, made = trained(trained.transform(cbir.open_image(store.path(row)))[None])
    assert np.allclose(store.h[row], torch.cat(made, 1)[0], atol=1e-5)
    assert cbir.search(store, [store.path(row)], k=1).indices.tolist() == [[row]]
    other = cbir.load_network(weights=None, device="cpu")
    with pytest.raises(ValueError, match="another network than 'embedded'"):
        layers.load_codes(other, path)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="holds no codes"):
        layers.load_codes(embedded, path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="beside the stores"):
        cbir.search(store, [store.path(row)], k=1)


def test_the_network_of_a_store_is_found_again(pictures, tmp_path):
    picture = [pictures / "red" / "00.png"]
    cropped = cbir.load_network(crop=True, device="cpu")
    store = cbir.extract(picture, cropped, tmp_path / "store")
    assert layers.network_of(store, device="cpu").provenance == cropped.provenance
    half = cbir.load_network(precision="bfloat16", device="cpu")
    of_half = cbir.extract(picture, half, tmp_path / "half")
    assert layers.network_of(of_half, device="cpu").dtype == torch.bfloat16
    assert layers.network_of(store, cropped) is cropped
    for other in ({"net": cbir.load_network(device="cpu")}, {"weights": None}):
        with pytest.raises(ValueError, match="made by another network or other weights than 'emb"):
            layers.network_of(store, **other)


def toy(n=120, seed=0):
    """Three classes that no line parts, each at two opposite ends of a dimension."""
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 3
    codes = rng.normal(0, 0.1, (n, 8))
    codes[np.arange(n), target] += rng.choice([-2, 2], n)
    return codes.astype(np.float32), np.array(["cat", "dog", "fox"])[target]


def test_it_learns_what_no_line_can():
    encoder, accuracy = layers.train_hidden_layer(*toy(), **FAST)
    assert accuracy > 0.98
    codes, labels = toy(seed=1)
    database, queries = (layers.hidden_codes(encoder, x) for x in (toy()[0], codes))
    hits = cbir.search(database, queries, k=5)
    assert (toy()[1][hits.indices] == labels[:, None]).mean() > 0.98
    assert layers.train_hidden_layer(*toy(600), **FAST | {"epochs": 0})[1] < 0.7
    assert layers.train_hidden_layer(*toy(400), **FAST, most=100)[1] > 0.9  # of a sample


def test_it_is_seeded_and_leaves_out_unreadable_rows_and_unknown_classes():
    codes, labels = toy()
    gaps = [0, 5, 60, 120]
    unreadable = np.insert(codes, gaps, np.nan, axis=0), np.insert(labels, gaps, "dog")
    unknown = np.insert(codes, gaps, 9, axis=0), np.insert(labels, gaps, "")
    options = FAST | {"epochs": 3}
    runs = [(toy(), 0), (unreadable, 0), (unknown, 0), (toy(), 1)]
    encoders = [layers.train_hidden_layer(*data, **options, seed=seed)[0] for data, seed in runs]
    first, *others = (encoder[0].weight for encoder in encoders)
    assert [first.equal(other) for other in others] == [True, True, False]
    codes[labels != "cat"] = np.nan
    with pytest.raises(ValueError, match="fewer than two classes"):
        layers.train_hidden_layer(codes, labels, **FAST)


@pytest.mark.parametrize("n", [1, 4097])
def test_hidden_codes(n, tmp_path):
    """(N, width), not negative, row by row; a row of NaN stays one and touches no other."""
    encoder, _ = layers.train_hidden_layer(*toy(), epochs=1)
    codes = toy(n)[0]
    weight, bias = (parameter.detach().numpy() for parameter in encoder.parameters())
    expected = np.maximum(0, codes @ weight.T + bias)
    codes[n // 2] = np.nan
    hidden = layers.hidden_codes(encoder, codes)
    assert hidden.shape == (n, 4) and hidden.dtype == np.float32  # half of 8 by default
    mapped = layers.hidden_codes(encoder, codes, tmp_path / "codes.npy")
    assert isinstance(mapped, np.memmap) and mapped.tobytes() == hidden.tobytes()
    others = np.arange(n) != n // 2
    np.testing.assert_allclose(hidden[others], expected[others], rtol=1e-4, atol=1e-5)
    assert np.isnan(hidden[n // 2]).all() and (hidden[others] >= 0).all()
