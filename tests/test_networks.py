"""Networks as blocks and codes: tap points, shapes, input, provenance."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import make_net
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import v2 as T

import cbir
from cbir import descriptors, networks

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
SHAPES = {"vgg16": ([64, 128, 256, 512, 512], 4096), "embedded": ([8, 16, 32, 64, 64], 512)}


@pytest.fixture(scope="module", params=SHAPES)
def net(request):
    return cbir.load_network(request.param, weights=None, device="cpu")


def test_taps_are_the_pools_and_the_codes_after_their_relu(net):
    batch = torch.randn(2, 3, 224, 224)
    expected, x = [], batch
    with torch.inference_mode():
        for layer in [*net.module.features, nn.Flatten(), *net.module.classifier[:-1]]:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.ReLU) and x.ndim == 2):
                expected.append(x.clone())
    ys, codes = net(batch)
    torch.testing.assert_close([*ys, *codes], expected, rtol=1e-3, atol=1e-5)
    assert not any(output.requires_grad for output in [*ys, *codes])
    channels, width = SHAPES[net.name]
    assert net.shapes["blocks"] == [(c, 224 >> m, 224 >> m) for m, c in enumerate(channels, 1)]
    assert net.shapes["codes"] == [width, width]
    assert "".join(kind[0] for _, kind, _ in net.layers) == "CCMCCMCCCMCCCMCCCMLLL"
    tapped = {name: shape for name, _, shape in net.layers if name in [*net.blocks, *net.codes]}
    assert list(tapped) == [*net.blocks, *net.codes]
    assert list(tapped.values()) == [*net.shapes["blocks"], (width,), (width,)]


def test_any_other_network(tiny_net):
    torch.manual_seed(0)
    blocks = ["layer1", "layer2", "layer3", "layer4"]
    transform = cbir.resize_transform(64)
    net = cbir.Network(models.resnet18(weights=None), blocks, ["avgpool"], transform)
    assert net.shapes["blocks"] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    modules = list(net.module.modules())
    assert not any(module.training or module._forward_hooks for module in modules)
    assert repr(tiny_net) == "<cbir network tiny: 3 blocks, codes: hidden>"


def test_a_tap_before_its_relu_stays_before_its_relu():
    """ReLUs that work in place must not reach into what was tapped."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(36, 5), nn.ReLU(inplace=True))
    batch = torch.randn(6, 3, 8, 8)
    (code,) = cbir.Network(module, ["2"], ["4"])(batch).codes
    assert code.min() < 0
    torch.testing.assert_close(code, module[:5](batch).detach())


@pytest.mark.parametrize("name", ["embedded", "alexnet", "efficientnet_b0", "resnet50"])
def test_blocks_reduced_on_the_way_are_the_same_bit_for_bit(name):
    """Rectified, trimmed and overwritten blocks among them."""
    net = cbir.load_network(name, weights=None)
    batch = torch.rand(2, 3, 224, 224)
    ys, codes = net(batch)
    means, same_codes = descriptors.forward_windows(net, batch)
    for (a, cells), (b, same_cells) in zip(descriptors.window_means(ys), means, strict=True):
        assert torch.equal(a, b) and cells == same_cells
    for code, same in zip(codes, same_codes, strict=True):
        assert torch.equal(code, same)


def conv_net(*strides, **options):
    torch.manual_seed(0)
    layers = [nn.Conv2d(c, c + 1, 3, stride=s) for c, s in enumerate(strides, start=3)]
    blocks = [str(i) for i in range(len(strides))]
    transform = cbir.resize_transform(32)
    return cbir.Network(nn.Sequential(*layers), blocks, transform=transform, **options)


def test_rectify_sets_negative_activations_of_blocks_to_0_and_leaves_codes_alone():
    plain, rectified = conv_net(2), conv_net(2, rectify=True)
    batch = torch.randn(2, 3, 32, 32)
    y = plain(batch).ys[0]
    assert torch.equal(rectified(batch).ys[0], y.clamp(min=0))
    with pytest.raises(ValueError, match="negative.*rectify=True"):
        plain.shapes
    assert rectified.shapes["blocks"] == [(4, 15, 15)]
    pooled = nn.Sequential(*plain.module, nn.AdaptiveAvgPool2d(1))
    code = cbir.Network(pooled, ["0"], ["1"], rectify=True)(batch).codes[0]
    assert (code < 0).any() and torch.equal(code, y.mean((2, 3), keepdim=True).flatten(1))


def test_trim_cuts_the_end_of_the_earlier_blocks():
    """Sides 15, 7, 3: cut to 15, 6, 3, as 15 is five times 3."""
    whole, trimmed = (conv_net(2, 2, 2, rectify=True, trim=t) for t in (False, True))
    batch = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="block 2 is .7, 7.: not a whole multiple"):
        cbir.describe(whole, batch)
    for cut, y, side in zip(trimmed(batch).ys, whole(batch).ys, (15, 6, 3)):
        assert torch.equal(cut, y[:, :, :side, :side])
    assert cbir.describe(trimmed, batch, q=0).eta_conv.shape == (1, 15)
    growing = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Upsample(scale_factor=2))
    with pytest.raises(ValueError, match="not a whole multiple"):  # smaller than the last
        cbir.describe(cbir.Network(growing, ["0", "1"], trim=True), batch)


def test_stretched_unless_cropped_and_turned_back_into_pictures():
    image = PICTURE.resize((896, 224))
    stretched, cropped = (cbir.resize_transform(crop=crop)(image) for crop in (False, True))
    squeezed = cbir.resize_transform()(image.resize((224, 224), Image.Resampling.BILINEAR))
    torch.testing.assert_close(stretched, squeezed, rtol=0, atol=0.05)
    preset = models.VGG16_Weights.IMAGENET1K_V1.transforms()
    torch.testing.assert_close(cropped, preset(image))
    picture = PICTURE.resize((32, 32))
    for scale in ({}, {"mean": [0.5] * 3, "std": [1 / 255] * 3}):
        transform = cbir.resize_transform(32, **scale)
        assert (cbir.to_picture(transform(picture), transform) == np.asarray(picture)).all()


@pytest.mark.parametrize("crop", [False, True])
def test_a_batch_is_made_as_each_image_is(crop):
    transform = cbir.resize_transform(32, crop, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    prepare, normalize = networks.split_transform(transform)
    images = [PICTURE, PICTURE.rotate(90)]
    pixels = torch.stack([prepare(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert torch.equal(normalize(pixels), torch.stack([transform(image) for image in images]))
    other = lambda image: torch.full((3, 32, 32), image.width / 7)  # noqa: E731
    prepare, normalize = networks.split_transform(other)
    assert torch.equal(normalize(prepare(PICTURE)[None]), other(PICTURE)[None])


def test_the_hash_follows_weights_names_types_and_buffers():
    assert make_net().weights_hash == make_net().weights_hash != make_net(seed=1).weights_hash
    plain = nn.Sequential(nn.Conv2d(3, 2, 1))
    normed = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    normed[0].load_state_dict(plain[0].state_dict())
    hashes = [cbir.Network(m, ["0"]).weights_hash for m in (plain, normed, nn.Sequential(plain))]
    normed[1].running_mean += 1
    hashes += [cbir.Network(m, ["0"]).weights_hash for m in (normed, plain.double())]
    assert len(set(hashes)) == 5 and all(len(h) == 64 for h in hashes)
    options = [conv_net(2), conv_net(2, rectify=True), conv_net(2, rectify=True, trim=True)]
    assert len({json.dumps(net.provenance) for net in options}) == 3


@dataclass
class Brighten:
    by: float


def test_a_transform_is_known_by_its_data_or_by_name_and_attributes(monkeypatch):
    transform_of = networks.transform_identity
    monkeypatch.setattr(nn.Module, "__repr__", lambda self: f"<{id(self)}>")  # may change
    known = {"size": [224, 224], "crop": None, "interpolation": "bilinear"}
    known |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert transform_of(cbir.resize_transform()) == known
    preset = transform_of(models.VGG16_Weights.IMAGENET1K_V1.transforms())
    assert preset["name"].endswith("ImageClassification") and preset["crop_size"] == [224]
    steps = [[T.Resize(9), T.ToImage(), Brighten(by)] for by in (1, 1, 2)]
    first, again, brighter = map(transform_of, map(T.Compose, steps))
    assert first == again != brighter
    assert first["transforms"][2] == {"name": f"{__name__}.Brighten", "by": 1}
    assert transform_of(conv_net) == {"name": f"{__name__}.conv_net"}


@pytest.mark.cuda
def test_cuda_gives_the_same_descriptors():
    on_cpu, on_gpu = (cbir.load_network(weights=None, device=d) for d in ("cpu", "cuda"))
    assert on_gpu.device.type == "cuda" and on_gpu.weights_hash == on_cpu.weights_hash
    batch = torch.randn(4, 3, 224, 224)
    eta = cbir.describe(on_gpu, batch).eta.cpu()
    torch.testing.assert_close(eta, cbir.describe(on_cpu, batch).eta, rtol=1e-2, atol=1e-3)
