"""Image folders and image files: listing them, and opening each as a viewer shows it."""

import struct
import zlib

import numpy as np
import pytest
from conftest import write_image
from PIL import Image, ImageCms

import cbir
from cbir import images as module

MODES = [
    ("RGB", (10, 200, 30), (10, 200, 30)),
    ("L", 99, (99, 99, 99)),
    ("1", 1, (255, 255, 255)),
    ("RGBA", (10, 200, 30, 255), (10, 200, 30)),
    ("RGBA", (10, 200, 30, 0), (255, 255, 255)),  # transparent: white
    ("RGBA", (0, 200, 100, 51), (204, 244, 224)),  # a fifth of the colour, four fifths of white
    ("LA", (0, 51), (204, 204, 204)),
    ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
]

# bits, colour type, a row of a transparent pixel and of another, its transparent colour
TRANSPARENT = {
    "grey of 2 bits": (2, 0, b"\x60", b"\0\1"),
    "grey of 4 bits": (4, 0, b"\x3c", b"\0\3"),
    "grey of 8 bits": (8, 0, b"\x03\x80", b"\0\3"),
    "grey of 16 bits": (16, 0, b"\3\4\3\5", b"\3\4"),
    "colour of 8 bits": (8, 2, b"\1\2\3\1\2\4", b"\0\1\0\2\0\3"),
    "colour of 16 bits": (16, 2, b"\1\1\2\2\3\3\1\1\2\2\4\4", b"\1\1\2\2\3\3"),
    "grey and alpha of 16 bits": (16, 4, b"\1\1\0\0\1\1\xff\xff", None),
    "colour and alpha of 16 bits": (16, 6, b"\1\1\2\2\3\3\0\0\1\1\2\2\3\3\xff\xff", None),
}

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red and green change places.
SWAPPED = SRGB.replace(b"rXYZ", b"tmp ").replace(b"gXYZ", b"rXYZ").replace(b"tmp ", b"gXYZ")
SEGMENTS = [(0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0junk"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<")]
SEGMENTS += [(0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\2\3junk"), (0xE2, b"MPF\0II*\0junk")]
SEGMENTS += [(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"), (0xEE, b"Adobe")]


def rgb(path):
    image = cbir.open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_folder_is_listed_sorted_with_labels(tmp_path):
    names = ["0.png", "a/3.jpg", "a/x y.png", "b/2.png", "b/deep/1.png", "b/line\nbreak.png"]
    names += ["b/notes.txt", "ü/日本 写真.png"]
    for name in reversed(names):
        write_image((tmp_path / name).with_suffix(".png")).rename(tmp_path / name)
    images = cbir.list_images(tmp_path)
    assert images.files == names and images.root == tmp_path.resolve() and len(images) == 8
    assert images.labels == ["", "a", "a", "b", "b", "b", "b", "ü"]
    for i in (2, 5, 7):
        assert rgb(images.path(i)).shape == (30, 40, 3)
    some = images[np.array([3, 0])]
    assert (some.files, some.labels) == (["b/2.png", "0.png"], ["b", ""])


def test_what_is_no_image_of_the_users_is_left_out_and_counted(tmp_path):
    root = tmp_path / ".hidden parents" / "do not matter"
    for name in ["a/1.png", "a/.2.png", ".b/3.png", "a/.c/d/4.png", ".DS_Store.png"]:
        write_image(root / name)
    foreign = ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "__MACOSX"]
    for folder in foreign:
        write_image(root / "a" / folder / "b.jpg" / "SYNOPHOTO_THUMB_XL.jpg")
    images = ["a.JPG", "a/1.png", "b.heic", "c", "d.tiff"]  # damaged ones, or unknown to Pillow
    others = ["a.jpg~", "#a.jpg#", "b.jpg.part", "c.jpg.BAK", "x.txt", "y.TXT", "photo.dat"]
    for name in {*images, *others} - {"a/1.png"}:
        (root / name).write_text("no image")
    files = cbir.list_images(root)
    assert {"x.txt", *images} < set(files.files)
    split = files.images_only()
    assert split.files == images
    counts = {"hidden": 4, "backups": 4, ".txt": 2, ".dat": 1}
    assert split.skipped == dict.fromkeys(foreign, 1) | counts


@pytest.mark.posix
def test_links(tmp_path):
    """To a file: followed. To a folder: not, or it might never end. To nothing: unreadable."""
    write_image(tmp_path / "images" / "1.png")
    write_image(tmp_path / "elsewhere" / "2.png")
    links = {"link.png": "1.png", "folder": "../elsewhere", "up": "..", "broken.png": "nothing"}
    for name, target in links.items():
        (tmp_path / "images" / name).symlink_to(target)
    images = cbir.list_images(tmp_path / "images")
    assert images.files == ["1.png", "broken.png", "link.png"]
    row, image = cbir.open_first(images, [1, 2])
    assert (row, image.size) == (2, (40, 30))
    with pytest.raises(cbir.UnreadableImage, match="none of 1 images.*broken.png: no such file"):
        cbir.open_first(images, [1])


def test_a_list_of_files_keeps_its_order_and_takes_labels_below_the_common_folder(tmp_path):
    names = ["c/2.png", "a/1.png", "a/b/3.png"]
    files = [write_image(tmp_path / name) for name in names]
    images = cbir.list_images(files)
    assert (images.files, images.labels) == (names, ["c", "a", "a"])
    assert cbir.list_images([str(f) for f in files]) == images == cbir.list_images(images)
    assert cbir.list_images(files[:1]).labels == [""]


def test_what_is_not_there_is_an_error(tmp_path):
    write_image(tmp_path / "photos" / "1.png")
    (tmp_path / "empty" / "folders").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="did you mean 'photos'"):
        cbir.list_images(tmp_path / "fotos")
    with pytest.raises(FileNotFoundError, match="1.png .it is a file"):
        cbir.list_images(tmp_path / "photos" / "1.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 .*2.png"):
        cbir.list_images([tmp_path / "photos" / "1.png", tmp_path / "2.png"])
    for nothing in (tmp_path / "empty", []):
        with pytest.raises(ValueError, match="no files.*give a folder that has images in it"):
            cbir.list_images(nothing)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, bits, color, rows, *chunks):
    """A PNG by hand: chunks are (kind, body) before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = b"".join(chunk(*about) for about in chunks) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode, color, expected", MODES)
def test_modes(tmp_path, mode, color, expected):
    for suffix in ("jpg", "tif") if mode == "CMYK" else ("png",):
        Image.new(mode, (5, 4), color).save(tmp_path / f"a.{suffix}")
        pixels = rgb(tmp_path / f"a.{suffix}")
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, (4, 5, 3)), atol=3)
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)  # 16 bits keep their gradient
    Image.fromarray(values).save(tmp_path / "16.png")
    assert rgb(tmp_path / "16.png")[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("mode", ["La", "PA", "RGBa", "LAB", "HSV", "YCbCr", "RGBX", "CMYK"])
def test_odd_modes_of_open_images(mode):
    """White where they are transparent; never an error of Pillow's."""
    image = cbir.open_image(Image.new(mode, (2, 2)))
    assert image.mode == "RGB" and (mode[-1] not in "aA" or image.getpixel((0, 0)) == (255,) * 3)


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_is_white_whatever_the_depth(tmp_path, kind):
    bits, color, row, transparent = TRANSPARENT[kind]
    chunks = [(b"tRNS", transparent)] if transparent else []
    (tmp_path / "a.png").write_bytes(png(2, 1, bits, color, b"\0" + row, *chunks))
    first, second = rgb(tmp_path / "a.png")[0]
    assert first.tolist() == [255, 255, 255] and second.max() < 210


def gray_profile(gamma):
    """A monochrome profile: values are light to the power of 1 / gamma (ICC.1, 8.3)."""
    white = struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, int(gamma * 256))
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    about = (192, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    head = struct.pack(">I4sI4s4s4s12x4s28x", *about) + white
    return head.ljust(128, b"\0") + tags + b"XYZ \0\0\0\0" + white + curve


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tif"])
def test_colours_are_those_of_the_profile(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    picture = Image.new("RGB", (16, 16), (250, 10, 10))
    for profile in (SWAPPED, SRGB, b"no profile", SRGB[:300], gray_profile(1.0)):
        picture.save(path, icc_profile=profile, **options)
        expected = (10, 250, 10) if profile is SWAPPED else (250, 10, 10)
        np.testing.assert_allclose(rgb(path)[8, 8], expected, atol=5)
    again = cbir.open_image(cbir.open_image(path))  # converted once
    np.testing.assert_array_equal(np.asarray(again), rgb(path))


def turned(orientation):
    exif = Image.Exif()
    exif.update({0x0112: orientation, 0x010E: "turned"})  # AVIF would keep the turn alone elsewhere
    return exif


def test_heic_is_read_as_a_viewer_shows_it(tmp_path):
    """A picture as telephones keep it: left half red, right half blue, stored lying on its side."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is missing: make check")
    pixels = np.tile(np.repeat(np.uint8([[200, 30, 30], [30, 30, 200]]), 48, axis=0), (64, 1, 1))
    lying = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    path = tmp_path / "photo.heic"
    pillow_heif.from_pillow(lying).save(path, quality=95, exif=turned(6).tobytes())
    picture = rgb(path)
    assert picture.shape == (64, 96, 3)
    halves = picture[:, :40].mean(axis=(0, 1)), picture[:, 56:].mean(axis=(0, 1))
    np.testing.assert_allclose(halves, [(200, 30, 30), (30, 30, 200)], atol=12)
    with pytest.raises(cbir.UnreadableImage, match="96 x 64|64 x 96"):
        cbir.open_image(path, max_pixels=1000)


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    """Told by the file's first bytes, whatever its name."""
    monkeypatch.setattr(module, "KNOWS_HEIC", False)
    monkeypatch.setattr(module, "FORMATS", [name for name in module.FORMATS if name != "HEIF"])
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(cbir.UnreadableImage, match=r"pip install 'cbir\[heic\]'"):
        cbir.open_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_damaged_metadata_does_not_cost_the_pixels(tmp_path, suffix):
    """The picture, turned or not, wherever its EXIF block is hit."""
    path = write_image(tmp_path / f"a.{suffix}", (24, 16), exif=turned(6))
    data = path.read_bytes()
    if suffix == "tif":
        at, size = data.index(struct.pack("<HHI", 0x0112, 3, 1)) + 2, 10
    else:
        at, size = max(data.find(b"MM\0*"), data.find(b"II*\0")), 14
    upright = rgb(path)
    rng, unturned = np.random.default_rng(0), 0
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[at + rng.integers(size)] = rng.integers(256)
        path.write_bytes(damaged)
        pixels = rgb(path)
        if suffix == "webp":
            np.testing.assert_array_equal(np.asarray(cbir.open_image(Image.open(path))), pixels)
        unturned += pixels.shape == (16, 24, 3)
        assert pixels.shape == (16, 24, 3) or (pixels == upright).all()
    assert upright.shape == (24, 16, 3)
    assert unturned > 5 or suffix == "avif"  # whose turn is kept elsewhere as well


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("marker, body", SEGMENTS)
def test_a_jpeg_with_a_damaged_segment_beside_its_pixels(tmp_path, mode, marker, body):
    """Adobe's own segment, which tells how colours are coded, is kept."""
    pixels = np.kron(np.arange(12).reshape(3, 4) * 20, np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").convert(mode).save(tmp_path / "a.jpg")
    data, whole = (tmp_path / "a.jpg").read_bytes(), rgb(tmp_path / "a.jpg")
    segment = bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    np.testing.assert_array_equal(rgb(tmp_path / "a.jpg"), whole)


def test_a_png_with_wrong_checksums_beside_its_pixels(tmp_path):
    text = (b"tEXt", b"comment\0" + b"c" * 40)
    data = png(2, 1, 8, 0, b"\0\x07\x63", text, (b"tRNS", b"\0\x07"))
    (tmp_path / "a.png").write_bytes(data.replace(b"cccc", b"cdcc", 1))
    assert rgb(tmp_path / "a.png")[0, :, 0].tolist() == [255, 99]


JPEGS = [{}, {"progressive": True}, {"restart_marker_blocks": 2}]
JPEGS += [{"quality": 95, "subsampling": 0, "exif": turned(6)}]


@pytest.mark.parametrize("options", JPEGS, ids=lambda options: " ".join(options) or "plain")
def test_a_jpeg_that_lacks_only_its_end_is_read(tmp_path, options):
    """And refused if pixels are missing: cut after any byte, it is read as it was or not at all."""
    colors = np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    pixels = np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", **options)
    data, whole, read = (tmp_path / "a.jpg").read_bytes(), rgb(tmp_path / "a.jpg"), []
    for cut in [*range(1, 40), *range(40, len(data) - 300, 17)]:
        (tmp_path / "a.jpg").write_bytes(data[:-cut])
        try:
            np.testing.assert_array_equal(rgb(tmp_path / "a.jpg"), whole)
            read.append(cut)
        except cbir.UnreadableImage:
            pass
    assert {1, 2} <= {*read} and max(read) < 20


def test_a_tiff_of_another_kind_says_which_and_what_to_do(tmp_path):
    Image.new("LA", (4, 4)).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    for layout, old, new, kind in [
        ("<HHIHH", (258, 3, 2, 8, 8), (258, 3, 2, 16, 16), "2 samples of 16 bits"),
        ("<HHIH", (259, 3, 1, 1), (259, 3, 1, 34892), "compression"),
    ]:
        old, new = struct.pack(layout, *old), struct.pack(layout, *new)
        (tmp_path / "b.tif").write_bytes(data.replace(old, new))
        with pytest.raises(cbir.UnreadableImage, match=f"a TIFF of a kind .*{kind}.*8-bit RGB"):
            cbir.open_image(tmp_path / "b.tif")


def test_all_photographs_open(photos):
    for name in ("caltech", "imagenette"):
        images = cbir.list_images(photos / name)
        for i in np.random.default_rng(0).choice(len(images), 200, replace=False):
            assert min(rgb(images.path(i)).shape[:2]) > 10
