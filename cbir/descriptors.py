"""Eq. 7-16 of the paper as pure functions on tensors.

    d = cbir.describe(net, batch, **cbir.AS_PRINTED)  # d.h, d.eta_conv, d.eta

Letters as in the paper: y, z, w, h, eta_conv (eta tilde), eta, q.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, Unpack, get_args

import torch
import torch.nn.functional as F

from .common import Balance, Counting, Scale, Threshold, check_choice
from .networks import Network

Windows = Sequence[tuple[torch.Tensor, int]]  # from `window_means`


class Recipe(TypedDict, total=False):
    """The options of `conv_descriptor`; those left out are as printed."""

    q: float
    threshold: Threshold
    counting: Counting
    scale: Scale
    balance: Balance


class Descriptors(NamedTuple):
    """`h` (B, D_1 + D_2), `eta_conv` (B, sum C_m) and, from both, `eta`; float32."""

    h: torch.Tensor
    eta_conv: torch.Tensor

    @property
    def eta(self) -> torch.Tensor:
        """Eq. 16: [h, eta_conv], (B, D_1 + D_2 + sum C_m)."""
        return torch.cat([self.h, self.eta_conv], dim=1)


def check_recipe(
    q: float = 0.5,
    threshold: Threshold = "absolute",
    counting: Counting = "count",
    scale: Scale = "mean",
    balance: Balance = "none",
) -> Recipe:
    """Fills in a recipe's defaults. Raises ValueError for a value that is out of range."""
    recipe: Recipe = dict(q=q, threshold=threshold, counting=counting, scale=scale, balance=balance)
    for name, kind in list(Recipe.__annotations__.items())[1:]:
        check_choice(name, recipe.get(name), get_args(kind))
    upper = float("inf") if threshold == "absolute" else 1
    if not 0 <= q <= upper:  # also refuses NaN
        raise ValueError(f"q = {q} is out of range: {threshold} thresholds lie in [0, {upper}]")
    return recipe


AS_PRINTED = check_recipe()
AS_RELEASED = check_recipe(threshold="relative", counting="union", scale="as_released")
UNIT_LENGTH = check_recipe(balance="l2")
RECIPES = {"as_printed": AS_PRINTED, "as_released": AS_RELEASED, "unit_length": UNIT_LENGTH}


def named_recipe(name: str, **changes: Unpack[Recipe]) -> Recipe:
    """Returns a recipe of `RECIPES`, with changes. Raises ValueError like `check_recipe`."""
    check_choice("recipe", name, RECIPES)
    return check_recipe(**RECIPES[name] | changes)


def significant(
    y_N: torch.Tensor, q: float = 0.5, threshold: Threshold = "absolute"
) -> torch.Tensor:
    """Eq. 8: z_{N,k}, which neurons of y_N, (B, C_N, H_N, W_N), are significant: bool.

    "absolute" is y_N >= q, as printed. "relative" is y_N / (its maximum in the image) > q, as
    released; an image without activation has no significant neuron.
    """
    check_recipe(q, threshold)
    if threshold == "absolute":
        return y_N >= q
    return y_N > q * y_N.amax(dim=(1, 2, 3), keepdim=True)


def significance_map(z_N: torch.Tensor, counting: Counting = "count") -> torch.Tensor:
    """Eq. 13 on the last block's grid: how many channels of z_N find a position significant.

    z_N is `significant`'s. "count" is the number of channels, (B, H_N, W_N) int64, as printed;
    "union" whether any does, bool, as released.
    """
    check_recipe(counting=counting)
    return z_N.sum(dim=1) if counting == "count" else z_N.any(dim=1)


def trace(z: torch.Tensor, side: Sequence[int]) -> torch.Tensor:
    """Eq. 11-12: every position of block N marks the rectangle under it in block m.

    No two overlap, so Eq. 13's z_m is the last block's map with every cell repeated: (B, H_N, W_N),
    from `significance_map`, -> (B, H_m, W_m), `side`, of the same dtype.
    """
    rows, cols = window(side, z.shape[1:])
    return z.repeat_interleave(rows, dim=1).repeat_interleave(cols, dim=2)


def window(side: Sequence[int], last: Sequence[int], name: str = "this block") -> tuple[int, int]:
    """Eq. 9-12: (height, width) of the rectangle under a position of block N, or ValueError."""
    rows, cols = side[0] // last[0], side[1] // last[1]
    if (rows * last[0], cols * last[1]) != tuple(side) or rows == 0 or cols == 0:
        hint = f"of the last block's {tuple(last)}; cbir.Network(.., trim=True) cuts what is over"
        raise ValueError(f"{name} is {tuple(side)}: not a whole multiple {hint}")
    return rows, cols


def conv_descriptor(ys: Sequence[torch.Tensor], **recipe: Unpack[Recipe]) -> torch.Tensor:
    """Eq. 8-15: the descriptor eta_conv of the convolutional blocks.

    Eq. 14 sums over block m's fine grid, w_m = sum(z_m * y_m) / sum(z_m). As z_m is constant in
    each window, w_m is also the mean of y_m's window means, weighted by the windows' counts.

    Args:
        ys: [y_1, .., y_N], N >= 1 tensors (B, C_m, H_m, W_m) >= 0. Each side is a whole multiple
            of y_N's.
        q: the threshold's value; default 0.5.
        threshold: "absolute" (the default) or "relative", see `significant`.
        counting: "count" (the default) or "union", see `significance_map`. "union" uses that one
            map for w_N too, where "count" gives each channel its own z_{N,k}.
        scale: "mean" (the default) is Eq. 14. "as_released" multiplies w_m by s_m^2 / C_m, where
            s_m is the window's side in block m.
        balance: "none" (the default) joins the w_m as they are. "l1" and "l2" divide each by its
            norm, if that is not 0. (`describe` and `extract` do the same to the codes.)

    Returns:
        (B, sum C_m) of y_N's dtype, at least float32. A channel (for "union" an image) without
        significant neurons gives 0.

    Raises:
        ValueError: sides that do not divide, or a recipe without meaning.
    """
    return weigh(window_means(ys), **recipe)


def window_means(ys: Sequence[torch.Tensor]) -> Windows:
    """Averages every block over the windows of Eq. 11-12, which serves all recipes.

    Returns [((B, C_m, H_N, W_N), cells per window), ..], y_N last with windows of one cell.
    """
    grid = ys[-1].shape[-2:]
    return [window_mean(y, grid, f"block {m}") for m, y in enumerate(ys, start=1)]


def window_mean(y: torch.Tensor, grid: Sequence[int], name: str) -> tuple[torch.Tensor, int]:
    """Computes one block of `window_means`, at least float32; grid: (H_N, W_N)."""
    rows, cols = window(y.shape[-2:], grid, name)
    mean = F.avg_pool2d(y, (rows, cols)) if rows * cols > 1 else y
    return mean.to(torch.promote_types(mean.dtype, torch.float32)), rows * cols


def forward_windows(net: Network, batch: torch.Tensor) -> tuple[Windows, list[torch.Tensor]]:
    """Computes `window_means` and the codes in one pass, which keeps no block but the last."""
    ys, codes = net(batch, reduce=window_mean)
    means: list[Any] = ys[:-1]
    return [*means, window_mean(ys[-1], ys[-1].shape[-2:], "the last block")], codes


def split_windows(windows: torch.Tensor, blocks: Sequence[tuple[int, ...]]) -> Windows:
    """Restores `window_means` from the flat rows that the extra "windows" of a store keeps.

    (B, sum C_m * H_N * W_N), and the blocks' shapes [(C_1, H_1, W_1), .., (C_N, H_N, W_N)].
    """
    _, height, width = blocks[-1]
    maps = windows.reshape(len(windows), -1, height, width)
    by_block = maps.split([channels for channels, _, _ in blocks], dim=1)
    return [(y, h * w // (height * width)) for y, (_, h, w) in zip(by_block, blocks)]


def weigh(means: Windows, **recipe: Unpack[Recipe]) -> torch.Tensor:
    """Eq. 8 and 13-15 on `window_means`, (B, sum C_m): the second half of `conv_descriptor`."""
    recipe = check_recipe(**recipe)
    z_N = significant(means[-1][0], recipe["q"], recipe["threshold"])  # (B, C_N, H_N, W_N)
    return weigh_by(z_N, means, **recipe)


def weigh_by(z_N: torch.Tensor, means: Windows, **recipe: Unpack[Recipe]) -> torch.Tensor:
    """Eq. 13-15, (B, sum C_m), for any selection of neurons: z_N (B, C_N, H_N, W_N) bool.

    Of the recipe only counting, scale and balance matter.
    """
    recipe = check_recipe(**recipe)
    *earlier, (y_N, _) = means
    z_N = z_N.to(y_N.dtype)
    z = significance_map(z_N, recipe["counting"]).to(y_N.dtype)  # (B, H_N, W_N)
    z = z / z.sum(dim=(1, 2), keepdim=True).clamp_min(1)  # Eq. 14's division; 0 / 0 is 0
    ws = [torch.einsum("bij,bkij->bk", z, y) for y, _ in earlier]  # (B, C_m)
    if recipe["counting"] == "union":
        w_N = torch.einsum("bij,bkij->bk", z, y_N)
    else:  # channel k over its own z_{N,k}
        w_N = (y_N * z_N).sum(dim=(2, 3)) / z_N.sum(dim=(2, 3)).clamp_min(1)
    if recipe["scale"] == "as_released":
        ws = [w * (cells / w.shape[1]) for w, (_, cells) in zip(ws, earlier)]
        w_N = w_N / w_N.shape[1]
    return torch.cat(balanced([*ws, w_N], recipe["balance"]), dim=1)  # Eq. 15


def balanced(parts: Sequence[torch.Tensor], balance: Balance) -> list[torch.Tensor]:
    """Divides every part of a descriptor, (B, D), by its L1 or L2 norm; "none" leaves it."""
    if balance == "none":
        return list(parts)
    return [F.normalize(part, p=1 if balance == "l1" else 2, dim=1) for part in parts]


def describe(net: Network, batch: torch.Tensor, **recipe: Unpack[Recipe]) -> Descriptors:
    """Eq. 7-16 in one forward pass.

    Example:
        >>> net = cbir.load_network()
        >>> batch = torch.stack([net.transform(image) for image in images])
        >>> cbir.describe(net, batch, **cbir.AS_RELEASED).eta.shape
        torch.Size([2, 1208])

    `batch` is (B, 3, H, W), transformed images; the recipe as in `conv_descriptor`.
    """
    means, codes = forward_windows(net, batch)
    eta_conv = weigh(means, **recipe)
    return Descriptors(join(codes, eta_conv, recipe.get("balance", "none")), eta_conv)


def join(codes: Sequence[torch.Tensor], like: torch.Tensor, balance: Balance) -> torch.Tensor:
    """Eq. 7: h = [y_{N+1}, y_{N+2}], (B, D_1 + D_2), of `like`'s dtype; without codes (B, 0)."""
    if not codes:
        return like.new_zeros(len(like), 0)
    return torch.cat(balanced([code.to(like.dtype) for code in codes], balance), dim=1)
