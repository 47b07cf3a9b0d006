"""Descriptors to compare with: the IM-like hidden layer, and the IMAGENET1M files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .codes import fit
from .common import AnyPath
from .images import Images
from .store import Rows

ROWS = 4096  # rows at a time that the hidden layer is applied to


def train_hidden_layer(
    codes: NDArray[np.floating] | Rows,
    labels: Sequence[str],
    width: int | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
    most: int = 200_000,
) -> tuple[nn.Sequential, float]:
    """IM(x), as far as the paper tells: a hidden layer "after the last fully connected one".

    The layer, with a ReLU, and a softmax over the classes are trained with cross-entropy (AdamW,
    cosine schedule).

    Args:
        codes: (N, D) float32, the activations y_{N+2} of the database. Rows of NaN are left out.
        labels: N class names.
        width: of the hidden layer; default D / 2, as IMAGENET1M's 2048 is half of 4096.
        epochs: passes over the images.
        batch_size: images a step.
        lr: learning rate at the start.
        seed: of weights, order and sample.
        device: where to train.
        most: images that are held in memory; of a larger database a sample.

    Returns:
        The hidden layer, (B, D) -> (B, width), and the share of these images that the softmax gets
        right.

    Raises:
        ValueError: fewer than two classes: without labels there is no such descriptor.
    """
    drawn = np.arange(len(codes))
    if len(codes) > most:
        drawn = np.sort(np.random.default_rng(seed).choice(len(codes), most, replace=False))
    codes = torch.as_tensor(np.asarray(codes[drawn]), dtype=torch.float32)
    readable = torch.isfinite(codes).all(dim=1)
    codes = codes[readable]
    names = np.asarray(labels)[drawn][readable.numpy()]
    classes, targets = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            "the IM-like layer is trained on class labels: this database has fewer than two "
            "classes. Give every class a folder, or go without 'im'"
        )
    targets = torch.as_tensor(targets)
    width = width or codes.shape[1] // 2

    def build() -> nn.Sequential:
        encoder = nn.Sequential(nn.Linear(codes.shape[1], width), nn.ReLU())
        return nn.Sequential(encoder, nn.Linear(width, len(classes)))

    model = fit(
        build,
        nn.Module.__call__,
        codes,
        targets,
        epochs,
        batch_size,
        lr,
        seed,
        device,
        "IM-like layer",
    )
    n_right = 0
    for rows in torch.arange(len(codes)).split(ROWS):
        predicted = model(codes[rows].to(device)).argmax(1).cpu()
        n_right += (predicted == targets[rows]).sum()
    return model[0], float(n_right / len(codes))


@torch.inference_mode()
def hidden_codes(
    encoder: nn.Sequential, codes: NDArray[np.floating] | Rows, path: AnyPath | None = None
) -> NDArray[np.float32]:
    """The IM-like descriptor of some codes. Rows of NaN stay NaN.

    Args:
        encoder: what `train_hidden_layer` gives.
        codes: (N, D) float.
        path: a file (.npy) for the result, which is then mapped from there: memory does not grow
            with N.

    Returns:
        (N, width) float32.
    """
    weight = next(encoder.parameters())  # (width, D)
    shape = (len(codes), len(weight))
    if path:
        out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    else:
        out = np.empty(shape, np.float32)
    for start in range(0, len(codes), ROWS):
        block = torch.as_tensor(np.asarray(codes[start : start + ROWS]), dtype=torch.float32)
        out[start : start + ROWS] = encoder(block.to(weight.device)).cpu().numpy()
    return out


def read_fvecs(path: AnyPath, rows: int | None = None) -> NDArray[np.float32]:
    """A file of vectors in the fvecs format, mapped from disk, not read.

    Every vector is its dimension as a little-endian int32, then that many float32.

    Args:
        path: the file.
        rows: the number of vectors expected.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: the file is empty or cut short, has another number of rows, or vectors of
            several dimensions.
    """
    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is no regular file")
    if size < 4:
        raise ValueError(f"{path.name} holds no vector ({size} bytes)")
    dims = int(np.fromfile(path, "<i4", 1)[0])
    if not 1 <= dims <= 1_000_000:
        raise ValueError(f"{path.name} starts with a dimension of {dims}: not an fvecs file")
    n_rows, left_over = divmod(size, 4 * (dims + 1))
    if left_over:
        raise ValueError(
            f"{path.name} is cut short: {size} bytes are no whole number of vectors of {dims} "
            "dimensions; download it again"
        )
    raw = np.memmap(path, "<i4", "r", shape=(n_rows, dims + 1))
    if (raw[:, 0] != dims).any():
        raise ValueError(f"{path.name} has vectors of several dimensions, first {dims}")
    if rows is not None and n_rows != rows:
        raise ValueError(
            f"{path.name} holds {n_rows} vectors, {rows} were expected: does the list of names "
            "belong to this file?"
        )
    return raw.view("<f4")[:, 1:]


def imagenet1m_descriptors(
    fvecs: AnyPath, file_list: AnyPath | None, images: Images
) -> NDArray[np.float32]:
    """The published IMAGENET1M descriptors of some images.

    The published files do not say which image a row describes: without a list of names they cannot
    be used.

    Args:
        fvecs: the base (or query) vectors.
        file_list: a text file whose line j names the image of vector j, as in `images.files` or by
            its last part.
        images: N images.

    Returns:
        (N, 2048) float32, row i for image i.

    Raises:
        ValueError: no list, a list of another length, images that are not in it, or vectors that
            are not finite.
    """
    if not file_list or not Path(file_list).is_file():
        raise ValueError(
            "IMAGENET1M's vectors carry no image names: without a list that ties row j to an image "
            "(one name a line, `im_files`) nobody can tell which image was retrieved. Leave "
            "`im_vectors` empty to train the IM-like layer."
        )
    names = Path(file_list).read_text(encoding="utf-8").splitlines()
    vectors = read_fvecs(fvecs, rows=len(names))
    row_of = {name: row for row, name in enumerate(names)}
    rows_of_last_part: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows_of_last_part.setdefault(Path(name).name, []).append(row)
    rows = []
    unknown = []
    for file in images.files:
        same_last_part = rows_of_last_part.get(Path(file).name, [])
        if file in row_of:
            rows.append(row_of[file])
        elif len(same_last_part) == 1:
            rows += same_last_part
        elif same_last_part:
            raise ValueError(f"{file} fits several lines of {file_list}: name its folder there too")
        else:
            unknown.append(file)
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(images)} images are not in {file_list}, first {unknown[0]}: "
            "the list must name every image"
        )
    vectors = np.ascontiguousarray(vectors[rows])
    if not np.isfinite(vectors).all():
        raise ValueError(f"{Path(fvecs).name} holds numbers that are not finite")
    return vectors
