"""Descriptors to compare with: the IM-like hidden layer, and the IMAGENET1M files."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from .common import AnyPath
from .datasets import choose_queries
from .extract import Describer, ahead, has_windows_of
from .images import Images, list_images
from .networks import Network
from .store import Rows, Store

Module = TypeVar("Module", bound=nn.Module)

CODES_FILE = "codes.safetensors"  # beside the stores of a run
RETRAINED = "retrained"  # what the names of such codes end with
FIRST = 6  # VGG16 calls its fully connected layers fc6 and fc7
ROWS = 256  # images at a time whose y_N is read or classified


class Codes(nn.Module):
    """Fully connected layers with ReLU and dropout on top of y_N, and a softmax over classes.

    `names` are those of the layers; `about` tells how they were trained.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], n_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.classifier = nn.Linear(sizes[-1], n_classes)
        self.dropout = dropout
        self.names = [f"fc{i}, {width} {RETRAINED}" for i, width in enumerate(widths, FIRST)]
        self.about: dict[str, Any] = {}

    def forward(self, y_N: torch.Tensor) -> list[torch.Tensor]:
        """The codes: (B, C_N, H_N, W_N) or (B, C_N * H_N * W_N) -> [(B, width), ..]."""
        codes = [y_N.flatten(1)]
        for layer in self.layers:
            codes.append(torch.relu(layer(self._dropped(codes[-1], len(codes) > 1))))
        return codes[1:]

    def classify(self, y_N: torch.Tensor) -> torch.Tensor:
        """The classes' scores before the softmax, (B, n_classes)."""
        return self.classifier(self._dropped(self(y_N)[-1], True))

    def _dropped(self, x: torch.Tensor, hidden: bool) -> torch.Tensor:
        """Dropout after a hidden layer; by `torch.rand`, which draws the same on any processor."""
        if not (self.training and hidden and self.dropout):
            return x
        kept = torch.rand(x.shape).to(x.device) >= self.dropout
        return x * kept / (1 - self.dropout)


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
    """Retrains a network's codes on the classes of some images (Babenko et al.).

    The layers are trained on y_N with cross-entropy (AdamW, cosine schedule).

    Args:
        net: the network. Codes that it has are left out of the result.
        images: the database: a folder, a list of files or an `ImageSet` with classes; or a store
            with the extra "windows", made by `net`, from which y_N is read.
        widths: of the layers; VGG16 has two of 4096.
        epochs: passes over the images.
        batch_size: images a step.
        lr: learning rate at the start.
        dropout: share of the hidden units that a step leaves out.
        held_out: share of the images, balanced over the classes, that only measure the accuracy.
        seed: of weights, order and dropout, and of what is held out.
        most: images that are trained on; of a larger database a sample, balanced over the classes.
        path: a file (.safetensors) for the layers. One that is there already is read instead.

    Returns:
        The network with the codes, in its `head`, a `Codes`. `head.about` tells the number of
        images and classes, the settings and the accuracy on the images held out.

    Raises:
        ValueError: fewer than two classes; or `path` holds layers that were made otherwise.
    """
    images = list_images(images)
    trunk = net.with_head(None)
    classes = sorted(set(images.labels))
    if len(classes) < 2:
        raise ValueError(
            "codes are trained on class labels: this database has fewer than two classes. Give "
            "every class a folder, or go without codes"
        )
    settings = {
        "network": trunk.provenance,
        "images": _digest_of(images),
        "classes": classes,
        "widths": list(widths),
        "epochs": epochs,
        "batch size": batch_size,
        "learning rate": lr,
        "dropout": dropout,
        "held out": held_out,
        "seed": seed,
        "most": most,
    }
    if path is not None and Path(path).is_file():
        loaded = load_codes(net, path)
        made_by = {key: _about(loaded).get(key) for key in settings}
        if made_by != settings:
            differ = [key for key in settings if made_by[key] != settings[key]]
            raise ValueError(
                f"{path} holds codes that were trained with other settings ({', '.join(differ)}): "
                "delete it, or choose another file"
            )
        return loaded
    rows = np.arange(len(images))
    if len(images) > most:
        rows = np.array(choose_queries(images, most, seed))
    y_N = _last_blocks(trunk, images, rows)  # (n, C_N * H_N * W_N)
    readable = np.isfinite(y_N[:, 0])
    rows, y_N = rows[readable], y_N[readable]
    targets = torch.tensor([classes.index(images.labels[row]) for row in rows])
    measured = np.isin(rows, choose_queries(images, max(1, round(held_out * len(images))), seed))
    inputs, tests = torch.from_numpy(y_N[~measured]), torch.from_numpy(y_N[measured])
    codes = fit(
        lambda: Codes(y_N.shape[1], widths, len(classes), dropout),
        Codes.classify,
        inputs,
        targets[~measured],
        epochs,
        batch_size,
        lr,
        seed,
        net.device,
        f"codes {' x '.join(map(str, widths))}",
    )
    codes.about = settings | {
        "trained on": len(inputs),
        "accuracy": _accuracy(codes, tests, targets[measured]),
    }
    if path is not None:
        _save(codes, path)
    return trunk.with_head(codes)


def fit(
    build: Callable[[], Module],
    scores: Callable[[Module, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: str | torch.device,
    name: str,
) -> Module:
    """Trains a classifier on rows that are held in memory: cross-entropy, AdamW, cosine schedule.

    Args:
        build: makes the module.
        scores: (module, (B, D)) -> (B, classes), what goes into the softmax.
        inputs: (n, D) float.
        targets: (n,) int64, numbers of classes.
        epochs: passes over the rows.
        batch_size: rows a step.
        lr: learning rate at the start.
        seed: of weights, order and dropout; the global generator is left alone.
        device: where to train.
        name: for the progress bar.

    Returns:
        The module, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build().to(device).train()
        n_batches = -(-len(inputs) // batch_size)
        optimizer = torch.optim.AdamW(module.parameters(), lr, fused=True)  # thrice as fast
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * n_batches)
        for _ in tqdm(range(epochs), desc=name, unit=" epochs"):
            for rows in torch.randperm(len(inputs)).split(batch_size):
                predicted = scores(module, inputs[rows].to(device))
                loss = F.cross_entropy(predicted, targets[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return module.eval()


def trained_on(net: Network, path: AnyPath, images: Images) -> bool:
    """Whether the codes that `train_codes` saved were trained on these images; see `load_codes`."""
    return _about(load_codes(net, path))["images"] == _digest_of(images)


def load_codes(net: Network, path: AnyPath) -> Network:
    """Puts the codes that `train_codes` saved on top of a network.

    Args:
        net: the network that they were trained for; its own codes are left out.
        path: the file.

    Returns:
        The network with the codes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no codes, or those of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no retrained codes at {path}: they lie beside the stores of the run that made them; "
            "give the network itself as `net`, or train them again with cbir.train_codes"
        )
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            state = {name: file.get_tensor(name) for name in file.keys()}
        inputs = state["layers.0.weight"].shape[1]
        codes = Codes(inputs, about["widths"], len(about["classes"]), about["dropout"])
        codes.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no codes of cbir.train_codes ({error})") from error
    trunk = net.with_head(None)
    if about["network"] != trunk.provenance:
        raise ValueError(f"the codes in {path} were trained for another network than {net.name!r}")
    codes.about = about
    return trunk.with_head(codes.to(net.device, net.dtype))


def _save(codes: Codes, path: AnyPath) -> None:
    """Writes the layers and `about`; a reader finds the whole file or none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in codes.state_dict().items()}
    save_file(tensors, aside, metadata={"about": json.dumps(codes.about)})
    aside.replace(path)


def _about(net: Network) -> dict[str, Any]:
    assert isinstance(net.head, Codes)
    return net.head.about


def _last_blocks(trunk: Network, images: Images, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """y_N of some images, flat: (len(rows), C_N * H_N * W_N); NaN for one that cannot be read."""
    width = math.prod(trunk.shapes["blocks"][-1])
    y_N = np.full((len(rows), width), np.nan, np.float32)
    if isinstance(images, Store) and has_windows_of(images, trunk):
        for start in range(0, len(rows), ROWS):
            y_N[start : start + ROWS] = images["windows"][rows[start : start + ROWS]][:, -width:]
        return y_N
    describer = Describer(trunk)
    with ThreadPoolExecutor() as pool, tqdm(total=len(rows), desc="y_N", unit=" images") as bar:
        decoded = ahead(pool, lambda row: describer.decode(images.path(row)), rows.tolist(), 64)
        for start in range(0, len(rows), 32):
            batch = dict(enumerate(islice(decoded, 32), start))
            bar.update(len(batch))
            inputs = {i: image[0] for i, image in batch.items() if not isinstance(image, str)}
            if inputs:
                ys, _ = trunk(describer.inputs(list(inputs.values())))
                y_N[list(inputs)] = ys[-1].flatten(1).float().cpu().numpy()
    return y_N


@torch.inference_mode()
def _accuracy(codes: Codes, y_N: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of images that get their class."""
    device = next(codes.parameters()).device
    answers = [codes.classify(part.to(device)).argmax(1).cpu() for part in y_N.split(ROWS)]
    return float((torch.cat(answers) == targets).float().mean())


def _digest_of(images: Images) -> str:
    """A hash of the names, labels and sizes of images, 64 hex digits."""
    if isinstance(images, Store):
        sizes = images.table["bytes"].tolist()
    else:
        sizes = [images.path(i).stat().st_size for i in range(len(images))]
    known = [list(images.files), list(images.labels), sizes]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


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
