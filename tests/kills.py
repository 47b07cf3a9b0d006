"""Kills `cbir.extract` at random moments by SIGKILL, which leaves it no chance to tidy up.

test_store.py runs it and completes the stores it leaves. By hand, with any number of kills:
python tests/kills.py IMAGES STORES KILLS SEED
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from conftest import make_net

from cbir import extract, list_images  # here, not in every child

SHARD = 2  # images; a slow network gives time to kill between any two files of a shard
KILLS_A_STORE = 3
ATTEMPTS = 20  # for a kill that hits a half-filled store, on average at most


def extract_slowly(images: Path, path: Path) -> None:
    net = make_net()
    net.module.register_forward_pre_hook(lambda _module, _inputs: time.sleep(0.03))
    extract(images, net, path, batch_size=SHARD, shard_size=SHARD, workers=1)


def in_a_child(images: Path, path: Path, seconds: float | None = None) -> int:
    """Extracts in a child process, which is killed after some seconds; its exit status."""
    child = os.fork()
    if not child:
        try:
            extract_slowly(images, path)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def is_half_filled(path: Path, shards: int) -> bool:
    """Whether some of the shards are marked complete, but not all."""
    complete = [file for file in path.glob("state/c/*") if file.name.isdigit()]
    return 0 < len(complete) < shards


def main(images: Path, stores: Path, wanted: int, seed: int) -> None:
    """Leaves stores 0, 1, .. behind, until so many kills have hit a half-filled one."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    shards = -(-len(list_images(images)) // SHARD)
    assert in_a_child(images, stores / "warm") == 0
    start = time.perf_counter()
    assert in_a_child(images, stores / "alone") == 0
    alone = time.perf_counter() - start

    attempts = 0
    hits = 0
    while hits < wanted:
        path = stores / str(attempts // KILLS_A_STORE)
        seconds = draw.uniform(0, alone)
        status = in_a_child(images, path, seconds)
        assert status in (0, signal.SIGKILL), f"the child failed with {status}"
        hits += is_half_filled(path, shards)
        attempts += 1
        if attempts > ATTEMPTS * wanted:
            sys.exit(f"of {attempts} kills only {hits} hit a half-filled store")
    count = -(-attempts // KILLS_A_STORE)
    print(f"{count} stores, {attempts} kills, {hits} of half-filled ones, {alone:.2f} s unkilled")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
