"""The committed notebooks: executed in full, with one parameters cell each, and clean."""

import json
import re
import shutil
import subprocess

import nbformat
import papermill
import pytest
import yaml
from compare_outputs import texts

from cbir.common import ROOT
from cbir.notebooks import PAPER
from cbir.run import OPTIONS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_the_papers_notebooks_are_there():
    assert set(PAPER) <= {p.stem for p in NOTEBOOKS}


def outputs(notebook):
    found = []
    for cell in code_cells(notebook):
        found += cell.outputs
    return found


def test_every_cell_was_executed_in_order_without_error(notebook):
    """A cell without stored execution would be compared with nothing."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert "error" not in {output.output_type for output in outputs(notebook)}


def test_one_parameters_cell_with_a_comment_on_each(notebook):
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = tagged[0].source.splitlines()
    ends = [line for line in lines if not re.fullmatch(r"\w+ = \[|    .+,", line)]  # of a long list
    assert all(re.fullmatch(r"(\w+ = .+|\])  # .+", line) for line in ends)


def test_metadata_and_size(notebook, request):
    assert notebook.metadata.kernelspec.name == "python3"
    assert 10 <= len(code_cells(notebook)) <= 20
    assert len(json.dumps(notebook)) < 1_500_000


def test_every_picture_has_an_alternative_text(notebook):
    """Figures by `Run.show` or `canvas.show`, other pictures by IPython's `Image`."""
    lengths = []
    for output in outputs(notebook):
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                lengths.append(len(output.metadata.get(kind, {}).get("alt", "")))
    assert lengths and min(lengths) > 20
    for cell in code_cells(notebook):
        assert "plt.show" not in cell.source and "save_figure" not in cell.source


def test_no_paths_progress_bars_or_warnings_in_the_outputs(notebook):
    unwanted = re.compile(r"(/(home|root|work|tmp|Users)/|[A-Z]:\\|it/s|%\||Warning)")
    for output in outputs(notebook):
        assert output.get("name") != "stderr"
        for kind, text in texts(output).items():
            assert not unwanted.search(text), kind


PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_name_only_parameters_that_exist(profile):
    known = set(OPTIONS)
    for path in NOTEBOOKS:
        known |= set(papermill.inspect_notebook(str(path)))
    assert set(yaml.safe_load(profile.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("page", ["report", "compare"])
def test_pages_are_committed_without_outputs(page):
    page = nbformat.read(ROOT / "notebooks" / "pages" / f"{page}.ipynb", as_version=4)
    assert not any(outputs(page)) and not any(c.execution_count for c in code_cells(page))


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_every_notebook_is_executed_by_the_tests():
    """The paper's by tests/test_reproduce.py, the others by nbval."""
    dry_run = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    (command,) = [line for line in dry_run.stdout.splitlines() if "-m pytest" in line]
    for path in NOTEBOOKS:
        assert (f"notebooks/{path.name}" in command.split()) == (path.stem not in PAPER)
