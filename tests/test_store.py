"""Images to store and back: rows that never shift, work that is never done twice, damage that is never silent."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import make_net, write_image
from zarr.storage import LocalStore

import cbir

RECIPE = dict(batch_size=2, shard_size=4)


class Interrupted(Exception):
    """What stops an extraction on purpose in these tests."""


def count_images(net, stop_after=None):
    """Watches the network: the list of batches that go through it; raises after `stop_after` of them."""
    seen = []

    def note(_module, inputs):
        if stop_after is not None and len(seen) == stop_after:
            raise Interrupted
        seen.append(len(inputs[0]))
    handle = net.module.register_forward_pre_hook(note)
    return seen, handle


def extract(folder, path, net=None, **options):
    return cbir.extract(folder, net or make_net(), path, **RECIPE | options)


def assert_same(a, b):
    assert (a.files, a.labels, a.unreadable, a.recipe, a.network) == (b.files, b.labels, b.unreadable, b.recipe, b.network)
    for name in ("h", "eta_conv", "eta"):
        assert getattr(a, name)[:].tobytes() == getattr(b, name)[:].tobytes()


@pytest.fixture
def whole(folder, tmp_path):
    """The folder's store, extracted without interruption."""
    return extract(folder, tmp_path / "whole.zarr")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A store that no test changes."""
    root = tmp_path_factory.mktemp("small")
    for i in range(11):
        write_image(root / "images" / f"{i:02}.png", seed=i)
    return extract(root / "images", root / "st")


# ---- what is in it ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", [(2, 4), (3, 4), (4, 3), (32, 256), (1, 1), (5, 11), (11, 5), (7, 10)])
@pytest.mark.parametrize("recipe", cbir.RECIPES.values(), ids=cbir.RECIPES)
def test_every_row_is_its_images_description(folder, tmp_path, tiny_net, sizes, recipe):
    """However the rows are cut into batches and shards, and however many of them are missing."""
    st = extract(folder, tmp_path / "st", tiny_net, batch_size=sizes[0], shard_size=sizes[1], **recipe)
    images = cbir.list_images(folder)
    assert len(st) == 11 and st.files == images.files and st.labels == images.labels == ["cat"] * 6 + ["dog"] * 5
    for i in range(11):
        if i in (2, 7):
            assert np.isnan(st.eta[i]).all()
            continue
        batch = tiny_net.transform(cbir.open_image(st.path(i)))[None]
        d = cbir.describe(tiny_net, batch, **recipe)
        for name in ("h", "eta_conv", "eta"):
            np.testing.assert_allclose(getattr(st, name)[i], getattr(d, name)[0], rtol=1e-4, atol=1e-6)


def test_unreadable_images_keep_their_row_and_give_a_reason(whole):
    assert set(whole.unreadable) == {"cat/02.png", "dog/07.png"}
    assert whole.unreadable["cat/02.png"] == "not an image" and whole.unreadable["dog/07.png"]
    assert whole.described.tolist() == [i not in (2, 7) for i in range(11)]
    assert np.isnan(whole.h[:]).any(axis=1).nonzero()[0].tolist() == [2, 7]


def test_a_folder_without_any_image(tmp_path):
    for i in range(5):
        write_image(tmp_path / "images" / f"{i}.png").write_text("no image")
    st = extract(tmp_path / "images", tmp_path / "st")
    assert len(st.unreadable) == 5 and np.isnan(st.eta[:]).all() and not st.missing()


def test_what_it_remembers(folder, tmp_path, tiny_net):
    st = extract(folder, tmp_path / "new" / "folders" / "st", tiny_net, q=0.25, threshold="relative")
    assert st.recipe == dict(q=0.25, threshold="relative", counting="count", scale="mean")
    assert st.network == tiny_net.provenance
    assert st.root == folder and st.path(3) == folder / "cat" / "03.png"
    assert (st.h.shape, st.eta_conv.shape, st.eta.shape) == ((11, 7), (11, 15), (11, 22))
    assert "11 images, 2 unreadable" in repr(st)
    assert_same(st, cbir.open_store(tmp_path / "new" / "folders" / "st"))
    assert st.h.dtype == st.eta[:].dtype == np.float32


def test_names_of_all_kinds(tmp_path):
    names = ["a b.png", "line\nbreak.png", "日本.png", "ü/é.png", "quote\"'.png", "-.png", "100%.png"]
    for name in names:
        write_image(tmp_path / "images" / name)
    st = extract(tmp_path / "images", tmp_path / "st")
    assert st.files == sorted(names) and not st.unreadable
    assert all(st.path(i).is_file() for i in range(len(st)))


def test_a_name_that_is_no_unicode(tmp_path):
    """One such file among many must not keep the rest from being described."""
    write_image(tmp_path / "images" / "good.png")
    try:
        write_image(tmp_path / "images" / "bad.png").rename(tmp_path / "images" / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system has no such names")
    st = extract(tmp_path / "images", tmp_path / "st")
    assert len(st) == 2 and st.described[st.files.index("good.png")]


def test_a_list_of_files(tmp_path):
    files = [write_image(tmp_path / name, seed=i) for i, name in enumerate(["c/1.png", "a/2.png", "b/3.png"])]
    st = extract(files, tmp_path / "st")
    assert (st.files, st.labels) == (["c/1.png", "a/2.png", "b/3.png"], ["c", "a", "b"])


def test_a_network_without_codes(folder, tmp_path):
    net = make_net(codes=())
    st = extract(folder, tmp_path / "st", net)
    assert (st.h.shape, st.eta.shape) == ((11, 0), (11, 15))
    assert st.h[:].shape == (11, 0) and st.h[3].shape == (0,)
    np.testing.assert_array_equal(st.eta[:], st.eta_conv[:])
    np.testing.assert_array_equal(st.eta_conv[:], extract(folder, tmp_path / "with codes").eta_conv[:])


@pytest.mark.parametrize("rows", [0, 10, -1, np.int64(4), slice(None), slice(2, 9), slice(5, 5), slice(None, None, 3), slice(-3, None),
                                  [3, 1, 3], np.array([9, 0]), [-1, 2], np.arange(11) % 3 == 0, [True] * 5 + [False] * 6],
                         ids=str)
@pytest.mark.parametrize("name", ["h", "eta_conv", "eta"])
def test_views_index_like_arrays(small, name, rows):
    view = getattr(small, name)
    plain = np.hstack([small.codes[:], small.conv[:]])[:, {"h": slice(7), "eta_conv": slice(7, None), "eta": slice(None)}[name]]
    np.testing.assert_array_equal(view[rows], plain[rows])
    np.testing.assert_array_equal(np.asarray(view), plain)
    assert len(view) == 11 and np.asarray(view, dtype=np.float64).dtype == np.float64


def test_no_rows(small):
    assert small.eta[[]].shape == (0, 22)


# ---- resuming ---------------------------------------------------------------------------------------------------------------

def test_a_complete_store_needs_no_forward_pass(folder, tmp_path, whole):
    net = make_net()
    seen, _ = count_images(net)
    assert_same(extract(folder, tmp_path / "whole.zarr", net), whole)
    assert seen == []


@pytest.mark.parametrize("batches", range(4, 9, 2))
def test_an_interrupted_extraction_goes_on_where_it_stopped(folder, tmp_path, whole, batches):
    """11 rows in shards of 4, two of them unreadable: batches of 2, 1, 2, 1 (or the like); three more look at the network."""
    net = make_net()
    seen, handle = count_images(net, stop_after=batches)
    with pytest.raises(Interrupted):
        extract(folder, tmp_path / "st", net)
    handle.remove()
    before = cbir.open_store(tmp_path / "st")
    finished = [i for rows in before.shards if rows not in before.missing() for i in range(rows.start, rows.stop)]
    again, _ = count_images(net)
    st = extract(folder, tmp_path / "st", net)
    assert_same(st, whole)
    assert sum(again) == sum(whole.described) - sum(whole.described[finished])  # finished shards are not computed again


def test_an_interruption_between_any_two_files_of_the_store(tmp_path, monkeypatch):
    """Whatever file was the last one to be written, the next call completes the store."""
    files = [write_image(tmp_path / "images" / f"{i}.png", seed=i) for i in range(3)]
    whole = extract(files, tmp_path / "whole.zarr", shard_size=2)
    for name in ("set", "set_if_not_exists"):
        def limited(self, *args, write=getattr(LocalStore, name), **options):
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
            return write(self, *args, **options)
        monkeypatch.setattr(LocalStore, name, limited)
    interruptions, left = 0, [0]
    while True:
        left[0] = interruptions
        try:
            extract(files, tmp_path / f"{interruptions}", shard_size=2)
            break
        except Interrupted:
            left[0] = 10**6
            assert_same(extract(files, tmp_path / f"{interruptions}", shard_size=2), whole)
            interruptions += 1
    assert interruptions > 6  # two shards of three files each, and the metadata


KILLED = """
import os, random, sys, threading, time, signal
import torch
from conftest import make_net, cbir
torch.set_num_threads(1)
folder, place, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
started, net = time.monotonic(), make_net()

def extract(path):
    cbir.extract(folder, net, path, batch_size=2, shard_size=4, workers=1)

def in_a_child(work):
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def killed(path, seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    extract(path)

assert in_a_child(lambda: extract(place + "/whole")) == 0
seconds, random, statuses = time.monotonic() - started, random.Random(seed), []
for i in range(24):
    statuses.append(in_a_child(lambda: killed(f"{place}/{i % 8}", random.uniform(0, seconds))))
print(statuses.count(signal.SIGKILL), statuses.count(0))
"""


def test_killed_at_random_moments(folder, tmp_path, whole):
    """SIGKILL, with no chance to tidy up; up to three times on the same store. A rerun computes one interrupted shard a kill at most."""
    run = subprocess.run([sys.executable, "-c", KILLED, folder, tmp_path, "1"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    kills, completed = map(int, run.stdout.split())
    assert kills + completed == 24 and kills >= 5
    for i in range(8):
        path, net = tmp_path / str(i), make_net()
        before = cbir.open_store(path) if path.exists() else None
        finished = [i for rows in before.shards if rows not in before.missing() for i in range(rows.start, rows.stop)] if before else []
        seen, _ = count_images(net)
        assert_same(extract(folder, path, net), whole)
        if before:
            assert sum(seen) == sum(whole.described) - sum(whole.described[finished])


def test_faults_of_the_network_show_before_anything_is_written(folder, tmp_path, tiny_net):
    negative = cbir.Network(tiny_net.module, ["one.0"], transform=tiny_net.transform)
    coarse = cbir.Network(tiny_net.module, ["three", "one"], transform=tiny_net.transform)
    for net in (negative, coarse):
        with pytest.raises(ValueError):
            extract(folder, tmp_path / "stores" / "st", net)
    with pytest.raises(ValueError, match="counting"):
        extract(folder, tmp_path / "stores" / "st", tiny_net, counting="sum")
    assert not (tmp_path / "stores").exists() or not list((tmp_path / "stores").iterdir())


# ---- other settings ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, named", [
    (dict(q=0.25), "recipe q: 0.5, now 0.25"),
    (dict(threshold="relative"), "recipe threshold"),
    (dict(counting="union"), "recipe counting"),
    (dict(scale="as_released"), "recipe scale"),
    (dict(net=make_net(seed=1)), "network weights_hash"),
    (dict(net=make_net(codes=())), "network codes"),
    (dict(net=cbir.Network(make_net().module, ["one", "three"], ["hidden"], make_net().transform, "tiny")), "network blocks"),
    (dict(net=cbir.Network(make_net().module, ["one", "two", "three"], ["hidden"], cbir.resize_transform(32, crop=True), "tiny")), "network transform"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_a_store_of_other_settings_is_refused_and_left_alone(folder, tmp_path, whole, change, named):
    with pytest.raises(ValueError, match=named):
        extract(folder, tmp_path / "whole.zarr", **change)
    assert_same(cbir.open_store(tmp_path / "whole.zarr"), whole)


def test_a_store_of_other_images_is_refused(folder, tmp_path, whole):
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="image folder: .*images, now .*moved"):
        extract(moved, tmp_path / "whole.zarr")
    write_image(moved / "cat" / "new.png")
    with pytest.raises(ValueError, match="11 files, now 12; 1 names differ"):
        extract(moved, tmp_path / "whole.zarr")


@pytest.mark.parametrize("make", [
    lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("no store"),
    lambda path: write_image(path / "image.png"), lambda path: zarr.create_array(path, shape=(3,), dtype="f4")],
    ids=["nothing", "empty folder", "file", "folder of images", "zarr array"])
def test_what_is_no_store(folder, tmp_path, make):
    make(tmp_path / "st")
    with pytest.raises(FileNotFoundError, match="no descriptor store"):
        cbir.open_store(tmp_path / "st")
    if (tmp_path / "st").exists():  # somebody's files: never overwritten
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(FileExistsError, match="is no descriptor store"):
            extract(folder, tmp_path / "st")
        assert set(before) >= set((tmp_path / "st").rglob("*")) and (tmp_path / "st").exists()
    else:
        assert not list(tmp_path.glob("st*"))


def test_another_format_is_refused(tmp_path, whole):
    zarr.open_group(tmp_path / "whole.zarr").attrs["format"] = "cbir-0"
    with pytest.raises(ValueError, match="cbir-0.*cbir-2"):
        cbir.open_store(tmp_path / "whole.zarr")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(ValueError, match="format"):
        cbir.open_store(tmp_path / "other")


# ---- damage -----------------------------------------------------------------------------------------------------------------

def read_all(path):
    st = cbir.open_store(path)
    return st.files, st.labels, st.unreadable, st.described.tolist(), st.eta[:].tobytes()


@pytest.mark.parametrize("array", ["codes", "conv", "files", "labels", "state"])
def test_a_damaged_file_is_an_error_never_another_result(tmp_path, whole, array):
    """A flipped bit anywhere in the data of a shard."""
    whole_result = read_all(tmp_path / "whole.zarr")
    file = sorted(p for p in (tmp_path / "whole.zarr" / array / "c").rglob("*") if p.is_file())[0]
    data = file.read_bytes()
    silent = []
    for position in range(0, len(data), max(1, len(data) // 12)):
        file.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1:])
        try:
            result = read_all(tmp_path / "whole.zarr")
        except Exception:
            continue
        if result != whole_result:
            silent.append(position)
    assert not silent, f"{len(silent)} flipped bits of {array} go unnoticed"


@pytest.mark.parametrize("array", ["codes", "conv", "state"])
def test_a_file_that_is_cut_short_is_an_error(tmp_path, whole, array):
    file = sorted(p for p in (tmp_path / "whole.zarr" / array / "c").rglob("*") if p.is_file())[-1]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(Exception):
        read_all(tmp_path / "whole.zarr")
