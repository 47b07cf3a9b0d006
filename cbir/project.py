"""The project's files: profiles, notebooks and their parameters, runs.

The command line needs them before anything is imported that takes long.
"""

import ast
import io
import json
import os
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .common import INSTALLED, ROOT, did_you_mean, unknown_choice

PAPER = [  # in the order in which they are run: pictures come before drawings of the network
    "00_embedded_network",
    "02_extraction",
    "03_retrieval",
    "04_color_histograms",
    "01_walkthrough",
]
EVIDENCE = [
    "05_evidence",
    "06_as_released",
    "07_baselines_and_ablations",
    "08_other_networks",
    "09_explore",
]


class Parameter(NamedTuple):
    """A line of a notebook's parameters cell: its default, and the comment beside it."""

    default: object
    comment: str


def parameters(notebook: str) -> dict[str, Parameter]:
    """The parameters of a notebook, by name.

    Raises:
        ValueError: there is no such notebook, or its parameters cell has a line that is none.
    """
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise ValueError(f"no notebook {notebook!r} in {path.parent}")
    found: dict[str, Parameter] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" not in cell["metadata"].get("tags", ()):
            continue
        try:
            found |= _read_parameters("".join(cell["source"]))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path.name}: the parameters cell has {error}") from error
    return found


def _read_parameters(source: str) -> dict[str, Parameter]:
    """Reads lines "name = literal  # comment", without papermill, whose import takes seconds."""
    statements = ast.parse(source).body
    comments: dict[int | None, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    found = {}
    for statement in statements:
        line = ast.get_source_segment(source, statement)
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    default = ast.literal_eval(value)
                except ValueError as error:
                    raise ValueError(f"{line!r}, whose value is no literal") from error
                found[name] = Parameter(default, comments.get(statement.end_lineno, ""))
            case _:
                raise ValueError(f"{line!r}, which is no parameter: write name = value  # comment")
    return found


def notebooks() -> list[str]:
    """The names of all numbered notebooks, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def by_number(numbers: str) -> list[str]:
    """The names of some notebooks.

    Args:
        numbers: theirs, and ranges of them: "02-07,10".

    Raises:
        ValueError: there is no notebook of that number, or the text is no list of numbers.
    """
    known = {int(name.split("_")[0]): name for name in notebooks()}
    selected = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        try:
            wanted = range(int(first), int(last or first) + 1)
        except ValueError:
            raise ValueError(f"{part!r} is no notebook's number: write 10, or 02-07,10") from None
        for number in wanted:
            if number not in known:
                raise ValueError(f"no notebook {number:02d}: there are {', '.join(notebooks())}")
            selected.append(known[number])
    return selected


def profiles() -> dict[str, str]:
    """{name: what it is for, the comment at its top} of profiles/*.yaml."""
    found = {}
    for path in sorted((ROOT / "profiles").glob("*.yaml")):
        first, *_ = path.read_text(encoding="utf-8").splitlines()
        found[path.stem] = first.strip("# ")
    return found


def check_names(profile: str, names: Iterable[str], among: Iterable[str]) -> None:
    """Checks a profile's name, and the names of parameters.

    Args:
        profile: one of `profiles`.
        names: of parameters.
        among: the notebooks, one of which must have each of them.

    Raises:
        ValueError: an unknown profile, or a name that is no parameter of these notebooks.
    """
    if profile not in profiles():
        raise ValueError(unknown_choice("profile", profile, profiles()))
    if "run_name" in names:
        raise ValueError("a run is named by --name, not by a parameter")
    known: set[str] = set()
    for notebook in among:
        known |= parameters(notebook).keys()
    for name in sorted({*names} - known):
        elsewhere = [notebook for notebook in notebooks() if name in parameters(notebook)]
        if elsewhere:
            raise ValueError(
                f"none of the notebooks that are to run has a parameter {name!r}, "
                f"but {' and '.join(elsewhere)}: see `cbir parameters {name}`"
            )
        raise ValueError(unknown_parameter(name, known))


def unknown_parameter(name: str, known: Iterable[str]) -> str:
    """The message for a name that is a parameter of no notebook."""
    return (
        f"no notebook has a parameter {name!r}{did_you_mean(name, known)}: "
        "`cbir parameters` lists all that there are"
    )


def runs_folder() -> Path:
    """The folder of all runs: the variable CBIR_RUNS, else runs/ of the checkout or from here."""
    checkout = Path() if ROOT == INSTALLED else ROOT
    return Path(os.environ.get("CBIR_RUNS") or checkout / "runs")


def runs() -> list[str]:
    """The names of the runs that have a store to search."""
    stores = runs_folder().glob("*/stores/database/store.json")
    return sorted(path.parents[2].name for path in stores)


def database_of(run: str) -> Path:
    """The folder of the store with a run's database.

    Raises:
        FileNotFoundError: there is no such run, or nothing is described in it.
    """
    known = runs()
    if run not in known:
        raise FileNotFoundError(
            f"no run {run!r} with descriptors in {runs_folder()}{did_you_mean(run, known)}: "
            "run `cbir reproduce` first, or give a store; "
            f"runs that have one: {', '.join(known) or 'none'}"
        )
    return runs_folder() / run / "stores" / "database"
