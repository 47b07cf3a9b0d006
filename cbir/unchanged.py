"""Whether a notebook of a run would give again what is there."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common import PACKAGE, ROOT
from .project import PAPER
from .run import Run
from .store import find_store

LOOKS_AT_IMAGES = "02_extraction"  # is executed each time: it finds what has changed in a folder
ONLY_READ = [name for name in PAPER if name != LOOKS_AT_IMAGES]
SEE_IMAGES = PAPER[PAPER.index(LOOKS_AT_IMAGES) + 1 :]  # those that come after it
PARTS = ("database", "queries")


def made_of(run: Run, notebook: str, parameters: Mapping[str, Any], here: Mapping[str, str]) -> str:
    """A hash of all that a notebook's results depend on, 64 hex digits.

    Its cells and parameters, the code, the packages, the machine, and the descriptors.

    Args:
        run: the run that it belongs to.
        notebook: its name.
        parameters: what it is given.
        here: what `environment` says.
    """
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in cells["cells"]]
    machine = {key: value for key, value in here.items() if key != "code"}
    stores = _stores(run) if notebook in SEE_IMAGES else {}
    known = [sources, parameters, _code(), machine, stores]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def is_there(run: Run, notebook: str, made: str) -> bool:
    """Whether a notebook was executed before, from the same, and all that it wrote is still there.

    Args:
        run: the run that it belongs to.
        notebook: its name.
        made: what `made_of` says of it now.
    """
    metrics = run.metrics
    if notebook not in ONLY_READ or metrics.get("made_of", {}).get(notebook) != made:
        return False
    wrote = [*metrics["files"][notebook], f"notebooks/{notebook}.ipynb"]
    return all((run.path / file).exists() for file in wrote)


def results(run: Run) -> dict[str, int]:
    """When each file of a run was written, but for stores and notebooks, in nanoseconds."""
    written = {}
    for path in run.path.rglob("*"):
        name = path.relative_to(run.path)
        if path.is_file() and name.parts[0] not in ("stores", "notebooks", "metrics.json"):
            written[name.as_posix()] = path.stat().st_mtime_ns
    return written


@functools.cache
def _code() -> str:
    """A hash of the package's files, and of the numbers and weights beside it."""
    digest = hashlib.sha256()
    for folder in (PACKAGE, ROOT / "data" / "paper", ROOT / "data" / "weights"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(folder)}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _stores(run: Run) -> dict[str, Any]:
    """What the descriptors of a run were made of: {part: images and settings}."""
    found: dict[str, Any] = {}
    for part in PARTS:
        store = find_store(Path(run.path) / "stores" / part)
        if store is not None:
            images = [str(store.root), store.files, store.labels, store.table["bytes"].tolist()]
            settings = [store.network, store.recipe, store.extras, store.dtype]
            found[part] = [images, settings, store.unreadable]
    return found
