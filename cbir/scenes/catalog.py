"""The embedded image set: scenes whose object class, background texture and palette are known.

One object stands on a textured ground under a graded sky. The three factors are drawn independently
of each other, so that a retrieved image can be right in its class and wrong in its background or
its colours.

    scenes = sample_scenes(12, seed=0, split="database")    # a table: one row a scene
    images = render_scenes(scenes)                          # (12, 224, 224, 3) uint8
    folder = write_scenes("data/scenes")                    # database/, queries/, manifest.csv
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

from ..common import AnyPath, Split, unknown_choice, write_atomically
from ..scenes.render import MIDDLE, Floats, object_share, render_scene

VERSION = 1  # of the pictures: raised whenever the same table of scenes gives other pixels

# Their order is that of the numbers in render.py.
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

# Numeric factors and their ranges. Angles in degrees, lengths in units of about half an object's
# height. The camera goes round the object, which is the object turning; texture_scale is the
# object's size against the ground.
_RANGES = {
    "side": (0, 2),
    "azimuth": (-50, 50),
    "elevation": (13, 34),
    "distance": (4.9, 6.3),
    "aim_x": (-0.42, 0.42),
    "aim_y": (-0.1, 0.42),
    "sun_azimuth": (-85, 85),
    "sun_elevation": (34, 58),
    "texture_angle": (0, 180),
    "texture_scale": (0.85, 1.2),
    "texture_x": (0, 64),
    "texture_y": (0, 64),
}


def sample_scenes(n: int, seed: int, split: Split) -> pd.DataFrame:
    """Draws a table of scenes. The first rows do not depend on n.

    Args:
        n: how many; row i shows CLASSES[i % 10], everything else is uniform and independent.
        seed: what they are drawn from.
        split: each of `SPLITS` has a random stream of its own.

    Returns:
        One row a scene. Columns: class, background, palette (names) and the float factors.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(unknown_choice("split", split, SPLITS))
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    uniform = rng.random((n, 2 + len(_RANGES)))  # one row a scene: the first do not depend on n
    backgrounds = (uniform[:, 0] * len(BACKGROUNDS)).astype(int)
    palettes = (uniform[:, 1] * len(PALETTES)).astype(int)
    scenes = pd.DataFrame(
        {
            "class": [CLASSES[i % len(CLASSES)] for i in range(n)],
            "background": [BACKGROUNDS[i] for i in backgrounds],
            "palette": [PALETTES[i] for i in palettes],
        }
    )
    for column, (name, (low, high)) in zip(uniform.T[2:], _RANGES.items()):
        scenes[name] = low + (high - low) * column
    # Seen from the front or from the back, never edge-on.
    scenes["azimuth"] += 180 * np.floor(scenes.pop("side"))
    return scenes


def render_scenes(scenes: pd.DataFrame, size: int = 224) -> NDArray[np.uint8]:
    """Renders a table of scenes on all cores. The same row gives the same pixels.

    Args:
        scenes: as `sample_scenes` gives it.
        size: side of the pictures.

    Returns:
        The pictures, (n, size, size, 3) uint8.
    """
    rows = scenes.to_dict("records")
    if not rows:
        return np.zeros((0, size, size, 3), np.uint8)
    # Threads serve: the compiled loop releases the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(lambda row: render_scene(*_arguments(row), size), rows)))


def object_masks(scenes: pd.DataFrame, size: int = 224) -> NDArray[np.float64]:
    """Computes where the objects of a table of scenes are.

    Args:
        scenes: as `sample_scenes` or the manifest gives it.
        size: side of the masks.

    Returns:
        How much of every pixel the object covers, (n, size, size) float from 0 to 1.
    """

    def mask(scene: Mapping[str, Any]) -> Floats:
        shape, _, eye, camera, *_ = _arguments(scene)
        return object_share(shape, eye, camera, size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        masks = list(pool.map(mask, scenes.to_dict("records")))
    return np.stack(masks) if masks else np.zeros((0, size, size))


def _arguments(scene: Mapping[str, Any]) -> tuple[int, int, Floats, Floats, Floats, Floats, Floats]:
    """One row as what `render_scene` takes."""
    azimuth = math.radians(scene["azimuth"])
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    back = _direction(azimuth, math.radians(scene["elevation"]))
    up = np.cross(back, right)
    middle = np.array([0, MIDDLE, 0])
    eye = middle + scene["distance"] * back + scene["aim_x"] * right + scene["aim_y"] * up
    sun_azimuth = azimuth + math.radians(scene["sun_azimuth"])
    angle = math.radians(scene["texture_angle"])
    offset = [scene["texture_x"], scene["texture_y"]]
    return (
        CLASSES.index(scene["class"]),
        BACKGROUNDS.index(scene["background"]),
        eye,
        np.stack([right, up, back]),
        _direction(sun_azimuth, math.radians(scene["sun_elevation"])),
        np.array([math.cos(angle), math.sin(angle), scene["texture_scale"], *offset]),
        _linear_light(_COLORS[scene["palette"]]),
    )


def _direction(azimuth: float, elevation: float) -> Floats:
    """The unit vector (3,) of two angles."""
    horizontal = math.cos(elevation)
    x = horizontal * math.sin(azimuth)
    z = horizontal * math.cos(azimuth)
    return np.array([x, math.sin(elevation), z])


def _linear_light(colors: str) -> Floats:
    """Hexadecimal colours as linear light, (n, 3) from 0 to 1."""
    rgb = [list(bytes.fromhex(color)) for color in colors.split()]
    return (np.array(rgb) / 255) ** 2.2


def write_scenes(
    folder: AnyPath, n_database: int = 1000, n_queries: int = 200, seed: int = 0
) -> Path:
    """Renders the database and the queries as JPEG files.

    There are folder/database/<class>/<class>_00017.jpg, folder/queries/<class>/.., and
    folder/manifest.csv: one row a file with its factors, written last, so that an interrupted
    render is done again. Where the manifest records the same numbers, seed and VERSION, only files
    that are missing are rendered. Pictures are never deleted.

    Args:
        folder: where they go.
        n_database: how many in the database.
        n_queries: how many queries.
        seed: as in `sample_scenes`.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds another set.
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
    found = [*(folder / "database").rglob("*.jpg"), *(folder / "queries").rglob("*.jpg")]
    stray = {path.relative_to(folder).as_posix() for path in found} - set(table["file"])
    if stray:
        raise ValueError(
            f"{folder} holds {len(stray)} pictures of another set, such as {min(stray)}: {advice}"
        )

    manifest.unlink(missing_ok=True)  # from here to the end the folder counts as unfinished
    for parent in {(folder / file).parent for file in table["file"]}:
        parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(missing), desc="scenes", unit=" images") as bar:
        for start in range(0, len(missing), 64):
            block = missing.iloc[start : start + 64]
            for file, image in zip(block["file"], render_scenes(block)):
                Image.fromarray(image).save(folder / file, quality=95, subsampling=0)
            bar.update(len(block))
    write_atomically(manifest, table.to_csv(index=False, lineterminator="\n"))
    return folder


def _manifest(n_database: int, n_queries: int, seed: int) -> pd.DataFrame:
    """The table of all files and their factors."""
    database = sample_scenes(n_database, seed, "database").assign(split="database")
    queries = sample_scenes(n_queries, seed, "query").assign(split="query")
    database["file"] = _file_names("database", database["class"])
    queries["file"] = _file_names("queries", queries["class"])
    table = pd.concat([database, queries], ignore_index=True).assign(seed=seed, version=VERSION)
    for position, column in enumerate(["file", "split"]):
        table.insert(position, column, table.pop(column))
    return table


def _file_names(part: str, classes: pd.Series) -> list[str]:
    return [f"{part}/{name}/{name}_{i:05d}.jpg" for i, name in enumerate(classes)]


def _recorded(table: pd.DataFrame) -> dict[str, int] | None:
    """What `write_scenes` was asked for when it wrote a manifest; None where that is unknown."""
    if not {"split", "seed", "version"} <= set(table.columns) or table.empty:
        return None
    counts = table["split"].value_counts()
    return {
        "n_database": int(counts.get("database", 0)),
        "n_queries": int(counts.get("query", 0)),
        "seed": int(table["seed"].iloc[0]),
        "version": int(table["version"].iloc[0]),
    }
