"""The explorer as a web page: notebook 09 with its parameters, served by Voila."""

import ipaddress
import os
import socket
from pathlib import Path

import nbformat
import papermill
from traitlets.config import Config
from voila.app import Voila

from ..common import ROOT, did_you_mean
from ..images import list_images
from ..store import open_store
from ..workflow import project
from ..workflow.notebooks import PATHS
from ..workflow.run import Run
from .engine import open_explorer

NOTEBOOK = "09_explore"


def serve(run: str = "embedded", parameters: dict[str, object] | None = None, host: str = "127.0.0.1", port: int = 8866, browser: bool = True) -> None:
    """Serves the explorer until it is interrupted, for the database of a run or, by `parameters` of notebook 09, any store.

    host: the address to listen on; anything but a loopback address asks for the token that is printed at the start.
    Raises ValueError for an unknown parameter, OSError where the port is taken, and for a run, a store or a folder that is not there what
    `open_store` and `list_images` raise.
    """
    project.check_names("embedded", parameters or {}, [NOTEBOOK])
    given = {k: os.path.abspath(os.path.expanduser(str(v))) if v and k in PATHS and "://" not in str(v) and (k != "weights" or os.path.exists(str(v))) else v
             for k, v in (parameters or {}).items()}  # the kernel runs in another folder
    if given.get("store"):
        open_store(str(given["store"]))
    elif run not in project.runs():
        if run == "embedded":
            open_explorer(Run(run))  # described here, where a bar tells how far it is
        else:
            raise FileNotFoundError(f"no run {run!r} with descriptors in {project.runs_folder()}{did_you_mean(run, project.runs())}: "
                                    f"run `cbir reproduce` first, or give a store")
    if given.get("pictures"):
        list_images(str(given["pictures"]))
    with socket.create_server((host, port)):
        pass  # taken ports show here, with a plain message
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(Path(__file__).parent / "assets" / "jupyter"), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    path = prepared(Run(run), given)
    Voila.launch_instance(argv=[str(path)], config=Config({
        "Voila": {"ip": host, "port": port, "open_browser": browser, "auto_token": not local,
                  # a page of somebody else's whose name was made to point here does not get in
                  "tornado_settings": {"allow_remote_access": not local, "local_hostnames": ["localhost", host]}},
        "VoilaConfiguration": {"template": "cbir", "file_allowlist": [], "show_tracebacks": True}}))


def prepared(run: Run, parameters: dict[str, object] | None = None) -> Path:
    """explore.ipynb in a run's folder: notebook 09 with parameters, without what it shows to those who have no browser. Returns its path."""
    path = run.path / "explore.ipynb"
    papermill.execute_notebook(str(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb"), str(path), prepare_only=True, progress_bar=False,
                               parameters={"run_name": run.name, **(parameters or {})})
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "static" not in cell.metadata.get("tags", [])]
    nbformat.write(notebook, path)
    return path
