"""The embedded image set: rendered scenes whose object class, background texture and palette are known.

One object stands on a textured ground under a graded sky. Shapes are signed-distance functions (SDFs) found by sphere tracing
(Hart, "Sphere tracing", The Visual Computer 1996); the penumbra of the shadow is estimated from the closest miss on the way to
the light (Quilez, "Soft shadows in raymarched SDFs", 2010). The three factors are drawn independently of each other, so that
a retrieved image can be right in its class and wrong in its background or its colours.

    scenes = sample_scenes(12, seed=0, split="database")    # a table: one row per scene
    images = render(scenes)                                 # (12, 224, 224, 3) uint8
    folder = write_scenes("data/scenes")                    # database/ and queries/ as JPEG, manifest.csv
"""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..common import AnyPath, Split, unknown_choice
from .render import _MIDDLE, Floats, _render

VERSION = 1  # of the pictures: raised whenever the same table of scenes gives other pixels

CLASSES = ("ball", "cube", "ring", "can", "cone", "diamond", "star", "mug", "pawn", "mushroom")
BACKGROUNDS = ("checker", "stripes", "bricks", "planks", "marble", "dots", "hexagons", "pebbles")
SPLITS: tuple[Split, ...] = get_args(Split)

# object, its accent, ground, ground's second colour, sky at the top, sky at the horizon, light
_COLORS = {
    "ocean": "ff6f47 fff1dc 0f6f96 9adbe8 2a7cc4 d8f2fa fffaf0",
    "terracotta": "14787c f8e6c4 b04f2b ecbd94 d9a877 fbeedd fff0dc",
    "forest": "f59b23 fff6dc 2c5a31 a2bb68 6fae8c e6f3d8 fffbe6",
    "candy": "6a35b8 ffe15c f0709f fff0f5 8fd4fa fde6f1 ffffff",
    "sunset": "ffd23f d8315b 43224a d9694f 4f3488 ffab73 ffdcb8",
    "graphite": "d11f3a f4f4f4 33373e bfc4cc 7c8692 e8ebef ffffff",
    "lavender": "a6d92b ffffff 6f58b0 d9cff5 8f86d6 f2edff fff6ff",
    "citrus": "2450c0 ff7a14 f0b71c fff4bd 62c4ee f7fbe4 fffbe0",
}
PALETTES = tuple(_COLORS)

# Numeric factors and their ranges. Angles in degrees, lengths in units of about half an object's height. The camera goes round
# the object, which is the object turning; texture_scale is the object's size against the ground.
_RANGES = {
    "side": (0, 2), "azimuth": (-50, 50), "elevation": (13, 34), "distance": (4.9, 6.3), "aim_x": (-0.42, 0.42),
    "aim_y": (-0.1, 0.42), "sun_azimuth": (-85, 85), "sun_elevation": (34, 58), "texture_angle": (0, 180),
    "texture_scale": (0.85, 1.2), "texture_x": (0, 64), "texture_y": (0, 64),
}


def sample_scenes(n: int, seed: int, split: Split) -> pd.DataFrame:
    """A table of `n` scenes; row i shows CLASSES[i % 10], everything else is uniform and independent.

    `split` ("database", "query", "training", "validation") has a random stream of its own. The first rows do not depend on n.
    Columns: class, background, palette (names) and the float factors. ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(unknown_choice("split", split, SPLITS))
    u = np.random.default_rng([seed, SPLITS.index(split)]).random((n, 2 + len(_RANGES)))  # one row per scene: prefix-stable
    scenes = pd.DataFrame({
        "class": [CLASSES[i % len(CLASSES)] for i in range(n)],
        "background": [BACKGROUNDS[i] for i in (u[:, 0] * len(BACKGROUNDS)).astype(int)],
        "palette": [PALETTES[i] for i in (u[:, 1] * len(PALETTES)).astype(int)],
    })
    for column, (name, (low, high)) in zip(u.T[2:], _RANGES.items()):
        scenes[name] = low + (high - low) * column
    scenes["azimuth"] += 180 * np.floor(scenes.pop("side"))  # seen from the front or from the back, never edge-on
    return scenes


def render(scenes: pd.DataFrame, size: int = 224) -> NDArray[np.uint8]:
    """Pictures of a table of scenes: (n, size, size, 3) uint8. The same row gives the same pixels; cores share the rows."""
    def one(scene: Mapping[str, Any]) -> NDArray[np.uint8]:
        return _render(*_arguments(scene), size)

    rows = scenes.to_dict("records")
    if not rows:
        return np.zeros((0, size, size, 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiled loop releases the interpreter lock
        return np.stack(list(pool.map(one, rows)))


def _arguments(scene: Mapping[str, Any]) -> tuple[int, int, Floats, Floats, Floats, Floats, Floats]:
    """One row as what the compiled loop takes: two kinds, camera, sun and texture vectors, linear-light colours (7, 3)."""
    azimuth, elevation = math.radians(scene["azimuth"]), math.radians(scene["elevation"])
    sun_azimuth, sun_elevation = azimuth + math.radians(scene["sun_azimuth"]), math.radians(scene["sun_elevation"])

    def direction(a: float, e: float) -> Floats:
        return np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])

    back = direction(azimuth, elevation)
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    up = np.cross(back, right)
    eye = np.array([0, _MIDDLE, 0]) + scene["distance"] * back + scene["aim_x"] * right + scene["aim_y"] * up
    angle = math.radians(scene["texture_angle"])
    texture = np.array([math.cos(angle), math.sin(angle), scene["texture_scale"], scene["texture_x"], scene["texture_y"]])
    colors = np.array([[int(c[i:i + 2], 16) / 255 for i in (0, 2, 4)] for c in _COLORS[scene["palette"]].split()]) ** 2.2
    return (CLASSES.index(scene["class"]), BACKGROUNDS.index(scene["background"]), eye, np.stack([right, up, back]),
            direction(sun_azimuth, sun_elevation), texture, colors)


def write_scenes(folder: AnyPath, n_database: int = 1000, n_queries: int = 200, seed: int = 0) -> Path:
    """Render the database and the queries as JPEG files; return the folder as a Path.

    folder/database/<class>/<class>_00017.jpg, folder/queries/<class>/..., and folder/manifest.csv: one row per file with its
    factors, written last, so that an interrupted render is done again. Nothing is rendered if the manifest records the same
    numbers, seed and VERSION and every file is there; missing files are rendered again. ValueError if the folder holds another
    set: pictures are never deleted.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    table = _manifest(n_database, n_queries, seed)
    wanted = {"n_database": n_database, "n_queries": n_queries, "seed": seed, "version": VERSION}
    advice = f"delete {folder} or choose another folder"

    missing = table
    if manifest.exists():
        recorded = _recorded(pd.read_csv(manifest))
        if recorded != wanted:
            raise ValueError(f"{manifest} records {recorded}, asked for {wanted}: {advice}")
        missing = table[[not (folder / file).is_file() for file in table["file"]]]
        if missing.empty:
            return folder
    found = {p.relative_to(folder).as_posix() for part in ("database", "queries") for p in (folder / part).rglob("*.jpg")}
    stray = found - set(table["file"])
    if stray:
        raise ValueError(f"{folder} holds {len(stray)} pictures of another set, such as {min(stray)}: {advice}")

    manifest.unlink(missing_ok=True)  # from here to the end the folder counts as unfinished
    for parent in {(folder / file).parent for file in table["file"]}:
        parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(missing), desc="scenes", unit=" images") as bar:
        for start in range(0, len(missing), 64):
            block = missing.iloc[start:start + 64]
            for file, image in zip(block["file"], render(block)):
                Image.fromarray(image).save(folder / file, quality=95, subsampling=0)
            bar.update(len(block))
    temporary = manifest.with_suffix(".csv.part")
    table.to_csv(temporary, index=False)
    os.replace(temporary, manifest)
    return folder


def _manifest(n_database: int, n_queries: int, seed: int) -> pd.DataFrame:
    parts = []
    sets: list[tuple[int, Split, str]] = [(n_database, "database", "database"), (n_queries, "query", "queries")]
    for n, split, name in sets:
        scenes = sample_scenes(n, seed, split)
        scenes.insert(0, "file", [f"{name}/{c}/{c}_{i:05d}.jpg" for i, c in enumerate(scenes["class"])])
        scenes.insert(1, "split", split)
        parts.append(scenes.assign(seed=seed, version=VERSION))
    return pd.concat(parts, ignore_index=True)


def _recorded(table: pd.DataFrame) -> dict[str, int] | None:
    if not {"split", "seed", "version"} <= set(table.columns) or table.empty:
        return None
    counts = table["split"].value_counts()
    return {"n_database": int(counts.get("database", 0)), "n_queries": int(counts.get("query", 0)),
            "seed": int(table["seed"].iloc[0]), "version": int(table["version"].iloc[0])}
