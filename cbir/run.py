"""A run's folder, runs/<name>/: what it described, its figures, tables, arrays and metrics.json."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import figures, tables
from .common import AnyPath, did_you_mean, runs_folder, write_atomically
from .datasets import choose_queries, load_images
from .descriptors import Recipe, named_recipe
from .extract import connect, extract
from .images import Images, ImageSet
from .networks import Network
from .search import Hits
from .store import Extras, Store, find_store, open_store
from .trained import CODES_FILE, load_codes, network_of, train_codes
from .zoo import Weights, load_network

PARTS = ("database", "queries")
COPY = 1e-4  # of the usual distance: a smaller one is 0 but for rounding
OPTIONS: dict[str, tuple[Any, str]] = {  # how a machine does the work: {name: (default, meaning)}
    "device": ("auto", '"auto", "cpu", "cuda"'),
    "precision": ("float32", 'of the forward pass; "bfloat16", or "auto": bfloat16 on a GPU'),
    "dtype": ("float32", 'of the stored descriptors; "float16" takes half the disk'),
    "batch_size": (0, "images a forward pass; 0: 32, on a GPU what fits"),
    "scheduler": ("", 'Dask: "" in this process, "local", or the address of a cluster'),
    "windows": (True, "keep the blocks' means over windows, from which any q follows"),
}


class Described(NamedTuple):
    """A network, and the two stores that it filled."""

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

    # ---- describing ------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """How its images are described: the arguments of `describe`, and all of `OPTIONS`."""
        defaults = {name: default for name, (default, _) in OPTIONS.items()}
        return defaults | _read_json(self.path / "settings.json")

    def set(self, **settings: Any) -> None:
        """Writes `settings`, for the notebooks that describe into this run."""
        text = json.dumps(self.settings | settings, indent=1, sort_keys=True, default=os.fspath)
        write_atomically(self.path / "settings.json", text + "\n")

    def describe(
        self,
        profile: str = "embedded",
        images: AnyPath | Images = "",
        queries: AnyPath | Images = "",
        network: str | Network = "embedded",
        weights: Weights = "default",
        crop: bool = False,
        recipe: str | Recipe = "as_printed",
        q: float = 0.5,
        code_widths: Sequence[int] = (),
        seed: int = 0,
        max_images: int = 0,
        max_queries: int = 0,
        query_names: Sequence[str] = (),
        extras: Extras | None = None,
        folder: str = "",
        **options: Any,
    ) -> Described:
        """Describes the database and the queries of a profile into two stores of this run.

        What the stores have already is not described again, see `cbir.extract`.

        Args:
            profile: as in `load_images`.
            images: the database's folder, or the images themselves.
            queries: the queries' folder; the images themselves, where `images` are.
            network: a name as in `load_network`, or a `Network`, which is taken as it is.
            weights: as in `load_network`.
            crop: as in `load_network`.
            recipe: a name of `RECIPES`, whose threshold is `q`; or the keywords of
                `conv_descriptor`.
            q: the threshold of significance, Eq. 8.
            code_widths: retrains the network's codes on the database's classes, in layers of these
                widths, once: they stay in codes.safetensors beside the stores. The images go
                through the network once; its window means stay in windows/, 288 kB an image for
                VGG16.
            seed: as in `load_images`, and of the codes.
            max_images: as in `load_images`.
            max_queries: as in `load_images`.
            query_names: as in `load_images`.
            extras: more descriptors, as in `extract`; default the average of all activations, and
                the window means where the option "windows" says so.
            folder: what the stores' paths begin with: stores/<folder>database and
                stores/<folder>queries. "as_released/" is a folder, "baselines_" is none.
            options: of `OPTIONS`, where they differ from `settings`.

        Raises:
            ValueError: what `load_images`, `load_network`, `named_recipe` and `extract` raise.
        """
        options = {name: self.settings[name] for name in OPTIONS} | options
        given: dict[str, Any] = {"weights": weights, "seed": seed, **options}
        if isinstance(images, (str, os.PathLike)) and isinstance(queries, (str, os.PathLike)):
            given |= {"profile": profile, "images": images, "queries": queries}
            given |= {"max_images": max_images, "max_queries": max_queries}
            given["query_names"] = list(query_names)
            parts: tuple[Images, Images] = load_images(
                profile, images, queries, seed, max_images, max_queries, query_names
            )
        elif isinstance(images, Images) and isinstance(queries, Images):
            parts = images, queries
        else:
            raise ValueError("images and queries must both be folders, or both be images")
        if isinstance(network, str):
            given |= {"network": network, "crop": crop, "code_widths": list(code_widths)}
            how = {"crop": crop, "precision": options["precision"]}
            network = load_network(network, weights, options["device"], **how)
        if isinstance(recipe, str):
            given |= {"recipe": recipe, "q": q}
            recipe = named_recipe(recipe, q=q)
        if extras is None:
            extras = {"average": "average"}
            if options["windows"]:
                extras["windows"] = "windows"
        place = f"{self.path / 'stores'}/{folder}"
        with connect(options["scheduler"]) as client:
            work: dict[str, Any] = {"batch_size": options["batch_size"], "client": client}
            if code_widths:
                beside = Path(f"{place}database").parent
                network, parts = self._retrained(network, parts, beside, code_widths, seed, work)
            work |= {"extras": extras, "dtype": options["dtype"]}
            stores = [
                extract(part, network, f"{place}{name}", **work, **recipe)
                for name, part in zip(PARTS, parts)
            ]
        if not folder:
            self.set(**given)
        return Described(network, *stores)

    def _retrained(
        self,
        net: Network,
        parts: tuple[Images, Images],
        folder: Path,
        widths: Sequence[int],
        seed: int,
        work: dict[str, Any],
    ) -> tuple[Network, tuple[Store, Store]]:
        """The network with its retrained codes; both parts as stores of window means."""
        trunk = net.with_head(None)
        extras = {"windows": "windows", "color": "color"}
        database, queries = (
            extract(part, trunk, folder / "windows" / name, extras=extras, **work)
            for name, part in zip(PARTS, parts)
        )
        if (folder / CODES_FILE).is_file():  # images that came later change no layer
            return load_codes(trunk, folder / CODES_FILE), (database, queries)
        net = train_codes(trunk, database, widths, seed=seed, path=folder / CODES_FILE)
        self.record(codes_trained_on=len(database))
        return net, (database, queries)

    def stores(
        self,
        extras: Extras | None = None,
        folder: str = "",
        network: Network | None = None,
        max_images: int = 0,
        max_queries: int = 0,
        recipe: Recipe | None = None,
    ) -> Described:
        """Opens the run's stores; describes the images first where nothing has done so.

        With extras the same images are described into other stores, once.

        Args:
            extras: more descriptors, as in `extract`.
            folder: where the stores with extras lie, as in `describe`.
            network: what describes them, default the run's.
            max_images: of the database at most, drawn and balanced over the classes; 0: all.
            max_queries: queries at most, drawn alike.
            recipe: the keywords of `conv_descriptor`, default the run's.
        """
        place = self.path / "stores"
        if any(find_store(place / part) is None for part in PARTS):
            self.describe(**self.settings)
        database, queries = (open_store(place / part) for part in PARTS)
        settings = self.settings
        weights, device = settings.get("weights", "default"), settings["device"]
        if network is None:
            network = network_of(database.network, weights=weights, device=device, folder=place)
        if extras is None:
            return Described(network, database, queries)
        images, query_images = self.images(max_images, max_queries)
        return self.describe(
            images=images,
            queries=query_images,
            network=network,
            recipe=recipe or database.recipe,
            extras=extras,
            folder=folder,
        )

    def images(self, max_images: int = 0, max_queries: int = 0) -> tuple[Images, Images]:
        """The images of `stores`, the database's and the queries.

        Args:
            max_images: of the database at most, drawn and balanced over the classes; 0: all.
            max_queries: queries at most, drawn alike.
        """
        _, *stores = self.stores()
        found: list[Images] = []
        for part, store, most in zip(PARTS, stores, (max_images, max_queries)):
            windows = find_store(self.path / "stores" / "windows" / part)
            if not 0 < most < len(store):
                found.append(windows or ImageSet(store.root, store.files, store.labels))
                continue
            most = min(most, int(store.described.sum()))
            rows = sorted(choose_queries(store, most, self.settings.get("seed", 0)))
            files, labels = ([names[row] for row in rows] for names in (store.files, store.labels))
            found.append(ImageSet(store.root, files, labels))
        return found[0], found[1]

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """The Dask client that the option "scheduler" asks for; None without one."""
        with connect(self.settings["scheduler"]) as client:
            yield client

    # ---- results ---------------------------------------------------------------------------------

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
        figures.show(fig, caption)

    def save_table1(self, table: pd.DataFrame) -> None:
        """Saves Table I as table1.csv, and as two tables in .md, .tex and, for the report, .html.

        Args:
            table: as `cbir.table1` gives it; the CSV has six decimals, as the paper.
        """
        as_csv = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_atomically(self.path / "table1.csv", as_csv)
        write_atomically(self.path / "table1.md", tables.to_markdown(table))
        write_atomically(self.path / "table1.tex", tables.to_latex(table))
        write_atomically(self.path / "table1.html", tables.to_html(table))

    def save_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Saves arrays as <name>/<key>.npy, for the notebooks that follow; what was there goes."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        for path in (self.path / name).glob("*.npy"):
            if path.stem not in arrays:
                path.unlink()
        for key, array in arrays.items():
            path = self.path / name / f"{key}.npy"
            source = getattr(array, "filename", None)
            if source is None or not path.exists() or not os.path.samefile(source, path):
                np.save(path, array)  # else it is only mapped from there

    def array_path(self, name: str, key: str) -> Path:
        """Where `save_arrays` keeps one array, for those who write it there piece by piece."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name / f"{key}.npy"

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
        """Adds to metrics.json values that JSON knows, replacing what had the same names.

        What is no number (NaN, infinity) becomes null.
        """
        text = json.dumps(self.metrics | metrics)
        finite = json.loads(text, parse_constant=lambda name: None)
        text = json.dumps(finite, indent=1, sort_keys=True)
        write_atomically(self.path / "metrics.json", text + "\n")

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
        copies = np.argwhere(hits.distances <= COPY * np.nanmedian(hits.distances))
        pairs = [[queries.files[i], database.files[hits.indices[i, rank]]] for i, rank in copies]
        self.record(duplicates=pairs)
        return pairs

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds; empty where there is none."""
        return _read_json(self.path / "metrics.json")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def runs() -> list[str]:
    """The names of the runs that have a store to search."""
    stores = runs_folder().glob("*/stores/database")
    return sorted(path.parents[1].name for path in stores)


def open_run(where: AnyPath, described: bool = False) -> Run:
    """Opens the `Run` in a folder, or of that name among all runs.

    Args:
        where: the folder or the name.
        described: it must have a store to search.

    Raises:
        FileNotFoundError: there is no such run.
    """
    wanted = "stores/database" if described else "metrics.json"
    for path in (Path(where), runs_folder() / where):
        if (path / wanted).exists():
            return Run(path.resolve().name, path.resolve().parent)
    raise FileNotFoundError(
        f"no run {str(where)!r} in {runs_folder()}{did_you_mean(where, runs())}: there is no "
        f"{wanted} in it. Run `cbir reproduce` first; runs there: {', '.join(runs()) or 'none'}"
    )
