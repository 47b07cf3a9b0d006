"""Images of a folder: listing them, their labels, opening the first that can be read."""

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

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
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of a TIFF

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

    An animation gives its first frame. The image is turned as its EXIF tag says, laid over white
    where it is transparent, and 16 bits are reduced to 8.

    Args:
        path: the file, in one of `FORMATS`, of at most `MAX_BYTES`; or an image that is open, which
            is turned and laid over white as well.
        max_pixels: a larger image is refused, and so is one with a side more than `MAX_RATIO`
            times the other.

    Returns:
        The image in RGB.

    Raises:
        UnreadableImage: with the reason.
    """
    try:
        if isinstance(path, Image.Image):
            return _to_rgb(ImageOps.exif_transpose(path))
        with _open_regular(path) as file, _read_header(file) as image:
            _check_cost(image, file, max_pixels)
            large = image.width * image.height > LARGE
            with _one_large if large else nullcontext():
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def image_suffixes() -> set[str]:
    """The suffixes of image files, in lower case: those of `FORMATS`, and HEIC's."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    return known.union(HEIC_SUFFIXES, [".mpo"])  # which is a JPEG with more of them


def _open_regular(path: AnyPath) -> io.BufferedReader:
    """Opens a regular file; a pipe, put there meanwhile too, is refused without waiting."""
    if not os.path.isfile(path):
        raise UnreadableImage("no regular file")
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


def _read_header(file: io.BufferedReader) -> ImageFile.ImageFile:
    """Pillow's image with its header read and no pixel yet; a JPEG's lies in MAX_HEAD bytes."""
    is_jpeg = file.peek(2).startswith(b"\xff\xd8")
    if is_jpeg and os.fstat(file.fileno()).st_size > MAX_HEAD:
        try:
            Image.open(io.BytesIO(file.read(MAX_HEAD)), formats=["JPEG"]).close()
        except OSError as error:
            raise UnreadableImage(
                f"a JPEG damaged, or with more than {MAX_HEAD:,} bytes of metadata"
            ) from error
        file.seek(0)
    start = file.peek(12)[:12]
    try:
        return Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        if start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS and not KNOWS_HEIC:
            reason = NEEDS_HEIC
        else:
            reason = f"not an image, or none of {', '.join(FORMATS)}"
        raise UnreadableImage(reason) from error


def _check_cost(image: ImageFile.ImageFile, file: io.BufferedReader, max_pixels: int) -> None:
    """Raises UnreadableImage for an image that would take too long or too much memory."""
    size = f"{image.width} x {image.height} pixels"
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise UnreadableImage(f"{size}, more than {max_pixels:,}")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise UnreadableImage(f"{size}, one side more than {MAX_RATIO} times the other")
    if image.format in ("JPEG", "MPO"):
        scans = _count_scans(file)
        if pixels * scans > MAX_SCANNED:
            raise UnreadableImage(f"a JPEG of {scans} scans over {pixels:,} pixels")
    if image.tile and image.tile[0][0] in Image.DECODERS and pixels > MAX_SLOW:
        raise UnreadableImage(
            f"a run-length encoded BMP or plain PPM of more than {MAX_SLOW:,} pixels"
        )
    if isinstance(image, TiffImageFile):
        tile_pixels = image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0)
        if tile_pixels > LARGE:
            raise UnreadableImage(f"a TIFF with tiles of more than {LARGE:,} pixels")


def _count_scans(file: io.BufferedReader) -> int:
    """How many scans a JPEG has at most: its start-of-scan markers, which no scan holds inside."""
    position = file.tell()
    file.seek(0)
    scans = file.read(MAX_BYTES).count(b"\xff\xda")
    file.seek(position)
    return scans


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several names for it
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage("integers beyond 16 bits: no agreed grey scale")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels: no agreed grey scale")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


AnyImages = TypeVar("AnyImages", bound="Images")


@runtime_checkable
class Images(Protocol):
    """What a store has in common with an `ImageSet`, which says what each member is."""

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
        files: names relative to `root`, with forward slashes; sorted where a folder was listed.
        labels: one class name an image, "" for none.
    """

    root: Path
    files: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.integer]) -> "ImageSet":
        """The images of some rows, in the order of the rows."""
        return ImageSet(self.root, [self.files[i] for i in rows], [self.labels[i] for i in rows])

    def path(self, i: int) -> Path:
        """The file of image `i`."""
        return self.root / self.files[i]

    def split_by_suffix(self) -> tuple["ImageSet", dict[str, int]]:
        """Splits the files that may be images from those that are none by their suffix.

        Returns:
            The images, files without a suffix among them; and how many others there are of each
            suffix, {".txt": 3}.
        """
        wanted = image_suffixes()
        rows = []
        others: dict[str, int] = {}
        for row, file in enumerate(self.files):
            suffix = PurePosixPath(file).suffix.lower()
            if not re.fullmatch(r"\.[a-z]\w*", suffix) or suffix in wanted:
                rows.append(row)
            else:
                others[suffix] = others.get(suffix, 0) + 1
        return self[rows], dict(sorted(others.items()))


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
        images: a folder, listed to any depth without what is hidden; or a list of files. An
            `ImageSet` or a store is returned as it is.

    Returns:
        The images. A label is the first folder below the root, "" where there is none. The root
        of a list is the files' common folder.

    Raises:
        FileNotFoundError: the folder or a file does not exist.
        ValueError: there are no files.
    """
    if isinstance(images, Images):
        return images
    if isinstance(images, (str, os.PathLike)):
        root = Path(images).expanduser().resolve()
        if not root.is_dir():
            siblings = [path.name for path in root.parent.glob("*/")]
            hint = " (it is a file)" if root.exists() else did_you_mean(root.name, siblings)
            raise FileNotFoundError(f"no image folder at {root}{hint}")
        files = sorted(Path(file).relative_to(root).as_posix() for file in _below(root))
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
    return ImageSet(root, files, [file.rpartition("/")[0].split("/")[0] for file in files])


def _below(root: Path) -> Iterator[AnyPath]:
    """All files below a folder. A loop: folders may lie deeper than Python can call."""
    folders: list[AnyPath] = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError:  # no permission, or too long a path
            if folder == root:
                raise
            yield folder
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
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
