"""Table I: its numbers, its four formats, pictures that vanish; what the paper prints."""

import itertools
import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import write_image
from PIL import Image

import cbir
from cbir import tables

HITS = {"h": np.array([[1, 2], [2, 3]]), "eta": np.array([[3, 1], [0, 2]])}


@pytest.fixture
def images(tmp_path):
    files = [write_image(tmp_path / f"{i}.png", seed=i).name for i in range(4)]
    return cbir.ImageSet(tmp_path, files, ["cat", "dog", "cat", "dog"])


def test_table_1_is_the_mean_distance_of_each_row(images):
    table = cbir.table1(images, images, HITS, [1, 0])
    columns = ["printed h", "printed eta", "published h", "published eta"]
    paper = ["paper im", "paper h", "paper eta_conv", "paper eta"]
    assert [*table] == ["query", "class", *columns, *paper]
    assert table[["query", "class"]].values.tolist() == [[1, "dog"], [2, "cat"], ["mean", ""]]
    for (line, row), (descriptor, indices) in itertools.product(enumerate([1, 0]), HITS.items()):
        paths = (images.path(j) for j in [row, *indices[row]])
        query, *found = (np.asarray(cbir.open_image(path)) for path in paths)
        histograms = [cbir.color_histogram(image) for image in found]
        by_text = cbir.histogram_distance(cbir.color_histogram(query), histograms).mean()
        assert table[f"printed {descriptor}"][line] == by_text
        by_formula = cbir.published_distances(query, found).mean()
        assert table[f"published {descriptor}"][line] == by_formula
    assert table[columns].iloc[2].tolist() == table[columns].iloc[:2].mean().tolist()
    assert table["paper eta"][2] == pytest.approx(0.1893, abs=1e-4)  # of all its ten queries
    assert [*cbir.table1(images, images, HITS, [1], papers=False)] == ["query", "class", *columns]


def test_pictures_that_vanished_are_left_out_of_histograms_and_table_1(images):
    images.path(2).unlink()
    images.path(3).write_text("no picture")
    with pytest.warns(UserWarning, match=r"[23]\.png is left out of the colour histograms: "):
        histograms = cbir.color_histograms(images, [0, 2, 3])
        table = cbir.table1(images, images, HITS, [0, 1, 2], papers=False)
    assert [np.isnan(histograms[row]).all() for row in (0, 2, 3)] == [False, True, True]
    only = cbir.histogram_distance(*cbir.color_histograms(images, [0, 1]).values())
    assert table["printed h"].tolist()[0] == only
    assert table["printed h"].isna().tolist() == [False, True, True, False]  # nothing it found
    assert table.iloc[2, 2:].isna().all() and table["printed h"][3] == only  # the query is gone


def test_table_1_holds_one_picture_at_a_time(tmp_path):
    def peak(n):
        hits = {"h": np.arange(n)[None], "eta": np.arange(n)[None]}
        tracemalloc.start()
        cbir.table1(images, images, hits, [0])
        cbir.color_histograms(images, range(n))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    for i in range(12):
        Image.new("RGB", (500, 400), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    images = cbir.list_images(tmp_path)
    peak(2)  # what is loaded once
    assert peak(12) < peak(2) + 500 * 400 * 3


def table(classes=("cat", "R&D 5 %", "a_b|c")):
    """A Table I of three queries: eta is the best for query 1, eta_conv for 2, both for 3."""
    rows = pd.DataFrame({"query": [1, 2, 3, "mean"], "class": [*classes, ""]})
    for group in tables.GROUPS:
        rows[f"{group} eta_conv"] = [0.25, 1 / 3, 0.500004, 0.36111]
        rows[f"{group} eta"] = [0.125, 0.75, 0.499996, 0.45833]
    rows.loc[0, ["paper eta_conv", "paper eta"]] = np.nan
    return rows


def test_markdown():
    """Two tables, four decimals, winners of each row in bold, no cell that breaks its row."""
    text = tables.to_markdown(table())
    first, second = [part.splitlines() for part in re.findall(r"(?:^\|.+\n)+", text, re.M)]
    for lines, bars in [(first, 5), (second, 4)]:
        assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [bars] * 6
    for line, end in zip(first[2:], ["0.2500 | **0.1250**", "**0.3333** | 0.7500"]):
        assert line.endswith(f"| {end} |")
    assert "**0.5000 =** | **0.5000 =**" in first[4]  # equal in four decimals
    assert second[0] == "| query | η̃ | η |" and second[2] == "| 1 |  |  |"  # its row is missing
    assert "paper" not in tables.to_markdown(table().drop(columns=["paper eta_conv", "paper eta"]))


def test_latex():
    """Nothing in it that LaTeX takes for a command."""
    tex = tables.to_latex(table())
    assert "\\bfseries 0.1250 " in tex and "\\bfseries 0.5000 = " in tex
    assert tex.count("\\begin{tabular}") == 2
    plain = re.sub(r"\$\\tilde\{\\eta\}\$|\$\\eta\$", "", tex.replace("R\\&D", ""))
    assert not re.search(r"(?<!\\)[_%$]|D&|&D", plain), plain


@pytest.mark.parametrize("classes, about", [(("<b>b</b>", "a", "b"), 2), (("", "", ""), 1)])
def test_html(classes, about):
    page = BeautifulSoup(tables.to_html(table(classes)), "html.parser")
    first, second = page.find_all("table")
    assert not page.find_all("b") and [len(t.find_all("tr")) for t in (first, second)] == [5, 5]
    heads = [[head.get_text() for head in t.find_all("th")] for t in (first, second)]
    assert heads[0] == [*["query", "class"][:about], "η̃", "η"]  # no column without classes
    assert heads[1] == ["query", "η̃", "η"]  # whose classes are not these
    assert "0.5000 =" in first.get_text() and "0.333333" not in first.get_text()


def test_what_each_descriptor_won():
    """A row that two win counts for both; what a group does not have is missing, not 0."""
    summary = tables.summary(table().drop(columns="paper eta"))
    assert summary["L1 / 75: rows won"].to_dict() == {"η̃": 2, "η": 2}
    assert summary.loc["η", "L1 / 75: mean"] == pytest.approx(0.45833)
    assert summary["the paper's: rows won"].isna().tolist() == [False, True]
    assert str(summary["the paper's: rows won"].dtype) == "Int64"


def test_the_papers_numbers_make_its_table():
    """Table I is the means of the numbers under Figs 7-10; the last digit of one is an erratum."""
    means = tables.published_means()
    printed = pd.read_csv(tables.PAPER / "table1.csv", index_col="query")
    printed = printed.rename(columns={"IM": "im"})
    off = (means[printed.columns] - printed).abs()
    assert list(means.columns[:4]) == ["im", "h", "eta_conv", "eta"] and len(means) == 10
    assert (off > 6e-7).sum().sum() == 1 and off.loc[6, "eta_conv"] == off.max().max() < 2e-6
    assert means.isna().sum().to_dict() == {c: int(c == "average") for c in means.columns}


def test_the_papers_five_are_the_first_of_the_ten_published_columns():
    """All 200 numbers of Figs 7-10; and what the ten say of η against the other three."""
    keys = ["descriptor", "query", "position"]
    ten = pd.read_csv(tables.PAPER / "published_top10.csv").set_index(keys).distance
    five = pd.read_csv(tables.PAPER / "published_histogram_distances.csv").set_index(keys).distance
    assert len(ten) == 400 and ten.index.is_unique
    first = ten[ten.index.get_level_values("position") <= 5]
    assert first.equals(five[first.index]) and len(first) == 200
    means = tables.published_means(10)
    rounded = {"im": 0.2577, "h": 0.2532, "eta_conv": 0.2182, "eta": 0.1925}
    assert means.mean().round(4).to_dict() == rounded
    assert (means.idxmin(axis=1) == "eta").sum() == 8
    p = {d: cbir.paired_difference(means["eta"], means[d]).p for d in rounded if d != "eta"}
    assert p == {"im": 2 / 1024, "h": 4 / 1024, "eta_conv": 24 / 1024}
