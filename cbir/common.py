"""What all modules share: the root folder, types, words that can be chosen, and writing a file whole."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

ROOT = Path(__file__).resolve().parents[1]

AnyPath = str | os.PathLike[str]
Threshold = Literal["absolute", "relative"]
Counting = Literal["count", "union"]
Scale = Literal["mean", "as_released"]
Metric = Literal["l1", "l2", "cosine"]
Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "auto"]
Split = Literal["database", "query", "training", "validation"]

METRICS: tuple[Metric, ...] = get_args(Metric)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """ " (did you mean 'x'?)" for the known word that is nearest, whatever the case; "" where none is near, or it is one of them."""
    spelt = {str(k).lower(): str(k) for k in islice(known, 10_000)}  # a second for that many, and files may be millions
    near = get_close_matches(str(word).lower(), spelt, 1)
    return f" (did you mean {spelt[near[0]]!r}?)" if near and spelt[near[0]] != word else ""


def unknown_choice(what: str, word: object, known: Iterable[object]) -> str:
    """The message for a word that is none of the known ones: which was probably meant, and what there is."""
    known = list(known)
    return f"unknown {what} {word!r}{did_you_mean(word, known)}: choose one of {', '.join(map(repr, known))}"


def write_atomically(path: AnyPath, text: str) -> Path:
    """Writes a text file aside and moves it into place, so that whoever reads it finds all of it; returns its path."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path
