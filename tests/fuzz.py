"""Damaged image and fvecs files: valid ones, and what bit rot or malice makes of them.

test_hostile.py tries a few hundred, and thousands where slow tests run. By hand, in processes with
a memory limit (on Linux), any number: python tests/fuzz.py 20000 [SEED]
"""

import io
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, PngImagePlugin

EXTREMES = [0, 1, 2, 2**7 - 1, 2**7, 2**8 - 1, 2**15 - 1, 2**15]
EXTREMES += [2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
KINDS = ["flip", "field", "cut", "insert", "remove", "repeat", "swap"]
SECONDS = 30  # an input that takes longer hangs
START = 300  # seconds for a process to import all that it needs
MEMORY = 2_500_000_000  # bytes that a process may take beyond its imports


def seeds():
    """{name: bytes}: small valid files in every format that is read, and one of vectors."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((4, 4, 1)))
    rgb = Image.fromarray(blocks.astype(np.uint8))
    gray = rgb.convert("L")
    palette = rgb.quantize(16)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(gray)
    deep = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "turned"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "c" * 200, zip=True)
    frames = {"save_all": True, "append_images": [gray.convert("RGB"), rgb.rotate(90)]}
    variants = {
        "jpg": (rgb, "JPEG", {"exif": exif}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True, "icc_profile": bytes(300)}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "gray.jpg": (gray, "JPEG", {}),
        "mpo.jpg": (rgb, "MPO", frames),
        "png": (rgb, "PNG", {"exif": exif, "pnginfo": text, "icc_profile": bytes(300)}),
        "alpha.png": (rgba, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "16.png": (deep, "PNG", {}),
        "animated.png": (rgb, "PNG", frames),
        "gif": (palette, "GIF", {"comment": b"c" * 300}),
        "animated.gif": (rgb, "GIF", frames),
        "tif": (rgb, "TIFF", {"exif": exif}),
        "lzw.tif": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, "TIFF", {"compression": "jpeg"}),
        "zip.tif": (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "fax.tif": (gray.convert("1"), "TIFF", {"compression": "group4"}),
        "pages.tif": (rgb, "TIFF", frames),
        "webp": (rgb, "WEBP", {"exif": exif}),
        "lossless.webp": (rgba, "WEBP", {"lossless": True}),
        "animated.webp": (rgb, "WEBP", frames),
        "bmp": (rgb, "BMP", {}),
        "palette.bmp": (palette, "BMP", {}),
        "ppm": (rgb, "PPM", {}),
        "jp2": (rgb, "JPEG2000", {}),
        "avif": (rgb, "AVIF", {"exif": exif}),
    }
    files = {}
    for name, (image, format, options) in variants.items():
        out = io.BytesIO()
        if "append_images" in options:
            others = [other.copy() for other in options["append_images"]]
            options = options | {"append_images": others}
        image.copy().save(out, format, **options)  # saving leaves its settings behind in an image
        files[name] = out.getvalue()
    files["rle.bmp"] = run_length_bmp(32, 24, b"\x20\x05\x00\x02\x04\x02" * 30 + b"\x00\x01")
    files["plain.ppm"] = b"P3 4 3 255\n" + b"12 255 0 " * 12
    files["fvecs"] = b"".join(struct.pack("<i6f", 6, *row) for row in rng.random((5, 6)))
    return files


def run_length_bmp(width, height, data):
    """A BMP of 8 bits with run-length encoding."""
    header = struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + header + about + bytes(range(256)) * 4 + data


def damage(data, changes):
    """Bytes after some changes. A PNG's checksums are put right again.

    Args:
        data: bytes.
        changes: (kind of KINDS, where in [0, 1], number >= 0) each.
    """
    for kind, where, number in changes:
        at = int(where * len(data))
        data = bytearray(data)
        if kind == "flip" and at < len(data):
            data[at] ^= 1 + number % 255
        elif kind == "field":
            size, field = extreme_field(number)
            data[at : at + size] = field
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes([number % 256]) * (1 + number % 999)
        elif kind == "remove":
            del data[at : at + 1 + number % 40]
        elif kind == "repeat":
            data[at:at] = data[at : at + 64] * (1 + number % 20)
        elif kind == "swap":
            data[at : at + 8] = data[at : at + 8][::-1]
        data = bytes(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return correct_checksums(data)
    return data


def extreme_field(number):
    """What a length, a count or a size may be at worst: bytes and how many."""
    size = (1, 2, 4)[number % 3]
    extreme = EXTREMES[number // 3 % len(EXTREMES)]
    order = "big" if number // 100 % 2 else "little"
    return size, (extreme % 256**size).to_bytes(size, order)


def correct_checksums(png):
    out = [png[:8]]
    at = 8
    while at + 12 <= len(png):
        n = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + n]
        out.append(png[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + n
    return b"".join(out) + png[at:]


def read(path):
    """What the package makes of a file of images or vectors: "read" or "refused".

    Anything else it raises is a fault.
    """
    import cbir

    if Path(path).suffix == ".fvecs":
        try:
            vectors = cbir.read_fvecs(path)
        except ValueError:
            return "refused"
        assert vectors.ndim == 2
        assert vectors.dtype == np.float32
        assert vectors.nbytes < os.path.getsize(path)
        vectors.sum()
        return "read"
    try:
        image = cbir.open_image(path)
    except cbir.UnreadableImage as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300
        return "refused"
    assert image.mode == "RGB"
    assert image.width * image.height <= 100_000_000
    assert cbir.resize_transform(32, crop=True)(image).shape == (3, 32, 32)
    return "read"


def write_damaged(i, seed, files, folder):
    """Input i of a seed, in a folder; returns its path."""
    rng = random.Random(f"{seed} {i}")
    name, data = rng.choice(files)
    changes = []
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        changes.append((rng.choice(KINDS), rng.random() ** 2, rng.randrange(10**6)))
    path = Path(folder, f"{i}.{name}")
    path.write_bytes(damage(data, changes))
    return path


def child(first, last, seed, folder):
    """Reads inputs first..last with little memory, and prints two lines about each."""
    import resource  # not on Windows, where `seeds`, `damage` and `read` work as well

    files = [*seeds().items()]
    for name, data in files:  # imports all that reading needs, before the limit holds
        path = Path(folder, f"whole.{name}")
        path.write_bytes(data)
        assert read(path) == "read"
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**8, 10**8))
    for i in range(first, last):
        path = write_damaged(i, seed, files, folder)
        print("try", path.name, flush=True)
        start = time.perf_counter()
        try:
            result = read(path)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}".replace("\n", " ")
        seconds = round(time.perf_counter() - start, 3)
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print("end", seconds, megabytes, result, flush=True)
        if result in ("read", "refused"):
            path.unlink()


class Tally:
    """What became of the inputs so far."""

    def __init__(self, folder):
        self.folder = folder
        self.tried = 0
        self.counts = Counter()  # of (format, result)
        self.faults = []  # (file, what happened)
        self.slowest = (0.0, "")
        self.megabytes = []

    def fault(self, name, what):
        self.tried += 1
        self.faults.append((name, what))

    def end(self, name, seconds, megabytes, result):
        self.slowest = max(self.slowest, (float(seconds), name))
        self.megabytes.append(int(megabytes))
        if result not in ("read", "refused"):
            self.fault(name, result)
            return
        self.tried += 1
        self.counts[name.split(".", 1)[1], result] += 1

    def __str__(self):
        lines = []
        for kind in sorted({kind for kind, _ in self.counts}):
            n_read = self.counts[kind, "read"]
            n_refused = self.counts[kind, "refused"]
            lines.append(f"{kind:16} {n_read:6} read {n_refused:6} refused")
        seconds, name = self.slowest
        lines.append(
            f"{self.tried} inputs, {len(self.faults)} faults; slowest {seconds} s ({name})"
        )
        first, most = self.megabytes[0], max(self.megabytes)
        lines.append(f"peak memory {most} MB, after the first input {first} MB")
        for name, what in self.faults:
            lines.append(f"FAULT {self.folder}/{name}: {what}")
        return "\n".join(lines)


def follow(process, tally):
    """Reads a child's lines until it ends, or hangs and is killed."""
    name = ""
    while True:
        seconds = SECONDS if name else START
        if not select.select([process.stdout], [], [], seconds)[0]:
            process.kill()
            process.wait()
            tally.fault(name, "hangs")
            break
        kind, *about = process.stdout.readline().decode().strip().split(" ", 3) or [""]
        if kind == "try":
            name = about[0]
        elif kind == "end":
            tally.end(name, *about)
        else:
            if process.wait():
                tally.fault(name, f"died with {process.returncode}")
            break
    if not name:
        sys.exit("it does not start: try the child by hand")


def main(n, seed=0):
    """Tries n inputs in processes of their own; those that end in a fault stay in a folder."""
    tally = Tally(tempfile.mkdtemp(prefix="fuzz-"))
    while tally.tried < n:
        numbers = [str(tally.tried), str(n), str(seed)]
        command = [sys.executable, __file__, "child", *numbers, tally.folder]
        quiet = subprocess.DEVNULL  # libtiff has much to say
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, bufsize=0) as process:
            follow(process, tally)
    return tally


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        tally = main(*map(int, sys.argv[1:]))
        print(tally)
        sys.exit(1 if tally.faults else 0)
