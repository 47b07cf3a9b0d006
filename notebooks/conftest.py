"""nbval over the committed notebooks: on the CPU, where the stored outputs come from.

Each notebook can be tested by itself: it goes on from a copy of an executed run, whose stores are
links. The appendix describes its own images, by the slim network, in seconds.
There are no progress bars. Outputs are compared with the tolerance of `compare_outputs.py`.
"""

import os
import tempfile
from pathlib import Path
from unittest import mock

from compare_outputs import first_difference
from nbval.plugin import IPyNbCell, IPyNbFile
from shared_run import copy_run, scenes_run, share_folder

folders = tempfile.TemporaryDirectory()
nbval_setup = IPyNbFile.setup


def pytest_configure(config):
    share_folder(config)


def runs_folder(notebook):
    """Where a notebook finds and leaves its run."""
    folder = Path(folders.name, notebook.path.stem)
    if notebook.path.stem[:2].isdigit():
        copy_run(scenes_run() / "scenes", folder / "scenes")
    return folder


def start_kernel(notebook, *args):
    """nbval's own, with the environment of a kernel that is tested."""
    environment = {"TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["CBIR_RUNS"] = str(runs_folder(notebook))
    with mock.patch.dict(os.environ, environment):
        # In a terminal of JupyterLab, too, notebook 08 draws figures.
        os.environ.pop("JPY_SESSION_NAME", None)
        nbval_setup(notebook)


def compare_outputs(cell, outputs, committed, *args):
    """Instead of nbval's own, which knows no tolerance."""
    difference = first_difference(committed, outputs)
    cell.comparison_traceback = [difference]
    return not difference


IPyNbFile.setup = start_kernel
IPyNbCell.compare_outputs = compare_outputs
