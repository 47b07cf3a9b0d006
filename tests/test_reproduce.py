"""Notebooks run headless: two small ones in full, and the paper's as `make reproduce` left them."""

import io
import json
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from compare_outputs import first_difference
from conftest import check_self_contained, read_page, write_image, write_notebook
from nbval.plugin import coalesce_streams
from shared_run import reproduce, scenes_run

import cbir
from cbir import claims, cli, common, notebooks
from cbir.common import ROOT
from cbir.evaluation import HISTOGRAM_DISTANCE
from cbir.notebooks import EVIDENCE, PAPER

FIGURES = [f"fig{i:02d}" for i in range(1, 11)]
SMALL = ["02_extraction", "03_retrieval"]

MISTAKES = """--profile foldr|unknown profile 'foldr' .did you mean 'folder'
-p colour 1|no notebook has a parameter 'colour'
-p page true|'page', but 08_explore: see `cbir parameters page`
-p run_name mine|named by --name
--only 3,x|'x' is no notebook's number: write 08, or 02-05,08
--only 77|'77' is no notebook's number.*03_retrieval
--profile folder|needs a folder of images
--profile folder -p images none -p network embedded|no image f
--name ../up|is no run name
-p recipe mine|unknown recipe 'mine'
-p metric l3|unknown metric 'l3'
-p q .nan|q is a number, 0 or more, not nan
-p k 0|k is a whole number, 1 or more, not 0
-p k 1001|k = 1001 is out of range for 1000 images: choose 1 to 1000
-p max_queries 3.5|max_queries is a whole number, 0 or more, not 3.5
-p crop maybe|crop is true or false, not 'maybe'
-p dtype float99|unknown dtype 'float99'
-p network vgg61|unknown network 'vgg61' .did you mean
-p images .|take PROFILE=folder"""

KEPT = {"h": "h", "eta_conv": "eta_conv, q = 0.5", "eta": "eta, q = 0.5"}
MEASURED = {"same class": "class P@5", "same background": "background P@5"}
MEASURED |= {"same palette": "palette P@5", "histogram distance": HISTOGRAM_DISTANCE}


def read_metrics(path):
    return json.loads((path / "metrics.json").read_text(encoding="utf-8"))


def all_files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with two notebooks, one of four photographs, and one that is in the way."""
    root = tmp_path_factory.mktemp("small")
    describe = "net, database, queries = run.describe(profile, images, queries, network=network)"
    write_notebook(
        root / "notebooks" / "02_extraction.ipynb",
        'profile = "scenes"  # kind\nimages = ""  # folder\nqueries = ""  # folder\n'
        'network = "embedded"  # name\nrun_name = "scenes"  # name',
        f"import cbir\nrun = cbir.Run(run_name)\n{describe}",
        "run.record(images_of=profile, unreadable=database.unreadable, "
        "images={'database': len(database), 'queries': len(queries)})",
    )
    write_notebook(
        root / "notebooks" / "03_retrieval.ipynb",
        'k = 5  # images\nfail = False  # fails\nrun_name = "scenes"  # name',
        "import sys\nimport cbir\nrun = cbir.Run(run_name)\n_, database, queries = run.stores()",
        "assert not fail, 'told to fail'",
        "found = cbir.search(database, queries, 'eta', k=k)\n"
        "row = dict(metric='same class', descriptor='eta', mean=0.5, low=float('nan'), high=1.0)\n"
        "run.record(results=[row], executable=sys.executable, shape=list(found.indices.shape))",
        "import matplotlib.pyplot as plt\nrun.save_figure(plt.figure(), 'mine', 'A <caption>')",
        finding="All 1,000 scenes were found.",
    )
    for i in range(4):
        write_image(root / "photos" / "a" / f"{i}.png", seed=i)
    (root / "photos" / "a" / "brökén <b>.png").write_text("no image")
    write_image(root / "queries" / "one.png", seed=9)
    (root / "photos" / "torch.py").write_text("raise ImportError('the photographs' own torch')")
    kernel = root / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["no-such-python"], "display_name": "theirs", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    return root


@pytest.fixture(scope="module")
def done(small):
    """The run of both notebooks, started beside a torch.py, with another kernel called python3."""
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(small / "photos")
        patched.setenv("JUPYTER_PATH", str(small / "jupyter"))
        patched.setenv("CBIR_RUNS", str(small / "runs"))
        patched.setenv("CBIR_NOTEBOOKS", str(small / "notebooks"))
        folders = {"images": str(small / "photos"), "queries": str(small / "queries")}
        given = {"network": "embedded", "k": 2, "dtype": "float16", **folders}
        run = notebooks.reproduce("folder", "four", given, SMALL, log)
    return run, given, log


@pytest.fixture
def again(done, small, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(small / "runs"))
    monkeypatch.setenv("CBIR_NOTEBOOKS", str(small / "notebooks"))
    return done


def test_a_folder_of_four_runs_by_the_interpreter_of_the_command(done):
    run, _, log = done
    metrics = run.metrics
    assert metrics["status"] == "complete" and metrics["images"] == {"database": 5, "queries": 1}
    assert metrics["executable"] == sys.executable and metrics["shape"] == [1, 2]
    assert list(metrics["unreadable"]) == ["a/brökén <b>.png"]
    assert metrics["no_images"] == {".py": 1}
    assert "6 images to describe" in log.getvalue()
    assert metrics["results"][0]["low"] is None  # JSON has no NaN
    assert run.settings["dtype"] == "float16" and run.settings["weights"] == "default"
    for name, about in metrics["notebooks"].items():
        assert about["seconds"] > 0 and f"notebooks/{name}.ipynb" in about["files"]
    assert metrics["notebooks"]["03_retrieval"]["parameters"]["k"] == 2


def test_findings_are_those_of_the_defaults(small, tmp_path, monkeypatch):
    """Of the same images with another k they are left out as well."""
    monkeypatch.setenv("CBIR_NOTEBOOKS", str(small / "notebooks"))
    told = []
    monkeypatch.setattr(notebooks, "execute", lambda *about, findings: told.append(findings))
    run = cbir.Run("scenes", tmp_path)
    for given in ({}, {"k": 5, "run_name": "scenes"}, {"k": 3}):
        notebooks._run_notebook(run, "03_retrieval", given, io.StringIO())
    assert told == [True, True, False]


def test_its_report_is_one_file_that_escapes_names(done):
    run, _, _ = done
    page = read_page(run.path / "report.html")
    check_self_contained(page)
    [figure] = page.find_all("figure")
    assert figure.img["alt"] == figure.figcaption.text == "A <caption>"
    text = page.get_text()
    for part in ("brökén <b>.png", "0.500", "same class", "float16", "03_retrieval", "Run four"):
        assert part in text
    assert not page.find_all("b") and "import cbir" not in text
    assert "1,000 scenes" not in text  # a finding of the default run


def test_what_has_not_changed_is_not_executed_again(again, monkeypatch):
    monkeypatch.setattr(notebooks, "report", lambda run: None)
    (run, given, _), log = again, io.StringIO()
    notebook = run.path / "notebooks" / "03_retrieval.ipynb"
    before = notebook.stat().st_mtime_ns
    notebooks.reproduce("folder", "four", given, SMALL, log)
    assert "03_retrieval: unchanged" in log.getvalue() and before == notebook.stat().st_mtime_ns
    assert run.metrics["status"] == "complete"


def test_a_mistake_leaves_a_finished_run_as_it_is(again, small):
    run, given, _ = again
    before = all_files(run.path)
    for i in range(2):
        write_image(small / "others" / f"{i}.png")
    for wrong, message in [
        ({"images": str(small / "others")}, "made with images .*photos', now .*others'.*--name"),
        ({"network": "efficientnet_lite0"}, "network 'embedded', now 'efficientnet_lite0'"),
        ({"k": 9}, "k = 9 is out of range for 5 images: choose 1 to 5"),
        ({"fial": True}, r"no notebook has a parameter 'fial' \(did you mean 'fail'\?\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            notebooks.reproduce("folder", "four", given | wrong, SMALL)
        assert before == all_files(run.path)


def test_a_notebook_that_fails_keeps_what_was_done(again):
    run, given, _ = again
    words = [word for key, value in given.items() for word in ("-p", key, str(value))]
    words += ["--profile", "folder", "--name", "four", "--only", "03", "-p", "fail", "true"]
    with pytest.raises(SystemExit, match="(?s)told to fail.*03_retrieval.ipynb has the cell"):
        cli.main(["reproduce", *words])
    assert run.metrics["status"] == "unfinished" and run.metrics["results"]
    assert "unfinished" in read_page(run.path / "report.html").get_text()


@pytest.mark.parametrize("line", MISTAKES.splitlines())
def test_mistakes_get_one_clear_sentence(tmp_path, monkeypatch, line):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    words, message = line.split("|")
    with pytest.raises(SystemExit, match=message) as stop:
        cli.main(["reproduce", *words.split()])
    assert str(stop.value).startswith("cbir: ") and "\n" not in str(stop.value)
    assert not (tmp_path / "runs").exists()


def test_weights_that_cannot_be_downloaded_stop_the_run(tmp_path, offline):
    """Before anything is written, and what to give instead is in the command's own words."""
    write_image(tmp_path / "photos" / "1.png")
    write_image(tmp_path / "photos" / "2.png")
    folder = ["--profile", "folder", "-p", "images", str(tmp_path / "photos"), "-p", "k", "1"]
    advice = "-p network vgg16_conv .*--profile photographs"
    for words in ("-p network vgg16", "-p network timm/resnet18"):
        with pytest.raises(SystemExit, match=f"^cbir: .*could not be downloaded.*{advice}") as stop:
            cli.main(["reproduce", *folder, *words.split()])
        assert "\n" not in str(stop.value)
    assert not (tmp_path / "runs").exists()


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    def git(words):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.check_output([*command, *words.split()], text=True).strip()

    monkeypatch.setattr(common, "ROOT", tmp_path)
    assert common.commit() == "no git checkout"
    git("init")
    assert common.commit() == "a git checkout, of which git says nothing"
    (tmp_path / "file").write_text("1")
    git("add file")
    git("commit -m one")
    assert common.commit() == git("rev-parse HEAD")
    (tmp_path / "file").write_text("2")
    assert common.commit() == git("rev-parse HEAD") + ", with changes"


@pytest.mark.linux
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs another user")
def test_a_user_without_a_home_gets_a_run(tmp_path):
    """Nor an entry in the list of users: a container under any number."""
    tmp_path.chmod(0o777)
    command = ["setpriv", "--reuid", "5001", "--clear-groups", "env", "-u", "HOME"]
    command += [sys.executable, "-m", "cbir", "query", "photo.jpg", "--run", "none"]
    there = os.environ | {"CBIR_RUNS": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=there, cwd=tmp_path)
    if "Permission denied" in done.stderr:
        pytest.skip("others may not run this interpreter")
    assert re.fullmatch("cbir: no run 'none' .*", done.stderr.strip())


def cells_of(path):
    """The cells of a notebook, without those that papermill adds."""
    cells = nbformat.read(path, as_version=4).cells
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]


def printed(cell):
    """A cell's outputs without progress bars, which a run in a terminal leaves in its notebooks."""
    outputs = coalesce_streams(cell.get("outputs", []))
    return [out for out in outputs if out.get("name") != "stderr" or "%|" not in out["text"]]


@pytest.mark.parametrize("name", PAPER)
def test_scenes_run_prints_what_is_committed(name):
    """As nbval compares the other notebooks: these are executed once, by `make reproduce`."""
    folders = ROOT / "notebooks", scenes_run() / "scenes" / "notebooks"
    committed, executed = (cells_of(folder / f"{name}.ipynb") for folder in folders)
    assert [cell.source for cell in executed] == [cell.source for cell in committed]
    for number, cells in enumerate(zip(committed, executed)):
        difference = first_difference(*map(printed, cells))
        assert not difference, f"cell {number}: {difference}"


def check_complete(path, missing=()):
    drawn = [name for name in FIGURES if name not in missing]
    for suffix in ("png", "pdf"):
        assert sorted(file.stem for file in path.glob(f"figures/fig[0-9]*.{suffix}")) == drawn
    for name in ("table1.csv", "table1.md", "table1.tex", "metrics.json", "report.html"):
        assert (path / name).stat().st_size > 100
    report = read_page(path / "report.html")
    check_self_contained(report)
    figures = {figure["id"]: figure for figure in report.find_all("figure")}
    assert figures.keys() >= {f"figure-{name}" for name in drawn}
    assert all(len(figure.img["alt"]) > 20 for figure in figures.values())


def test_scenes_run_leaves_everything():
    path = scenes_run() / "scenes"
    check_complete(path)
    table = pd.read_csv(path / "table1.csv")
    assert len(table) == 11 and table.iloc[-1]["query"] == "mean"
    assert table.filter(regex="^(printed|published|paper) ").shape[1] == 2 * 5 + 4
    assert table.drop(columns="class").notna().all().all()
    metrics = read_metrics(path)
    assert metrics["images_of"] == "scenes" and metrics["network"]["name"] == "vgg16_scenes"
    assert set(PAPER) <= set(metrics["notebooks"]) <= {*PAPER, *EVIDENCE}
    page = read_page(path / "report.html").get_text().replace(",", "")
    for part in ("The paper's claims", "Table I", "same class", "1000 database"):
        assert part in page


def test_scenes_results_are_those_that_the_claims_are_judged_by():
    metrics = read_metrics(scenes_run() / "scenes")
    measured = {(row["metric"], row["descriptor"]): row["mean"] for row in metrics["results"]}
    kept = claims.read_scores("scenes_vgg16")
    means = kept[kept.balance == "as they are"].groupby("descriptor")[[*MEASURED.values()]].mean()
    for metric, measure in MEASURED.items():
        # A neighbour or two may swap places on another processor.
        tolerance = 0.001 if metric == "histogram distance" else 0.01
        for descriptor, name in (KEPT | {"h+average": "h+average"}).items():
            expected = pytest.approx(means.loc[name, measure], abs=tolerance)
            assert measured[metric, descriptor] == expected


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vgg16", "vgg16_conv"])
def test_photographs_through_vgg16(network, tmp_path):
    """The whole width of VGG16, with random weights: no download, every path of a real run."""
    for label in ("Motorbikes", "dolphin", "lotus"):
        for i in range(6):
            write_image(tmp_path / "photos" / label / f"{i}.jpg", (120, 90 + 10 * i), seed=i)
        for i in range(3):  # so many that some are drawn as queries
            (tmp_path / "photos" / label / f"brökén_{i}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    words = ["-p", "images", tmp_path / "photos", "-p", "network", network]
    printed = reproduce(tmp_path, "--profile", "folder", *words, "-p", "weights", "none")
    without_h = ("fig03", "fig04", "fig07", "fig08")
    check_complete(tmp_path / "folder", missing=() if network == "vgg16" else without_h)
    metrics = read_metrics(tmp_path / "folder")
    assert len(metrics["unreadable"]) == 9 and "skipped, listed in the report: 9" in printed
    assert "brökén_0.jpg" in (tmp_path / "folder" / "report.html").read_text(encoding="utf-8")
    store = cbir.open_store(tmp_path / "folder" / "stores" / "database")
    assert store.eta.shape[1] == (9664 if network == "vgg16" else 1472)
    if network == "vgg16_conv":  # nothing that needs h
        assert {row["descriptor"] for row in metrics["results"]} == {"eta_conv", "eta"}


@pytest.mark.slow
def test_notebook_04_alone_searches_by_itself(tmp_path):
    """All but the IM-like descriptor, which notebook 02 trains, and notebook 03's hits."""
    few = ["-p", "max_images", "60", "-p", "max_queries", "12"]
    reproduce(tmp_path, "--profile", "slim", "--name", "alone", "--only", "04", *few)
    drawn = {path.stem for path in (tmp_path / "alone" / "figures").glob("*.png")}
    assert {"fig08", "fig09", "fig10"} <= drawn and "fig07" not in drawn
    assert pd.read_csv(tmp_path / "alone" / "table1.csv")["printed eta"].notna().all()


@pytest.mark.slow
def test_photographs_without_classes_give_all_but_the_class_scores(tmp_path):
    """A folder as it comes: damaged files, a note, two queries, one of which is a copy."""
    for i in range(8):
        write_image(tmp_path / "flat" / f"{i}.jpg", seed=i)
    (tmp_path / "flat" / "notes.txt").write_text("mine")
    write_image(tmp_path / "queries" / "copied.jpg", seed=3)
    write_image(tmp_path / "queries" / "moved.jpg", seed=30)
    words = ["-p", "images", tmp_path / "flat", "-p", "queries", tmp_path / "queries"]
    words += ["-p", "network", "embedded", "-p", "k", "3", "--only", "02-05"]
    reproduce(tmp_path, "--profile", "folder", "--name", "flat-run", *words)
    check_complete(tmp_path / "flat-run", missing=("fig01", "fig02", "fig03", "fig07"))
    metrics = read_metrics(tmp_path / "flat-run")
    assert {row["metric"] for row in metrics["results"]} == {"histogram distance"}
    assert metrics["no_images"] == {".txt": 1}
    assert metrics["duplicates"] == [["copied.jpg", "3.jpg"]]
    page = read_page(tmp_path / "flat-run" / "report.html").get_text()
    for part in ("copied.jpg", "copy in the database: 1", ".txt"):
        assert part in page
    assert "The paper's claims" not in page
    assert not pd.read_csv(tmp_path / "flat-run" / "table1.csv").filter(regex="^paper ").shape[1]
