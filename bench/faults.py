"""Breaks extraction on purpose, counts what happens, and prints the table of docs/reliability.md.

    python bench/faults.py [TRIES [WORD]]    # of each fault, or of those with a word in their name

Ten tries are the default, with ten times as many kills. tests/test_cluster.py kills workers.

Every fault hits an extraction at a moment that is drawn. Then the cause is mended and the same call
given again: the store must be the one that was made in one go, bit for bit, and nothing that was
complete is described again. Needs Linux; root, for disks and a user of its own.
"""

import errno
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import kills
import torch
from conftest import make_net, write_image

import cbir
from cbir.store import Store, find_store, locked

IMAGES, SHARD = 24, 2
SEED = int(time.time())
DRAW = random.Random(SEED)
NOBODY = 65534
Steps = Iterator[str]  # first what the user reads, then the cause is mended


class Interrupted(Exception):
    """What ends an extraction before it is complete."""


def extract(folder: Path, hook: Callable[..., None] | None = None, **options) -> Store:
    """Describes a try's images, one by one: so the company of others changes no bit."""
    net = make_net()
    if hook:
        net.module.register_forward_pre_hook(hook)
    options = dict(batch_size=1, shard_size=SHARD) | options
    return cbir.extract(folder / "images", net, folder / "disk" / "st", **options)


def message(function: Callable[..., object], *args, **options) -> str:
    """What the error of a call says; "" if it has none."""
    try:
        function(*args, **options)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def when(images: int, act: Callable[[], object]) -> Callable[..., None]:
    """A hook that acts when the network has seen so many images, after three that probe it."""
    seen: list[int] = []

    def hook(_module, _inputs) -> None:
        seen.append(1)
        if len(seen) == images + 4:
            act()

    return hook


def begin(folder: Path) -> None:
    """Leaves a store half-filled."""

    def stop() -> None:
        raise Interrupted

    with suppress(Interrupted):
        extract(folder, when(DRAW.randrange(IMAGES), stop))


def as_nobody(function: Callable[..., object], *args) -> str:
    """`message`, by a user without rights."""
    ours, theirs = os.pipe()
    if not os.fork():
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.write(theirs, message(function, *args).encode())
        os._exit(0)
    os.wait()
    return os.read(ours, 10_000).decode()


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk for the store; what remounts it."""
    mount, place = ["mount", "-t", "tmpfs", "-o"], folder / "disk"
    subprocess.run([*mount, options, "tmpfs", place], check=True)
    try:
        yield lambda other: subprocess.run([*mount, f"remount,{other}", "tmpfs", place], check=True)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# ---- the faults ----------------------------------------------------------------------------------


def killed(folder: Path) -> Steps:
    """At any moment of any shard."""
    child = os.fork()
    if not child:
        extract(folder, lambda *_: time.sleep(0.01))
        os._exit(0)
    shard, seconds = DRAW.randrange(IMAGES // SHARD), DRAW.uniform(0, 0.06)
    kills.kill(child, folder / "disk" / "st", shard, seconds)
    yield ""


def full_disk(folder: Path) -> Steps:
    """From one page to almost as many as the store takes."""
    with disk(folder, f"size={4 * DRAW.randrange(1, 3 * IMAGES // SHARD)}k") as remount:
        yield message(extract, folder)
        remount("size=1g")
        yield ""


def read_only_disk(folder: Path) -> Steps:
    with disk(folder, "size=1g") as remount:
        begin(folder)
        remount("ro")
        yield message(extract, folder)
        remount("rw")
        yield ""


def folder_of_somebody_else(folder: Path) -> Steps:
    begin(folder)
    yield as_nobody(extract, folder)


def second_writer(folder: Path) -> Steps:
    told: list[str] = []
    extract(folder, when(DRAW.randrange(IMAGES), lambda: told.append(message(extract, folder))))
    yield told[0]


def left_lock(folder: Path, has_locks: bool, machine: str = "") -> Steps:
    """Dies while it holds the lock, here or, by what the file says, on another machine."""

    def no_locks(*_args) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    kept, file = fcntl.flock, folder / "disk" / ".st.lock"
    try:
        fcntl.flock = fcntl.flock if has_locks else no_locks
        if not os.fork():
            with locked(folder / "disk" / "st"):
                os._exit(0)
        os.wait()
        file.write_text(
            file.read_text().replace(socket.gethostname(), machine or socket.gethostname())
        )
        yield message(extract, folder)
        if machine:
            file.unlink()
        yield ""
    finally:
        fcntl.flock = kept


def empty_lock(folder: Path, has_locks: bool) -> Steps:
    (folder / "disk" / ".st.lock").touch()
    return left_lock(folder, has_locks)


def clock(folder: Path) -> Steps:
    """Pictures of the future, and one that is edited, at the same size, in the past."""
    one = DRAW.choice(sorted((folder / "images").iterdir()))
    for file in (folder / "images").iterdir():
        os.utime(file, (2**32, 2**32))
    before, content = extract(folder), one.read_bytes()
    write_image(one, seed=-1 % 2**32)
    os.utime(one, (0, 0))
    edited = extract(folder)
    assert edited.computed == 1 and (edited.eta[:] != before.eta[:]).any(axis=1).sum() == 1
    yield ""
    one.write_bytes(content)
    os.utime(one, (-1e9, -1e9))


def vanished_image(folder: Path) -> Steps:
    one = DRAW.choice(sorted((folder / "images").iterdir()))
    away = folder / one.name
    st = extract(folder, when(DRAW.randrange(IMAGES), lambda: one.rename(away)))
    yield st.unreadable.get(one.name, "")
    away.rename(one)


def vanished_folder(folder: Path) -> Steps:
    away, images = folder / "away", folder / "images"
    extract(folder, when(DRAW.randrange(IMAGES), lambda: images.rename(away)))
    yield message(extract, folder)
    away.rename(images)


FAULTS: dict[str, Callable[[Path], Steps]] = {
    "the process is killed": killed,
    "the disk is full": full_disk,
    "the disk is read-only": read_only_disk,
    "the folder is somebody else's": folder_of_somebody_else,
    "a second process writes the store": second_writer,
    "an empty lock file is left": partial(empty_lock, has_locks=True),
    "an empty lock file is left, on a disk without locks": partial(empty_lock, has_locks=False),
    "a dead process left its lock file": partial(left_lock, has_locks=True),
    "a dead process left its lock file, on a disk without locks": partial(
        left_lock, has_locks=False
    ),
    "a process of another machine left its lock file, on a disk without locks": partial(
        left_lock, has_locks=False, machine="elsewhere"
    ),
    "the clock is set back": clock,
    "an image vanishes, and comes back": vanished_image,
    "the folder vanishes, and comes back": vanished_folder,
}


def complete(folder: Path, whole: Store) -> None:
    """Extracts again; fails where the store is not the one made in one go, bit for bit."""
    begun = find_store(folder / "disk" / "st")
    to_do = len(whole) if begun is None else (begun.states == "").sum()
    lost = 0 if begun is None else len(begun.unreadable)
    store = extract(folder)
    assert store.computed <= to_do + lost, "describes again what was complete"
    assert (store.files, store.unreadable) == (whole.files, whole.unreadable)
    for name in whole.arrays:
        assert store[name][:].tobytes() == whole[name][:].tobytes(), name


def main(tries: int = 10, word: str = "") -> None:
    """Prints a line per fault with this word; exits with 1 if any store was not whole."""
    root, failed = Path(tempfile.mkdtemp(prefix="cbir-faults-")), False
    root.chmod(0o755)
    for i in range(IMAGES):
        write_image(root / "whole" / "images" / f"{i:02}.bmp", seed=i)  # all of one size
    whole = extract(root / "whole")
    print(f"Seed {SEED}\n\n| fault | tried | whole after | what one reads |\n|---|---|---|---|")
    for name, fault in ((name, fault) for name, fault in FAULTS.items() if word in name):
        told, good, times = Counter[str](), 0, tries * (10 if fault is killed else 1)
        for _ in range(times):
            folder = root / "photos"
            (folder / "disk").mkdir(parents=True)
            shutil.copytree(root / "whole" / "images", folder / "images")
            steps = fault(folder)
            told[next(steps).replace(f"{folder}/disk/", "").replace(f"{root}/", "")] += 1
            next(steps, None)
            try:
                complete(folder, whole)
                good += 1
            except AssertionError as error:
                print(f"{name}: {error}", file=sys.stderr)
            steps.close()
            shutil.rmtree(folder)
        failed |= good < times
        words = "; or: ".join(text or "nothing" for text, _ in told.most_common())
        print(f"| {name} | {times} | {good} | {words} |", flush=True)
    shutil.rmtree(root)
    sys.exit(failed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
