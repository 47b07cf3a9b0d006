"""Opening image files that anybody may have made: whatever a file says, time and memory are bounded."""

import io
import os
import stat
import threading
import warnings
from contextlib import nullcontext

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from .common import AnyPath

# Formats of photographs, decoded in this process: Pillow would give EPS to Ghostscript, and reads many that nobody keeps photographs in.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000  # 300 MB as RGB; anything larger is taken for a decompression bomb
MAX_BYTES = 1_000_000_000  # more than that many pixels take in any format
MAX_RATIO = 1000  # of the longer to the shorter side: a resize by the shorter side makes the longer one as much larger
MAX_HEAD = 16_000_000  # bytes of a JPEG's metadata, which Pillow joins in quadratic time
MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans of a JPEG (a progressive one has about ten): each is a pass over the image, however few its bytes
MAX_SLOW = 5_000_000  # pixels of the few variants that Pillow decodes in Python, byte by byte
LARGE = 25_000_000  # pixels: larger images, or tiles of a TIFF, are decoded one at a time or not at all, since decoding takes up to 20 bytes a pixel
_one_large = threading.Lock()

# Pillow's warnings on odd files would fill the screen; what matters of them is raised by `open_image`.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(ValueError):
    """A file that cannot be read as an image; the message is the reason."""


def open_image(path: AnyPath, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image file as `PIL.Image` in RGB, the way a viewer shows it. Raises UnreadableImage with the reason.

    The first frame of an animation; turned as its EXIF tag says; transparency over white; 16 bits reduced to 8. One of `FORMATS`, up to
    `max_pixels`, `MAX_BYTES` and `MAX_RATIO`: whatever the file says, no other program is run, and time and memory are bounded.
    """
    try:
        with _open_regular(path) as file, _open(file) as image:
            pixels, (short, long) = image.width * image.height, sorted(image.size)
            if pixels > max_pixels:
                raise UnreadableImage(f"{image.width} x {image.height} pixels, more than {max_pixels:,}")
            if long > MAX_RATIO * short:
                raise UnreadableImage(f"{image.width} x {image.height} pixels, one side more than {MAX_RATIO} times the other")
            if image.format in ("JPEG", "MPO") and pixels * (scans := _scans(file)) > MAX_SCANNED:
                raise UnreadableImage(f"a JPEG of {scans} scans over {pixels:,} pixels")
            if image.tile and image.tile[0][0] in Image.DECODERS and pixels > MAX_SLOW:
                raise UnreadableImage(f"a run-length encoded BMP or plain PPM of more than {MAX_SLOW:,} pixels")
            if isinstance(image, TiffImageFile) and image.tag_v2.get(322, 0) * image.tag_v2.get(323, 0) > LARGE:  # TileWidth, TileLength
                raise UnreadableImage(f"a TIFF with tiles of more than {LARGE:,} pixels")
            with _one_large if pixels > LARGE else nullcontext():
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"not an image, or none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data, each of them means: unreadable
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:200]
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def _open_regular(path: AnyPath) -> io.BufferedReader:
    """A file for reading. Opening a pipe or a device would wait for ever, even one that takes a file's place meanwhile."""
    if not os.path.isfile(path):
        raise UnreadableImage("no regular file")
    file = open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    about = os.fstat(file.fileno())
    regular, size = stat.S_ISREG(about.st_mode), about.st_size
    if regular and 0 < size <= MAX_BYTES:
        return file
    file.close()
    raise UnreadableImage("no regular file" if not regular else f"{size:,} bytes, more than {MAX_BYTES:,}" if size else "empty file")


def _open(file: io.BufferedReader) -> ImageFile.ImageFile:
    """What Pillow makes of an open file, its header read and no pixel yet. Of a JPEG, MAX_HEAD bytes must be enough for that."""
    if file.peek(2).startswith(b"\xff\xd8") and os.fstat(file.fileno()).st_size > MAX_HEAD:
        try:
            Image.open(io.BytesIO(file.read(MAX_HEAD)), formats=["JPEG"]).close()
        except OSError as error:
            raise UnreadableImage(f"a JPEG damaged, or with more than {MAX_HEAD:,} bytes of metadata") from error
        file.seek(0)
    return Image.open(file, formats=FORMATS)


def _scans(file: io.BufferedReader) -> int:
    """How many scans a JPEG has at most: start-of-scan markers, which do not occur within a scan."""
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
