"""Shared by all modules: folders, types, did-you-mean, and writing a file whole."""

import errno
import os
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "project"  # a wheel has the project's files here
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent

AnyPath = str | os.PathLike[str]
Threshold = Literal["absolute", "relative"]
Counting = Literal["count", "union"]
Scale = Literal["mean", "as_released"]
Balance = Literal["none", "l1", "l2"]
Metric = Literal["l1", "l2", "cosine"]
Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "auto"]

METRICS: tuple[Metric, ...] = get_args(Metric)

# What results depend on.
PACKAGES = ["cbir", "torch", "torchvision", "numpy", "numba", "pandas", "pillow", "matplotlib"]

FREE_SPACE = "free some space and run the same again; what is complete is kept"
REMEDIES = {errno.ENOSPC: FREE_SPACE, errno.EDQUOT: FREE_SPACE} | dict.fromkeys(
    (errno.EROFS, errno.EACCES), "choose another folder (CBIR_RUNS names that of runs)"
)

MAX_COMPARED = 10_000  # known words: they take a second, and files may be millions


def images_folder() -> Path:
    """The folder of downloaded images: data/ of a checkout, else the user's cache."""
    if ROOT != INSTALLED:
        return ROOT / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cbir")


def runs_folder() -> Path:
    """The folder of all runs: the variable CBIR_RUNS, else runs/ of the checkout or from here."""
    checkout = Path() if ROOT == INSTALLED else ROOT
    return Path(os.environ.get("CBIR_RUNS") or checkout / "runs")


def cores() -> int:
    """Counts the cores that this process may use, which may be fewer than the machine has."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Suggests the nearest of the first `MAX_COMPARED` known words, whatever the case.

    Returns:
        " (did you mean 'x'?)"; "" if none is near, or `word` is one of them.
    """
    spelling = {str(k).lower(): str(k) for k in islice(known, MAX_COMPARED)}
    near = get_close_matches(str(word).lower(), spelling, 1)
    return f" (did you mean {spelling[near[0]]!r}?)" if near and spelling[near[0]] != word else ""


def check_choice(what: str, word: object, known: Collection[object], others: str = "") -> None:
    """Raises ValueError with the choices for a word that is not known.

    `what` names the thing to choose ("metric"); `others` ends the message.
    """
    if word not in known:
        hint, choices = did_you_mean(word, known), ", ".join(map(repr, known))
        raise ValueError(f"unknown {what} {word!r}{hint}: choose one of {choices}{others}")


def write_atomically(path: AnyPath, content: str | bytes) -> Path:
    """Writes a file aside and moves it into place: a reader finds all of it or the old one.

    Text is UTF-8. Makes the file's folder if there is none, and returns the file's path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    aside.replace(path)
    return path


@contextmanager
def explained(path: AnyPath) -> Iterator[None]:
    """Adds what to do to errors of a disk that is full or closed to us; `path` is written there."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = error.filename or path
        raise type(error)(f"{error.strerror}: {where}: {REMEDIES[error.errno]}") from error


def commit() -> str:
    """The git commit of this code, and whether files were changed since; or why there is none."""
    if not (ROOT / ".git").exists():
        return "no git checkout"
    command = "git describe --always --dirty --abbrev=40 --exclude=*".split()
    try:
        told = subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return "a git checkout, of which git says nothing"
    return told.strip().replace("-dirty", ", with changes")
