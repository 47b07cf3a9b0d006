"""Images of a folder: listing them, their labels, opening the first that can be read."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .common import AnyPath, did_you_mean
from .decoding import UnreadableImage, image_suffixes, open_image

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
