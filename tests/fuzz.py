"""Damaged image and fvecs files: valid ones, and what bit rot or malice makes of them.

test_hostile.py tries a few hundred; by hand, in a process with a memory limit, any number: python tests/fuzz.py 20000 [seed]
"""

import io
import os
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
KINDS = ["flip", "field", "cut", "insert", "remove", "repeat", "swap"]
SECONDS = 30  # an input that takes longer hangs


def seeds():
    """{name: bytes}: small valid files in every format that is read, in several of its variants, and one of vectors."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8))
    rgba, gray, palette = rgb.convert("RGBA"), rgb.convert("L"), rgb.quantize(16)
    rgba.putalpha(gray)
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112], exif[0x010E] = 6, "turned"
    text.add_text("comment", "c" * 200, zip=True)
    frames = {"save_all": True, "append_images": [gray.convert("RGB"), rgb.rotate(90)]}
    variants = {
        "jpg": (rgb, "JPEG", {"exif": exif}), "progressive.jpg": (rgb, "JPEG", {"progressive": True, "icc_profile": bytes(300)}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}), "gray.jpg": (gray, "JPEG", {}), "mpo.jpg": (rgb, "MPO", frames),
        "png": (rgb, "PNG", {"exif": exif, "pnginfo": text, "icc_profile": bytes(300)}), "alpha.png": (rgba, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3}), "16.png": (Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80), "PNG", {}),
        "animated.png": (rgb, "PNG", frames), "gif": (palette, "GIF", {"comment": b"c" * 300}), "animated.gif": (rgb, "GIF", frames),
        "tif": (rgb, "TIFF", {"exif": exif}), "lzw.tif": (rgb, "TIFF", {"compression": "tiff_lzw"}), "jpeg.tif": (rgb, "TIFF", {"compression": "jpeg"}),
        "zip.tif": (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}), "fax.tif": (gray.convert("1"), "TIFF", {"compression": "group4"}),
        "pages.tif": (rgb, "TIFF", frames), "webp": (rgb, "WEBP", {"exif": exif}), "lossless.webp": (rgba, "WEBP", {"lossless": True}),
        "animated.webp": (rgb, "WEBP", frames), "bmp": (rgb, "BMP", {}), "palette.bmp": (palette, "BMP", {}), "ppm": (rgb, "PPM", {}),
        "jp2": (rgb, "JPEG2000", {}), "avif": (rgb, "AVIF", {"exif": exif})}
    files = {}
    for name, (image, format, options) in variants.items():
        out = io.BytesIO()
        if "append_images" in options:
            options = options | {"append_images": [other.copy() for other in options["append_images"]]}
        image.copy().save(out, format, **options)  # saving leaves its settings behind in an image
        files[name] = out.getvalue()
    files["rle.bmp"] = run_length_bmp(32, 24, b"\x20\x05\x00\x02\x04\x02" * 30 + b"\x00\x01")
    files["plain.ppm"] = b"P3 4 3 255\n" + b"12 255 0 " * 12
    files["fvecs"] = b"".join(struct.pack("<i6f", 6, *row) for row in rng.random((5, 6)))
    return files


def run_length_bmp(width, height, data):
    """A BMP of 8 bits with run-length encoding."""
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0) + \
        bytes(range(256)) * 4 + data


def damage(data, changes):
    """Bytes after some changes. changes: (kind of KINDS, where in [0, 1], number >= 0) each. A PNG's checksums are put right again."""
    for kind, where, number in changes:
        at, data = int(where * len(data)), bytearray(data)
        if kind == "flip" and at < len(data):
            data[at] ^= 1 + number % 255
        elif kind == "field":  # a length, a count, a size
            size, extreme = (1, 2, 4)[number % 3], EXTREMES[number // 3 % len(EXTREMES)]
            data[at:at + size] = (extreme % 256 ** size).to_bytes(size, "big" if number // 100 % 2 else "little")
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes([number % 256]) * (1 + number % 999)
        elif kind == "remove":
            del data[at:at + 1 + number % 40]
        elif kind == "repeat":
            data[at:at] = data[at:at + 64] * (1 + number % 20)
        elif kind == "swap":
            data[at:at + 8] = data[at:at + 8][::-1]
        data = bytes(data)
    return _checksums(data) if data.startswith(b"\x89PNG\r\n\x1a\n") else data


def _checksums(png):
    out, at = [png[:8]], 8
    while at + 12 <= len(png):
        n = int.from_bytes(png[at:at + 4], "big")
        body = png[at + 4:at + 8 + n]
        out.append(png[at:at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + n
    return b"".join(out) + png[at:]


def read(path):
    """"read" or "refused", as the package reads a file of images or vectors. Anything else it raises is a fault."""
    import cbir
    if Path(path).suffix == ".fvecs":
        try:
            vectors = cbir.read_fvecs(path)
            assert vectors.ndim == 2 and vectors.dtype == np.float32 and vectors.nbytes < os.path.getsize(path)
            vectors.sum()
            return "read"
        except ValueError:
            return "refused"
    try:
        image = cbir.open_image(path)
    except cbir.UnreadableImage as error:
        assert str(error).isprintable() and len(str(error)) < 300
        return "refused"
    assert image.mode == "RGB" and image.width * image.height <= 100_000_000
    assert cbir.resize_transform(32, crop=True)(image).shape == (3, 32, 32)
    return "read"


def _child(first, last, seed, folder):
    """Reads damaged files first..last, a line each, in at most 2.5 GB more memory than the imports take."""
    import cbir  # noqa: F401
    files = [*seeds().items()]
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2_500_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 ** 8, 10 ** 8))
    for i in range(first, last):
        rng = random.Random(f"{seed} {i}")
        name, data = rng.choice(files)
        path = Path(folder, f"{i}.{name}")
        path.write_bytes(damage(data, [(rng.choice(KINDS), rng.random() ** 2, rng.randrange(10 ** 6)) for _ in range(rng.choice([1, 1, 2, 3, 8]))]))
        print("try", path.name, flush=True)
        start = time.perf_counter()
        try:
            result = read(path)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}".replace("\n", " ")
        print("end", round(time.perf_counter() - start, 3), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, result, flush=True)
        if result in ("read", "refused"):
            path.unlink()


def main(n, seed=0):
    """Tries n inputs and prints what became of them; those that were neither read nor refused stay in a folder."""
    folder, counts, faults, slowest, memory, baseline, i = tempfile.mkdtemp(prefix="fuzz-"), {}, [], (0, ""), 0, None, 0
    start = time.time()
    while i < n:
        child = subprocess.Popen([sys.executable, __file__, "child", str(i), str(n), str(seed), folder], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, bufsize=0)  # libtiff has much to say
        name = "start"
        while True:
            ready = select.select([child.stdout], [], [], SECONDS if name != "start" else 300)[0]
            line = child.stdout.readline().decode().split(" ", 3) if ready else None
            if not ready or line == [""]:
                child.kill()
                if ready and child.wait() == 0:
                    break
                if name == "start":
                    sys.exit("it does not start: try the child by hand")
                faults.append((name, "hangs" if not ready else f"died with {child.wait()}"))
                i += 1
                break
            if line[0] == "try":
                name = line[1].strip()
                continue
            i += 1
            slowest, memory, baseline = max(slowest, (float(line[1]), name)), max(memory, int(line[2])), baseline or int(line[2])
            result = line[3].strip()
            key = (name.split(".", 1)[1], result) if result in ("read", "refused") else None
            counts[key] = counts.get(key, 0) + 1
            if key is None:
                faults.append((name, result))
    for kind in sorted({k[0] for k in counts if k}):
        print(f"{kind:16} {counts.get((kind, 'read'), 0):6} read {counts.get((kind, 'refused'), 0):6} refused")
    print(f"{n} inputs in {time.time() - start:.0f} s: {sum(v for k, v in counts.items() if k and k[1] == 'read')} read, "
          f"{sum(v for k, v in counts.items() if k and k[1] == 'refused')} refused, {len(faults)} faults; slowest {slowest[0]} s ({slowest[1]}), "
          f"peak memory {memory} MB, of which the imports {baseline}")
    for name, fault in faults:
        print(f"FAULT {folder}/{name}: {fault}")
    return len(faults)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        _child(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        sys.exit(main(*map(int, sys.argv[1:])) > 0)
