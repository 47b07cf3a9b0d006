"""Kills `cbir.extract` at random moments by SIGKILL, which leaves it no chance to tidy up.

By hand: python tests/kills.py IMAGES STORES KILLS SEED
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


def start_child(images: Path, path: Path) -> int:
    """Begins to extract slowly in a child process; its number."""
    child = os.fork()
    if not child:
        try:
            net = make_net()
            net.module.register_forward_pre_hook(lambda _module, _inputs: time.sleep(0.03))
            extract(images, net, path, batch_size=SHARD, shard_size=SHARD, workers=1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def count_complete(path: Path) -> int:
    return len(list(path.glob("done/*.json")))


def kill(child: int, path: Path, complete: int, seconds: float) -> int:
    """Kills a child that long after so many shards are complete; its exit status."""
    while count_complete(path) < complete:  # not by the clock: another process may take it
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(images: Path, stores: Path, wanted: int, seed: int) -> None:
    """Leaves stores 0, 1, .. behind, until so many kills have hit a half-filled one."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    shards = -(-len(list_images(images)) // SHARD)
    for name in ("warm", "alone"):
        start = time.perf_counter()
        _, status = os.waitpid(start_child(images, stores / name), 0)
        assert status == 0, f"the child failed with {status}"
    alone = time.perf_counter() - start
    attempts = hits = 0
    while hits < wanted:
        assert attempts < ATTEMPTS * wanted, f"only {hits} kills hit a half-filled store"
        path = stores / str(attempts // KILLS_A_STORE)
        complete = draw.randrange(shards)
        # From the start, any moment up to the first shards; later, any moment of a shard or two.
        seconds = draw.uniform(0, 2 * alone / shards if complete else alone)
        status = kill(start_child(images, path), path, complete, seconds)
        assert status in (0, signal.SIGKILL), f"the child failed with {status}"
        hits += 0 < count_complete(path) < shards
        attempts += 1
    count = -(-attempts // KILLS_A_STORE)
    print(f"{count} stores, {attempts} kills, {hits} of half-filled ones, {alone:.2f} s unkilled")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
