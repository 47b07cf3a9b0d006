"""Table I: histogram distances per query and descriptor, ours beside the paper's."""

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
PUBLISHED = {"IM": "im", "full_average": "average", "pyramid_pooling": "pyramid"}  # theirs: ours
FORMULAS: dict[str, dict[str, bool]] = {  # `published_distances`, and without its two oddities
    "published": {},
    "no overflow": dict(overflow=False),
    "no clipping": dict(clip=False),
    "neither": dict(overflow=False, clip=False),
}
GROUPS = {"printed": "L1 / 75", "published": "published formula", "paper": "the paper's"}

Picture = NDArray[np.uint8]  # (H, W, 3)


def color_histograms(
    store: Images, rows: Iterable[int] | NDArray[np.integer]
) -> dict[int, NDArray[np.float64]]:
    """Computes the colour histograms of some images; every file is read once.

    Args:
        store: an `ImageSet` or a store.
        rows: of the images.

    Returns:
        {row: (75,) array}.
    """
    return {row: color_histogram(image) for row, image in _open(store, rows).items()}


def _open(images: Images, rows: Iterable[int] | NDArray[np.integer]) -> dict[int, Picture]:
    """{row: its image}."""
    return {int(row): np.asarray(open_image(images.path(row))) for row in rows}


def table1(
    queries: Images,
    database: Images,
    hits: Mapping[str, NDArray[np.integer]],
    rows: Sequence[int],
) -> pd.DataFrame:
    """Computes Table I for some queries.

    Args:
        queries: an `ImageSet` or a store.
        database: the `ImageSet` or store that was searched.
        hits: {descriptor: (Q, k) rows of the database}.
        rows: of the queries.

    Returns:
        A row a query, and a last one with the means. Columns query, class, then for every
        descriptor d "printed d" (L1 / 75), "published d" (the formula behind the printed numbers)
        and "paper d" (Table I itself, whose queries are others).
    """
    found = {descriptor: indices[rows] for descriptor, indices in hits.items()}  # (len(rows), k)
    query_images = _open(queries, rows)
    images = _open(database, np.unique(np.concatenate([*map(np.ravel, found.values())])))
    query_histograms = [color_histogram(query_images[row]) for row in rows]
    histograms = {row: color_histogram(image) for row, image in images.items()}
    printed = {}
    published = {}
    for descriptor, indices in found.items():
        by_l1 = []
        by_formula = []
        for row, query_histogram, nearest in zip(rows, query_histograms, indices):
            of_nearest = [histograms[j] for j in nearest]
            by_l1.append(np.mean(histogram_distance(query_histogram, of_nearest)))
            nearest_images = [images[j] for j in nearest]
            by_formula.append(published_distances(query_images[row], nearest_images).mean())
        printed[f"printed {descriptor}"] = by_l1
        published[f"published {descriptor}"] = by_formula
    about = {
        "query": range(1, len(rows) + 1),
        "class": [queries.labels[row] for row in rows],
    }
    return _beside_the_papers(pd.DataFrame(about | printed | published))


def _beside_the_papers(table: pd.DataFrame) -> pd.DataFrame:
    """Table I with the columns of the paper's, and a row of means."""
    paper = pd.read_csv(PAPER / "table1.csv").rename(columns=PUBLISHED)
    paper = paper.set_index("query").add_prefix("paper ")
    table = table.join(paper, on="query")
    means = table.drop(columns=["query", "class"]).mean()
    means[paper.columns] = paper.mean()  # of the paper's ten, however many are shown here
    last = means.to_frame().T.assign(query="mean", **{"class": ""})
    return pd.concat([table, last], ignore_index=True)[list(table.columns)]


def published_means() -> pd.DataFrame:
    """Reads the distances printed in Figs 7-10 and for the later baselines, the mean of every row.

    Returns:
        A row a query, a column a descriptor.
    """
    printed = pd.read_csv(PAPER / "published_histogram_distances.csv")
    means = printed.groupby(["query", "descriptor"]).distance.mean().unstack()
    in_order = means[printed.descriptor.unique()]
    return in_order.rename(columns=PUBLISHED).rename_axis(columns=None)


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """Marks where a row of Table I has its smallest distance, within each group of columns.

    Args:
        table: what `table1` gives.

    Returns:
        A bool table like it.
    """
    mask = pd.DataFrame(False, table.index, table.columns)
    for columns in _grouped(table).values():
        values = table[columns].astype(float)
        mask[columns] = values.eq(values.min(axis=1), axis=0)
    return mask


def _grouped(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of every group of Table I: {group: columns}."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for column in table.columns:
        group = column.split()[0]
        if group in groups:
            groups[group].append(column)
    return groups


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Counts the rows of Table I that a descriptor wins, beside its mean.

    Args:
        table: what `table1` gives.

    Returns:
        A row a descriptor, by name; "<group>: mean" and "<group>: rows won" for each group.
    """
    won = winners(table).iloc[:-1].sum()
    means = table.iloc[-1]
    summed: dict[str, dict[str, float]] = {}
    for group, columns in _grouped(table).items():
        for column in columns:
            descriptor = column.split()[1]
            title = GROUPS[group]
            summed.setdefault(f"{title}: mean", {})[descriptor] = float(means[column])
            summed.setdefault(f"{title}: rows won", {})[descriptor] = int(won[column])
    return pd.DataFrame(summed).rename(NAMES)


def style(table: pd.DataFrame, escape: Literal["html", "latex"] = "html") -> Styler:
    """Typesets Table I, the winner of each row in bold.

    Args:
        table: what `table1` gives.
        escape: "html" or "latex", for which it is meant.

    Returns:
        A pandas `Styler`.
    """
    names = SYMBOLS if escape == "latex" else NAMES
    heads = []
    for column in table.columns:
        group, _, descriptor = column.partition(" ")
        heads.append((GROUPS[group], names[descriptor]) if group in GROUPS else ("", column))
    columns = pd.MultiIndex.from_tuples(heads)
    bold = winners(table).map(lambda won: "font-weight: bold" if won else "")
    bold.columns = columns
    shown = table.set_axis(columns, axis=1).style.hide(axis="index")
    shown = shown.apply(lambda _: bold, axis=None).set_uuid("table1")
    return shown.format(precision=6, na_rep="", escape=escape)


def markdown(
    table: pd.DataFrame, mask: pd.DataFrame | None = None, float_format: str = "%.6f"
) -> str:
    """Writes a table in Markdown.

    Args:
        table: any DataFrame.
        mask: which of its cells are bold; default none.
        float_format: how a float is written.

    Returns:
        The text, one line a row.
    """
    bold = np.zeros(table.shape, bool) if mask is None else mask.to_numpy()
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    for values, marks in zip(table.itertuples(index=False), bold):
        cells = [_cell(value, float_format) for value in values]
        lines.append([f"**{c}**" if mark else c for c, mark in zip(cells, marks)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any, float_format: str) -> str:
    """One value as the text of a Markdown table."""
    if pd.isna(value):
        return ""
    text = float_format % value if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
