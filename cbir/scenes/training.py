"""Training the embedded network: VGG16's layout at an eighth of the width, on the object class of rendered scenes alone."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm

from ..common import Split
from ..networks import IMAGENET_MEAN, IMAGENET_STD, pick_device
from ..zoo import slim_vgg16
from .catalog import CLASSES, render, sample_scenes


def train_slim_vgg16(n_scenes: int = 3000, n_validation: int = 300, epochs: int = 10, batch_size: int = 32, lr: float = 2e-3, seed: int = 0,
                     device: str | torch.device = "auto") -> tuple[nn.Sequential, pd.DataFrame]:
    """Train the embedded network from scratch: (model, history).

    Renders its own scenes (splits "training" and "validation"). Augmentation: mirror images, and any order of the three colour
    channels, so that a class is not known by its colours. The first 70 % of the epochs see the scenes at half their size, which
    costs a quarter of the time (progressive resizing); validation is at full size throughout. Cross-entropy, AdamW, one-cycle
    schedule, batch norm while training; the model returned has its batch norms folded into the convolutions.
    history: DataFrame with epoch, loss and the accuracy on the validation scenes.
    """
    device = pick_device(device)
    images, labels = _scenes(n_scenes, seed, "training")
    held_out = _scenes(n_validation, seed, "validation")
    torch.manual_seed(seed)
    model = slim_vgg16(len(CLASSES), batch_norm=True).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.02)
    steps = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
    history = []
    with tqdm(total=epochs * steps * batch_size, desc="training", unit=" images") as bar:
        for epoch in range(1, epochs + 1):
            model.train()
            losses = []
            for rows in torch.randperm(len(images))[:steps * batch_size].split(batch_size):
                x = augment(to_batch(images[rows.numpy()], device))
                x = nn.functional.avg_pool2d(x, 2) if epoch <= 0.7 * epochs else x
                loss = nn.functional.cross_entropy(model(x), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.update(batch_size)
            history.append({"epoch": epoch, "loss": np.mean(losses), "accuracy": accuracy(model, *held_out)})
            bar.set_postfix(history[-1])
    return fold_batch_norm(model), pd.DataFrame(history)


def accuracy(model: nn.Module, images: NDArray[np.uint8], labels: ArrayLike | torch.Tensor, batch_size: int = 64) -> float:
    """Share of images (n, H, W, 3) uint8 that the model, put in evaluation mode, gives their label (n,) int."""
    model.eval()
    device = next(model.parameters()).device
    labels = torch.as_tensor(labels)
    with torch.inference_mode():
        right = [(model(to_batch(images[i:i + batch_size], device)).argmax(1).cpu() == labels[i:i + batch_size]).sum()
                 for i in range(0, len(images), batch_size)]
    return float(sum(right) / len(images))


def fold_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """The same function without batch norms: each is folded into the convolution before it. Works on `slim_vgg16`'s layout."""
    features: Any = model.eval().features
    plain: list[Any] = []
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            plain[-1] = fuse_conv_bn_eval(plain[-1], layer)
        else:
            plain.append(layer)
    model.features = nn.Sequential(*plain)
    return model


def to_batch(images: NDArray[np.uint8], device: str | torch.device = "cpu") -> torch.Tensor:
    """(n, H, W, 3) uint8 array -> (n, 3, H, W) float tensor, normalised as `resize_transform` does."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
    return normalize(x, IMAGENET_MEAN, IMAGENET_STD).contiguous(memory_format=torch.channels_last)


def augment(x: torch.Tensor) -> torch.Tensor:
    """Every other image mirrored, every image's channels in an order of its own. (n, 3, H, W) -> the same shape."""
    orders = torch.stack([torch.randperm(3) for _ in x]).to(x.device)
    x = x[torch.arange(len(x), device=x.device)[:, None], orders]
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x).contiguous(memory_format=torch.channels_last)


def _scenes(n: int, seed: int, split: Split) -> tuple[NDArray[np.uint8], torch.Tensor]:
    scenes = sample_scenes(n, seed, split)
    blocks = [render(scenes[i:i + 64]) for i in tqdm(range(0, n, 64), desc=f"{split} scenes", unit=" blocks")]
    return np.concatenate(blocks), torch.tensor([CLASSES.index(c) for c in scenes["class"]])
