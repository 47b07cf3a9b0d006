"""Table I: as CSV, Markdown, LaTeX and HTML, winners marked, and the paper's own."""

import re

import pandas as pd
import pytest
from conftest import read_page

import cbir
from cbir import tables


@pytest.fixture
def run(tmp_path):
    return cbir.Run("test", tmp_path)


def table(names=("cat", "R&D 5 %", "a_b|c"), tagged=""):
    """A Table I of three queries: eta is the best for query 1, eta_conv for 2, both for 3."""
    rows = pd.DataFrame({"query": [1, 2, 3, "mean"], "class": [*names, tagged]})
    for group in tables.GROUPS:
        rows[f"{group} eta_conv"] = [0.25, 1 / 3, 0.5, 0.36111]
        rows[f"{group} eta"] = [0.125, 0.75, 0.5, 0.45833]
    rows.loc[0, ["paper eta_conv", "paper eta"]] = float("nan")
    return rows


def test_table_1_as_csv(run):
    run.save_table1(table())
    missing = {"paper eta": [""], "paper eta_conv": [""]}
    read = pd.read_csv(run.path / "table1.csv", keep_default_na=False, na_values=missing)
    assert list(read) == list(table()) and read["class"].tolist() == ["cat", "R&D 5 %", "a_b|c", ""]
    pd.testing.assert_frame_equal(read.iloc[:, 2:], table().iloc[:, 2:].round(6))
    assert "0.333333" in (run.path / "table1.csv").read_text(encoding="utf-8")


def test_table_1_as_markdown(run):
    """Two tables, three decimals, winners of each group in bold, no cell that breaks its row."""
    run.save_table1(table())
    text = (run.path / "table1.md").read_text(encoding="utf-8")
    first, second = [part.splitlines() for part in re.findall(r"(?:^\|.+\n)+", text, re.M)]
    for lines, bars in [(first, 5), (second, 7)]:
        assert len(lines) == 6
        assert all(len(re.findall(r"(?<!\\)\|", line)) == bars for line in lines)
    cells = [[c.strip() for c in line.split("|")[3:5]] for line in first[2:4]]
    assert cells == [["0.250", "**0.125**"], ["**0.333**", "0.750"]]
    assert "**0.500 =** | **0.500 =**" in first[4]  # both are marked
    assert second[0].split(" | ")[2:] == ["η̃", "η", "η̃, paper", "η, paper |"]
    assert second[2].endswith("| 0.250 | **0.125** |  |  |")  # the paper's row is missing


def test_table_1_as_latex(run):
    """Nothing in it that LaTeX takes for a command."""
    run.save_table1(table())
    tex = (run.path / "table1.tex").read_text(encoding="utf-8")
    assert "\\bfseries 0.125 " in tex and "\\bfseries 0.500 = " in tex
    assert tex.count("\\begin{tabular}") == 2
    mathematics = r"\$\\tilde\{\\eta\}\$|\$\\eta\$"
    plain = re.sub(mathematics, "", tex.replace("R\\&D", ""))
    assert not re.search(r"(?<!\\)[_%$]|D&|&D", plain), plain


def test_table_1_as_html(run):
    run.save_table1(table(["<b>bold</b>", "a", "b"]))
    page = read_page(run.path / "table1.html")
    assert not page.find_all("b")
    first, second = page.find_all("table")
    assert [len(part.find_all("tr")) for part in (first, second)] == [6, 6]
    heads = [head.get_text() for head in second.find_all("th", class_="level1")]
    assert heads == ["query", "class", "η̃", "η", "η̃", "η"]
    assert "0.500 =" in first.get_text() and "0.333333" not in first.get_text()


def test_equal_distances_are_all_winners():
    """Equal means: in the decimals that are shown."""
    rows = pd.DataFrame({"printed h": [0.10004, 0.1], "printed eta": [0.09996, 0.2]})
    assert tables.winners(rows).to_numpy().tolist() == [[True, True], [True, False]]
    assert tables.as_text(rows)["printed h"].tolist() == ["0.100 =", "0.100"]


def test_what_each_descriptor_won_in_table_1():
    """A row that two win counts for both; what a group does not have is missing, not 0."""
    summary = tables.summary(table().drop(columns="paper eta"))
    assert summary["L1 / 75: rows won"].tolist() == [2, 2]
    assert summary.loc["η", "L1 / 75: mean"] == pytest.approx(0.45833)
    assert summary["the paper's: rows won"].isna().tolist() == [False, True]
    assert str(summary["the paper's: rows won"].dtype) == "Int64"


def test_table_1_files(run):
    run.save_table1(table())
    files = sorted(p.name for p in run.path.iterdir() if p.is_file())
    assert files == ["table1.csv", "table1.html", "table1.md", "table1.tex"]


def test_the_papers_numbers_make_its_table():
    """Table I is the means of the numbers under Figs 7-10; the last digit of one is an erratum."""
    means = tables.published_means()
    table = pd.read_csv(tables.PAPER / "table1.csv").rename(columns={"IM": "im"}).set_index("query")
    off = (means[table.columns] - table).abs()
    assert list(means.columns[:4]) == ["im", "h", "eta_conv", "eta"] and len(means) == 10
    assert (off > 6e-7).sum().sum() == 1 and off.loc[6, "eta_conv"] == off.max().max() < 2e-6
    assert means.isna().sum().to_dict() == {c: int(c == "average") for c in means.columns}
