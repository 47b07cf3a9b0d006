"""A convolutional network as the paper sees it: block outputs y_1..y_N and codes y_{N+1}, y_{N+2}.

`load_network` gives VGG16 (torchvision's, with its weights) or the embedded network (the same 13 convolutions, 5 max-pools
and 2 fully connected layers at an eighth of the width). `Network` makes one of any other torch module, by submodule names.
"""

import hashlib
import re
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.transforms import v2 as T

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED_WEIGHTS = ROOT / "data" / "weights" / "slim_vgg16.safetensors"

# The tap points are the same in both networks: the five max-pools, and the two fully connected layers after their ReLU.
VGG16_BLOCKS = ["features.4", "features.9", "features.16", "features.23", "features.30"]
VGG16_CODES = ["classifier.1", "classifier.4"]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Activations(NamedTuple):
    """One forward pass: `ys` = [y_1..y_N], each (B, C_m, H_m, W_m); `codes` = [y_{N+1}, ..], each (B, D)."""

    ys: list[torch.Tensor]
    codes: list[torch.Tensor]


class Network:
    """Any torch CNN with its tap points.

    module: an `nn.Module` that takes (B, 3, H, W) float tensors; it is put in evaluation mode.
    blocks: names of the submodules whose outputs are y_1..y_N: non-negative maps, each side a multiple of the last one's.
    codes: names of the submodules whose outputs flatten to (B, D); may be empty.
    transform: `PIL.Image` (RGB) -> (3, H, W) float tensor; default `resize_transform()`.
    name: written into every store as provenance.

    Raises ValueError for a submodule that does not exist or no block at all.
    """

    def __init__(self, module, blocks, codes=(), transform=None, name="custom"):
        known = dict(module.named_modules())
        missing = [n for n in [*blocks, *codes] if n not in known]
        if missing:
            raise ValueError(f"no such submodule: {missing}; this network has e.g. {[n for n in known if n][:8]}")
        if not blocks:
            raise ValueError("a network needs at least one block")
        self.module = module.eval().to(memory_format=torch.channels_last)  # 1.4x on CPUs, and what GPUs prefer
        self.blocks, self.codes = list(blocks), list(codes)
        self.transform = transform or resize_transform()
        self.name = name
        self._overwritten = None

    @property
    def device(self):
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self):
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def to(self, device=None, dtype=None):
        """Moves the network; dtype: torch.bfloat16 halves the time where the processor has it, at three significant digits an activation."""
        self.module.to(device=device, dtype=dtype)
        self.__dict__.pop("weights_hash", None)
        return self

    @torch.inference_mode()
    def __call__(self, batch):
        """(B, 3, H, W) float tensor -> `Activations`, by one forward pass without gradients."""
        if self._overwritten is None:
            self._overwritten = self._find_overwritten(batch[:1])
        taps, overwritten = {}, self._overwritten
        self._run(batch, [*self.blocks, *self.codes],
                  lambda name, _module, out: taps.__setitem__(name, out.clone() if name in overwritten else out))
        silent = [n for n in [*self.blocks, *self.codes] if n not in taps]
        if silent:
            raise ValueError(f"these submodules take no part in a forward pass: {silent}")
        return Activations([taps[n] for n in self.blocks], [taps[n].flatten(1) for n in self.codes])

    def _run(self, batch, names, note):
        """A forward pass in which every named submodule reports: note(name, module, output)."""
        submodules = dict(self.module.named_modules())
        handles = [submodules[n].register_forward_hook(lambda m, _i, out, n=n: note(n, m, out)) for n in names]
        try:
            self.module(batch.to(self.device, self.dtype, non_blocking=True, memory_format=torch.channels_last))
        finally:
            for handle in handles:
                handle.remove()

    def _find_overwritten(self, batch):
        """Tap points whose output a later layer changes in place (an in-place ReLU, say): only these need a copy."""
        taps = {}
        with torch.inference_mode(False), torch.no_grad():  # inference mode would not count the changes
            self._run(batch.clone(), [*self.blocks, *self.codes], lambda name, _module, out: taps.update({name: (out, out._version)}))
        return {name for name, (out, before) in taps.items() if out._version != before}

    @cached_property
    def weights_hash(self):
        """SHA-256 over the names, shapes and bytes of all parameters and buffers (str, 64 hex digits)."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def probe(self):
        """A transformed image of noise, (1, 3, H, W): enough to find shapes and faults before the first real image."""
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(noise))[None]

    @cached_property
    def shapes(self):
        """Shapes for one image: {"blocks": [(C_1, H_1, W_1), ..], "codes": [D_1, ..]}.

        Raises ValueError where a block gives no maps or negative ones: the method needs activations after their ReLU.
        """
        ys, codes = self(self.probe())
        for name, y in zip(self.blocks, ys):
            if y.ndim != 4:
                raise ValueError(f"block {name!r} gives {tuple(y.shape)}, not maps (B, C, H, W)")
            if y.min() < 0:
                raise ValueError(f"block {name!r} gives negative activations: tap it after its ReLU")
        return {"blocks": [tuple(y.shape[1:]) for y in ys], "codes": [c.shape[1] for c in codes]}

    @cached_property
    def layers(self):
        """Every convolution, pooling and linear layer in the order they run: [name, class name, shape of its output for one image].

        Where a tap point is no such layer but follows one (its ReLU, its residual sum), the layer bears the tap point's name.
        """
        kinds = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
        taps, found = {*self.blocks, *self.codes}, []

        def note(name, module, output):
            shape = tuple(output.shape[1:])
            if isinstance(module, nn.AdaptiveAvgPool2d) and name not in taps:
                return  # VGG's does nothing at its own input size
            if isinstance(module, kinds) or not found or found[-1][0] in taps:
                found.append([name, type(module).__name__, shape])
            else:
                found[-1][0], found[-1][2] = name, shape

        with torch.inference_mode():
            self._run(self.probe(), [n for n, m in self.module.named_modules() if isinstance(m, kinds) or n in taps], note)
        return found

    @property
    def provenance(self):
        """What a descriptor depends on besides the image and the recipe (dict of str, lists)."""
        return {"name": self.name, "weights_hash": self.weights_hash, "blocks": self.blocks, "codes": self.codes,
                "transform": re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(self.transform).split()))}  # no memory addresses


def resize_transform(size=224, crop=False):
    """The input transform: PIL image -> (3, size, size) float tensor, with ImageNet's mean and standard deviation.

    crop=False stretches the image to size x size, as the paper's evidence suggests; crop=True is torchvision's way for
    ImageNet: the shorter side to size * 256 / 224, then the central square.
    """
    resize = [T.Resize(size * 256 // 224), T.CenterCrop(size)] if crop else [T.Resize((size, size))]
    return T.Compose([*resize, T.ToImage(), T.ToDtype(torch.float32, scale=True),
                      T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def to_picture(image):
    """What the network saw: one image as `resize_transform` gives it, (3, H, W) float -> (H, W, 3) uint8 array."""
    rgb = image.cpu().permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return (255 * rgb).round().clamp(0, 255).to(torch.uint8).numpy()


def pick_device(device="auto"):
    """A torch device by name; "auto" is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def slim_vgg16(num_classes=10, batch_norm=False, width=1 / 8):
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


def load_network(name="embedded", weights="default", device="auto", crop=False, seed=0):
    """The embedded network or VGG16, ready to describe images.

    name: "embedded" or "vgg16".
    weights: "default" (the embedded weights; IMAGENET1K_V1 for vgg16), one of torchvision's names for VGG16's weights
        (downloaded once, checked by hash), a path to a state dict (.safetensors, or .pth loaded without executing
        anything in it), or None (or "none"): random, drawn from `seed`.
    device: a torch device, or "auto": the GPU where there is one.
    crop: see `resize_transform`.

    Raises ValueError for an unknown name or weights that do not fit, FileNotFoundError for a path that is not there,
    RuntimeError where the weights cannot be downloaded.
    """
    if name not in ("embedded", "vgg16"):
        raise ValueError(f"unknown network {name!r}: choose 'embedded' or 'vgg16', or build a cbir.Network of your own")
    if weights == "none":  # as command lines say it
        weights = None
    elif weights == "default":
        weights = EMBEDDED_WEIGHTS if name == "embedded" else "IMAGENET1K_V1"
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if weights is None else "meta"):  # meta: nothing is drawn
        torch.default_generator.manual_seed(seed)
        module = slim_vgg16() if name == "embedded" else models.vgg16(weights=None)
    if weights is not None:
        module.to_empty(device="cpu")
        try:
            module.load_state_dict(_state_dict(name, weights))
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise ValueError(f"the weights {weights} do not fit the network {name!r}: {error}") from error
    return Network(module, VGG16_BLOCKS, VGG16_CODES, resize_transform(crop=crop), name).to(pick_device(device))


def _state_dict(name, weights):
    if name == "vgg16" and weights in models.VGG16_Weights.__members__:
        source = models.VGG16_Weights[weights]
        try:
            return source.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (URLError, OSError) as error:
            raise RuntimeError(
                f"VGG16's weights could not be downloaded from {source.url} ({error}). Download that file on a machine "
                "with access and pass its path as `weights`, or place it in torch's hub folder "
                f"({torch.hub.get_dir()}/checkpoints). `network='embedded'` needs no download.") from error
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a file, None for random ones, or (vgg16) one of "
                                f"{list(models.VGG16_Weights.__members__)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is not a readable state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state
