"""The comparison of notebooks' outputs: what another processor may change, and what nobody may."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from compare_outputs import first_difference
from nbformat.v4 import new_code_cell, new_notebook, new_output

from cbir.common import ROOT

TABLE = "          mean   low\nη̃         0.64  0.59\nIM-like   0.98  0.96\n"

LAST_DIGITS = """mean 0.27|mean 0.28
mean 0.27|mean 0.25
[-0.010, +0.025]|[-0.008, +0.024]
+0.000|-0.001
0.99|1.00
median 6.1, from 2.5 to 15.0|median 6.0, from 2.6 to 15.1
it is 27.7%.|it is 27.8%.
  9.99  a / 10.00  b| 10.00  a / 10.00  b"""
MORE = """mean 0.27|mean 0.30
mean 0.27|mean 0.271
mean 0.27|mean 0.3
mean 0.27|mean 1
mean 0.27|mean -0.27
mean 0.27|median 0.27
mean 0.27|mean
mean 0.27|mean 0.27 0.27
1000 images|1001 images
87% of it|88% of it
+0.005 open|+0.005 better
True|False
numpy 2.3.6|numpy 2.3.7
<Figure size 787.6x291.5 with 30 Axes>|<Figure size 787.6x291.6 with 30 Axes>
mug_00057.jpg|mug_00058.jpg
two words|twowords"""

WIDER = (TABLE, TABLE.replace("0.59", "0.60").replace("   mean", "  mean"))
CHANGED = [TABLE.replace("0.98", "0.92"), TABLE.replace("IM-like", "h      ")]
CHANGED += [TABLE.replace("η̃         0.64  0.59\n", ""), TABLE + "and more"]

CELLS = {
    "as_committed": "print('mean 0.27, better, of 200')",
    "last_digit": "print('mean 0.29, better, of 200')",
    "wrong_number": "print('mean 0.37, better, of 200')",
    "missing_output": "pass",
    "one_output_more": "print('mean 0.27, better, of 200'); display('more')",
}


def stream(text):
    return [new_output("stream", text=text)]


def shown(**data):
    kinds = {kind.replace("_", "/"): text for kind, text in data.items()}
    return [new_output("display_data", data=kinds)]


def pairs(text):
    return [tuple(line.replace(" / ", "\n").split("|")) for line in text.splitlines()]


def differences(before, after):
    """Both ways, as a stream and as HTML."""
    for left, right in ((before, after), (after, before)):
        yield first_difference(stream(left), stream(right))
        yield first_difference(shown(text_html=left), shown(text_html=right))


@pytest.mark.parametrize("before, after", [*pairs(LAST_DIGITS), WIDER])
def test_another_processor_may_change_the_last_digit(before, after):
    assert set(differences(before, after)) == {""}


@pytest.mark.parametrize("before, after", [*pairs(MORE), *((TABLE, text) for text in CHANGED)])
def test_nobody_may_change_anything_else(before, after):
    assert all(differences(before, after))


def test_outputs_are_counted_and_of_the_same_kinds():
    figure = {"text_plain": "<Figure>", "image_png": "pixels"}
    assert first_difference(shown(**figure), shown(**figure | {"image_png": "others"})) == ""
    assert "became text/plain" in first_difference(shown(**figure), shown(text_plain="<Figure>"))
    assert "1 became 0" in first_difference(shown(**figure), [])
    assert "0 became 1" in first_difference([], stream("a warning"))
    to_stderr = [new_output("stream", text="text", name="stderr")]
    assert "became stderr" in first_difference(stream("text"), to_stderr)
    assert first_difference(stream("<Figure>"), shown(text_plain="<Figure>"))
    difference = first_difference(stream(TABLE), stream(TABLE.replace("0.59", "0.69")))
    assert difference == "stdout: 'η̃         0.64  0.59' became 'η̃         0.64  0.69'"


def test_nbval_compares_by_it(tmp_path):
    """Each cell, run by nbval, where "mean 0.27, better, of 200" was committed."""
    for file in ("conftest.py", "compare_outputs.py", "shared_run.py"):
        shutil.copy(ROOT / "notebooks" / file, tmp_path)
    cells = []
    for count, source in enumerate(CELLS.values(), 1):
        outputs = stream("mean 0.27, better, of 200\n")
        cells.append(new_code_cell(source, outputs=outputs, execution_count=count))
    nbformat.write(new_notebook(cells=cells), tmp_path / "tiny.ipynb")

    options = ["-p", "no:cacheprovider", "--rootdir", ".", "--nbval", "--nbval-current-env", "-rA"]
    command = [sys.executable, "-m", "pytest", *options, "tiny.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    for number, name in enumerate(CELLS):
        result = "PASSED" if name in ("as_committed", "last_digit") else "FAILED"
        assert f"{result} tiny.ipynb::Cell {number}" in done.stdout, done.stdout + done.stderr
    assert "'mean 0.27, better, of 200' became 'mean 0.37, better, of 200'" in done.stdout
