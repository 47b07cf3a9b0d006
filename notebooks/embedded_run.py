"""`cbir reproduce` on the embedded set, once for all the tests and notebooks of a pytest session.

The processes of a session share a folder. Whichever asks first executes the paper's notebooks in
it; the others wait and read.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

FOLDER = "CBIR_SESSION"


def share_folder(config) -> None:
    """Called by `pytest_configure`: in the session's first process, and in its workers."""
    if FOLDER not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="cbir-session-")
        os.environ[FOLDER] = folder.name
        config.add_cleanup(lambda: os.environ.pop(FOLDER))
        config.add_cleanup(folder.cleanup)


def reproduce(runs: Path, *args: object) -> str:
    """The command line in a process of its own; returns what it prints."""
    changed = {"CBIR_RUNS": str(runs), "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "cbir.cli", "reproduce", *map(str, args)]
    environment = os.environ | changed
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=runs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def embedded_run() -> tuple[Path, str]:
    """The folder of runs with the run "embedded", to be read only; what the command printed."""
    runs = Path(os.environ[FOLDER])
    printed = runs / "printed.txt"
    with FileLock(runs / "lock"):
        if not printed.exists():
            printed.write_text(reproduce(runs), encoding="utf-8")
    return runs, printed.read_text(encoding="utf-8")
