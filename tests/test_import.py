"""`import cbir` and what it offers: every public name, and nothing that takes long before it is needed."""

import os
import subprocess
import sys
import types

import pytest

import cbir
from cbir.common import ROOT

HEAVY = {"torch", "torchvision", "numpy", "pandas", "numba", "zarr", "papermill", "matplotlib", "PIL"}


def run(code, *args, **environment):
    done = subprocess.run([sys.executable, *args, "-c", code], capture_output=True, text=True, env=os.environ | environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(code):
    """The heavy ones among the modules that some code imports."""
    return HEAVY & set(run(code + "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})").splitlines()[-1].split())


def test_every_public_name_is_there():
    assert {"search", "extract", "query", "Network", "open_store", "cluster", "zoo", "AS_RELEASED"} <= set(dir(cbir)) == set(cbir.__all__)
    for name in dir(cbir):
        assert getattr(cbir, name) is not None
    with pytest.raises(AttributeError, match="serch"):
        cbir.serch


def test_functions_are_not_their_modules():
    """Whatever was imported first: the module sets itself as an attribute of the package."""
    for first in ("import cbir.search, cbir.extract, cbir.workflow.query", "import cbir.tables, cbir.workflow.query", "from cbir import query, extract, search", ""):
        assert run(f"{first}\nimport cbir\nprint(*(type(f).__name__ for f in (cbir.search, cbir.extract, cbir.query)))").split() == 3 * ["function"]
    assert isinstance(cbir.cluster, types.ModuleType)


def test_importing_takes_nothing_heavy():
    assert imported("import cbir") == set()
    assert imported("import cbir; assert cbir.cluster.connect") == set()
    assert imported("import cbir; cbir.search") >= {"torch", "zarr", "numba"}


def test_eager_import():
    assert HEAVY - {"papermill"} <= set(run("import sys, cbir; print(*sys.modules)", EAGER_IMPORT="1").split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["evidence", "--help"], ["parameters"], ["reproduce", "-p", "metrc", "l1"], ["qery"]], ids=" ".join)
def test_the_command_line_answers_before_anything_heavy_is_imported(words):
    assert imported(f"from cbir import cli\ntry: cli.main({words})\nexcept SystemExit: pass") == set()
