"""Networks as blocks and codes: tap points, shapes, weights and where they come from."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from conftest import make_net
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import cbir
from cbir.extract import Describer

SHAPES = {"vgg16": ([64, 128, 256, 512, 512], 4096), "embedded": ([8, 16, 32, 64, 64], 512)}


@pytest.fixture(scope="module")
def vgg16():
    return cbir.load_network("vgg16", weights=None, device="cpu")


@pytest.fixture(scope="module")
def embedded():
    return cbir.load_network("embedded", weights=None, device="cpu")


@pytest.fixture
def net(request):
    return request.getfixturevalue(request.param)


both = pytest.mark.parametrize("net", ["vgg16", "embedded"], indirect=True)


# ---- tap points ----------------------------------------------------------------------------------


@both
def test_taps_are_the_pools_and_the_codes_after_their_relu(net):
    """Against the layers applied one by one."""
    batch = torch.randn(2, 3, 224, 224)
    ys, codes = [], []
    with torch.inference_mode():
        x = batch
        for layer in net.module.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                ys.append(x.clone())
        x = x.flatten(1)  # VGG16's average pool is no change at 224 x 224
        for layer in net.module.classifier[:-1]:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                codes.append(x.clone())
    got = net(batch)
    assert len(got.ys) == len(ys) == 5 and len(got.codes) == len(codes) == 2
    for a, b in zip([*got.ys, *got.codes], [*ys, *codes]):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        assert a.min() >= 0 and not a.requires_grad


@both
def test_shapes(net):
    channels, width = SHAPES[net.name]
    sides = [112, 56, 28, 14, 7]
    assert net.shapes["blocks"] == [(c, side, side) for c, side in zip(channels, sides)]
    assert net.shapes["codes"] == [width, width]


def test_the_descriptor_has_the_papers_dimensions(vgg16):
    d = cbir.describe(vgg16, vgg16.probe())
    assert (d.h.shape, d.eta_conv.shape, d.eta.shape) == ((1, 8192), (1, 1472), (1, 9664))
    assert torch.isfinite(d.eta).all()


@both
def test_layers_in_the_order_they_run(net):
    kinds = [kind for _, kind, _ in net.layers]
    assert [kinds.count(k) for k in ("Conv2d", "MaxPool2d", "Linear")] == [13, 5, 3]
    assert "".join(k[0] for k in kinds) == "CCMCCMCCCMCCCMCCCMLLL"
    tapped = {name: shape for name, _, shape in net.layers if name in [*net.blocks, *net.codes]}
    assert list(tapped) == [*net.blocks, *net.codes]
    assert list(tapped.values()) == [*net.shapes["blocks"], *((d,) for d in net.shapes["codes"])]


def test_the_slim_network_is_vgg16_at_another_width():
    with torch.device("meta"):
        ours, theirs = cbir.slim_vgg16(1000, width=1).state_dict(), models.vgg16().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert cbir.slim_vgg16(4, batch_norm=True).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 4)


def test_the_module_is_in_evaluation_mode_and_left_without_hooks(tiny_net):
    tiny_net(tiny_net.probe())
    for module in tiny_net.module.modules():
        assert not module.training and not module._forward_hooks


def test_hooks_are_removed_after_a_failure(tiny_net):
    with pytest.raises(RuntimeError):
        tiny_net(torch.zeros(1, 5, 32, 32))
    assert not any(m._forward_hooks for m in tiny_net.module.modules())


def test_a_tap_before_its_relu_stays_before_its_relu():
    """ReLUs that work in place must not reach into what was tapped."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.ReLU(inplace=True),
    )
    net = cbir.Network(module, ["2"], ["4"])
    batch = torch.randn(6, 3, 8, 8)
    with torch.inference_mode():
        expected = module[:5](batch)
    assert expected.min() < 0
    torch.testing.assert_close(net(batch).codes[0], expected)
    with pytest.raises(ValueError, match="negative"):
        cbir.Network(module, ["0"], transform=cbir.resize_transform(8)).shapes


def test_any_other_network():
    """A residual network, from image file to eta."""
    torch.manual_seed(0)
    blocks = ["layer1", "layer2", "layer3", "layer4"]
    transform = cbir.resize_transform(64)
    net = cbir.Network(models.resnet18(weights=None), blocks, ["avgpool"], transform)
    assert net.shapes["blocks"] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert net.shapes["codes"] == [512]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    d = cbir.describe(net, torch.stack([net.transform(image)] * 2))
    assert d.eta.shape == (2, 512 + 960)
    assert torch.isfinite(d.eta).all() and (d.eta_conv[:, :64] > 0).any()
    tapped = [name for name, _, _ in net.layers if name in [*net.blocks, *net.codes]]
    assert tapped == ["layer1", "layer2", "layer3", "layer4", "avgpool"]


@pytest.mark.parametrize(
    "blocks, codes, message",
    [
        (["one", "four"], [], "no such submodule.*four.*one"),
        (["one"], ["head"], "head"),
        ([], [], "at least one block"),
        ([], ["hidden"], "block"),
    ],
)
def test_tap_points_that_do_not_exist(tiny_net, blocks, codes, message):
    with pytest.raises(ValueError, match=message):
        cbir.Network(tiny_net.module, blocks, codes)


@pytest.mark.parametrize(
    "block, message",
    [("one.0", "'one.0'.*negative"), ("hidden", "'hidden'.*not maps"), ("flat", "not maps")],
)
def test_blocks_that_are_no_activation_maps(tiny_net, block, message):
    with pytest.raises(ValueError, match=message):
        cbir.Network(tiny_net.module, ["one", block], transform=tiny_net.transform).shapes


# ---- the input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(500, 375), (224, 224), (30, 400), (1, 1)])
@pytest.mark.parametrize("crop", [False, True])
def test_images_of_any_size_become_224(size, crop):
    white = cbir.resize_transform(crop=crop)(Image.new("RGB", size, "white"))
    assert white.shape == (3, 224, 224) and white.dtype == torch.float32
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white.mean((1, 2)), (1 - mean) / std)


def test_stretched_unless_cropped():
    """The image's left half is black. Stretched, half of the columns are; cropped, margins go."""
    pixels = np.zeros((224, 896, 3), np.uint8)
    pixels[:, 448:] = 255
    pixels[:, :100, 0] = pixels[:, -100:, 0] = 99
    image = Image.fromarray(pixels)
    stretched, cropped = (cbir.resize_transform(crop=crop)(image)[0] for crop in (False, True))
    assert len(stretched.unique()) > 3 and len(cropped[:, [0, -1]].unique()) == 2
    preset = models.VGG16_Weights.IMAGENET1K_V1.transforms()
    torch.testing.assert_close(cbir.resize_transform(crop=True)(image), preset(image))


# ---- provenance ----------------------------------------------------------------------------------


def test_the_hash_follows_the_weights():
    hashes = {make_net(seed=seed).weights_hash for seed in range(3)}
    assert len(hashes) == 3 and make_net(seed=1).weights_hash in hashes
    net = make_net()
    with torch.no_grad():
        net.module.hidden[0].bias[3] += 1e-6
    assert net.weights_hash not in hashes


def test_the_hash_sees_names_types_and_buffers():
    plain = nn.Sequential(nn.Conv2d(3, 2, 1))
    normed = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    normed[0].load_state_dict(plain[0].state_dict())
    nested = nn.Sequential(nn.Sequential(plain[0]))
    hashes = [cbir.Network(m, ["0"]).weights_hash for m in (plain, normed, nested)]
    normed[1].running_mean += 1
    hashes += [cbir.Network(m, ["0"]).weights_hash for m in (normed, plain.double())]
    assert len(set(hashes)) == 5 and all(len(h) == 64 for h in hashes)


def test_provenance(tiny_net):
    p = tiny_net.provenance
    assert (p["name"], p["blocks"], p["codes"]) == ("tiny", ["one", "two", "three"], ["hidden"])
    assert p["weights_hash"] == tiny_net.weights_hash
    assert "Resize" in p["transform"] and "32" in p["transform"]
    assert p == make_net().provenance


def test_provenance_of_a_plain_function_is_the_same_tomorrow(tiny_net):
    """No address in memory: it would part a store from the network that made it."""

    def transform(image):
        return cbir.resize_transform(32)(image)

    text = cbir.Network(tiny_net.module, ["one"], transform=transform).provenance["transform"]
    assert hex(id(transform)) not in text and "transform" in text


# ---- random weights ------------------------------------------------------------------------------


def test_random_weights_are_seeded(embedded):
    assert cbir.load_network("embedded", weights=None).weights_hash == embedded.weights_hash
    assert cbir.load_network("embedded", weights=None, seed=1).weights_hash != embedded.weights_hash


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    cbir.load_network("embedded", weights=None)
    assert torch.equal(torch.rand(3), expected)


# ---- weights from files --------------------------------------------------------------------------


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def contiguous_state(net):
    """A network's state dict as safetensors takes it."""
    return {key: tensor.contiguous() for key, tensor in net.module.state_dict().items()}


SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".pth"])


@SUFFIXES
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_weights_from_a_file(tmp_path, suffix, kind):
    other = cbir.load_network("embedded", weights=None, seed=5)
    path = save(contiguous_state(other), tmp_path / f"weights{suffix}")
    loaded = cbir.load_network("embedded", weights=kind(path))
    assert loaded.weights_hash == other.weights_hash
    expected = cbir.describe(other, other.probe()).eta
    assert torch.equal(cbir.describe(loaded, loaded.probe()).eta, expected)


@SUFFIXES
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_files_cut_short(tmp_path, suffix, share):
    path = save({"features.0.bias": torch.arange(3000.0)}, tmp_path / f"weights{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="weights"):
        cbir.load_network("embedded", weights=path)


@SUFFIXES
def test_files_of_something_else(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_text("<html>404</html>" * 100)
    with pytest.raises(ValueError, match="weights"):
        cbir.load_network("embedded", weights=path)


def other_shape(state):
    return state | {"features.0.bias": torch.zeros(9)}


def a_name_more(state):
    return state | {"features.99.bias": torch.zeros(9)}


def a_name_less(state):
    return dict(list(state.items())[1:])


@SUFFIXES
@pytest.mark.parametrize("change", [other_shape, a_name_more, a_name_less, lambda state: {}])
def test_weights_that_do_not_fit(tmp_path, embedded, suffix, change):
    path = save(change(contiguous_state(embedded)), tmp_path / f"weights{suffix}")
    with pytest.raises(ValueError, match="do not fit the network 'embedded'"):
        cbir.load_network("embedded", weights=path)


@pytest.mark.parametrize("what", [[1, 2], torch.zeros(3), {"state_dict": {}}, 5])
def test_a_file_that_holds_no_state_dict(tmp_path, what):
    torch.save(what, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth"):
        cbir.load_network("embedded", weights=tmp_path / "weights.pth")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def save_pickled(state, path):
    path.write_bytes(pickle.dumps(state, 2))


@pytest.mark.parametrize("write", [torch.save, save_pickled], ids=["torch.save", "pickle"])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, write):
    write({"features.0.bias": Payload(tmp_path / "it ran")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth is not a readable state dict"):
        cbir.load_network("embedded", weights=tmp_path / "weights.pth")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["embedded", "vgg16"])
@pytest.mark.parametrize("weights", ["nowhere.pth", "IMAGENET21K", ""])
def test_weights_that_are_not_there(tmp_path, name, weights):
    with pytest.raises(FileNotFoundError, match="no weights.*IMAGENET1K_V1"):
        cbir.load_network(name, weights=weights and str(tmp_path / weights))


def test_unknown_network():
    with pytest.raises(ValueError, match="unknown network 'vgg17'.*embedded.*vgg16.*cbir.Network"):
        cbir.load_network("vgg17")


# ---- downloads -----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Publishes VGG16's weights as a file of this folder; torch keeps downloads in another."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def publish(name):
        published = models.VGG16_Weights.IMAGENET1K_V1.value
        monkeypatch.setattr(published, "url", (tmp_path / name).as_uri())
        return tmp_path / name

    return publish


def downloaded(tmp_path):
    return [p.name for p in (tmp_path / "torch").rglob("*") if p.is_file()]


@pytest.fixture(scope="module")
def full_weights(tmp_path_factory, vgg16):
    """VGG16's state dict with one number in every tensor: full shapes in a small file."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    state = vgg16.module.state_dict()
    numbers = {key: torch.tensor([0.01]).expand(value.shape) for key, value in state.items()}
    torch.save(numbers, path)
    return path


def test_a_download_that_fails_says_what_to_do(server, tmp_path):
    """And nothing else is taken instead."""
    server("vgg16-397923af.pth")
    with pytest.raises(RuntimeError, match="could not be downloaded") as error:
        cbir.load_network("vgg16", weights="IMAGENET1K_V1")
    for hint in ("vgg16-397923af.pth", "`weights`", str(tmp_path / "torch"), "'embedded', "):
        assert hint in str(error.value)
    assert downloaded(tmp_path) == []


def test_weights_are_downloaded_once(server, tmp_path, full_weights):
    data = full_weights.read_bytes()
    source = server(f"vgg16-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    source.write_bytes(data)
    first = cbir.load_network("vgg16")
    assert all((p == 0.01).all() for p in first.module.parameters())
    assert downloaded(tmp_path) == [source.name]
    source.unlink()
    again = cbir.load_network("vgg16", weights="IMAGENET1K_V1")
    assert (again.module.features[0].bias == 0.01).all()


def test_a_download_with_another_hash_is_refused(server, tmp_path, full_weights):
    server("vgg16-397923af.pth").write_bytes(full_weights.read_bytes())
    with pytest.raises(RuntimeError, match="hash"):
        cbir.load_network("vgg16")
    assert downloaded(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_named(server, tmp_path, full_weights):
    """The user was told to put it there by hand, perhaps in part."""
    name = server("vgg16-397923af.pth").name
    cache = tmp_path / "torch" / "hub" / "checkpoints" / name
    cache.parent.mkdir(parents=True)
    cache.write_bytes(full_weights.read_bytes()[:-1000])
    with pytest.raises((ValueError, RuntimeError), match=name):
        cbir.load_network("vgg16")


# ---- accelerators --------------------------------------------------------------------------------


@pytest.mark.cuda
def test_cuda_gives_the_same_descriptors(embedded, tmp_path):
    on_gpu = cbir.load_network("embedded", weights=None, device="cuda")
    assert on_gpu.device.type == "cuda" and on_gpu.weights_hash == embedded.weights_hash
    batch = torch.randn(4, 3, 224, 224)
    eta = cbir.describe(on_gpu, batch).eta.cpu()
    torch.testing.assert_close(eta, cbir.describe(embedded, batch).eta, rtol=1e-2, atol=1e-3)


@pytest.mark.cuda
def test_the_global_cuda_generator_is_left_alone():
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    cbir.load_network("embedded", weights=None)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("crop", [False, True])
def test_a_batch_is_made_as_each_image_is(crop, tmp_path):
    """Floats are made of a whole batch, with the bits that the transform gives one by one."""
    transform = cbir.networks.resize_transform(32, crop, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    net = make_net()
    net.transform = transform
    describer = Describer(net)
    images = [cbir.networks.noise_image(), cbir.networks.noise_image().rotate(90)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    decoded = [describer.decode(tmp_path / f"{i}.png")[0] for i in range(2)]
    assert {image.dtype for image in decoded} == {torch.uint8}
    batch = describer.inputs(decoded)
    assert torch.equal(batch, torch.stack([transform(image) for image in images]))


def test_a_transform_of_another_kind_is_left_whole(tmp_path):
    net = make_net()
    net.transform = lambda image: torch.full((3, 32, 32), image.width / 7)
    describer = Describer(net)
    cbir.networks.noise_image().save(tmp_path / "a.png")
    image, _ = describer.decode(tmp_path / "a.png")
    assert torch.equal(describer.inputs([image, image]), torch.full((2, 3, 32, 32), 256 / 7))


def test_a_network_says_what_it_is(tiny_net):
    assert repr(tiny_net) == "<cbir network tiny: 3 blocks, codes: hidden>"
