"""What lies in image folders: good files, odd ones, broken ones; labels, queries, profiles."""

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from conftest import write_image
from PIL import Image

import cbir
from cbir import images as decoding


def flat_images(n, labels=None):
    """An `ImageSet` of n names, without files."""
    labels = labels or [""] * n
    files = [f"{label}/{i:03}.png".lstrip("/") for i, label in enumerate(labels)]
    return cbir.ImageSet(Path("photos"), files, labels)


def rgb(path):
    image = cbir.open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


# ---- listing -------------------------------------------------------------------------------------


def test_a_folder_is_listed_sorted_with_labels(tmp_path):
    names = ["0.png", "a/3.jpg", "a/x y.png", "b/2.png", "b/deep/1.png", "b/line\nbreak.png"]
    names += ["b/notes.txt", "ü/日本 写真.png"]
    for name in reversed(names):
        write_image((tmp_path / name).with_suffix(".png")).rename(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    images = cbir.list_images(tmp_path)
    assert images.files == names
    assert images.labels == ["", "a", "a", "b", "b", "b", "b", "ü"]
    assert images.root == tmp_path.resolve() and len(images) == 8
    for i in (2, 5, 7):
        assert rgb(images.path(i)).shape == (30, 40, 3)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    root = tmp_path / ".hidden parents" / "do not matter"
    for name in ["a/1.png", "a/.2.png", ".b/3.png", "a/.c/d/4.png", ".DS_Store.png"]:
        write_image(root / name)
    assert cbir.list_images(root).files == ["a/1.png"]


@pytest.mark.posix
def test_links(tmp_path):
    """To a file: followed. To a folder: not, or it might never end. To nothing: unreadable."""
    write_image(tmp_path / "images" / "1.png")
    write_image(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "images" / "link.png").symlink_to("1.png")
    (tmp_path / "images" / "folder").symlink_to("../elsewhere")
    (tmp_path / "images" / "up").symlink_to("..")
    (tmp_path / "images" / "broken.png").symlink_to("nothing")
    images = cbir.list_images(tmp_path / "images")
    assert images.files == ["1.png", "broken.png", "link.png"]
    assert rgb(images.path(2)).shape == (30, 40, 3)
    with pytest.raises(cbir.UnreadableImage):
        cbir.open_image(images.path(1))


def test_a_list_of_files_keeps_its_order_and_takes_labels_below_the_common_folder(tmp_path):
    files = [write_image(tmp_path / name) for name in ["c/2.png", "a/1.png", "a/b/3.png"]]
    images = cbir.list_images(files)
    assert (images.files, images.labels) == (["c/2.png", "a/1.png", "a/b/3.png"], ["c", "a", "a"])
    assert cbir.list_images([str(f) for f in files]) == images
    assert cbir.list_images(files[:1]).labels == [""]
    assert cbir.list_images(images) is images


def test_files_that_are_no_images_are_told_by_their_suffix(tmp_path):
    """Damaged ones, unknown to this machine's Pillow or not, are images; notes beside them not."""
    for name in ["a.JPG", "b.heic", "c", "d.tiff", "x.txt", "y.TXT", "z.json", "photo.dat"]:
        (tmp_path / name).write_text("no image")
    images, others = cbir.list_images(tmp_path).split_by_suffix()
    assert images.files == ["a.JPG", "b.heic", "c", "d.tiff"]
    assert others == {".dat": 1, ".json": 1, ".txt": 2}
    database, queries = cbir.load_images("folder", tmp_path, tmp_path)
    assert database.files == queries.files == images.files
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "1.md").touch()
    with pytest.raises(ValueError, match=r"no images in .*notes, only \.md files"):
        cbir.load_images("folder", tmp_path / "notes")


def test_rows_of_an_image_set(tmp_path):
    images = flat_images(4, ["a", "a", "b", "c"])
    assert images[[3, 0]].files == ["c/003.png", "a/000.png"]
    assert images[np.array([2])].labels == ["b"]


def test_what_is_not_there_is_an_error(tmp_path):
    write_image(tmp_path / "1.png")
    (tmp_path / "empty" / "folders").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cbir.list_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="1.png"):
        cbir.list_images(tmp_path / "1.png")  # a file is no folder
    with pytest.raises(FileNotFoundError, match="1 of 2 .* 2.png|1 of 2 .*2.png"):
        cbir.list_images([tmp_path / "1.png", tmp_path / "2.png"])
    with pytest.raises(ValueError, match="empty"):
        cbir.list_images(tmp_path / "empty")
    with pytest.raises(ValueError):
        cbir.list_images([])


# ---- decoding ------------------------------------------------------------------------------------


def png(width, height, data=b""):
    """A PNG by hand: 8-bit grey, whatever size its header announces."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "mode, color, expected",
    [
        ("RGB", (10, 200, 30), (10, 200, 30)),
        ("L", 99, (99, 99, 99)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 200, 30, 255), (10, 200, 30)),
        ("RGBA", (10, 200, 30, 0), (255, 255, 255)),  # transparent: white
        ("RGBA", (0, 200, 100, 51), (204, 244, 224)),  # a fifth of the colour, four fifths of white
        ("LA", (99, 255), (99, 99, 99)),
        ("LA", (0, 51), (204, 204, 204)),
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 25700, (100, 100, 100)),
    ],
)
def test_png_modes(tmp_path, mode, color, expected):
    Image.new(mode, (5, 4), color).save(tmp_path / "image.png")
    pixels = rgb(tmp_path / "image.png")
    assert pixels.shape == (4, 5, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, (4, 5, 3)), atol=1)


def test_16_bits_keep_their_gradient(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "image.png")
    assert rgb(tmp_path / "image.png")[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"red.{suffix}")
    np.testing.assert_allclose(rgb(tmp_path / f"red.{suffix}")[4, 4], (255, 0, 0), atol=3)


def test_palettes_with_transparency(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 10, 20, 7, 8, 9])
    image.putpixel((0, 0), 2)
    image.save(tmp_path / "index.png", transparency=2)
    image.save(tmp_path / "index.gif", transparency=2)
    image.save(tmp_path / "bytes.png", transparency=bytes([255, 51, 0]))
    opaque_colors = {
        "index.png": (200, 10, 20),
        "index.gif": (200, 10, 20),
        "bytes.png": (244, 206, 208),
    }
    for name, opaque in opaque_colors.items():
        assert rgb(tmp_path / name)[0, 0].tolist() == [255, 255, 255]
        np.testing.assert_allclose(rgb(tmp_path / name)[1, 1], opaque, atol=1)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    assert rgb(tmp_path / "moving.gif")[3, 3].tolist() == [255, 0, 0]


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(tmp_path, orientation):
    """The tag says how the stored pixels have to be turned to stand upright."""
    stored = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(rgb(tmp_path / "image.png"), TURNS[orientation](stored))


def test_one_pixel(tmp_path, tiny_net):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "pixel.png")
    assert rgb(tmp_path / "pixel.png").tolist() == [[[1, 2, 3]]]
    assert tiny_net.transform(cbir.open_image(tmp_path / "pixel.png")).shape == (3, 32, 32)


def broken_files(folder):
    """Name -> what the reason must say. Written into `folder`."""
    whole = write_image(folder / "whole.jpg", (200, 200)).read_bytes()
    drawing = write_image(folder / "whole.png", (200, 200)).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes(drawing[: len(drawing) // 2])
    (folder / "header only.png").write_bytes(drawing[:40])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "zeros.png").write_bytes(bytes(5000))
    (folder / "bomb.png").write_bytes(png(60000, 60000))
    (folder / "smaller bomb.png").write_bytes(png(11000, 11000))
    Image.new("F", (4, 4), 0.5).save(folder / "float.tif")
    Image.new("I", (4, 4), 1 << 20).save(folder / "integers.tif")
    (folder / "folder.png").mkdir()
    for name in ("whole.jpg", "whole.png"):
        (folder / name).unlink()
    reasons = {
        "cut.jpg": "truncated",
        "cut.png": ".",
        "header only.png": ".",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "notes.txt": "not an image",
        "zeros.png": "not an image",
        "bomb.png": "more than 100,000,000",
        "smaller bomb.png": "more than 100,000,000",
        "float.tif": "floating-point",
        "integers.tif": "16 bits",
        "folder.png": "no regular file",
        "missing.png": "no regular file",
    }
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(folder / "pipe.png")
        reasons["pipe.png"] = "no regular file"
    return reasons


def test_unreadable_files_say_why(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(cbir.UnreadableImage, match=reason) as error:
            cbir.open_image(tmp_path / name)
        assert str(error.value) and str(tmp_path) not in str(error.value)


@pytest.fixture
def heic(tmp_path):
    """A picture as telephones keep it: left half red, right half blue, stored lying on its side."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is missing: make check")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48] = (200, 30, 30)
    pixels[:, 48:] = (30, 30, 200)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees
    lying = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    pillow_heif.from_pillow(lying).save(tmp_path / "photo.heic", quality=95, exif=exif.tobytes())
    return tmp_path / "photo.heic"


def test_heic_is_read_as_a_viewer_shows_it(heic):
    picture = rgb(heic)
    assert picture.shape == (64, 96, 3)
    halves = picture[:, :40].mean(axis=(0, 1)), picture[:, 56:].mean(axis=(0, 1))
    np.testing.assert_allclose(halves, [(200, 30, 30), (30, 30, 200)], atol=12)
    with pytest.raises(cbir.UnreadableImage, match="96 x 64|64 x 96"):
        cbir.open_image(heic, max_pixels=1000)
    heic.write_bytes(heic.read_bytes()[:600])
    with pytest.raises(cbir.UnreadableImage):
        cbir.open_image(heic)


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    """Told by the file's first bytes, whatever its name."""
    monkeypatch.setattr(decoding, "KNOWS_HEIC", False)
    formats = [name for name in decoding.FORMATS if name != "HEIF"]
    monkeypatch.setattr(decoding, "FORMATS", formats)
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(cbir.UnreadableImage, match=r"pip install 'cbir\[heic\]'"):
        cbir.open_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, suffix):
    """Never another exception, whatever byte is hit."""
    whole = write_image(tmp_path / f"image.{suffix}", (24, 24)).read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        hit = rng.integers(0, min(len(data), 400) if trial % 2 else len(data), 3)
        data[hit] = rng.integers(0, 256, 3)
        if trial % 3 == 0:
            data = data[: rng.integers(1, len(data))]
        (tmp_path / "damaged").write_bytes(data)
        try:
            assert cbir.open_image(tmp_path / "damaged").mode == "RGB"
        except cbir.UnreadableImage as error:
            assert str(error)


def test_threads_leave_the_warning_filters_alone(tmp_path):
    """`extract` decodes in threads; what it silences there must not stay silenced."""
    files = [write_image(tmp_path / f"{i}.jpg") for i in range(4)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cbir.open_image, files * 150))
    after, warnings.filters[:] = list(warnings.filters), before
    assert after == before


def test_all_photographs_open(photos):
    for name in ("caltech", "imagenette"):
        images = cbir.list_images(photos / name)
        for i in np.random.default_rng(0).choice(len(images), 200, replace=False):
            pixels = rgb(images.path(i))
            assert min(pixels.shape[:2]) > 10


# ---- queries -------------------------------------------------------------------------------------

CLASSES = [f"class {c}" for c in "abcdefghijkl" for _ in range(5)]


def test_queries_come_from_different_classes_in_their_order():
    images = flat_images(60, CLASSES)
    for seed in range(5):
        labels = [images.labels[i] for i in cbir.choose_queries(images, 10, seed)]
        assert len(set(labels)) == 10 and labels == sorted(labels)


def test_queries_depend_on_the_seed_alone():
    images = flat_images(60, CLASSES)
    assert cbir.choose_queries(images, seed=3) == cbir.choose_queries(images, seed=3)
    assert len({tuple(cbir.choose_queries(images, seed=seed)) for seed in range(10)}) == 10
    rows = set()
    for seed in range(200):
        rows.update(cbir.choose_queries(images, seed=seed))
    assert rows == set(range(60))


def test_fewer_classes_than_queries():
    """A class gives its second image only after every class gave one."""
    images = flat_images(10, ["a"] * 6 + ["b"] * 3 + ["c"])
    for seed in range(10):
        rows = cbir.choose_queries(images, 6, seed)
        labels = [images.labels[i] for i in rows]
        assert len(set(rows)) == 6
        assert (labels.count("a"), labels.count("b"), labels.count("c")) in {(3, 2, 1), (2, 3, 1)}
    assert cbir.choose_queries(images, 10) == list(range(10))


def test_queries_without_labels():
    assert len(set(cbir.choose_queries(flat_images(20), 10))) == 10


@pytest.mark.parametrize("n", [0, -1, 61])
def test_a_number_of_queries_out_of_range(n):
    with pytest.raises(ValueError, match="60 images"):
        cbir.choose_queries(flat_images(60, CLASSES), n)


def test_named_queries():
    files = ["a/1.png", "a/2.png", "b/2.png", "b/22.png", "c/deep/3.png"]
    images = cbir.ImageSet(Path("photos"), files, list("aabbc"))
    names = ["3.png", "b/2.png", "1.png", "22.png", "deep/3.png"]
    assert cbir.choose_queries(images, names=names) == [4, 2, 0, 3, 4]
    with pytest.raises(FileNotFoundError, match="4.png"):
        cbir.choose_queries(images, names=["1.png", "4.png"])
    with pytest.raises(ValueError, match="'2.png' fits 2 images"):
        cbir.choose_queries(images, names=["2.png"])


def test_a_full_name_is_never_ambiguous():
    images = cbir.ImageSet(Path("photos"), ["1.png", "a/1.png"], ["", "a"])
    assert cbir.choose_queries(images, names=["1.png", "a/1.png"]) == [0, 1]


def test_queries_of_a_store_are_readable(folder, tmp_path, tiny_net):
    st = cbir.extract(folder, tiny_net, tmp_path / "st")
    assert len(st.unreadable) == 2
    assert cbir.choose_queries(st, 9) == [i for i in range(11) if i not in (2, 7)]
    with pytest.raises(ValueError, match="10 queries asked of 9"):
        cbir.choose_queries(st, 10)
    assert cbir.choose_queries(folder, 11) == list(range(11))
    assert cbir.choose_queries(cbir.list_images(folder), 11) == list(range(11))


def test_known_factors(tmp_path):
    """The class if there are classes; background and palette of the embedded scenes alone."""
    factors = cbir.known_factors(flat_images(3))
    assert list(factors) == [] and len(factors) == 3
    assert cbir.known_factors(flat_images(2, ["a", "b"])).to_dict("list") == {"class": ["a", "b"]}
    images = cbir.ImageSet(tmp_path / "database", ["a/1.png", "b/2.png"], ["a", "b"])
    (tmp_path / "manifest.csv").write_text("file,background,palette\ndatabase/a/1.png,dots,3\n")
    assert cbir.known_factors(images).to_dict("list") == {"class": ["a", "b"]}
    database, queries = cbir.load_images("embedded")
    first, last = cbir.known_factors(database[[0]]), cbir.known_factors(queries[[-1]])
    assert first.values.tolist() == [["ball", "dots", "forest"]]
    assert list(last) == ["class", "background", "palette"] and last["class"][0] == "star"
    of_one_class = cbir.list_images(queries.root / "star")  # flat, so there are no classes
    assert list(cbir.known_factors(of_one_class)) == ["background", "palette"]


# ---- held-out queries ----------------------------------------------------------------------------


def test_hold_out_is_disjoint_and_complete_and_takes_its_share_of_every_class():
    images = flat_images(73, ["a"] * 50 + ["b"] * 20 + ["c"] * 2 + ["d"])
    database, queries = cbir.hold_out(images, 0.1)
    assert sorted(database.files + queries.files) == sorted(images.files)
    assert not set(database.files) & set(queries.files)
    assert [queries.labels.count(label) for label in "abcd"] == [5, 2, 1, 0]
    assert database.files == sorted(database.files) and database.root == queries.root == images.root
    assert cbir.hold_out(images, 0.1) == (database, queries)
    assert cbir.hold_out(images, 0.1, seed=1) != (database, queries)


def test_hold_out_moves_few_images_when_there_are_more():
    """One more of a class makes at most one a query and one no query."""
    labels = ["ant"] * 40 + ["bee"] * 60
    images = flat_images(100, labels)
    _, queries = cbir.hold_out(images)
    for row in range(0, 100, 7):
        fewer = images[[i for i in range(100) if i != row]]
        _, then = cbir.hold_out(fewer)
        assert len(set(queries.files) ^ set(then.files)) <= 2


def test_hold_out_without_classes():
    database, queries = cbir.hold_out(flat_images(40))
    assert (len(database), len(queries)) == (36, 4)


@pytest.mark.parametrize("labels", [["a"], ["a", "b", "c"]])
def test_too_few_images_to_hold_out(labels):
    with pytest.raises(ValueError, match="too few"):
        cbir.hold_out(flat_images(len(labels), labels))


def test_hold_out_never_takes_a_whole_class():
    database, queries = cbir.hold_out(flat_images(5, ["a", "a", "b", "b", "b"]), share=0.75)
    assert set(database.labels) == set(queries.labels) == {"a", "b"}


# ---- profiles ------------------------------------------------------------------------------------


def test_profile_folder(tmp_path):
    for i in range(20):
        write_image(tmp_path / "images" / f"{i}.png")
    write_image(tmp_path / "queries" / "q.png")
    database, queries = cbir.load_images("folder", str(tmp_path / "images"))
    assert (len(database), len(queries)) == (18, 2)
    database, queries = cbir.load_images("folder", tmp_path / "images", tmp_path / "queries")
    assert (len(database), len(queries)) == (20, 1)
    with pytest.raises(ValueError, match="images"):
        cbir.load_images("folder")
    with pytest.raises(FileNotFoundError):
        cbir.load_images("folder", tmp_path / "nowhere")


def test_a_profile_can_be_cut_short(tmp_path):
    for part, n in [("images", 30), ("queries", 12)]:
        for i in range(n):
            write_image(tmp_path / part / "abc"[i % 3] / f"{i:02}.png", size=(2, 2))
    folders = ("folder", tmp_path / "images", tmp_path / "queries")
    whole = cbir.load_images(*folders)
    drawn = cbir.load_images(*folders, seed=3, max_images=6, max_queries=3)
    for images, n, parent in zip(drawn, (6, 3), whole):
        in_order = [file for file in parent.files if file in images.files]
        assert images.files == in_order
        counts = [images.labels.count(label) for label in "abc"]
        assert counts == [n // 3] * 3  # balanced
        rows = sorted(cbir.choose_queries(parent, n=n, seed=3))
        assert images == parent[rows]  # drawn from the seed
    for most in (0, 30, 99):
        assert cbir.load_images(*folders, max_images=most, max_queries=most) == whole


def test_named_queries_stay_in_the_draw(tmp_path):
    for i in range(12):
        write_image(tmp_path / "queries" / f"{i:02}.png", size=(2, 2))

    def queries(**options):
        folder = tmp_path / "queries"
        _, images = cbir.load_images("folder", folder, folder, **options)
        return images.files

    drawn = queries(max_queries=2)
    other = next(f"{i:02}.png" for i in range(12) if f"{i:02}.png" not in drawn)
    assert queries(max_queries=2, query_names=[other, drawn[0]]) == sorted([*drawn, other])
    assert len(queries(query_names=[other])) == 12
    with pytest.raises(FileNotFoundError, match="13.png"):
        queries(max_queries=2, query_names=["13.png"])


def test_unknown_profile(tmp_path):
    with pytest.raises(ValueError, match="'cifar'.*embedded.*folder.*imagenette.*imagenet"):
        cbir.load_images("cifar", tmp_path)


def test_imagenette_without_network_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*_args, **_options):
        raise URLError("no route to host")

    monkeypatch.setattr(cbir.datasets, "download_and_extract_archive", no_network)
    advice = "no route to host.*imagenette2-320.tgz.*unpack"
    with pytest.raises(RuntimeError, match=advice) as error:
        cbir.load_images("imagenette", images=tmp_path)
    assert str(tmp_path) in str(error.value)


def test_imagenette_that_is_there_is_not_downloaded(tmp_path, monkeypatch):
    def fails(*_args, **_options):
        raise AssertionError("downloaded again")

    monkeypatch.setattr(cbir.datasets, "download_and_extract_archive", fails)
    for split, n in [("train", 3), ("val", 1)]:
        for i in range(n):
            for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
                write_image(tmp_path / "imagenette2-320" / split / wnid / f"{i}.JPEG", (4, 4))
    database, queries = cbir.load_images("imagenette", images=tmp_path)
    assert (len(database), len(queries), len(set(database.labels))) == (30, 10, 10)


def test_imagenet_that_is_missing_says_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="ILSVRC2012"):
        cbir.load_images("imagenet", images=tmp_path)
