"""Makes data/results/beyond/: every query's scores for the questions of notebook 09.

    python data/results/make_beyond.py --photos FOLDER     (make beyond; an hour on two cores)

The images and their codes are those of make_results.py, which runs first. FOLDER is the same. Two
questions need further passes through a network: other statistics, and other inputs.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from make_results import HEADS, all_scores, codes_by, describe, head_of, keep, made_by, set_codes
from numpy.typing import NDArray

import cbir
from cbir import claims, pooling, studies
from cbir.common import runs_folder
from cbir.datasets import choose_queries
from cbir.descriptors import (
    Recipe,
    Windows,
    check_recipe,
    significance_map,
    significant,
    weigh_by,
    window,
    window_mean,
)

RECIPES = {"average": {"q": 0}, **studies.SELECTIONS}  # every neuron is at least 0
SIZES = (512, 256, 128, 64)  # of compressed descriptors
INPUTS = {  # of VGG16: side, and whether the image is cropped
    "224, stretched": (224, False),
    "224, cropped": (224, True),
    "448, stretched": (448, False),
}
Scores = Mapping[str, pd.DataFrame]  # {variant: a row per query}


def trial_of(images: str, network: str, photos: Path, head: str = "") -> studies.Experiment:
    """Opens a network on a set of images, with the codes that were trained on them, if any."""
    trial = studies.Experiment(*describe(images, network, photos))
    set_codes(trial, images, head)
    return trial


def trials(photos: Path, networks: Sequence[str] = ()) -> Iterator[tuple[str, studies.Experiment]]:
    """Opens the settings of the verdict, one after the other; of some networks if these are given.

    Yields (the setting's title, its experiment).
    """
    for key, setting in claims.SETTINGS.items():
        if not networks or setting.network in networks:
            trial = trial_of(setting.images, setting.network, photos, head_of(key))
            yield setting.title, trial


def judged(trial: studies.Experiment, variants: Mapping[str, Sequence[str]]) -> Scores:
    """Judges parts that are joined with every layer at unit length: {variant: scores}."""
    return {name: trial.judge(trial.found(parts, "l2")) for name, parts in variants.items()}


def as_table(trial: studies.Experiment, scores: Scores, **of: str) -> pd.DataFrame:
    """Joins scores into one table, with the queries' files and classes."""
    table = pd.concat(scores, names=["variant", "row"]).reset_index("variant")
    rows = table.index.to_numpy()
    about = {"query": np.array(trial.queries.files)[rows], "class": trial.classes[rows]}
    return table.assign(**of, **about).reset_index(drop=True)


# ---- rivals of selecting neurons ----------------------------------------------------------------


def over_scda(windows: Windows) -> torch.Tensor:
    """Averages every block over SCDA's positions, in the place of the significant ones."""
    y_N = windows[-1][0]
    return weigh_by(pooling.scda_mask(y_N)[:, None].expand_as(y_N), windows)


def rivals(photos: Path) -> Iterator[pd.DataFrame]:
    """Compares the paper's selection with those of SCDA and PWA, in all settings."""
    for title, trial in trials(photos):
        for name in ("scda", "pwa"):
            trial.add(
                {name: lambda windows, name=name: cbir.POOLINGS[name]([y for y, _ in windows])}
            )
            trial.layers[name] = [trial.parts[name][0].shape[1]]  # one layer, as in their papers
        trial.add({"over SCDA's positions": over_scda})
        variants = {"h": ["h"], "h+average": ["h", "average"]}
        for name in ("q = 0.5", "relative", "as released", "over SCDA's positions"):
            variants |= {f"eta_conv, {name}": [name], f"eta, {name}": ["h", name]}
        for name in ("scda", "pwa"):
            variants |= {name: [name], f"h+{name}": ["h", name]}
        yield as_table(trial, judged(trial, variants), setting=title)


# ---- other statistics than the mean -------------------------------------------------------------


def moments(y: torch.Tensor, grid: Sequence[int], name: str) -> torch.Tensor:
    """Computes the window means of y, y^2 and y^3 and the windows' maxima: (4, B, C, H_N, W_N)."""
    y = y.float()
    means = [window_mean(y**power, grid, name)[0] for power in (1, 2, 3)]
    return torch.stack([*means, F.max_pool2d(y, window(y.shape[-2:], grid))])


def statistics_of(blocks: Sequence[torch.Tensor], recipe: Recipe) -> dict[str, torch.Tensor]:
    """Computes Eq. 14 with other statistics than the mean, from `moments`: {name: (B, sum C_m)}.

    The weights are those of Eq. 13, normalised. As they are constant in each window, a statistic
    over the fine grid follows from that of the windows.
    """
    y_N = blocks[-1][0]
    recipe = check_recipe(**recipe)
    z_N = significant(y_N, recipe["q"], recipe["threshold"])
    z = significance_map(z_N, recipe["counting"]).float()[:, None]
    counts = [z] * (len(blocks) - 1) + [z if recipe["counting"] == "union" else z_N.float()]
    rows: dict[str, list[torch.Tensor]] = {}
    for block, count in zip(blocks, counts):
        a = count / count.sum(dim=(2, 3), keepdim=True).clamp_min(1)
        mean, square, cube = (a * block[:3]).sum(dim=(3, 4))  # (B, C_m) each
        rows.setdefault("mean", []).append(mean)
        rows.setdefault("maximum", []).append((block[3] * (a > 0)).amax(dim=(2, 3)))
        rows.setdefault("GeM", []).append(cube ** (1 / 3))
        rows.setdefault("standard deviation", []).append((square - mean**2).clamp_min(0).sqrt())
    return {name: torch.cat(parts, dim=1) for name, parts in rows.items()}


def pass_for_statistics(store: cbir.Store, net: cbir.Network, aside: Path) -> dict[str, NDArray]:
    """Runs the images of a store through the network once more; the results are kept in `aside`."""
    if not aside.is_dir():
        made: dict[str, list[NDArray]] = {}
        for start in range(0, len(store), 32):
            rows = range(start, min(start + 32, len(store)))
            pictures = [net.transform(cbir.open_image(store.path(row))) for row in rows]
            ys, _ = net(torch.stack(pictures), reduce=moments)
            blocks = [*ys[:-1], moments(ys[-1], ys[-1].shape[-2:], "the last block")]
            for selection, recipe in RECIPES.items():
                for name, values in statistics_of(blocks, recipe).items():
                    made.setdefault(f"{name}, {selection}", []).append(values.numpy())
        beside = aside.with_name(f"{aside.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        for name, parts in made.items():
            np.save(beside / f"{name}.npy", np.concatenate(parts))
        beside.rename(aside)
    found = {file.stem: np.load(file) for file in sorted(aside.glob("*.npy"))}
    expected = store["eta_conv"][:]  # as printed
    np.testing.assert_allclose(found["mean, q = 0.5"], expected, atol=1e-5 * expected.max())
    return found


def other_statistics(photos: Path) -> Iterator[pd.DataFrame]:
    """Replaces the mean of Eq. 14 by other statistics of the same positions (Sec. V)."""
    for title, trial in trials(photos, ["vgg16_conv", "efficientnet_lite0"]):
        network = trial.database.network["name"]
        net = cbir.load_network(network)
        splits = {"database": trial.database, "queries": trial.queries}
        found = [
            pass_for_statistics(store, net, Path(store.location).parent / "statistics" / split)
            for split, store in splits.items()
        ]
        variants: dict[str, list[str]] = {}
        widths = [channels for channels, *_ in trial.database.dims["blocks"]]
        for name in found[0]:
            trial.parts[name], trial.layers[name] = (found[0][name], found[1][name]), widths
            variants |= {f"eta_conv, {name}": [name], f"eta, {name}": ["h", name]}
        for selection in RECIPES:
            both = [f"mean, {selection}", f"standard deviation, {selection}"]
            name = f"mean and deviation, {selection}"
            variants |= {f"eta_conv, {name}": both, f"eta, {name}": ["h", *both]}
        yield as_table(trial, judged(trial, variants), setting=title)


# ---- another network ----------------------------------------------------------------------------


def networks(photos: Path) -> Iterator[pd.DataFrame]:
    """Judges MobileNetV2 as make_results.py judges the networks of the verdict."""
    titles = {setting.images: setting.title.split(",")[0] for setting in claims.SETTINGS.values()}
    for images, title in titles.items():
        trial = trial_of(images, "mobilenet_v2", photos)
        yield all_scores(trial).assign(setting=f"{title}, MobileNetV2")


# ---- texture, and measures of the whole ranking -------------------------------------------------


def texture_histograms(store: cbir.Store) -> NDArray[np.float64]:
    """Computes histograms of local binary patterns, (N, 10), each summing to 1.

    T. Ojala et al., "Multiresolution Gray-Scale and Rotation Invariant Texture Classification with
    Local Binary Patterns", TPAMI 2002: eight points at radius 1, uniform and rotation-invariant, of
    the picture in grey at 224 x 224.
    """
    from skimage.feature import local_binary_pattern

    histograms = []
    for row in range(len(store)):
        gray = np.asarray(cbir.open_image(store.path(row)).convert("L").resize((224, 224)))
        patterns = local_binary_pattern(gray, P=8, R=1, method="uniform").astype(int)
        histograms.append(np.bincount(patterns.ravel(), minlength=10) / patterns.size)
    return np.array(histograms)


def texture(photos: Path) -> Iterator[pd.DataFrame]:
    """Measures texture, mAP and recall at 10 on the photographs."""
    textures: dict[str, list[NDArray]] = {}
    for title, trial in trials(photos, ["vgg16_conv", "efficientnet_lite0"]):
        images = title.split(",")[0]
        if images == "scenes":
            continue
        if images not in textures:
            stores = trial.database, trial.queries
            textures[images] = [texture_histograms(store) for store in stores]
        of_image, of_query = textures[images]
        trial.k = len(trial.database)  # the whole ranking
        scores = {}
        recipes = {"eta": "q = 0.5", "eta, as released": "as released"}
        for balance, how in studies.BALANCES.items():
            variants = {"h": ["h"], "h+average": ["h", "average"], "h+color": ["h", "color"]}
            variants |= {name: ["h", part] for name, part in recipes.items()}
            variants |= {"eta_conv": ["q = 0.5"], "eta_conv, as released": ["as released"]}
            for name, parts in variants.items():
                indices = trial.found(parts, how)
                table = trial.judge(indices, k=5, ap=True)
                distances = np.abs(of_image[indices[:, :5]] - of_query[:, None]).sum(axis=2)
                labels = np.asarray(trial.database.labels)[indices[:, :10]]
                recall = (labels == trial.classes[:, None]).any(axis=1).astype(float)
                extra = {"texture distance": distances.mean(axis=1), "recall at 10": recall}
                scores[f"{name}, {balance}"] = table.assign(**extra)
        yield as_table(trial, scores, setting=title)


# ---- shorter descriptors ------------------------------------------------------------------------


def size(photos: Path) -> Iterator[pd.DataFrame]:
    """Shortens η at unit length by PCA, fitted to half of the database, searched in the rest."""
    for title, trial in trials(photos, ["vgg16_conv"]):
        images, queries = trial.rows(["h", "q = 0.5"], "l2")
        order = np.random.default_rng(0).permutation(len(images))
        fitted, searched = np.sort(order[::2]), np.sort(order[1::2])
        shorter = {"whole": (images[searched], queries)}
        for whiten in (False, True):
            projection = pooling.pca(images[fitted], max(SIZES), whiten)
            pair = [projection(rows) for rows in (images[searched], queries)]
            for dims in SIZES:
                name = f"{'whitened' if whiten else 'PCA'}, {dims}"
                shorter[name] = tuple(rows[:, :dims] for rows in pair)
        scores = {}
        for name, (rows, asked) in shorter.items():
            for metric in ("l1", "l2", "cosine"):
                cbir.search(rows, asked[:2], metric=metric)  # compiles
                start = time.perf_counter()
                hits = cbir.search(rows, asked, metric=metric, k=5)
                milliseconds = 1000 * (time.perf_counter() - start) / len(asked)
                about = {"dimensions": rows.shape[1], "milliseconds": milliseconds}
                scores[f"{name}, {metric}"] = trial.judge(searched[hits.indices]).assign(**about)
        yield as_table(trial, scores, setting=title)


# ---- the input ----------------------------------------------------------------------------------


def inputs(photos: Path) -> Iterator[pd.DataFrame]:
    """Describes 600 photographs of Caltech-101 from other inputs: 14 x 14 positions, or cropped."""
    whole = [cbir.list_images(photos / "caltech101" / split) for split in ("database", "queries")]
    drawn = [images[sorted(choose_queries(images, n, 0))] for images, n in zip(whole, (400, 200))]
    trunk = cbir.load_network("vgg16_conv")
    for title, (side, crop) in INPUTS.items():
        transform = cbir.resize_transform(side, crop)
        net = cbir.Network(trunk.module, trunk.blocks, transform=transform, name=f"vgg16 {title}")
        place = runs_folder() / "results" / "inputs" / title.replace(", ", "_")
        stores = [
            cbir.extract(images, net, place / split, extras=studies.EXTRAS)
            for images, split in zip(drawn, ("database", "queries"))
        ]
        trial = studies.Experiment(*stores)
        file = place / "codes.safetensors"
        trained = cbir.train_codes(net, stores[0], **HEADS["narrow"], path=file)
        h = [codes_by(trained.head, store) for store in stores]
        trial.set_h(*h, HEADS["narrow"]["widths"])
        variants = {"h": ["h"], "h+average": ["h", "average"]}
        for name in studies.SELECTIONS:
            variants |= {f"eta_conv, {name}": [name], f"eta, {name}": ["h", name]}
        yield as_table(trial, judged(trial, variants), setting=title)


QUESTIONS = {
    "rivals": rivals,
    "statistics": other_statistics,
    "networks": networks,
    "texture": texture,
    "size": size,
    "input": inputs,
}


def main() -> None:
    """Answers the questions that are asked for, each into a file of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="the folder of photographs")
    parser.add_argument("--only", choices=QUESTIONS, help="one question")
    parser.add_argument("--results", type=Path, default=claims.RESULTS / "beyond")
    given = parser.parse_args()
    made = made_by()
    given.results.mkdir(parents=True, exist_ok=True)
    about_file = given.results / "about.json"
    for name in [given.only] if given.only else QUESTIONS:
        table = pd.concat(QUESTIONS[name](given.photos), ignore_index=True)
        keep(table, given.results, name)
        about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.is_file() else {}
        text = json.dumps(about | {name: made}, indent=1)
        about_file.write_text(text + "\n", encoding="utf-8")
        print(name, len(table), "rows", flush=True)


if __name__ == "__main__":
    main()
