"""From a run to its explorer: what notebook 09 opens, and its page served by Voila.

What takes seconds to import is imported where it is needed: a slip of the pen shows at once.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .. import project
from ..common import ROOT, AnyPath

if TYPE_CHECKING:
    from ..explorer.engine import Explorer
    from ..images import ImageSet
    from ..networks import Network
    from ..run import Run
    from ..store import Store

NOTEBOOK = "09_explore"
EXTRAS = {"windows": "windows"}  # what a store needs so that every recipe can be asked for
JUPYTER_ASSETS = Path(__file__).parent / "assets" / "jupyter"


def open_explorer(
    run: Run,
    store: AnyPath = "",
    pictures: AnyPath = "",
    weights: str | None = "",
    device: str = "auto",
) -> tuple[Explorer, ImageSet | Store]:
    """Opens an `Explorer` and the pictures to choose from, by the parameters of notebook 09.

    The embedded images are described first where that has not been done.

    Args:
        run: the run whose database is explored.
        store: the path or URL of another store; "": the run's.
        pictures: a folder to choose from; "": the run's queries, or the store's own images.
        weights: of the store's network, as in `open_database`.
        device: as in `load_network`.

    Returns:
        The explorer, and an `ImageSet` or a `Store` to choose from.

    Raises:
        FileNotFoundError: the run has not described anything; and what `open_database` raises.
    """
    from ..explorer.engine import Explorer
    from ..images import list_images
    from ..networks import pick_device
    from ..query import open_database
    from ..store import open_store

    if not store and run.name == "embedded":
        _describe_embedded(run, device)
    database, net = open_database(run.name, store, weights)
    if not store:
        database = with_windows(database, net, run.path / "stores" / "windows" / "database")
    explorer = Explorer(database, net.to(pick_device(device)))
    queries = run.path / "stores" / "queries"
    if pictures:
        return explorer, list_images(pictures)
    if not store and queries.is_dir():
        return explorer, open_store(queries)
    return explorer, database


def with_windows(store: Store, net: Network, path: AnyPath) -> Store:
    """Adds to a store the window means that a run with retrained codes keeps beside it.

    Args:
        store: the store.
        net: the network that made it.
        path: where a store of its images' windows may lie.

    Returns:
        The store with the extra "windows"; as it was, where they are not there.
    """
    from ..extract import has_windows_of
    from ..store import find_store

    kept = find_store(path)
    if "windows" in store.extras or kept is None or not has_windows_of(kept, net.with_head(None)):
        return store
    if kept.files != store.files or not (kept.described == store.described).all():
        return store
    joined = copy(store)
    joined.arrays = store.arrays | {"windows": kept.arrays["windows"]}
    joined.extras = store.extras | {"windows": "windows"}
    return joined


def _describe_embedded(run: Run, device: str) -> None:
    """Describes the embedded images; a description that was interrupted goes on as it began."""
    from ..datasets import load_images
    from ..extract import extract
    from ..store import find_store
    from ..zoo import load_network

    net = load_network(device=device)
    for part, images in zip(("database", "queries"), load_images("embedded")):
        path = run.path / "stores" / part
        known = find_store(path)
        if known is None:
            extract(images, net, path, extras=EXTRAS)
        elif (known.states == "").any():
            extract(images, net, path, extras=known.extras, **known.recipe)


def in_browser() -> bool:
    """Tells whether somebody looks at this notebook in a browser.

    Returns:
        True where JupyterLab or Voila started the kernel, False in a headless run (papermill,
        nbconvert, nbval).
    """
    by_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return by_voila or "JPY_SESSION_NAME" in os.environ


def serve(
    run: str = "embedded",
    parameters: dict[str, object] | None = None,
    host: str = "127.0.0.1",
    port: int = 8866,
    browser: bool = True,
) -> None:
    """Serves the explorer as a web page until it is interrupted.

    Args:
        run: the run whose database is explored.
        parameters: of notebook 09, by name; "store" explores any other store.
        host: the address to listen on. Any but a loopback address asks visitors for the token that
            is printed at the start.
        port: the port to listen on.
        browser: whether a browser is opened.

    Raises:
        ImportError: the packages of the page are not installed.
        ValueError: a parameter is unknown, or there is no such port.
        OSError: the address cannot be listened on; and what `open_store` and `list_images` raise
            where there is no such run, store or folder.
    """
    _check_installed()
    project.check_names("embedded", parameters or {}, [NOTEBOOK])
    check_address(host, port)
    _launch(prepared(run, _checked(run, parameters or {})), host, port, browser)


def check_address(host: str, port: int) -> None:
    """Checks that a page can be served at an address, without importing anything that takes long.

    Args:
        host: the address to listen on.
        port: the port to listen on; 0 for any.

    Raises:
        ValueError: there is no such port.
        OSError: the address cannot be listened on.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"no port {port}: choose one from 1024 to 65535, or leave out --port")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use, perhaps by another `cbir explore`"
        else:
            reason = f"{host}:{port} cannot be listened on ({error.strerror or error})"
        raise OSError(f"{reason}: choose another --port, from 1024 to 65535") from error


def _check_installed() -> None:
    """Raises ImportError, which names the next step, where the page cannot be shown."""
    missing = [name for name in ("voila", "anywidget") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the explorer's page needs {' and '.join(missing)}: pip install 'cbir[explorer]'"
        )


def _checked(run: str, parameters: dict[str, object]) -> dict[str, object]:
    """The parameters with absolute paths; raises where run, store or pictures are not there."""
    described = run in project.runs()
    if described and not parameters:
        return {}
    if not described and run != "embedded" and not parameters.get("store"):
        project.database_of(run)  # says which runs there are
    from ..checks import absolute
    from ..images import list_images
    from ..run import Run
    from ..store import open_store

    given = {name: absolute(name, value) for name, value in parameters.items()}
    if given.get("store"):
        open_store(given["store"])
    if given.get("pictures"):
        list_images(given["pictures"])
    made = Run(run)
    if not given.get("store") and not described:
        open_explorer(made)  # described here, where a bar shows how far it is
    return given


def prepared(run: str, parameters: dict[str, object]) -> Path:
    """Writes the notebook that is served: notebook 09 without what headless runs show.

    Args:
        run: the run's name; explore.ipynb in its folder is written.
        parameters: of notebook 09, by name.

    Returns:
        The path of explore.ipynb.
    """
    import nbformat
    import papermill

    path = project.runs_folder() / run / "explore.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb"),
        str(path),
        parameters={"run_name": run, **parameters},
        prepare_only=True,
        progress_bar=False,
    )
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "static" not in cell.metadata.get("tags", [])
    ]
    notebook.metadata.kernelspec = {"name": "cbir", "display_name": "cbir", "language": "python"}
    nbformat.write(notebook, path)
    return path


def _launch(notebook: Path, host: str, port: int, browser: bool) -> None:
    """Serves a notebook by Voila until it is interrupted."""
    from traitlets.config import Config
    from voila.app import Voila

    # Of all that it logs a user needs the address, and errors.
    for name in ("Voila", "tornado.general"):
        logging.getLogger(name).addFilter(_concerns_user)
    templates = [str(JUPYTER_ASSETS), os.environ.get("JUPYTER_PATH", "")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, templates))
    loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    config = {
        "Voila": {
            "ip": host,
            "port": port,
            "open_browser": browser,
            "auto_token": not loopback,
            # A foreign page whose name was made to point here does not get in.
            "tornado_settings": {
                "allow_remote_access": not loopback,
                "local_hostnames": ["localhost", host],
            },
        },
        "VoilaConfiguration": {
            "template": "cbir",
            "file_allowlist": [],
            "show_tracebacks": True,
        },
    }
    Voila.launch_instance(argv=[str(notebook)], config=Config(config))


def _concerns_user(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "running at" in record.getMessage()
