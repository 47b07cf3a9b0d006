"""How long a run over a folder will take, told before it begins."""

import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from .datasets import load_images
from .descriptors import describe, named_recipe
from .images import Images, UnreadableImage, open_image
from .networks import Network
from .run import Run
from .store import find_store
from .zoo import load_network

SAMPLE = 8  # images that are described to see how long one takes
OTHERWISE = 120  # seconds that the notebooks take besides, on two cores


def estimate(run: Run, given: Mapping[str, Any]) -> str:
    """Says about how long a run will take, by describing a few of its images.

    Weights make no difference to the time: random ones are taken, and none is downloaded.

    Args:
        run: the run; images that its stores have already count for nothing.
        given: what its notebooks are given; the profile is "folder".

    Returns:
        A sentence, "" where all images are described.
    """
    options = {"max_queries": given.get("max_queries", 0), "seed": given.get("seed", 0)}
    parts = load_images("folder", given["images"], given.get("queries", ""), **options)
    left = sum(map(len, parts)) - _described(run)
    if left <= 0:
        return ""
    network = given.get("network", "embedded")
    net = load_network(network, None, given.get("device", "auto"), crop=given.get("crop", False))
    recipe = named_recipe(given.get("recipe", "as_printed"), q=given.get("q", 0.5))
    seconds = OTHERWISE + left * _seconds_an_image(net, parts[0], recipe)
    return f"{left:,} images to describe by {network}: about {in_words(seconds)} in all."


def _described(run: Run) -> int:
    """How many images the stores of a run have, or know to be unreadable."""
    stores = [find_store(run.path / "stores" / part) for part in ("database", "queries")]
    known = [int(s.described.sum()) + len(s.unreadable) for s in stores if s is not None]
    return sum(known)


def _seconds_an_image(net: Network, images: Images, recipe: Any) -> float:
    """Describes some images twice; the first time is slower than all that follow."""
    rows = np.linspace(0, len(images) - 1, SAMPLE).astype(int)
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            opened = list(pool.map(lambda row: _prepared(net, images, row), rows))
        prepared = [x for x in opened if x is not None]
        if prepared:
            describe(net, torch.stack(prepared), **recipe)
        seconds = time.perf_counter() - begin
    return seconds / SAMPLE


def _prepared(net: Network, images: Images, row: int) -> torch.Tensor | None:
    try:
        return net.transform(open_image(images.path(row)))
    except UnreadableImage:
        return None


def in_words(seconds: float) -> str:
    """A time as one says it: "1 minute", "14 minutes", "3 hours"; rounded up."""
    minutes = math.ceil(seconds / 60)
    if minutes < 120:
        return f"{minutes} minute{'s' * (minutes > 1)}"
    return f"{math.ceil(minutes / 60)} hours"
