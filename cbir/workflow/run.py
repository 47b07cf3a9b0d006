"""A run's folder, runs/<name>/: figures, tables, metrics.json and, from these, report.html."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import figures, tables
from ..common import AnyPath, did_you_mean
from . import report
from .project import runs, runs_folder


class Run:
    """The folder of the run `name`, made where it does not exist. `folder` (or the variable CBIR_RUNS) holds all runs.

    Raises ValueError for a name that is no plain folder name.
    """

    def __init__(self, name: str = "embedded", folder: AnyPath | None = None) -> None:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} is no run name: letters, digits, '_', '-' and '.' only")
        self.name = name
        self.path = Path(folder or runs_folder()) / name
        (self.path / "figures").mkdir(parents=True, exist_ok=True)

    def save_figure(self, fig: Figure, name: str, caption: str) -> None:
        """figures/<name>.png and .pdf; the caption travels inside both files."""
        fig.savefig(self.path / "figures" / f"{name}.png", metadata={"Description": caption})
        fig.savefig(self.path / "figures" / f"{name}.pdf", metadata={"Subject": caption, "CreationDate": None})

    def show(self, fig: Figure, name: str, caption: str) -> None:
        """`save_figure`, then the figure in the notebook with the caption as alternative text."""
        self.save_figure(fig, name, caption)
        figures.show(fig, caption)

    def save_table1(self, table: pd.DataFrame) -> None:
        """Table I as table1.csv, .md, .tex and, for the report, .html; numbers with six decimals as in the paper, winners in bold."""
        self._write("table1.csv", table.to_csv(index=False, float_format="%.6f"))
        self._write("table1.md", tables.markdown(table, tables.winners(table)))
        self._write("table1.tex", tables.style(table, "latex").to_latex(convert_css=True, hrules=True))
        self._write("table1.html", tables.style(table).to_html())

    def array_path(self, name: str, key: str) -> Path:
        """Where `save_arrays` keeps one array: for those who write it there piece by piece."""
        (self.path / name).mkdir(exist_ok=True)
        return self.path / name / f"{key}.npy"

    def save_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Arrays as <name>/<key>.npy, for the notebooks that follow; instead of whatever was there."""
        (self.path / name).mkdir(exist_ok=True)
        files = {self.array_path(name, key): array for key, array in arrays.items()}
        for path in {*(self.path / name).glob("*.npy")} - {*files}:
            path.unlink()
        for path, array in files.items():
            if Path(getattr(array, "filename", None) or "").resolve() != path.resolve():  # else it lies there already, mapped
                np.save(path, array)

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What `save_arrays` saved (dict), mapped from disk. Raises FileNotFoundError where an earlier notebook has not run."""
        if not (self.path / name).is_dir():
            raise FileNotFoundError(f"no {name} in runs/{self.name}: run the earlier notebooks first, in order")
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted((self.path / name).glob("*.npy"))}

    def record(self, **metrics: Any) -> None:
        """Adds to metrics.json (values that JSON knows), replacing what had the same names."""
        self._write("metrics.json", json.dumps(self.metrics | metrics, indent=1, sort_keys=True) + "\n")

    def record_results(self, table: pd.DataFrame) -> None:
        """Adds rows (metric, descriptor, mean, low, high) to metrics.json's results, replacing those of the same metrics."""
        rows = table.to_dict("records")
        others = [r for r in self.metrics.get("results", []) if r["metric"] not in {r["metric"] for r in rows}]
        self.record(results=others + rows)

    @property
    def metrics(self) -> dict[str, Any]:
        path = self.path / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def report(self) -> Path:
        """Writes report.html, one file with everything inside, and returns its path."""
        return report.report(self)

    def compare(self, other: "Run", output: AnyPath | None = None) -> Path:
        """Writes one page with what differs from another run and returns its path; see `cbir.report.compare`."""
        return report.compare(self, other, output)

    def _write(self, name: str, text: str) -> None:
        aside = self.path / f".{name}.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.path / name)


def open_run(where: AnyPath) -> Run:
    """The `Run` in a folder, or of that name among all runs. Raises FileNotFoundError where there is no metrics.json."""
    for path in (Path(where), runs_folder() / where):
        if (path / "metrics.json").is_file():
            return Run(path.resolve().name, path.resolve().parent)
    raise FileNotFoundError(f"{str(where)!r} is no run: there is no metrics.json in that folder, nor in {runs_folder() / where}"
                            f"{did_you_mean(where, runs())}")
