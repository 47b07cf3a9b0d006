"""The committed notebooks: executed in full, by the standard kernel, with one parameters cell, and clean."""

import json
import re

import nbformat
import papermill
import pytest
import yaml

from cbir.cli import PAPER
from cbir.common import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_the_papers_notebooks_are_there():
    assert set(PAPER) <= {p.stem for p in NOTEBOOKS}


def test_every_cell_was_executed_in_order_without_error(notebook):
    """A cell without stored execution would be compared with nothing."""
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "error"]


def test_one_parameters_cell_with_a_comment_on_each(notebook):
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all(re.fullmatch(r"\w+ = .+  # .+", line) for line in tagged[0].source.splitlines())


def test_metadata_and_size(notebook, request):
    assert notebook.metadata.kernelspec.name == "python3"
    assert 10 <= len(code_cells(notebook)) <= 20
    assert len(json.dumps(notebook)) < 1_500_000


def test_every_picture_has_an_alternative_text(notebook):
    """Figures by `Run.show` or `figures.show`, other pictures by IPython's `Image`."""
    shown = [(kind, o.metadata.get(kind, {}).get("alt", "")) for c in code_cells(notebook) for o in c.outputs if "data" in o for kind in o.data if kind.startswith("image/")]
    assert shown and all(len(alt) > 20 for _, alt in shown)
    assert not [c.id for c in code_cells(notebook) if "plt.show" in c.source or "save_figure" in c.source]


def test_no_paths_progress_bars_or_warnings_in_the_outputs(notebook):
    texts = [o.get("text", "") + "".join(v if isinstance(v, str) else "" for k, v in o.get("data", {}).items() if k.startswith("text/"))
             for c in code_cells(notebook) for o in c.outputs]
    assert not [t for t in texts if re.search(r"(/(home|root|work|tmp|Users)/|[A-Z]:\\|it/s|%\||Warning)", t)]
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.get("name") == "stderr"]


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_name_only_parameters_that_exist(profile):
    known = set().union(*(papermill.inspect_notebook(str(p)) for p in NOTEBOOKS))
    assert set(yaml.safe_load(profile.read_text(encoding="utf-8"))) <= known
