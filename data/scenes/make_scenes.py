"""Renders the images of this folder again: `python data/scenes/make_scenes.py FOLDER`.

Scenes whose object class, background texture and palette are known. One object stands on a textured
ground under a graded sky. The three factors are drawn independently of each other, so that a
retrieved image can be right in its class and wrong in its background or its colours.

    scenes = sample_scenes(12, seed=0, split="database")  # a table: one row per scene
    images = render_scenes(scenes)  # (12, 224, 224, 3) uint8

Shapes are signed-distance functions (SDFs), y upwards, standing on y = 0. Rays find them by sphere
tracing (Hart, "Sphere tracing", The Visual Computer 1996). The penumbra of the shadow is estimated
from the closest miss on the way to the light (Quilez, "Soft shadows in raymarched SDFs", 2010).
Colours are linear light, and numba compiles the kernels.
"""

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

Floats = NDArray[np.float64]

SPLITS = ("database", "query", "training", "validation")

# Their order is that of the numbers below, and that of the slim network's answers.
CLASSES = ("ball", "cube", "ring", "can", "cone", "diamond", "star", "mug", "pawn", "mushroom")
BACKGROUNDS = ("checker", "stripes", "bricks", "planks", "marble", "dots", "hexagons", "pebbles")

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

# Every object lies in the sphere of radius RADIUS round (0, MIDDLE, 0).
MIDDLE = 0.85
RADIUS = 1.32
# Shapes and grounds are numbers in the kernels: their positions in CLASSES and BACKGROUNDS.
BALL, CUBE, RING, CAN, CONE, DIAMOND, STAR, MUG, PAWN, MUSHROOM = range(10)
CHECKER, STRIPES, BRICKS, PLANKS, MARBLE, DOTS, HEXAGONS, PEBBLES = range(8)
# Rows of a palette, (7, 3) floats.
OBJECT, ACCENT, GROUND, GROUND_2, SKY_TOP, SKY_HORIZON, LIGHT = range(7)


# ---- scenes -------------------------------------------------------------------------------------


def sample_scenes(n: int, seed: int, split: str) -> pd.DataFrame:
    """Draws a table of scenes. The first rows do not depend on n.

    Args:
        n: how many; row i shows CLASSES[i % 10], everything else is uniform and independent.
        seed: what they are drawn from.
        split: each of `SPLITS` has a random stream of its own.

    Returns:
        One row per scene. Columns: class, background, palette (names) and the float factors.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    uniform = rng.random((n, 2 + len(_RANGES)))  # a row per scene: the first do not depend on n
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

    def mask(scene: dict) -> Floats:
        shape, _, eye, camera, *_ = _arguments(scene)
        return object_share(shape, eye, camera, size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        masks = list(pool.map(mask, scenes.to_dict("records")))
    return np.stack(masks) if masks else np.zeros((0, size, size))


def _arguments(scene: dict) -> tuple[int, int, Floats, Floats, Floats, Floats, Floats]:
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


def write_scenes(folder: Path, n_database: int = 1000, n_queries: int = 200, seed: int = 0) -> None:
    """Writes database/ and queries/ (JPEG), masks/ of the queries' objects and manifest.csv.

    The JPEG files have no chroma subsampling, which would cost the slim network 0.03 of P@5 in
    class. A mask is white where the object covers at least half of a pixel.
    """
    tables = []
    for part, split, n in [("database", "database", n_database), ("queries", "query", n_queries)]:
        table = sample_scenes(n, seed, split)
        files = [f"{part}/{name}/{name}_{i:05d}.jpg" for i, name in enumerate(table["class"])]
        table.insert(0, "file", files)
        tables.append(table)
    scenes = pd.concat(tables)
    for file in scenes["file"]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, len(scenes), 64), desc="scenes", unit=" blocks"):
        block = scenes.iloc[start : start + 64]
        for file, image in zip(block["file"], render_scenes(block)):
            Image.fromarray(image).save(folder / file, quality=85, subsampling=0)
    queries = tables[1]
    for file, mask in zip(queries["file"], object_masks(queries)):
        path = (folder / "masks" / file).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask >= 0.5).save(path, optimize=True)
    scenes.to_csv(folder / "manifest.csv", index=False, lineterminator="\n")


# ---- shapes: the signed distance from (x, y, z), or a lower bound of it -------------------------
# Sphere tracing needs no more. r is the distance from the vertical axis.


@njit(cache=True)
def _smooth_max(a: float, b: float, width: float) -> float:
    """Maximum with its crease rounded over a width; never below max(a, b)."""
    overlap = max(width - abs(a - b), 0.0)
    return max(a, b) + overlap * overlap / (4 * width)


@njit(cache=True)
def _cylinder(r: float, y: float, radius: float, low: float, high: float, rounding: float) -> float:
    """Upright cylinder with rounded rims."""
    return _smooth_max(r - radius, abs(y - 0.5 * (low + high)) - 0.5 * (high - low), rounding)


@njit(cache=True)
def _cube(x: float, y: float, z: float) -> float:
    beyond_x = max(abs(x) - 0.6, 0.0)
    beyond_y = max(abs(y - 0.7) - 0.6, 0.0)
    beyond_z = max(abs(z) - 0.6, 0.0)
    return math.sqrt(beyond_x * beyond_x + beyond_y * beyond_y + beyond_z * beyond_z) - 0.1


@njit(cache=True)
def _ring(x: float, y: float, z: float) -> float:
    from_circle = math.sqrt(x * x + (y - 0.87) ** 2) - 0.61
    return math.sqrt(from_circle * from_circle + z * z) - 0.26


@njit(cache=True)
def _can(r: float, y: float) -> float:
    body = _cylinder(r, y, 0.56, 0.02, 1.62, 0.1)
    lid = _cylinder(r, y, 0.46, 1.57, 1.8, 0.03)
    rim = math.sqrt((r - 0.51) ** 2 + (abs(y - 0.82) - 0.78) ** 2) - 0.05
    return min(max(body, -lid), rim)


@njit(cache=True)
def _cone(x: float, y: float, z: float, r: float) -> float:
    slope = max((r - 0.56) * 0.956 + y * 0.293, -y)  # 0.5 narrower over 1.63
    side = _smooth_max(slope, y - 1.68, 0.06)
    square = _smooth_max(abs(x) - 0.64, abs(z) - 0.64, 0.15)
    plate = _smooth_max(square, abs(y - 0.06) - 0.06, 0.04)
    return min(side, plate)


@njit(cache=True)
def _diamond(x: float, y: float, z: float) -> float:
    e = 0.0012  # rounds the edges, which would glitter otherwise
    width = math.sqrt(x * x + e) + math.sqrt(z * z + e)
    return width * 0.609 + math.sqrt((y - 0.96) ** 2 + e) * 0.508 - 0.525


@njit(cache=True)
def _star(x: float, y: float, z: float) -> float:
    # Reflected into a tenth of the plane (mirrors at 108, 36 and 0 degrees from the top), where
    # the outline is one line.
    a = abs(x)
    b = y - 0.77
    behind = 2 * max(-0.309017 * a - 0.951057 * b, 0.0)
    a += 0.309017 * behind
    b += 0.951057 * behind
    behind = 2 * max(0.809017 * a - 0.587785 * b, 0.0)
    a = abs(a - 0.809017 * behind)
    b += 0.587785 * behind
    outline = (b - 0.95) * 0.4236 + a * 0.9058
    return _smooth_max(outline, abs(z) - 0.24, 0.12)


@njit(cache=True)
def _mug(x: float, y: float, z: float, r: float) -> float:
    outside = _cylinder(r, y, 0.6, 0.0, 1.4, 0.12)
    inside = _cylinder(r, y, 0.5, 0.14, 2.5, 0.2)
    wall = _smooth_max(outside, -inside, 0.06)
    from_ellipse = math.sqrt((x - 0.62) ** 2 * 1.3 + (y - 0.72) ** 2) - 0.4
    handle = max(math.sqrt(from_ellipse * from_ellipse + z * z) - 0.1, 0.55 - r)
    return min(wall, handle * 0.9)


@njit(cache=True)
def _pawn(r: float, y: float) -> float:
    base = _cylinder(r, y, 0.58, 0.0, 0.2, 0.14)
    profile = r - 0.17 - 0.33 * math.exp(-3.2 * max(y - 0.1, 0.0))
    body = max(profile, abs(y - 0.6) - 0.6) * 0.75
    collar = _cylinder(r, y, 0.34, 1.07, 1.18, 0.1)
    head = math.sqrt(r * r + (y - 1.42) ** 2) - 0.32
    return min(min(base, body), min(collar, head))


@njit(cache=True)
def _mushroom(r: float, y: float) -> float:
    stem = _cylinder(r, y, 0.2 + 0.1 * (y - 0.5) ** 2, 0.0, 1.0, 0.1) * 0.9
    cap = _smooth_max(math.sqrt(r * r + (y - 0.78) ** 2) - 0.86, 0.8 - y + 0.1 * r, 0.16)
    return min(stem, cap)


@njit(cache=True)
def _distance(shape: int, x: float, y: float, z: float) -> float:
    r = math.sqrt(x * x + z * z)
    if shape == BALL:
        return math.sqrt(r * r + (y - 0.85) ** 2) - 0.85
    if shape == CUBE:
        return _cube(x, y, z)
    if shape == RING:
        return _ring(x, y, z)
    if shape == CAN:
        return _can(r, y)
    if shape == CONE:
        return _cone(x, y, z, r)
    if shape == DIAMOND:
        return _diamond(x, y, z)
    if shape == STAR:
        return _star(x, y, z)
    if shape == MUG:
        return _mug(x, y, z, r)
    if shape == PAWN:
        return _pawn(r, y)
    return _mushroom(r, y)


# ---- accents: where an object has its second colour ---------------------------------------------


@njit(cache=True)
def _mushroom_spots(x: float, y: float, z: float, r: float) -> bool:
    """Spots in two rows and one at the top; the stem and the gills too."""
    if (r < 0.3 and y < 0.85) or y < 0.83:
        return True
    turn = math.atan2(z, x) * 5 / math.pi
    height = math.atan2(y - 0.78, r)
    if height < 0.75:
        turn = turn / 2
        wide = 1.26
        middle = 0.42
    else:
        turn = turn / 2 * 0.8 + 0.3
        wide = 1.57
        middle = 0.95
    across = (turn - math.floor(turn) - 0.5) * wide * math.cos(height)
    return across * across + (height - middle) ** 2 < 0.028 or height > 1.38


@njit(cache=True)
def _is_accent(shape: int, x: float, y: float, z: float) -> bool:
    r = math.sqrt(x * x + z * z)
    if shape == BALL:
        return math.floor(math.atan2(z, x) * 3 / math.pi) % 2 == 0 or abs(y - 0.85) > 0.81
    if shape == CUBE:
        return min(min(abs(x), abs(z)), abs(y - 0.7)) < 0.09
    if shape == RING:
        return math.floor(math.atan2(x, y - 0.87) * 6 / math.pi) % 3 == 0
    if shape == CAN:
        return (r > 0.52 and 0.5 < y < 1.15) or y > 1.5
    if shape == CONE:
        return 0.5 < y < 0.8 or 1.05 < y < 1.3
    if shape == STAR:
        return x * x + (y - 0.77) ** 2 < 0.2 * 0.2
    if shape == MUG:
        return r < 0.545 or (0.5 < y < 0.6 and r < 0.65)
    if shape == PAWN:
        return y < 0.1
    if shape == MUSHROOM:
        return _mushroom_spots(x, y, z, r)
    return False


# ---- rays ---------------------------------------------------------------------------------------


@njit(cache=True)
def _trace(shape: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """The length of the ray from o along d to the object, or -1."""
    cy = oy - MIDDLE
    b = ox * dx + cy * dy + oz * dz
    inside = b * b - (ox * ox + cy * cy + oz * oz) + RADIUS * RADIUS
    if inside < 0:
        return -1.0
    t = max(-b - math.sqrt(inside), 0.0)
    end = -b + math.sqrt(inside)
    for _ in range(64):
        d = _distance(shape, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < 0.002:
            return t
        t += d
        if t > end:
            return -1.0
    return -1.0


@njit(cache=True)
def _light(shape: int, ox: float, oy: float, oz: float, sun: Floats) -> float:
    """Share of the sun that reaches a point: a near miss on the way dims it, the penumbra."""
    cy = oy - MIDDLE
    b = ox * sun[0] + cy * sun[1] + oz * sun[2]
    inside = b * b - (ox * ox + cy * cy + oz * oz) + (RADIUS + 0.25) ** 2
    if inside < 0 or -b + math.sqrt(inside) < 0:
        return 1.0
    light = 1.0
    t = max(-b - math.sqrt(inside), 0.03)
    end = -b + math.sqrt(inside)
    for _ in range(32):
        d = _distance(shape, ox + t * sun[0], oy + t * sun[1], oz + t * sun[2])
        # The light is a disc: a miss by d counts, and so does a graze.
        light = min(light, 0.5 + 6 * d / t)
        t += max(d, 0.03)
        if light < 0.0 or t > end:
            break
    light = max(light, 0.0)
    return light * light * (3 - 2 * light)


# ---- grounds: (share of the second colour, height) at (u, v), both 0 to 1 -----------------------


@njit(cache=True)
def _hash(i: int, j: int) -> float:
    """Pseudo-random number in [0, 1) of a lattice point; integers only, so the same everywhere."""
    h = (i * 374761393 + j * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216


@njit(cache=True)
def _noise(u: float, v: float) -> float:
    """Value noise: lattice numbers, smoothly interpolated."""
    column = math.floor(u)
    row = math.floor(v)
    a = u - column
    b = v - row
    a = a * a * (3 - 2 * a)
    b = b * b * (3 - 2 * b)
    i = int(column)
    j = int(row)
    low = _hash(i, j) * (1 - a) + _hash(i + 1, j) * a
    high = _hash(i, j + 1) * (1 - a) + _hash(i + 1, j + 1) * a
    return low * (1 - b) + high * b


@njit(cache=True)
def _step(low: float, high: float, x: float) -> float:
    """Smoothstep: 0 below low, 1 above high."""
    x = min(max((x - low) / (high - low), 0.0), 1.0)
    return x * x * (3 - 2 * x)


@njit(cache=True)
def _bricks(u: float, v: float) -> tuple[float, float]:
    row = math.floor(v / 0.36)
    u = u / 0.84 + 0.5 * (row % 2)
    column = math.floor(u)
    edge_u = 0.42 - abs(u - column - 0.5) * 0.84
    edge = min(edge_u, 0.18 - abs(v - row * 0.36 - 0.18))  # to the middle of the mortar
    tone = 0.32 * _hash(int(column), int(row)) + 0.12 * _noise(u * 15, v * 18)
    brick = _step(0.018, 0.03, edge)
    return 1 - brick * (1 - tone), _step(0.01, 0.07, edge)


@njit(cache=True)
def _planks(u: float, v: float) -> tuple[float, float]:
    row = math.floor(u / 0.4)
    v = v + 3.1 * _hash(int(row), 5)
    column = math.floor(v / 2.6)
    edge = min(0.2 - abs(u - row * 0.4 - 0.2), 1.3 - abs(v - column * 2.6 - 1.3))
    wave = u * 9 + 2.2 * _noise(u * 2.5 + 17 * row, v * 0.8 + 9 * column)
    grain = 0.6 * abs(2 * (wave - math.floor(wave)) - 1) + 0.4 * _noise(u * 42, v * 2.2)
    plank = _step(0.004, 0.016, edge)
    return plank * (0.15 + 0.45 * _hash(int(row), int(column) + 77) + 0.4 * grain), plank


@njit(cache=True)
def _marble(u: float, v: float) -> tuple[float, float]:
    a = _noise(u * 1.1, v * 1.1)
    b = _noise(u * 2.3 + 40, v * 2.3)
    c = _noise(u * 5.1, v * 5.1 + 40)
    d = _noise(u * 11, v * 11)
    vein = abs(math.sin(1.7 * u + 0.8 * v + 5.5 * a + 2.6 * b + 1.3 * c + 0.6 * d))
    return min(1.0, 0.12 + 0.98 * vein**0.55 - 0.25 * b * c), 0.0


@njit(cache=True)
def _dots(u: float, v: float) -> tuple[float, float]:
    row = math.floor(v / 0.45)
    u = u / 0.52 + 0.5 * (row % 2)
    a = (u - math.floor(u) - 0.5) * 0.52
    b = v - row * 0.45 - 0.225
    return (1.0 if a * a + b * b < 0.15 * 0.15 else 0.0), 0.0


@njit(cache=True)
def _hexagons(u: float, v: float) -> tuple[float, float]:
    """Two staggered rectangular lattices: the nearer centre is the tile's."""
    width = 0.62
    height = 0.62 * math.sqrt(3.0)
    i = math.floor(u / width + 0.5)
    j = math.floor(v / height + 0.5)
    a = abs(u - i * width)
    b = abs(v - j * height)
    k = math.floor(u / width)
    m = math.floor(v / height)
    c = abs(u - (k + 0.5) * width)
    d = abs(v - (m + 0.5) * height)
    if a * a + b * b < c * c + d * d:
        number = _hash(int(2 * i), int(2 * j))
    else:
        a = c
        b = d
        number = _hash(int(2 * k + 1), int(2 * m + 1))
    edge = 0.31 - max(a, 0.5 * a + 0.8660254 * b)
    tile = _step(0.014, 0.026, edge)
    return 1 - tile * (1 - 0.7 * math.floor(3 * number) / 2.0), _step(0.01, 0.06, edge)


@njit(cache=True)
def _pebbles(u: float, v: float) -> tuple[float, float]:
    """Cells of a jittered lattice (Worley 1996), each with a tone of its own."""
    u = u / 0.3
    v = v / 0.3
    i = int(math.floor(u))
    j = int(math.floor(v))
    nearest = 9.0
    second = 9.0
    tone = 0.0
    for m in range(j - 1, j + 2):
        for k in range(i - 1, i + 2):
            number = _hash(k, m)
            a = k + 0.15 + 0.7 * number - u
            b = m + 0.15 + 0.7 * _hash(k, m + 999) - v
            d = a * a + b * b
            if d < nearest:
                second = nearest
                nearest = d
                tone = number
            elif d < second:
                second = d
    edge = math.sqrt(second) - math.sqrt(nearest)
    stone = _step(0.04, 0.16, edge)
    return stone * (0.2 + 0.8 * _hash(int(tone * 4096), 3)), _step(0.0, 0.75, edge)


@njit(cache=True)
def _texture(ground: int, u: float, v: float) -> tuple[float, float]:
    if ground == CHECKER:
        return float((math.floor(u / 0.55) + math.floor(v / 0.55)) % 2), 0.0
    if ground == STRIPES:
        return float(math.floor(u / 0.27) % 2), 0.0
    if ground == BRICKS:
        return _bricks(u, v)
    if ground == PLANKS:
        return _planks(u, v)
    if ground == MARBLE:
        return _marble(u, v)
    if ground == DOTS:
        return _dots(u, v)
    if ground == HEXAGONS:
        return _hexagons(u, v)
    return _pebbles(u, v)


# ---- picture: every function adds the light (3,) that one ray sees to `out` ---------------------


@njit(cache=True)
def _add_object(
    shape: int,
    eye: Floats,
    dx: float,
    dy: float,
    dz: float,
    t: float,
    sun: Floats,
    colors: Floats,
    out: Floats,
) -> None:
    """The object, t away along the ray."""
    x = eye[0] + t * dx
    y = eye[1] + t * dy
    z = eye[2] + t * dz
    # The normal: the gradient of the distance, from the corners of a tetrahedron.
    e = 0.004
    a = _distance(shape, x + e, y - e, z - e)
    b = _distance(shape, x - e, y - e, z + e)
    c = _distance(shape, x - e, y + e, z - e)
    d = _distance(shape, x + e, y + e, z + e)
    nx = a - b - c + d
    ny = -a - b + c + d
    nz = -a + b - c + d
    norm = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx /= norm
    ny /= norm
    nz /= norm

    facing = max(-(nx * dx + ny * dy + nz * dz), 0.0)
    direct = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0)
    if direct > 0:
        direct *= _light(shape, x + 0.02 * nx, y + 0.02 * ny, z + 0.02 * nz, sun)
    # A crease is darker, and so is the foot.
    space = _distance(shape, x + 0.2 * nx, y + 0.2 * ny, z + 0.2 * nz)
    openness = min(max(space / 0.2, 0.25), 1.0)
    openness *= 0.45 + 0.55 * _step(0.0, 0.7, y)
    hx = sun[0] - dx
    hy = sun[1] - dy
    hz = sun[2] - dz
    half = (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
    gloss = 0.55 * max(half, 0.0) ** 48 * min(4 * direct, 1.0)
    mirror = (0.03 + 0.35 * (1 - facing) ** 5) * openness
    above = 0.5 + 0.5 * ny  # share of the sky in what lights the point, the rest is ground
    reflected = _step(-0.15, 0.35, dy + 2 * facing * ny)  # the same for what it mirrors

    tone = colors[OBJECT]
    if _is_accent(shape, x, y, z):
        tone = colors[ACCENT]
    light = colors[LIGHT]
    for i in range(3):
        ground = colors[GROUND, i]
        sky = colors[SKY_HORIZON, i]
        below = (1 - above) * 0.3 * (0.5 * ground + 0.5 * colors[GROUND_2, i])
        ambient = above * (0.3 * sky + 0.14) + below
        c = tone[i] * (0.95 * direct * light[i] + openness * ambient) + gloss * light[i]
        out[i] += c + mirror * (reflected * sky + (1 - reflected) * ground)


@njit(cache=True)
def _add_ground(
    shape: int,
    background: int,
    eye: Floats,
    dx: float,
    dy: float,
    dz: float,
    sun: Floats,
    texture: Floats,
    colors: Floats,
    out: Floats,
) -> None:
    """The ground, with the object's shadow on it."""
    cosine = texture[0]
    sine = texture[1]
    t = -eye[1] / dy
    x = eye[0] + t * dx
    z = eye[2] + t * dz
    u = texture[2] * (cosine * x + sine * z) + texture[3]
    v = texture[2] * (cosine * z - sine * x) + texture[4]
    share, height = _texture(background, u, v)
    # Half a pixel's length on the ground: finer than that, only the mean is left.
    blur = _step(0.06, 0.5, 0.0022 * t / -dy)
    share += blur * (0.45 - share)
    direct = sun[1]
    has_joints = background == BRICKS or background == PLANKS or background == HEXAGONS
    if has_joints or background == PEBBLES:
        # Relief: darker where the ground rises towards the sun.
        e = 0.02
        towards_u = u + e * (cosine * sun[0] + sine * sun[2])
        towards_v = v + e * (cosine * sun[2] - sine * sun[0])
        _, higher = _texture(background, towards_u, towards_v)
        direct = max(direct + (1 - blur) * 1.6 * (height - higher), 0.0)
    direct *= _light(shape, x, 0.0, z, sun)
    openness = 1.0
    if x * x + z * z < 4:  # contact shadow; farther off it does not show
        openness -= 0.6 * math.exp(-5 * max(_distance(shape, x, 0.0, z), 0.0))
    grain = 0.94 + 0.12 * (1 - blur) * _noise(u * 30, v * 30)
    haze = 1 - math.exp(-((t / 26) ** 2))
    for i in range(3):
        sky = colors[SKY_HORIZON, i]
        base = colors[GROUND, i] + share * (colors[GROUND_2, i] - colors[GROUND, i])
        base *= grain * (0.95 * direct * colors[LIGHT, i] + openness * (0.25 * sky + 0.14))
        out[i] += base + haze * (sky - base)


@njit(cache=True)
def _add_ray(
    shape: int,
    background: int,
    eye: Floats,
    dx: float,
    dy: float,
    dz: float,
    sun: Floats,
    texture: Floats,
    colors: Floats,
    out: Floats,
) -> None:
    """What the ray from the eye along (dx, dy, dz) meets first."""
    t = _trace(shape, eye[0], eye[1], eye[2], dx, dy, dz)
    if t >= 0:
        _add_object(shape, eye, dx, dy, dz, t, sun, colors, out)
    elif dy < -1e-3:
        _add_ground(shape, background, eye, dx, dy, dz, sun, texture, colors, out)
    else:
        height = _step(0.0, 0.4, dy)
        for i in range(3):
            sky = colors[SKY_HORIZON, i]
            out[i] += sky + height * (colors[SKY_TOP, i] - sky)


@njit(cache=True)
def _ray(
    camera: Floats, size: int, row: int, column: int, sample: int
) -> tuple[float, float, float]:
    """The direction of one of a pixel's 2 x 2 rays; the field of view is 40 degrees."""
    wide = math.tan(math.radians(20.0))
    a = wide * ((column + 0.25 + 0.5 * (sample % 2)) * 2 / size - 1)
    b = wide * (1 - (row + 0.25 + 0.5 * (sample // 2)) * 2 / size)
    dx = a * camera[0, 0] + b * camera[1, 0] - camera[2, 0]
    dy = a * camera[0, 1] + b * camera[1, 1] - camera[2, 1]
    dz = a * camera[0, 2] + b * camera[1, 2] - camera[2, 2]
    norm = math.sqrt(dx * dx + dy * dy + dz * dz)
    return dx / norm, dy / norm, dz / norm


@njit(cache=True, nogil=True)
def render_scene(
    shape: int,
    background: int,
    eye: Floats,
    camera: Floats,
    sun: Floats,
    texture: Floats,
    colors: Floats,
    size: int,
) -> NDArray[np.uint8]:
    """Renders one scene, the mean of 2 x 2 rays in every pixel; the field of view is 40 degrees.

    Args:
        shape: the object, one of `BALL` to `MUSHROOM`.
        background: the ground, one of `CHECKER` to `PEBBLES`.
        eye: position of the camera, (3,).
        camera: its directions right, up and back, (3, 3).
        sun: direction to the sun, (3,).
        texture: cosine and sine of the ground's angle, its scale, its offsets u and v, (5,).
        colors: linear light of `OBJECT` to `LIGHT`, (7, 3).
        size: side of the picture.

    Returns:
        The picture, (size, size, 3) uint8.
    """
    image = np.empty((size, size, 3), np.uint8)
    color = np.empty(3)
    for row in range(size):
        for column in range(size):
            color[:] = 0.0
            for sample in range(4):
                dx, dy, dz = _ray(camera, size, row, column, sample)
                _add_ray(shape, background, eye, dx, dy, dz, sun, texture, colors, color)
            for i in range(3):
                image[row, column, i] = int(255 * min(color[i] / 4, 1.0) ** (1 / 2.2) + 0.5)
    return image


@njit(cache=True, nogil=True)
def object_share(shape: int, eye: Floats, camera: Floats, size: int) -> NDArray[np.float64]:
    """How much of every pixel the object covers, by the rays of `render_scene`.

    Args:
        shape: as in `render_scene`.
        eye: as in `render_scene`.
        camera: as in `render_scene`.
        size: side of the picture.

    Returns:
        The shares, (size, size) float from 0 to 1.
    """
    share = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            for sample in range(4):
                dx, dy, dz = _ray(camera, size, row, column, sample)
                if _trace(shape, eye[0], eye[1], eye[2], dx, dy, dz) >= 0:
                    share[row, column] += 0.25
    return share


if __name__ == "__main__":
    write_scenes(Path(sys.argv[1]))
