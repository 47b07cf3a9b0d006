"""A run's folder, runs/<name>/: figures, tables, metrics.json and, from these, report.html."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import figures, tables
from ..cluster import connect
from ..common import AnyPath, Dtype, Precision, did_you_mean
from ..datasets import load_images
from ..descriptors import named_recipe
from ..extract import extract
from ..images import ImageSet
from ..networks import Network
from ..store import Extras, Store
from ..zoo import Weights, load_network
from . import report
from .project import runs, runs_folder


class Described(NamedTuple):
    """What `Run.describe` gives: the network and the two stores that it filled."""

    net: Network
    database: Store
    queries: Store


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

    def describe(
        self,
        profile: str = "embedded",
        images: AnyPath | ImageSet = "",
        queries: AnyPath | ImageSet = "",
        network: str | Network = "embedded",
        weights: Weights = "default",
        crop: bool = False,
        precision: Precision = "float32",
        recipe: str = "as_printed",
        q: float = 0.5,
        seed: int = 0,
        device: str = "auto",
        batch_size: int = 0,
        scheduler: str | None = "",
        dtype: Dtype = "float32",
        extras: Extras | None = None,
        max_images: int = 0,
        max_queries: int = 0,
        query_names: Sequence[str] = (),
        folder: str = "",
    ) -> Described:
        """Describes the database and the queries of a profile into two stores of this run.

        What the stores have already is not described again, see `extract`.

        Args:
            profile: as in `load_images`, like `seed`, `max_images`, `max_queries`, `query_names`.
            images: the database's folder as in `load_images`, or an `ImageSet`.
            queries: the queries' folder as in `load_images`, or an `ImageSet`, where `images` is
                one; then nothing is loaded.
            network: a name as in `load_network`, like `weights`, `crop`, `precision`, `device`; or
                a `Network`, which is taken as it is.
            recipe: a name of `RECIPES`.
            q: the recipe's threshold.
            scheduler: where the work is done, see `cbir.cluster.connect`.
            extras: more descriptors as in `extract`, like `batch_size` and `dtype`.
            folder: what the stores' paths begin with: stores/<folder>database and
                stores/<folder>queries. "as_released/" is a folder, "baselines_" is none.

        Returns:
            `Described`: the network, the database's store, the queries' store.

        Raises:
            ValueError: one part is an `ImageSet` and the other is not; and what `load_images`,
                `load_network`, `named_recipe` and `extract` raise.
        """
        if isinstance(images, ImageSet) and isinstance(queries, ImageSet):
            parts = images, queries
        elif isinstance(images, ImageSet) or isinstance(queries, ImageSet):
            raise ValueError("images and queries must both be an ImageSet, or neither")
        else:
            parts = load_images(
                profile, images, queries, seed, max_images, max_queries, query_names
            )
        if isinstance(network, str):
            network = load_network(network, weights, device, crop=crop, precision=precision)
        settings = named_recipe(recipe, q=q)
        stores = []
        with connect(scheduler) as client:
            for name, part in zip(("database", "queries"), parts):
                path = self.path / "stores" / f"{folder}{name}"
                store = extract(
                    part,
                    network,
                    path,
                    batch_size=batch_size,
                    extras=extras,
                    dtype=dtype,
                    client=client,
                    **settings,
                )
                stores.append(store)
        return Described(network, *stores)

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
