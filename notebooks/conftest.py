"""nbval over the committed notebooks: on the CPU, where the stored outputs come from.

Runs go into a folder of their own, there are no progress bars, and outputs are compared with the
tolerance of `compare_outputs.py`.
"""

import os
import tempfile
from unittest import mock

from compare_outputs import first_difference
from nbval.plugin import IPyNbCell, IPyNbFile

runs = tempfile.TemporaryDirectory()
ENVIRONMENT = {"CBIR_RUNS": runs.name, "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
nbval_setup = IPyNbFile.setup


def start_kernel(notebook, *args):
    """nbval's own, with the environment of a kernel that is tested."""
    with mock.patch.dict(os.environ, ENVIRONMENT):
        # In a terminal of JupyterLab, too, notebook 09 draws figures.
        os.environ.pop("JPY_SESSION_NAME", None)
        nbval_setup(notebook)


def compare_outputs(cell, outputs, committed, *args):
    """Instead of nbval's own, which knows no tolerance."""
    difference = first_difference(committed, outputs)
    cell.comparison_traceback = [difference]
    return not difference


IPyNbFile.setup = start_kernel
IPyNbCell.compare_outputs = compare_outputs
