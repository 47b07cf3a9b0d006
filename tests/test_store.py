"""Images to store and back: rows never shift, work is never done twice, damage is never silent."""

import contextlib
import csv
import errno
import importlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_net, write_image

import cbir
from cbir import descriptors
from cbir import images as opening
from cbir.common import ROOT

EXTRACTION = importlib.import_module("cbir.extract")  # the module: cbir.extract is its function
HERE = Path(__file__).parent
CELLS = re.compile(r"\s*\|\s*")  # of a Markdown table
EXTRAS = {"mac": "mac", "color": "color", "relative": {"threshold": "relative"}, "q=0": {"q": 0}}
ROWS = [0, -1, np.int64(4), slice(None), slice(2, 9), slice(5, 5), slice(None, None, 3)]
ROWS += [[3, 1, 3], np.array([9, 0]), [-1, 2], [], np.arange(11) % 3 == 0]
NO_EXTRAS = [({"mac": "sum"}, "unknown extra 'sum'"), ({"r": {"counting": "all"}}, "counting")]
NO_EXTRAS += [({name: "mac"}, "extra's name") for name in ("H", "w_1", "a/b", "a+b", "done", "")]


def interrupt(folder, path, net, batches):
    """Extracts until the network has seen so many batches."""
    seen = []

    def stop(_module, _inputs):
        if len(seen) == batches:
            raise KeyboardInterrupt
        seen.append(1)

    handle = net.module.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, path, net)
    handle.remove()


def extract(folder, path, net=None, **options):
    options = dict(batch_size=2, shard_size=4) | options
    return cbir.extract(folder, net or make_net(), path, **options)


def assert_same(a, b):
    for attribute in ("files", "labels", "unreadable", "recipe", "network"):
        assert getattr(a, attribute) == getattr(b, attribute)
    for name in ("h", "eta_conv", "eta", *a.extras):
        assert a[name][:].tobytes() == b[name][:].tobytes()


def contents(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def whole(folder, tmp_path):
    return extract(folder, tmp_path / "whole")


@pytest.mark.parametrize("sizes", [(3, 4), (32, 256), (1, 1), (5, 11), (11, 5)])
@pytest.mark.parametrize("recipe", descriptors.RECIPES.values(), ids=descriptors.RECIPES)
def test_every_row_is_its_images_description(folder, tmp_path, tiny_net, sizes, recipe):
    """However the rows are cut into batches and shards, and however many of them are missing."""
    sizes = dict(zip(["batch_size", "shard_size"], sizes))
    st = extract(folder, tmp_path / "st", tiny_net, **sizes, **recipe)
    assert st.files == cbir.list_images(folder).files and st.labels == ["cat"] * 6 + ["dog"] * 5
    assert st.described.tolist() == [i not in (2, 7) for i in range(11)]
    for i in range(11):
        batch = tiny_net.transform(cbir.open_image(st.path(i) if st.described[i] else st.path(0)))
        d = cbir.describe(tiny_net, batch[None], **recipe)
        for name in ("h", "eta_conv", "eta"):
            expected = getattr(d, name)[0] if st.described[i] else np.nan
            np.testing.assert_allclose(getattr(st, name)[i], expected, rtol=1e-4, atol=1e-6)


def test_what_it_remembers(folder, tmp_path, tiny_net):
    path = tmp_path / "new" / "folders" / "st"
    st = extract(folder, path, tiny_net, q=0.25, threshold="relative")
    assert st.recipe == cbir.AS_PRINTED | dict(q=0.25, threshold="relative")
    assert st.network == tiny_net.provenance and st.versions["numpy"] == np.__version__
    assert st.root == folder and st.path(3) == folder / "cat" / "03.png"
    assert (st.h.shape, st.eta_conv.shape, st.eta.shape) == ((11, 7), (11, 15), (11, 22))
    assert set(st.unreadable) == {"cat/02.png", "dog/07.png"}
    assert st.unreadable["cat/02.png"].startswith("not an image")
    assert "11 images, 2 unreadable" in repr(st) and st.h.dtype == st.eta[:].dtype == np.float32
    assert_same(st, cbir.open_store(path, check=True))
    assert_same(st, st.load())


def test_others_open_it_with_numpy_and_pandas(folder, tmp_path, whole):
    faiss = pytest.importorskip("faiss")
    write_image(folder / "ant" / "new.png")
    st = extract(folder, tmp_path / "whole")
    about = json.loads((tmp_path / "whole" / "store.json").read_text())
    images = pd.read_csv(tmp_path / "whole" / "images.csv", keep_default_na=False)
    shards = {int(file.stem): np.load(file) for file in (tmp_path / "whole" / "h").glob("*.npy")}
    places = zip(*divmod(images["row"], about["shard_size"]))
    h = np.stack([shards[shard][place] for shard, place in places])
    np.testing.assert_array_equal(h, st.h[:])
    index = faiss.IndexFlat(h.shape[1], faiss.METRIC_L1)
    index.add(h[st.described])
    rows = index.search(h[:1], 5)[1][0]
    hits = cbir.search(st, st.h[0], "h", k=5)
    assert images["file"][np.flatnonzero(st.described)[rows]].tolist() == hits.files[0]


def test_names_of_all_kinds(tmp_path):
    names = ["a b.png", "line\r\nbreak.png", "日本.png", "ü/é.png", "quote\"'.png", "NA", "5%,.png"]
    images = tmp_path / "images"
    for name in names:
        write_image(images / f"{name}.png").rename(images / name)
    with contextlib.suppress(OSError):  # of a file system that has only names in Unicode
        write_image(images / "x.png").rename(images / "caf\udce9.png")
    st = extract(images, tmp_path / "st")
    assert set(st.files) >= set(names) and not st.unreadable
    with open(tmp_path / "st" / "images.csv", newline="", encoding="utf-8") as file:
        assert [line["file"] for line in csv.DictReader(file)] == st.files
    assert extract(images, tmp_path / "st").computed == 0


@pytest.mark.parametrize("name", ["h", "eta", "w_2", "h+eta_conv", "mac+w_2"])
def test_views_index_like_arrays(folder, tmp_path, name):
    st = extract(folder, tmp_path / "st", extras=EXTRAS)
    plain = {name: st.arrays[name][:] for name in ("h", "eta_conv", "mac")}
    plain |= {"w_2": plain["eta_conv"][:, 4:10], "eta": np.hstack([plain["h"], plain["eta_conv"]])}
    expected = np.hstack([plain[part] for part in name.split("+")])
    for rows in ROWS:
        np.testing.assert_array_equal(st[name][rows], expected[rows])
    assert len(st[name]) == 11 and np.asarray(st[name], dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="unknown descriptor 'w_4'.*'w_3'"):
        st["h+w_4"]


def test_few_files_may_be_open(tmp_path):
    """As by `ulimit -n`: twice as many shards as files are read by one search."""
    resource = pytest.importorskip("resource")
    images = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(60)]
    st = extract(images, tmp_path / "st", shard_size=1)
    open_now = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 40
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 12, limits[1]))
    try:
        for _ in range(2):  # the second time, they are mapped already
            assert cbir.search(st, st.eta[:], k=1).indices.ravel().tolist() == list(range(60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("batches", range(3, 9, 2))
def test_an_interrupted_extraction_goes_on_where_it_stopped(folder, tmp_path, whole, batches):
    """What is there can be searched. 11 rows in shards of 4, two unreadable; 3 batches probe."""
    net = make_net()
    interrupt(folder, tmp_path / "st", net, batches)
    begun = cbir.open_store(tmp_path / "st")
    there = begun.states != ""
    assert there.tolist() == [i < 4 * (there.sum() // 4) for i in range(11)]
    if there.any():
        hits = cbir.search(begun, whole, k=3)
        expected = cbir.search(whole.eta[there.nonzero()[0]], whole.eta[:], k=3)
        np.testing.assert_array_equal(hits.indices, expected.indices)
    again = []
    net.module.register_forward_pre_hook(lambda _module, inputs: again.append(len(inputs[0])))
    assert_same(extract(folder, tmp_path / "st", net), whole)
    assert sum(again) == np.count_nonzero(whole.described & ~there)
    assert extract(folder, tmp_path / "st", net).computed == 0


@pytest.mark.posix
@pytest.mark.parametrize("kills", [5, pytest.param(120, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, kills):
    """A rerun completes a store that was killed up to three times; its complete shards stay."""
    seed = random.SystemRandom().randrange(10**6)
    images = tmp_path / "images"
    for i in range(24):
        write_image(images / f"{i:02}.png", seed=i)
    (images / "07.png").write_text("no image")
    command = [sys.executable, "kills.py", images, tmp_path / "stores", str(kills), str(seed)]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 0, f"seed {seed}: {run.stderr}"
    whole = extract(images, tmp_path / "whole", shard_size=2)
    for number in range(int(run.stdout.split()[0])):
        path = tmp_path / "stores" / str(number)
        # A first kill may come before a store is made.
        to_do = sum(cbir.open_store(path).states == "") if path.exists() else len(whole)
        st = extract(images, path, shard_size=2)
        assert_same(st, whole)
        assert st.computed == to_do, f"describes complete shards again, seed {seed}: {run.stdout}"


def test_faults_of_the_network_show_before_anything_is_written(folder, tmp_path, tiny_net):
    negative = cbir.Network(tiny_net.module, ["one.0"], transform=tiny_net.transform)
    coarse = cbir.Network(tiny_net.module, ["three", "one"], transform=tiny_net.transform)
    broken = make_net(seed=2)
    broken.module.hidden[0].weight.data.fill_(torch.nan)
    for net, options, message in [
        (negative, {}, "'one.0' .*negative"),
        (coarse, {}, "not a whole multiple"),
        (tiny_net, {"counting": "sum"}, "unknown counting 'sum'"),
        (broken, {}, "'hidden' is not finite.*'vgg16_conv'"),
    ]:
        with pytest.raises(ValueError, match=message):
            extract(folder, tmp_path / "stores" / "st", net, **options)
    assert not (tmp_path / "stores").exists()


def other_network(blocks=("one", "two", "three"), **options):
    transform = cbir.resize_transform(32, **options)
    return cbir.Network(make_net().module, blocks, ["hidden"], transform, "tiny")


CHANGES = [(dict(q=0.25), "recipe q: 0.5, now 0.25"), (dict(counting="union"), "recipe counting")]
CHANGES += [(dict(net=make_net(seed=1)), "network weights_hash")]
CHANGES += [(dict(net=other_network(blocks=["one", "three"])), "network blocks")]
CHANGES += [(dict(net=other_network(crop=True)), "network transform")]
CHANGES += [(dict(extras={"mac": "mac"}), "extras mac"), (dict(dtype="float16"), "now 'float16'")]


@pytest.mark.parametrize("change, named", CHANGES, ids=str)
def test_a_store_of_other_settings_is_left_alone(folder, tmp_path, whole, change, named):
    before = contents(tmp_path / "whole")
    with pytest.raises(ValueError, match=named):
        extract(folder, tmp_path / "whole", **change)
    assert contents(tmp_path / "whole") == before


def test_a_folder_that_moved_is_followed_and_another_one_refused(folder, tmp_path, whole):
    write_image(tmp_path / "other" / "cat" / "00.png", size=(9, 9))
    with pytest.raises(ValueError, match="its images are in .*images, these in .*other"):
        extract(tmp_path / "other", tmp_path / "whole")
    moved = folder.rename(tmp_path / "moved")
    write_image(moved / "zebra" / "new.png")
    st = extract(moved, tmp_path / "whole")
    assert st.root == moved and st.computed == 1 + 2  # and those that cannot be read
    assert extract(moved, tmp_path / "whole").computed == 0


def test_a_store_follows_its_folder(folder, tmp_path, whole):
    """Added, deleted, changed, touched: what is new is opened; other rows stay, as bits."""
    before = contents(tmp_path / "whole")
    for name in ("ant/new.png", "zebra/new.png"):
        write_image(folder / name)
    for name in ("cat/00.png", "dog/07.png"):
        (folder / name).unlink()
    write_image(folder / "cat" / "01.png", size=(50, 50))
    edited = folder / "cat" / "03.png"  # of the same size
    edited.write_bytes(edited.read_bytes()[:-1] + b"?")
    os.utime(folder / "cat" / "04.png")  # another time, the same bytes
    st = extract(folder, tmp_path / "whole", batch_size=1)
    new = {"ant/new.png", "zebra/new.png", "cat/01.png", "cat/02.png", "cat/03.png"}
    assert st.computed == len(new)  # cat/02.png could not be read, and is tried again
    anew = extract(folder, tmp_path / "anew", batch_size=1)
    assert (st.files, st.labels, st.unreadable) == (anew.files, anew.labels, anew.unreadable)
    np.testing.assert_allclose(st.eta[:], anew.eta[:], rtol=1e-4, atol=1e-5)
    for row, file in enumerate(st.files):
        if file not in new:
            np.testing.assert_array_equal(st.eta[row], whole.eta[whole.files.index(file)])
    found = [cbir.search(store, anew.eta[[1, 2, 4]], k=6).indices for store in (st, anew)]
    np.testing.assert_array_equal(*found)
    after = contents(tmp_path / "whole")
    assert [file.name for file in before if after[file] != before[file]] == ["images.csv"]
    assert extract(folder, tmp_path / "whole").computed == 0
    assert contents(tmp_path / "whole") == after


def test_a_folder_that_was_away_is_not_described_again(folder, tmp_path, whole):
    """First a half of it, which comes back, then the whole."""
    (folder / "dog").rename(tmp_path / "dog")
    assert len(extract(folder, tmp_path / "whole")) == 6
    (tmp_path / "dog").rename(folder / "dog")
    st = extract(folder, tmp_path / "whole")
    assert st.computed == 2 and st.eta[:].tobytes() == whole.eta[:].tobytes()
    images, before = cbir.list_images(folder), contents(tmp_path / "whole")
    folder.rename(tmp_path / "away")
    assert extract(images, tmp_path / "whole").computed == 0
    assert contents(tmp_path / "whole") == before


def test_until_it_has_followed_the_store_stays(folder, tmp_path, whole):
    """Interrupted after a shard; another image comes; the next calls do what is left."""
    before = whole.eta[:].tobytes(), whole.files
    for i in range(6):
        write_image(folder / "ant" / f"{i}.png", seed=20 + i)
    for batches in (2, 1):
        net = make_net()
        net(net.probe())
        interrupt(folder, tmp_path / "whole", net, batches)
        st = cbir.open_store(tmp_path / "whole")
        assert (st.eta[:].tobytes(), st.files) == before
        write_image(folder / "ant" / f"new{batches}.png", seed=batches)
    st = extract(folder, tmp_path / "whole")
    assert st.files == cbir.list_images(folder).files and st.described.sum() == 9 + 8
    assert st.computed == 6  # one shard was done, two images cannot be read
    anew = extract(folder, tmp_path / "anew")
    np.testing.assert_allclose(st.eta[:], anew.eta[:], rtol=1e-4, atol=1e-5)


def test_what_a_package_was_missing_for_is_read_when_it_is_there(folder, tmp_path, monkeypatch):
    without = cbir.UnreadableImage(opening.NEEDS_HEIC)
    with monkeypatch.context() as patched:
        patched.setattr(EXTRACTION, "open_image", Mock(side_effect=without))
        patched.setattr(opening, "KNOWS_HEIC", False)
        assert "cat/04.png" in extract(folder, tmp_path / "st").unreadable
        assert extract(folder, tmp_path / "st").computed == 0
    monkeypatch.setattr(opening, "KNOWS_HEIC", True)
    assert "cat/04.png" not in extract(folder, tmp_path / "st").unreadable


def test_the_windows_of_a_store_give_another_one(folder, tmp_path):
    trunk, color = make_net().with_head(None), {"color": "color"}
    windows = extract(folder, tmp_path / "windows", trunk, extras={"windows": "windows"} | color)
    direct = extract(folder, tmp_path / "direct", trunk, extras=color, q=0.25)
    folder.rename(tmp_path / "away")
    st = extract(windows, tmp_path / "st", trunk, extras=color, q=0.25)
    assert st.unreadable == windows.unreadable and st.files == windows.files
    np.testing.assert_allclose(st.eta[:], direct.eta[:], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(st["color"][:], direct["color"][:])
    assert extract(windows, tmp_path / "st", trunk, extras=color, q=0.25).computed == 0


@pytest.mark.parametrize("file", [None, "", "image.png"])
def test_what_is_no_store(folder, tmp_path, file):
    """Nothing, a file or a folder of images: somebody's files are never overwritten."""
    path = tmp_path / "st"
    if file is not None:
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).write_text("no store")
    with pytest.raises(FileNotFoundError, match="no descriptor store"):
        cbir.open_store(path)
    if file is not None:
        with pytest.raises(FileExistsError, match="is no descriptor store"):
            extract(folder, path)
        assert (path / file).read_text() == "no store"


@pytest.mark.parametrize("file", ["h/00001.npy", "eta_conv/00002.npy", "mac/00000.npy"])
@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
def test_a_damaged_file_is_named_and_its_images_are_described_again(folder, tmp_path, file, damage):
    whole = extract(folder, tmp_path / "st", extras={"mac": "mac"}).load()
    path = tmp_path / "st" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-9])
    elif damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
        cbir.open_store(tmp_path / "st")  # sizes alone do not tell
    with pytest.raises(ValueError, match=f"{file} is lost or damaged: run cbir.extract again"):
        cbir.open_store(tmp_path / "st", check=True)
    again = extract(folder, tmp_path / "st", extras={"mac": "mac"})
    assert again.computed == (3 if "2" in file else 4)
    assert_same(again, whole)


@pytest.mark.parametrize(
    "files, named",
    [
        ({"store.json": "{"}, "no sound store"),
        ({"store.json": '{"format": "cbir-4"}'}, "no sound store"),
        ({"images.csv": "file,label,bytes,modified,row\na,b,c,d,e\n"}, "no sound store"),
        ({"images.csv": None}, "no sound store"),
        ({"store.json": None, "zarr.json": "{}"}, "made by an earlier version"),
    ],
)
def test_a_store_that_is_not_sound_says_so(folder, tmp_path, whole, files, named):
    for file, content in files.items():
        path = tmp_path / "whole" / file
        path.write_text(content) if content else path.unlink()
    for use in (cbir.open_store, lambda path: extract(folder, path)):
        with pytest.raises(ValueError, match=f"{named}.*extract it again"):
            use(tmp_path / "whole")


@pytest.mark.posix
def test_a_full_disk_says_what_to_do(folder, tmp_path, whole):
    """And what was written before stays good: /dev/full takes nothing, as a disk without space."""
    interrupt(folder, tmp_path / "st", make_net(), batches=3)
    aside = tmp_path / "st" / "h" / ".00000.npy.new"
    aside.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: .*st: free some space and run"):
        extract(folder, tmp_path / "st")
    aside.unlink()
    assert_same(extract(folder, tmp_path / "st"), whole)


@pytest.mark.linux
@pytest.mark.slow
def test_faults_are_survived_and_what_one_reads_is_documented(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path]).returncode:
        pytest.skip("a small disk needs root: mount -t tmpfs")
    subprocess.run(["umount", tmp_path], check=True)
    command = [sys.executable, ROOT / "bench" / "faults.py", "1"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    documented = {row[1]: row[4] for row in map(CELLS.split, page.splitlines()) if len(row) == 6}
    rows = [row for row in map(CELLS.split, run.stdout.splitlines()) if len(row) == 6]
    assert len(rows) > 10
    for _, fault, _, _, messages, _ in rows:
        for message in messages.split("; or: "):
            assert message in documented[fault].split("; or: ")


def test_a_second_writer_is_told(folder, tmp_path):
    net, tried = make_net(), []

    def other(_module, _inputs):
        if (tmp_path / "st").exists():
            tried.append(1)
            message = r"another process is describing .*delete its lock file.*\.st\.lock"
            with pytest.raises(BlockingIOError, match=message):
                extract(folder, tmp_path / "st")

    net.module.register_forward_pre_hook(other)
    assert extract(folder, tmp_path / "st", net).described.sum() == 9 and tried


@pytest.mark.posix
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_disks_without_locks(folder, tmp_path, monkeypatch, code):
    """A lock file that a process holds keeps others off; an empty one is nobody's."""
    import fcntl  # which Windows lacks

    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(code, os.strerror(code))))
    (tmp_path / ".st.lock").touch()
    test_a_second_writer_is_told(folder, tmp_path)


def test_a_complete_store_on_a_disk_that_cannot_be_written(folder, tmp_path, whole, monkeypatch):
    """Nothing to write, no lock: any number of readers at a time."""
    monkeypatch.setattr(EXTRACTION.stores, "locked", None)
    assert extract(folder, tmp_path / "whole").computed == 0


def test_extras_are_what_their_functions_say(folder, tmp_path, tiny_net, whole):
    st = extract(folder, tmp_path / "st", tiny_net, extras=EXTRAS)
    np.testing.assert_array_equal(st.eta[:], whole.eta[:])
    for i in np.flatnonzero(st.described):
        image = cbir.open_image(st.path(i))
        ys, codes = tiny_net(tiny_net.transform(image)[None])
        expected = {"mac": cbir.POOLINGS["mac"](ys)[0], "y_4": codes[0][0]}
        expected["color"] = cbir.color_histogram(np.asarray(image))
        expected["relative"] = cbir.conv_descriptor(ys, threshold="relative")[0]
        expected["q=0"] = cbir.conv_descriptor(ys, q=0)[0]
        for name, row in expected.items():
            np.testing.assert_allclose(st[name][i], row, rtol=1e-4, atol=1e-6)
    assert np.isnan(st["color"][2]).all()


@pytest.mark.parametrize("extras, named", NO_EXTRAS)
def test_extras_that_make_no_sense(folder, tmp_path, extras, named):
    with pytest.raises(ValueError, match=named):
        extract(folder, tmp_path / "st", extras=extras)
    assert not (tmp_path / "st").exists()


def test_half_the_size(folder, tmp_path, whole):
    st = extract(folder, tmp_path / "st", dtype="float16")
    assert np.load(tmp_path / "st" / "h" / "00000.npy").dtype == np.float16
    assert st.eta.dtype == st.eta[:].dtype == np.float32
    rounded = whole.eta[:].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(st.eta[:], rounded)
    expected = cbir.search(rounded, rounded, k=4)
    np.testing.assert_array_equal(cbir.search(st, rounded, k=4).indices, expected.indices)


def test_descriptors_that_are_not_finite_are_no_descriptors(folder, tmp_path, tiny_net):
    """Named like unreadable images, in whichever format the numbers do not fit."""
    with torch.no_grad():
        tiny_net.module.hidden[0].bias += 1e5
    st = extract(folder, tmp_path / "st", tiny_net, dtype="float16")
    assert not st.described.any() and np.isnan(st.eta[:]).all()
    assert "not finite as float16" in st.unreadable["cat/00.png"]
    assert extract(folder, tmp_path / "full", tiny_net).described.sum() == 9
