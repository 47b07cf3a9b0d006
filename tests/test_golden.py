"""Descriptors and hits are those of golden.npz, which `python tests/test_golden.py` writes anew.

20 scenes by the slim network and 20 made-up images by a small random one, under both recipes;
then the five nearest of a few more images, by every metric.
"""

import itertools
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cbir

GOLDEN = Path(__file__).with_name("golden.npz")
RECIPES = {"as_printed": cbir.AS_PRINTED, "as_released": cbir.AS_RELEASED}
CASES = list(itertools.product(["embedded", "random"], RECIPES))


def random_network():
    """Three blocks and a code. The weights are NumPy's, the same with any version of torch."""
    blocks = nn.Sequential()
    for before, after in [(3, 8), (8, 12), (12, 16)]:
        convolution = nn.Conv2d(before, after, 3, padding=1)
        blocks.append(nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2)))
    head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 4 * 4, 24), nn.ReLU())
    module = nn.Sequential(OrderedDict(blocks=blocks, code=head))
    rng = np.random.default_rng(0)
    for p in module.parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 30
        values = rng.normal(0, np.sqrt(2 / fan_in), p.shape)
        p.data = torch.from_numpy(values.astype(np.float32))
    transform = cbir.resize_transform(32)
    return cbir.Network(module, ["blocks.0", "blocks.1", "blocks.2"], ["code"], transform)


def made_up_images(folder):
    """25 PNG files, 48 x 40: noise smoothed by a growing window, on a gradient."""
    folder.mkdir(exist_ok=True)
    files = []
    for i in range(25):
        rng = np.random.default_rng(i)
        width = 1 + i % 7
        noise = rng.integers(0, 256, (40 + width, 48 + width, 3))
        corners = itertools.product(range(width), repeat=2)
        views = [noise[y : y + 40, x : x + 48] for y, x in corners]
        slope = np.arange(40)[:, None, None] * 6 * rng.integers(0, 2, 3)
        pixels = (sum(views) // width**2 + slope) // 2
        files.append(folder / f"{i:02}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    return files


def images_of(name, folder):
    """The files of the database (20) and of the queries."""
    if name == "random":
        files = made_up_images(folder / "made_up")
        return files[:20], files[20:]
    database, queries = cbir.load_images()
    # Two and one of each class, none of which has an activation within 4e-5 of a threshold, where
    # another processor's rounding would select another neuron.
    files = [database.path(i) for i in range(36, 1000, 50)]
    return files, [queries.path(i) for i in range(13, 200, 20)]


def describe(name, recipe, folder):
    """{array: rows} of the database and of the queries, "query_" before the names of those."""
    net = random_network() if name == "random" else cbir.load_network("embedded", device="cpu")
    found = {}
    for files, before in zip(images_of(name, folder), ("", "query_")):
        path = folder / f"{name}_{recipe}_{before}store"
        st = cbir.extract(files, net, path, extras={"windows": "windows"}, **RECIPES[recipe])
        found |= {f"{before}h": st.h[:], f"{before}eta_conv": st.eta_conv[:]}
        if not before:
            found["windows"] = st["windows"][:]
    return found


def searches(rows):
    """(descriptor, metric) and the hits, among rows as `describe` gives them."""
    for name, metric in itertools.product(["h", "eta_conv", "eta"], ["l1", "l2", "cosine"]):
        parts = ["h", "eta_conv"] if name == "eta" else [name]
        among, queries = (np.hstack([rows[b + part] for part in parts]) for b in ("", "query_"))
        yield f"{name}_{metric}", cbir.search(among, queries, metric=metric, k=5)


def stored(name, recipe):
    with np.load(GOLDEN) as golden:
        start = f"{name}/{recipe}/"
        return {key.removeprefix(start): golden[key] for key in golden if key.startswith(start)}


@pytest.mark.parametrize("name, recipe", CASES)
def test_descriptors(name, recipe, tmp_path):
    expected = stored(name, recipe)
    for array, rows in describe(name, recipe, tmp_path).items():
        assert rows.dtype == np.float32 and rows.shape == expected[array].shape
        assert abs(rows - expected[array]).max() <= 1e-5 * abs(expected[array]).max(), array


@pytest.mark.parametrize("name, recipe", CASES)
def test_hits(name, recipe):
    expected = stored(name, recipe)
    for search, hits in searches(expected):
        np.testing.assert_array_equal(hits.indices, expected[f"{search}_indices"], search)
        distances = expected[f"{search}_distances"]
        np.testing.assert_allclose(hits.distances, distances, 1e-12, 1e-12, err_msg=search)


def write():
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in CASES:
            rows = describe(name, recipe, Path(folder))
            for search, hits in searches(rows):
                rows[f"{search}_indices"] = hits.indices
                rows[f"{search}_distances"] = np.asarray(hits.distances, np.float64)
            golden |= {f"{name}/{recipe}/{array}": values for array, values in rows.items()}
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    sys.exit(write())
