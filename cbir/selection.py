"""What a selection of neurons z_N holds: how much, where, and what is left without it."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .descriptors import Windows, split_windows
from .store import Store

BATCH = 64  # images at a time


def elsewhere(z_N: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random selection of the same size: the same neurons at other positions.

    The positions of an image change places, in all channels alike. So every channel and every
    position has as many neurons as one had before.

    Args:
        z_N: (B, C_N, H_N, W_N) bool.
        seed: of the places; image b's do not depend on B.

    Returns:
        (B, C_N, H_N, W_N) bool.
    """
    rng = np.random.default_rng(seed)
    flat = z_N.flatten(2)  # (B, C_N, H_N * W_N)
    moved = [image[:, torch.from_numpy(rng.permutation(image.shape[1]))] for image in flat]
    return torch.stack(moved).view(z_N.shape)


def amounts(z_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much is selected.

    Args:
        z_N: (B, C_N, H_N, W_N) bool.

    Returns:
        The share of the neurons that are selected, and the share of the positions where at least
        one is, both (B,) float.
    """
    neurons = z_N.float().mean(dim=(1, 2, 3))
    positions = z_N.any(dim=1).float().mean(dim=(1, 2))
    return neurons, positions


def weight_on(z: torch.Tensor, mask: NDArray[np.floating]) -> torch.Tensor:
    """The share of Eq. 13's map z that lies on an object.

    Args:
        z: (B, H_N, W_N), what `significance_map` gives.
        mask: (B, H, W) from 0 to 1, how much of every pixel the object covers.

    Returns:
        (B,) float; NaN where nothing is selected.
    """
    covered = F.adaptive_avg_pool2d(torch.as_tensor(mask)[:, None], (z.shape[1], z.shape[2]))[:, 0]
    return (z * covered).sum(dim=(1, 2)) / z.sum(dim=(1, 2))


def last_block(store: Store, rows: slice = slice(None)) -> torch.Tensor:
    """y_N of a store's images, from its extra "windows": (n, C_N, H_N, W_N) float32."""
    shape = store.dims["blocks"][-1]
    windows = store.read("windows", rows)[:, -math.prod(shape) :]
    return torch.from_numpy(np.ascontiguousarray(windows)).view(-1, *shape)


def describe_by(
    store: Store, selections: Mapping[str, Callable[[Windows], torch.Tensor]]
) -> dict[str, NDArray[np.float32]]:
    """Descriptors of a store's images by any function of the window means.

    Args:
        store: one with the extra "windows".
        selections: {name: function}, from `Windows` of B images to (B, D).

    Returns:
        {name: (N, D) float32}; rows of NaN for unreadable images.
    """
    pieces: dict[str, list[NDArray[np.float32]]] = {name: [] for name in selections}
    for start in range(0, len(store), BATCH):
        windows = torch.from_numpy(store.read("windows", slice(start, start + BATCH)))
        means = split_windows(windows, store.dims["blocks"])
        for name, function in selections.items():
            pieces[name].append(function(means).float().numpy())
    return {name: np.concatenate(rows) for name, rows in pieces.items()}
