"""Eq. 7-16 of the paper as pure functions on tensors. Letters as in the paper: y, z, w, h, eta_conv (eta tilde), eta, q."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack, get_args

import torch
import torch.nn.functional as F

from .common import Counting, Scale, Threshold, unknown_choice
from .networks import Network


class Recipe(TypedDict, total=False):
    """How a descriptor is made; what is left out is as printed in the paper. See `conv_descriptor`."""

    q: float
    threshold: Threshold
    counting: Counting
    scale: Scale


Windows = Sequence[tuple[torch.Tensor, int]]  # what `window_means` gives

AS_PRINTED: Recipe = {"q": 0.5, "threshold": "absolute", "counting": "count", "scale": "mean"}
AS_RELEASED: Recipe = {"q": 0.5, "threshold": "relative", "counting": "union", "scale": "as_released"}
RECIPES = {"as_printed": AS_PRINTED, "as_released": AS_RELEASED}


class Descriptors(NamedTuple):
    """`h` (B, D_1 + D_2), `eta_conv` (B, sum C_m) and, from both, `eta`; float32."""

    h: torch.Tensor
    eta_conv: torch.Tensor

    @property
    def eta(self) -> torch.Tensor:
        """Eq. 16: [h, eta_conv], (B, D_1 + D_2 + sum C_m)."""
        return torch.cat([self.h, self.eta_conv], dim=1)


def named_recipe(name: str, **changes: Unpack[Recipe]) -> Recipe:
    """A recipe of `RECIPES` by its name, with some of its values changed. Raises ValueError like `check_recipe`."""
    if name not in RECIPES:
        raise ValueError(unknown_choice("recipe", name, RECIPES))
    return check_recipe(**RECIPES[name] | changes)


def check_recipe(q: float = 0.5, threshold: Threshold = "absolute", counting: Counting = "count", scale: Scale = "mean") -> Recipe:
    """The recipe as a dict, its defaults (the paper as printed) filled in; ValueError for a value that has no meaning."""
    for name, value, known in [("threshold", threshold, get_args(Threshold)), ("counting", counting, get_args(Counting)), ("scale", scale, get_args(Scale))]:
        if value not in known:
            raise ValueError(unknown_choice(name, value, known))
    upper = float("inf") if threshold == "absolute" else 1
    if not 0 <= q <= upper:  # also refuses NaN
        raise ValueError(f"q = {q} is out of range: an {threshold} threshold lies in [0, {upper}]")
    return {"q": q, "threshold": threshold, "counting": counting, "scale": scale}


def significant(y_N: torch.Tensor, q: float = 0.5, threshold: Threshold = "absolute") -> torch.Tensor:
    """Eq. 8: z_{N,k}, which neurons of the last block are significant. (B, C_N, H_N, W_N) -> bool of the same shape.

    "absolute": y_N >= q, as printed. "relative": y_N over its maximum in the image > q, as released; an image without
    any activation has no significant neuron.
    """
    check_recipe(q, threshold)
    if threshold == "absolute":
        return y_N >= q
    return y_N > q * y_N.amax(dim=(1, 2, 3), keepdim=True)


def significance_map(z_N: torch.Tensor, counting: Counting = "count") -> torch.Tensor:
    """Eq. 13 on the last block's grid: how many channels find (i, j) significant. (B, C_N, H_N, W_N) -> (B, H_N, W_N).

    "count": the number of channels, as printed. "union": 1 where any channel does, as released.
    """
    check_recipe(counting=counting)
    return z_N.sum(dim=1) if counting == "count" else z_N.any(dim=1)


def trace(z: torch.Tensor, side: Sequence[int]) -> torch.Tensor:
    """Eq. 11-12: a significant (i, j) of block N marks the square under it in block m. (B, H_N, W_N) -> (B, *side).

    As no two squares overlap, Eq. 13's z_m is the map on the last block's grid with every cell repeated.
    """
    rows, cols = window(side, z.shape[1:])
    return z.repeat_interleave(rows, dim=1).repeat_interleave(cols, dim=2)


def window(side: Sequence[int], last: Sequence[int], name: str = "this block") -> tuple[int, int]:
    """Eq. 9-12: height and width of the square (rectangle) under one position of the last block. ValueError where it is not whole."""
    rows, cols = side[0] // last[0], side[1] // last[1]
    if (rows * last[0], cols * last[1]) != tuple(side) or not rows or not cols:
        raise ValueError(f"{name} is {tuple(side)}: not a whole multiple of the last block's {tuple(last)}; "
                         "cbir.Network(.., trim=True) leaves out the rows and columns that are over")
    return rows, cols


def conv_descriptor(ys: Sequence[torch.Tensor], q: float = 0.5, threshold: Threshold = "absolute",
                    counting: Counting = "count", scale: Scale = "mean") -> torch.Tensor:
    """Eq. 8-15: the descriptor eta_conv of the convolutional blocks.

    ys: [y_1..y_N], N >= 1 tensors (B, C_m, H_m, W_m), non-negative, each side a whole multiple of y_N's.
    q, threshold: which neurons of y_N are significant, see `significant`.
    counting: how channels add up in z_m, see `significance_map`; "union" uses that one map for w_N too.
    scale: "mean" is Eq. 14; "as_released" multiplies w_m by s_m^2 / C_m, where s_m is the side of the window in block m.
    Returns (B, sum C_m) of y_N's dtype, at least float32. A channel (for "union" an image) without significant neurons gives 0.
    Raises ValueError for sides that do not divide and for recipes that have no meaning.

    Eq. 14's sum over the fine grid, w_m = sum(z_m * y_m) / sum(z_m), is computed on the coarse one: z_m is constant over
    each window, so w_m is the mean of y_m's window means, weighted by the window's count.
    """
    return weigh(window_means(ys), q, threshold, counting, scale)


def window_means(ys: Sequence[torch.Tensor]) -> Windows:
    """Each block's mean over the windows of Eq. 11-12: [((B, C_m, H_N, W_N), cells of a window), ..], y_N last with windows of one cell.

    All that the recipes have in common, and all of their cost. Half-precision activations go on as float32: counts need it.
    """
    last = ys[-1].shape[-2:]
    sides = [window(y.shape[-2:], last, f"block {m}") for m, y in enumerate(ys, start=1)]
    means = [F.avg_pool2d(y, side) if side != (1, 1) else y for y, side in zip(ys, sides)]
    return [(y.float() if y.dtype in (torch.float16, torch.bfloat16) else y, rows * cols) for y, (rows, cols) in zip(means, sides)]


def weigh(means: Windows, q: float = 0.5, threshold: Threshold = "absolute", counting: Counting = "count", scale: Scale = "mean") -> torch.Tensor:
    """Eq. 8 and 13-15 on the `window_means` of some blocks: `conv_descriptor`'s second half, the same for any number of recipes."""
    check_recipe(q, threshold, counting, scale)
    *earlier, (y_N, _) = means
    z_N = significant(y_N, q, threshold).to(y_N.dtype)                  # (B, C_N, H_N, W_N); sums of bool take longer
    z = significance_map(z_N, counting).to(y_N.dtype)                   # (B, H_N, W_N)
    z = z / z.sum(dim=(1, 2), keepdim=True).clamp_min(1)                # Eq. 14's division; 0 / 0 is 0
    ws = []
    for y, cells in earlier:
        w = torch.einsum("bij,bkij->bk", z, y)                          # (B, C_m)
        ws.append(w * (cells / y.shape[1]) if scale == "as_released" else w)
    if counting == "union":
        w_N = torch.einsum("bij,bkij->bk", z, y_N)
    else:                                                               # channel k over its own z_{N,k}
        w_N = (y_N * z_N).sum(dim=(2, 3)) / z_N.sum(dim=(2, 3)).clamp_min(1)
    ws.append(w_N / y_N.shape[1] if scale == "as_released" else w_N)
    return torch.cat(ws, dim=1)                                         # Eq. 15


def describe(net: Network, batch: torch.Tensor, **recipe: Unpack[Recipe]) -> Descriptors:
    """Eq. 7-16 for a batch (B, 3, H, W) of transformed images: `Descriptors` on the network's device, one forward pass."""
    ys, codes = net(batch)
    eta_conv = conv_descriptor(ys, **recipe)
    return Descriptors(join(codes, eta_conv), eta_conv)


def join(codes: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Eq. 7: h = [y_{N+1}, y_{N+2}], (B, D_1 + D_2), of the dtype and device of `like` (B, ..); (B, 0) for a network without codes."""
    return torch.cat(codes, dim=1).to(like.dtype) if codes else like.new_zeros(len(like), 0)
