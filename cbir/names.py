"""How a descriptor is called and drawn: its name, symbol, colour and marker."""

import re
from typing import NamedTuple


class Label(NamedTuple):
    """A descriptor's name (plain text, HTML), symbol (figures, LaTeX), colour and marker."""

    name: str
    symbol: str
    color: str = "#0072B2"  # many have this one: they are named where they stand
    marker: str = "v"


_BASELINES = {"average": "average of all", "spoc": "SPoC", "mac": "MAC", "gem": "GeM"}
_BASELINES |= {"rmac": "R-MAC", "crow": "CroW", "pyramid": "pyramid pooling"}
_BASELINES |= {"scda": "SCDA", "pwa": "PWA"}
# Okabe and Ito's colours, which colour-blind readers tell apart (their black as a dark grey).
LABELS = {
    "im": Label("IM-like", "IM-like", "#444444", "s"),
    "h": Label("h", r"$h$", "#56B4E9", "o"),
    "eta_conv": Label("η̃", r"$\tilde{\eta}$", "#E69F00", "^"),
    "eta": Label("η", r"$\eta$", "#D55E00", "D"),
    "h+color": Label("h + colour", r"$h$ + colour", "#CC79A7", "X"),
    "h+average": Label("h + average", r"$h$ + average", "#0072B2", "p"),
    **{name: Label(text, text) for name, text in _BASELINES.items()},
    "color": Label("colour histogram", "colour histogram", "#009E73", "P"),
}
NAMES = {descriptor: label.name for descriptor, label in LABELS.items()}
# What a descriptor was made by, where that is compared: (colour, marker).
VARIANTS = {
    "eta, unit length": ("#882255", "*"),
    "eta, relative": ("#999933", "<"),
    "eta, as released, unit length": ("#117733", "H"),
    "h+average, unit length": ("#332288", "h"),
    "absolute threshold": ("#D55E00", "."),
    "relative threshold": ("#999933", "."),
    "whole": ("#882255", "*"),
    "without it": ("#CC79A7", "s"),
    "it alone": ("#444444", "o"),
    "PCA, L1": ("#D55E00", "o"),
    "PCA, cosine": ("#0072B2", "s"),
    "whitened, cosine": ("#009E73", "^"),
    "as printed": ("#666666", "o"),
    "as released": ("#666666", ">"),
    "unit length": ("#666666", "*"),
}

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def label(descriptor: str) -> Label:
    """Returns how a descriptor, a layer ("w_1") or a variant ("eta, whitened") is called and drawn.

    A variant has its descriptor's colour and marker, if `VARIANTS` has no others. Anything else is
    called as it is.
    """
    base, comma, remark = descriptor.partition(",")
    found = LABELS.get(base, Label(base, base))
    if is_part(base):
        letter, index = base.split("_")
        found = Label(letter + index.translate(_SUBSCRIPTS), f"${base}$")
    tone, shape = VARIANTS.get(descriptor, (found.color, found.marker))
    return Label(found.name + comma + remark, found.symbol + comma + remark, tone, shape)


def plain_name(descriptor: str) -> str:
    """Returns a descriptor in plain text: "η", a layer as "w₁", a variant as "η, unit length"."""
    return label(descriptor).name


def symbol(descriptor: str) -> str:
    r"""Returns a descriptor in figures and LaTeX: "$\eta$", a layer as "$w_1$"."""
    return label(descriptor).symbol


def color(descriptor: str) -> str:
    """Returns a descriptor's colour, "#RRGGBB"."""
    return label(descriptor).color


def marker(descriptor: str) -> str:
    """Returns a descriptor's marker in matplotlib's notation."""
    return label(descriptor).marker


def layer_names(n_blocks: int, n_codes: int) -> tuple[list[str], list[str]]:
    """Returns the names of η's layers: w_1..w_N (Eq. 14), and the codes y_{N+1}, .. (Eq. 7)."""
    blocks = [f"w_{m}" for m in range(1, n_blocks + 1)]
    codes = [f"y_{m}" for m in range(n_blocks + 1, n_blocks + n_codes + 1)]
    return blocks, codes


def is_part(name: str) -> bool:
    """Tells whether a descriptor is one of `layer_names`: "w_1", "y_6"."""
    return re.fullmatch(r"[wy]_\d+", name) is not None


# Settings of the verdict: a colour per network, a marker per set of images.
NETWORK_COLORS = {
    "VGG16": "#D55E00",
    "VGG16, wide h": "#E69F00",
    "slim VGG16": "#666666",
    "EfficientNet": "#0072B2",
}
IMAGE_MARKERS = {"scenes": "o", "Imagenette": "s", "Caltech-101": "D"}
