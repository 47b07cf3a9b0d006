"""Image folders and what is in them: listing, decoding, Imagenette, ImageNet, choosing queries."""

import io
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from .choices import AnyPath, meant, unknown
from .project import ROOT

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


@runtime_checkable
class Images(Protocol):
    """What an `ImageSet` and a store have in common."""

    @property
    def root(self) -> Path: ...
    @property
    def files(self) -> list[str]: ...
    @property
    def labels(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def path(self, i: int) -> Path: ...


AnyImages = TypeVar("AnyImages", bound=Images)


@dataclass(frozen=True)
class ImageSet:
    """Images of a folder. files: sorted names relative to `root` with forward slashes; labels: class names, "" for none."""

    root: Path
    files: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.integer]) -> "ImageSet":
        """The images of some rows (a sequence of int), in that order."""
        return ImageSet(self.root, [self.files[i] for i in rows], [self.labels[i] for i in rows])

    def path(self, i: int) -> Path:
        return self.root / self.files[i]


@overload
def list_images(images: AnyImages) -> AnyImages: ...
@overload
def list_images(images: AnyPath | Iterable[AnyPath]) -> ImageSet: ...
def list_images(images: Images | AnyPath | Iterable[AnyPath]) -> Images:
    """An `ImageSet` from a folder (all files below it, hidden ones left out) or from a list of files.

    The label of an image is the first folder on its way down from the root (for a list: from the files' common folder),
    "" where it lies in the root itself. Links to folders are not followed. Files that are no images are listed too: they
    come out as unreadable, with the reason, rather than vanish, and so do folders that cannot be listed.
    Raises FileNotFoundError for a folder or file that does not exist, ValueError for one without files.
    """
    if isinstance(images, Images):
        return images
    if isinstance(images, (str, os.PathLike)):
        root = Path(images).expanduser().resolve()
        if not root.is_dir():
            near = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
            raise FileNotFoundError(f"no image folder at {root}{' (it is a file)' if root.exists() else meant(root.name, near)}")
        files = sorted(Path(file).relative_to(root).as_posix() for file in _below(root))
    else:
        paths = [Path(os.path.abspath(p)) for p in images]
        missing = [str(p) for p in paths if not p.is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} of {len(paths)} image files do not exist, first {missing[0]}")
        root = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
        files = [p.relative_to(root).as_posix() for p in paths]
    if not files:
        raise ValueError(f"no files in {images}: give a folder that has images in it, or in its subfolders")
    return ImageSet(root, files, [f.split("/")[0] if "/" in f else "" for f in files])


def _below(root: Path) -> Iterator[AnyPath]:
    """All files below a folder, as paths. A loop where os.walk recurses: folders may lie deeper than Python can call."""
    folders: list[AnyPath] = [root]
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
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                yield entry.path


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


def open_first(images: Images, rows: Sequence[int]) -> tuple[int, Image.Image]:
    """The first of some rows of an `ImageSet` whose image can be read: (row, `PIL.Image`). UnreadableImage where none can."""
    reasons = []
    for row in rows:
        try:
            return row, open_image(images.path(row))
        except UnreadableImage as error:
            reasons.append(f"{images.files[row]}: {error}")
    raise UnreadableImage(f"none of {len(rows)} images can be read" + (f", first {reasons[0]}" if reasons else ""))


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


def choose_queries(images: Images | AnyPath | Iterable[AnyPath], n: int = 10, seed: int = 0, names: Sequence[str] = ()) -> list[int]:
    """Rows of n query images of n different classes (list of int, ascending by class), drawn from a seed or named.

    images: an `ImageSet`, a store (whose unreadable images are passed over), a folder or a list of files.
    Where there are fewer than n classes, a class gives a second image only after every class gave one. Images without
    labels count as one class. names: file names as in `images.files` (or their last parts), in the order wanted.
    Raises FileNotFoundError for a name that is unknown, ValueError for a name that fits several or n out of range.
    """
    images = list_images(images)
    if names:
        return [_row_of(images, name) for name in names]
    shuffled = np.random.default_rng(seed).permutation(len(images))
    shuffled = shuffled[getattr(images, "described", np.ones(len(images), bool))[shuffled]]
    if not 1 <= n <= len(shuffled):
        raise ValueError(f"{n} queries asked of {len(shuffled)} images: ask for 1 to {len(shuffled)}")
    turn, seen = np.empty(len(images), int), dict[str, int]()
    for i in shuffled:                                   # turn: whether it is the first, second, .. of its class
        turn[i] = seen[images.labels[i]] = seen.get(images.labels[i], 0) + 1
    chosen = sorted(shuffled, key=lambda i: turn[i])[:n]
    return sorted((int(i) for i in chosen), key=lambda i: (images.labels[i], i))


def _row_of(images: Images, name: str) -> int:
    rows = ([i for i, f in enumerate(images.files) if f == str(name)]
            or [i for i, f in enumerate(images.files) if f.endswith(f"/{name}")])
    if not rows:
        raise FileNotFoundError(f"no query {name!r} among the {len(images)} images of {images.root.name}{meant(name, [Path(f).name for f in images.files])}")
    if len(rows) > 1:
        raise ValueError(f"{name!r} fits {len(rows)} images, for instance {images.files[rows[0]]}: name its folder too")
    return rows[0]


def hold_out(images: ImageSet, share: float = 0.1, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Two `ImageSet`s, database and queries, from one: of every class `share` of the images (at least one, where the class
    has more than one) become queries, drawn from a seed. Raises ValueError where no query can be spared."""
    rng = np.random.default_rng(seed)
    labels = np.array(images.labels)
    queries: list[int] = []
    for label in dict.fromkeys(images.labels):
        rows = np.flatnonzero(labels == label)
        queries += rng.permutation(rows)[:min(len(rows) - 1, max(1, round(share * len(rows))))].tolist() if len(rows) > 1 else []
    if not queries:
        raise ValueError(f"{len(images)} images of {images.root} are too few to spare queries: give a folder of queries")
    return images[np.setdiff1d(np.arange(len(images)), queries)], images[sorted(queries)]


def known_factors(images: Images) -> pd.DataFrame:
    """What is known about the images of an `ImageSet` or a store: a DataFrame with a row an image.

    Column "class" where there are class folders; for the embedded scenes also "background" and "palette", from their manifest.
    """
    factors = pd.DataFrame({"class": images.labels}) if any(images.labels) else pd.DataFrame(index=range(len(images)))
    manifest = images.root.parent / "manifest.csv"
    if manifest.is_file():
        known = pd.read_csv(manifest)
        if {"file", "background", "palette"} <= set(known):
            rows = known.set_index("file").loc[[f"{images.root.name}/{f}" for f in images.files]]
            factors[["background", "palette"]] = rows[["background", "palette"]].to_numpy()
    return factors


def load_images(profile: str = "embedded", images: AnyPath = "", queries: AnyPath = "", seed: int = 0, max_images: int = 0, max_queries: int = 0,
                query_names: Sequence[str] = ()) -> tuple[ImageSet, ImageSet]:
    """The database and the query images of a profile: two `ImageSet`s.

    max_images, max_queries: how many of them at most, drawn from the seed and balanced over the classes, in the order of the whole set;
    0: all. query_names: queries that stay in the draw, named as in `choose_queries`.

    profile: "embedded" renders the scenes on first use; "folder" takes the folders `images` and `queries`, or holds one
    image in ten out of `images` where `queries` is empty; "imagenette" downloads torchvision's Imagenette on first use
    (320 px, checked by hash); "imagenet" takes the user's ILSVRC copy in the layout of torchvision.datasets.ImageNet (train/ and
    val/ with a folder a class) from `images`, and its validation images as queries.
    Raises ValueError for an unknown profile or a folder not given, RuntimeError where a download fails or ImageNet is not there, and for
    a query's name as `choose_queries` does.
    """
    database, query_images = _whole(profile, images, queries, seed)
    return _draw(database, max_images, seed), _draw(query_images, max_queries, seed, query_names)


def _draw(images: ImageSet, most: int, seed: int, names: Sequence[str] = ()) -> ImageSet:
    if not 0 < most < len(images):
        return images
    named = choose_queries(images, names=names) if names else []
    return images[sorted({*choose_queries(images, n=most, seed=seed), *named})]


def _whole(profile: str, images: AnyPath, queries: AnyPath, seed: int) -> tuple[ImageSet, ImageSet]:
    """All images of a profile, as `load_images` says."""
    if profile == "folder":
        if not images:
            raise ValueError("the profile 'folder' needs a folder of images: -p images FOLDER, and -p queries FOLDER if there are any (IMAGES=.., QUERIES=.. for make)")
        return (list_images(images), list_images(queries)) if queries else hold_out(list_images(images), seed=seed)
    if queries or (images and profile == "embedded"):
        raise ValueError(f"the profile {profile!r} has {'queries' if queries else 'images'} of its own; for yours take PROFILE=folder (--profile folder)")
    if profile == "embedded":
        from .scenes import write_scenes  # numba compiles on import: only those who render pay
        folder = write_scenes(ROOT / "data" / "embedded")
        return list_images(folder / "database"), list_images(folder / "queries")
    if profile == "imagenette":
        root = Path(images or ROOT / "data" / "imagenette")
        if not (root / "imagenette2-320").is_dir():
            url, md5 = datasets.Imagenette._ARCHIVES["320px"]
            _unpack(url, md5, root, "imagenette2-320")
        known = datasets.Imagenette(root, split="train", size="320px")
        class_of = {wnid: names[0] for wnid, names in zip(known.wnids, known.classes)}
        sets = [list_images(root / "imagenette2-320" / split) for split in ("train", "val")]
        train, val = (ImageSet(s.root, s.files, [class_of[label] for label in s.labels]) for s in sets)
        return train, val
    if profile == "imagenet":
        root = Path(images or ROOT / "data" / "imagenet")
        missing = [split for split in ("train", "val") if not any(root.glob(f"{split}/n*/"))]
        if missing:
            raise RuntimeError(f"no class folders in {' and '.join(str(root / m) for m in missing)}. Put ILSVRC2012_img_train.tar, "
                               f"ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz there and unpack them once with "
                               f"torchvision.datasets.ImageNet(folder, split), for split 'train' and 'val' (it needs scipy).")
        return list_images(root / "train"), list_images(root / "val")
    raise ValueError(unknown("profile", profile, ("embedded", "folder", "imagenette", "imagenet")))


def _unpack(url: str, md5: str, root: Path, name: str) -> None:
    """Downloads an archive into `root`, checks its hash and unpacks the folder `name` of it: aside, then moved into place, so that one that is
    there is whole. Raises RuntimeError with what to do instead."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as aside:
            download_and_extract_archive(url, root, aside, md5=md5)
            Path(aside, name).rename(root / name)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"{name} could not be downloaded ({error}). Download {url} elsewhere, unpack it in {root}, and run again") from error
