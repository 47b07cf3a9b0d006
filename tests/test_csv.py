"""A CSV of images (path, label, split) wherever a folder is taken."""

import csv
import io
import unicodedata

import numpy as np
import pytest
from conftest import write_image

import cbir
from cbir import notebooks
from cbir.query import query

WRONG = {
    b"file,class\na.png,x\n": r"photos.csv has no column 'path', only 'file', 'class'$",
    b"path;label\na.png;x\n": r"no column 'path', only 'path;label'$",
    b"": "no column 'path'",
    b"path,label\n\n,\n": r"no images in .*photos.csv: give it a line per image",
    b"path,label\na, b.png,x\n": r"has 3 values for 2 columns: .*quote those that hold a comma$",
    "path\nü.png\n".encode("latin-1"): "photos.csv is no CSV in UTF-8 .*: save it as one$",
    b'path\n"a.png\n': "photos.csv is no CSV in UTF-8",
    "path\na.png".encode("utf-16"): "photos.csv is no CSV in UTF-8",
}


def write_csv(path, *lines, encoding="utf-8"):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(line if isinstance(line, tuple) else [line] for line in lines)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures, a.png to h.png, in a folder beside that of the CSV."""
    for i, name in enumerate("abcdefgh"):
        write_image(tmp_path / "photos" / f"{name}.png", seed=i)
    (tmp_path / "lists").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_line_is_an_image(pictures, encoding):
    """NA and null are names; a label may have a slash; what is empty is unknown."""
    for name in ("NA", "null.png", "with, comma.png", "ü/日本.png"):
        write_image((pictures / name).with_suffix(".png")).rename(pictures / name)
    lines = [("id", "split", "path", "label"), (1, "query", "NA", "NA"), ("", "", "", "")]
    lines += [(2, "", "null.png", "null"), "", (3, "database", "with, comma.png", "a/b")]
    lines += [(4, " x ", "ü/日本.png")]
    lines += [("NaN", "database", pictures / "a.png", "ü"), (5, "", "../elsewhere.png", "", "")]
    images = cbir.list_images(write_csv(pictures / "list.CSV", *lines, encoding=encoding))
    files = ["NA", "null.png", "with, comma.png", "ü/日本.png", "a.png", "../elsewhere.png"]
    assert (images.files, images.root) == (files, pictures.resolve())
    assert images.labels == ["NA", "null", "a/b", "", "ü", ""]
    assert images.split == ["query", "", "database", "x", "database", ""]
    assert all(cbir.open_image(images.path(i)).size == (40, 30) for i in range(5))
    some = images[np.array([4, 0])]
    assert (some.files, some.split) == (["a.png", "NA"], ["database", "query"])
    assert cbir.list_images(pictures).split == [""] * 13  # a folder, with the CSV, has no split


def test_paths_of_windows_and_of_other_folders(pictures):
    write_image(pictures / "deep" / "i.png")
    (pictures / "back\\slash.png").write_bytes((pictures / "a.png").read_bytes())
    lines = ["path", r"..\photos\deep\i.png", "../photos/back\\slash.png", r"C:\photos\a.png"]
    place = write_csv(pictures.parent / "lists" / "a.csv", *lines, pictures / "b.png")
    images = cbir.list_images(place)
    assert images.labels == images.split == [""] * 4  # not told, so unknown
    for i in (0, 1, 3):
        assert cbir.open_image(images.path(i))
    with pytest.raises(cbir.UnreadableImage, match="no such file"):
        cbir.open_image(images.path(2))


def test_accents_in_the_form_of_another_system(tmp_path):
    forms = [unicodedata.normalize(form, "Müller.png") for form in ("NFC", "NFD")]
    for n, (file, listed) in enumerate([forms, forms[::-1]]):
        write_image(tmp_path / f"{n}" / file)
        images = cbir.list_images(write_csv(tmp_path / f"{n}" / "a.csv", "path", listed))
        assert cbir.open_image(images.path(0))


@pytest.mark.parametrize("content", WRONG)
def test_what_is_wrong_with_a_csv_is_one_line(tmp_path, content):
    (tmp_path / "photos.csv").write_bytes(content)
    with pytest.raises(ValueError, match=WRONG[content]) as error:
        cbir.list_images(tmp_path / "photos.csv")
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'photos.csv'"):
        cbir.list_images(tmp_path / "photo.csv")


def test_runs_take_database_and_queries_from_it(pictures):
    def write(*splits, header=("path", "label", "split")):
        lines = [(f"{name}.png", name, split) for name, split in zip("abcdefgh", splits)]
        return write_csv(pictures / "list.csv", header, *lines)

    place = write("database", "query", "Queries", "", "database", "database")
    database, queries = cbir.load_images("folder", place)
    assert (database.labels, queries.labels) == (list("adef"), list("bc"))
    few = cbir.load_images("folder", place, max_images=2, max_queries=1)
    assert [*map(len, few)] == [2, 1]
    _, asked = cbir.load_images("folder", pictures, place)
    assert asked.labels == list("bc")
    # A query of another list is not in the database as well.
    others = write_csv(pictures / "others.csv", "path", "a.png", "h.png")
    database, queries = cbir.load_images("folder", place, others)
    assert (database.labels, queries.files) == (list("def"), ["a.png", "h.png"])
    assert database.skipped == {"of the queries": 1}
    database, _ = cbir.load_images("folder", pictures, others)
    assert database.files == [f"{name}.png" for name in "bcdefg"]
    database, queries = cbir.load_images("folder", write(*[""] * 8, header=("path", "x", "y")))
    assert (len(database), len(queries)) == (7, 1) and not set(database.files) & set(queries.files)
    with pytest.raises(ValueError, match=r"split 'train'.*'database', 'query' .in .*list.csv.$"):
        cbir.load_images("folder", write("train", "query"))
    assert cbir.list_images(pictures / "list.csv").split == ["train", "query"]
    with pytest.raises(ValueError, match="all images of .*list.csv are queries"):
        cbir.load_images("folder", write("query", "query"))


def test_extract_and_search(pictures, tmp_path, tiny_net):
    """A missing file is a row with its reason, until it comes; a path may come twice."""
    lines = [("path", "label"), ("a.png", "x"), ("late.png", "x"), ("b.png", "NA"), ("a.png", "y")]
    place, store = write_csv(pictures / "list.csv", *lines), tmp_path / "store"
    st = cbir.extract(place, tiny_net, store)
    assert st.unreadable == {"late.png": "no such file"} and st.labels == ["x", "x", "NA", "y"]
    assert st.described.tolist() == [True, False, True, True]
    assert cbir.extract(place, tiny_net, store).computed == 0
    write_image(pictures / "late.png", seed=77)
    lines[3:4] = [("b.png", "z")]
    write_csv(place, *lines, (pictures / "c.png", "x"), "d.png")
    st = cbir.extract(str(place), tiny_net, store)
    assert st.computed == 3 and st.described.all()
    assert st.labels == ["x", "x", "z", "y", "x", ""] and st.files[4] == "c.png"
    (tmp_path / "moved").mkdir()
    pictures.rename(tmp_path / "moved" / "photos")
    place = tmp_path / "moved" / "photos" / "list.csv"
    place.write_text(place.read_text().replace(str(pictures), str(place.parent)))
    st = cbir.extract(place, tiny_net, store)
    assert st.computed == 0 and st.root == place.parent.resolve()
    asked = write_csv(tmp_path / "asked.csv", "path", "moved/photos/d.png", "moved/photos/gone.png")
    hits = cbir.search(st, asked, k=2, net=tiny_net)
    assert hits.files[0][0] == "d.png" and hits.indices[1].tolist() == [-1, -1]
    written, unreadable = query([asked], st, tiny_net, k=1, folder=tmp_path / "found")
    assert [*written] == [str(place.parent / "d.png")]
    assert [*unreadable.values()] == ["no such file"]


def test_a_run_of_a_csv(pictures, tmp_path, monkeypatch):
    """Its notebook gets the path of the CSV; labels are classes, whatever their name."""
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks, "_run_notebook", lambda *about: None)
    monkeypatch.setattr(notebooks, "report", lambda run: None)
    monkeypatch.chdir(pictures)
    classes = ("train", "val")
    lines = [(f"{c}.png", classes[i % 2], "query" * (i > 5)) for i, c in enumerate("abcdefgh")]
    write_csv(pictures / "list.csv", ("path", "label", "split"), *lines)
    given, log = {"images": "list.csv", "network": "embedded"}, io.StringIO()
    run = notebooks.reproduce("folder", "mine", given, ["02_extraction"], log)
    assert log.getvalue().splitlines() == ["8 images to describe", "2 classes: train, val"]
    settings = {key: run.settings[key] for key in ("profile", "images", "queries", "network")}
    _, database, queries = run.describe(**settings, weights=None)
    assert database.files == [f"{name}.png" for name in "abcdef"]
    assert (queries.files, queries.labels) == (["g.png", "h.png"], [*classes])
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        write_csv(pictures / "list.csv", ("path", "split"), ("a.png", "validation"))
        notebooks.reproduce("folder", "other", given, ["02_extraction"], log)
    assert not (tmp_path / "runs" / "other").exists()
