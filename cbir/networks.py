"""A convolutional network as the paper sees it: block outputs y_1..y_N and codes y_{N+1}, y_{N+2}.

`Network` makes one of any torch module, by the names of its submodules. zoo.py has those that are
known by name.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import cached_property, partial
from typing import Any, NamedTuple, Self, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2 as T

from .common import did_you_mean

Device = str | torch.device
Transform = Callable[[Image.Image], torch.Tensor]  # RGB -> (3, H, W) float
Note = Callable[[str, nn.Module, Any, torch.Tensor], None]  # name, submodule, its inputs, output
Reduce = Callable[[torch.Tensor, Sequence[int], str], Any]  # y_m, (H_N, W_N), "block m"
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
LAYERS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class Activations(NamedTuple):
    """One pass: ys = [y_1..y_N], each (B, C_m, H_m, W_m); codes = [y_{N+1}, ..], each (B, D)."""

    ys: list[torch.Tensor]
    codes: list[torch.Tensor]


class Shapes(TypedDict):
    """Shapes for one image: blocks [(C_1, H_1, W_1), ..] and codes [D_1, ..]."""

    blocks: list[tuple[int, ...]]
    codes: list[int]


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
        rectify: sets negative values of blocks to 0, if they do not end in a ReLU (residual sums,
            SiLU, GELU): the method counts active neurons. Codes stay: L1 needs no sign.
        trim: cuts the last rows and columns of blocks, down to a whole multiple of the last one's.
            Position i of an unpadded stride-2 pool begins at position 2i of its input, so that the
            squares of Eq. 11-12 stay where they belong.
        head: makes more codes of y_N, (B, C_N, H_N, W_N) -> [(B, D), ..], named by its `names`:
            what `train_codes` trains.

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
        missing = [n for n in [*blocks, *codes] if n not in known]
        if missing:
            raise ValueError(
                f"no such submodule: {missing}{did_you_mean(missing[0], known)}; this network has "
                f"e.g. {[n for n in known if n][:8]}: module.named_modules() gives all"
            )
        if not blocks:
            raise ValueError(
                "a network needs at least one block: name the submodules whose outputs are y_1..y_N"
            )
        # channels_last: 1.4x on CPUs, and what GPUs prefer
        self.module = module.eval().to(memory_format=torch.channels_last)
        self.blocks = list(blocks)
        self.tapped_codes = list(codes)
        self.head = head.eval() if head else None
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
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next((p.dtype for p in self.module.parameters()), torch.float32)

    def to(self, device: Device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the network to a device, its weights to a dtype, and returns it."""
        for module in filter(None, [self.module, self.head]):
            module.to(device=device, dtype=dtype)
        self.__dict__.pop("weights_hash", None)
        return self

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor, reduce: Reduce | None = None) -> Activations:
        """Runs one forward pass without gradients.

        Args:
            batch: (B, 3, H, W) float.
            reduce: applied to every block except the last as soon as it is computed; `ys` holds
                its results, so that the large maps are freed during the pass.

        Raises:
            ValueError: the pass does not reach a submodule.
        """
        size = batch.shape[1:]
        if size not in self._looked_ahead:
            self._looked_ahead[size] = self._look_ahead(batch[:1])
        overwritten, grid = self._looked_ahead[size]
        ys: dict[str, Any] = {}
        codes: dict[str, torch.Tensor] = {}

        def keep(name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            if name in self.blocks:
                y = output.clamp_min(0) if self.rectify else output
                if self.trim:  # a block smaller than the last stays, to be refused later
                    rows, columns = (n // unit * unit or n for n, unit in zip(y.shape[-2:], grid))
                    y = y[..., :rows, :columns]
                if reduce and name != self.blocks[-1]:
                    ys[name] = reduce(y, grid, f"block {self.blocks.index(name) + 1}")
                else:
                    ys[name] = y.clone() if name in overwritten else y
            if name in self.tapped_codes:
                codes[name] = (output.clone() if name in overwritten else output).flatten(1)

        self._run(batch, [*self.blocks, *self.tapped_codes], keep)
        by_head = self.head(ys[self.blocks[-1]]) if self.head else []
        tapped = [codes[name] for name in self.tapped_codes]  # (B, D) each
        return Activations([ys[name] for name in self.blocks], tapped + by_head)

    def with_head(self, head: nn.Module | None) -> "Network":
        """Returns the same blocks with the codes of a head instead of their own; None: no codes."""
        options = (self.transform, self.name, self.rectify, self.trim)
        return Network(self.module, self.blocks, (), *options, head)

    def _run(self, batch: torch.Tensor, names: Iterable[str], note: Note) -> None:
        """Runs a forward pass in which every named submodule reports its output."""
        batch = batch.to(self.device, self.dtype, non_blocking=True)
        known = dict(self.module.named_modules())
        # one hook per submodule, even if it is both a block and a code
        hooks = [known[n].register_forward_hook(partial(note, n)) for n in dict.fromkeys(names)]
        try:
            self.module(batch.to(memory_format=torch.channels_last))
        finally:
            for hook in hooks:
                hook.remove()

    def _look_ahead(self, batch: torch.Tensor) -> tuple[set[str], torch.Size]:
        """Runs one image to find the taps that a later in-place layer overwrites, and y_N's sides.

        Such taps must be cloned: an in-place ReLU would reach into them.
        """
        taps: dict[str, tuple[torch.Tensor, int]] = {}
        names = [*self.blocks, *self.tapped_codes]

        def keep(name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            taps[name] = (output, output._version)

        with torch.inference_mode(False), torch.no_grad():  # inference mode counts no versions
            self._run(batch.clone(), names, keep)
        silent = [name for name in names if name not in taps]
        if silent:
            raise ValueError(f"no forward pass reaches these submodules: {silent}; name others")
        overwritten = {name for name, (y, version) in taps.items() if y._version != version}
        return overwritten, taps[self.blocks[-1]][0].shape[-2:]

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the names, shapes and bytes of all parameters and buffers, 64 hex digits."""
        digest = hashlib.sha256()
        tensors = self.module.state_dict()
        if self.head:
            tensors |= self.head.state_dict(prefix="head.")
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def probe(self) -> torch.Tensor:
        """Returns a transformed noise image, (1, 3, H, W), used to find output shapes."""
        return self.transform(noise_image())[None]

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes for one image: {"blocks": [(C_1, H_1, W_1), ..], "codes": [D_1, ..]}.

        Raises:
            ValueError: a block gives no maps, or negative ones, as before a ReLU; or an output is
                not finite, as with weights that lack a layer.
        """
        ys, codes = self(self.probe())
        for name, y in zip(self.blocks, ys):
            if y.ndim != 4:
                raise ValueError(
                    f"block {name!r} gives {tuple(y.shape)}, not maps (B, C, H, W): "
                    "name it in `codes`, or a layer before it"
                )
            if y.min() < 0:
                raise ValueError(
                    f"block {name!r} gives negative activations: "
                    "tap it after its ReLU, or pass rectify=True"
                )
        for name, output in zip([*self.blocks, *self.codes], [*ys, *codes]):
            if not output.isfinite().all():
                raise ValueError(
                    f"{name!r} of {self.name!r} gives values that are not finite: its weights are "
                    "damaged or lack this layer (IMAGENET1K_FEATURES has convolutions only: use "
                    "'vgg16_conv')"
                )
        return Shapes(blocks=[tuple(y.shape[1:]) for y in ys], codes=[c.shape[1] for c in codes])

    @cached_property
    def layers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Every convolution, pooling and linear layer in the order they run.

        A layer is its name, its class's name and the shape of its output for one image. If a tap
        point follows a layer (its ReLU, its residual sum), the layer bears the tap's name.
        """
        taps = {*self.blocks, *self.tapped_codes}
        layers: list[tuple[str, str, tuple[int, ...]]] = []

        def note(name: str, module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            shape = tuple(output.shape[1:])
            kinds = [kind.__name__ for kind in LAYERS if isinstance(module, kind)]
            if isinstance(module, nn.AdaptiveAvgPool2d) and name not in taps:
                return  # VGG's does nothing at its own input size
            if kinds or not layers or layers[-1][0] in taps:
                layers.append((name, [*kinds, type(module).__name__][0], shape))
            else:
                layers[-1] = (name, layers[-1][1], shape)

        modules = self.module.named_modules()
        names = [name for name, module in modules if isinstance(module, LAYERS) or name in taps]
        with torch.inference_mode():
            self._run(self.probe(), names, note)
        for name, layer in self.head.named_modules() if self.head else ():
            if isinstance(layer, nn.Linear):
                layers.append((f"head.{name}", "Linear", (layer.out_features,)))
        return layers

    @property
    def provenance(self) -> dict[str, Any]:
        """All that a descriptor depends on besides the image and the recipe, as JSON has it."""
        provenance: dict[str, Any] = {
            "name": self.name,
            "weights_hash": self.weights_hash,
            "blocks": self.blocks,
            "codes": self.codes,
            "transform": transform_identity(self.transform),
        }
        provenance |= {option: True for option in ("rectify", "trim") if getattr(self, option)}
        if self.dtype != torch.float32:
            provenance["precision"] = str(self.dtype).removeprefix("torch.")
        return provenance


def noise_image() -> Image.Image:
    """Returns an image of seeded noise, to find shapes and faults before any real image."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))


def transform_identity(transform: Transform) -> dict[str, Any]:
    """Identifies a transform by data, as JSON has it: its `repr` and its modules may change.

    Returns:
        {"size", "crop", "interpolation", "mean", "std"} of one like `resize_transform`'s; of any
        other its qualified name and its public attributes, steps among them. Two functions of one
        name are the same.
    """
    identity: Any = transform
    match getattr(transform, "transforms", None):
        case [
            T.Resize(max_size=None, antialias=True) as resize,
            *crop,
            T.ToImage(),
            T.ToDtype(dtype=torch.float32, scale=True),
            T.Normalize(mean=mean, std=std),
        ] if [type(step) for step in crop] in ([], [T.CenterCrop]):
            cropped = crop[0].size if crop else None
            identity = {"size": resize.size, "crop": cropped, "mean": mean, "std": std}
            identity["interpolation"] = resize.interpolation
    return json.loads(json.dumps(identity, default=_identity))


def _identity(thing: Any) -> Any:
    """Stands for a thing that JSON does not know, without its address in memory."""
    if hasattr(thing, "tolist"):  # tensors and arrays
        return thing.tolist()
    if isinstance(thing, Enum):
        return thing.value
    if isinstance(thing, torch.dtype):
        return str(thing)
    if isinstance(thing, partial):
        return {"name": "functools.partial", "of": [thing.func, thing.args, thing.keywords]}
    if hasattr(thing, "__qualname__"):
        return {"name": f"{thing.__module__}.{thing.__qualname__}"}
    parts = dict(thing.named_children()) if isinstance(thing, nn.Module) else {}
    parts |= {k: v for k, v in getattr(thing, "__dict__", {}).items() if k[0] != "_"}
    parts.pop("training", None)  # nn.Module's
    return _identity(type(thing)) | parts


def resize_transform(
    size: int = 224,
    crop: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: T.InterpolationMode = T.InterpolationMode.BILINEAR,
) -> Transform:
    """Makes the input transform: (x / 255 - mean) / std per channel.

    Args:
        size: side of the result.
        crop: False stretches the image to a square, as the paper's evidence suggests. True is
            torchvision's way for ImageNet: the shorter side to size * 256 / 224, then the central
            square.
        mean: three numbers, by default ImageNet's.
        std: three numbers, by default ImageNet's.
        interpolation: of the resize.

    Returns:
        A function: RGB image -> (3, size, size) float tensor.
    """
    if crop:
        resize = [T.Resize(size * 256 // 224, interpolation), T.CenterCrop(size)]
    else:
        resize = [T.Resize((size, size), interpolation)]
    to_float = [T.ToImage(), T.ToDtype(torch.float32, scale=True)]
    return T.Compose([*resize, *to_float, T.Normalize(list(mean), list(std))])


def split_transform(
    transform: Transform,
) -> tuple[Transform, Callable[[torch.Tensor], torch.Tensor]]:
    """What a transform does with each image by itself, and what it can do with a batch at once.

    Args:
        transform: any; of one that ends as `resize_transform` does, floats are made of a batch.

    Returns:
        Two functions: an RGB image -> (3, H, W) tensor; a batch (B, 3, H, W) of these -> floats,
        bit for bit those of `transform`.
    """
    steps = list(transform.transforms) if isinstance(transform, T.Compose) else []
    match steps[-2:]:
        case [T.ToDtype() as to_float, T.Normalize() as normalize]:
            in_place = T.Normalize(normalize.mean, normalize.std, inplace=True)
            return T.Compose(steps[:-2]), T.Compose([to_float, in_place])
    return transform, nn.Identity()


def to_picture(image: torch.Tensor, transform: Transform | None = None) -> NDArray[np.uint8]:
    """Shows what the network saw.

    Args:
        image: one transformed image, (3, H, W) float.
        transform: the one that made it, whose `Normalize` is undone; default ImageNet's.

    Returns:
        The picture, (H, W, 3) uint8.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    for step in getattr(transform, "transforms", []):
        if isinstance(step, T.Normalize):
            mean, std = step.mean, step.std
    rgb = image.cpu().permute(1, 2, 0) * torch.tensor(std) + torch.tensor(mean)  # (H, W, 3)
    return (255 * rgb).round().clamp(0, 255).to(torch.uint8).numpy()


def pick_device(device: Device = "auto") -> torch.device:
    """A torch device by its name; "auto" is the GPU where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
