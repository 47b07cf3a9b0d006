"""Images of a folder or a CSV: listing them, and opening a file as a viewer shows it."""

import csv
import errno
import io
import os
import random
import re
import stat
import struct
import threading
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, TiffImagePlugin

from .common import AnyPath, did_you_mean

# Formats of photographs, decoded in this process; Pillow would give EPS to Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")  # photographs of telephones
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_PIXELS = 100_000_000  # 300 MB as RGB; anything larger is taken for a decompression bomb
MAX_BYTES = 1_000_000_000  # more than that many pixels take in any format
MAX_MENDED = 200_000_000  # bytes of a damaged file that is tried again: it is in memory twice
MAX_RATIO = 1000  # of the sides: a resize by the shorter one enlarges the longer one as much
MAX_HEAD = 16_000_000  # bytes of a JPEG's metadata, which Pillow joins in quadratic time
# Pixels times scans of a JPEG (a progressive one has about ten); each scan passes over all pixels.
MAX_SCANNED = 20 * MAX_PIXELS
MAX_SLOW = 5_000_000  # pixels of the few variants that Pillow decodes in Python, byte by byte
# Pixels. Decoding takes up to 20 bytes a pixel: larger images are decoded one at a time, larger
# tiles of a TIFF not at all.
LARGE = 25_000_000
BITS, COMPRESSION, SAMPLES, TILE_WIDTH, TILE_LENGTH = 258, 259, 277, 322, 323  # tags of a TIFF
TIFF_PIXELS = {*range(254, 267), 273, *range(277, 280), 284, 292, 293, 317, *range(320, 326)}
TIFF_PIXELS |= {332, 338, 339, 347, 34675, *range(512, 533)}  # what decoding needs
# Folders of a NAS, of a trash, of an archive: they hold thumbnails and what was deleted.
FOREIGN_FOLDERS = {"@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx"}
FOREIGN_FOLDERS |= {"$recycle.bin", "recycler", "system volume information", "lost+found"}
FOREIGN_FOLDERS |= {"recycled", "found.000", "@tmp", "network trash folder", "temporary items"}
# Of editors; of browsers, which are not through.
BACKUP = re.compile(r".*~|#.*#|.*\.(bak|orig|part|partial|crdownload|download|tmp)", re.I | re.S)

_one_large = threading.Lock()

GONE = "no such file"
# Reasons that may pass: of a disk that was away, say.
MAY_PASS = {GONE} | {f"{type(OSError(n, '')).__name__}: {os.strerror(n)}" for n in errno.errorcode}
NEEDS_HEIC = "a HEIC image: pip install 'cbir[heic]' to read it"
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS += ("HEIF",)
KNOWS_HEIC = "HEIF" in FORMATS

# Pillow's warnings on odd files would fill the screen; `open_image` raises what matters of them.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(ValueError):
    """A file that cannot be read as an image; the message is the reason."""


def may_pass(reason: str) -> bool:
    """Tells whether what kept an image from being read may be over by now."""
    return reason in MAY_PASS or (KNOWS_HEIC and NEEDS_HEIC in reason)


def open_image(path: AnyPath | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file the way a viewer shows it, in RGB.

    An animation gives its first frame. The image is turned as its EXIF tag says, converted to sRGB
    by its colour profile, laid over white where it is transparent, and 16 bits are reduced to 8. If
    its metadata is damaged, or if it is a JPEG that lacks only its end, the pixels are read.

    Args:
        path: the file, in one of `FORMATS`, of at most `MAX_BYTES`; or an image that is open.
        max_pixels: a file with more is refused, and so is one with a side over `MAX_RATIO` times
            the other.

    Raises:
        UnreadableImage: with the reason.
    """
    try:
        if isinstance(path, Image.Image):
            path.load()
            with suppress(SyntaxError, struct.error):  # of damaged metadata: it stays unturned
                path = ImageOps.exif_transpose(path)
            return _to_rgb(path)
        if not os.path.isfile(path):
            raise UnreadableImage("no regular file" if os.path.exists(path) else GONE)
        nonblock = getattr(os, "O_NONBLOCK", 0)  # not to wait for a pipe put there a moment ago
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblock)) as file:
            try:
                size = os.fstat(file.fileno()).st_size
                _refuse_if(not stat.S_ISREG(os.fstat(file.fileno()).st_mode), "no regular file")
                _refuse_if(size == 0, "empty file")
                _refuse_if(size > MAX_BYTES, f"{size:,} bytes, more than {MAX_BYTES:,}")
                return _decode(file, max_pixels)
            except UnreadableImage:
                raise
            except Exception as error:  # Pillow's decoders raise many kinds on damaged data
                return _mend(file, max_pixels, error)
    except UnreadableImage:
        raise
    except Exception as error:
        raise _in_words(error) from error


def _refuse_if(condition: bool, reason: str) -> None:
    if condition:
        raise UnreadableImage(reason)


def _first_bytes(file: BinaryIO, n: int = -1) -> bytes:
    """The first n bytes of a file, or all of them."""
    file.seek(0)
    return file.read(n)


def _decode(file: BinaryIO, max_pixels: int, metadata: bool = True) -> Image.Image:
    """Decodes a file; without `metadata` the image stays unturned."""
    with _read_header(file) as image:
        _check_cost(image, file, max_pixels)
        if not metadata:  # a TIFF's pixels are turned by `load` itself
            image.getexif = Image.Exif  # type: ignore[method-assign]
        with _one_large if image.width * image.height > LARGE else nullcontext():
            if getattr(image, "default_image", False):  # an APNG's, for those that show no frames
                image.seek(1)
            _scale_transparency(image)
            drawn = image.tile[0][1] if image.format == "GIF" else None
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            rgb = _to_rgb(image)
            if drawn:  # the rest of a GIF's canvas is transparent
                frame, rgb = rgb.crop(drawn), Image.new("RGB", rgb.size, "white")
                rgb.paste(frame, drawn)
            return rgb


def _read_header(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image with its header read and no pixel yet; a JPEG's lies in MAX_HEAD bytes."""
    if _first_bytes(file, 2) == b"\xff\xd8" and file.seek(0, os.SEEK_END) > MAX_HEAD:
        try:
            Image.open(io.BytesIO(_first_bytes(file, MAX_HEAD)), formats=["JPEG"]).close()
        except OSError as error:
            reason = f"a JPEG damaged, or with more than {MAX_HEAD:,} bytes of metadata"
            raise UnreadableImage(reason) from error
    file.seek(0)
    return Image.open(file, formats=FORMATS)


def _check_cost(image: ImageFile.ImageFile, file: BinaryIO, max_pixels: int) -> None:
    """Raises UnreadableImage for an image that would take too long or too much memory."""
    pixels, size = image.width * image.height, f"{image.width} x {image.height} pixels"
    _refuse_if(pixels > max_pixels, f"{size}, more than {max_pixels:,}")
    elongated = max(image.size) > MAX_RATIO * min(image.size)
    _refuse_if(elongated, f"{size}, one side more than {MAX_RATIO} times the other")
    if image.format in ("JPEG", "MPO"):
        scans = _first_bytes(file, MAX_BYTES).count(b"\xff\xda")  # no scan holds it inside
        _refuse_if(pixels * scans > MAX_SCANNED, f"a JPEG of {scans} scans over {pixels:,} pixels")
    slow = bool(image.tile) and image.tile[0][0] in Image.DECODERS and pixels > MAX_SLOW
    _refuse_if(slow, f"a run-length encoded BMP or plain PPM of more than {MAX_SLOW:,} pixels")
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    tile = tags.get(TILE_WIDTH, 0) * tags.get(TILE_LENGTH, 0)
    _refuse_if(tile > LARGE, f"a TIFF with tiles of more than {LARGE:,} pixels")


def _mend(file: BinaryIO, max_pixels: int, error: Exception) -> Image.Image:
    """Reads the pixels of a damaged file if they are all there; else raises the error in words."""
    if file.seek(0, os.SEEK_END) <= MAX_MENDED:
        data = _first_bytes(file)
        read = _read_cut_jpeg if data.startswith(b"\xff\xd8") else _decode
        for metadata in (True, False):
            with suppress(Exception):  # the reason is that of the first attempt
                known = data if metadata else _without_metadata(data)
                return read(io.BytesIO(known), max_pixels, metadata)
    raise _in_words(error, file) from error


def _read_cut_jpeg(file: io.BytesIO, max_pixels: int, metadata: bool) -> Image.Image:
    """Decodes a JPEG that may lack its end; raises an error if it lacks pixels.

    libjpeg makes up missing pixels from whatever comes next: several endings give the same picture
    only if every pixel is there.
    """
    data = file.getvalue().removesuffix(b"\xff")  # half of a marker
    with Image.open(file, formats=["JPEG"]) as header:
        layers = header.layer  # type: ignore[attr-defined]
    # (component, first or last coefficient) that no scan gives to its last bit
    inexact = {(layer[0], coefficient) for layer in layers for coefficient in (0, 63)}
    for scan in re.finditer(rb"\xff\xda..([\1-\4])", data, re.DOTALL):
        at = scan.end() + 2 * scan[1][0]
        if not data[at + 2] & 15:
            inexact -= {(i, c) for i in data[scan.end() : at : 2] for c in data[at : at + 2]}
    if inexact:
        raise ValueError("scans are missing")
    image = _decode(io.BytesIO(data + b"\xff\xd9"), max_pixels, metadata)
    for seed in range(8):
        noise = random.Random(seed).randbytes(200).replace(b"\xff", b"")
        ending = noise.join([b"", *(bytes([255, 0xD0 + (seed + i) % 8]) for i in range(8)), b""])
        if _decode(io.BytesIO(data + ending + b"\xff\xd9"), max_pixels, metadata) != image:
            raise ValueError("pixels are missing")
    return image


def _without_metadata(data: bytes) -> bytes:
    """Removes or hides what lies beside the pixels and keeps Pillow from opening the file."""
    if data.startswith(b"\x89PNG"):
        kept, at = [data[:8]], 8
        while at + 12 <= len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            kind = data[at + 4 : at + 8]
            if kind[:1].isupper() or kind == b"tRNS":  # critical chunks have a capital
                kept.append(data[at:end])
            at = end
        return b"".join(kept)
    if data.startswith(b"\xff\xd8"):  # comments instead; but Adobe's tells how colours are coded
        head, mark, scans = data.partition(b"\xff\xda")
        segments = rb"\xff(?:[\xe0-\xed\xef]|\xee(?=\0[\2-\r]))"
        return re.sub(segments, b"\xff\xfe", head) + mark + scans
    if data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data.startswith(b"II") else ">"
        mended = bytearray(data)
        (at,) = struct.unpack_from(order + "I", data, 4)
        (n,) = struct.unpack_from(order + "H", data, at)
        for entry in range(at + 2, at + 2 + 12 * n, 12):
            if struct.unpack_from(order + "H", data, entry)[0] not in TIFF_PIXELS:
                struct.pack_into(order + "HIHH", mended, entry + 2, 3, 1, 1, 0)  # one SHORT
        return bytes(mended)
    head, mark, pixels = data.partition(b"mdat")  # AVIF, HEIC: items of other types are passed over
    return head.replace(b"Exif", b"none") + mark + pixels if data[4:8] == b"ftyp" else data


def _in_words(error: Exception, file: BinaryIO | None = None) -> UnreadableImage:
    """Tells the user the reason behind an error of Pillow's."""
    start = _first_bytes(file, 16) if file else b""
    unknown = isinstance(error, Image.UnidentifiedImageError)
    perhaps_odd = unknown or not isinstance(error, OSError)  # which tells of damage
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and not KNOWS_HEIC:
        reason = NEEDS_HEIC
    elif perhaps_odd and (kind := _tiff_kind(start, file)):
        reason = f"a TIFF of a kind that cannot be read ({kind}): save it as 8-bit RGB"
    elif unknown:
        reason = f"not an image, or none of {', '.join(FORMATS)}"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"more than {MAX_PIXELS:,} pixels"
    else:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {words}"
    return UnreadableImage(reason)


def _tiff_kind(start: bytes, file: Any) -> str:
    """Names the kind of an odd TIFF, "2 samples of 16 bits"; "" for any other file."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start[: 16 if b"+" in start[:4] else 8])
        file.seek(tags.next)
        tags.load(file)
        bits, samples = tags.get(BITS, (1,)), tags.get(SAMPLES, 1)
        compression = tags.get(COMPRESSION, 1)
    except Exception:
        return ""
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"compression {compression}"
    ordinary = samples in (1, 3, 4) and set(bits) == {8}
    return "" if ordinary else f"{samples} sample{'s' * (samples != 1)} of {max(bits)} bits"


SRGB = ImageCms.createProfile("sRGB")
MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}  # by a profile's colour space
LEVELS = np.indices((6, 6, 6), np.uint8).reshape(3, 216).T * 51
PROBE = Image.frombytes("RGB", (216, 1), LEVELS.tobytes())


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Puts the transparent colour of a PNG on the scale of the pixels that Pillow reads."""
    if image.format == "PNG" and "transparency" in image.info:
        value, stored = image.info["transparency"], str(image.tile[0][3])
        if stored == "RGB;16B":
            value = tuple(level >> 8 for level in value)
        image.info["transparency"] = value * {"L;2": 85, "L;4": 17}.get(stored, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: sRGB by the colour profile, over white, 8 bits."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several names for it
        values = np.asarray(image, dtype=np.int64)
        beyond = values.min() < 0 or values.max() > 65535
        _refuse_if(beyond, "integers beyond 16 bits: no agreed grey scale")
        if "transparency" in image.info:
            alpha = Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255)
        image = Image.fromarray((values // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImage("floating-point pixels: no agreed grey scale")
    elif image.has_transparency_data:
        if image.mode == "La":  # premultiplied grey, which Pillow converts to LA alone
            image = image.convert("LA")
        alpha = image.convert("RGBA").getchannel("A")
        gray = image.mode in ("1", "L", "LA")
        image = image.convert("L") if gray else image.convert("RGBA").convert("RGB")
    rgb = _to_srgb(image, profile)
    if alpha:
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
    rgb.info = {}  # the turn and the profile have been applied
    return rgb


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Converts to sRGB, by a colour profile if it parses and fits the image; a new image."""
    with suppress(ImageCms.PyCMSError, OSError, KeyError, ValueError):
        lab = image.mode == "LAB"
        source = ImageCms.createProfile("LAB") if lab else io.BytesIO(icc or b"")
        profile = ImageCms.ImageCmsProfile(source).profile
        mode = MODES[profile.xcolor_space]
        fits = {"L": image.mode in ("1", "L"), "RGB": image.mode not in ("CMYK", "LAB")}
        if fits.get(mode, image.mode == mode):
            transform = ImageCms.buildTransform(profile, SRGB, mode, "RGB")
            if mode == "RGB":  # most profiles are sRGB, and need no pass over the pixels
                changed = np.asarray(ImageCms.applyTransform(PROBE, transform), np.int16) - LEVELS
                if abs(changed).max() <= 1:
                    return image.convert("RGB")
            return ImageCms.applyTransform(image.convert(mode), transform) or image
    return image.convert("RGB")


AnyImages = TypeVar("AnyImages", bound="Images")


@dataclass(eq=False)
class Images:
    """The interface that an `ImageSet` and a `Store` share; see `ImageSet`."""

    root: Path
    files: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, i: int) -> Path:
        """The file of image `i`, where it lies (or lay, when it was described)."""
        return self.root / self.files[i]


@dataclass
class ImageSet(Images):
    """Images of a folder.

    Attributes:
        root: the folder.
        files: names relative to `root`, with forward slashes; sorted if a folder was listed.
        labels: class names, "" if unknown.
        split: what a CSV says of each image, such as "database" or "query"; "" otherwise.
        skipped: counts of what was left out, {"@eaDir": 3, "backups": 1, "hidden": 2, ".txt": 1};
            a folder that was not looked into counts once.
    """

    skipped: dict[str, int] = field(default_factory=dict, compare=False)
    split: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.split = self.split or [""] * len(self.files)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.integer]) -> "ImageSet":
        """The images of some rows, in the order of the rows."""
        columns = self.files, self.labels, self.split
        files, labels, split = ([column[i] for i in rows] for column in columns)
        return replace(self, files=files, labels=labels, split=split)

    def images_only(self) -> "ImageSet":
        """Leaves out files whose suffix is no image's; files without a suffix stay.

        `skipped` of the result has the number of others of each suffix, too.
        """
        suffixes = [PurePosixPath(file).suffix.lower() for file in self.files]
        formats = Image.registered_extensions() | {".mpo": "JPEG"}  # a JPEG with more of them
        known = {*HEIC_SUFFIXES, *(suffix for suffix in formats if formats[suffix] in FORMATS)}
        others = {s for s in suffixes if re.fullmatch(r"\.[a-z]\w*", s)} - known
        skipped = Counter(self.skipped) + Counter(s for s in suffixes if s in others)
        rows = [row for row, suffix in enumerate(suffixes) if suffix not in others]
        return replace(self[rows], skipped=dict(sorted(skipped.items())))


class Pictures(Images):
    """Images some of which are in memory: `path` gives the picture itself, for `open_image`."""

    def __init__(self, pictures: Sequence[AnyPath | Image.Image]) -> None:
        self.root = Path()
        self.pictures = pictures
        self.files = [f"picture {number}" for number in range(1, len(pictures) + 1)]
        self.labels = [""] * len(pictures)

    def path(self, i: int) -> Any:
        """Image `i`, or its file."""
        return self.pictures[i]


@overload
def list_images(images: AnyImages) -> AnyImages: ...
@overload
def list_images(images: AnyPath | Iterable[AnyPath]) -> ImageSet: ...
def list_images(images: Images | AnyPath | Iterable[AnyPath]) -> Images:
    """Lists the images of a folder or of a CSV, or takes a list of files.

    A folder is listed to any depth, without hidden files and folders, `FOREIGN_FOLDERS`, backups
    ("a.jpg~"), unfinished downloads ("a.jpg.part") and links to folders; files that cannot be read
    are listed like all others. The root of a list of files is their common folder. A label is the
    first folder below the root, "" if there is none. An `ImageSet` or a store is returned as it is.

    A file named .csv has a column `path`, relative to its folder or absolute, and may have `label`
    (the class) and `split`; each of its lines is an image, whether the file is there or not.

    Example:
        >>> images = list_images("photos")
        >>> images.files[0], images.labels[0]  # doctest: +SKIP
        ('cat/1.jpg', 'cat')

    Raises:
        FileNotFoundError: the folder or a file does not exist.
        ValueError: there are no files; a CSV without `path`, damaged, or not in UTF-8.
    """
    if isinstance(images, Images):
        return images
    skipped: Counter[str] = Counter()
    if isinstance(images, (str, os.PathLike)):
        if is_csv(images):
            return _list_csv(Path(images).expanduser())
        root = Path(images).expanduser().resolve()
        if not root.is_dir():
            siblings = [path.name for end in ("*/", "*.csv") for path in root.parent.glob(end)]
            hint = " (it is a file)" if root.exists() else did_you_mean(root.name, siblings)
            raise FileNotFoundError(f"no image folder, or CSV of images, at {root}{hint}")
        files = sorted(Path(f).relative_to(root).as_posix() for f in _below(root, skipped))
    else:
        paths = [Path(os.path.abspath(os.path.expanduser(p))) for p in images]
        if missing := [p for p in paths if not p.is_file()]:
            count = f"{len(missing)} of {len(paths)} image files do not exist"
            raise FileNotFoundError(f"{count}, first {missing[0]}")
        root = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
        files = [p.relative_to(root).as_posix() for p in paths]
    if not files:
        raise ValueError(f"no files in {images}: give a folder that has images in it or below it")
    labels = [file.rpartition("/")[0].split("/")[0] for file in files]
    return ImageSet(root, files, labels, dict(sorted(skipped.items())))


def is_csv(path: AnyPath) -> bool:
    """Tells whether a path is that of a CSV of images."""
    path = Path(path).expanduser()
    return path.suffix.lower() == ".csv" and path.is_file()


def _list_csv(path: Path) -> ImageSet:
    """Lists the lines of a CSV; blank ones are none."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            columns, *lines = [*filter(any, reader)] or [[""]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV in UTF-8 ({error}): save it as one") from error
    columns = [column.strip() for column in columns]
    if "path" not in columns:
        raise ValueError(f"{path} has no column 'path', only {', '.join(map(repr, columns))}")
    if longer := next((line for line in lines if any(line[len(columns) :])), None):
        values = f"a line of {path} has {len(longer)} values for {len(columns)} columns: {longer}"
        raise ValueError(f"{values}: quote those that hold a comma")
    rows = [dict(zip_longest(columns, line, fillvalue="")) for line in lines]
    if not rows:
        raise ValueError(f"no images in {path}: give it a line per image")
    root = path.parent.resolve()
    files = [_relative(root, row["path"]) for row in rows]
    labels, split = ([row.get(name, "").strip() for row in rows] for name in ("label", "split"))
    return ImageSet(root, files, labels, split=split)


def _relative(root: Path, file: str) -> str:
    """A path as a CSV has it, relative to the CSV's folder if it lies below."""
    if "\\" in file or not file.isascii():
        # Windows has other slashes, and of an accent each system has its own form.
        others = (unicodedata.normalize(f, file.replace("\\", "/")) for f in ("NFC", "NFD"))
        file = next((f for f in (file, *others) if os.path.exists(root / f)), file)
    path = PurePath(file)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _below(root: Path, skipped: Counter[str]) -> Iterator[AnyPath]:
    """Yields all files below a folder, and counts what it skips."""
    folders: list[AnyPath] = [root]
    for folder in folders:  # they may lie deeper than Python can call
        try:
            entries = list(os.scandir(folder))
        except OSError:  # no permission, or too long a path
            if folder == root:
                raise
            yield folder
            continue
        for entry in entries:
            name = entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if name.startswith("."):
                skipped["hidden"] += 1
            elif is_folder and name.casefold() in FOREIGN_FOLDERS:
                skipped[name] += 1
            elif is_folder:
                folders.append(entry.path)
            elif BACKUP.fullmatch(name):
                skipped["backups"] += 1
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                yield entry.path


def open_first(images: Images, rows: Sequence[int]) -> tuple[int, Image.Image]:
    """Opens the first image of some rows that can be read: the row and its image in RGB.

    Raises:
        UnreadableImage: none can be read.
    """
    reason = ""
    for row in rows:
        try:
            return row, open_image(images.path(row))
        except UnreadableImage as error:
            reason = reason or f", first {images.files[row]}: {error}"
    raise UnreadableImage(f"none of {len(rows)} images can be read{reason}")
