"""The folder of a run: what is written, and that the report holds it all, safely."""

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import check_self_contained, read_page
from PIL import Image

import cbir
from cbir import checks, cli, estimate, notebooks, report, studies, tables
from cbir.run import open_run

CAPTION = 'Fig. 6. Retrieved by $\\eta$ – „ünï“ 日本, <script>alert(1)</script> & "quotes"'


@pytest.fixture
def run(tmp_path):
    return cbir.Run("test", tmp_path)


@pytest.fixture
def figure():
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([1, 2])
    yield fig
    plt.close(fig)


# ---- the folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embedded", "run_2", "2026-01-01", "v1.2", "größe"])
def test_names(tmp_path, name):
    run = cbir.Run(name, tmp_path)
    assert run.path == tmp_path / name and not run.path.exists()  # a slip leaves no folder
    run.record(k=5)
    assert cbir.Run(name, tmp_path).metrics == {"k": 5}


ELSEWHERE = ["", ".", "..", "../x", "a/b", "a\\b", "/a", "~", "-rf", ".hidden", "a b", "a\n", "a\0"]


@pytest.mark.parametrize("name", [*ELSEWHERE, "$HOME", "a:b", "*"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no run name"):
        cbir.Run(name, tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "by variable"))
    assert cbir.Run("a").path == tmp_path / "by variable" / "a"
    assert cbir.Run("a", tmp_path / "by argument").path == tmp_path / "by argument" / "a"
    assert cbir.Run().name == "embedded"


# ---- both parts described -----------------------------------------------------------------------


def test_both_parts_of_a_profile_are_described_into_the_run(run, folder):
    net, database, queries = run.describe(
        "folder", folder, weights=None, device="cpu", recipe="as_released", q=0.25, dtype="float16"
    )
    assert net.name == "embedded" and database.recipe == cbir.AS_RELEASED | {"q": 0.25}
    assert (len(database), len(queries)) == (9, 2)
    stores = run.path / "stores"
    assert sorted(p.name for p in stores.iterdir() if p.is_dir()) == ["database", "queries"]
    again = run.describe(
        "folder",
        folder,
        network=net,
        recipe="as_released",
        q=0.25,
        dtype="float16",
    )
    assert again.database.computed == again.queries.computed == 0 and again.net is net


@pytest.mark.parametrize("start, found", [("a/", ["a"]), ("a_", ["a_database", "a_queries"])])
def test_parts_that_are_loaded_already_are_taken_as_they_are(run, folder, tiny_net, start, found):
    images = cbir.list_images(folder)
    net, database, queries = run.describe(
        images=images[[0, 1]],
        queries=images[[6]],
        network=tiny_net,
        extras={"color": "color"},
        folder=start,
    )
    assert net is tiny_net
    assert database.files == images.files[:2]
    assert queries["color"].shape == (1, 75)
    assert sorted(p.name for p in (run.path / "stores").iterdir() if p.is_dir()) == found
    with pytest.raises(ValueError, match="both be an ImageSet"):
        run.describe(images=images, network=tiny_net)


# ---- how long it will take ----------------------------------------------------------------------


def test_how_long_a_run_takes_is_told_of_images_that_are_not_described_yet(run, folder, tiny_net):
    given = {"profile": "folder", "images": folder, "network": "embedded", "device": "cpu"}
    told = r"11 images to describe by embedded: about \d+ minutes in all\."
    assert re.fullmatch(told, estimate.estimate(run, given))
    images = cbir.list_images(folder)
    cbir.extract(images[range(9)], tiny_net, run.path / "stores" / "database")
    assert estimate.estimate(run, given).startswith("2 images to describe")
    cbir.extract(images, tiny_net, run.path / "stores" / "queries")
    assert estimate.estimate(run, given) == ""


def test_images_that_cannot_be_read_give_an_estimate_too(run, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_text("no image")
    given = {"profile": "folder", "images": tmp_path / "images", "network": "embedded"}
    assert estimate.estimate(run, given).startswith("3 images to describe")


@pytest.mark.parametrize(
    "seconds, words",
    [(3, "1 minute"), (61, "2 minutes"), (7000, "117 minutes"), (3 * 3600, "3 hours")],
)
def test_times_as_one_says_them(seconds, words):
    assert estimate.in_words(seconds) == words


# ---- metrics, figures, tables -------------------------------------------------------------------


def test_records_add_up(run):
    assert run.metrics == {}
    run.record(images={"database": 3}, command="cbir reproduce")
    run.record(command="cbir reproduce --profile folder", name="ü")
    assert run.metrics == {
        "images": {"database": 3},
        "command": "cbir reproduce --profile folder",
        "name": "ü",
    }
    text = (run.path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == cbir.Run("test", run.path.parent).metrics


def test_a_record_that_fails_leaves_the_old_one(run):
    run.record(a=1)
    with pytest.raises(TypeError):
        run.record(b=object())
    assert run.metrics == {"a": 1}
    assert [p.name for p in run.path.iterdir() if p.is_file()] == ["metrics.json"]


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
        a, b = (run.path / "figures" / f"{name}.{suffix}" for name in "ab")
        assert a.read_bytes() == b.read_bytes()


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


def test_arrays(run):
    run.save_arrays("hits", indices=np.arange(6).reshape(2, 3), names=np.array(["ü", "b"]))
    loaded = run.load_arrays("hits")
    assert set(loaded) == {"indices", "names"} and loaded["names"].tolist() == ["ü", "b"]
    np.testing.assert_array_equal(loaded["indices"], np.arange(6).reshape(2, 3))
    out = np.lib.format.open_memmap(run.array_path("hits", "large"), "w+", np.float32, (4, 2))
    out[:] = 3
    run.save_arrays("hits", large=out)  # lies there already; the others go
    assert {k: v.tolist() for k, v in run.load_arrays("hits").items()} == {"large": [[3, 3]] * 4}
    run.save_arrays("none")
    assert run.load_arrays("none") == {}
    said = "no codes in runs/test: run the earlier notebooks first"
    with pytest.raises(FileNotFoundError, match=said):
        run.load_arrays("codes")


def test_results_replace_those_of_their_metrics(run):
    def rows(metric, *means):
        columns = ["metric", "descriptor", "mean", "low", "high"]
        found = [(metric, d, m, m - 0.1, m + 0.1) for d, m in zip(("h", "eta"), means)]
        return pd.DataFrame(found, columns=columns)

    run.record_results(rows("class", 0.25, 0.5))
    run.record_results(rows("color", 0.125))
    run.record_results(rows("class", 0.75))
    results = sorted((r["metric"], r["descriptor"], r["mean"]) for r in run.metrics["results"])
    assert results == [("class", "h", 0.75), ("color", "h", 0.125)]


# ---- report -------------------------------------------------------------------------------------


def result(metric, descriptor, mean, spread, **more):
    """A row of results in metrics.json."""
    about = {"metric": metric, "descriptor": descriptor}
    return about | {"mean": mean, "low": mean - spread, "high": mean + spread} | more


RESULTS = [
    result("same class", "im", 0.9, 0.02),
    result("same class", "h", 0.89, 0.02),
    result("same class", "eta_conv", 0.5, 0.02),
    result("same class", "eta", 0.88, 0.02),
    result("class AP", "h", 0.7, 0.02),
    result("class AP", "eta", 0.8, 0.02),
    result("histogram distance", "im", 0.04, 0.001),
    result("histogram distance", "h", 0.04, 0.001),
    result("histogram distance", "eta_conv", 0.03, 0.001),
    result("histogram distance", "eta", 0.035, 0.001),
]
PAIRS = [
    result("class AP", "h", 0.1, 0.05, p=0.01, verdict="better"),
    result("class AP", "im", 0.01, 0.05, p=0.01, verdict="open"),
]


@pytest.fixture
def full(run, figure):
    """A run with a bit of everything, as hostile as names can be."""
    captions = {
        "zebra": "Mine",
        "weights": "The weights",
        "fig10": "Fig. 10. Last",
        "fig06": CAPTION,
        "scenes": "The scenes",
    }
    for name, caption in captions.items():
        run.save_figure(figure, name, caption)
    run.save_table1(table(["<script>1</script>", "b", "c"]))
    hostile = {"k": 10, "images": "<script>2</script>", "weights": None, "picture": ""}
    run.record(
        parameters={"k": 10, "q": 0.5, "run_name": "test"},
        status="complete",
        command="cbir reproduce -p images '<b>'\ncbir evidence",
        recipe=cbir.AS_PRINTED,
        shown_queries=["<i>q</i>.jpg"],
        network={"name": "tiny<b>", "weights_hash": "abcd", "blocks": ["one", "two"]},
        hashes={"database": "d" * 64, "queries": "e" * 64},
        results=RESULTS,
        pairs=PAIRS,
        images={"database": 1234, "queries": 3},
        unreadable={"<script>3</script>.jpg": "not an image <i>"},
    )
    run.record(
        seconds={"02_extraction": 61.4, "03_retrieval": 7260},
        memory={"02_extraction": 3 * 2**29, "03_retrieval": 2**20},
        parameters_of={"03_retrieval": {"k": 5, "metric": "l1"}, "05_evidence": hostile},
        dates={"02_extraction": "2026-01-02 03:04"},
        environment={
            "02_extraction": {"code": "0123abcd", "torch": "2.1"},
            "03_retrieval": {"code": "0123abcd", "torch": "2.2"},
        },
        figures={
            "00_embedded_network": ["gone", "scenes"],
            "07_baselines_and_ablations": ["weights"],
        },
    )
    return run


@pytest.fixture
def page(full):
    path = report.report(full)
    assert path == full.path / "report.html"
    return read_page(path)


def words(tag):
    return " ".join(tag.get_text(" ").split())


def test_the_report_refers_to_nothing_outside(page):
    check_self_contained(page)
    assert len(page.find_all("img")) == 5 and not page.find_all(["b", "i"])
    targets = {tag["id"] for tag in page.find_all(id=True)}
    inner = {a["href"][1:] for a in page.find_all("a") if a["href"].startswith("#")}
    assert inner and inner <= targets


def test_the_report_opens_with_the_verdicts(page):
    rows = page.find(id="claims").find_next("table").find_all("tr")
    table = studies.verdict_table()
    assert [words(cell) for cell in rows[0].find_all("th")] == list(table.columns)
    assert len(rows) == 1 + len(table)
    shown = [words(cell) for cell in rows[1].find_all(["th", "td"])]
    assert shown == [cell or "–" for cell in table.iloc[0]]


def test_the_report_shows_everything_as_it_is(page):
    text = words(page)
    shown = [
        "<script>1</script>",
        "<script>2</script>",
        "<script>3</script>.jpg: not an image <i>",
        "cbir reproduce -p images '<b>'",
        "tiny<b>",
        "1,234 database images, 3 queries",
        "1 could not be read and was skipped",
        "0.333",
        "<i>q</i>.jpg",
        "d" * 64,
        "e" * 64,
        "abcd",
    ]
    for part in shown:
        assert part in text, part
    assert text.count(CAPTION) == 1 and page.find("img", alt=CAPTION)


def test_figures_come_in_the_order_of_the_paper_then_of_the_notebooks(page):
    names = [figure["id"].removeprefix("figure-") for figure in page.find_all("figure")]
    assert names == ["fig06", "fig10", "scenes", "weights", "zebra"]
    titles = [words(h) for h in page.find_all("h2")]
    at = titles.index("The paper's figures")
    assert titles[at + 1 : at + 4] == [
        "Figures of 00_embedded_network",
        "Figures of 07_baselines_and_ablations",
        "Other figures",
    ]


def test_a_run_records_which_notebook_drew_a_figure(tmp_path, figure, monkeypatch):
    """In the order in which they were drawn; a figure drawn again is the later notebook's, too."""
    drawn = {"02_extraction": ["b", "a"], "03_retrieval": ["c"]}

    def execute(source, output, **_):
        shutil.copy(source, output)
        for name in drawn[Path(source).stem]:
            notebooks.Run("mine").save_figure(figure, name, "A caption")

    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    notebooks.Run("mine").save_figure(figure, "before", "A caption")
    run = notebooks.reproduce(name="mine", notebooks=list(drawn), log=io.StringIO())
    assert run.metrics["figures"] == drawn
    assert list(report.shown_figures(run)) == ["b", "a", "c", "before"]


def test_results_are_pivoted_and_marked(page):
    """The best in bold, those that may be as good marked; the paper's metrics first."""
    main = page.find(id="results").find_next("table")
    head, *rows = main.find_all("tr")
    assert words(head).split() == ["IM-like", "h", "η̃", "η"]
    assert [words(row.th) for row in rows] == ["same class", "histogram distance"]
    cells = [[(words(td), td.get("class", [""])[0]) for td in row.find_all("td")] for row in rows]
    assert cells[0] == [
        ("0.900 [0.880, 0.920]", "best"),
        ("0.890 [0.870, 0.910]", "near"),
        ("0.500 [0.480, 0.520]", ""),
        ("0.880 [0.860, 0.900]", "near"),
    ]
    assert cells[1][2] == ("0.0300 [0.0290, 0.0310]", "best")
    assert {mark for _, mark in cells[1]} == {"best", ""}
    dots = [[float(td.find("circle")["cx"]) for td in row.find_all("td")] for row in rows]
    assert np.argsort(dots[0]).tolist() == [2, 3, 1, 0]
    assert np.argmin(dots[1]) == 2
    assert all(0 <= x <= 100 for row in dots for x in row)
    folds = page.find(id="more").find_all_next("details")
    more = {words(fold.summary): fold.table for fold in folds if fold.table}
    assert "class AP" in words(more["More metrics (notebook 05)"])
    pairs = next(t for title, t in more.items() if title.startswith("Paired differences"))
    differences = [(words(td), td.get("class")) for td in pairs.find_all("td")]
    assert differences == [("0.100 [0.050, 0.150]", ["best"]), ("0.010 [-0.040, 0.060]", None)]
    assert words(pairs.tr).startswith("η − h")


def test_the_summary_says_no_more_than_the_intervals(page):
    lead = words(page.find(class_="lead"))
    assert lead == (
        "3 queries were searched for in a database of 1,234 images, described by the network "
        "“tiny<b>” and the recipe as printed (q = 0.5). In histogram distance η̃ is best, its "
        "interval apart from all others; 3 queries cannot tell IM-like, h and η apart in class."
    )


def test_of_many_queries_the_summary_says_whose_intervals_overlap(full):
    full.record(images={"database": 1234, "queries": 200})
    lead = words(read_page(report.report(full)).find(class_="lead"))
    assert lead.endswith(
        "in class IM-like has the best mean, but the intervals of h and η overlap."
    )


def test_means_without_intervals_are_not_told_apart(full):
    """Of fewer than ten queries there are none."""
    nan = float("nan")
    without = [result("histogram distance", d, x, nan) for d, x in [("h", 0.02), ("eta", 0.01)]]
    full.record(results=without)
    lead = words(read_page(report.report(full)).find(class_="lead"))
    assert lead.endswith("3 queries cannot tell η and h apart in histogram distance.")


def test_the_report_says_what_each_descriptor_looks_for(page):
    meanings = {words(row.dt): words(row.dd) for row in page.select("dl div")}
    assert list(meanings) == ["IM-like", "h", "η̃", "η"]
    assert meanings["h"].startswith("the object")
    assert meanings["η̃"].startswith("texture and colour")
    assert meanings["η"].startswith("both")


@pytest.fixture
def own(run, figure):
    """A run over somebody's own images, without classes."""
    for name in ("fig01", "fig02", "fig04", "fig07", "fig10", "summary", "shares"):
        run.save_figure(figure, name, f"A caption of {name}")
    run.save_table1(table(["", "", ""])[["query", "class", "printed eta", "published eta"]])
    run.record(
        images_of="folder",
        figures={"03_retrieval": ["fig04", "summary", "shares"]},
        results=[result("histogram distance", d, 0.04, 0.01) for d in ("h", "eta_conv", "eta")],
        images={"database": 50, "queries": 5},
        unreadable={"a.jpg": "truncated", "b.jpg": "empty file"},
        no_images={".txt": 1, ".json": 1200},
        duplicates=[["a/1.jpg", "<b>/copy.jpg"]],
    )
    return run


def test_the_report_of_own_images_begins_with_pictures(own):
    page = read_page(report.report(own))
    check_self_contained(page)
    names = [figure["id"].removeprefix("figure-") for figure in page.find_all("figure")]
    assert names == ["summary", "fig04", "fig07", "fig10", "shares", "fig01", "fig02"]
    headings = [heading["id"] for heading in page.find_all("h2")]
    assert headings[:5] == ["pictures", "results", "found", "duplicates", "table1"]
    assert headings.index("images") < headings.index("claims") < headings.index("network")
    linked = [a["href"][1:] for a in page.find("nav").find_all("a")]
    assert sorted(linked) == sorted(headings)


def test_the_report_of_own_images_folds_the_histograms(own):
    page = read_page(report.report(own))
    folded = [figure["id"] for figure in page.select("details:not([open]) figure")]
    assert folded == ["figure-fig07", "figure-fig10"]


def test_the_report_of_own_images_leaves_the_papers_numbers_out(own):
    page = read_page(report.report(own))
    assert "beside these numbers" not in words(page)
    heads = [words(head) for head in page.find(id="table1").find_next("div").find_all("th")]
    assert heads.count("query") == 2
    assert not {"class", "the paper's"} & set(heads)
    own.save_table1(table())
    assert "beside these numbers" in words(read_page(report.report(own)))


def test_the_report_lists_copies_and_what_was_left_out(own):
    text = words(read_page(report.report(own)))
    assert "a/1.jpg = <b>/copy.jpg" in text
    assert "5 queries cannot tell the descriptors apart in histogram distance." in text
    assert "2 could not be read and were skipped" in text
    assert "Files left out, as they are no images: 1,200 .json, 1 .txt." in text


def test_a_report_speaks_of_intervals_where_there_are_any(own):
    assert "bootstrap intervals" in words(read_page(report.report(own)))
    results = [{**record, "low": np.nan, "high": np.nan} for record in own.metrics["results"]]
    own.record(results=results)
    text = words(read_page(report.report(own)))
    assert "too few for intervals" in text and "bootstrap" not in text


def test_a_run_tells_the_terminal_results_and_where_to_look(own):
    own.record(results=RESULTS)
    lines = report.as_lines(own)
    assert lines[1].split() == ["same", "class", "histogram", "distance"]
    assert lines[4].split() == ["η̃", "0.500", "0.0300"]
    assert len(lines[4]) == len(lines[5]) + 1 == len(lines[1]) + 1  # its tilde takes no place
    assert "5 queries cannot tell IM-like, h and η apart in class" in "\n".join(lines)
    assert f"2 of 55 images skipped, listed in {own.path / 'report.html'}" in lines
    assert "Files left out, as they are no images: 1,200 .json, 1 .txt" in lines
    assert lines[-1] == f"Done: {own.path / 'report.html'}"


def test_copies_are_found_whatever_rounding_does(run):
    """One at distance 0, one that another batch moved a little; a near one is none."""
    names = [f"{i}.jpg" for i in range(4)]
    images = cbir.ImageSet(run.path, names, [""] * 4)
    distances = np.array([[0, 0.2, 0.3], [1e-6, 0.1, 0.3], [0.01, 0.2, 0.3], [np.nan] * 3])
    indices = np.array([[2, 1, 0], [3, 1, 0], [1, 2, 3], [-1] * 3])
    pairs = run.record_duplicates(images, images, cbir.Hits(indices, distances))
    assert pairs == [["0.jpg", "2.jpg"], ["1.jpg", "3.jpg"]]
    assert run.metrics["duplicates"] == pairs


def test_what_was_run(page):
    facts = {words(row.th): words(row.td) for row in page.select("table.words tr")}
    assert facts["weights"] == "none"
    assert facts["picture"] == "(empty)"
    assert facts["blocks"] == '["one", "two"]'
    assert facts["threshold"] == "absolute"
    assert facts["code"] == "0123abcd"
    assert facts["torch"] == "2.1 (02_extraction); 2.2 (03_retrieval)"
    assert "run_name" not in facts
    again = page.find(id="again").find_next("pre").get_text()
    assert facts["through"] == "02_extraction, 03_retrieval"
    assert facts["k"] == "5 (03_retrieval); 10 (05_evidence)"
    assert facts["metric"] == "l1"
    assert again.splitlines() == [
        "git checkout 0123abcd",
        "pip install -c constraints.txt -e .",
        "cbir reproduce -p images '<b>'",
        "cbir evidence",
    ]
    _, *rows = page.find(id="cost").find_next("table").find_all("tr")
    assert [[words(cell) for cell in row.find_all(["th", "td"])] for row in rows] == [
        ["02_extraction", "2026-01-02 03:04", "61 s", "1.50 GiB"],
        ["03_retrieval", "–", "2.0 h", "1 MiB"],
        ["all", "", "2.0 h", "1.50 GiB"],
    ]


def test_code_that_was_changed_is_not_passed_off_as_its_commit(full):
    full.record(environment={"02_extraction": {"code": "0123abcd, with changes"}})
    page = read_page(report.report(full))
    assert "with the changes that its files had since that commit" in words(page)
    assert "git checkout 0123abcd\n" in page.find(id="again").find_next("pre").get_text()
    full.record(environment={"02_extraction": {"code": "no git checkout"}})
    again = read_page(report.report(full)).find(id="again").find_next("pre")
    assert "git checkout" not in again.get_text()


def test_images_of_a_run_are_told_by_their_names_and_classes(run, folder, tiny_net):
    assert report.image_hashes(run) == {}
    store = cbir.extract(folder, tiny_net, run.path / "stores" / "database")
    told = hashlib.sha256(json.dumps([store.files, store.labels]).encode()).hexdigest()
    assert report.image_hashes(run) == {"database": told}
    assert told in words(read_page(report.report(run)))
    run.record(hashes={"database": "of before", "queries": "kept"})
    # the store that is there counts
    assert report.image_hashes(run) == {"database": told, "queries": "kept"}
    (run.path / "stores" / "database" / "files" / "c" / "0").unlink()
    assert report.image_hashes(run)["database"].startswith("unknown: ")
    assert "unknown: " in words(read_page(report.report(run)))


def test_an_unfinished_run_says_so(full, page):
    assert not page.find(class_="warning")
    full.record(status="unfinished")
    assert "This run is unfinished" in words(read_page(report.report(full)).find(class_="warning"))


def test_the_report_of_a_run_by_hand(run, monkeypatch, capsys):
    monkeypatch.setenv("CBIR_RUNS", str(run.path.parent))
    with pytest.raises(SystemExit, match="'test' is no run"):
        cli.main(["report", "test"])
    assert not run.path.exists()
    run.record(images={"database": 50, "queries": 5})
    cli.main(["report", "test"])
    assert capsys.readouterr().out == f"Done: {run.path / 'report.html'}\n"
    assert "50" in read_page(run.path / "report.html").get_text()


def test_an_empty_run_has_a_report_too(run):
    page = read_page(report.report(run))
    assert "Nothing is recorded of images" in words(page)
    assert "None yet" in words(page)
    assert not page.find("img")
    assert not page.find("pre")
    run.record(unreadable={}, images={"database": 2, "queries": 1})
    assert "2 database images, 1 query. None was skipped." in words(read_page(report.report(run)))


def test_numbers_that_do_not_exist_are_not_drawn(run):
    nan = float("nan")
    run.record(results=[result("same class", "h", nan, 0), result("same class", "eta", 0.5, 0)])
    cells = read_page(report.report(run)).find(id="results").find_next("table").find_all("td")
    assert [words(c) for c in cells] == ["–", "0.500 [0.500, 0.500]"]
    assert [bool(c.svg) for c in cells] == [False, True]


def test_long_lists_of_skipped_images_are_folded(run):
    for n in (10, 11):
        run.record(unreadable={f"{i}.jpg": "cut" for i in range(n)})
        fold = read_page(report.report(run)).find(id="images").find_next("details")
        assert len(fold.find_all("li")) == n and fold.has_attr("open") == (n == 10)


def test_a_large_figure_is_embedded_as_webp(run):
    """The same picture, in fewer bytes; small ones byte for byte."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 75, 3), dtype=np.uint8)
    large, small = (run.path / "figures" / f"{name}.png" for name in ("large", "small"))
    large.parent.mkdir(parents=True)
    for path, scale in [(large, 16), (small, 2)]:
        picture = Image.fromarray(noise).resize((75 * scale,) * 2, Image.Resampling.BICUBIC)
        picture.save(path, dpi=(100, 100))
    assert large.stat().st_size > report.LARGE > small.stat().st_size
    shown = {img["alt"]: img for img in read_page(report.report(run)).find_all("img")}
    assert shown["small"]["src"].startswith("data:image/png")
    assert embedded_bytes(shown["small"]) == small.read_bytes()
    assert shown["large"]["src"].startswith("data:image/webp")
    assert shown["large"]["width"] == str(12 * report.INCH)
    in_page = io.BytesIO(embedded_bytes(shown["large"]))
    with Image.open(in_page) as webp, Image.open(large) as png:
        difference = np.abs(np.asarray(webp, float) - np.asarray(png))
        assert webp.size == png.size and difference.mean() < 12


def embedded_bytes(img):
    return base64.b64decode(img["src"].split(",", 1)[1])


def test_the_report_can_be_written_again(run, figure):
    report.report(run)
    run.save_figure(figure, "fig01", "Fig. 1. The network")
    assert "Fig. 1. The network" in words(read_page(report.report(run)))


def test_open_run_takes_names_and_folders_and_makes_none(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CBIR_RUNS", str(run.path.parent))
    with pytest.raises(FileNotFoundError, match="is no run: there is no metrics.json"):
        open_run("test")
    run.record(a=1)
    for where in ("test", run.path, str(run.path)):
        assert open_run(where).path.samefile(run.path)
    with pytest.raises(FileNotFoundError):
        open_run("other")
    assert not (run.path.parent / "other").exists()


def test_the_papers_numbers_make_its_table():
    """Table I is the means of the numbers under Figs 7-10; the last digit of one is an erratum."""
    means = tables.published_means()
    table = pd.read_csv(tables.PAPER / "table1.csv").rename(columns={"IM": "im"}).set_index("query")
    off = (means[table.columns] - table).abs()
    assert list(means.columns[:4]) == ["im", "h", "eta_conv", "eta"] and len(means) == 10
    assert (off > 6e-7).sum().sum() == 1 and off.loc[6, "eta_conv"] == off.max().max() < 2e-6
    assert means.isna().sum().to_dict() == {c: int(c == "average") for c in means.columns}


def test_paths_are_absolute_for_a_kernel_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    assert checks.absolute("images", "photos") == str(tmp_path / "photos")
    assert checks.absolute("weights", "weights.pth") == str(tmp_path / "weights.pth")
    for name, value in [("weights", "caffe"), ("store", "s3://bucket/store"), ("network", "vgg16")]:
        assert checks.absolute(name, value) == value
    for value in (None, ""):
        assert checks.absolute("images", value) is value
