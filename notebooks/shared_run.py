"""The run "scenes", once for all the tests and notebooks of a pytest session.

The processes of a session share a folder. Whichever asks first goes on from the run that
`make reproduce` left, so that only what has changed since is executed; where there are no stores,
the images are described there, which takes minutes, and stay. The others wait and read.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from cbir.common import ROOT
from cbir.run import SETTINGS, Run

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
    command = [sys.executable, "-m", "cbir", "reproduce", *map(str, args)]
    environment = os.environ | changed
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=runs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def copy_run(run: Path, copy: Path) -> None:
    """Copies a run, whose stores are linked: they are large, and never written in place."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("stores"))
    if (run / "stores").exists():
        locks = shutil.ignore_patterns(".*.lock")
        shutil.copytree(run / "stores", copy / "stores", copy_function=link, ignore=locks)


def link(file: str, to: str) -> None:
    """Links a file, or copies it where its disk has no links or is another one."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)


def scenes_run() -> Path:
    """The folder of runs with the run "scenes", to be read only."""
    runs = Path(os.environ[FOLDER])
    with FileLock(runs / "lock"):
        if not (runs / "done").exists():
            made = Run("scenes", ROOT / "runs")
            if not (made.path / "stores" / "database").exists():
                made.path.parent.mkdir(exist_ok=True)
                reproduce(made.path.parent, "--only", "02")
            settings = made.settings
            if all(settings.get(name, value) == value for name, value in SETTINGS.items()):
                copy_run(made.path, runs / "scenes")
            reproduce(runs)
            (runs / "done").touch()
    return runs
