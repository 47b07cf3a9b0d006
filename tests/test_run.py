"""The folder of a run: what is written, and that the report holds it all, safely."""

import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cbir
from cbir import tables

CAPTION = "Fig. 6. Retrieved by $\\eta$ – „ünï“ 日本, <script>alert(1)</script> & \"quotes\""


@pytest.fixture
def run(tmp_path):
    return cbir.Run("test", tmp_path)


@pytest.fixture
def figure():
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([1, 2])
    yield fig
    plt.close(fig)


# ---- the folder -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["embedded", "run_2", "2026-01-01", "v1.2", "größe"])
def test_names(tmp_path, name):
    run = cbir.Run(name, tmp_path)
    assert run.path == tmp_path / name and (tmp_path / name / "figures").is_dir()
    assert cbir.Run(name, tmp_path).path == run.path          # again: the same folder


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "/a", "~", "-rf", ".hidden", "a b", "a\n", "a\0", "$HOME", "a:b", "*"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no run name"):
        cbir.Run(name, tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "by variable"))
    assert cbir.Run("a").path == tmp_path / "by variable" / "a"
    assert cbir.Run("a", tmp_path / "by argument").path == tmp_path / "by argument" / "a"
    assert cbir.Run().name == "embedded"


# ---- metrics, figures, tables -----------------------------------------------------------------------------------------------

def test_records_add_up(run):
    assert run.metrics == {}
    run.record(images={"database": 3}, command="cbir reproduce")
    run.record(command="cbir reproduce --profile folder", name="ü")
    assert run.metrics == {"images": {"database": 3}, "command": "cbir reproduce --profile folder", "name": "ü"}
    assert json.loads((run.path / "metrics.json").read_text(encoding="utf-8")) == cbir.Run("test", run.path.parent).metrics


def test_a_record_that_fails_leaves_the_old_one(run):
    run.record(a=1)
    with pytest.raises(TypeError):
        run.record(b=object())
    assert run.metrics == {"a": 1} and [p.name for p in run.path.iterdir() if p.is_file()] == ["metrics.json"]


def test_figures_carry_their_caption(run, figure):
    run.save_figure(figure, "fig06", CAPTION)
    with Image.open(run.path / "figures" / "fig06.png") as image:
        assert image.info["Description"] == CAPTION
    pdf = (run.path / "figures" / "fig06.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Subject" in pdf and b"CreationDate" not in pdf


def test_a_figure_is_the_same_file_when_drawn_again(run, figure):
    for name in ("a", "b"):
        run.save_figure(figure, name, "Fig. 1.")
    for suffix in ("png", "pdf"):
        assert (run.path / "figures" / f"a.{suffix}").read_bytes() == (run.path / "figures" / f"b.{suffix}").read_bytes()


def table(names=("cat", "R&D 5 %", "a_b|c"), tagged=""):
    """A Table I of three queries: eta is the best for query 1, eta_conv for 2, both for 3."""
    rows = pd.DataFrame({"query": [1, 2, 3, "mean"], "class": [*names, tagged]})
    for group in tables.GROUPS:
        for descriptor, values in {"eta_conv": [0.25, 1 / 3, 0.5, 0.36111], "eta": [0.125, 0.75, 0.5, 0.45833]}.items():
            rows[f"{group} {descriptor}"] = values if group != "paper" else [float("nan"), *values[1:]]
    return rows


def test_table_1_as_csv(run):
    run.save_table1(table())
    read = pd.read_csv(run.path / "table1.csv", keep_default_na=False, na_values={f"paper {d}": [""] for d in ("eta", "eta_conv")})
    assert list(read) == list(table()) and read["class"].tolist() == ["cat", "R&D 5 %", "a_b|c", ""]
    pd.testing.assert_frame_equal(read.iloc[:, 2:], table().iloc[:, 2:].round(6))
    assert "0.333333" in (run.path / "table1.csv").read_text(encoding="utf-8")


def test_table_1_as_markdown(run):
    """Six decimals, the winners of each group in bold, and no cell that breaks its row."""
    run.save_table1(table())
    lines = (run.path / "table1.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6 and all(len(re.findall(r"(?<!\\)\|", line)) == 9 for line in lines)
    cells = [[c.strip() for c in line.split("|")[3:5]] for line in (lines[2], lines[3])]
    assert cells == [["0.250000", "**0.125000**"], ["**0.333333**", "0.750000"]]
    assert "nan" not in lines[2]


def test_table_1_as_latex(run):
    """Nothing in it that LaTeX takes for a command."""
    run.save_table1(table())
    tex = (run.path / "table1.tex").read_text(encoding="utf-8")
    assert "\\bfseries 0.125000" in tex or "\\textbf{0.125000}" in tex
    assert not re.search(r"(?<!\\)[_%]|D&|&D", tex.replace("R\\&D", "")), tex


def test_table_1_files(run):
    run.save_table1(table())
    assert sorted(p.name for p in run.path.iterdir() if p.is_file()) == [f"table1.{s}" for s in ("csv", "html", "md", "tex")]


def test_arrays(run):
    run.save_arrays("hits", indices=np.arange(6).reshape(2, 3), names=np.array(["ü", "b"]))
    loaded = run.load_arrays("hits")
    assert set(loaded) == {"indices", "names"} and loaded["names"].tolist() == ["ü", "b"]
    np.testing.assert_array_equal(loaded["indices"], np.arange(6).reshape(2, 3))
    out = np.lib.format.open_memmap(run.array_path("hits", "large"), "w+", np.float32, (4, 2))
    out[:] = 3
    run.save_arrays("hits", large=out)                                     # lies there already; the others go
    assert {k: v.tolist() for k, v in run.load_arrays("hits").items()} == {"large": [[3, 3]] * 4}
    run.save_arrays("none")
    assert run.load_arrays("none") == {}
    with pytest.raises(FileNotFoundError, match="no codes in runs/test: run the earlier notebooks first"):
        run.load_arrays("codes")


def test_results_replace_those_of_their_metrics(run):
    def rows(metric, *means):
        return pd.DataFrame([(metric, d, m, m - 0.1, m + 0.1) for d, m in zip(("h", "eta"), means)],
                            columns=["metric", "descriptor", "mean", "low", "high"])
    run.record_results(rows("class", 0.25, 0.5))
    run.record_results(rows("color", 0.125))
    run.record_results(rows("class", 0.75))
    assert sorted((r["metric"], r["descriptor"], r["mean"]) for r in run.metrics["results"]) == [("class", "h", 0.75), ("color", "h", 0.125)]


# ---- report -----------------------------------------------------------------------------------------------------------------

class Page(HTMLParser):
    """What a browser sees: tags, what they refer to, text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.references, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(run, figure):
    run.save_figure(figure, "fig06", CAPTION)
    run.save_figure(figure, "fig07", "Fig. 7. Another")
    run.save_table1(table(["<script>1</script>", "b", "c"]))
    run.record(parameters={"images": "<script>2</script>", "q": 0.5, "weights": None}, command="cbir reproduce -p images '<b>'",
               results=[{"metric": "class", "descriptor": "eta", "mean": 0.5, "low": 0.25, "high": 0.75}],
               images={"database": 12, "queries": 3}, unreadable={"<script>3</script>.jpg": "not an image <i>"},
               seconds={"00": 1.2}, versions={"torch": "2"})
    path = run.report()
    assert path == run.path / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_report_refers_to_nothing_outside(page):
    seen = Page(page)
    assert len(seen.references) == 2 and all(r.startswith("data:image/png;base64,") for r in seen.references)
    assert not {"script", "link", "iframe", "b", "i"} & set(seen.tags)
    assert "url(" not in page and "@import" not in page and "http" not in re.sub(r'base64,[^"]*', "", page)


def test_the_report_shows_everything_as_it_is(page):
    text = Page(page).text
    for part in (CAPTION, "Fig. 7. Another", "<script>1</script>", "<script>2</script>", "<script>3</script>.jpg", "not an image <i>",
                 "cbir reproduce -p images '<b>'", "0.5000", "0.2500 – 0.7500", "12 database images, 3 queries", "Table I", "0.333333", "torch"):
        assert part in text, part


def test_an_empty_run_has_a_report_too(run):
    assert "None was skipped" in Page(run.report().read_text(encoding="utf-8")).text


def test_the_report_can_be_written_again(run, figure):
    run.report()
    run.save_figure(figure, "fig01", "Fig. 1. The network")
    assert "Fig. 1. The network" in run.report().read_text(encoding="utf-8")


def test_the_papers_numbers_make_its_table():
    """Table I is the means of the numbers under Figs 7-10, but for the last digit of one (an erratum)."""
    means = tables.published_means()
    table = pd.read_csv(tables.PAPER / "table1.csv").rename(columns={"IM": "im"}).set_index("query")
    off = (means[table.columns] - table).abs()
    assert list(means.columns[:4]) == ["im", "h", "eta_conv", "eta"] and len(means) == 10
    assert (off > 6e-7).sum().sum() == 1 and off.loc[6, "eta_conv"] == off.max().max() < 2e-6
    assert means.isna().sum().to_dict() == {c: int(c == "average") for c in means.columns}
