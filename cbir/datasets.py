"""The images of a profile: the embedded scenes, a folder, Imagenette, ImageNet; and choosing queries among them."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from .common import ROOT, AnyPath, did_you_mean, unknown_choice
from .images import Images, ImageSet, list_images


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
        raise FileNotFoundError(f"no query {name!r} among the {len(images)} images of {images.root.name}{did_you_mean(name, [Path(f).name for f in images.files])}")
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
    raise ValueError(unknown_choice("profile", profile, ("embedded", "folder", "imagenette", "imagenet")))


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
