"""Fits to a database: retrained codes, the IM-like descriptor, shorter descriptors.

net = cbir.train_codes(cbir.load_network("vgg16_conv"), "photos/", widths=(4096, 4096))
"""

import json
from collections.abc import Iterable, Sequence, Sized
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn
from tqdm import tqdm

from .common import AnyPath, write_atomically
from .datasets import choose_queries
from .extract import Describer, has_windows_of
from .images import Images, ImageSet, list_images
from .networks import Device, Network
from .pooling import pca
from .store import Rows, Store, open_store
from .zoo import Codes, Weights, load_codes, load_network

CODES_FILE = "codes.safetensors"  # beside the stores of a run
READ = 256  # images per read of y_N, which are large
ROWS = 4096  # codes per batch of the IM-like layer


def train_codes(
    net: Network,
    images: Images | AnyPath | Iterable[AnyPath],
    widths: Sequence[int] = (4096, 4096),
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 1e-4,
    dropout: float = 0.5,
    held_out: float = 0.1,
    seed: int = 0,
    most: int = 20_000,
    path: AnyPath | None = None,
) -> Network:
    """Retrains a network's codes on the classes of a database (Babenko et al.).

    The layers are trained on y_N with cross-entropy (AdamW, cosine schedule). Images of unknown
    class, "", take no part.

    Example:
        >>> net = cbir.train_codes(cbir.load_network("vgg16_conv"), "photos/", widths=(512,))
        >>> net.codes
        ['fc6, 512 retrained']

    Args:
        net: the network. Codes that it has are left out of the result.
        images: the database, with classes; or a store with the extra "windows", made by `net`, from
            which y_N is read.
        widths: of the layers; VGG16 has two of 4096.
        epochs: passes over the images.
        batch_size: images per step.
        lr: learning rate at the start.
        dropout: share of the hidden units that a step leaves out.
        held_out: share of the images, balanced over the classes, that only measure the accuracy;
            every class keeps an image to train on.
        seed: of weights, order, dropout, and the images held out.
        most: images to train on; a larger database is sampled, balanced over the classes.
        path: a file (.safetensors) for the layers; if it exists, it is read instead of training,
            whatever images the database has by now.

    Returns:
        The network with the codes in its `head`. `head.about` has the classes, the number of
        images, the settings and the accuracy on the images held out (NaN if none were).

    Raises:
        ValueError: fewer than two classes; or `path` holds layers that were made otherwise.

    References:
        A. Babenko et al., "Neural Codes for Image Retrieval", ECCV 2014.
    """
    images = list_images(images)
    trunk = net.with_head(None)
    settings = {"network": trunk.provenance, "widths": list(widths), "epochs": epochs}
    settings |= {"batch size": batch_size, "learning rate": lr, "dropout": dropout}
    settings |= {"held out": held_out, "seed": seed, "most": most}
    if path is not None and Path(path).is_file():
        loaded = load_codes(net, path)
        if differ := ", ".join(k for k in settings if loaded.head.about.get(k) != settings[k]):
            changed = f"was trained with other settings ({differ})"
            raise ValueError(f"{path} {changed}: take another place")
        return loaded
    labeled = np.array([row for row, label in enumerate(images.labels) if label], dtype=int)
    known = ImageSet(images.root, images.files, images.labels)[labeled]
    classes = sorted(set(known.labels))
    _check_classes(classes, "codes are")
    n = len(known)
    drawn = np.array(choose_queries(known, most, seed)) if n > most else np.arange(n)
    y_N = _last_blocks(trunk, images, labeled[drawn])  # (n, C_N * H_N * W_N)
    readable = np.isfinite(y_N[:, 0])
    drawn, y_N = drawn[readable], y_N[readable]
    targets = np.array([classes.index(known.labels[row]) for row in drawn], dtype=int)
    measured = np.isin(drawn, choose_queries(known, max(1, round(held_out * n)), seed))
    measured &= held_out > 0
    present, first = np.unique(targets, return_index=True)
    measured[first[~np.isin(present, targets[~measured])]] = False  # a class keeps an image
    inputs, numbers = torch.from_numpy(y_N), torch.from_numpy(targets)
    how = (epochs, batch_size, lr, seed, net.device)
    codes = _fit(inputs[~measured], numbers[~measured], (widths, len(classes), dropout), how)
    codes.about = settings | {"images": len(images), "classes": classes}
    codes.about["trained on"] = int(np.sum(~measured))
    codes.about["accuracy"] = _accuracy(codes, inputs[measured], numbers[measured])
    if path is not None:
        write_atomically(path, save(codes.state_dict(), {"about": json.dumps(codes.about)}))
    return trunk.with_head(codes)


def network_of(
    st: Store, net: Network | None = None, weights: Weights = "default", device: Device = "auto"
) -> Network:
    """Finds the network that made a store.

    It is `net`, or else one loaded by its name, with the store's crop and precision and with the
    retrained codes beside the store. `weights` and `device`: as in `load_network`.

    Raises:
        ValueError: the network is another one, or the store names one that is unknown.
        FileNotFoundError: its retrained codes are not there.
    """
    made_by = st.network
    if net is None:
        crop, precision = made_by["transform"].get("crop"), made_by.get("precision", "float32")
        net = load_network(made_by["name"], weights, device, bool(crop), precision=precision)
        if net.codes != made_by["codes"]:
            net = load_codes(net, Path(st.location).parent / CODES_FILE)
    if net.provenance != made_by:
        problem = f"the store was made by another network or other weights than {net.name!r}"
        raise ValueError(f"{problem}: pass that one as `net`, or name its weights")
    return net


def compress(
    st: Store | AnyPath,
    dims: int = 256,
    descriptor: str = "eta",
    whiten: bool = False,
    fitted_to: Store | None = None,
    most: int = 2000,
    seed: int = 0,
) -> Store:
    """Shortens a descriptor by principal components: a store in memory, for `search`.

    `search` shortens the queries in the same way, of whatever kind they are. Shortened rows keep
    what L2 and cosine find; the L1 distance of whole rows finds more background
    ([notebook 09](../notebooks/09_beyond.ipynb)).

    Example:
        >>> short = cbir.compress(cbir.open_store("stores/photos"), dims=128)
        >>> cbir.search(short, "query.jpg", metric="cosine")

    Args:
        st: a store or its path.
        dims: values per image that are kept, at most as many as images that are fitted.
        descriptor: one of the store's; the new store has no other.
        whiten: see `pca`.
        fitted_to: the store whose rows the components are fitted to; default `st` itself.
        most: rows that are fitted at most, drawn by `seed`.
        seed: see `most`.

    Raises:
        ValueError: an unknown descriptor, or rows that do not vary.
    """
    st = st if isinstance(st, Store) else open_store(st)
    fitted = fitted_to or st
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(fitted.described))[:most]
    project = pca(fitted[descriptor][np.sort(drawn)], dims, whiten)
    short = copy(st)
    short.source, short.projection = st, project
    rows = [project(st[descriptor][i : i + ROWS]) for i in range(0, len(st), ROWS)]
    short.arrays = {descriptor: np.concatenate(rows)}
    short.descriptors = {descriptor: [(descriptor, 0, rows[0].shape[1])]}
    return short


def _last_blocks(trunk: Network, images: Images, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Reads y_N of some images, flat, (len(rows), C_N * H_N * W_N); NaN for unreadable ones."""
    channels, heights, widths = zip(*trunk.shapes["blocks"])
    cells = heights[-1] * widths[-1]
    y_N = np.empty((len(rows), channels[-1] * cells), np.float32)
    describer = Describer(trunk, extras={"windows": "windows"})
    describer.widths = {"windows": sum(channels) * cells}
    decoded = describer.decode_ahead(images.path(row) for row in rows)
    kept = images if isinstance(images, Store) and has_windows_of(images, trunk) else None
    for start in tqdm(range(0, len(rows), READ), desc="y_N", unit=" batches"):
        part = rows[start : start + READ]
        if kept:
            windows = kept["windows"][part]
        else:
            windows = describer.describe(decoded, len(part))[0]["windows"]
        y_N[start : start + READ] = windows[:, -y_N.shape[1] :]
    return y_N


def train_hidden_layer(
    codes: NDArray[np.floating] | Rows,
    labels: Sequence[str],
    width: int | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    device: Device = "cpu",
    most: int = 200_000,
) -> tuple[nn.Sequential, float]:
    """Trains IM(x), as far as the paper tells: "a hidden layer after the last fully connected one".

    The layer, with a ReLU, and a softmax over the classes are trained as in `train_codes` on the
    (N, D) activations y_{N+2} of the database. Rows of NaN and rows labelled "" are left out; of
    more than `most` rows a sample is held in memory. The default width is D / 2, as IMAGENET1M's
    2048 is half of 4096.

    Returns:
        The hidden layer, (B, D) -> (B, width), and the softmax's accuracy on these images.

    Raises:
        ValueError: fewer than two classes.
    """
    drawn = np.flatnonzero(np.asarray(labels) != "")
    if len(drawn) > most:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, most, replace=False))
    inputs = torch.as_tensor(np.asarray(codes[drawn]), dtype=torch.float32)
    readable = torch.isfinite(inputs).all(dim=1)
    inputs = inputs[readable]
    classes, numbers = np.unique(np.asarray(labels)[drawn][readable.numpy()], return_inverse=True)
    _check_classes(classes, "the IM-like layer is")
    targets = torch.as_tensor(numbers)
    layers = ([width or inputs.shape[1] // 2], len(classes), 0)
    trained = _fit(inputs, targets, layers, (epochs, batch_size, lr, seed, device))
    return nn.Sequential(trained.layers[0], nn.ReLU()), _accuracy(trained, inputs, targets)


@torch.inference_mode()
def hidden_codes(
    encoder: nn.Sequential, codes: NDArray[np.floating] | Rows, path: AnyPath | None = None
) -> NDArray[np.float32]:
    """Computes the IM-like descriptor, (N, width), by an encoder of `train_hidden_layer`.

    Rows of NaN stay NaN. With `path` (.npy) the result is a mapped file: memory stays constant.
    """
    weight = next(encoder.parameters())  # (width, D)
    shape, kind = (len(codes), len(weight)), np.float32
    out = np.lib.format.open_memmap(path, "w+", kind, shape) if path else np.empty(shape, kind)
    for start in range(0, len(codes), ROWS):
        block = torch.as_tensor(np.asarray(codes[start : start + ROWS]), dtype=torch.float32)
        out[start : start + ROWS] = encoder(block.to(weight.device)).cpu().numpy()
    return out


def _check_classes(classes: Sized, what: str) -> None:
    """Raises ValueError if there are fewer than two classes."""
    if len(classes) < 2:
        raise ValueError(f"{what} trained on fewer than two classes. Give every class a folder")


def _fit(
    inputs: torch.Tensor, targets: torch.Tensor, layers: tuple[Any, ...], how: tuple[Any, ...]
) -> Codes:
    """Trains `Codes` on rows in memory: (n, D) float, their classes (n,) int64."""
    (widths, n_classes, dropout), (epochs, batch_size, lr, seed, device) = layers, how
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        codes = Codes(inputs.shape[1], widths, n_classes, dropout).to(device).train()
        n_batches = -(-len(inputs) // batch_size)
        optimizer = torch.optim.AdamW(codes.parameters(), lr, fused=True)  # three times as fast
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * n_batches)
        for _ in tqdm(range(epochs), desc=f"layers of {list(widths)}", unit=" epochs"):
            for rows in torch.randperm(len(inputs)).split(batch_size):
                predicted = codes.classify(inputs[rows].to(device))
                loss = F.cross_entropy(predicted, targets[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return codes.eval()


@torch.inference_mode()
def _accuracy(codes: Codes, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Returns the share of rows that get their class."""
    device = next(codes.parameters()).device
    answers = [codes.classify(part.to(device)).argmax(1).cpu() for part in inputs.split(READ)]
    return float((torch.cat(answers) == targets).float().mean())
