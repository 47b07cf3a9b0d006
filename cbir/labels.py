"""What a descriptor is called and how it is drawn: its name, symbol, colour and marker."""

import re
from collections.abc import Mapping

# How the descriptors are called in figures and LaTeX, and in plain text and HTML; those that they are compared with are called the same in both.
BASELINES = {"average": "average of all", "spoc": "SPoC", "mac": "MAC", "gem": "GeM", "rmac": "R-MAC", "crow": "CroW", "pyramid": "pyramid pooling",
             "color": "colour histogram"}
SYMBOLS = {"im": "IM-like", "h": r"$h$", "eta_conv": r"$\tilde{\eta}$", "eta": r"$\eta$", "h+color": r"$h$ + colour"} | BASELINES
NAMES = {"im": "IM-like", "h": "h", "eta_conv": "η̃", "eta": "η", "h+color": "h + colour"} | BASELINES

# One colour and one marker per descriptor everywhere. The colours are Okabe and Ito's, told apart by colour-blind readers too (their black as a
# dark grey); in grey some of them are alike, hence the markers.
COLORS = {"im": "#444444", "h": "#56B4E9", "eta_conv": "#E69F00", "eta": "#D55E00", "color": "#009E73", "h+color": "#CC79A7"}
MARKERS = {"im": "s", "h": "o", "eta_conv": "^", "eta": "D", "color": "P", "h+color": "X"}
BASELINE = "#0072B2"  # of every other descriptor: so many colours cannot be told apart, they are named where they stand


def color(descriptor: str) -> str:
    """A descriptor's colour; variants of it ("eta, whitened") have the same one."""
    return COLORS.get(descriptor.split(",")[0], BASELINE)


def marker(descriptor: str) -> str:
    """A descriptor's marker; variants of it have the same one."""
    return MARKERS.get(descriptor.split(",")[0], "v")


def symbol(descriptor: str, names: Mapping[str, str] = SYMBOLS) -> str:
    """How a descriptor is written: as in `names` (`SYMBOLS`, or `NAMES` for plain text), parts w_1, y_6, .. as formulas; a variant's remark
    stays behind the comma."""
    name, *remark = descriptor.split(",")
    return ",".join([names.get(name, re.sub(r"^([wy]_\d+)$", r"$\1$", name)), *remark])
