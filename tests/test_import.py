"""`import cbir` offers every public name, and imports nothing that takes long beforehand."""

import os
import subprocess
import sys
import types

import pytest

import cbir
from cbir.common import ROOT

HEAVY = {"torch", "torchvision", "numpy", "pandas", "numba", "papermill"}
HEAVY |= {"matplotlib", "PIL", "gradio", "distributed"}


def run(code, **environment):
    command, environment = [sys.executable, "-c", code], os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(code):
    """The heavy ones among the modules that some code imports."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    return HEAVY & set(run(code).splitlines()[-1].split())


def test_every_public_name_is_there():
    names = set(dir(cbir))
    assert names == set(cbir.__all__)
    assert {"search", "extract", "query", "Network", "open_store"} <= names
    assert {"figures", "Hits", "AS_RELEASED"} <= names and len(names) <= 45
    for name in dir(cbir):
        assert getattr(cbir, name) is not None
    with pytest.raises(AttributeError, match="serch"):
        cbir.serch


def test_functions_are_not_their_modules():
    """Also when these were imported first and became attributes of the package."""
    code = "import cbir, cbir.search, cbir.extract, cbir.query\n"
    code += "print(*(type(f).__name__ for f in (cbir.search, cbir.extract, cbir.query)))"
    assert run(code).split() == 3 * ["function"]
    assert isinstance(cbir.figures, types.ModuleType)


def test_importing_takes_nothing_heavy():
    assert imported("import cbir; assert cbir.NAMES") == set()
    code = "import cbir; cbir.load_network(weights=None)"  # neither stores nor searches
    assert imported(code) <= {"torch", "torchvision", "numpy", "PIL"}


def test_the_command_line_answers_before_anything_heavy_is_imported():
    code = "import contextlib; from cbir import cli\n"
    for words in (["--help"], ["--version"], ["evidence", "--help"], ["qery"]):
        code += f"with contextlib.suppress(SystemExit): cli.main({words})\n"
    assert imported(code) == set()
