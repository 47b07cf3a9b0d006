"""A run's folder, runs/<name>/: stores, figures, tables, arrays and metrics.json."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import figures as canvas
from . import tables
from .common import AnyPath, Dtype, Precision, did_you_mean, write_atomically
from .datasets import load_images
from .descriptors import named_recipe
from .extract import connect, extract
from .images import Images, ImageSet
from .networks import Network
from .project import runs, runs_folder
from .search import Hits
from .store import Extras, Store, find_store
from .trained import CODES_FILE, RETRAINED, train_codes, trained_on
from .zoo import Weights, load_network

ROUNDING = 1e-4  # of the usual distance: a smaller one is 0 but for rounding


class Described(NamedTuple):
    """What `Run.describe` gives: the network and the two stores that it filled."""

    net: Network
    database: Store
    queries: Store


class Run:
    """The folder of a run, made as soon as something is written into it."""

    def __init__(self, name: str = "embedded", folder: AnyPath | None = None) -> None:
        """Names the run's folder.

        Args:
            name: the run's name, which is its folder's.
            folder: holds all runs; default: what the variable CBIR_RUNS says, else runs/.

        Raises:
            ValueError: the name is no plain folder name.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} is no run name: letters, digits, '_', '-' and '.' only")
        self.name = name
        self.path = Path(folder or runs_folder()) / name

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
        code_widths: Sequence[int] = (),
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
            profile: as in `load_images`.
            images: the database's folder as in `load_images`, or an `ImageSet`.
            queries: the queries' folder as in `load_images`, or an `ImageSet` where `images` is
                one: then they are taken as they are.
            network: a name as in `load_network`, or a `Network`, which is taken as it is.
            weights: as in `load_network`.
            crop: as in `load_network`.
            precision: as in `load_network`.
            recipe: a name of `RECIPES`.
            q: the recipe's threshold.
            code_widths: retrains the network's codes on the database's classes, in layers of these
                widths (`train_codes`). They are kept beside the stores, in codes.safetensors. The
                images go through the network once: its window means stay in windows/, 288 kB an
                image for VGG16.
            seed: of the draws in `load_images`.
            device: as in `load_network`.
            batch_size: as in `extract`.
            scheduler: where the work is done, see `connect` in extract.py.
            dtype: as in `extract`.
            extras: more descriptors, as in `extract`.
            max_images: as in `load_images`.
            max_queries: as in `load_images`.
            query_names: as in `load_images`.
            folder: what the stores' paths begin with: stores/<folder>database and
                stores/<folder>queries. "as_released/" is a folder, "baselines_" is none.

        Returns:
            `Described`: the network, the database's store, the queries' store.

        Raises:
            ValueError: one part is an `ImageSet` and the other is not; and what `load_images`,
                `load_network`, `named_recipe` and `extract` raise.
        """
        if isinstance(images, ImageSet) and isinstance(queries, ImageSet):
            parts: tuple[Images, Images] = (images, queries)
        elif isinstance(images, ImageSet) or isinstance(queries, ImageSet):
            raise ValueError("images and queries must both be an ImageSet, or neither")
        else:
            parts = load_images(
                profile, images, queries, seed, max_images, max_queries, query_names
            )
        if isinstance(network, str):
            network = load_network(network, weights, device, crop=crop, precision=precision)
        settings = named_recipe(recipe, q=q)
        place = f"{self.path / 'stores'}/{folder}"
        with connect(scheduler) as client:
            shared: dict[str, Any] = {"batch_size": batch_size, "client": client}
            if code_widths:
                beside = Path(f"{place}database").parent
                network, parts = _retrained(network, parts, beside, code_widths, seed, shared)
            shared |= {"extras": extras, "dtype": dtype} | settings
            database = extract(parts[0], network, f"{place}database", **shared)
            queries_store = extract(parts[1], network, f"{place}queries", **shared)
        return Described(network, database, queries_store)

    def save_figure(self, fig: Figure, name: str, caption: str) -> None:
        """Saves figures/<name>.png and .pdf; the caption travels inside both files."""
        png = self.path / "figures" / f"{name}.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(png, metadata={"Description": caption})
        about = {"Subject": caption, "CreationDate": None}
        fig.savefig(png.with_name(f"{name}.pdf"), metadata=about)

    def show(self, fig: Figure, name: str, caption: str) -> None:
        """Saves a figure, then shows it in the notebook with the caption as alternative text."""
        self.save_figure(fig, name, caption)
        canvas.show(fig, caption)

    def save_table1(self, table: pd.DataFrame) -> None:
        """Saves Table I as table1.csv, and as two tables in .md, .tex and, for the report, .html.

        Args:
            table: as `cbir.table1` gives it; the CSV has six decimals, as the paper.
        """
        self._write(
            "table1.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        )
        self._write("table1.md", tables.to_markdown(table))
        self._write("table1.tex", tables.to_latex(table))
        self._write("table1.html", tables.to_html(table))

    def array_path(self, name: str, key: str) -> Path:
        """Where `save_arrays` keeps one array, for those who write it there piece by piece."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name / f"{key}.npy"

    def save_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Saves arrays as <name>/<key>.npy, for the notebooks that follow; what was there goes."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        files = {self.array_path(name, key): array for key, array in arrays.items()}
        for path in (self.path / name).glob("*.npy"):
            if path not in files:
                path.unlink()
        for path, array in files.items():
            if not _is_mapped_from(path, array):
                np.save(path, array)

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What `save_arrays` saved: {key: array, mapped from disk}.

        Raises:
            FileNotFoundError: the notebook that saves them has not run.
        """
        if not (self.path / name).is_dir():
            raise FileNotFoundError(
                f"no {name} in runs/{self.name}: run the earlier notebooks first, in order"
            )
        files = sorted((self.path / name).glob("*.npy"))
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}

    def record(self, **metrics: Any) -> None:
        """Adds to metrics.json values that JSON knows, replacing what had the same names."""
        text = json.dumps(self.metrics | metrics, indent=1, sort_keys=True)
        self._write("metrics.json", text + "\n")

    def record_results(self, table: pd.DataFrame) -> None:
        """Adds to the results in metrics.json, replacing those of the same metrics.

        Args:
            table: rows of metric, descriptor, mean, low, high, as `cbir.means` gives them.
        """
        rows = table.to_dict("records")
        replaced = {row["metric"] for row in rows}
        others = [r for r in self.metrics.get("results", []) if r["metric"] not in replaced]
        self.record(results=others + rows)

    def record_duplicates(self, queries: Images, database: Images, hits: Hits) -> list[list[str]]:
        """Adds to metrics.json the queries of which the database has a copy.

        A copy is at distance 0, or at one that rounding makes of it in another batch.

        Args:
            queries: an `ImageSet` or a store.
            database: the `ImageSet` or store that was searched.
            hits: what `search` found for all queries.

        Returns:
            [[file of the query, file of the copy], ..].
        """
        usual = np.nanmedian(hits.distances)
        copies = np.argwhere(hits.distances <= ROUNDING * usual)
        pairs = []
        for query, rank in copies:
            copy = hits.indices[query, rank]
            pairs.append([queries.files[query], database.files[copy]])
        self.record(duplicates=pairs)
        return pairs

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds; empty where there is none."""
        path = self.path / "metrics.json"
        if not path.exists():
            return {}
        return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text)


def _retrained(
    net: Network,
    parts: tuple[Images, Images],
    folder: Path,
    widths: Sequence[int],
    seed: int,
    options: dict[str, Any],
) -> tuple[Network, tuple[Store, Store]]:
    """A network with codes retrained on the database; both parts as stores of window means."""
    trunk = net.with_head(None)
    options = options | {"extras": {"windows": "windows", "color": "color"}}
    database = extract(parts[0], trunk, folder / "windows" / "database", **options)
    queries = extract(parts[1], trunk, folder / "windows" / "queries", **options)
    path = folder / CODES_FILE
    if path.is_file() and not trained_on(trunk, path, database):
        _remove_codes(path)
    return train_codes(trunk, database, widths, seed=seed, path=path), (database, queries)


def _remove_codes(path: Path) -> None:
    """Removes codes whose database has other images by now, and the stores made with them."""
    for group in path.parent.glob("*/store.json"):
        store = find_store(group.parent)
        if store is not None and any(RETRAINED in name for name in store.network["codes"]):
            shutil.rmtree(group.parent)
    path.unlink()


def _is_mapped_from(path: Path, array: NDArray[Any]) -> bool:
    """Whether an array lies in that file already, and is only mapped from there."""
    source = getattr(array, "filename", None)
    return source is not None and Path(source).resolve() == path.resolve()


def open_run(where: AnyPath) -> Run:
    """Opens the `Run` in a folder, or of that name among all runs.

    Raises:
        FileNotFoundError: there is no metrics.json.
    """
    for path in (Path(where), runs_folder() / where):
        if (path / "metrics.json").is_file():
            return Run(path.resolve().name, path.resolve().parent)
    raise FileNotFoundError(
        f"{str(where)!r} is no run: there is no metrics.json in that folder, "
        f"nor in {runs_folder() / where}{did_you_mean(where, runs())}"
    )
