"""What is asked of every commit: the checkers' settings, and notebooks of tidy metadata."""

import re
import subprocess
import sys

import nbformat
import pytest
import tidy
import yaml

from cbir.common import ROOT

SCRIPT = ROOT / "notebooks" / "tidy.py"


@pytest.fixture
def messy(tmp_path):
    output = nbformat.v4.new_output("stream", text="η = 0.5\n")
    code = nbformat.v4.new_code_cell("q = 0.5  # η", execution_count=3, outputs=[output])
    code.metadata = {"tags": ["parameters"], "collapsed": True, "vscode": {"languageId": "python"}}
    heading = {"tags": [], "jp-MarkdownHeadingCollapsed": True}
    plain = nbformat.v4.new_markdown_cell("# Title", metadata=heading)
    machine = {"kernelspec": {"name": "venv", "display_name": "Python 3 (ipykernel)"}}
    machine |= {"language_info": {"name": "python", "version": "3.12.1"}, "widgets": {"state": {}}}
    path = tmp_path / "messy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[code, plain], metadata=machine), path)
    return path


def run(*args):
    return subprocess.run([sys.executable, SCRIPT, *args], capture_output=True, text=True)


def test_metadata_goes_outputs_stay(messy):
    before = nbformat.read(messy, 4)
    assert run("--check", messy).returncode == 1 and nbformat.read(messy, 4) == before
    assert run(messy).returncode == 0
    after = nbformat.read(messy, 4)
    nbformat.validate(after)
    assert after.metadata == {"kernelspec": tidy.KERNEL, "language_info": tidy.LANGUAGE}
    assert [c.metadata for c in after.cells] == [{"tags": ["parameters"]}, {}]
    for cell in [*before.cells, *after.cells]:
        del cell["metadata"]
    assert before.cells == after.cells
    assert run(messy).returncode == 0 and run("--check", messy).returncode == 0


def test_hooks_and_make_check_ask_the_same():
    """Every checker of the hooks is one of `make check`, on tools that the project installs."""
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = settings["repos"]
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    assert {hook["language"] for hook in hooks.values()} == {"system"}  # nothing is downloaded
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", makefile, re.M).group(1)
    for name in ("ruff", "format", "mypy", "notebooks"):
        script = hooks[name]["entry"].removeprefix("python ").removesuffix(" --force-exclude")
        assert script in recipe
