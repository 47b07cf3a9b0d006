"""Descriptors to compare with: the IM-like hidden layer, and the IMAGENET1M files where the user has them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from .common import AnyPath
from .images import Images
from .store import Rows


def train_hidden_layer(codes: NDArray[np.floating] | Rows, labels: Sequence[str], width: int | None = None, epochs: int = 30, batch_size: int = 256,
                       lr: float = 1e-3, seed: int = 0, device: str | torch.device = "cpu", most: int = 200_000) -> tuple[nn.Sequential, float]:
    """IM(x), as far as the paper tells: "an additional hidden layer after the last fully connected one".

    codes: (N, D) float32, the last fully connected layer's activations y_{N+2} of the database (array or `Rows`; rows of NaN are
    left out). labels: N class names. A hidden layer of `width` (default D / 2, as IMAGENET1M's 2048 is half of 4096) with
    ReLU and a softmax over the classes is trained with cross-entropy (AdamW, cosine schedule) from a seed; of a database of more
    than `most` images, on that many, drawn from the seed: they are held in memory.
    Returns (encoder, accuracy): the hidden layer as `nn.Module` (B, D) -> (B, width), and the share of these images that the
    softmax gets right. Raises ValueError for fewer than two classes: without labels there is no such descriptor.
    """
    drawn = np.arange(len(codes)) if len(codes) <= most else np.sort(np.random.default_rng(seed).choice(len(codes), most, replace=False))
    codes, labels = torch.as_tensor(np.asarray(codes[drawn]), dtype=torch.float32), np.asarray(labels)[drawn]
    kept = torch.isfinite(codes).all(dim=1)
    classes, targets = np.unique(labels[kept.numpy()], return_inverse=True)
    if len(classes) < 2:
        raise ValueError("the IM-like layer is trained on class labels: this database has fewer than two classes. Give every class a folder, or go without 'im'")
    codes, targets = codes[kept], torch.as_tensor(targets)
    width = width or codes.shape[1] // 2
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder, softmax = nn.Sequential(nn.Linear(codes.shape[1], width), nn.ReLU()), nn.Linear(width, len(classes))
        model = nn.Sequential(encoder, softmax).to(device)
        steps = epochs * -(-len(codes) // batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in tqdm(range(epochs), desc="IM-like layer", unit=" epochs"):
            for rows in torch.randperm(len(codes)).split(batch_size):
                loss = nn.functional.cross_entropy(model(codes[rows].to(device)), targets[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    right = [(model(codes[rows].to(device)).argmax(1).cpu() == targets[rows]).sum() for rows in torch.arange(len(codes)).split(4096)]
    return encoder.eval(), float(sum(right) / len(codes))


@torch.inference_mode()
def hidden_codes(encoder: nn.Sequential, codes: NDArray[np.floating] | Rows, path: AnyPath | None = None) -> NDArray[np.float32]:
    """(N, D) codes (array or `Rows`) -> (N, width) float32, the IM-like descriptor. Rows of NaN stay NaN.

    path: a file (.npy) for the result, which is then mapped from there: memory does not grow with N.
    """
    weight = next(encoder.parameters())  # (width, D)
    device, shape = weight.device, (len(codes), len(weight))
    out = np.lib.format.open_memmap(path, "w+", np.float32, shape) if path else np.empty(shape, np.float32)
    for start in range(0, len(codes), 4096):
        block = torch.as_tensor(np.asarray(codes[start:start + 4096]), dtype=torch.float32)
        out[start:start + 4096] = encoder(block.to(device)).cpu().numpy()
    return out


def read_fvecs(path: AnyPath, rows: int | None = None) -> NDArray[np.float32]:
    """A file of float32 vectors in the fvecs format -> (N, D) array, mapped from disk, not read.

    Every vector is its dimension as a little-endian int32, then that many float32. rows: the number of vectors expected.
    Raises ValueError where the file is empty, cut short, has another number of rows, or vectors of several dimensions.
    """
    path, size = Path(path), Path(path).stat().st_size
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is no regular file")
    if size < 4:
        raise ValueError(f"{path.name} holds no vector ({size} bytes)")
    dims = int(np.fromfile(path, "<i4", 1)[0])
    if not 1 <= dims <= 1_000_000:
        raise ValueError(f"{path.name} starts with a dimension of {dims}: not an fvecs file")
    if size % (4 * (dims + 1)):
        raise ValueError(f"{path.name} is cut short: {size} bytes are no whole number of vectors of {dims} dimensions; download it again")
    raw = np.memmap(path, "<i4", "r", shape=(size // (4 * (dims + 1)), dims + 1))
    if (raw[:, 0] != dims).any():
        raise ValueError(f"{path.name} has vectors of several dimensions, first {dims}")
    if rows is not None and len(raw) != rows:
        raise ValueError(f"{path.name} holds {len(raw)} vectors, {rows} were expected: does the list of names belong to this file?")
    return raw.view("<f4")[:, 1:]


def imagenet1m_descriptors(fvecs: AnyPath, file_list: AnyPath | None, images: Images) -> NDArray[np.float32]:
    """The published IMAGENET1M descriptors for an `ImageSet`: (len(images), 2048) float32, row i for image i.

    fvecs: the base (or query) vectors. file_list: a text file whose line j names the image of vector j, as in `images.files` or
    by its last part. The published files do not say which image a row describes, so without that list they cannot be used.
    Raises ValueError without a list, for a list of another length, for images that are not in it, or vectors that are not finite.
    """
    if not file_list or not Path(file_list).is_file():
        raise ValueError("IMAGENET1M's vectors carry no image names: without a list that ties row j to an image (one name a line, "
                         "`im_files`) nobody can tell which image was retrieved. Leave `im_vectors` empty to train the IM-like layer.")
    names = Path(file_list).read_text(encoding="utf-8").splitlines()
    vectors = read_fvecs(fvecs, rows=len(names))
    row_of = {name: j for j, name in enumerate(names)}
    last_parts: dict[str, list[int]] = {}
    for j, name in enumerate(names):
        last_parts.setdefault(Path(name).name, []).append(j)
    unclear = [f for f in images.files if f not in row_of and len(last_parts.get(Path(f).name, [])) > 1]
    if unclear:
        raise ValueError(f"{unclear[0]} fits several lines of {file_list}: name its folder there too")
    rows = [row_of.get(f, last_parts.get(Path(f).name, [-1])[0]) for f in images.files]
    if -1 in rows:
        raise ValueError(f"{rows.count(-1)} of {len(rows)} images are not in {file_list}, first {images.files[rows.index(-1)]}: the list must name every image")
    vectors = np.ascontiguousarray(vectors[rows])
    if not np.isfinite(vectors).all():
        raise ValueError(f"{Path(fvecs).name} holds numbers that are not finite")
    return vectors
