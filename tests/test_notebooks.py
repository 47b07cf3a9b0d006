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
from cbir.notebooks import EVIDENCE, PAPER, parameters
from cbir.run import SETTINGS

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("appendix/*.ipynb")])


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def test_it_is_whole(notebook):
    """Every cell executed, else it would be compared with nothing; the metadata of all."""
    cells = code_cells(notebook)
    assert 5 <= len(cells) <= 25 and len(json.dumps(notebook, ensure_ascii=False)) < 1_000_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "error" not in {output.output_type for output in outputs(notebook)}
    assert notebook.metadata.kernelspec.name == "python3"


def test_cells_are_short_findings_texts_and_parameters_explained(notebook):
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = tagged[0].source.splitlines()
    ends = [line for line in lines if not re.fullmatch(r"\w+ = \[|    .+,", line)]  # of a long list
    assert all(re.fullmatch(r"(\w+ = .+|\])  # .+", line) for line in ends)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or "finding" not in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and cell not in tagged:
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_parameters_are_few():
    """Those that only open the stores of 02 repeat none of its parameters."""
    for path in NOTEBOOKS:
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
        known = parameters(name)
        assert len(known) <= (14 if name == "02_extraction" else 8), name
        assert known["run_name"][0] == ("slim" if "slim" in name else "scenes"), name
        if name in {*PAPER[1:], *EVIDENCE}:
            assert not {"images", "profile", "weights"} & known.keys(), name


def test_outputs_are_for_everybody(notebook):
    """Alternative texts on pictures (`Run.show`, `Image`); no paths, progress bars or warnings."""
    unwanted = re.compile(r"(/(home|root|work|tmp|Users)/|[A-Z]:\\|it/s|%\||Warning)")
    lengths = []
    for output in outputs(notebook):
        assert output.get("name") != "stderr"
        for kind, text in texts(output).items():
            assert not unwanted.search(text), kind
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                lengths.append(len(output.metadata.get(kind, {}).get("alt", "")))
    assert lengths and min(lengths) > 20


def test_profiles_name_only_parameters_that_exist():
    known = set(SETTINGS).union(*(papermill.inspect_notebook(str(path)) for path in NOTEBOOKS))
    for profile in (ROOT / "profiles").glob("*.yaml"):
        assert set(yaml.safe_load(profile.read_text(encoding="utf-8"))) <= known


def test_pages_are_committed_without_outputs():
    for path in (ROOT / "notebooks" / "pages").glob("*.ipynb"):
        page = nbformat.read(path, as_version=4)
        assert not any(outputs(page)) and not any(c.execution_count for c in code_cells(page))


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_every_notebook_is_executed_by_the_tests():
    """The paper's by tests/test_reproduce.py, the others by nbval."""
    dry_run = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    (command,) = [line for line in dry_run.stdout.splitlines() if "-m pytest" in line]
    assert set(PAPER) <= {path.stem for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        file = path.relative_to(ROOT).as_posix()
        assert (file in command.split()) == (path.stem not in PAPER)
