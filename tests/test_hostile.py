"""Hostile folders, images and stores are refused: without a crash, a hang, or much memory."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import write_image
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from test_images import png, turned

import cbir
from cbir import images as module
from cbir.common import ROOT

EXTREMES = [n - i for n in (2**7, 2**8, 2**15, 2**16, 2**31, 2**32) for i in (0, 1)] + [0, 1]
KINDS = ["flip", "field", "cut", "insert", "remove"]
CHANGE = st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.integers(0, 10**6))


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def whole_files():
    """{name: bytes}: small valid files in every format that is read."""
    blocks = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((4, 4, 1)))
    rgb = Image.fromarray(blocks.astype(np.uint8))
    gray, palette, rgba = rgb.convert("L"), rgb.quantize(16), rgb.convert("RGBA")
    rgba.putalpha(gray)
    deep = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    exif, icc = turned(6), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "c" * 200, zip=True)
    images = {"cmyk.jpg": rgb.convert("CMYK"), "restarts.jpg": gray, "fax.tif": gray.convert("1")}
    images |= dict.fromkeys(["alpha.png", "zip.tif", "lossless.webp"], rgba) | {"16.png": deep}
    images |= dict.fromkeys(["palette.png", "a.gif", "palette.bmp"], palette)
    options = {"progressive.jpg": {"progressive": True, "icc_profile": icc}}
    options |= {f"a.{suffix}": {"exif": exif} for suffix in ("jpg", "tif", "webp", "avif")}
    options |= {"restarts.jpg": {"restart_marker_blocks": 2}, "palette.png": {"transparency": 3}}
    options |= {"a.png": {"exif": exif, "pnginfo": text, "icc_profile": icc}}
    options |= {"a.gif": {"comment": b"c" * 300}, "lossless.webp": {"lossless": True}}
    compressions = {"lzw": "tiff_lzw", "jpeg": "jpeg", "zip": "tiff_adobe_deflate", "fax": "group4"}
    options |= {f"{name}.tif": {"compression": kind} for name, kind in compressions.items()}
    for name in ["frames.mpo", "frames.png", "frames.gif", "frames.tif", "frames.webp"]:
        options[name] = {"save_all": True, "append_images": [gray.convert("RGB"), rgb.rotate(90)]}
    suffixes, files = Image.registered_extensions(), {}
    for name in [*images, *options, "a.bmp", "a.ppm", "a.jp2"]:
        image = images.get(name, rgb).copy()  # saving leaves its settings behind in an image
        files[name] = encoded(image, suffixes[Path(name).suffix], **options.get(name, {}))
    files["rle.bmp"] = run_length_bmp(32, 24, b"\x20\x05\x00\x02\x04\x02" * 30 + b"\x00\x01")
    files["plain.ppm"] = b"P3 4 3 255\n" + b"12 255 0 " * 12
    return files


def run_length_bmp(width, height, data):
    header = struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + header + about + bytes(range(256)) * 4 + data


def damage(data, changes):
    """Bytes after some changes, each (kind of KINDS, where in [0, 1], number >= 0)."""
    data = bytearray(data)
    for kind, where, number in changes:
        at = int(where * len(data))
        size, order = (1, 2, 4)[number % 3], ("little", "big")[number // 100 % 2]
        extreme = EXTREMES[number // 3 % len(EXTREMES)] % 256**size
        replaced, by = {
            "flip": (1, bytes([number % 256])),
            "field": (size, extreme.to_bytes(size, order)),  # the worst length, count or size
            "cut": (len(data), b""),
            "insert": (0, bytes([number % 256]) * (1 + number % 999)),
            "remove": (1 + number % 40, b""),
        }[kind]
        data[at : at + replaced] = by
    return bytes(data)


WHOLE = whole_files()


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=15)
@example([])
@given(st.lists(CHANGE, min_size=1, max_size=8))
def test_damaged_files_are_read_or_refused(tmp_path_factory, name, changes):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damage(WHOLE[name], changes))
    try:
        image = cbir.open_image(path)
        assert image.mode == "RGB" and image.width * image.height <= 100_000_000
    except cbir.UnreadableImage as error:
        assert changes and str(error).isprintable() and 0 < len(str(error)) < 300


def tiff(width, height, data, **tags):
    """A grey TIFF, deflate-compressed; tag values "here" are the place of the data."""
    values = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
    values |= {int(tag.removeprefix("_")): value for tag, value in tags.items()}
    here = 14 + 12 * len(values)
    entries = b""
    for tag, value in sorted(values.items()):
        entries += struct.pack("<HHII", tag, 4, 1, here if value == "here" else value)
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + data


def saved(mode, format, size=(8, 8), color=0, **options):
    return encoded(Image.new(mode, size, color), format, **options)


def scans(n, size):
    """A progressive JPEG of which the last scan comes n more times."""
    data = saved("L", "JPEG", size, progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * n + data[-2:]


TILE = dict(_322=20_000, _323=20_000, _324="here", _325=1000)
METADATA = (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 300
# A GIF of 65535 x 65535 pixels, of which one of 9 x 9 is drawn.
CANVAS = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
CANVAS += b"," + struct.pack("<HHHHB", 0, 0, 9, 9, 0) + b"\2\0;"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
BAD = {
    "empty.jpg": (lambda: b"", "empty file"),
    "text.jpg": (lambda: b"not a picture", "not an image"),
    "cut.png": (lambda: WHOLE["a.png"][:-150], "."),
    "cut.jpg": (lambda: WHOLE["a.jpg"][:-150], "truncated"),
    "cut.tif": (lambda: WHOLE["a.tif"][:-150], "."),
    "float.tif": (lambda: saved("F", "TIFF"), "floating-point"),
    "integers.tif": (lambda: saved("I", "TIFF", color=1 << 20), "beyond 16 bits"),
    "header.tif": (lambda: png(60000, 60000, 8, 0, b""), "more than 100,000,000"),
    "pixels.png": (lambda: png(10001, 10000, 8, 0, b""), "more than 100,000,000"),
    "elongated.png": (lambda: png(30_000, 2, 8, 0, b""), "one side more than 1000 times"),
    "elongated.bmp": (lambda: run_length_bmp(10**8, 1, b"\0\2\0\xff" * 100), "one side more than"),
    "lines.bmp": (lambda: run_length_bmp(20_000, 5000, b"\1\1\0\0" * 5000), "run-length encoded"),
    "tile.tif": (lambda: tiff(10, 10, zlib.compress(bytes(10**6)), **TILE), "tiles of more than"),
    "samples.tif": (lambda: tiff(10, 10, b"", _277=65535, _273="here"), "65535 samples of 8 bits"),
    "itself.tif": (lambda: b"II*\0" + struct.pack("<IHI", 8, 0, 8), "."),  # its next page
    "scans.jpg": (lambda: scans(500, (3000, 3000)), "a JPEG of 506 scans"),
    "metadata.jpg": (lambda: b"\xff\xd8" + METADATA + saved("L", "JPEG")[2:], "bytes of metadata"),
    "canvas.gif": (lambda: CANVAS, "more than 100,000,000"),
    "program.eps": (lambda: POSTSCRIPT, "not an image"),
    "drawing.wmf": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(100), "not an image"),
    "plain.ppm": (lambda: b"P3 3000 2000 255 " + b"1 " * 100, "plain PPM"),
    "digits.ppm": (lambda: b"P6 " + b"1" * 10**6, "Token too long"),
}


LIMITED = """
import os, resource, signal, sys
import numpy as np
import psutil
import cbir
cbir.open_image(sys.argv[2]), cbir.open_store, cbir.search  # imported now, not within the limit
limit = psutil.Process().memory_info().vms + int(sys.argv[1])
for path in sys.argv[3:]:
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(30)  # ends it
        try:
            if os.path.isfile(path):
                cbir.open_image(path)
            else:
                cbir.search(cbir.open_store(path), np.zeros((1, 7), np.float32), "h", k=1)
            print("read", flush=True)
        except Exception as error:
            print("refused:", type(error).__name__, flush=True)
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        print("ended by signal", status, flush=True)
"""


def look(good, paths, limit):
    """What becomes of reading images or searching stores within 30 seconds and some bytes each."""
    command = [sys.executable, "-c", LIMITED, str(limit), good, *paths]
    env = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, (make, _) in BAD.items():
        (folder / name).write_bytes(make())
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_a_reason(bad, name):
    with pytest.raises(cbir.UnreadableImage, match=BAD[name][1]) as error:
        cbir.open_image(bad / name)
    assert str(bad) not in str(error.value)
    assert len([*bad.iterdir()]) == len(BAD)


@pytest.mark.linux
def test_bad_images_are_refused_in_little_memory_and_time(bad, tmp_path):
    """Each within 2.5 GB, which the largest honest image may take."""
    good = write_image(tmp_path / "good.png")
    found = look(good, [bad / name for name in BAD], 2_500_000_000)
    assert found == ["refused: UnreadableImage"] * len(BAD)


def test_honest_photographs_are_no_bombs(tmp_path):
    """Progressive, with EXIF, a profile and 20 MB after its end, as motion photographs have."""
    options = {"progressive": True, "exif": turned(6), "icc_profile": bytes(10**6)}
    data = saved("L", "JPEG", (600, 300), **options) + bytes(20_000_000)
    (tmp_path / "photo.jpg").write_bytes(data)
    assert cbir.open_image(tmp_path / "photo.jpg").size == (300, 600)


def test_a_sparse_giant_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "giant.tif", "wb") as file:
        file.write(b"II*\0")
        file.truncate(10**12)
    with pytest.raises(cbir.UnreadableImage, match="1,000,000,000,000 bytes, more than"):
        cbir.open_image(tmp_path / "giant.tif")


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    real, waits = module._to_rgb, []

    def decode(image):
        waits.append(module._one_large.locked())
        return real(image)

    monkeypatch.setattr(module, "_to_rgb", decode)
    for large in (50, 40 * 30):
        monkeypatch.setattr(module, "LARGE", large)
        assert cbir.open_image(write_image(tmp_path / "a.png")).size == (40, 30)
    assert waits == [True, False]


@pytest.mark.linux
def test_a_folder_of_traps_is_listed_and_read(tmp_path, tiny_net):
    """Loops, pipes, devices, links to nothing, odd names: each has a row, none is waited for."""
    root = tmp_path / "images"
    names = ["a\nb\x1b[31m.png", os.fsdecode(b"\xff\xfe.png"), "x" * 251 + ".png"]
    names += ["$(touch owned).png", "-rf", "<img src=x>.png"]
    for name in names:
        write_image(root / "odd" / "whole.png").rename(root / "odd" / name)
    links = {"loop.png": "loop.png", "one.png": "two.png", "two.png": "one.png", "up": ".."}
    links |= {"self": ".", "zero.png": "/dev/zero", "passwords.png": "/etc/passwd"}
    links |= {"nothing.png": "missing", "cpu.png": "/proc/self/status"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    with tarfile.open(root / "archive.png", "w") as tar:
        tar.add(root / "odd" / "-rf", "../../escaped.png")
    images = cbir.list_images(root)
    expected = {f"odd/{name}" for name in names} | set(links) - {"up", "self"}
    assert set(images.files) == expected | {"pipe.jpg", "archive.png"}
    store = cbir.extract(images, tiny_net, tmp_path / "store")
    assert store.described.sum() == len(names) and len(store.unreadable) == len(images) - len(names)
    visible = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))
    assert visible == ["images", "store"]


@pytest.mark.posix
def test_folders_deeper_than_python_can_call(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    Path("deep.png").touch()
    os.chdir(tmp_path)
    try:
        files = cbir.list_images(tmp_path).files
        assert files[0] == "a.png" and len(files) == 2 and files[1].startswith("d/d/d/")
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_what_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_image(tmp_path / "open" / "1.png")
    write_image(tmp_path / "closed" / "2.png")
    scandir = os.scandir

    def forbids(path):  # root may read anything, so that permissions alone would not do
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbids)
    assert cbir.list_images(tmp_path).files == ["closed", "open/1.png"]
    with pytest.raises(PermissionError):
        cbir.list_images(tmp_path / "closed")


@pytest.mark.posix
def test_a_file_that_becomes_a_pipe_or_goes_or_shrinks_is_not_waited_for(tmp_path, monkeypatch):
    """The system would end a process that has a file mapped which becomes shorter."""
    Image.fromarray(np.zeros((500, 500, 3), np.uint8)).save(tmp_path / "a.tif")
    real = module._read_header

    def cuts(file):
        image = real(file)
        os.truncate(tmp_path / "a.tif", 1000)
        return image

    monkeypatch.setattr(module, "_read_header", cuts)
    with pytest.raises(cbir.UnreadableImage):
        cbir.open_image(tmp_path / "a.tif")
    os.mkfifo(tmp_path / "a.png")
    monkeypatch.setattr(os.path, "isfile", lambda path: True)  # as it was a moment ago
    with pytest.raises(cbir.UnreadableImage, match="no regular file"):
        cbir.open_image(tmp_path / "a.png")


class Owned:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):  # called when it is unpickled
        return os.mkdir, (self.path,)


def edit(path, change):
    about = json.loads(path.read_text(encoding="utf-8"))
    change(about)
    path.write_text(json.dumps(about), encoding="utf-8")


def put(store, content):
    """Makes another file of the first shard's h, and lets done/ say that it is right."""
    (store / "h" / "00000.npy").write_bytes(content)
    of_file = len(content), zlib.crc32(content)
    edit(store / "done" / "00000.json", lambda done: done["files"].update({"h/00000.npy": of_file}))


HOSTILE = [
    lambda st: put(st, (st / "h" / "00000.npy").read_bytes().replace(b"(11, 7)", b"(9**9,7)")),
    lambda st: put(st, (st / "h" / "00000.npy").read_bytes().replace(b"(11, 7)", b"(99, 7)")),
    lambda st: put(st, b""),
    lambda st: edit(st / "store.json", lambda about: about["widths"].update(h=10**12)),
    lambda st: edit(st / "store.json", lambda about: about.update(shard_size=0)),
    lambda st: edit(st / "store.json", lambda about: about.update(dims=[])),
    lambda st: edit(st / "done" / "00000.json", lambda done: done["state"].append("ok")),
    lambda st: (st / "images.csv").write_text("file,label,bytes,modified,row\na,b,1,1,10000000000"),
]


@pytest.mark.linux
def test_hostile_stores_are_refused_within_bounds(tmp_path, folder, tiny_net):
    store = cbir.extract(folder, tiny_net, tmp_path / "0")
    pickled = io.BytesIO()
    np.save(pickled, np.array([[Owned(tmp_path / "owned")] * 7] * 11), allow_pickle=True)
    changes = [*HOSTILE, lambda st: put(st, pickled.getvalue())]
    for i, make in enumerate(changes, 1):
        make(shutil.copytree(tmp_path / "0", tmp_path / str(i)))
    paths = [tmp_path / str(i) for i in range(len(changes) + 1)]
    first, *others = look(store.path(0), paths, 2_000_000_000)
    assert first == "read"
    assert len(others) == len(changes) and all(o.startswith("refused") for o in others), others
    assert not (tmp_path / "owned").exists()
