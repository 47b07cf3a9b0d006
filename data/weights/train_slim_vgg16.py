"""Trains the slim network, "embedded": a slim VGG16, on the object class of rendered scenes alone.

notebooks/appendix/slim_network.ipynb calls `train_slim_vgg16` where its parameter `train` is set.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from cbir.networks import IMAGENET_MEAN, IMAGENET_STD, Device, pick_device
from cbir.zoo import slim_vgg16

sys.path.append(str(Path(__file__).resolve().parents[1] / "scenes"))
from make_scenes import CLASSES, render_scenes, sample_scenes

HALF_SIZE_SHARE = 0.7  # of the epochs, which see the scenes at half their size


def train_slim_vgg16(
    n_scenes: int = 3000,
    n_validation: int = 300,
    epochs: int = 8,
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    device: Device = "auto",
) -> tuple[nn.Sequential, pd.DataFrame]:
    """Trains the slim network from scratch on scenes that it renders.

    Augmentation: mirror images. Palettes are drawn independently of the class, so colours do not
    give it away. The first epochs see the scenes at half their size, which costs a quarter
    of the time (progressive resizing); validation is at full size throughout. Cross-entropy, AdamW,
    one-cycle schedule, and batch norms, which are folded into the convolutions at the end.

    Args:
        n_scenes: of the split "training".
        n_validation: of the split "validation".
        epochs: passes over the training scenes.
        batch_size: scenes per step.
        lr: the highest learning rate.
        seed: of the scenes, the first weights and the order.
        device: as in `load_network`.

    Returns:
        The model, and a table with a row per epoch: epoch, loss, accuracy on the validation scenes.
    """
    device = pick_device(device)
    images, labels = _load_scenes(n_scenes, seed, "training")
    held_out = _load_scenes(n_validation, seed, "validation")
    torch.manual_seed(seed)
    model = slim_vgg16(len(CLASSES), batch_norm=True)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.02)
    steps = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
    history: list[dict[str, Any]] = []
    with tqdm(total=epochs * steps * batch_size, desc="training", unit=" images") as bar:
        for epoch in range(1, epochs + 1):
            model.train()
            losses = []
            shuffled = torch.randperm(len(images))[: steps * batch_size]
            for rows in shuffled.split(batch_size):
                x = augment(to_batch(images[rows.numpy()], device))  # (B, 3, H, W)
                if epoch <= HALF_SIZE_SHARE * epochs:
                    x = nn.functional.avg_pool2d(x, 2)
                loss = nn.functional.cross_entropy(model(x), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.update(batch_size)
            right = accuracy(model, *held_out)
            history.append({"epoch": epoch, "loss": np.mean(losses), "accuracy": right})
            bar.set_postfix(history[-1])
    return fold_batch_norm(model), pd.DataFrame(history)


def accuracy(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: ArrayLike | torch.Tensor,
    batch_size: int = 64,
) -> float:
    """Measures the share of images that a model gives their label.

    Args:
        model: the classifier; it is put in evaluation mode.
        images: (n, H, W, 3) uint8.
        labels: (n,) int.
        batch_size: images in a forward pass.

    Returns:
        The share, 0 to 1.
    """
    model.eval()
    device = next(model.parameters()).device
    answers = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = to_batch(images[start : start + batch_size], device)
            answers.append(model(batch).argmax(1).cpu())
    right = torch.cat(answers) == torch.as_tensor(labels)
    return float(right.sum() / len(images))


def fold_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """Folds each batch norm of a `slim_vgg16` into the convolution before it.

    Args:
        model: it is changed.

    Returns:
        The model: the same function, in VGG16's plain layout.
    """
    features: Any = model.eval().features
    plain: list[Any] = []
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            plain[-1] = fuse_conv_bn_eval(plain[-1], layer)
        else:
            plain.append(layer)
    model.features = nn.Sequential(*plain)
    return model


def to_batch(images: NDArray[np.uint8], device: Device = "cpu") -> torch.Tensor:
    """Normalises pictures as `resize_transform` does.

    Args:
        images: (n, H, W, 3) uint8.
        device: where the batch goes.

    Returns:
        The batch, (n, 3, H, W) float.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    x = x.permute(0, 3, 1, 2).float() / 255  # (n, 3, H, W)
    return normalize(x, IMAGENET_MEAN, IMAGENET_STD).contiguous(memory_format=torch.channels_last)


def augment(x: torch.Tensor) -> torch.Tensor:
    """Mirrors images at random, one in two.

    Args:
        x: (n, 3, H, W).

    Returns:
        The images, (n, 3, H, W).
    """
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x).contiguous(memory_format=torch.channels_last)


def _load_scenes(n: int, seed: int, split: str) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """Pictures (n, 224, 224, 3) and the numbers of their classes (n,)."""
    scenes = sample_scenes(n, seed, split)
    blocks = []
    for start in tqdm(range(0, n, 64), desc=f"{split} scenes", unit=" blocks"):
        blocks.append(render_scenes(scenes[start : start + 64]))
    return np.concatenate(blocks), torch.tensor([CLASSES.index(c) for c in scenes["class"]])
