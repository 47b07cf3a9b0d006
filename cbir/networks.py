"""A convolutional network as the paper sees it: block outputs y_1..y_N and codes y_{N+1}, y_{N+2}.

`Network` makes one of any torch module, by the names of its submodules; `zoo` knows some by name.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from enum import Enum
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2 as T

from .common import did_you_mean

Device = str | torch.device
Transform = Callable[[Image.Image], torch.Tensor]  # RGB -> (3, H, W) float
Reduce = Callable[[torch.Tensor, Sequence[int], str], Any]  # y_m, (H_N, W_N), "block m"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LAYER_KINDS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class Activations(NamedTuple):
    """One pass: ys = [y_1..y_N], each (B, C_m, H_m, W_m); codes = [y_{N+1}, ..], each (B, D)."""

    ys: list[torch.Tensor]
    codes: list[torch.Tensor]


class Network:
    """Any torch CNN with its tap points.

    Example:
        >>> blocks = ["layer1", "layer2", "layer3", "layer4"]
        >>> net = cbir.Network(torchvision.models.resnet18(), blocks, codes=["avgpool"])
        >>> net.shapes["blocks"][-1]
        (512, 7, 7)

    Args:
        module: takes (B, 3, H, W) float tensors; it is put in evaluation mode.
        blocks: names of the submodules whose outputs are y_1..y_N: non-negative maps, each side a
            multiple of the last one's.
        codes: names of the submodules whose outputs flatten to (B, D); may be empty.
        transform: an RGB image -> (3, H, W) float tensor; default `resize_transform()`.
        name: written into every store as provenance.
        rectify: sets negative values of blocks to 0, if they do not end in a ReLU: the method
            counts active neurons. Codes stay: L1 needs no sign.
        trim: cuts blocks at the end, to a whole multiple of the last one: position i of an unpadded
            stride-2 pool begins at position 2i of its input, as Eq. 11-12 have it.
        head: more codes from y_N, (B, C_N, H_N, W_N) -> [(B, D), ..]; see `train_codes`. Moved to
            the module's device and dtype.

    Raises:
        ValueError: a submodule does not exist, or there is no block.
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: Sequence[str],
        codes: Sequence[str] = (),
        transform: Transform | None = None,
        name: str = "custom",
        rectify: bool = False,
        trim: bool = False,
        head: nn.Module | None = None,
    ) -> None:
        known = dict(module.named_modules())
        self.blocks, self.tapped_codes, self._taps = [*blocks], [*codes], [*blocks, *codes]
        if missing := [name for name in self._taps if name not in known]:
            hint = did_you_mean(missing[0], known) or f", but e.g. {list(known)[1:9]}"
            raise ValueError(f"no such submodule: {missing}{hint}; see module.named_modules()")
        if not blocks:
            raise ValueError("there is no block: name the submodules whose outputs are y_1..y_N")
        # channels_last: 1.4x on CPUs, and what GPUs prefer
        self.module = module.eval().to(memory_format=torch.channels_last)
        self.head: Any = head.eval().to(self.device, self.dtype) if head else None
        self.codes: list[str] = [*codes, *getattr(head, "names", [])]
        self.transform = transform or resize_transform()
        self.name, self.rectify, self.trim = name, rectify, trim
        self._looked_ahead: dict[torch.Size, tuple[set[str], torch.Size]] = {}

    def __repr__(self) -> str:
        codes = ", ".join(self.codes) or "none"
        return f"<cbir network {self.name}: {len(self.blocks)} blocks, codes: {codes}>"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.module.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.module.parameters(), torch.empty(0)).dtype

    def to(self, device: Device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the network to a device, its weights to a dtype, and returns it."""
        for module in filter(None, [self.module, self.head]):
            module.to(device=device, dtype=dtype)
        self.__dict__.pop("weights_hash", None)
        return self

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor, reduce: Reduce | None = None) -> Activations:
        """Runs one forward pass over (B, 3, H, W) float, without gradients.

        `reduce` is applied to every block except the last as soon as it is computed; `ys` holds its
        results, so that the large maps are freed during the pass.

        Raises:
            ValueError: the pass does not reach a submodule.
        """
        if (size := batch.shape[1:]) not in self._looked_ahead:
            self._looked_ahead[size] = self._look_ahead(batch[:1])
        overwritten, grid = self._looked_ahead[size]
        ys: dict[str, Any] = {}
        codes: dict[str, torch.Tensor] = {}

        def keep(name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            y = output.clone() if name in overwritten else output
            if name in self.tapped_codes:
                codes[name] = y.flatten(1)
            if name in self.blocks:
                y = y.clamp_min(0) if self.rectify else y
                if self.trim:  # a block smaller than the last stays, to be refused later
                    rows, columns = (n // unit * unit or n for n, unit in zip(y.shape[-2:], grid))
                    y = y[..., :rows, :columns]
                title = f"block {self.blocks.index(name) + 1}"
                ys[name] = reduce(y, grid, title) if reduce and name != self.blocks[-1] else y

        self._run(batch, self._taps, keep)
        tapped = [codes[name] for name in self.tapped_codes]  # (B, D) each
        by_head = self.head(ys[self.blocks[-1]]) if self.head else []
        return Activations([ys[name] for name in self.blocks], tapped + by_head)

    def with_head(self, head: nn.Module | None) -> "Network":
        """Returns the same blocks with the codes of a head instead of their own; None: no codes."""
        options = (self.transform, self.name, self.rectify, self.trim)
        return Network(self.module, self.blocks, (), *options, head)

    def _run(self, batch: torch.Tensor, names: Iterable[str], note: Callable[..., None]) -> None:
        """Runs a forward pass in which every named submodule reports its output."""
        batch = batch.to(self.device, self.dtype, non_blocking=True)
        with ExitStack() as hooks:
            for name in dict.fromkeys(names):  # one hook even if it is both a block and a code
                module = self.module.get_submodule(name)
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
            self.module(batch.to(memory_format=torch.channels_last))

    def _look_ahead(self, batch: torch.Tensor) -> tuple[set[str], torch.Size]:
        """Runs one image to find the taps that a later in-place layer overwrites, and y_N's sides.

        Such taps must be cloned: an in-place ReLU would reach into them.
        """
        taps: dict[str, tuple[torch.Tensor, int]] = {}

        def keep(name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            taps[name] = (output, output._version)

        with torch.inference_mode(False), torch.no_grad():  # inference mode counts no versions
            self._run(batch.clone(), self._taps, keep)
        if silent := [name for name in self._taps if name not in taps]:
            raise ValueError(f"no forward pass reaches these submodules: {silent}; name others")
        overwritten = {name for name, (y, version) in taps.items() if y._version != version}
        return overwritten, taps[self.blocks[-1]][0].shape[-2:]

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the names, shapes and bytes of all parameters and buffers, 64 hex digits."""
        digest = hashlib.sha256()
        tensors = self.module.state_dict()
        tensors |= self.head.state_dict(prefix="head.") if self.head else {}
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def probe(self) -> torch.Tensor:
        """Returns a transformed noise image, (1, 3, H, W), used to find output shapes."""
        return self.transform(noise_image())[None]

    @cached_property
    def shapes(self) -> dict[str, Any]:
        """Shapes for one image: {"blocks": [(C_1, H_1, W_1), ..], "codes": [D_1, ..]}.

        Raises:
            ValueError: a block gives no maps, or negative ones; or an output is not finite.
        """
        ys, codes = self(self.probe())
        for name, y in zip(self.blocks, ys):
            if y.ndim != 4:
                raise ValueError(f"block {name!r} gives {[*y.shape]}, not maps: name it in `codes`")
            if y.min() < 0:
                raise ValueError(f"block {name!r} is negative: tap its ReLU, or pass rectify=True")
        for name, output in zip([*self.blocks, *self.codes], [*ys, *codes]):
            if not output.isfinite().all():
                raise ValueError(f"{name!r} is not finite: try other weights, or 'vgg16_conv'")
        blocks = [tuple(y.shape[1:]) for y in ys]
        return {"blocks": blocks, "codes": [code.shape[1] for code in codes]}

    @cached_property
    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, class, output shape for one image) of the layers, in the order they run.

        They are convolutions, pools and linear layers. If a tap point follows one (its ReLU, its
        residual sum), the layer bears the tap's name.
        """
        layers: list[tuple[str, str, tuple[int, ...]]] = []

        def note(name: str, module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            kind = next((k.__name__ for k in LAYER_KINDS if isinstance(module, k)), "")
            if not kind and layers and layers[-1][0] not in self._taps:
                kind = layers.pop()[1]
            layers.append((name, kind or type(module).__name__, tuple(output.shape[1:])))

        known = self.module.named_modules()  # VGG's adaptive pool does nothing at its input size
        names = [n for n, m in known if n in self._taps or isinstance(m, LAYER_KINDS[:-1])]
        with torch.inference_mode():
            self._run(self.probe(), names, note)
        taps = iter(getattr(self.head, "names", []))  # of the first linear layers
        for name, layer in self.head.named_modules() if self.head else ():
            if isinstance(layer, nn.Linear):
                layers.append((next(taps, f"head.{name}"), "Linear", (layer.out_features,)))
        return layers

    @property
    def provenance(self) -> dict[str, Any]:
        """All that a descriptor depends on besides the image and the recipe, as JSON has it."""
        made_by = {k: getattr(self, k) for k in ("name", "weights_hash", "blocks", "codes")}
        made_by["transform"] = transform_identity(self.transform)
        made_by |= {option: True for option in ("rectify", "trim") if getattr(self, option)}
        if self.dtype != torch.float32:
            made_by["precision"] = str(self.dtype).removeprefix("torch.")
        return made_by


def noise_image() -> Image.Image:
    """Returns an image of seeded noise, to find shapes and faults before any real image."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))


def transform_identity(transform: Transform) -> dict[str, Any]:
    """Identifies a transform by data, as JSON has it: its `repr` and its modules may change.

    Gives {"size", "crop", "interpolation", "mean", "std"} of one like `resize_transform`'s, of any
    other its qualified name and its public attributes. Two functions of one name are the same.
    """
    identity: Any = transform
    match getattr(transform, "transforms", None):
        case [T.Resize() as fit, *crop, T.ToImage(), T.ToDtype() as to, T.Normalize() as norm]:
            options = [fit.max_size, fit.antialias, to.dtype, to.scale, *map(type, crop)]
            usual = [None, True, torch.float32, True]
            if options in (usual, [*usual, T.CenterCrop]):
                identity = {"size": fit.size, "crop": crop[0].size if crop else None}
                identity |= {"interpolation": fit.interpolation, "mean": norm.mean, "std": norm.std}
    return json.loads(json.dumps(identity, default=_identity))


def _identity(thing: Any) -> Any:
    """Stands for a thing that JSON does not know, without its address in memory."""
    if hasattr(thing, "tolist"):  # tensors and arrays
        return thing.tolist()
    if isinstance(thing, Enum | torch.dtype):
        return getattr(thing, "value", str(thing))
    if isinstance(thing, partial):
        return {"name": "functools.partial", "of": [thing.func, thing.args, thing.keywords]}
    if hasattr(thing, "__qualname__"):
        return {"name": f"{thing.__module__}.{thing.__qualname__}"}
    parts = dict(thing.named_children()) if isinstance(thing, nn.Module) else {}
    attributes = getattr(thing, "__dict__", {}).items()  # "training" is nn.Module's
    parts |= {name: value for name, value in attributes if name[0] != "_" and name != "training"}
    return _identity(type(thing)) | parts


def resize_transform(
    size: int = 224,
    crop: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: T.InterpolationMode = T.InterpolationMode.BILINEAR,
) -> Transform:
    """Makes the input transform, an RGB image -> (3, size, size) float: (x / 255 - mean) / std.

    Stretches the image to a square, as the paper's evidence suggests. With `crop`, it goes
    torchvision's way for ImageNet: the shorter side to size * 256 / 224, then the central square.
    """
    side = [size * 256 // 224] if crop else [size, size]
    steps = [T.Resize(side, interpolation), *([T.CenterCrop(size)] if crop else [])]
    steps += [T.ToImage(), T.ToDtype(torch.float32, scale=True)]
    return T.Compose([*steps, T.Normalize(list(mean), list(std))])


def split_transform(transform: Transform) -> tuple[Transform, nn.Module]:
    """Splits a transform into its work on each image and, if it ends as ours, on a batch at once.

    Gives two functions: an RGB image -> (3, H, W) tensor; a batch (B, 3, H, W) of these -> floats,
    bit for bit those of `transform`.
    """
    steps = list(transform.transforms) if isinstance(transform, T.Compose) else []
    match steps[-2:]:
        case [T.ToDtype() as to_float, T.Normalize() as normalize]:
            in_place = T.Normalize(normalize.mean, normalize.std, inplace=True)
            return T.Compose(steps[:-2]), T.Compose([to_float, in_place])
    return transform, nn.Identity()


def to_picture(image: torch.Tensor, transform: Transform | None = None) -> NDArray[np.uint8]:
    """Turns a transformed image, (3, H, W) float, back into a picture, (H, W, 3) uint8.

    Undoes the `Normalize` of the transform that made it, by default ImageNet's.
    """
    steps = [s for s in getattr(transform, "transforms", []) if isinstance(s, T.Normalize)]
    mean, std = (steps[-1].mean, steps[-1].std) if steps else (IMAGENET_MEAN, IMAGENET_STD)
    rgb = image.cpu().permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)  # (H, W, 3)
    return (255 * rgb).round().clamp(0, 255).to(torch.uint8).numpy()


def pick_device(device: Device = "auto") -> torch.device:
    """A torch device by its name; "auto" is the GPU if there is one, else the CPU."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if device == "auto" else device)
