"""Types that several modules share: paths, and words that can be chosen; and what is said about any other word."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, get_args

AnyPath = str | os.PathLike[str]
Threshold = Literal["absolute", "relative"]
Counting = Literal["count", "union"]
Scale = Literal["mean", "as_released"]
Metric = Literal["l1", "l2", "cosine"]
Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "auto"]
Split = Literal["database", "query", "training", "validation"]

METRICS: tuple[Metric, ...] = get_args(Metric)


def meant(word: object, known: Iterable[object]) -> str:
    """ " (did you mean 'x'?)" for the known word that is nearest; "" where none is near."""
    near = get_close_matches(str(word).lower(), map(str, known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(what: str, word: object, known: Iterable[object]) -> str:
    """The message for a word that is none of the known ones: which was probably meant, and what there is."""
    known = list(known)
    return f"unknown {what} {word!r}{meant(word, known)}: choose one of {', '.join(map(repr, known))}"
