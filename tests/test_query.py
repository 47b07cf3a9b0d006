"""`cbir query`: here is my picture, these are its nearest."""

import json

import numpy as np
import pytest
from conftest import write_image
from PIL import Image

import cbir
from cbir import cli
from cbir.workflow.query import query


@pytest.fixture
def store(folder, tiny_net, tmp_path):
    return cbir.extract(folder, tiny_net, tmp_path / "store")


def test_json_is_what_search_finds(store, folder, tiny_net, tmp_path):
    images = [folder / "dog" / "09.png", write_image(tmp_path / "new.jpg", seed=99)]
    assert query(images, store, tiny_net, ("h", "eta"), "l2", 3, tmp_path / "out") [1] == {}
    for i, image in enumerate(images):
        found = json.loads((tmp_path / "out" / f"query_{image.stem}.json").read_text(encoding="utf-8"))
        assert found.pop("file") == str(image) and found.pop("root") == str(folder) and found.pop("metric") == "l2"
        assert list(found) == ["h", "eta"]
        for d, hits in found.items():
            expected = cbir.search(store, images, descriptor=d, metric="l2", k=3, net=tiny_net)
            assert [store.files.index(hit["file"]) for hit in hits] == expected.indices[i].tolist()
            assert [hit["distance"] for hit in hits] == expected.distances[i].tolist()
            assert [hit["label"] for hit in hits] == [hit["file"].split("/")[0] for hit in hits]
    first = json.loads((tmp_path / "out" / "query_09.json").read_text(encoding="utf-8"))
    assert first["eta"][0] == {"file": "dog/09.png", "label": "dog", "distance": pytest.approx(0, abs=1e-6)}  # a batch rounds otherwise


def test_picture_shows_query_and_hits(store, folder, tiny_net, tmp_path):
    """Every descriptor's row begins with the query; a query of one colour is found again by looking for it."""
    Image.new("RGB", (30, 30), (10, 200, 30)).save(tmp_path / "green.png")
    query([tmp_path / "green.png"], store, tiny_net, k=2, folder=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "query_green.png").convert("RGB")).astype(int)
    green = (np.abs(picture - (10, 200, 30)).sum(axis=2) < 6)
    rows, columns = (np.flatnonzero(np.diff((green.sum(axis=axis) > 60).astype(int)) == 1) for axis in (1, 0))  # where a square begins
    assert len(rows) == 3 and len(columns) == 1 and columns[0] < picture.shape[1] / 3


def test_unreadable_images_are_named_and_the_others_served(store, folder, tiny_net, tmp_path):
    names = [folder / "cat" / "02.png", tmp_path / "missing.jpg", folder / "cat" / "01.png"]
    _, unreadable = query(names, store, tiny_net, k=1, folder=tmp_path / "out")
    assert unreadable == {str(names[0]): unreadable[str(names[0])], str(names[1]): "no regular file"} and "not an image" in unreadable[str(names[0])]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["query_01.json", "query_01.png"]


def test_a_retrieved_image_may_be_gone(store, folder, tiny_net, tmp_path):
    (folder / "dog" / "09.png").rename(tmp_path / "09.png")
    assert query([tmp_path / "09.png"], store, tiny_net, k=1, folder=tmp_path) [1] == {}
    assert json.loads((tmp_path / "query_09.json").read_text(encoding="utf-8"))["h"][0]["file"] == "dog/09.png"


def test_names_of_results_fit_and_differ(store, tiny_net, tmp_path):
    names = [tmp_path / "a" / "x\ny $z$.png", tmp_path / "b" / "x\ny $z$.png", tmp_path / ("ü" * 100 + ".png")]
    assert query([write_image(n) for n in names], store, tiny_net, k=1, folder=tmp_path / "out") [1] == {}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == ["query_x_y_z_.json", "query_x_y_z__2.json", f"query_{'ü' * 50}.json"]


def test_command_takes_runs_and_stores(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    image = folder / "cat" / "00.png"
    with pytest.raises(SystemExit, match="no run 'embedded'.*run `cbir reproduce` first"):
        cli.main(["query", str(image)])
    assert not (tmp_path / "runs").exists()
    net = cbir.load_network("embedded", weights=None, device="cpu", crop=True)
    cbir.extract(folder, net, tmp_path / "runs" / "embedded" / "stores" / "database")
    cbir.Run("embedded").record(parameters={"weights": "none"})
    cli.main(["query", str(image), "-k", "3", "--output", str(tmp_path / "a")])
    cli.main(["query", str(image), "-k", "3", "--output", str(tmp_path / "b"), "--weights", "none", "--descriptor", "eta", "--metric", "cosine",
              "--store", str(tmp_path / "runs" / "embedded" / "stores" / "database")])
    a, b = (json.loads((tmp_path / f / "query_00.json").read_text(encoding="utf-8")) for f in "ab")
    assert [*a][3:] == ["h", "eta_conv", "eta"] and len(a["h"]) == 3 and [*b][3:] == ["eta"] and b["metric"] == "cosine"
    with pytest.raises(SystemExit) as stop:
        cli.main(["query", str(tmp_path / "no\nsuch.png"), str(image), "--output", str(tmp_path / "c")])
    assert "no\\nsuch.png" in stop.value.code and "no regular file" in stop.value.code and (tmp_path / "c" / "query_00.png").is_file()


@pytest.mark.parametrize("args, message", [(["-k", "12"], "k = 12 is out of range"), (["--descriptor", "zeta"], "unknown descriptor 'zeta'"),
                                           (["--store", "nowhere"], "no descriptor store at nowhere")])
def test_mistakes_get_one_clear_sentence(folder, tmp_path, monkeypatch, args, message):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path / "runs"))
    cbir.extract(folder, cbir.load_network("embedded", device="cpu"), tmp_path / "runs" / "embedded" / "stores" / "database")
    with pytest.raises(SystemExit) as stop:
        cli.main(["query", str(folder / "cat" / "00.png"), "--output", str(tmp_path), *args])
    assert message in stop.value.code
