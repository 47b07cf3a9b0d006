"""The project's files, as the command line needs them before anything is imported that takes long: profiles, notebooks and their parameters, runs."""

import ast
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..common import ROOT, did_you_mean, unknown_choice

PAPER = ["00_embedded_network", "01_walkthrough", "02_extraction", "03_retrieval", "04_color_histograms"]
EVIDENCE = ["05_evidence", "06_as_released", "07_baselines_and_ablations", "08_other_networks", "09_explore"]


class Parameter(NamedTuple):
    """A line of a notebook's parameters cell: its default, and the comment beside it."""

    default: object
    comment: str


def parameters(notebook: str) -> dict[str, Parameter]:
    """The parameters of a notebook, by name. Raises ValueError where there is no such notebook."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise ValueError(f"no notebook {notebook!r} in {path.parent}")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())).splitlines()
    found = [re.fullmatch(r"(\w+) = (.+?)  +# (.+)", line) for line in lines]  # that every line is one, a test sees to
    return {m[1]: Parameter(ast.literal_eval(m[2]), m[3]) for m in found if m}


def notebooks() -> list[str]:
    """The names of all numbered notebooks, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def profiles() -> dict[str, str]:
    """{name: what it is for, the comment at its top} of profiles/*.yaml."""
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[0].strip("# ") for path in sorted((ROOT / "profiles").glob("*.yaml"))}


def check_names(profile: str, names: Iterable[str], among: Iterable[str]) -> None:
    """Raises ValueError for an unknown profile, and for a name that is no parameter of the notebooks `among`."""
    if profile not in profiles():
        raise ValueError(unknown_choice("profile", profile, profiles()))
    if "run_name" in names:
        raise ValueError("a run is named by --name, not by a parameter")
    known = {name for notebook in among for name in parameters(notebook)}
    for name in sorted({*names} - known):
        elsewhere = [notebook for notebook in notebooks() if name in parameters(notebook)]
        if elsewhere:
            raise ValueError(f"none of the notebooks that are to run has a parameter {name!r}, but {' and '.join(elsewhere)}: see `cbir parameters {name}`")
        raise ValueError(f"no notebook has a parameter {name!r}{did_you_mean(name, known)}: `cbir parameters` lists all that there are")


def runs_folder() -> Path:
    """The folder of all runs: the variable CBIR_RUNS, else runs/ beside the package."""
    return Path(os.environ.get("CBIR_RUNS") or ROOT / "runs")


def runs() -> list[str]:
    """The names of the runs that have a store to search."""
    return sorted(path.parents[2].name for path in runs_folder().glob("*/stores/database/zarr.json"))


def descriptors(store: str | Path) -> list[str]:
    """What the store in a folder can be searched by, as `Store.descriptors` lists them; none where there is no store."""
    path = Path(store) / "zarr.json"
    about = json.loads(path.read_text(encoding="utf-8"))["attributes"] if path.is_file() else None
    if not about:
        return []
    blocks, codes = len(about["dims"]["blocks"]), len(about["dims"]["codes"])
    return ["h", "eta_conv", "eta", *(f"w_{m}" for m in range(1, blocks + 1)), *(f"y_{blocks + i}" for i in range(1, codes + 1)), *about["extras"]]
