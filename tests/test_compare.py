"""`cbir compare`: one page that says how two runs differ, and where they cannot be compared."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import check_self_contained, read_page
from test_run import CAPTION, result, table, words

import cbir
from cbir import cli
from cbir.compare import compare

SAME = {"database": "d" * 64, "queries": "e" * 64}


def results(**means):
    """Rows of one metric in metrics.json, with intervals of +- 0.05."""
    return [result("same class", descriptor, mean, 0.05) for descriptor, mean in means.items()]


def save_figure(run, name, caption, color="red"):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([1, 2], color=color)
    run.save_figure(fig, name, caption)
    plt.close(fig)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs over the same images, of different recipes."""
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    pair = cbir.Run("printed"), cbir.Run("released")
    recipes = {"as_printed": cbir.AS_PRINTED, "as_released": cbir.AS_RELEASED}
    for run, (name, recipe), color in zip(pair, recipes.items(), ("red", "blue")):
        run.record(
            status="complete",
            recipe=recipe,
            hashes=SAME,
            shown_queries=["a.jpg"],
            versions={"torch": "2.1"},
            network={"name": "tiny"},
            parameters={"recipe": name, "q": 0.5, "run_name": run.name},
            images={"database": 9, "queries": 3},
            seconds={"02_extraction": 10, "03_retrieval": 20},
            memory={"02_extraction": 2**30},
            unreadable={},
        )
        save_figure(run, "fig01", "Fig. 1. The same")
        save_figure(run, "fig06", "Fig. 6. Another", color)
        run.save_table1(table())
    pair[0].record(results=results(h=0.5, eta=0.7, eta_conv=0.2))
    pair[1].record(results=results(h=0.5, eta=0.72, eta_conv=0.9))
    return pair


def compared(a, b, **options):
    page = read_page(compare(a, b, **options))
    check_self_contained(page)
    return page


def rows(page, section, number=0):
    """The rows of a section's table (or one after it), as text."""
    table = page.find(id=section).find_all_next("table")[number]
    _, *found = table.find_all("tr")
    return [[words(cell) for cell in row.find_all(["th", "td"])] for row in found]


def test_the_command_takes_names_and_folders_and_says_where_the_page_is(runs, tmp_path, capsys):
    cli.main(["compare", "printed", str(runs[1].path)])
    assert capsys.readouterr().out.strip() == "Done: compare_printed_released.html"
    by_default = tmp_path / "compare_printed_released.html"
    assert by_default.is_file()
    cli.main(["compare", "printed", "released", "--output", "page.html"])
    assert (tmp_path / "page.html").read_bytes() == by_default.read_bytes()


@pytest.mark.parametrize("name", ["nothing", ".", "runs"])
def test_what_is_no_run_is_refused(runs, tmp_path, name):
    with pytest.raises(SystemExit, match="is no run: there is no metrics.json"):
        cli.main(["compare", "printed", name])
    with pytest.raises(ValueError, match="is no run"):
        compare(runs[0], cbir.Run("typo"))
    assert not list(tmp_path.glob("*.html"))


def test_what_differs_is_shown_and_what_is_the_same_is_folded(runs):
    page = compared(*runs)
    differing = {key: (a, b) for key, a, b in rows(page, "differs")}
    assert differing == {
        "Parameters: recipe": ("as_printed", "as_released"),
        "Recipe: counting": ("count", "union"),
        "Recipe: name": ("as printed", "as released"),
        "Recipe: scale": ("mean", "as_released"),
        "Recipe: threshold": ("absolute", "relative"),
    }
    fold = page.find(id="differs").find_next("details")
    assert not fold.has_attr("open")
    assert "Parameters: q 0.5 0.5" in words(fold)
    assert "d" * 64 in words(fold)
    assert not page.find(class_="warning")
    assert "Nothing that is recorded" in words(compared(runs[0], runs[0]))


def test_results_side_by_side(runs):
    page = compared(*runs)
    assert rows(page, "results") == [
        ["same class", "h", "0.500 [0.450, 0.550]", "0.500 [0.450, 0.550]", "0", "equal"],
        ["", "η", "0.700 [0.650, 0.750]", "0.720 [0.670, 0.770]", "+0.020", "overlap"],
        ["", "η̃", "0.200 [0.150, 0.250]", "0.900 [0.850, 0.950]", "+0.700", "apart"],
    ]
    runs[1].record(results=results(im=0.9, eta=0.1))
    assert rows(compared(*runs), "results") == [
        ["same class", "h", "0.500 [0.450, 0.550]", "–", "–", ""],
        ["", "η", "0.700 [0.650, 0.750]", "0.100 [0.050, 0.150]", "-0.600", "apart"],
        ["", "η̃", "0.200 [0.150, 0.250]", "–", "–", ""],
        ["", "IM-like", "–", "0.900 [0.850, 0.950]", "–", ""],
    ]


def test_means_that_do_not_exist_are_neither_equal_nor_apart(runs):
    for run, mean in zip(runs, (float("nan"), 0.5)):
        run.record(results=results(h=float("nan"), eta=mean))
    assert [row[-2:] for row in rows(compared(*runs), "results")] == [["–", ""], ["–", ""]]


@pytest.mark.parametrize(
    "hashes, says",
    [
        ({"queries": "f" * 64}, "other images (queries)"),
        ({"database": "f" * 64, "queries": "f" * 64}, "other images (database and queries)"),
    ],
)
def test_numbers_over_other_images_are_not_subtracted(runs, hashes, says):
    for run in runs:
        run.save_arrays("hits", eta_indices=np.zeros((3, 2), int))
    runs[1].record(hashes=SAME | hashes)
    page = compared(*runs)
    assert says in words(page.find(class_="warning"))
    assert "cannot be compared" in words(page.find(class_="warning"))
    assert [len(row) for row in rows(page, "results")] == [4] * 3
    assert [len(row) for row in rows(page, "table1")] == [4] * 4
    assert "overlap" not in words(page) and "+0.7" not in words(page) and not page.find(id="common")


def test_images_that_cannot_be_told_are_a_warning(runs):
    runs[1].record(hashes={})
    page = compared(*runs)
    assert "cannot be told" in words(page.find(class_="warning"))
    assert len(rows(page, "results")[0]) == 6
    assert not page.find(id="common")


def test_images_are_told_from_the_stores(runs, folder, tiny_net):
    """Read from what is there, not from what was recorded: here the queries are not the same."""
    for run, files in zip(runs, (["cat/00.png", "dog/06.png"], ["cat/00.png", "dog/08.png"])):
        cbir.extract(folder, tiny_net, run.path / "stores" / "database")
        cbir.extract([folder / f for f in files], tiny_net, run.path / "stores" / "queries")
    assert "other images (queries)" in words(compared(*runs).find(class_="warning"))


def test_images_in_common(runs):
    """Of three queries, one was not searched for; k is the smaller of both.

    So few queries have a mean and no interval.
    """
    runs[0].save_arrays(
        "hits",
        eta_indices=[[1, 2], [3, 4], [-1, -1]],
        eta_distances=np.zeros((3, 2)),
        h_indices=[[1, 2], [3, 4], [5, 6]],
        im_indices=[[1, 2]] * 3,
    )
    runs[1].save_arrays(
        "hits", eta_indices=[[2, 1, 9], [3, 9, 4], [1, 2, 3]], h_indices=[[7, 8, 1]] * 3
    )
    common = rows(compared(*runs), "common")
    runs[0].save_arrays("hits", eta_indices=[[1, 2]])  # of fewer queries, from another time
    assert not compared(*runs).find(id="common")
    assert common == [
        ["h", "2", "0.000", "0.0 %"],
        ["η", "2", "0.750", "50.0 %"],
    ]


def test_many_queries_have_an_interval(runs):
    for run in runs:
        run.save_arrays("hits", h_indices=[[1, 2]] * 20)
    common = rows(compared(*runs), "common")
    assert common == [["h", "2", "1.000 [1.000, 1.000]", "100.0 %"]]


def test_table_1_time_memory_and_skipped_images(runs):
    better = table()
    better["printed eta"] -= 0.125
    runs[1].save_table1(better)
    runs[0].record(unreadable={"both.jpg": "cut", "<b>a.jpg": "cut", "other.jpg": "cut"})
    runs[1].record(
        unreadable={"both.jpg": "cut", "other.jpg": "empty"}, seconds={"02_extraction": 300}
    )
    page = compared(*runs)
    assert rows(page, "table1")[:2] == [
        ["L1 / 75", "η̃", "0.361110", "0.361110", "+0.000000"],
        ["", "η", "0.458330", "0.333330", "-0.125000"],
    ]
    assert rows(page, "cost") == [
        ["02_extraction", "10 s", "5.0 min", "1.00 GiB", "1.00 GiB"],
        ["03_retrieval", "20 s", "–", "–", "–"],
    ]
    assert rows(page, "images") == [
        ["<b>a.jpg", "cut", "not skipped"],
        ["other.jpg", "cut", "empty"],
    ]
    assert "1 in both, for the same reason; 2 otherwise" in words(page)
    runs[1].record(shown_queries=["b.jpg"])
    page = compared(*runs)
    assert "The queries shown are not the same" in words(page)
    assert {len(row) for row in rows(page, "table1")} == {4}


def test_parameters_are_compared_of_the_notebooks_that_both_have(runs):
    """Notebook 08 describes 100 queries at most; a run that stopped before it does not differ."""
    for run in runs:
        run.record(parameters_of={"02_extraction": {"max_queries": 0, "k": 5}})
    of_08 = {"08_other_networks": {"max_queries": 100}}
    runs[0].record(
        parameters_of={"02_extraction": {"max_queries": 0, "k": 7}} | of_08,
        seconds={"02_extraction": 1, "08_other_networks": 1},
    )
    differing = [row for row in rows(compared(*runs), "differs") if "Recipe" not in row[0]]
    through = ["02_extraction, 08_other_networks", "02_extraction, 03_retrieval"]
    assert differing == [["Notebooks: through", *through], ["Parameters: k", "7", "5"]]


def test_figures_side_by_side_and_the_same_ones_once(runs):
    save_figure(runs[0], "mine", CAPTION)
    page = compared(*runs)
    folds = {words(fold.summary): fold for fold in page.find(id="figures").find_all_next("details")}
    assert list(folds) == ["Identical in both: Fig. 1", "Only in a: Fig. 6"]
    assert all(len(fold.find_all("img")) == 1 for fold in folds.values())
    pairs = page.find_all(class_="pair")
    assert len(pairs) == 1
    assert [img["alt"] for img in pairs[0].find_all("img")] == ["Fig. 6. Another"] * 2
    assert len({img["src"] for img in pairs[0].find_all("img")}) == 2
    assert len(page.find_all("img")) == 4


def test_names_are_text(runs):
    """Captions, parameters and file names that look like HTML come out as they are."""
    save_figure(runs[0], "fig06", CAPTION)
    runs[0].record(
        parameters={"images": "<script>1</script>"},
        unreadable={"<script>2</script>": "<i>"},
        network={"name": "<script>3</script>"},
    )
    page = compared(*runs)
    for part in (CAPTION, "<script>1</script>", "<script>2</script>", "<script>3</script>", "<i>"):
        assert part in words(page)


def test_an_unfinished_run_and_one_with_next_to_nothing(runs, tmp_path):
    runs[0].record(status="failed")
    assert "Run a is failed" in words(compared(*runs).find(class_="warning"))
    bare = cbir.Run("bare")
    bare.record(command="cbir reproduce")
    page = compared(runs[0], bare)
    assert "none that both runs have" in words(page)
    assert rows(page, "table1")[0][2:] == ["0.361110", "–"]
    page = compared(bare, bare)
    assert "Neither run has any" in words(page)
    assert "Neither run skipped any" in words(page)
    assert not page.find(id="table1")
    assert not page.find(id="cost")


def test_runs_of_one_name_in_two_folders(runs, tmp_path):
    other = cbir.Run("printed", tmp_path / "elsewhere")
    other.record(status="complete", recipe=cbir.AS_PRINTED)
    page = compared(runs[0], other)
    assert str(runs[0].path) in words(page) and str(other.path) in words(page)
