"""Types that several modules share: paths, and words that can be chosen; and what is said about any other word."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
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
    """ " (did you mean 'x'?)" for the known word that is nearest, whatever the case; "" where none is near, or it is one of them."""
    spelt = {str(k).lower(): str(k) for k in islice(known, 10_000)}  # a second for that many, and files may be millions
    near = get_close_matches(str(word).lower(), spelt, 1)
    return f" (did you mean {spelt[near[0]]!r}?)" if near and spelt[near[0]] != word else ""


def unknown(what: str, word: object, known: Iterable[object]) -> str:
    """The message for a word that is none of the known ones: which was probably meant, and what there is."""
    known = list(known)
    return f"unknown {what} {word!r}{meant(word, known)}: choose one of {', '.join(map(repr, known))}"
