"""Table I: colour-histogram distances per query and descriptor, ours beside the paper's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.io.formats.style import Styler

from .color import color_histogram, histogram_distance, published_distances
from .common import ROOT
from .decoding import open_image
from .images import Images
from .labels import NAMES, SYMBOLS

PAPER = ROOT / "data" / "paper"
PUBLISHED = {"IM": "im", "full_average": "average", "pyramid_pooling": "pyramid"}  # names in the paper's data, and ours
GROUPS = {"printed": "L1 / 75", "published": "published formula", "paper": "the paper's"}


def color_histograms(store: Images, rows: Iterable[int] | NDArray[np.integer]) -> dict[int, NDArray[np.float64]]:
    """Colour histograms of some images of a store: {row: (75,) array}; every file is read once."""
    return {int(i): color_histogram(np.asarray(open_image(store.path(i)))) for i in rows}


def table1(queries: Images, database: Images, hits: Mapping[str, NDArray[np.integer]], rows: Sequence[int]) -> pd.DataFrame:
    """Table I for chosen queries, as a DataFrame with one row a query and a last one with the means.

    hits: {descriptor: (Q, k) rows of the database}; rows: the chosen queries' rows.
    Columns: query, class, then per descriptor "printed <d>" (L1 / 75), "published <d>" (the formula behind the printed numbers) and
    "paper <d>" (Table I itself, whose queries are others).
    """
    of_query = {i: np.asarray(open_image(queries.path(i))) for i in rows}
    of_image = {j: np.asarray(open_image(database.path(j))) for j in {int(j) for found in hits.values() for j in np.ravel(found[rows])}}
    h_query = {i: color_histogram(image) for i, image in of_query.items()}
    h_image = {j: color_histogram(image) for j, image in of_image.items()}
    columns = {"query": range(1, len(rows) + 1), "class": [queries.labels[i] for i in rows]}
    for d, found in hits.items():
        columns[f"printed {d}"] = [np.mean([histogram_distance(h_query[i], h_image[j]) for j in found[i]]) for i in rows]
    for d, found in hits.items():
        columns[f"published {d}"] = [published_distances(of_query[i], [of_image[j] for j in found[i]]).mean() for i in rows]
    table = pd.DataFrame(columns)
    paper = pd.read_csv(PAPER / "table1.csv").rename(columns=PUBLISHED).set_index("query").add_prefix("paper ")
    table = table.join(paper, on="query")
    means = table.drop(columns=["query", "class"]).mean()
    means[paper.columns] = paper.mean()  # of the paper's ten, however many are shown here
    means = means.to_frame().T.assign(query="mean", **{"class": ""})
    return pd.concat([table, means], ignore_index=True)[list(table.columns)]


def published_means() -> pd.DataFrame:
    """Mean of the five printed distances of every row of Figs 7-10 and of the later baselines: DataFrame, queries x descriptors."""
    printed = pd.read_csv(PAPER / "published_histogram_distances.csv")
    table = printed.groupby(["query", "descriptor"]).distance.mean().unstack()
    return table[printed.descriptor.unique()].rename(columns=PUBLISHED).rename_axis(columns=None)


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """Where a row has its smallest distance, within each group of columns: a bool DataFrame like `table`."""
    mask = pd.DataFrame(False, table.index, table.columns)
    for group in GROUPS:
        columns = [c for c in table.columns if c.startswith(f"{group} ")]
        values = table[columns].astype(float)
        mask[columns] = values.eq(values.min(axis=1), axis=0)
    return mask


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per descriptor: how many rows it wins and its mean, for each group of Table I's columns. DataFrame, names as index."""
    wins, means = winners(table).iloc[:-1].sum(), table.iloc[-1]
    out: dict[str, dict[str, float]] = {}
    for group, title in GROUPS.items():
        for c in (c for c in table.columns if c.startswith(f"{group} ")):
            out.setdefault(f"{title}: mean", {})[c.split()[1]] = float(means[c])
            out.setdefault(f"{title}: rows won", {})[c.split()[1]] = int(wins[c])
    return pd.DataFrame(out).rename(NAMES)


def style(table: pd.DataFrame, escape: Literal["html", "latex"] = "html") -> Styler:
    """Table I as a pandas Styler, the winner of each row in bold. escape: "html" or "latex", for which it is meant."""
    shown = table.copy()
    names = SYMBOLS if escape == "latex" else NAMES
    shown.columns = pd.MultiIndex.from_tuples(
        [(GROUPS[c.split()[0]], names[c.split()[1]]) if c.split()[0] in GROUPS else ("", c) for c in table.columns])
    bold = winners(table).map(lambda won: "font-weight: bold" if won else "")
    bold.columns = shown.columns
    return (shown.style.hide(axis="index").apply(lambda _: bold, axis=None).set_uuid("table1")
            .format(precision=6, na_rep="", escape=escape))


def markdown(table: pd.DataFrame, mask: pd.DataFrame | None = None, float_format: str = "%.6f") -> str:
    """A DataFrame as a Markdown table (str); cells that `mask` marks in bold."""
    def cell(value: Any, bold: bool) -> str:
        text = "" if pd.isna(value) else float_format % value if isinstance(value, float) else str(value)
        text = text.replace("|", "\\|")
        return f"**{text}**" if bold else text

    mask = np.zeros(table.shape, bool) if mask is None else mask.to_numpy()
    rows: list[Iterable[Any]] = [table.columns, ["---"] * table.shape[1]]
    rows += [[cell(v, m) for v, m in zip(row, marks)] for row, marks in zip(table.itertuples(index=False), mask)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n"
