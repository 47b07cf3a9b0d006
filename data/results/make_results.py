"""Makes data/results/: every query's scores by every descriptor, in all settings of the verdict.

    python data/results/make_results.py --photos FOLDER     (make results; two hours on two cores)

The images are described once, into runs/results/, with the window means of every block; all
selections, balances and codes follow from these. FOLDER has imagenette3600/ and caltech101/, each
with database/ and queries/. Without it only the scenes' settings are made anew.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import cbir
from cbir import claims, studies
from cbir.common import PACKAGES, commit, runs_folder
from cbir.datasets import SCENES
from cbir.trained import train_codes

HEADS = {  # how codes are trained: {name: arguments of train_codes}
    "narrow": {"widths": (128, 128), "epochs": 40, "lr": 1e-3},
    "wide": {"widths": (4096, 4096), "epochs": 10, "lr": 1e-4},
}
HALVES = 5  # random halves of a database
DESCRIPTORS = sorted({name for row in claims.ROWS for name in (row.descriptor, row.control)})
FOLDERS = {"imagenette": "imagenette3600", "caltech101": "caltech101"}


def describe(images: str, network: str, photos: Path | None) -> list[cbir.Store]:
    """Describes both splits of a set by a network; what is described already stays."""
    folder = photos / FOLDERS[images] if photos and images in FOLDERS else SCENES
    net, kept = cbir.load_network(network), runs_folder() / "results" / images / network
    extras = {"windows": "windows", "color": "color"}
    splits = ("database", "queries")
    return [cbir.extract(folder / split, net, kept / split, extras=extras) for split in splits]


def codes(stores: list[cbir.Store], head: str, seed: int, aside: Path) -> list[np.ndarray]:
    """Trains codes on y_5 of the database and computes h of both stores, which is kept."""
    files = [aside / f"{head}_{seed}_{split}.npy" for split in ("database", "queries")]
    if not all(file.is_file() for file in files):
        if head == "narrow" and seed == 0:  # those that are kept
            layers = cbir.load_network("vgg16_scenes").head
        else:
            trunk = cbir.load_network("vgg16_conv")
            layers = train_codes(trunk, stores[0], seed=seed, **HEADS[head]).head
        print(f"{aside.parent.name}: {head} codes, seed {seed}: {layers.about['accuracy']:.3f}")
        aside.mkdir(parents=True, exist_ok=True)
        for store, file in zip(stores, files):
            np.save(file, codes_by(layers, store))
    return [np.load(file) for file in files]


def codes_by(layers: torch.nn.Module, store: cbir.Store) -> np.ndarray:
    """Computes h of a store's images by layers on y_N, (N, D_1 + D_2)."""
    rows, device = [], next(layers.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(store), 256):
            y_N = studies.last_block(store, slice(start, start + 256)).to(device)
            rows.append(torch.cat(layers(y_N), dim=1).cpu().numpy())
    return np.concatenate(rows)


def head_of(key: str) -> str:
    """Names the codes of a setting, of `HEADS`; "" if the network has its own."""
    if claims.SETTINGS[key].network != "vgg16_conv":
        return ""
    return "narrow" if key == "scenes_vgg16" else "wide"


def set_codes(trial: studies.Experiment, images: str, head: str, seed: int = 0) -> None:
    """Gives a network on a set of images the codes that were trained there, if it has a head."""
    if head:
        aside = runs_folder() / "results" / images / "h"
        rows = codes([trial.database, trial.queries], head, seed, aside)
        trial.set_h(*rows, HEADS[head]["widths"])


def all_scores(trial: studies.Experiment, names=(), within=None) -> pd.DataFrame:
    """Judges descriptors as they are and at unit length, a row per query and descriptor."""
    made = {
        (name, balance): scores.assign(query=trial.queries.files, **{"class": trial.classes})
        for balance, how in studies.BALANCES.items()
        for name, scores in trial.scores(how, names, within).items()
    }
    table = pd.concat(made, names=["descriptor", "balance"])
    return table.reset_index(["descriptor", "balance"]).dropna(subset=["class P@5"])


def half(trial: studies.Experiment, seed: int) -> list[int]:
    """Draws half of every class of the database."""
    rng, labels = np.random.default_rng(seed), np.asarray(trial.database.labels)
    of_class = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return sorted(row for rows in of_class for row in rng.permutation(rows)[: len(rows) // 2])


def judge(key: str, photos: Path | None, seeds: int) -> tuple[pd.DataFrame, dict, pd.DataFrame]:
    """Makes the scores of one setting, what they are of, and their spread over seeds and halves."""
    setting = claims.SETTINGS[key]
    stores = describe(setting.images, setting.network, photos)
    trial = studies.Experiment(*stores)
    about = {"network": stores[0].network}
    about |= {"database": len(stores[0]), "queries": len(stores[1])}
    if head := head_of(key):
        about["codes"] = HEADS[head]

    def with_seed(seed: int) -> studies.Experiment:
        set_codes(trial, setting.images, head, seed)
        return trial

    scores = all_scores(with_seed(0))
    drawn = {("half", seed): half(trial, seed) for seed in range(HALVES)}
    spread = {kind: all_scores(trial, DESCRIPTORS, rows) for kind, rows in drawn.items()}
    for seed in range(seeds if head == "narrow" else 0):
        spread["seed", seed] = all_scores(with_seed(seed), DESCRIPTORS)
    cells = {kind: claims.compare(each) for kind, each in spread.items()}
    table = pd.concat(cells, names=["varied", "value"]).reset_index(["varied", "value"])
    columns = ["varied", "value", "row", "recipe", "measure", "mean"]
    return scores, about, table[columns].round(9).assign(setting=key)


def made_by() -> dict:
    """Tells the commit, Python and packages that results depend on, nothing of the machine."""
    packages = {package: version(package) for package in PACKAGES}
    return {"code": commit(), "Python": platform.python_version(), "packages": packages}


def keep(scores: pd.DataFrame, folder: Path, name: str) -> None:
    """Writes scores; the same give the same file."""
    packed = {"method": "gzip", "mtime": 0}
    file = folder / f"{name}.csv.gz"
    scores.round(9).to_csv(file, index=False, lineterminator="\n", compression=packed)


def main() -> None:
    """Makes the settings that are asked for, then the cells of all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="the folder of photographs")
    parser.add_argument("--only", choices=claims.SETTINGS, help="one setting")
    parser.add_argument("--seeds", type=int, default=5, help="of the codes that are trained")
    parser.add_argument("--run", help="only a run over the scenes, into scores/scenes_<run>.csv.gz")
    parser.add_argument("--results", type=Path, default=claims.RESULTS, help="where they go")
    given = parser.parse_args()
    results, made = given.results, made_by()  # before anything is changed
    (results / "scores").mkdir(parents=True, exist_ok=True)
    if given.run:  # no setting of the verdict
        scores = all_scores(studies.Experiment(*cbir.Run(given.run).stores()[1:]))
        keep(scores, results / "scores", f"scenes_{given.run}")
        print(claims.compare(scores)[["row", "recipe", "measure", "mean", "low", "high"]].round(4))
        return
    about_file, spread_file = results / "about.json", results / "spread.csv"
    about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.is_file() else {}
    spread = pd.read_csv(spread_file) if spread_file.is_file() else pd.DataFrame()
    for key, setting in claims.SETTINGS.items():
        if (given.only or key) != key or not (setting.images == "scenes" or given.photos):
            continue
        scores, of, varied = judge(key, given.photos, given.seeds)
        about[key] = made | of
        keep(scores, results / "scores", key)
        others = spread[spread.setting != key] if len(spread) else spread
        spread = pd.concat([others, varied], ignore_index=True)
        spread.to_csv(spread_file, index=False, lineterminator="\n")
        text = json.dumps(about, indent=1, ensure_ascii=False)
        about_file.write_text(text + "\n", encoding="utf-8")
        print(key, "done", flush=True)
    if all((results / "scores" / f"{key}.csv.gz").is_file() for key in claims.SETTINGS):
        file = results / "cells.csv"
        claims.cells(results).to_csv(file, index=False, float_format="%.9g", lineterminator="\n")


if __name__ == "__main__":
    main()
