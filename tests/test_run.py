"""The folder of a run: what is described and written into it, and opened again."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cbir
from cbir.notebooks import absolute, check
from cbir.run import open_run

CAPTION = 'Fig. 6. Retrieved by $\\eta$ – „ünï“ 日本, <script>alert(1)</script> & "quotes"'


@pytest.fixture
def run(tmp_path):
    return cbir.Run("test", tmp_path)


def test_damaged_images_alone_are_one_sentence(run, folder, tiny_net):
    images = cbir.list_images(folder)
    message = r"no image of the queries can be read \(dog/07.png: .*-p seed 1$"
    with pytest.raises(ValueError, match=message):
        run.describe(images=images, queries=images[[7]], network=tiny_net)


def test_names(tmp_path):
    for name in ("", "..", "../x", "a/b", "a\\b", "~", "-rf", ".hidden", "a b", "a\n", "a\0", ":"):
        with pytest.raises(ValueError, match="is no run name"):
            cbir.Run(name, tmp_path / "runs")
    run = cbir.Run("größe_2-v1.2", tmp_path)
    assert cbir.Run().name == "scenes" and not list(tmp_path.iterdir())  # a slip leaves no folder
    run.record(k=5, mean=float("nan"), rows=[{"high": np.inf}])
    run.record(k=6)
    known = {"k": 6, "mean": None, "rows": [{"high": None}]}  # JSON knows no NaN
    text = (run.path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == run.metrics == known
    with pytest.raises(TypeError):
        run.record(b=object())
    assert cbir.Run(run.name, tmp_path).metrics == known
    assert [path.name for path in run.path.iterdir()] == ["metrics.json"]


def test_both_parts_of_a_profile_are_described_into_the_run(run, folder):
    """By the settings that the command wrote before any notebook ran, if by `stores`."""
    run.set(profile="folder", images=folder, network="embedded", weights=None, device="cpu")
    run.set(dtype="float16", recipe="as_released", q=0.25, windows=False)
    net, database, queries = run.stores()
    assert run.settings["dtype"] == "float16" and list(database.extras) == ["average"]
    assert net.name == "embedded" and database.recipe == cbir.AS_RELEASED | {"q": 0.25}
    assert (len(database), len(queries)) == (9, 2)
    stores = run.path / "stores"
    assert sorted(p.name for p in stores.iterdir() if p.is_dir()) == ["database", "queries"]
    same = {"recipe": "as_released", "q": 0.25, "dtype": "float16"}
    again = run.describe("folder", folder, network=net, **same)
    assert again.database.computed == again.queries.computed == 0 and again.net is net


@pytest.mark.parametrize("start, found", [("a/", ["a"]), ("a_", ["a_database", "a_queries"])])
def test_parts_that_are_loaded_already_are_taken_as_they_are(run, folder, tiny_net, start, found):
    images = cbir.list_images(folder)
    extras = {"color": "color"}
    net, database, queries = run.describe("", images[[0, 1]], images[[6]], tiny_net, extras, start)
    assert net is tiny_net and database.files == images.files[:2]
    assert queries["color"].shape == (1, 75)
    assert sorted(p.name for p in (run.path / "stores").iterdir() if p.is_dir()) == found
    with pytest.raises(ValueError, match="both be folders, or both be images"):
        run.describe(images=images, network=tiny_net)
    with pytest.raises(TypeError, match="no setting widths"):
        run.describe(widths=[6])


def test_a_database_is_searched_while_it_is_described(run, folder, tiny_net):
    """After each shard; the queries, which came first, are all there."""
    images, seen = cbir.list_images(folder)[range(6)], []

    def look():
        stores = [cbir.open_store(run.path / "stores" / part) for part in ("database", "queries")]
        hits = cbir.search(*stores, "eta", k=1)
        seen.append((int(stores[0].described.sum()), hits.indices.tolist()))

    parts = {"images": images, "queries": images[[0]], "network": tiny_net}
    place = run.path / "stores" / "database"
    cbir.extract(images, tiny_net, place, shard_size=2, extras={"average": "average"})
    (place / "done" / "00001.json").unlink()
    (place / "done" / "00002.json").unlink()
    run.describe(**parts, extras={"average": "average"}, on_shard=look)
    assert seen == [(3, [[0]]), (5, [[0]])]  # one is damaged


def test_what_was_described_is_opened_again(run, folder):
    """By any notebook that follows: the network by its weights, and the same images for extras."""
    slim = {"network": "embedded", "weights": None, "device": "cpu"}
    how = {"precision": "bfloat16", "dtype": "float16", "batch_size": 4}
    described = run.describe("folder", folder, **slim, **how, max_images=6, q=0.25)
    assert described.database.network["precision"] == "bfloat16"
    assert described.database.dtype == "float16" and run.settings["batch_size"] == 4
    assert run.settings["max_images"] == 6 and run.settings["device"] == "cpu"
    assert set(described.database.extras) == {"average", "windows", "color"}
    net, database, queries = run.stores()
    assert net.provenance == described.net.provenance
    assert database.files == described.database.files and len(queries) == 2
    _, same, _ = run.stores({"color": "color"}, "more_", max_images=3)
    assert same.location == database.location
    _, more, _ = run.stores({"gem": "gem"}, "more_", max_images=3)
    assert len(more) == 3 and set(more.files) < set(database.files)
    n_channels = database.dims["blocks"][-1][0]
    assert more.recipe == database.recipe and more["gem"].shape == (3, n_channels)
    assert run.settings["max_images"] == 6  # the run's own, still


def test_retrained_codes_are_trained_once_and_stay(run, folder, tiny_net, monkeypatch):
    more = cbir.list_images(folder)
    images, queries = more[range(9)], more[[9, 10]]
    how = {"queries": queries, "network": tiny_net.to(dtype=torch.bfloat16), "code_widths": [6]}
    net, database, _ = run.describe(images=images, **how)
    assert database.h.shape == (9, 6) and run.metrics["codes_trained_on"] == 9
    again, database, _ = run.describe(images=more, **how)
    assert again.provenance == net.provenance and database.h.shape == (11, 6)
    assert run.metrics["codes_trained_on"] == 9  # the report says that 2 came later
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        run.describe(images=more, **how, seed=1)
    monkeypatch.setenv("CBIR_RUNS", str(run.path.parent))
    with pytest.raises(ValueError, match=r"made with .*seed 0, now 1"):
        check("folder", run.name, {"seed": 1})


def test_figures_carry_their_caption(run):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([1, 2])
    for name in "ab":
        run.save_figure(fig, name, CAPTION)
    plt.close(fig)
    with Image.open(run.path / "figures" / "a.png") as image:
        assert image.info["Description"] == CAPTION
    pdf = (run.path / "figures" / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Subject" in pdf and b"CreationDate" not in pdf
    for suffix in ("png", "pdf"):  # drawn again, the same file
        a, b = (run.path / "figures" / f"{name}.{suffix}" for name in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_arrays(run):
    run.save_arrays("hits", indices=np.arange(6).reshape(2, 3), names=np.array(["ü", "b"]))
    loaded = {name: array.tolist() for name, array in run.load_arrays("hits").items()}
    assert loaded == {"indices": [[0, 1, 2], [3, 4, 5]], "names": ["ü", "b"]}
    out = np.lib.format.open_memmap(run.array_path("hits", "large"), "w+", np.float32, (4, 2))
    out[:] = 3
    run.save_arrays("hits", large=out)  # lies there already; the others go
    assert {k: v.tolist() for k, v in run.load_arrays("hits").items()} == {"large": [[3, 3]] * 4}
    with pytest.raises(FileNotFoundError, match="no codes in runs/test: run the earlier notebooks"):
        run.load_arrays("codes")


def test_results_replace_those_of_their_metrics(run):
    for metric, mean in [("class", 0.25), ("color", 0.125), ("class", 0.75)]:
        row = {"metric": metric, "descriptor": "h", "mean": mean, "low": 0, "high": 1}
        run.record_results(pd.DataFrame([row]))
    results = sorted((row["metric"], row["mean"]) for row in run.metrics["results"])
    assert results == [("class", 0.75), ("color", 0.125)]


def test_open_run_takes_names_and_folders_and_makes_none(run, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(run.path.parent))
    with pytest.raises(FileNotFoundError, match="no run 'test' .*Run `cbir reproduce` first"):
        open_run("test")
    run.record(a=1)
    for where in ("test", run.path, str(run.path)):
        assert open_run(where).path.samefile(run.path)
    with pytest.raises(FileNotFoundError, match="there is no stores/database in it"):
        open_run("test", described=True)


def test_paths_are_absolute_for_a_kernel_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    for name, value in [("images", "photos"), ("weights", "weights.pth")]:
        assert absolute(name, value) == str(tmp_path / value)
    for name, value in [("weights", "caffe"), ("network", "vgg16"), ("images", None)]:
        assert absolute(name, value) is value
