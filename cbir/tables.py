"""Table I: histogram distances per query and descriptor, ours beside the paper's."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from .color import color_histogram, histogram_distance, published_distances
from .common import ROOT
from .evaluation import Ints, Values
from .images import Images, UnreadableImage, open_image
from .names import plain_name, symbol

PAPER = ROOT / "data" / "paper"
PUBLISHED = {"IM": "im", "full_average": "average", "pyramid_pooling": "pyramid"}  # theirs: ours
GROUPS = {"printed": "L1 / 75", "published": "published formula", "paper": "the paper's"}
TABLES = {  # Table I is shown as two, since the paper's queries are other pictures
    "Table I of these queries: L1 / 75": "printed",
    "Table I of the paper's queries, as it prints it": "paper",
}
DIGITS = 4  # decimals of Table I as it is shown


def color_histograms(images: Images, rows: Iterable[int]) -> dict[int, Values]:
    """Computes colour histograms, {row: (75,) array}; NaN, with a warning, if unreadable by now."""
    histograms = {int(row): np.full(75, np.nan) for row in rows}
    for _ in _pixels(images, [*histograms], histograms):
        pass  # one after the other
    return histograms


def _pixels(images: Images, rows: Iterable[int], seen: dict[int, Values]) -> Iterator[Any]:
    """Opens images, one at a time, and adds their colour histograms to `seen` by row.

    Files that vanished after they were described are left out, with a warning.
    """
    for row in rows:
        try:
            pixels = np.asarray(open_image(images.path(row)))
        except UnreadableImage as error:
            text = f"{images.files[row]} is left out of the colour histograms: {error}"
            warnings.warn(text, stacklevel=3)
        else:
            seen[row] = color_histogram(pixels)
            yield pixels


def table1(
    queries: Images, database: Images, hits: dict[str, Ints], rows: list[int], papers: bool = True
) -> pd.DataFrame:
    """Computes Table I for some queries.

    Args:
        queries: an `ImageSet` or a store.
        database: the one that was searched.
        hits: {descriptor: (Q, k) rows of the database}.
        rows: of the queries.
        papers: whether the paper's numbers stand beside these.

    Returns:
        A row per query, and one with the means. Columns query, class, then per descriptor d
        "printed d" (L1 / 75), "published d" (the formula behind the printed numbers) and "paper d"
        (Table I itself, of other queries). Images that cannot be read any more are left out of the
        means; a query that cannot has NaN.
    """
    lines = []
    for number, row in enumerate(rows, start=1):
        line = {"query": number, "class": queries.labels[row]}
        of_query: dict[int, Values] = {}
        for query in _pixels(queries, [row], of_query):
            for descriptor, indices in hits.items():
                seen: dict[int, Values] = {}
                published = published_distances(query, _pixels(database, indices[row], seen))
                if seen:
                    printed = histogram_distance(of_query[row], list(seen.values()))
                    line[f"printed {descriptor}"] = printed.mean()
                    line[f"published {descriptor}"] = published.mean()
        lines.append(line)
    columns = [f"{group} {descriptor}" for group in ("printed", "published") for descriptor in hits]
    table = pd.DataFrame(lines, columns=["query", "class", *columns])
    means = table[columns].mean()
    if papers:
        paper = pd.read_csv(PAPER / "table1.csv").rename(columns=PUBLISHED)
        paper = paper.set_index("query").add_prefix("paper ")
        table = table.join(paper, on="query")
        means = pd.concat([means, paper.mean()])  # of all its ten, however many are shown here
    last = means.to_frame().T.assign(query="mean", **{"class": ""})
    return pd.concat([table, last], ignore_index=True)[list(table.columns)]


def published_means(n: int = 5) -> pd.DataFrame:
    """Reads the mean published distances: a row per query, a column per descriptor.

    Args:
        n: 5: the paper's Figs 7-10 and its authors' later baselines. Up to 10: the first n columns
            of their first result pictures.
    """
    file = "published_histogram_distances.csv" if n == 5 else "published_top10.csv"
    printed = pd.read_csv(PAPER / file)
    printed = printed[printed.position <= n]
    means = printed.groupby(["query", "descriptor"]).distance.mean().unstack()
    means = means[printed.descriptor.unique()]  # in their order
    return means.rename(columns=PUBLISHED).rename_axis(columns=None)


def _winners(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns Table I's distances, and which are the smallest of a row and group in `DIGITS`.

    Columns have two levels, a group and a descriptor.
    """
    columns = [column for column in table.columns if column.split()[0] in GROUPS]
    heads = pd.MultiIndex.from_tuples([tuple(column.split(" ", 1)) for column in columns])
    distances = table[columns].astype(float).set_axis(heads, axis=1)
    shown = distances.round(DIGITS)
    return distances, shown.eq(shown.T.groupby(level=0).transform("min").T)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Counts the rows of Table I (of `table1`) that a descriptor wins, beside its mean.

    Returns:
        A row per descriptor, by name; "<group>: mean" and "<group>: rows won" for each group, <NA>
        if a group does not have it. A row that several win counts for each.
    """
    distances, winners = _winners(table)
    won, columns = winners.iloc[:-1].sum(), {}
    for group in distances.columns.unique(level=0):
        columns[f"{GROUPS[group]}: mean"] = distances.iloc[-1][group]
        columns[f"{GROUPS[group]}: rows won"] = won[group]
    summed = pd.DataFrame(columns, index=distances.columns.unique(level=1))
    return summed.convert_dtypes().rename(plain_name)  # counts stay whole numbers


def _two_tables(table: pd.DataFrame, name: Callable[[str], str]) -> Iterator[Any]:
    """Yields title, cells as text ("=" if several win a row) and which are bold, of each table.

    The paper's is left out if the table has none of its numbers.
    """
    distances, won = _winners(table)
    tied = won & (won.T.groupby(level=0).transform("sum").T > 1)
    text = distances.map(f"{{:.{DIGITS}f}}".format).mask(distances.isna(), "")
    text = text.mask(tied, text + " =")
    about = table[["query", "class"] if table["class"].any() else ["query"]].astype(object)
    for title, group in TABLES.items():
        if group in text:
            cells = about[["query"] if group == "paper" else [*about]].join(text[group])
            bold = pd.DataFrame(won[group]).reindex(columns=cells.columns, fill_value=False)
            heads = ["IM" if (group, d) == ("paper", "im") else name(str(d)) for d in cells]
            yield title, cells.set_axis(heads, axis=1), bold.set_axis(heads, axis=1)


def to_html(table: pd.DataFrame) -> str:
    """Typesets Table I as two tables for a page, the winners of each row in bold."""
    parts = enumerate(_styled(table, plain_name, "html"))
    return "<br>\n".join(part.set_uuid(f"table1_{n}").to_html() for n, part in parts)


def to_latex(table: pd.DataFrame) -> str:
    """Typesets Table I as two tables for LaTeX, the winners of each row in bold."""
    parts = _styled(table, symbol, "latex")
    return "\n".join(part.to_latex(convert_css=True, hrules=True) for part in parts)


def _styled(table: pd.DataFrame, name: Callable[[str], str], escape: Any) -> Iterator[Styler]:
    """Typesets the two tables, for "html" or "latex"."""
    for title, text, bold in _two_tables(table, name):
        styled = text.style.hide(axis="index").set_caption(title).format(escape=escape)
        weights = bold.map({True: "font-weight: bold", False: ""}.get)
        yield styled.apply(lambda _, weights: weights, axis=None, weights=weights)


def to_markdown(table: pd.DataFrame) -> str:
    """Writes Table I as two tables in Markdown, the winners of each row in bold."""
    pages = []
    for title, text, bold in _two_tables(table, plain_name):
        pages.append(f"{title}\n\n{markdown(text, bold.to_numpy())}")
    return "\n".join(pages)


def markdown(table: pd.DataFrame, bold: Any = False) -> str:
    """Writes a table in Markdown, floats with six decimals; an array of bool tells bold cells."""

    def write(value: object) -> str:
        text = f"{value:.6f}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|")

    text = table.astype(object).map(write, na_action="ignore").fillna("")
    text = text.mask(np.broadcast_to(bold, text.shape), "**" + text + "**")
    lines = [map(write, table.columns), ["---"] * table.shape[1], *text.to_numpy()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
