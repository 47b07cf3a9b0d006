"""`cbir query`: here is my picture, these are its nearest."""

import json

import numpy as np
import pytest
from conftest import write_image
from PIL import Image

import cbir
from cbir import cli
from cbir.query import query


@pytest.fixture
def store(folder, tiny_net, tmp_path):
    return cbir.extract(folder, tiny_net, tmp_path / "store")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_json_is_what_search_finds(store, folder, tiny_net, tmp_path):
    images = [folder / "dog" / "09.png", write_image(tmp_path / "new.jpg", seed=99)]
    out = tmp_path / "out"
    assert query(images, store, tiny_net, ("h", "eta"), "l2", 3, out)[1] == {}
    expected = cbir.search(store, images, ["h", "eta"], metric="l2", k=3, net=tiny_net)
    for i, image in enumerate(images):
        about = {"file": str(image), "root": str(folder), "metric": "l2"}
        for name, hits in expected.items():
            near = zip(hits.indices[i], hits.distances[i])
            named = [(store.files[row], store.labels[row], distance) for row, distance in near]
            about[name] = [dict(zip(("file", "label", "distance"), each)) for each in named]
        assert read_json(out / f"query_{image.stem}.json") == about


def test_picture_shows_query_and_hits(store, folder, tiny_net, tmp_path):
    """Every descriptor's row begins with the query; a retrieved image may be gone."""
    (folder / "dog" / "09.png").unlink()
    Image.new("RGB", (30, 30), (10, 200, 30)).save(tmp_path / "green.png")
    query([tmp_path / "green.png"], store, tiny_net, k=2, folder=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "query_green.png").convert("RGB")).astype(int)
    green = np.abs(picture - (10, 200, 30)).sum(axis=2) < 6
    # Where a square begins.
    columns, rows = (np.flatnonzero(np.diff(green.sum(i) > 60, prepend=False))[::2] for i in (0, 1))
    assert len(rows) == 3 and len(columns) == 1 and columns[0] < picture.shape[1] / 3


def test_unreadable_images_are_named_and_the_others_served(store, folder, tiny_net, tmp_path):
    images = [folder / "cat" / "02.png", tmp_path / "missing.jpg", folder / "cat" / "01.png"]
    _, unreadable = query(images, store, tiny_net, k=1, folder=tmp_path / "out")
    assert [*unreadable] == [*map(str, images[:2])]
    assert "not an image" in unreadable[str(images[0])]
    assert unreadable[str(images[1])] == "no such file"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"query_01.json", "query_01.png"}


def test_a_result_of_another_picture_is_never_overwritten(store, tiny_net, tmp_path):
    stems = ["a/x\ny $z$", "b/x\ny $z$", "ü" * 100]
    images = [write_image(tmp_path / f"{stem}.png") for stem in stems]
    for chosen in (images[:2], images[:1], images[2:]):
        query(chosen, store, tiny_net, ["h"], k=1, folder=tmp_path / "out")
    found = {p.stem: read_json(p)["file"] for p in (tmp_path / "out").glob("*.json")}
    names = ["query_x_y_z_", "query_x_y_z__2", "query_" + "ü" * 50]
    assert found == dict(zip(names, map(str, images)))


def test_command_takes_runs_and_stores(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    image = str(folder / "cat" / "00.png")
    with pytest.raises(SystemExit, match="no run 'scenes'.*Run `cbir reproduce` first"):
        cli.main(["query", image])
    assert not (tmp_path / "runs").exists()
    net = cbir.load_network("embedded", weights=None, device="cpu", crop=True)
    database = tmp_path / "runs" / "scenes" / "stores" / "database"
    cbir.extract(folder, net, database)
    cbir.Run().set(network="embedded", weights=None)
    a, b, c = (tmp_path / name for name in "abc")
    cli.main(["query", image, "-k", "3", "--output", str(a)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"{image}: {a / 'query_00.png'}", "  by h"]
    assert printed[2].split()[1:] == ["cat/00.png", "cat"] and len(printed) == 1 + 3 * (1 + 3)
    options = "--weights none --descriptor eta --metric cosine -k 3".split()
    cli.main(["query", image, "--output", str(b), "--store", str(database), *options])
    by_run, by_store = (read_json(folder / "query_00.json") for folder in (a, b))
    assert [*by_run][3:] == ["h", "eta_conv", "eta"] and len(by_run["h"]) == 3
    assert [*by_store][3:] == ["eta"] and by_store["metric"] == "cosine"
    for words, message in [
        ([str(tmp_path / "no\nsuch.png")], r"no\\nsuch.png.*no such file"),
        (["-k", "12"], "k = 12 is out of range"),
        (["--descriptor", "zeta"], "unknown descriptor 'zeta'"),
        (["--store", "nowhere"], "no descriptor store at nowhere"),
    ]:
        with pytest.raises(SystemExit, match=message):
            cli.main(["query", image, *words, "--output", str(c)])
    assert (c / "query_00.png").is_file()
