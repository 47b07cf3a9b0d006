"""The images of a profile, and choosing queries among them."""

import hashlib
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torchvision.datasets import Imagenette
from torchvision.datasets.utils import download_and_extract_archive

from .common import ROOT, AnyPath, check_choice, did_you_mean, images_folder
from .images import Images, ImageSet, is_csv, list_images

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
PROFILES = ("scenes", "folder", "imagenette", "imagenet")
SCENES = ROOT / "data" / "scenes"  # the rendered images


def load_images(
    profile: str = "scenes",
    images: AnyPath = "",
    queries: AnyPath = "",
    seed: int = 0,
    max_images: int = 0,
    max_queries: int = 0,
    query_names: Sequence[str] = (),
) -> tuple[ImageSet, ImageSet]:
    """Loads the images of a profile.

    Args:
        profile: "scenes", those of data/scenes; "folder", two folders, of which files with
            an image's suffix or none are taken (a query folder inside the image folder is left out
            of the database); "imagenette", downloaded on first use (320 px, checked by hash);
            "imagenet", the user's copy of ILSVRC in the layout of torchvision.datasets.ImageNet.
            Of the last two the validation images are the queries.
        images: the folder of "folder", "imagenette" or "imagenet"; for "folder" also a CSV as in
            `list_images`, whose lines of split "query" are the queries, all others the database.
        queries: the query folder of "folder", or a CSV, of which lines of split "database" are left
            out; "": those of the CSV, or else one image in ten is held out.
        seed: draws what is held out and what `max_images` and `max_queries` leave.
        max_images: size of a database drawn in balance over the classes; 0: all images.
        max_queries: number of queries, drawn likewise.
        query_names: queries that stay in the draw, named as in `choose_queries`.

    Returns:
        The database and the queries; their `skipped` counts what was left out of the folders.

    Raises:
        ValueError: the arguments do not fit the profile, the classes would be "train" and "val", a
            CSV has another split, or a query's name fits several images.
        RuntimeError: a download fails, or ImageNet is not there.
        FileNotFoundError: a folder or a query of that name does not exist.
    """
    check_choice("profile", profile, PROFILES)
    if profile == "folder":
        parts = _load_folder(images, queries, seed)
    elif queries or (images and profile == "scenes"):
        own = f"the profile {profile!r} has {'queries' if queries else 'images'} of its own"
        raise ValueError(f"{own}; for yours take PROFILE=folder (--profile folder)")
    elif profile == "scenes":
        parts = list_images(SCENES / "database"), list_images(SCENES / "queries")
    else:
        load = _load_imagenette if profile == "imagenette" else _load_imagenet
        parts = load(Path(images or images_folder() / profile))
    return _draw(parts[0], max_images, seed), _draw(parts[1], max_queries, seed, query_names)


def _load_folder(images: AnyPath, queries: AnyPath, seed: int) -> tuple[ImageSet, ImageSet]:
    if not images:
        needs = "the profile 'folder' needs a folder of images, of queries if any"
        ways = "-p images FOLDER -p queries FOLDER (IMAGES=.. QUERIES=.. for make)"
        raise ValueError(f"{needs}: {ways}")
    database, asked = _parts(images)
    if queries:
        others, named = _parts(queries)
        asked = named if named.files else others
        taken = {*_paths(asked)}
        rows = [i for i, path in enumerate(_paths(database)) if path not in taken]
        if len(rows) < len(database) and (rows or database.root in asked.root.parents):
            skipped = database.skipped | {"of the queries": len(database) - len(rows)}
            database = replace(database[rows], skipped=skipped)  # else each would find itself
    if not database.files:
        raise ValueError(f"all images of {images} are queries: give another folder")
    for part, place in ((database, images), (asked, queries or images)):
        if not is_csv(place):
            _check_classes(part)
    return (database, asked) if asked.files else hold_out(database, seed=seed)


def _paths(images: ImageSet) -> list[str]:
    return [os.path.abspath(images.path(i)) for i in range(len(images))]


def _parts(place: AnyPath) -> tuple[ImageSet, ImageSet]:
    """Splits a CSV by its column `split`; a folder, without the notes in it, is all database."""
    images = list_images(place)
    if not is_csv(place):
        images = images.images_only()
        if not images.files:
            raise ValueError(f"no images in {place}, only {', '.join(images.skipped)} files")
    splits = [split.lower() for split in images.split]
    for split in sorted({*splits} - {"", "queries"}):
        check_choice("split", split, ("database", "query"), f" (in {place})")
    is_query = np.isin(splits, ["query", "queries"])
    return images[np.flatnonzero(~is_query)], images[np.flatnonzero(is_query)]


def _check_classes(images: ImageSet) -> None:
    """Raises ValueError if the folders that give the classes are train/ and val/."""
    classes = sorted(set(images.labels) - {""})
    if classes and all(label.casefold() in SPLITS for label in classes):
        first, *others = sorted(classes, key=lambda c: not c.casefold().startswith("train"))
        folders = zip(("IMAGES", "QUERIES"), (first, *others[-1:]))
        take = " ".join(f"{name}={images.root / folder}" for name, folder in folders)
        names = f"the classes of {images.root} would be {', '.join(classes)}"
        raise ValueError(f"{names}: take {take} (-p images, -p queries)")


def _load_imagenette(root: Path) -> tuple[ImageSet, ImageSet]:
    """Imagenette's training and validation images, labelled with English class names."""
    name = "imagenette2-320"
    if not (root / name).is_dir():
        url, md5 = Imagenette._ARCHIVES["320px"]
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as aside:
                download_and_extract_archive(url, root, aside, md5=md5)
                Path(aside, name).rename(root / name)  # once it is whole
        except (OSError, RuntimeError) as error:
            advice = f"Download {url} elsewhere, unpack it in {root}, and run again"
            raise RuntimeError(f"{name} could not be downloaded ({error}). {advice}") from error
    class_names = {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}
    parts = [list_images(root / name / split) for split in ("train", "val")]
    train, val = (replace(p, labels=[class_names[wnid] for wnid in p.labels]) for p in parts)
    return train, val


def _load_imagenet(root: Path) -> tuple[ImageSet, ImageSet]:
    splits = root / "train", root / "val"
    if missing := [str(split) for split in splits if not any(split.glob("n*/"))]:
        archives = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz"
        unpack = "torchvision.datasets.ImageNet(folder, split), for 'train' and 'val' (needs scipy)"
        put = f"Put {archives} there and unpack them once with {unpack}"
        raise RuntimeError(f"no class folders in {' and '.join(missing)}. {put}")
    return list_images(splits[0]), list_images(splits[1])


def _draw(images: ImageSet, most: int, seed: int, names: Sequence[str] = ()) -> ImageSet:
    """At most so many images, balanced over the classes, besides the named ones."""
    if not 0 < most < len(images):
        return images
    named = choose_queries(images, names=names) if names else []
    return images[sorted({*choose_queries(images, most, seed), *named})]


def choose_queries(
    images: Images | AnyPath | Iterable[AnyPath],
    n: int = 10,
    seed: int = 0,
    names: Sequence[str] = (),
) -> list[int]:
    """Chooses n query images of different classes: rows of `images`, in the order of the classes.

    A class gives a second image only after every class gave one. Images without labels count as
    one class; unreadable images of a store are passed over. `names`, as in `images.files` or their
    last parts, are taken in their order, and none is drawn.

    Raises:
        FileNotFoundError: there is no image of that name.
        ValueError: a name fits several images, or n is out of range.
    """
    images = list_images(images)
    if names:
        return [_row_of(images, name) for name in names]
    shuffled = np.random.default_rng(seed).permutation(len(images))
    # Of a store, those that it describes.
    shuffled = shuffled[getattr(images, "described", np.ones(len(images), bool))[shuffled]]
    most = len(shuffled)
    if not 1 <= n <= most:
        raise ValueError(f"{n} queries asked of {most} images: ask for 1 to {most}")
    labels = pd.Series(images.labels).iloc[shuffled]
    turns = labels.groupby(labels).cumcount()  # 0 for the first of its class, 1 for the second, ..
    chosen = shuffled[np.argsort(turns.to_numpy(), kind="stable")[:n]]
    return sorted(chosen.tolist(), key=lambda row: (images.labels[row], row))


def _row_of(images: Images, name: str) -> int:
    """The row of a full name, or else of a name's last parts."""
    # An accent is one character or two (NFC, NFD), by the system that wrote the name.
    name = unicodedata.normalize("NFC", str(name))
    files = [unicodedata.normalize("NFC", file) for file in images.files]
    rows = [i for i, file in enumerate(files) if file == name]
    rows = rows or [i for i, file in enumerate(files) if file.endswith(f"/{name}")]
    if not rows:
        hint = did_you_mean(name, [Path(file).name for file in files])
        among = f"the {len(images)} images of {images.root.name}"
        raise FileNotFoundError(f"no query {name!r} among {among}{hint}")
    if len(rows) > 1:
        fits = f"{name!r} fits {len(rows)} images, for instance {images.files[rows[0]]}"
        raise ValueError(f"{fits}: name its folder too")
    return rows[0]


def hold_out(images: ImageSet, share: float = 0.1, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Splits images into a database and queries: a share of every class, at least one of two.

    An image's turn depends on its name alone, so that more images move few of the others.

    Raises:
        ValueError: no query can be spared.
    """
    turns = [hashlib.sha256(f"{seed} {os.fsencode(f)!r}".encode()).digest() for f in images.files]
    labels = pd.Series(images.labels).iloc[sorted(range(len(images)), key=turns.__getitem__)]
    queries: list[int] = []
    for rows in labels.groupby(labels).groups.values():
        queries += [*rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]]
    if not queries:
        few = f"{len(images)} images of {images.root} are too few to spare queries"
        raise ValueError(f"{few}: give a folder of queries")
    database = np.setdiff1d(np.arange(len(images)), queries)
    return images[database], replace(images[sorted(queries)], skipped={})


def known_factors(images: Images) -> pd.DataFrame:
    """Looks up what is known about every image, one row each.

    Columns are "class" if there are class folders; for the scenes also "background" and
    "palette", from data/scenes/manifest.csv.
    """
    factors = pd.DataFrame(index=range(len(images)))
    if any(images.labels):
        factors["class"] = images.labels
    # Only there: a manifest.csv beside a user's images means something else.
    if SCENES in images.root.parents:
        scenes = pd.read_csv(SCENES / "manifest.csv", index_col="file")
        files = [(images.root / file).relative_to(SCENES).as_posix() for file in images.files]
        known = ["background", "palette"]
        factors[known] = scenes[known].reindex(files).to_numpy()
    return factors
