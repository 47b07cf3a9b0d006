"""Image folders and what is in them: listing, decoding, Imagenette, ImageNet, choosing queries."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .common import AnyPath, did_you_mean
from .decoding import UnreadableImage, open_image


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
            raise FileNotFoundError(f"no image folder at {root}{' (it is a file)' if root.exists() else did_you_mean(root.name, near)}")
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


def open_first(images: Images, rows: Sequence[int]) -> tuple[int, Image.Image]:
    """The first of some rows of an `ImageSet` whose image can be read: (row, `PIL.Image`). UnreadableImage where none can."""
    reasons = []
    for row in rows:
        try:
            return row, open_image(images.path(row))
        except UnreadableImage as error:
            reasons.append(f"{images.files[row]}: {error}")
    raise UnreadableImage(f"none of {len(rows)} images can be read" + (f", first {reasons[0]}" if reasons else ""))
