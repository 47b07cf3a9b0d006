"""What is asked of every commit: the checkers' settings, and notebooks whose metadata is tidied while their outputs stay."""

import importlib.util
import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from cbir.common import ROOT

SCRIPT = ROOT / "notebooks" / "tidy.py"
spec = importlib.util.spec_from_file_location("tidy", SCRIPT)
tidy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tidy)


@pytest.fixture
def messy(tmp_path):
    """A notebook as JupyterLab saves it."""
    output = nbformat.v4.new_output("stream", text="η = 0.5\n")
    cell = nbformat.v4.new_code_cell("q = 0.5  # η", execution_count=3, outputs=[output], metadata={
        "tags": ["parameters"], "collapsed": True, "scrolled": False, "execution": {"iopub.status.busy": "2021-01-01T00:00:00Z"}, "vscode": {"languageId": "python"}})
    plain = nbformat.v4.new_markdown_cell("# Title", metadata={"tags": [], "jp-MarkdownHeadingCollapsed": True})
    notebook = nbformat.v4.new_notebook(cells=[cell, plain], metadata={
        "kernelspec": {"name": "venv", "display_name": "Python 3 (ipykernel)"}, "language_info": {"name": "python", "version": "3.12.1"}, "widgets": {"state": {"a": 1}}})
    nbformat.write(notebook, tmp_path / "messy.ipynb")
    return tmp_path / "messy.ipynb"


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
    for a, b in zip(before.cells, after.cells, strict=True):
        assert {k: v for k, v in a.items() if k != "metadata"} == {k: v for k, v in b.items() if k != "metadata"}
    assert "η = 0.5" in messy.read_text(encoding="utf-8")
    assert run(messy).returncode == 0 and run("--check", messy).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_committed_notebooks_keep_their_cells(path):
    text = path.read_text(encoding="utf-8")
    before, after = json.loads(text), json.loads(tidy.tidy(text))
    assert before["cells"] == after["cells"] and before["nbformat_minor"] == after["nbformat_minor"]


def test_hooks_and_make_check_ask_the_same():
    """Every checker of the hooks is one of `make check`, on tools that the project installs."""
    hooks = {h["id"]: h for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"] for h in repo["hooks"]}
    assert all(h["language"] == "system" for h in hooks.values())  # nothing is downloaded
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1)
    for name in ("ruff", "mypy", "notebooks"):
        assert " ".join(hooks[name]["entry"].split()[1:3]) in recipe


CALLS = """
import cbir, numpy as np
st = cbir.open_store("st")
reveal_type(cbir.search(st, "a.jpg"))
reveal_type(cbir.search(st, "a.jpg", ["h", "eta"]))
reveal_type(st.eta[:])
cbir.search(st, "a.jpg", metric="l3")
cbir.extract("images", cbir.load_network(), "st", threshold="relativ")
cbir.extract("images", cbir.load_network(), "st", q=1, threshold="relative")
"""


def test_what_editors_and_checkers_see(tmp_path):
    """From outside the package, as users call it."""
    (tmp_path / "calls.py").write_text(CALLS)
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "calls.py"], capture_output=True, text=True, cwd=ROOT)
    said = dict(reversed(re.findall(r"calls\.py:(\d+): (.+)", done.stdout)))  # the first of each line
    assert {line: text.split(":")[0] for line, text in said.items()} == {"4": "note", "5": "note", "6": "note", "7": "error", "8": "error"}
    assert '"tuple[' in said["4"] and "Hits" in said["4"] and 'dict[str' in said["5"] and "Hits" in said["5"] and "float" in said["6"]
    assert "No overload variant" in said["7"] and "relativ'" in said["8"]
