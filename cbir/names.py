"""What a descriptor is called and how it is drawn: its name, symbol, colour and marker."""

import re
from typing import NamedTuple

# Every other descriptor's colour: so many cannot be told apart, they are named where they stand.
BASELINE = "#0072B2"
BASELINE_MARKER = "v"


class Label(NamedTuple):
    """A descriptor's name (plain text, HTML), symbol (figures, LaTeX), colour and marker."""

    name: str
    symbol: str
    color: str = BASELINE
    marker: str = BASELINE_MARKER


# The colours are Okabe and Ito's, told apart by colour-blind readers too (their black as a dark
# grey); in grey some of them are alike, hence the markers.
LABELS = {
    "im": Label("IM-like", "IM-like", "#444444", "s"),
    "h": Label("h", r"$h$", "#56B4E9", "o"),
    "eta_conv": Label("η̃", r"$\tilde{\eta}$", "#E69F00", "^"),
    "eta": Label("η", r"$\eta$", "#D55E00", "D"),
    "h+color": Label("h + colour", r"$h$ + colour", "#CC79A7", "X"),
    "h+average": Label("h + average", r"$h$ + average", "#0072B2", "p"),
    "average": Label("average of all", "average of all"),
    "spoc": Label("SPoC", "SPoC"),
    "mac": Label("MAC", "MAC"),
    "gem": Label("GeM", "GeM"),
    "rmac": Label("R-MAC", "R-MAC"),
    "crow": Label("CroW", "CroW"),
    "pyramid": Label("pyramid pooling", "pyramid pooling"),
    "color": Label("colour histogram", "colour histogram", "#009E73", "P"),
}
NAMES = {descriptor: label.name for descriptor, label in LABELS.items()}
SYMBOLS = {descriptor: label.symbol for descriptor, label in LABELS.items()}

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def plain_name(descriptor: str) -> str:
    """A descriptor in plain text: "η", a part as "w₁", a variant as "η, unit length"."""
    base, remark = _split(descriptor)
    if is_part(base):
        letter, index = base.split("_")
        return f"{letter}{index.translate(_SUBSCRIPTS)}{remark}"
    return NAMES.get(base, base) + remark


def symbol(descriptor: str) -> str:
    r"""A descriptor in figures and LaTeX: "$\eta$", a part as "$w_1$"; a variant's remark stays."""
    base, remark = _split(descriptor)
    if is_part(base):
        return f"${base}${remark}"
    return SYMBOLS.get(base, base) + remark


def color(descriptor: str) -> str:
    """A descriptor's colour, "#RRGGBB"; its variants ("eta, whitened") have the same one."""
    return _drawn(descriptor).color


def marker(descriptor: str) -> str:
    """A descriptor's marker in matplotlib's notation; its variants have the same one."""
    return _drawn(descriptor).marker


def layer_names(n_blocks: int, n_codes: int) -> tuple[list[str], list[str]]:
    """What the parts of η are called in stores and tables.

    Args:
        n_blocks: N, the number of blocks.
        n_codes: the number of codes.

    Returns:
        The blocks' descriptors w_1..w_N (Eq. 14), and the codes y_{N+1}, y_{N+2}, .. (Eq. 7).
    """
    blocks = [f"w_{m}" for m in range(1, n_blocks + 1)]
    codes = [f"y_{m}" for m in range(n_blocks + 1, n_blocks + n_codes + 1)]
    return blocks, codes


def is_part(name: str) -> bool:
    """Whether a descriptor is one of `layer_names`: "w_1", "y_6"."""
    return re.fullmatch(r"[wy]_\d+", name) is not None


def _drawn(descriptor: str) -> Label:
    """The table's row of a descriptor or of what it is a variant of, else that of a baseline."""
    base, _ = _split(descriptor)
    return LABELS.get(base, Label(base, base))


def _split(descriptor: str) -> tuple[str, str]:
    """A variant's descriptor and its remark, comma included: ("eta", ", unit length")."""
    base, comma, remark = descriptor.partition(",")
    return base, comma + remark
