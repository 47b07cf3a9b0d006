"""Images of a folder: listing them, their labels, and opening a file as a viewer shows it."""

import io
import os
import random
import re
import stat
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, TiffImagePlugin

from .common import AnyPath, did_you_mean

# Formats of photographs, decoded in this process. Pillow would give EPS to Ghostscript, and it
# reads many formats that nobody keeps photographs in.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Photographs of telephones, which a package of their own reads.
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# 300 MB as RGB; anything larger is taken for a decompression bomb.
MAX_PIXELS = 100_000_000
# More than that many pixels take in any format.
MAX_BYTES = 1_000_000_000
# Of a damaged file that is tried again: it is held in memory twice.
MAX_MENDED = 200_000_000
# Of the longer to the shorter side: a resize by the shorter side makes the longer one as much
# larger.
MAX_RATIO = 1000
# Bytes of a JPEG's metadata, which Pillow joins in quadratic time.
MAX_HEAD = 16_000_000
# Pixels times scans of a JPEG (a progressive one has about ten scans). Each is a pass over the
# image, however few its bytes.
MAX_SCANNED = 20 * MAX_PIXELS
# Pixels of the few variants that Pillow decodes in Python, byte by byte.
MAX_SLOW = 5_000_000
# Pixels. Decoding takes up to 20 bytes a pixel: larger images are decoded one at a time, larger
# tiles of a TIFF not at all.
LARGE = 25_000_000
# Tags of a TIFF.
BITS, COMPRESSION, SAMPLES, TILE_WIDTH, TILE_LENGTH = 258, 259, 277, 322, 323
TIFF_PIXELS = {*range(254, 267), 273, *range(277, 280), 284, 292, 293, 317, *range(320, 326)}
TIFF_PIXELS |= {332, 338, 339, 347, 34675, *range(512, 533)}  # what decoding needs
# Folders of a NAS, of a trash, of an archive: they hold thumbnails and what was deleted.
FOREIGN_FOLDERS = ("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot")
FOREIGN_FOLDERS += ("$recycle.bin", "recycler", "system volume information")
FOREIGN_FOLDERS += ("lost+found", "__macosx")

_one_large = threading.Lock()

NEEDS_HEIC = "a HEIC image: pip install 'cbir[heic]' to read it"
try:
    import pillow_heif
except ImportError:
    KNOWS_HEIC = False
else:
    KNOWS_HEIC = True
    pillow_heif.register_heif_opener()
    FORMATS += ("HEIF",)

# Pillow's warnings on odd files would fill the screen. What matters of them is raised by
# `open_image`.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(ValueError):
    """A file that cannot be read as an image; the message is the reason."""


def open_image(path: AnyPath | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file the way a viewer shows it.

    An animation gives its first frame. The image is turned as its EXIF tag says, converted to sRGB
    by its colour profile, laid over white where it is transparent, and 16 bits are reduced to 8. If
    its metadata is damaged, or if it is a JPEG that lacks only its end, the pixels are read.

    Args:
        path: the file, in one of `FORMATS`, of at most `MAX_BYTES`; or an image that is open, which
            is turned, converted and laid over white as well.
        max_pixels: a larger image is refused, and so is one with a side more than `MAX_RATIO`
            times the other.

    Returns:
        The image in RGB.

    Raises:
        UnreadableImage: with the reason.
    """
    try:
        if isinstance(path, Image.Image):
            path.load()
            try:
                return _to_rgb(ImageOps.exif_transpose(path))
            except (SyntaxError, struct.error):  # of damaged metadata: it stays unturned
                return _to_rgb(path)
        with _open_regular(path) as file:
            try:
                return _decode(file, max_pixels)
            except UnreadableImage:
                raise
            except Exception as error:  # Pillow's decoders raise many kinds on damaged data
                if image := _mend(file, max_pixels):
                    return image
                raise _in_words(error, file) from error
    except UnreadableImage:
        raise
    except Exception as error:
        raise _in_words(error) from error


def image_suffixes() -> set[str]:
    """The suffixes of image files, in lower case: those of `FORMATS`, and HEIC's."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    return known.union(HEIC_SUFFIXES, [".mpo"])  # which is a JPEG with more of them


def _open_regular(path: AnyPath) -> io.BufferedReader:
    """Opens a regular file; a pipe, even one put there a moment ago, is refused without waiting."""
    if not os.path.isfile(path):
        raise UnreadableImage("no regular file" if os.path.exists(path) else "no such file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode):
        reason = "no regular file"
    elif about.st_size == 0:
        reason = "empty file"
    elif about.st_size > MAX_BYTES:
        reason = f"{about.st_size:,} bytes, more than {MAX_BYTES:,}"
    else:
        return file
    file.close()
    raise UnreadableImage(reason)


def _decode(file: BinaryIO, max_pixels: int, metadata: bool = True) -> Image.Image:
    """Decodes a file; without its metadata the image stays unturned."""
    with _read_header(file) as image:
        _check_cost(image, file, max_pixels)
        if not metadata:  # a TIFF's pixels are turned by `load` itself
            image.getexif = Image.Exif  # type: ignore[method-assign]
        large = image.width * image.height > LARGE
        with _one_large if large else nullcontext():
            _scale_transparency(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)


def _read_header(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image with its header read and no pixel yet; a JPEG's lies in MAX_HEAD bytes."""
    file.seek(0)
    if file.read(2) == b"\xff\xd8" and file.seek(0, os.SEEK_END) > MAX_HEAD:
        file.seek(0)
        try:
            Image.open(io.BytesIO(file.read(MAX_HEAD)), formats=["JPEG"]).close()
        except OSError as error:
            raise UnreadableImage(
                f"a JPEG damaged, or with more than {MAX_HEAD:,} bytes of metadata"
            ) from error
    file.seek(0)
    return Image.open(file, formats=FORMATS)


def _check_cost(image: ImageFile.ImageFile, file: BinaryIO, max_pixels: int) -> None:
    """Raises UnreadableImage for an image that would take too long or too much memory."""
    size = f"{image.width} x {image.height} pixels"
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise UnreadableImage(f"{size}, more than {max_pixels:,}")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise UnreadableImage(f"{size}, one side more than {MAX_RATIO} times the other")
    if image.format in ("JPEG", "MPO"):
        position = file.tell()
        file.seek(0)
        scans = file.read(MAX_BYTES).count(b"\xff\xda")  # the marker; no scan holds it inside
        file.seek(position)
        if pixels * scans > MAX_SCANNED:
            raise UnreadableImage(f"a JPEG of {scans} scans over {pixels:,} pixels")
    if image.tile and image.tile[0][0] in Image.DECODERS and pixels > MAX_SLOW:
        raise UnreadableImage(
            f"a run-length encoded BMP or plain PPM of more than {MAX_SLOW:,} pixels"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile_pixels = image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0)
        if tile_pixels > LARGE:
            raise UnreadableImage(f"a TIFF with tiles of more than {LARGE:,} pixels")


# ---- damaged files -------------------------------------------------------------------------------


def _mend(file: BinaryIO, max_pixels: int) -> Image.Image | None:
    """Reads the pixels of a damaged file if they are all there; None if not."""
    if file.seek(0, os.SEEK_END) > MAX_MENDED:
        return None
    file.seek(0)
    data = file.read()
    read = _read_cut_jpeg if data.startswith(b"\xff\xd8") else _decode
    for metadata in (True, False):
        try:
            known = data if metadata else _without_metadata(data)
            return read(io.BytesIO(known), max_pixels, metadata)
        except Exception:  # the reason is that of the first attempt
            continue
    return None


def _read_cut_jpeg(file: io.BytesIO, max_pixels: int, metadata: bool) -> Image.Image:
    """Decodes a JPEG that may lack its end; raises an error if it lacks pixels.

    libjpeg makes up the pixels that are missing, from whatever comes next. So several endings give
    the same picture only if every pixel is there.
    """
    data = file.getvalue()
    with Image.open(file, formats=["JPEG"]) as header:
        components = bytes(layer[0] for layer in header.layer)  # type: ignore[attr-defined]
    exact = set()  # (component, coefficient) of those that a scan gives to their last bit
    for scan in re.finditer(rb"\xff\xda..([\1-\4])", data, re.DOTALL):
        at = scan.end() + 2 * scan[1][0]
        if data[at + 2 : at + 3] and not data[at + 2] & 15:
            ids = data[scan.end() : at : 2]
            exact |= {(i, coefficient) for i in ids for coefficient in data[at : at + 2]}
    if not exact >= {(i, coefficient) for i in components for coefficient in (0, 63)}:
        raise ValueError("scans are missing")
    image = _decode(io.BytesIO(data + b"\xff\xd9"), max_pixels, metadata)
    for seed in range(8):
        noise = random.Random(seed).randbytes(200).replace(b"\xff", b"")
        restarts = [bytes([255, marker]) + noise for marker in range(0xD0, 0xD8)]
        ending = noise + b"".join(restarts[seed:] + restarts[:seed]) + b"\xff\xd9"
        if _decode(io.BytesIO(data + ending), max_pixels, metadata) != image:
            raise ValueError("pixels are missing")
    return image


def _without_metadata(data: bytes) -> bytes:
    """Removes or hides what lies beside the pixels and keeps Pillow from opening the file."""
    if data.startswith(b"\x89PNG"):
        kept = [data[:8]]
        at = 8
        while at + 12 <= len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            name = data[at + 4 : at + 8]
            if name[:1].isupper() or name == b"tRNS":  # critical chunks have a capital
                kept.append(data[at:end])
            at = end
        return b"".join(kept)
    if data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data.startswith(b"II") else ">"
        mended = bytearray(data)
        (at,) = struct.unpack_from(order + "I", data, 4)
        (n,) = struct.unpack_from(order + "H", data, at)
        for entry in range(at + 2, at + 2 + 12 * n, 12):
            if struct.unpack_from(order + "H", data, entry)[0] not in TIFF_PIXELS:
                struct.pack_into(order + "HIHH", mended, entry + 2, 3, 1, 1, 0)  # one SHORT
        return bytes(mended)
    if data[4:8] == b"ftyp":  # AVIF, HEIC: an item of another type is passed over
        pixels = data.find(b"mdat")
        return data[:pixels].replace(b"Exif", b"none") + data[pixels:]
    return data


def _in_words(error: Exception, file: BinaryIO | None = None) -> UnreadableImage:
    """Tells the user the reason behind an error of Pillow's."""
    start = b""
    if file is not None:
        file.seek(0)
        start = file.read(16)
    unknown = isinstance(error, Image.UnidentifiedImageError)
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and not KNOWS_HEIC:
        return UnreadableImage(NEEDS_HEIC)
    if start[:2] in (b"II", b"MM") and (unknown or not isinstance(error, OSError)):
        kind = _tiff_kind(start, file)
        if kind:
            return UnreadableImage(
                f"a TIFF of a kind that cannot be read ({kind}): save it as 8-bit RGB"
            )
    if unknown:
        return UnreadableImage(f"not an image, or none of {', '.join(FORMATS)}")
    if isinstance(error, Image.DecompressionBombError):
        return UnreadableImage(f"more than {MAX_PIXELS:,} pixels")
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return UnreadableImage(f"{type(error).__name__}: {reason}")


def _tiff_kind(start: bytes, file: Any) -> str:
    """Names the kind of an odd TIFF, "2 samples of 16 bits"; "" if it is damaged, or ordinary."""
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
    if samples in (1, 3, 4) and set(bits) == {8}:
        return ""
    return f"{samples} sample{'s' * (samples != 1)} of {max(bits)} bits"


# ---- colours -------------------------------------------------------------------------------------

SRGB = ImageCms.createProfile("sRGB")
MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of Pillow, by a profile's colour space


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Puts the transparent colour of a PNG on the scale of the pixels that Pillow reads."""
    if image.format != "PNG" or "transparency" not in image.info:
        return
    value = image.info["transparency"]
    stored = image.tile[0][3]
    if stored in ("L;2", "L;4"):
        image.info["transparency"] = value * (85 if stored == "L;2" else 17)
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in value)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: sRGB by the colour profile, over white, 8 bits."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several names for it
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage("integers beyond 16 bits: no agreed grey scale")
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
    try:
        if image.mode == "LAB":
            mode, profile = "LAB", ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc or b""))
            mode, profile = MODES[source.profile.xcolor_space], source.profile
        gray = image.mode in ("1", "L")
        if (image.mode == "CMYK") != (mode == "CMYK") or (mode == "L" and not gray):
            return image.convert("RGB")
        transform = ImageCms.buildTransform(profile, SRGB, mode, "RGB")
        if mode == "RGB":  # most profiles are sRGB, and need no pass over the pixels
            levels = np.indices((6, 6, 6), np.uint8).reshape(3, 12, 18).transpose(1, 2, 0) * 51
            probe = Image.fromarray(np.ascontiguousarray(levels))
            changed = np.asarray(ImageCms.applyTransform(probe, transform), np.int16) - levels
            if abs(changed).max() <= 1:
                return image.convert("RGB")
        return ImageCms.applyTransform(image.convert(mode), transform) or image  # None: in place
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
        return image.convert("RGB")


# ---- folders -------------------------------------------------------------------------------------

AnyImages = TypeVar("AnyImages", bound="Images")


@runtime_checkable
class Images(Protocol):
    """The interface that an `ImageSet` and a `Store` share; see `ImageSet`."""

    @property
    def root(self) -> Path: ...  # noqa: D102
    @property
    def files(self) -> list[str]: ...  # noqa: D102
    @property
    def labels(self) -> list[str]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def path(self, i: int) -> Path: ...  # noqa: D102


@dataclass(frozen=True)
class ImageSet:
    """Images of a folder.

    Attributes:
        root: the folder.
        files: names relative to `root`, with forward slashes; sorted if a folder was listed.
        labels: the class name of every image, "" if it is unknown.
        skipped: how much of the folder was left out, {"@eaDir": 3, "backups": 1, "hidden": 2,
            ".txt": 1}; a folder that was not looked into counts once.
    """

    root: Path
    files: list[str]
    labels: list[str]
    skipped: dict[str, int] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.integer]) -> "ImageSet":
        """The images of some rows, in the order of the rows."""
        files, labels = ([values[i] for i in rows] for values in (self.files, self.labels))
        return replace(self, files=files, labels=labels)

    def path(self, i: int) -> Path:
        """The file of image `i`."""
        return self.root / self.files[i]

    def split_by_suffix(self) -> tuple["ImageSet", dict[str, int]]:
        """Splits the files that may be images from the others by their suffix.

        Returns:
            The images, files without a suffix among them; and what was left out, `skipped` with the
            number of others of each suffix.
        """
        wanted = image_suffixes()
        rows = []
        skipped = Counter(self.skipped)
        for row, file in enumerate(self.files):
            suffix = PurePosixPath(file).suffix.lower()
            if not re.fullmatch(r"\.[a-z]\w*", suffix) or suffix in wanted:
                rows.append(row)
            else:
                skipped[suffix] += 1
        images = replace(self[rows], skipped=dict(sorted(skipped.items())))
        return images, images.skipped


class Pictures:
    """Images some of which are in memory: `path` gives the picture itself, for `open_image`."""

    def __init__(self, pictures: Sequence[AnyPath | Image.Image]) -> None:
        self.root = Path()
        self.pictures = pictures
        self.files = [f"picture {number}" for number in range(1, len(pictures) + 1)]
        self.labels = [""] * len(pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def path(self, i: int) -> Any:
        """Image `i`, or its file."""
        return self.pictures[i]


@overload
def list_images(images: AnyImages) -> AnyImages: ...
@overload
def list_images(images: AnyPath | Iterable[AnyPath]) -> ImageSet: ...
def list_images(images: Images | AnyPath | Iterable[AnyPath]) -> Images:
    """Lists the images of a folder, or takes a list of files.

    Links to folders are not followed. Files that cannot be read are listed like all others.

    Args:
        images: a folder, listed to any depth; or a list of files. An `ImageSet` or a store is
            returned as it is. Left out and counted are hidden files and folders, folders that a
            NAS, a trash or an archive made (`FOREIGN_FOLDERS`), and backups ("a.jpg~").

    Returns:
        The images. A label is the first folder below the root, "" if there is none. The root of a
        list is the files' common folder.

    Example:
        >>> images = list_images("photos")
        >>> images.files[0], images.labels[0]  # doctest: +SKIP
        ('cat/1.jpg', 'cat')

    Raises:
        FileNotFoundError: the folder or a file does not exist.
        ValueError: there are no files.
    """
    if isinstance(images, Images):
        return images
    skipped: Counter[str] = Counter()
    if isinstance(images, (str, os.PathLike)):
        root = Path(images).expanduser().resolve()
        if not root.is_dir():
            siblings = [path.name for path in root.parent.glob("*/")]
            hint = " (it is a file)" if root.exists() else did_you_mean(root.name, siblings)
            raise FileNotFoundError(f"no image folder at {root}{hint}")
        below = _below(root, skipped)
        files = sorted(Path(file).relative_to(root).as_posix() for file in below)
    else:
        paths = [Path(os.path.abspath(os.path.expanduser(p))) for p in images]
        missing = [p for p in paths if not p.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} image files do not exist, first {missing[0]}"
            )
        root = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
        files = [p.relative_to(root).as_posix() for p in paths]
    if not files:
        raise ValueError(f"no files in {images}: give a folder that has images in it or below it")
    labels = [file.rpartition("/")[0].split("/")[0] for file in files]
    return ImageSet(root, files, labels, dict(sorted(skipped.items())))


def _below(root: Path, skipped: Counter[str]) -> Iterator[AnyPath]:
    """Yields all files below a folder, and counts what it skips."""
    folders: list[AnyPath] = [root]  # a loop: they may lie deeper than Python can call
    while folders:
        folder = folders.pop()
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
            elif name.endswith("~") or re.fullmatch("#.*#", name):  # of editors
                skipped["backups"] += 1
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                yield entry.path


def open_first(images: Images, rows: Sequence[int]) -> tuple[int, Image.Image]:
    """Opens the first of some images that can be read.

    Args:
        images: an `ImageSet` or a store.
        rows: the rows to try, in this order.

    Returns:
        The row and its image in RGB.

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
