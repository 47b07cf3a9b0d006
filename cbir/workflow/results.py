"""Results that are kept with the project, data/results/*.json: tables, and what they come from."""

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..common import ROOT, AnyPath, write_atomically
from .environment import PACKAGES, commit

RESULTS = ROOT / "data" / "results"
DECIMALS = 6  # of every number that is kept


class Results(NamedTuple):
    """What a file of results holds.

    Attributes:
        about: what the numbers come from: images, networks, settings, code, packages.
        tables: {name: table}.
    """

    about: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def made_by() -> dict[str, Any]:
    """The code that runs here: its commit, Python and the packages that results depend on.

    Returns:
        {"code": .., "Python": .., "packages": {name: version}}, nothing of the machine.
    """
    packages = {package: version(package) for package in PACKAGES}
    return {"code": commit(), "Python": platform.python_version(), "packages": packages}


def write_results(
    path: AnyPath, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> Path:
    """Writes results as JSON, a line a row: so a difference of two files can be read.

    Args:
        path: the file. Its folder is made where it does not exist.
        about: what JSON knows, without paths of this machine.
        tables: {name: table} of text and numbers; an index is left out.

    Returns:
        The file's path.
    """
    parts = []
    for name, table in tables.items():
        rows = table.to_dict("split", index=False)["data"]
        lines = ",\n".join(f"   {_json([_plain(value) for value in row])}" for row in rows)
        columns = _json(list(table.columns))
        parts.append(f'  {_json(name)}: {{"columns": {columns}, "rows": [\n{lines}\n  ]}}')
    head = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False).replace("\n", "\n ")
    text = f'{{\n "about": {head},\n "tables": {{\n' + ",\n".join(parts) + "\n }\n}\n"
    return write_atomically(path, text)


def read_results(path: AnyPath) -> Results:
    """Reads what `write_results` wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    tables = {}
    for name, table in content["tables"].items():
        tables[name] = pd.DataFrame(table["rows"], columns=table["columns"])
    return Results(content["about"], tables)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A cell as JSON has it: decimals rounded, no NaN."""
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value
