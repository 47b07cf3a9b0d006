"""Writes what README.md and docs/results.md take from data/results/: words and tables.

    python docs/update.py

The words of the claims stand in README's table; the tables of docs/results.md stand between
comments that name them. All other text is written by hand, and tests/test_readme.py looks for its
numbers in the same results.
"""

import re
from typing import Any

import pandas as pd

from cbir import claims, statistics
from cbir.common import ROOT
from cbir.evaluation import HISTOGRAM_DISTANCE
from cbir.names import plain_name

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
SHOWN = ("scenes_vgg16", "scenes_vgg16_wide", "imagenette_vgg16", "caltech101_vgg16")
COLUMNS = {"class": "class P@5", "background": "background P@5", "palette": "palette P@5"}
COLUMNS |= {"colour distance": HISTOGRAM_DISTANCE}


def means(setting: str) -> str:
    """A Markdown table: the mean scores of every descriptor, as it is and at unit length."""
    scores = claims.read_scores(setting)
    known = {title: metric for title, metric in COLUMNS.items() if metric in scores}
    table = scores.groupby(["balance", "descriptor"])[list(known.values())].mean()
    lines = [f"### {claims.SETTINGS[setting].title}", "", f"| | {' | '.join(known)} |"]
    lines.append("|---" * (len(known) + 1) + "|")
    for (balance, descriptor), row in table.iterrows():
        texts = [f"{x:.4f}" if m == HISTOGRAM_DISTANCE else f"{x:.3f}" for m, x in row.items()]
        if "elsewhere" not in descriptor:
            lines.append(f"| {plain_name(descriptor)}, {balance} | {' | '.join(texts)} |")
    return "\n".join([*lines, ""])


def shown(cell: Any) -> str:
    """Formats a cell: "+0.065 [+0.046, +0.084] better"; colour in % of h's distance."""
    digits = 1 if cell.measure == "colour" else 3
    mean, low, high = (value / cell.unit for value in (cell["mean"], cell.low, cell.high))
    return f"{statistics.with_interval(mean, low, high, digits, '+')} {cell.word}"


def all_cells(table: pd.DataFrame) -> str:
    """Formats all cells as Markdown tables, one per row of the verdict plot."""
    lines = []
    table = table.assign(text=[shown(cell) for _, cell in table.iterrows()])
    for (title, recipe), of_row in table.groupby(["row", "recipe"], sort=False):
        lines += [f"### {title}, {recipe}", "", f"| setting | {' | '.join(claims.MEASURES)} |"]
        lines.append("|---" * (len(claims.MEASURES) + 1) + "|")
        for key, setting in claims.SETTINGS.items():
            texts = of_row[of_row.setting == key].set_index("measure").text
            row = [setting.title, *(texts.get(measure, "") for measure in claims.MEASURES)]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def filled(text: str, cells: pd.DataFrame) -> str:
    """A page with the words of the claims and the tables as the results have them."""
    for key, word in claims.words(cells).items():
        text = re.sub(rf"(?m)^(\| {key}\. [^|]+\|)[^|]+\|", rf"\1 **{word}** |", text)
    for name in re.findall("<!-- end of (.+) -->", text):
        table = all_cells(cells) if name == "cells" else "\n".join(map(means, SHOWN))
        before, rest = text.split(f"<!-- {name} -->\n")
        after = rest.split(f"<!-- end of {name} -->")[1]
        text = f"{before}<!-- {name} -->\n\n{table}\n<!-- end of {name} -->{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text, claims.read_cells()), encoding="utf-8", newline="\n")
