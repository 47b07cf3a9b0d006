"""Rendering the scenes: signed-distance functions found by sphere tracing."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


# ---- shapes: SDFs, y upwards, standing on y = 0, inside the sphere of radius _RADIUS round (0, _MIDDLE, 0) ------------------

_MIDDLE, _RADIUS = 0.85, 1.32
_BALL, _CUBE, _RING, _CAN, _CONE, _DIAMOND, _STAR, _MUG, _PAWN, _MUSHROOM = range(10)


@njit(cache=True)
def _smooth_max(a: float, b: float, k: float) -> float:
    """Maximum with its crease rounded over a width k; never below max(a, b)."""
    h = max(k - abs(a - b), 0.0)
    return max(a, b) + h * h / (4 * k)


@njit(cache=True)
def _cylinder(r: float, y: float, radius: float, low: float, high: float, k: float) -> float:
    """Upright cylinder with rounded rims; r is the distance from the axis."""
    return _smooth_max(r - radius, abs(y - 0.5 * (low + high)) - 0.5 * (high - low), k)


@njit(cache=True)
def _distance(kind: int, x: float, y: float, z: float) -> float:
    """Signed distance from a point to an object, or a lower bound of it (enough for sphere tracing)."""
    r = math.sqrt(x * x + z * z)
    if kind == _BALL:
        return math.sqrt(r * r + (y - 0.85) ** 2) - 0.85
    if kind == _CUBE:
        a, b, c = max(abs(x) - 0.6, 0.0), max(abs(y - 0.7) - 0.6, 0.0), max(abs(z) - 0.6, 0.0)
        return math.sqrt(a * a + b * b + c * c) - 0.1
    if kind == _RING:
        a = math.sqrt(x * x + (y - 0.87) ** 2) - 0.61
        return math.sqrt(a * a + z * z) - 0.26
    if kind == _CAN:
        body = _cylinder(r, y, 0.56, 0.02, 1.62, 0.1)
        lid = _cylinder(r, y, 0.46, 1.57, 1.8, 0.03)
        rim = math.sqrt((r - 0.51) ** 2 + (abs(y - 0.82) - 0.78) ** 2) - 0.05
        return min(max(body, -lid), rim)
    if kind == _CONE:
        side = _smooth_max(max((r - 0.56) * 0.956 + y * 0.293, -y), y - 1.68, 0.06)  # 0.5 narrower over 1.63
        a, b = abs(x) - 0.64, abs(z) - 0.64
        plate = _smooth_max(_smooth_max(a, b, 0.15), abs(y - 0.06) - 0.06, 0.04)
        return min(side, plate)
    if kind == _DIAMOND:
        e = 0.0012  # rounds the edges, which would glitter otherwise
        return (math.sqrt(x * x + e) + math.sqrt(z * z + e)) * 0.609 + math.sqrt((y - 0.96) ** 2 + e) * 0.508 - 0.525
    if kind == _STAR:
        # reflected into a tenth of the plane (mirrors at 108, 36 and 0 degrees from the top), where the outline is one line
        a, b = abs(x), y - 0.77
        d = 2 * max(-0.309017 * a - 0.951057 * b, 0.0)
        a, b = a + 0.309017 * d, b + 0.951057 * d
        d = 2 * max(0.809017 * a - 0.587785 * b, 0.0)
        a, b = abs(a - 0.809017 * d), b + 0.587785 * d
        outline = (b - 0.95) * 0.4236 + a * 0.9058
        return _smooth_max(outline, abs(z) - 0.24, 0.12)
    if kind == _MUG:
        wall = _smooth_max(_cylinder(r, y, 0.6, 0.0, 1.4, 0.12), -_cylinder(r, y, 0.5, 0.14, 2.5, 0.2), 0.06)
        a = math.sqrt((x - 0.62) ** 2 * 1.3 + (y - 0.72) ** 2) - 0.4
        handle = max(math.sqrt(a * a + z * z) - 0.1, 0.55 - r)
        return min(wall, handle * 0.9)
    if kind == _PAWN:
        base = _cylinder(r, y, 0.58, 0.0, 0.2, 0.14)
        body = max(r - 0.17 - 0.33 * math.exp(-3.2 * max(y - 0.1, 0.0)), abs(y - 0.6) - 0.6) * 0.75
        collar = _cylinder(r, y, 0.34, 1.07, 1.18, 0.1)
        head = math.sqrt(r * r + (y - 1.42) ** 2) - 0.32
        return min(min(base, body), min(collar, head))
    stem = _cylinder(r, y, 0.2 + 0.1 * (y - 0.5) ** 2, 0.0, 1.0, 0.1) * 0.9
    cap = _smooth_max(math.sqrt(r * r + (y - 0.78) ** 2) - 0.86, 0.8 - y + 0.1 * r, 0.16)
    return min(stem, cap)


@njit(cache=True)
def _accent(kind: int, x: float, y: float, z: float) -> bool:
    """Whether a point of the surface carries the object's second colour."""
    r = math.sqrt(x * x + z * z)
    if kind == _BALL:
        return math.floor(math.atan2(z, x) * 3 / math.pi) % 2 == 0 or abs(y - 0.85) > 0.81
    if kind == _CUBE:
        return min(min(abs(x), abs(z)), abs(y - 0.7)) < 0.09
    if kind == _RING:
        return math.floor(math.atan2(x, y - 0.87) * 6 / math.pi) % 3 == 0
    if kind == _CAN:
        return r > 0.52 and (0.5 < y < 1.15) or y > 1.5
    if kind == _CONE:
        return 0.5 < y < 0.8 or 1.05 < y < 1.3
    if kind == _STAR:
        return x * x + (y - 0.77) ** 2 < 0.2 * 0.2
    if kind == _MUG:
        return r < 0.545 or 0.5 < y < 0.6 and r < 0.65
    if kind == _PAWN:
        return y < 0.1
    if kind == _MUSHROOM:
        if r < 0.3 and y < 0.85 or y < 0.83:
            return True
        a, b = math.atan2(z, x) * 5 / math.pi, math.atan2(y - 0.78, r)  # spots in two rows and one at the top
        row = 0 if b < 0.75 else 1
        a = a / 2 + 0.5 * row if row == 0 else a / 2 * 0.8 + 0.3
        a = (a - math.floor(a) - 0.5) * (1.26 if row == 0 else 1.57) * math.cos(b)
        return a * a + (b - (0.42 if row == 0 else 0.95)) ** 2 < 0.028 or b > 1.38
    return False


@njit(cache=True)
def _trace(kind: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Sphere tracing inside the bounding sphere: the length of the ray to the object, or -1."""
    cy = oy - _MIDDLE
    b = ox * dx + cy * dy + oz * dz
    inside = b * b - (ox * ox + cy * cy + oz * oz) + _RADIUS * _RADIUS
    if inside < 0:
        return -1.0
    t, end = max(-b - math.sqrt(inside), 0.0), -b + math.sqrt(inside)
    for _ in range(64):
        d = _distance(kind, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < 0.002:
            return t
        t += d
        if t > end:
            return -1.0
    return -1.0


@njit(cache=True)
def _light(kind: int, ox: float, oy: float, oz: float, sun: Floats) -> float:
    """Share of the sun that reaches a point, 0 to 1: a near miss on the way dims it, which draws the penumbra."""
    cy = oy - _MIDDLE
    b = ox * sun[0] + cy * sun[1] + oz * sun[2]
    inside = b * b - (ox * ox + cy * cy + oz * oz) + (_RADIUS + 0.25) ** 2
    if inside < 0 or -b + math.sqrt(inside) < 0:
        return 1.0
    light, t, end = 1.0, max(-b - math.sqrt(inside), 0.03), -b + math.sqrt(inside)
    for _ in range(32):
        d = _distance(kind, ox + t * sun[0], oy + t * sun[1], oz + t * sun[2])
        light = min(light, 0.5 + 6 * d / t)  # the light is a disc: a miss by d counts, and so does a graze
        t += max(d, 0.03)
        if light < 0.0 or t > end:
            break
    light = max(light, 0.0)
    return light * light * (3 - 2 * light)


# ---- ground: textures as (share of the second colour, height), both 0 to 1 --------------------------------------------------

_CHECKER, _STRIPES, _BRICKS, _PLANKS, _MARBLE, _DOTS, _HEXAGONS, _PEBBLES = range(8)


@njit(cache=True)
def _hash(i: int, j: int) -> float:
    """Pseudo-random number in [0, 1) of a lattice point; integers only, so the same everywhere."""
    h = (i * 374761393 + j * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216


@njit(cache=True)
def _noise(u: float, v: float) -> float:
    """Value noise: lattice numbers, smoothly interpolated."""
    i, j = math.floor(u), math.floor(v)
    a, b = u - i, v - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j = int(i), int(j)
    low = _hash(i, j) * (1 - a) + _hash(i + 1, j) * a
    high = _hash(i, j + 1) * (1 - a) + _hash(i + 1, j + 1) * a
    return low * (1 - b) + high * b


@njit(cache=True)
def _step(low: float, high: float, x: float) -> float:
    """Smoothstep: 0 below low, 1 above high."""
    x = min(max((x - low) / (high - low), 0.0), 1.0)
    return x * x * (3 - 2 * x)


@njit(cache=True)
def _texture(kind: int, u: float, v: float) -> tuple[float, float]:
    if kind == _CHECKER:
        return float((math.floor(u / 0.55) + math.floor(v / 0.55)) % 2), 0.0
    if kind == _STRIPES:
        return float(math.floor(u / 0.27) % 2), 0.0
    if kind == _BRICKS:
        row = math.floor(v / 0.36)
        u = u / 0.84 + 0.5 * (row % 2)
        column = math.floor(u)
        edge = min(0.42 - abs(u - column - 0.5) * 0.84, 0.18 - abs(v - row * 0.36 - 0.18))  # to the middle of the mortar
        tone = 0.32 * _hash(int(column), int(row)) + 0.12 * _noise(u * 15, v * 18)
        brick = _step(0.018, 0.03, edge)
        return 1 - brick * (1 - tone), _step(0.01, 0.07, edge)
    if kind == _PLANKS:
        row = math.floor(u / 0.4)
        v = v + 3.1 * _hash(int(row), 5)
        column = math.floor(v / 2.6)
        edge = min(0.2 - abs(u - row * 0.4 - 0.2), 1.3 - abs(v - column * 2.6 - 1.3))
        w = u * 9 + 2.2 * _noise(u * 2.5 + 17 * row, v * 0.8 + 9 * column)
        grain = 0.6 * abs(2 * (w - math.floor(w)) - 1) + 0.4 * _noise(u * 42, v * 2.2)
        gap = _step(0.004, 0.016, edge)
        return gap * (0.15 + 0.45 * _hash(int(row), int(column) + 77) + 0.4 * grain), gap
    if kind == _MARBLE:
        a, b = _noise(u * 1.1, v * 1.1), _noise(u * 2.3 + 40, v * 2.3)
        c, d = _noise(u * 5.1, v * 5.1 + 40), _noise(u * 11, v * 11)
        vein = abs(math.sin(1.7 * u + 0.8 * v + 5.5 * a + 2.6 * b + 1.3 * c + 0.6 * d))
        return min(1.0, 0.12 + 0.98 * vein ** 0.55 - 0.25 * b * c), 0.0
    if kind == _DOTS:
        row = math.floor(v / 0.45)
        u = u / 0.52 + 0.5 * (row % 2)
        a, b = (u - math.floor(u) - 0.5) * 0.52, v - row * 0.45 - 0.225
        return (1.0 if a * a + b * b < 0.15 * 0.15 else 0.0), 0.0
    if kind == _HEXAGONS:
        # two staggered rectangular lattices: the nearer centre is the tile's
        w, h = 0.62, 0.62 * math.sqrt(3.0)
        i, j = math.floor(u / w + 0.5), math.floor(v / h + 0.5)
        k, m = math.floor(u / w), math.floor(v / h)
        a, b, c, d = abs(u - i * w), abs(v - j * h), abs(u - (k + 0.5) * w), abs(v - (m + 0.5) * h)
        first = a * a + b * b < c * c + d * d
        if not first:
            a, b = c, d
        edge = 0.31 - max(a, 0.5 * a + 0.8660254 * b)
        number = _hash(int(2 * i), int(2 * j)) if first else _hash(int(2 * k + 1), int(2 * m + 1))
        tile = _step(0.014, 0.026, edge)
        return 1 - tile * (1 - 0.7 * math.floor(3 * number) / 2.0), _step(0.01, 0.06, edge)
    u, v = u / 0.3, v / 0.3  # pebbles: cells of a jittered lattice (Worley 1996), each with a tone of its own
    i, j = int(math.floor(u)), int(math.floor(v))
    first, second, tone = 9.0, 9.0, 0.0
    for m in range(j - 1, j + 2):
        for k in range(i - 1, i + 2):
            number = _hash(k, m)
            a, b = k + 0.15 + 0.7 * number - u, m + 0.15 + 0.7 * _hash(k, m + 999) - v
            d = a * a + b * b
            if d < first:
                first, second, tone = d, first, number
            elif d < second:
                second = d
    edge = math.sqrt(second) - math.sqrt(first)
    stone = _step(0.04, 0.16, edge)
    return stone * (0.2 + 0.8 * _hash(int(tone * 4096), 3)), _step(0.0, 0.75, edge)


# ---- picture ----------------------------------------------------------------------------------------------------------------

@njit(cache=True)
def _ray(kind: int, background: int, eye: Floats, dx: float, dy: float, dz: float, sun: Floats, texture: Floats, colors: Floats, out: Floats) -> None:
    """Add the linear-light colour (3,) seen along one ray to `out`."""
    tone, ground, light = colors[0], colors[2], colors[6]
    t = _trace(kind, eye[0], eye[1], eye[2], dx, dy, dz)
    if t >= 0:
        x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
        e = 0.004  # the gradient of the distance, from the corners of a tetrahedron
        a, b = _distance(kind, x + e, y - e, z - e), _distance(kind, x - e, y - e, z + e)
        c, d = _distance(kind, x - e, y + e, z - e), _distance(kind, x + e, y + e, z + e)
        nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
        n = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        nx, ny, nz = nx / n, ny / n, nz / n
        facing = max(-(nx * dx + ny * dy + nz * dz), 0.0)
        direct = max(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0)
        if direct > 0:
            direct *= _light(kind, x + 0.02 * nx, y + 0.02 * ny, z + 0.02 * nz, sun)
        open_ = min(max(_distance(kind, x + 0.2 * nx, y + 0.2 * ny, z + 0.2 * nz) / 0.2, 0.25), 1.0)  # a crease is darker
        open_ *= 0.45 + 0.55 * _step(0.0, 0.7, y)  # and so is the foot
        hx, hy, hz = sun[0] - dx, sun[1] - dy, sun[2] - dz
        half = (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
        gloss = 0.55 * max(half, 0.0) ** 48 * min(4 * direct, 1.0)
        mirror = (0.03 + 0.35 * (1 - facing) ** 5) * open_
        if _accent(kind, x, y, z):
            tone = colors[1]
        above = 0.5 + 0.5 * ny
        reflected = _step(-0.15, 0.35, dy + 2 * facing * ny)
        for i in range(3):
            ambient = above * (0.3 * colors[5, i] + 0.14) + (1 - above) * 0.3 * (0.5 * ground[i] + 0.5 * colors[3, i])
            c = tone[i] * (0.95 * direct * light[i] + open_ * ambient) + gloss * light[i]
            out[i] += c + mirror * (reflected * colors[5, i] + (1 - reflected) * ground[i])
        return
    haze, base = 1.0, 0.0
    if dy < -1e-3:
        t = -eye[1] / dy
        x, z = eye[0] + t * dx, eye[2] + t * dz
        u = texture[2] * (texture[0] * x + texture[1] * z) + texture[3]
        v = texture[2] * (texture[0] * z - texture[1] * x) + texture[4]
        share, height = _texture(background, u, v)
        blur = _step(0.06, 0.5, 0.0022 * t / -dy)  # half a pixel's length on the ground: finer than that, only the mean is left
        share += blur * (0.45 - share)
        direct = sun[1]
        if background == _BRICKS or background == _PLANKS or background == _HEXAGONS or background == _PEBBLES:
            e = 0.02  # relief: darker where the ground rises towards the sun
            _, higher = _texture(background, u + e * (texture[0] * sun[0] + texture[1] * sun[2]),
                                 v + e * (texture[0] * sun[2] - texture[1] * sun[0]))
            direct = max(direct + (1 - blur) * 1.6 * (height - higher), 0.0)
        direct *= _light(kind, x, 0.0, z, sun)
        open_ = 1.0
        if x * x + z * z < 4:  # contact shadow; farther off it does not show
            open_ -= 0.6 * math.exp(-5 * max(_distance(kind, x, 0.0, z), 0.0))
        grain = 0.94 + 0.12 * (1 - blur) * _noise(u * 30, v * 30)
        haze = 1 - math.exp(-((t / 26) ** 2))
        for i in range(3):
            base = ground[i] + share * (colors[3, i] - ground[i])
            base *= grain * (0.95 * direct * light[i] + open_ * (0.25 * colors[5, i] + 0.14))
            out[i] += base + haze * (colors[5, i] - base)
        return
    sky = _step(0.0, 0.4, dy)
    for i in range(3):
        out[i] += colors[5, i] + sky * (colors[4, i] - colors[5, i])


@njit(cache=True, nogil=True)
def _render(kind: int, background: int, eye: Floats, camera: Floats, sun: Floats, texture: Floats, colors: Floats, size: int) -> NDArray[np.uint8]:
    """One scene: (size, size, 3) uint8, the mean of 2 x 2 rays in every pixel, vertical field of view 40 degrees."""
    image = np.empty((size, size, 3), np.uint8)
    color = np.empty(3)
    wide = math.tan(math.radians(20.0))
    for row in range(size):
        for column in range(size):
            color[:] = 0.0
            for sample in range(4):
                a = wide * ((column + 0.25 + 0.5 * (sample % 2)) * 2 / size - 1)
                b = wide * (1 - (row + 0.25 + 0.5 * (sample // 2)) * 2 / size)
                dx = a * camera[0, 0] + b * camera[1, 0] - camera[2, 0]
                dy = a * camera[0, 1] + b * camera[1, 1] - camera[2, 1]
                dz = a * camera[0, 2] + b * camera[1, 2] - camera[2, 2]
                n = math.sqrt(dx * dx + dy * dy + dz * dz)
                _ray(kind, background, eye, dx / n, dy / n, dz / n, sun, texture, colors, color)
            for i in range(3):
                image[row, column, i] = int(255 * min(color[i] / 4, 1.0) ** (1 / 2.2) + 0.5)
    return image
