"""A convolutional network as the paper sees it: block outputs y_1..y_N and codes y_{N+1}, y_{N+2}.

`Network` makes one of any torch module, by the names of its submodules; zoo.py has those that are known by name.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2 as T

from .common import did_you_mean

Transform = Callable[[Image.Image], torch.Tensor]  # RGB -> (3, H, W) float
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Activations(NamedTuple):
    """One forward pass: `ys` = [y_1..y_N], each (B, C_m, H_m, W_m); `codes` = [y_{N+1}, ..], each (B, D)."""

    ys: list[torch.Tensor]
    codes: list[torch.Tensor]


class Shapes(TypedDict):
    """Shapes for one image: `blocks` [(C_1, H_1, W_1), ..], `codes` [D_1, ..]."""

    blocks: list[tuple[int, ...]]
    codes: list[int]


class Network:
    """Any torch CNN with its tap points.

    module: an `nn.Module` that takes (B, 3, H, W) float tensors; it is put in evaluation mode.
    blocks: names of the submodules whose outputs are y_1..y_N: non-negative maps, each side a multiple of the last one's.
    codes: names of the submodules whose outputs flatten to (B, D); may be empty.
    transform: `PIL.Image` (RGB) -> (3, H, W) float tensor; default `resize_transform()`.
    name: written into every store as provenance.
    rectify: True for networks whose blocks do not end in a ReLU (residual sums, SiLU, GELU): the method counts neurons that are
        active and weighs by how much, so that negative values of a block are set to 0. Codes stay as they are: L1 needs no sign.
    trim: True for blocks whose sides are no whole multiple of the last one's: their last rows and columns are left out, down to
        the largest whole multiple. Position i of an unpadded stride-2 pool begins at position 2i of its input, so that the
        squares of Eq. 11-12 stay where they belong.

    Raises ValueError for a submodule that does not exist or no block at all.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[str], codes: Sequence[str] = (), transform: Transform | None = None,
                 name: str = "custom", rectify: bool = False, trim: bool = False) -> None:
        known = dict(module.named_modules())
        missing = [n for n in [*blocks, *codes] if n not in known]
        if missing:
            raise ValueError(f"no such submodule: {missing}{did_you_mean(missing[0], known)}; this network has e.g. {[n for n in known if n][:8]}: "
                             "module.named_modules() gives all")
        if not blocks:
            raise ValueError("a network needs at least one block: name the submodules whose outputs are y_1..y_N")
        self.module = module.eval().to(memory_format=torch.channels_last)  # 1.4x on CPUs, and what GPUs prefer
        self.blocks, self.codes = list(blocks), list(codes)
        self.transform = transform or resize_transform()
        self.name, self.rectify, self.trim = name, rectify, trim
        self._overwritten: set[str] | None = None

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the network to a device, its weights to a dtype; returns it."""
        self.module.to(device=device, dtype=dtype)
        self.__dict__.pop("weights_hash", None)
        return self

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> Activations:
        """(B, 3, H, W) float tensor -> `Activations`, by one forward pass without gradients."""
        if self._overwritten is None:
            self._overwritten = self._find_overwritten(batch[:1])
        taps: dict[str, torch.Tensor] = {}
        overwritten = self._overwritten
        self._run(batch, [*self.blocks, *self.codes],
                  lambda name, _module, out: taps.__setitem__(name, out.clone() if name in overwritten else out))
        silent = [n for n in [*self.blocks, *self.codes] if n not in taps]
        if silent:
            raise ValueError(f"these submodules take no part in a forward pass: {silent}; name others")
        ys, codes = [taps[n] for n in self.blocks], [taps[n].flatten(1) for n in self.codes]
        if self.rectify:
            ys = [y.clamp_min(0) for y in ys]
        if self.trim:
            last = ys[-1].shape[-2:]
            rows, cols = ([y.shape[i] // last[i] * last[i] or None for y in ys] for i in (-2, -1))  # None: smaller, and refused later
            ys = [y[..., :r, :c] for y, r, c in zip(ys, rows, cols)]
        return Activations(ys, codes)

    def _run(self, batch: torch.Tensor, names: Sequence[str], note: Callable[[str, nn.Module, torch.Tensor], None]) -> None:
        """A forward pass in which every named submodule reports: note(name, module, output)."""
        submodules = dict(self.module.named_modules())
        handles = [submodules[n].register_forward_hook(lambda m, _i, out, n=n: note(n, m, out)) for n in names]
        try:
            self.module(batch.to(self.device, self.dtype, non_blocking=True, memory_format=torch.channels_last))
        finally:
            for handle in handles:
                handle.remove()

    def _find_overwritten(self, batch: torch.Tensor) -> set[str]:
        """Tap points whose output a later layer changes in place (an in-place ReLU, say): only these need a copy."""
        taps: dict[str, tuple[torch.Tensor, int]] = {}
        with torch.inference_mode(False), torch.no_grad():  # inference mode would not count the changes
            self._run(batch.clone(), [*self.blocks, *self.codes], lambda name, _module, out: taps.update({name: (out, out._version)}))
        return {name for name, (out, before) in taps.items() if out._version != before}

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the names, shapes and bytes of all parameters and buffers (str, 64 hex digits)."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def probe(self) -> torch.Tensor:
        """A transformed image of noise, (1, 3, H, W): enough to find shapes and faults before the first real image."""
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(noise))[None]

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes for one image: {"blocks": [(C_1, H_1, W_1), ..], "codes": [D_1, ..]}.

        Raises ValueError where a block gives no maps or negative ones: the method needs activations after their ReLU.
        """
        ys, codes = self(self.probe())
        for name, y in zip(self.blocks, ys):
            if y.ndim != 4:
                raise ValueError(f"block {name!r} gives {tuple(y.shape)}, not maps (B, C, H, W): name it in `codes`, or a layer before it")
            if y.min() < 0:
                raise ValueError(f"block {name!r} gives negative activations: tap it after its ReLU, or pass rectify=True")
        return {"blocks": [tuple(y.shape[1:]) for y in ys], "codes": [c.shape[1] for c in codes]}

    @cached_property
    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Every convolution, pooling and linear layer in the order they run: (name, class name, shape of its output for one image).

        Where a tap point is no such layer but follows one (its ReLU, its residual sum), the layer bears the tap point's name.
        """
        kinds = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
        taps = {*self.blocks, *self.codes}
        found: list[tuple[str, str, tuple[int, ...]]] = []

        def note(name: str, module: nn.Module, output: torch.Tensor) -> None:
            shape = tuple(output.shape[1:])
            if isinstance(module, nn.AdaptiveAvgPool2d) and name not in taps:
                return  # VGG's does nothing at its own input size
            if isinstance(module, kinds) or not found or found[-1][0] in taps:
                found.append((name, next((k.__name__ for k in kinds if isinstance(module, k)), type(module).__name__), shape))
            else:
                found[-1] = name, found[-1][1], shape

        with torch.inference_mode():
            self._run(self.probe(), [n for n, m in self.module.named_modules() if isinstance(m, kinds) or n in taps], note)
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """What a descriptor depends on besides the image and the recipe (dict of str, lists)."""
        return {"name": self.name, "weights_hash": self.weights_hash, "blocks": self.blocks, "codes": self.codes,
                "transform": re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(self.transform).split())),  # no memory addresses
                **{option: True for option in ("rectify", "trim") if getattr(self, option)},
                **({"precision": str(self.dtype).removeprefix("torch.")} if self.dtype != torch.float32 else {})}


def resize_transform(size: int = 224, crop: bool = False, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
                     interpolation: T.InterpolationMode = T.InterpolationMode.BILINEAR) -> Transform:
    """The input transform: PIL image -> (3, size, size) float tensor, (x / 255 - mean) / std per channel.

    crop=False stretches the image to size x size, as the paper's evidence suggests; crop=True is torchvision's way for
    ImageNet: the shorter side to size * 256 / 224, then the central square. mean, std: three numbers each, by default ImageNet's.
    """
    resize = [T.Resize(size * 256 // 224, interpolation), T.CenterCrop(size)] if crop else [T.Resize((size, size), interpolation)]
    return T.Compose([*resize, T.ToImage(), T.ToDtype(torch.float32, scale=True), T.Normalize(list(mean), list(std))])


def to_picture(image: torch.Tensor, transform: Transform | None = None) -> NDArray[np.uint8]:
    """What the network saw: one transformed image, (3, H, W) float -> (H, W, 3) uint8 array.

    transform: the one that made it, whose `Normalize` is undone; without one, ImageNet's mean and standard deviation.
    """
    steps = [t for t in getattr(transform, "transforms", []) if isinstance(t, T.Normalize)]
    mean, std = (steps[-1].mean, steps[-1].std) if steps else (IMAGENET_MEAN, IMAGENET_STD)
    rgb = image.cpu().permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)
    return (255 * rgb).round().clamp(0, 255).to(torch.uint8).numpy()


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """A torch device by name; "auto" is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
