"""A run's folder, runs/<name>/: what it described, its figures, tables, arrays and metrics.json."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import figures, tables
from .common import AnyPath, did_you_mean, runs_folder, write_atomically
from .copies import same_pictures
from .datasets import choose_queries, load_images
from .descriptors import named_recipe
from .extract import connect, extract
from .images import Images, ImageSet
from .networks import Network
from .statistics import means
from .store import Extras, Store, find_store, open_store
from .trained import CODES_FILE, network_of, train_codes
from .zoo import load_network

Callback = Callable[[], object]
PARTS = ("database", "queries")
OPTIONS: dict[str, tuple[Any, str]] = {  # how a machine does the work: {name: (default, meaning)}
    "device": ("auto", '"auto", "cpu", "cuda"'),
    "precision": ("float32", 'of the forward pass; "bfloat16", or "auto": bfloat16 on a GPU'),
    "dtype": ("float32", 'of the stored descriptors; "float16" takes half the disk'),
    "batch_size": (0, "images a forward pass; 0: 32, on a GPU what fits"),
    "scheduler": ("", 'Dask: "" in this process, "local", or the address of a cluster'),
    "windows": (True, "keep the blocks' means over windows, from which any q follows"),
}

DRAWN = ("seed", "max_images", "max_queries", "query_names")  # which images of a profile
SETTINGS: dict[str, Any] = {"profile": "scenes", "images": "", "queries": "", "max_images": 0}
SETTINGS |= {"network": "vgg16_scenes", "weights": "default", "crop": False, "code_widths": []}
SETTINGS |= {"recipe": "as_printed", "q": 0.5, "seed": 0, "max_queries": 0, "query_names": []}
SETTINGS |= {name: default for name, (default, _) in OPTIONS.items()}
Scores: TypeAlias = Mapping[str, pd.DataFrame]


class Described(NamedTuple):
    """A network, and the two stores that it filled."""

    net: Network
    database: Store
    queries: Store


class Run:
    """The folder of a run, made as soon as something is written into it."""

    def __init__(self, name: str = "scenes", folder: AnyPath | None = None) -> None:
        """Names the run's folder, in the folder of all runs: default CBIR_RUNS, else runs/.

        Raises ValueError if the name is no plain folder name.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} is no run name: letters, digits, '_', '-' and '.' only")
        self.name = name
        self.path = Path(folder or runs_folder()).expanduser() / name

    @property
    def settings(self) -> dict[str, Any]:
        """How its images are described: what `describe` was given, and all of `OPTIONS`."""
        return {name: SETTINGS[name] for name in OPTIONS} | _read_json(self.path / "settings.json")

    def set(self, **settings: Any) -> None:
        """Adds to `settings`, for the notebooks that describe into this run."""
        _add_json(self.path / "settings.json", settings)

    def describe(
        self,
        profile: str = "scenes",
        images: AnyPath | Images = "",
        queries: AnyPath | Images = "",
        network: str | Network = "vgg16_scenes",
        extras: Extras | None = None,
        folder: str = "",
        on_shard: Callback = lambda: None,
        **settings: Any,
    ) -> Described:
        """Describes the database and the queries of a profile into two stores of this run.

        What the stores have already is not described again, see `cbir.extract`. The queries come
        first, so that they can be searched for while the database is described.

        Args:
            profile: as in `load_images`.
            images: the database's folder, or the images themselves.
            queries: the queries' folder; the images themselves if `images` are.
            network: a name as in `load_network`, or a `Network`, which is taken as it is.
            extras: more descriptors, as in `extract`; default the average of all activations, and
                the window means and colours if the option "windows" says so.
            folder: what the stores' paths begin with, as stores/<folder>database: "as_released/"
                is a folder, "baselines_" is none.
            on_shard: called after each shard of the database.
            settings: of `SETTINGS`: weights, crop as in `load_network`; seed, max_images,
                max_queries, query_names as in `load_images`; recipe, a name of `RECIPES` whose
                threshold (Eq. 8) is q, or the keywords of `conv_descriptor`; code_widths, which
                retrains the network's codes on the database's classes in layers of these widths,
                once: they stay in codes.safetensors beside the stores, and the window means in
                windows/ (288 kB per image for VGG16), so that the images go through the network
                once; and `OPTIONS`, if they differ from the run's.

        Raises:
            TypeError: a setting that does not exist.
            ValueError: what `load_images`, `load_network`, `named_recipe`, `train_codes` (also for
                other widths or another seed than the run's layers have) and `extract` raise; or not
                one image of the database, or of the queries, can be read.
        """
        if unknown := settings.keys() - SETTINGS.keys():
            raise TypeError(f"describe() has no setting {', '.join(sorted(unknown))}")
        given = SETTINGS | {name: self.settings[name] for name in OPTIONS} | settings
        parts: Sequence[Images]
        if isinstance(images, Images) and isinstance(queries, Images):
            parts = images, queries
            profile, images, queries = "folder", images.root, queries.root
        elif isinstance(images, Images) or isinstance(queries, Images):
            raise ValueError("images and queries must both be folders, or both be images")
        else:
            parts = load_images(profile, images, queries, **{name: given[name] for name in DRAWN})
        given |= {"profile": profile, "images": images, "queries": queries, "network": network}
        if isinstance(network, str):
            how = {key: given[key] for key in ("weights", "device", "crop", "precision")}
            network = load_network(network, **how)
        recipe = given["recipe"]
        if isinstance(recipe, str):
            recipe = named_recipe(recipe, q=given["q"])
        if extras is None:
            kept = ("average", "windows", "color") if given["windows"] else ("average",)
            extras = {name: name for name in kept}
        place = f"{self.path / 'stores'}/{folder}"
        with connect(given["scheduler"]) as client:
            work: dict[str, Any] = {"batch_size": given["batch_size"], "client": client}
            if given["code_widths"]:
                beside, trunk = Path(f"{place}database").parent, network.with_head(None)
                work["extras"] = {"windows": "windows", "color": "color"}
                parts = _extract(parts, trunk, f"{beside}/windows/", work)
                widths, layers = given["code_widths"], beside / CODES_FILE
                # once: images that come later change no layer
                network = train_codes(trunk, parts[0], widths, seed=given["seed"], path=layers)
                self.record(codes_trained_on=network.head.about["images"])
            work |= {"extras": extras, "dtype": given["dtype"], **recipe}
            stores = _extract(parts, network, place, work, on_shard)
        if not folder:
            self.set(**given | {"network": getattr(given["network"], "name", given["network"])})
        return Described(network, *stores)

    def stores(
        self, extras: Extras | None = None, folder: str = "", max_images: int = 0
    ) -> Described:
        """Opens the run's stores; describes the images first if nothing has done so.

        If these lack some of the `extras`, as in `extract`, the same images are described into
        others, once: those of `folder`, as in `describe`, by the run's network and recipe. Of the
        database at most `max_images`, drawn and balanced over the classes; 0: all.
        """
        places = [self.path / "stores" / part for part in PARTS]
        if None in map(find_store, places):
            self.describe(**self.settings)
        database, queries = map(open_store, places)
        weights, device = self.settings.get("weights", "default"), self.settings["device"]
        network = network_of(database, None, weights, device)
        if (extras or {}).keys() <= database.extras.keys():
            return Described(network, database, queries)
        listed = [ImageSet(st.root, st.files, st.labels) for st in (database, queries)]
        windows = [find_store(places[0].parent / "windows" / part) for part in PARTS]
        images: list[Images] = [kept or each for kept, each in zip(windows, listed)]
        if 0 < max_images < len(database):
            most = min(max_images, int(database.described.sum()))
            rows = choose_queries(database, most, self.settings.get("seed", 0))
            images[0] = listed[0][sorted(rows)]
        recipe = database.recipe
        return self.describe("", images[0], images[1], network, extras, folder, recipe=recipe)

    def connect(self) -> AbstractContextManager[Any]:
        """The Dask client that the option "scheduler" asks for; None without one."""
        return connect(self.settings["scheduler"])

    def save_figure(self, fig: Figure, name: str, caption: str) -> None:
        """Saves figures/<name>.png and .pdf; the caption travels inside both files."""
        png = self.path / "figures" / f"{name}.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(png, metadata={"Description": caption})
        fig.savefig(png.with_suffix(".pdf"), metadata={"Subject": caption, "CreationDate": None})

    def show(self, fig: Figure, name: str, caption: str) -> None:
        """Saves a figure, then shows it in the notebook with the caption as alternative text."""
        self.save_figure(fig, name, caption)
        figures.show(fig, caption)

    def save_table1(self, table: pd.DataFrame) -> None:
        """Saves `cbir.table1` as table1.csv (six decimals, as the paper), .md, .tex and .html."""
        texts = {"md": tables.to_markdown, "tex": tables.to_latex, "html": tables.to_html}
        as_csv = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_atomically(self.path / "table1.csv", as_csv)
        for suffix, write in texts.items():
            write_atomically(self.path / f"table1.{suffix}", write(table))

    def save_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Saves arrays as <name>/<key>.npy, for the notebooks that follow; what was there goes."""
        for old in (self.path / name).glob("*.npy"):
            if old.stem not in arrays:
                old.unlink()
        for key, array in arrays.items():
            path = self.array_path(name, key)
            if getattr(array, "filename", None) != path.resolve():  # it was written there
                np.save(path, array)

    def array_path(self, name: str, key: str) -> Path:
        """Where `save_arrays` keeps one array, for those who write it there piece by piece."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name / f"{key}.npy"

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Loads what `save_arrays` saved: {key: array, mapped from disk}, or FileNotFoundError."""
        if not (self.path / name).is_dir():
            raise FileNotFoundError(f"no {name} in runs/{self.name}: run the earlier notebooks")
        files = sorted((self.path / name).glob("*.npy"))
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}

    def record(self, **metrics: Any) -> None:
        """Adds to metrics.json values that JSON knows, replacing what had the same names."""
        _add_json(self.path / "metrics.json", metrics)

    def record_results(
        self, table: pd.DataFrame, scores: Scores | None = None, key: str = "results", **how: Any
    ) -> None:
        """Adds `cbir.means` to the results in metrics.json, replacing those of the same metrics.

        With the `scores` and keywords that `cbir.means` took, adds results_without_copies: the
        means without the queries that have a copy in the database, see `record_duplicates`.
        """
        if scores and (copied := self.metrics.get("copied_queries")):
            apart = {d: score.drop(copied).reindex(score.index) for d, score in scores.items()}
            self.record_results(means(apart, **how), key="results_without_copies")
        old, now = self.metrics.get(key, []), set(table["metric"])
        others = [row for row in old if row["metric"] not in now]
        self.record(**{key: others + table.to_dict("records")})

    def record_duplicates(self, database: Store, queries: Store) -> list[list[str]]:
        """Adds to metrics.json, and returns, the groups of `cbir.duplicates`.

        Beside these the rows of queries that have a copy in the database, as copied_queries.
        """
        groups, files = same_pictures(queries, database), queries.files + database.files
        mixed = [group for group in groups if group[0] < len(queries) <= group[-1]]
        copied = sorted(row for group in mixed for row in group if row < len(queries))
        names = [[files[row] for row in group] for group in groups]
        self.record(duplicates=names, copied_queries=copied, results_without_copies=[])
        return names

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json; empty where there is none."""
        return _read_json(self.path / "metrics.json")


def _extract(
    parts: Sequence[Images], net: Network, place: str, how: Any, on_shard: Callback = lambda: None
) -> list[Store]:
    """Describes the queries, then the database; ValueError if all files of one are damaged."""
    stores: list[Store] = []
    for name, part, each in zip(PARTS[::-1], parts[::-1], (lambda: None, on_shard)):
        store = extract(part, net, place + name, on_shard=each, **how)
        stores.insert(0, store)
        if not store.described.any():
            first = next(map(": ".join, store.unreadable.items()), "there are none")
            hint = "take others, or draw others by -p seed 1"
            raise ValueError(f"no image of the {name} can be read ({first}): {hint}")
    return stores


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _add_json(path: Path, values: dict[str, Any]) -> None:
    """Adds values to a file, replacing those of the same names; NaN and infinity become null."""
    text = json.dumps(_read_json(path) | values, default=os.fspath)
    finite = json.loads(text, parse_constant=lambda name: None)
    write_atomically(path, json.dumps(finite, indent=1, sort_keys=True) + "\n")


def open_run(where: AnyPath, described: bool = False) -> Run:
    """Opens the `Run` in a folder, or of that name among all runs, or raises FileNotFoundError.

    If `described`, it must have a store to search.
    """
    wanted = "stores/database" if described else "metrics.json"
    for path in (Path(where), runs_folder() / where):
        if (path / wanted).exists():
            return Run(path.resolve().name, path.resolve().parent)
    known = sorted(path.name for path in runs_folder().glob("*") if (path / wanted).exists())
    raise FileNotFoundError(
        f"no run {str(where)!r} in {runs_folder()}{did_you_mean(where, known)}: there is no "
        f"{wanted} in it. Run `cbir reproduce` first; runs there: {', '.join(known) or 'none'}"
    )
