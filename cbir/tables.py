"""Table I: histogram distances per query and descriptor, ours beside the paper's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.io.formats.style import Styler

from .color import color_histogram, histogram_distance, published_distances
from .common import ROOT
from .images import Images, open_image
from .names import plain_name, symbol

PAPER = ROOT / "data" / "paper"
PUBLISHED = {"IM": "im", "full_average": "average", "pyramid_pooling": "pyramid"}  # theirs: ours
FORMULAS: dict[str, dict[str, bool]] = {  # `published_distances`, and without its two oddities
    "published": {},
    "no overflow": dict(overflow=False),
    "no clipping": dict(clip=False),
    "neither": dict(overflow=False, clip=False),
}
GROUPS = {"printed": "L1 / 75", "published": "published formula", "paper": "the paper's"}
TABLES = {  # Table I is shown as two
    "Table I, by the text: L1 / 75": ["printed"],
    "Table I, by the formula behind the paper's figures": ["published", "paper"],
}
DIGITS = 3  # decimals of Table I as it is shown

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
    papers: bool = True,
) -> pd.DataFrame:
    """Computes Table I for some queries.

    Args:
        queries: an `ImageSet` or a store.
        database: the `ImageSet` or store that was searched.
        hits: {descriptor: (Q, k) rows of the database}.
        rows: of the queries.
        papers: whether the paper's numbers stand beside these.

    Returns:
        A row a query, and a last one with the means. Columns query, class, then for every
        descriptor d "printed d" (L1 / 75), "published d" (the formula behind the printed numbers)
        and, with `papers`, "paper d" (Table I itself, whose queries are others).
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
    table = pd.DataFrame(about | printed | published)
    means = table.drop(columns=["query", "class"]).mean()
    if papers:
        paper = pd.read_csv(PAPER / "table1.csv").rename(columns=PUBLISHED)
        paper = paper.set_index("query").add_prefix("paper ")
        table = table.join(paper, on="query")
        means = pd.concat([means, paper.mean()])  # of all its ten, however many are shown here
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

    Distances that are equal in `DIGITS` decimals are both marked.

    Args:
        table: what `table1` gives, or some of its columns.

    Returns:
        A bool table like it.
    """
    mask = pd.DataFrame(False, table.index, table.columns)
    for columns in _grouped(table).values():
        values = table[columns].astype(float).round(DIGITS)
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
        A row a descriptor, by name; "<group>: mean" and "<group>: rows won" for each group, <NA>
        where a group does not have it. A row that several win counts for each.
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
    return pd.DataFrame(summed).convert_dtypes().rename(plain_name)  # counts stay whole numbers


def two_tables(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Splits Table I: by the text's formula; by the published one, beside the paper's numbers.

    Args:
        table: what `table1` gives.

    Returns:
        {title: table with the columns query, class (where there are classes) and its own}.
    """
    grouped = _grouped(table)
    about = ["query", "class"] if table["class"].any() else ["query"]
    tables = {}
    for title, groups in TABLES.items():
        columns = [column for group in groups for column in grouped[group]]
        tables[title] = table[[*about, *columns]]
    return tables


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Writes the distances of Table I with `DIGITS` decimals, and "=" where several win a row.

    Args:
        table: what `table1` gives, or some of its columns.

    Returns:
        A table of str like it; "" for a distance that is not there.
    """
    mask = winners(table)
    text = table.astype(object)
    for columns in _grouped(table).values():
        tied = mask[columns].sum(axis=1) > 1
        for column in columns:
            equal = tied & mask[column]
            text[column] = [_distance(x, sign) for x, sign in zip(table[column], equal)]
    return text


def _distance(value: float, is_tied: bool) -> str:
    """One distance of Table I as text."""
    if pd.isna(value):
        return ""
    return f"{value:.{DIGITS}f}" + (" =" if is_tied else "")


def to_html(table: pd.DataFrame) -> str:
    """Typesets Table I as two tables for a page, the winners of each row in bold."""
    pages = []
    for number, (title, part) in enumerate(two_tables(table).items()):
        styled = _style(part, title, "html").set_uuid(f"table1_{number}")
        pages.append(styled.to_html())
    return "<br>\n".join(pages)


def to_latex(table: pd.DataFrame) -> str:
    """Typesets Table I as two tables for LaTeX, the winners of each row in bold."""
    styled = [_style(part, title, "latex") for title, part in two_tables(table).items()]
    return "\n".join(part.to_latex(convert_css=True, hrules=True) for part in styled)


def to_markdown(table: pd.DataFrame) -> str:
    """Writes Table I as two tables in Markdown, the winners of each row in bold."""
    pages = []
    for title, part in two_tables(table).items():
        heads = []
        for group, descriptor in _heads(part, plain_name):
            of_paper = group == GROUPS["paper"]
            heads.append(f"{descriptor}, paper" if of_paper else descriptor)
        lines = markdown(as_text(part).set_axis(heads, axis=1), winners(part))
        pages.append(f"{title}\n\n{lines}")
    return "\n".join(pages)


def _style(table: pd.DataFrame, title: str, escape: Literal["html", "latex"]) -> Styler:
    """One of the two tables, typeset."""
    columns = pd.MultiIndex.from_tuples(_heads(table, symbol if escape == "latex" else plain_name))
    bold = winners(table).map(lambda won: "font-weight: bold" if won else "")
    bold.columns = columns
    shown = as_text(table).set_axis(columns, axis=1).style.hide(axis="index")
    shown = shown.apply(lambda _: bold, axis=None).set_caption(title)
    return shown.format(escape=escape)


def _heads(table: pd.DataFrame, name: Callable[[str], str]) -> list[tuple[str, str]]:
    """What stands above a column of Table I: its group and its descriptor, ("", "class")."""
    heads = []
    for column in table.columns:
        group, _, descriptor = column.partition(" ")
        heads.append((GROUPS[group], name(descriptor)) if group in GROUPS else ("", column))
    return heads


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


def published_common() -> "pd.Series[int]":
    """How many of 50 images two descriptors found alike, in the authors' published pictures.

    Returns:
        {"h and η̃": 0, ..}: ten queries of five images, a pair of descriptors a row.
    """
    printed = pd.read_csv(PAPER / "published_common_hits.csv")
    pairs = zip(printed.descriptor.map(plain_name), printed.other.map(plain_name))
    return pd.Series(printed.common.to_numpy(), [f"{a} and {b}" for a, b in pairs])
