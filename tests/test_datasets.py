"""The images of a profile, and choosing queries among them."""

import hashlib
import shutil
import unicodedata
from itertools import product
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pytest
from conftest import write_image
from torchvision.datasets import Imagenette

import cbir
from cbir import datasets
from cbir.datasets import SCENES


def flat_images(n, labels=None):
    """An `ImageSet` of n names, without files."""
    labels = labels or [""] * n
    files = [f"{label}/{i:03}.png".lstrip("/") for i, label in enumerate(labels)]
    return cbir.ImageSet(Path("photos"), files, labels)


def test_queries_come_from_different_classes_in_their_order_by_the_seed_alone():
    images, rows = flat_images(60, [c for c in "abcdefghijkl" for _ in range(5)]), set()
    for seed in range(200):
        chosen = cbir.choose_queries(images, 10, seed)
        labels = [images.labels[i] for i in chosen]
        assert len(set(labels)) == 10 and labels == sorted(labels)
        assert seed > 3 or chosen == cbir.choose_queries(images, 10, seed)
        rows.update(chosen)
    assert rows == set(range(60))
    assert len(set(cbir.choose_queries(flat_images(20), 10))) == 10


def test_a_class_gives_its_second_image_after_every_class_gave_one():
    images = flat_images(10, ["a"] * 6 + ["b"] * 3 + ["c"])
    for seed in range(10):
        rows = cbir.choose_queries(images, 6, seed)
        labels = "".join(sorted(images.labels[i] for i in set(rows)))
        assert labels in ("aaabbc", "aabbbc")
    assert cbir.choose_queries(images, 10) == list(range(10))
    for n in (0, -1, 11):
        with pytest.raises(ValueError, match="10 images.*ask for 1 to 10"):
            cbir.choose_queries(images, n)


def test_named_queries():
    files = ["1.png", "a/1.png", "a/2.png", "b/2.png", "b/22.png", "c/deep/3.png"]
    images = cbir.ImageSet(Path("photos"), files, ["", *"aabbc"])
    names = ["3.png", "b/2.png", "1.png", "22.png", "deep/3.png", "a/1.png"]
    assert cbir.choose_queries(images, names=names) == [5, 3, 0, 4, 5, 1]
    with pytest.raises(ValueError, match="'2.png' fits 2 images"):
        cbir.choose_queries(images, names=["2.png"])
    # An accent is one letter, whatever system wrote the name.
    forms = [unicodedata.normalize(form, "Müller.jpg") for form in ("NFC", "NFD")]
    for file, name in product(forms, forms):
        images = cbir.ImageSet(Path("photos"), ["a.jpg", f"b/{file}"], ["", "b"])
        assert cbir.choose_queries(images, names=[name]) == [1]


def test_queries_of_a_store_are_readable(folder, tmp_path, tiny_net):
    st = cbir.extract(folder, tiny_net, tmp_path / "st")
    assert cbir.choose_queries(st, 9) == [i for i in range(11) if i not in (2, 7)]
    with pytest.raises(ValueError, match="10 queries asked of 9"):
        cbir.choose_queries(st, 10)
    assert cbir.choose_queries(folder, 11) == list(range(11))


def test_known_factors(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"file,background\xff\n1,2,3,4")  # somebody else's
    images = cbir.ImageSet(tmp_path / "database", ["a/1.png", "b/2.png"], ["a", "b"])
    assert cbir.known_factors(images).to_dict("list") == {"class": ["a", "b"]}
    scenes = cbir.list_images(SCENES / "queries")
    factors = cbir.known_factors(scenes)
    assert list(factors) == ["class", "background", "palette"]
    assert len(factors) == len(scenes) and not factors.isna().any(axis=None)


def test_hold_out_is_disjoint_and_complete_and_takes_its_share_of_every_class():
    images = flat_images(73, ["a"] * 50 + ["b"] * 20 + ["c"] * 2 + ["d"])
    database, queries = datasets.hold_out(images, 0.1)
    assert sorted(database.files + queries.files) == sorted(images.files)
    assert not set(database.files) & set(queries.files)
    assert [queries.labels.count(label) for label in "abcd"] == [5, 2, 1, 0]
    assert database.files == sorted(database.files) and database.root == queries.root == images.root
    assert datasets.hold_out(images, 0.1) == (database, queries)
    assert datasets.hold_out(images, 0.1, seed=1) != (database, queries)
    database, queries = datasets.hold_out(flat_images(5, list("aabbb")), share=0.75)
    assert set(database.labels) == set(queries.labels) == {"a", "b"}  # never a whole class
    assert [len(part) for part in datasets.hold_out(flat_images(4))] == [3, 1]
    for labels in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="too few"):
            datasets.hold_out(flat_images(len(labels), labels))
    # One more image of a class makes at most one a query and one no query.
    images = flat_images(100, ["ant"] * 40 + ["bee"] * 60)
    _, queries = datasets.hold_out(images)
    for row in range(0, 100, 7):
        _, then = datasets.hold_out(images[[i for i in range(100) if i != row]])
        assert len(set(queries.files) ^ set(then.files)) <= 2


def test_profile_folder(tmp_path):
    for i in range(20):
        write_image(tmp_path / "images" / f"{i}.png")
    write_image(tmp_path / "queries" / "q.png")
    (tmp_path / "images" / "notes.md").touch()
    database, queries = cbir.load_images("folder", str(tmp_path / "images"))
    assert (len(database), len(queries), database.skipped) == (18, 2, {".md": 1})
    database, queries = cbir.load_images("folder", tmp_path / "images", tmp_path / "queries")
    assert (len(database), len(queries)) == (20, 1)
    with pytest.raises(FileNotFoundError):
        cbir.load_images("folder", tmp_path / "nowhere")
    for file in (tmp_path / "queries").iterdir():
        file.rename(file.with_suffix(".md"))
    with pytest.raises(ValueError, match=r"no images in .*queries, only \.md files"):
        cbir.load_images("folder", tmp_path / "queries")
    with pytest.raises(ValueError, match="'cifar'.*scenes.*folder.*imagenette.*imagenet"):
        cbir.load_images("cifar", tmp_path)


def test_queries_inside_the_image_folder_are_left_out_of_the_database(tmp_path):
    for name in ["a/1.png", "b/2.png", "test/a/3.png", "test/b/4.png"]:
        write_image(tmp_path / name, size=(2, 2))
    database, queries = cbir.load_images("folder", tmp_path, tmp_path / "test")
    assert (database.files, database.labels) == (["a/1.png", "b/2.png"], ["a", "b"])
    assert database.skipped == {"of the queries": 2}
    assert (queries.files, queries.labels) == (["a/3.png", "b/4.png"], ["a", "b"])
    database, queries = cbir.load_images("folder", tmp_path, tmp_path)  # asked for
    assert len(database) == len(queries) == 4


@pytest.mark.parametrize("splits", [["train", "val"], ["Training", "test", "valid"], ["train"]])
def test_folders_of_splits_are_no_classes(tmp_path, splits):
    for split, name in product(splits, ["a/1.png", "a/2.png"]):
        write_image(tmp_path / split / name, size=(2, 2))
    with pytest.raises(ValueError, match="would be") as error:
        cbir.load_images("folder", tmp_path)
    folders = dict(word.split("=") for word in str(error.value).split() if "=" in word)
    assert folders["IMAGES"] == str(tmp_path / splits[0])
    assert ("QUERIES" in folders) == (len(splits) > 1)
    database, _ = cbir.load_images("folder", *folders.values())  # the command works
    assert set(database.labels) == {"a"}


def test_a_profile_can_be_cut_short(tmp_path):
    for i in range(42):
        part = "images" if i < 30 else "queries"
        write_image(tmp_path / part / "abc"[i % 3] / f"{i:02}.png", size=(2, 2))
    folders = ("folder", tmp_path / "images", tmp_path / "queries")
    whole = cbir.load_images(*folders)
    drawn = cbir.load_images(*folders, seed=3, max_images=6, max_queries=3)
    for images, n, parent in zip(drawn, (6, 3), whole):
        assert images.files == [file for file in parent.files if file in images.files]
        assert [images.labels.count(label) for label in "abc"] == [n // 3] * 3  # balanced
        assert images == parent[sorted(cbir.choose_queries(parent, n=n, seed=3))]
    for most in (0, 30, 99):
        assert cbir.load_images(*folders, max_images=most, max_queries=most) == whole


def test_named_queries_stay_in_the_draw(tmp_path):
    def queries(**options):
        return cbir.load_images("folder", tmp_path, tmp_path, **options)[1].files

    files = [write_image(tmp_path / f"{i:02}.png", size=(2, 2)).name for i in range(12)]
    drawn = queries(max_queries=2)
    other = next(file for file in files if file not in drawn)
    assert queries(max_queries=2, query_names=[other, drawn[0]]) == sorted([*drawn, other])
    assert len(queries(query_names=[other])) == 12
    with pytest.raises(FileNotFoundError, match="13.png"):
        queries(max_queries=2, query_names=["13.png"])


@pytest.fixture
def archive(tmp_path, monkeypatch, published):
    """A small archive in Imagenette's place, served on this machine."""
    folder, address = published
    source = tmp_path / "source"
    for split, wnid in product(("train", "val"), Imagenette._WNID_TO_CLASS):
        write_image(source / "imagenette2-320" / split / wnid / "0.JPEG", (4, 4))
    archive = Path(shutil.make_archive(folder / "imagenette2-320", "gztar", source))
    archive = archive.rename(folder / "imagenette2-320.tgz")
    monkeypatch.setenv("no_proxy", "*")
    about = (f"{address}{archive.name}", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(Imagenette._ARCHIVES, "320px", about)
    return archive


def test_unpacking_that_was_interrupted_is_done_again(tmp_path, monkeypatch, archive):
    root, extract = tmp_path / "data", datasets.download_and_extract_archive

    def stops(url, root, aside, md5):
        extract(url, root, aside, md5=md5)
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "download_and_extract_archive", stops)
    with pytest.raises(KeyboardInterrupt):
        cbir.load_images("imagenette", root)
    assert [p.name for p in root.iterdir()] == ["imagenette2-320.tgz"]
    monkeypatch.setattr(datasets, "download_and_extract_archive", extract)
    database, queries = cbir.load_images("imagenette", root)
    assert len(database) == len(queries) == 10 and "church" in database.labels
    assert {p.name for p in root.iterdir()} == {"imagenette2-320", "imagenette2-320.tgz"}
    archive.write_bytes(archive.read_bytes() + b"\0")  # of another hash
    assert cbir.load_images("imagenette", root) == (database, queries)  # not downloaded again
    root = tmp_path / "elsewhere"
    with pytest.raises(RuntimeError, match="File not found or corrupted"):
        cbir.load_images("imagenette", root)
    assert not (root / "imagenette2-320").exists()


def test_without_network_or_archives_it_says_what_to_do(tmp_path, monkeypatch):
    no_network = Mock(side_effect=URLError("no route to host"))
    monkeypatch.setattr(datasets, "download_and_extract_archive", no_network)
    with pytest.raises(RuntimeError, match="no route to host.*2-320.tgz.*unpack") as error:
        cbir.load_images("imagenette", images=tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(RuntimeError, match="ILSVRC2012"):
        cbir.load_images("imagenet", images=tmp_path)
