"""Compares a notebook's outputs with the committed ones: text exactly, decimals with a tolerance.

Another processor rounds differently. Where two images are almost equally near, they may swap
places, and 0.271 becomes 0.273. So a decimal may differ by two units of its last printed digit.
All else is compared exactly: words, integers, how many digits are printed, how many outputs there
are and of which kinds. Blanks are not counted, since tables are aligned, and pixels not compared.
"""

import re

DECIMAL = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?!\.?\w)")  # 0.27 and -1.5, but not 1.2.3 or 224x3.5
STYLED = re.compile(r"\bT_[0-9a-f]{5}|\bat 0x[0-9a-f]+")  # pandas names a styled table at random
TEXTLESS = ("image/", "application/vnd.jupyter.widget-view")  # it counts that they are there


def first_difference(committed: list, outputs: list) -> str:
    """The first difference between a cell's committed outputs and its new ones.

    Args:
        committed: the outputs in the notebook file, streams coalesced.
        outputs: the outputs of a new execution, streams coalesced.

    Returns:
        One line for a reader, or "" where there is no difference.
    """
    if len(committed) != len(outputs):
        return f"number of outputs: {len(committed)} became {len(outputs)}"
    for before, after in zip(committed, outputs, strict=True):
        before, after = texts(before), texts(after)
        if list(before) != list(after):
            return f"kinds of output: {', '.join(before)} became {', '.join(after)}"
        for kind in before:
            difference = first_different_line(before[kind], after[kind])
            if difference:
                return f"{kind}: {difference}"
    return ""


def texts(output: dict) -> dict[str, str]:
    """{kind: text}: an output's stream, or its kinds of data in alphabetical order."""
    if output["output_type"] == "stream":
        return {output["name"]: output["text"]}
    if output["output_type"] == "error":
        return {"error": output["ename"]}
    found = {}
    for kind, text in sorted(output["data"].items()):
        text = STYLED.sub("", str(text))
        found[kind] = "" if kind.startswith(TEXTLESS) else text
    return found


def first_different_line(before: str, after: str) -> str:
    """The first lines of two texts that differ by more than the tolerance, or ""."""
    lines_before, lines_after = before.splitlines(), after.splitlines()
    for line_before, line_after in zip(lines_before, lines_after, strict=False):
        if not alike(line_before, line_after):
            return f"{line_before.strip()!r} became {line_after.strip()!r}"
    if len(lines_before) != len(lines_after):
        return f"{len(lines_before)} lines became {len(lines_after)}"
    return ""


def alike(before: str, after: str) -> bool:
    """Whether two lines have the same words, and decimals that are close to each other."""
    if words(before) != words(after):
        return False
    pairs = zip(DECIMAL.findall(before), DECIMAL.findall(after), strict=True)
    return all(close(*pair) for pair in pairs)


def words(line: str) -> list[str]:
    """What stands before, between and after the decimals of a line, blanks collapsed."""
    return [" ".join(piece.split()) for piece in DECIMAL.split(line)]


def close(before: str, after: str) -> bool:
    """Whether two decimals, as printed, differ by at most two units of their last digit."""
    digits = len(before.partition(".")[2])
    if digits != len(after.partition(".")[2]):
        return False
    units = (float(before) - float(after)) * 10**digits
    return abs(round(units)) <= 2
