"""Hostile folders, images, vectors, archives and stores are refused with a reason.

Without a crash, a hang, or much memory.
"""

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fuzz
import numpy as np
import pytest
from conftest import write_image
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

import cbir
from cbir import datasets as image_sets
from cbir import images as module
from cbir.common import ROOT

SEEDS = fuzz.seeds()
CHANGES = st.lists(
    st.tuples(st.sampled_from(fuzz.KINDS), st.floats(0, 1), st.integers(0, 10**6)),
    min_size=1,
    max_size=8,
)


# ---- damaged bytes -------------------------------------------------------------------


@pytest.mark.parametrize("name", SEEDS)
def test_what_is_damaged_below_is_whole_above(name, tmp_path):
    """Else the tests below would try nothing but refusals."""
    (tmp_path / f"0.{name}").write_bytes(SEEDS[name])
    assert fuzz.read(tmp_path / f"0.{name}") == "read"


@settings(max_examples=400)
@given(st.sampled_from(sorted(SEEDS)), CHANGES)
@example("fvecs", [("field", 0.0, 2 + 3 * 12)])  # a dimension of -1
@example("fvecs", [("field", 0.0, 2 + 3 * 10)])  # of 2^31 - 1
@example("fvecs", [("field", 0.0, 2)])  # of 0
@example("fvecs", [("cut", 0.99, 0)])
@example("png", [("field", 0.05, 2 + 3 * 12)])
def test_damaged_files_are_read_or_refused(tmp_path_factory, name, changes):
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(fuzz.damage(SEEDS[name], changes))
    assert fuzz.read(path) in ("read", "refused")


@pytest.mark.slow
@pytest.mark.linux
def test_thousands_of_damaged_files_are_read_or_refused_in_little_memory():
    tally = fuzz.main(5000)
    assert not tally.faults, str(tally)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no vector"),
        (b"\1\0", "no vector"),
        (struct.pack("<i", -5), "dimension of -5"),
        (struct.pack("<i", 0), "dimension of 0"),
        (struct.pack("<i", 2**31 - 1), "dimension of 2147483647"),
        (struct.pack("<if", 2, 1), "cut short"),
        (struct.pack("<ifif", 1, 1, 2, 1), "several dimensions"),
    ],
)
def test_vectors_that_are_none(tmp_path, data, message):
    (tmp_path / "v.fvecs").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        cbir.read_fvecs(tmp_path / "v.fvecs")


@pytest.mark.posix
def test_vectors_from_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "v.fvecs")
    with pytest.raises(ValueError, match="no regular file"):
        cbir.read_fvecs(tmp_path / "v.fvecs")


# ---- bombs ---------------------------------------------------------------------------


def png(width, height, channels):
    """A PNG of zeros, as small as it gets."""
    squeeze = zlib.compressobj(9)
    body = b""
    for _ in range(height):
        body += squeeze.compress(bytes(1 + width * channels))
    body += squeeze.flush()
    color = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        checksum = zlib.crc32(kind + content)
        data += len(content).to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")
    return data


def tiff(width, height, data, **tags):
    """A grey TIFF, deflate-compressed; tag values "here" are the place of the data."""
    values = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
    for tag, value in tags.items():
        values[int(tag.removeprefix("_"))] = value
    here = 14 + 12 * len(values)
    entries = b""
    for tag, value in sorted(values.items()):
        entries += struct.pack("<HHII", tag, 4, 1, here if value == "here" else value)
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + data


def gif_canvas():
    """A GIF of 65535 x 65535 pixels, of which one of 9 x 9 is drawn."""
    screen = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    drawn = struct.pack("<HHHHB", 0, 0, 9, 9, 0)
    return b"GIF89a" + screen + b"," + drawn + b"\2\0;"


def postscript():
    """A program that would write a file."""
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    return header + b"(touched) (w) file closefile\n%%EOF\n"


def jpeg(size=(8, 8), **options):
    out = io.BytesIO()
    Image.new("L", size, 77).save(out, "JPEG", **options)
    return out.getvalue()


def scans(n, size):
    """A progressive JPEG of which the last scan comes n more times."""
    data = jpeg(size, progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * n + data[-2:]


BOMBS = {
    "pixels.png": (lambda: png(10001, 10000, 1), "more than 100,000,000"),
    "elongated.png": (lambda: png(30_000, 2, 1), "one side more than 1000 times"),
    "elongated.bmp": (
        lambda: fuzz.run_length_bmp(100_000_000, 1, b"\0\2\0\xff" * 100),
        "one side more than 1000 times",
    ),
    "lines.bmp": (
        lambda: fuzz.run_length_bmp(20_000, 5_000, b"\1\1\0\0" * 5000),
        "run-length encoded BMP",
    ),
    "tile.tif": (
        lambda: tiff(
            10, 10, zlib.compress(bytes(10**6)), _322=20_000, _323=20_000, _324="here", _325=1000
        ),
        "tiles of more than",
    ),
    "samples.tif": (
        lambda: tiff(10, 10, zlib.compress(bytes(10**6)), _277=65535, _273="here", _279=1000),
        "not an image",
    ),
    "itself.tif": (
        lambda: b"II*\0" + struct.pack("<IHI", 8, 0, 8),
        ".",
    ),  # the next page is this one
    "scans.jpg": (lambda: scans(500, (3000, 3000)), "a JPEG of 506 scans"),
    "metadata.jpg": (
        lambda: jpeg()[:2] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 300 + jpeg()[2:],
        "bytes of metadata",
    ),
    "canvas.gif": (gif_canvas, "more than 100,000,000"),
    "program.eps": (postscript, "not an image"),
    "program.jpg": (postscript, "not an image"),
    "drawing.wmf": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(100), "not an image"),
    "plain.ppm": (lambda: b"P3 3000 2000 255 " + b"1 " * 100, "plain PPM"),
    "digits.ppm": (lambda: b"P6 " + b"1" * 10**6, "Token too long"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(tmp_path, name):
    make, reason = BOMBS[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(cbir.UnreadableImage, match=reason):
        cbir.open_image(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_metadata_and_scans_of_honest_photographs_are_no_bombs(tmp_path):
    """Progressive, with EXIF, a profile and 20 MB after its end, as motion photographs have."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg((600, 300), progressive=True, exif=exif, icc_profile=bytes(10**6))
    (tmp_path / "photo.jpg").write_bytes(data + bytes(20_000_000))
    assert cbir.open_image(tmp_path / "photo.jpg").size == (300, 600)


def test_a_sparse_giant_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "giant.tif", "wb") as file:
        file.write(b"II*\0")
        file.truncate(10**12)
    with pytest.raises(cbir.UnreadableImage, match="1,000,000,000,000 bytes, more than"):
        cbir.open_image(tmp_path / "giant.tif")


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    """With eight threads, the memory of one: the lock is held while any of them loads."""
    busy, most, real = [], [], module._to_rgb
    monkeypatch.setattr(module, "LARGE", 50)

    def noted(image):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.005)
        result = real(image)
        busy.pop()
        return result

    monkeypatch.setattr(module, "_to_rgb", noted)
    files = [write_image(tmp_path / f"{i}.png") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert [i.size for i in pool.map(cbir.open_image, files)] == [(40, 30)] * 40
    assert len(most) == 40 and max(most) == 1


# ---- folders -------------------------------------------------------------------------


@pytest.mark.linux
def test_a_folder_of_traps_is_listed_and_read(tmp_path, tiny_net):
    """Loops, pipes, devices, links out and to nothing, names with line breaks or of 255 bytes.

    Every file gets a row, and none is waited for.
    """
    root = tmp_path / "images"
    names = [
        "a\nb\x1b[31m.png",
        os.fsdecode(b"\xff\xfe.png"),
        "x" * 251 + ".png",
        "$(touch owned).png",
        "-rf",
        "<img src=x>.png",
    ]
    for name in names:
        write_image(root / "odd" / "whole.png").rename(root / "odd" / name)
    links = {
        "loop.png": "loop.png",
        "one.png": "two.png",
        "two.png": "one.png",
        "up": "..",
        "self": ".",
        "zero.png": "/dev/zero",
        "passwords.png": "/etc/passwd",
        "nothing.png": "missing",
        "cpu.png": "/proc/self/status",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    with tarfile.open(root / "archive.png", "w") as tar:
        tar.add(root / "odd" / "-rf", "../../escaped.png")
    images = cbir.list_images(root)
    assert set(images.files) == {f"odd/{n}" for n in names} | set(links) - {"up", "self"} | {
        "pipe.jpg",
        "archive.png",
    }
    store = cbir.extract(images, tiny_net, tmp_path / "store")
    assert store.described.sum() == len(names) and len(store.unreadable) == len(images) - len(names)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "images",
        "store",
    ]
    hits = cbir.search(
        store, [images.path(images.files.index("odd/-rf"))], net=tiny_net, k=len(names)
    )
    assert hits.distances.shape == (1, len(names)) and set(hits.indices[0]) == set(
        np.flatnonzero(store.described)
    )


@pytest.mark.posix
def test_folders_deeper_than_python_can_call(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    write_image(tmp_path / "a.png")
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
def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.png")
    monkeypatch.setattr(os.path, "isfile", lambda path: True)  # as it was a moment ago
    with pytest.raises(cbir.UnreadableImage, match="no regular file"):
        cbir.open_image(tmp_path / "a.png")


def test_a_file_cut_while_it_is_read(tmp_path, monkeypatch):
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


# ---- downloads -----------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive in Imagenette's place, served on this machine."""
    source = tmp_path / "source" / "imagenette2-320"
    for split in ("train", "val"):
        for wnid in datasets.Imagenette._WNID_TO_CLASS:
            write_image(source / split / wnid / "0.JPEG", (4, 4))
    archive = tmp_path / "source" / "imagenette2-320.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=archive.parent)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setitem(
            datasets.Imagenette._ARCHIVES,
            "320px",
            (url, hashlib.md5(archive.read_bytes()).hexdigest()),
        )
        yield archive
        server.shutdown()


def test_unpacking_that_was_interrupted_is_done_again(tmp_path, monkeypatch, archive):
    root, extract = tmp_path / "data", image_sets.download_and_extract_archive

    def stops(url, root, aside, md5):
        extract(url, root, aside, md5=md5)
        raise KeyboardInterrupt

    monkeypatch.setattr(image_sets, "download_and_extract_archive", stops)
    with pytest.raises(KeyboardInterrupt):
        cbir.load_images("imagenette", root)
    assert [p.name for p in root.iterdir()] == ["imagenette2-320.tgz"]
    monkeypatch.setattr(image_sets, "download_and_extract_archive", extract)
    database, queries = cbir.load_images("imagenette", root)
    assert len(database) == len(queries) == 10 and sorted(p.name for p in root.iterdir()) == [
        "imagenette2-320",
        "imagenette2-320.tgz",
    ]


def test_an_archive_of_another_hash_is_not_unpacked(tmp_path, archive):
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(RuntimeError, match="File not found or corrupted"):
        cbir.load_images("imagenette", tmp_path / "data")
    assert not (tmp_path / "data" / "imagenette2-320").exists()


# ---- stores --------------------------------------------------------------------------

LIMITED = """
import os, resource, signal, sys
import numpy as np
import psutil
import cbir
cbir.open_store, cbir.search  # imported now, not within the limit
limit = psutil.Process().memory_info().vms + 2_000_000_000
for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(20)  # ends it
        try:
            st = cbir.open_store(path)
            hits = cbir.search(st, np.zeros((1, 7), np.float32), descriptor="h", k=1)
            print("found", [st.files[i] for i in hits.indices[0]], flush=True)
        except Exception as error:
            print("refused", type(error).__name__, flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        print("ended by signal", status, flush=True)
"""


def opened(*paths):
    """What processes with 2 GB and 20 seconds to spend make of stores (list of str)."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ
        | {
            "TQDM_DISABLE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


class Owned:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
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
    cbir.extract(folder, tiny_net, tmp_path / "good")
    paths = [tmp_path / "good"]
    for i, make in enumerate(HOSTILE):
        paths.append(shutil.copytree(tmp_path / "good", tmp_path / str(i)))
        make(paths[-1])
    paths.append(shutil.copytree(tmp_path / "good", tmp_path / "evil"))
    with io.BytesIO() as file:
        np.save(file, np.array([[Owned(tmp_path / "owned")] * 7] * 11), allow_pickle=True)
        put(paths[-1], file.getvalue())
    first, *others = opened(*paths)
    assert first.startswith("found ['")
    assert len(others) == len(HOSTILE) + 1 and all(o.startswith("refused") for o in others), others
    assert not (tmp_path / "owned").exists()
