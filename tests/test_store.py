"""Images to store and back: rows never shift, work is never done twice, damage is never silent."""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import make_net, write_image
from zarr.storage import LocalStore

import cbir
from cbir import create
from cbir import images as decoding
from cbir.store import Store

EXTRACTION = importlib.import_module("cbir.extract")  # the module: cbir.extract is its function
RECIPE = dict(batch_size=2, shard_size=4)


class Interrupted(Exception):
    """What stops an extraction on purpose in these tests."""


def count_images(net, stop_after=None):
    """Watches the network: the list of its batches' sizes; raises after `stop_after` of them."""
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
    for attribute in ("files", "labels", "unreadable", "recipe", "network"):
        assert getattr(a, attribute) == getattr(b, attribute)
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


# ---- what is in it -------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [(2, 4), (3, 4), (4, 3), (32, 256), (1, 1), (5, 11), (11, 5), (7, 10)]
)
@pytest.mark.parametrize("recipe", cbir.RECIPES.values(), ids=cbir.RECIPES)
def test_every_row_is_its_images_description(folder, tmp_path, tiny_net, sizes, recipe):
    """However the rows are cut into batches and shards, and however many of them are missing."""
    st = extract(
        folder, tmp_path / "st", tiny_net, batch_size=sizes[0], shard_size=sizes[1], **recipe
    )
    images = cbir.list_images(folder)
    assert (
        len(st) == 11
        and st.files == images.files
        and st.labels == images.labels == ["cat"] * 6 + ["dog"] * 5
    )
    for i in range(11):
        if i in (2, 7):
            assert np.isnan(st.eta[i]).all()
            continue
        batch = tiny_net.transform(cbir.open_image(st.path(i)))[None]
        d = cbir.describe(tiny_net, batch, **recipe)
        for name in ("h", "eta_conv", "eta"):
            np.testing.assert_allclose(
                getattr(st, name)[i], getattr(d, name)[0], rtol=1e-4, atol=1e-6
            )


def test_unreadable_images_keep_their_row_and_give_a_reason(whole):
    assert set(whole.unreadable) == {"cat/02.png", "dog/07.png"}
    assert (
        whole.unreadable["cat/02.png"].startswith("not an image") and whole.unreadable["dog/07.png"]
    )
    assert whole.described.tolist() == [i not in (2, 7) for i in range(11)]
    assert np.isnan(whole.h[:]).any(axis=1).nonzero()[0].tolist() == [2, 7]


def test_a_folder_without_any_image(tmp_path):
    for i in range(5):
        write_image(tmp_path / "images" / f"{i}.png").write_text("no image")
    st = extract(tmp_path / "images", tmp_path / "st")
    assert len(st.unreadable) == 5 and np.isnan(st.eta[:]).all() and not st.missing()


def test_what_it_remembers(folder, tmp_path, tiny_net):
    st = extract(
        folder, tmp_path / "new" / "folders" / "st", tiny_net, q=0.25, threshold="relative"
    )
    assert st.recipe == cbir.AS_PRINTED | dict(q=0.25, threshold="relative")
    assert st.network == tiny_net.provenance
    assert st.root == folder and st.path(3) == folder / "cat" / "03.png"
    assert (st.h.shape, st.eta_conv.shape, st.eta.shape) == ((11, 7), (11, 15), (11, 22))
    assert "11 images, 2 unreadable" in repr(st)
    assert_same(st, cbir.open_store(tmp_path / "new" / "folders" / "st"))
    assert st.h.dtype == st.eta[:].dtype == np.float32


def test_a_store_made_before_there_was_a_balance(folder, tmp_path, tiny_net):
    """Its recipe does not name one: it is read, and completed, as one without."""
    extras = {"other": {"q": 0.1}}
    st = extract(folder, tmp_path / "st", tiny_net, extras=extras)
    attributes = json.loads((tmp_path / "st" / "zarr.json").read_text())
    del attributes["attributes"]["recipe"]["balance"]
    del attributes["attributes"]["extras"]["other"]["balance"]
    (tmp_path / "st" / "zarr.json").write_text(json.dumps(attributes))
    assert cbir.open_store(tmp_path / "st").recipe == cbir.AS_PRINTED
    again = extract(folder, tmp_path / "st", tiny_net, extras=extras)
    assert again.computed == 0 and np.array_equal(again.eta[:], st.eta[:], equal_nan=True)


def test_names_of_all_kinds(tmp_path):
    names = [
        "a b.png",
        "line\nbreak.png",
        "日本.png",
        "ü/é.png",
        "quote\"'.png",
        "-.png",
        "100%.png",
    ]
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
    files = [
        write_image(tmp_path / name, seed=i)
        for i, name in enumerate(["c/1.png", "a/2.png", "b/3.png"])
    ]
    st = extract(files, tmp_path / "st")
    assert (st.files, st.labels) == (["c/1.png", "a/2.png", "b/3.png"], ["c", "a", "b"])


def test_a_network_without_codes(folder, tmp_path):
    net = make_net(codes=())
    st = extract(folder, tmp_path / "st", net)
    assert (st.h.shape, st.eta.shape) == ((11, 0), (11, 15))
    assert st.h[:].shape == (11, 0) and st.h[3].shape == (0,)
    np.testing.assert_array_equal(st.eta[:], st.eta_conv[:])
    with_codes = extract(folder, tmp_path / "with codes")
    np.testing.assert_array_equal(st.eta_conv[:], with_codes.eta_conv[:])


@pytest.mark.parametrize(
    "rows",
    [
        0,
        10,
        -1,
        np.int64(4),
        slice(None),
        slice(2, 9),
        slice(5, 5),
        slice(None, None, 3),
        slice(-3, None),
        [3, 1, 3],
        np.array([9, 0]),
        [-1, 2],
        np.arange(11) % 3 == 0,
        [True] * 5 + [False] * 6,
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["h", "eta_conv", "eta"])
def test_views_index_like_arrays(small, name, rows):
    view = getattr(small, name)
    columns = {"h": slice(7), "eta_conv": slice(7, None), "eta": slice(None)}[name]
    plain = np.hstack([small.codes[:], small.conv[:]])[:, columns]
    np.testing.assert_array_equal(view[rows], plain[rows])
    np.testing.assert_array_equal(np.asarray(view), plain)
    assert len(view) == 11 and np.asarray(view, dtype=np.float64).dtype == np.float64


def test_no_rows(small):
    assert small.eta[[]].shape == (0, 22)


# ---- resuming ------------------------------------------------------------------------


def test_a_complete_store_needs_no_forward_pass(folder, tmp_path, whole):
    net = make_net()
    seen, _ = count_images(net)
    assert_same(extract(folder, tmp_path / "whole.zarr", net), whole)
    assert seen == []


def rows_to_describe(store):
    """The rows of the shards that are missing, (N,) bool."""
    missing = np.full(len(store), False)
    for rows in store.missing():
        missing[rows] = True
    return missing


@pytest.mark.parametrize("batches", range(4, 9, 2))
def test_an_interrupted_extraction_goes_on_where_it_stopped(folder, tmp_path, whole, batches):
    """11 rows in shards of 4, two unreadable: batches of 2, 1, 2, 1 or the like.

    Three more look at the network.
    """
    net = make_net()
    seen, handle = count_images(net, stop_after=batches)
    with pytest.raises(Interrupted):
        extract(folder, tmp_path / "st", net)
    handle.remove()
    before = cbir.open_store(tmp_path / "st")
    missing = rows_to_describe(before)
    again, _ = count_images(net)
    st = extract(folder, tmp_path / "st", net)
    assert_same(st, whole)
    # Finished shards are not computed again.
    assert sum(again) == np.count_nonzero(whole.described & missing)


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


def check_killed_at_random_moments(tmp_path, kills):
    """A rerun completes a store that was killed up to three times; its complete shards stay."""
    seed = random.SystemRandom().randrange(10**6)
    for i in range(24):
        write_image(tmp_path / "images" / f"{i:02}.png", seed=i)
    (tmp_path / "images" / "07.png").write_text("no image")
    images = tmp_path / "images"
    command = [sys.executable, "kills.py", images, tmp_path / "stores", str(kills), str(seed)]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, f"seed {seed}: {run.stderr}"

    whole = extract(images, tmp_path / "whole", batch_size=2, shard_size=2)
    stores = int(run.stdout.split()[0])
    for number in range(stores):
        path = tmp_path / "stores" / str(number)
        if not path.exists():  # killed before it was made
            assert_same(extract(images, path, batch_size=2, shard_size=2), whole)
            continue
        missing = rows_to_describe(cbir.open_store(path))
        net = make_net()
        net(net.probe())  # its first forward pass is followed by another, which looks at the taps
        seen, _ = count_images(net)
        assert_same(extract(images, path, net, batch_size=2, shard_size=2), whole)
        message = f"{path.name} computes complete shards again, seed {seed}: {run.stdout}"
        assert sum(seen) == np.count_nonzero(whole.described & missing), message


@pytest.mark.posix
def test_killed_at_random_moments(tmp_path):
    check_killed_at_random_moments(tmp_path, kills=5)


@pytest.mark.slow
@pytest.mark.posix
def test_killed_at_hundreds_of_random_moments(tmp_path):
    check_killed_at_random_moments(tmp_path, kills=120)


def test_faults_of_the_network_show_before_anything_is_written(folder, tmp_path, tiny_net):
    negative = cbir.Network(tiny_net.module, ["one.0"], transform=tiny_net.transform)
    coarse = cbir.Network(tiny_net.module, ["three", "one"], transform=tiny_net.transform)
    for net in (negative, coarse):
        with pytest.raises(ValueError):
            extract(folder, tmp_path / "stores" / "st", net)
    with pytest.raises(ValueError, match="counting"):
        extract(folder, tmp_path / "stores" / "st", tiny_net, counting="sum")
    assert not (tmp_path / "stores").exists() or not list((tmp_path / "stores").iterdir())


# ---- other settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(q=0.25), "recipe q: 0.5, now 0.25"),
        (dict(threshold="relative"), "recipe threshold"),
        (dict(counting="union"), "recipe counting"),
        (dict(scale="as_released"), "recipe scale"),
        (dict(net=make_net(seed=1)), "network weights_hash"),
        (dict(net=make_net(codes=())), "network codes"),
        (
            dict(
                net=cbir.Network(
                    make_net().module, ["one", "three"], ["hidden"], make_net().transform, "tiny"
                )
            ),
            "network blocks",
        ),
        (
            dict(
                net=cbir.Network(
                    make_net().module,
                    ["one", "two", "three"],
                    ["hidden"],
                    cbir.resize_transform(32, crop=True),
                    "tiny",
                )
            ),
            "network transform",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_store_of_other_settings_is_refused_and_left_alone(
    folder, tmp_path, whole, change, named
):
    with pytest.raises(ValueError, match=named):
        extract(folder, tmp_path / "whole.zarr", **change)
    assert_same(cbir.open_store(tmp_path / "whole.zarr"), whole)


def test_a_store_of_other_images_is_refused_and_left_alone(folder, tmp_path, whole):
    few = cbir.list_images(folder)[range(4)]
    with pytest.raises(ValueError, match="7 of its 11 images are not among these"):
        extract(few, tmp_path / "whole.zarr")
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="its images are in .*images, these in .*moved"):
        extract(moved, tmp_path / "whole.zarr")
    assert_same(cbir.open_store(tmp_path / "whole.zarr"), whole)
    assert not list(tmp_path.glob(".*.next"))


# ---- a folder that changes -----------------------------------------------------------


def changed(folder):
    """Two images more, two gone, one that is another by now, one damaged; how many are to do."""
    write_image(folder / "ant" / "new.png", size=(40, 30))
    write_image(folder / "zebra" / "new.png", size=(30, 40))
    (folder / "cat" / "00.png").unlink()
    (folder / "dog" / "07.png").unlink()
    write_image(folder / "cat" / "01.png", size=(50, 50))
    (folder / "cat" / "03.png").write_bytes(b"no image")
    return 5  # with the one that could not be read before


def all_bytes(store):
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


def check_same_values(a, b):
    """Up to rounding: their images were in other batches."""
    assert (a.files, a.labels, a.unreadable) == (b.files, b.labels, b.unreadable)
    assert np.array_equal(a.sizes, b.sizes)
    np.testing.assert_allclose(a.eta[:], b.eta[:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shard_size", [3, 256])
def test_a_store_follows_its_folder_byte_for_byte(folder, tmp_path, shard_size):
    """In batches of one image: a larger batch may be rounded in another way."""
    extras = {"color": "color", "windows": "windows"}
    options = dict(shard_size=shard_size, extras=extras, batch_size=1)
    extract(folder, tmp_path / "st", **options)
    n_to_describe = changed(folder)
    store = extract(folder, tmp_path / "st", **options)
    assert store.computed == n_to_describe and store.location == str(tmp_path / "st")
    extract(folder, tmp_path / "anew", **options)
    assert all_bytes(tmp_path / "st") == all_bytes(tmp_path / "anew")
    assert extract(folder, tmp_path / "st", **options).computed == 0
    hidden = {path.name for path in tmp_path.glob(".*")}
    assert hidden == {".st.lock", ".anew.lock"}


def test_a_store_that_follows_opens_only_what_is_new(folder, tmp_path, whole, monkeypatch):
    before = whole.load()
    changed(folder)
    opened = []

    def open_image(path):
        opened.append(path.relative_to(folder).as_posix())
        return decoding.open_image(path)

    monkeypatch.setattr(EXTRACTION, "open_image", open_image)
    store = extract(folder, tmp_path / "whole.zarr")
    assert sorted(opened) == [
        "ant/new.png",
        "cat/01.png",
        "cat/02.png",
        "cat/03.png",
        "zebra/new.png",
    ]
    assert list(store.unreadable) == ["cat/02.png", "cat/03.png"]
    for row, file in enumerate(store.files):
        if file not in opened:
            row_before = before.files.index(file)
            assert np.array_equal(store.eta[row], before.eta[row_before], equal_nan=True)


def test_until_it_has_followed_the_store_stays(folder, tmp_path, whole, monkeypatch):
    """Interrupted after a shard: the old store is whole, and the next call does what is left."""
    before = all_bytes(tmp_path / "whole.zarr")
    changed(folder)
    write = Store.write

    def interrupted(self, rows, arrays, state):
        if rows.start:
            raise KeyboardInterrupt
        write(self, rows, arrays, state)

    monkeypatch.setattr(Store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, tmp_path / "whole.zarr")
    assert all_bytes(tmp_path / "whole.zarr") == before
    monkeypatch.undo()
    store = extract(folder, tmp_path / "whole.zarr")
    assert store.computed < 4
    check_same_values(store, extract(folder, tmp_path / "anew"))


def test_a_folder_that_changes_again_while_a_store_follows(folder, tmp_path, whole, monkeypatch):
    changed(folder)
    monkeypatch.setattr(EXTRACTION, "put_in_place", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(folder, tmp_path / "whole.zarr")
    monkeypatch.undo()
    write_image(folder / "cat" / "newest.png")
    store = extract(folder, tmp_path / "whole.zarr")
    assert store.files == cbir.list_images(folder).files
    check_same_values(store, extract(folder, tmp_path / "anew"))


def test_files_out_of_reach_leave_a_store_as_it_is(folder, tmp_path, whole):
    """A disk that is away: neither the listed images nor the folder's remains replace a store."""
    before = all_bytes(tmp_path / "whole.zarr")
    images = cbir.list_images(folder)
    folder.rename(tmp_path / "away")
    assert extract(images, tmp_path / "whole.zarr").computed == 0
    write_image(folder / "cat" / "00.png")
    with pytest.raises(ValueError, match="10 of its 11 images are not among these"):
        extract(folder, tmp_path / "whole.zarr")
    assert all_bytes(tmp_path / "whole.zarr") == before
    assert extract(folder, tmp_path / "whole.zarr", shrink=True).files == ["cat/00.png"]


@pytest.mark.parametrize("step", ["rename", "rmtree"])
def test_a_change_of_place_that_is_interrupted(folder, tmp_path, monkeypatch, step):
    """Between two renames, or while the earlier store is removed: nothing is described twice."""
    extract(folder, tmp_path / "st")
    write_image(folder / "cat" / "new.png")
    if step == "rename":
        monkeypatch.setattr(create, "place_of_next", lambda path: tmp_path / "nowhere")
    else:
        monkeypatch.setattr(create.shutil, "rmtree", lambda *_, **__: 1 / 0)
    with pytest.raises((FileNotFoundError, ZeroDivisionError)):
        create.put_in_place(tmp_path / "st") if step == "rename" else extract(
            folder, tmp_path / "st"
        )
    monkeypatch.undo()
    st = extract(folder, tmp_path / "st")
    assert st.computed <= 3 and len(st) == 12  # the new one, and two that cannot be read
    assert {path.name for path in tmp_path.glob(".*")} == {".st.lock"}


def test_remains_in_the_place_of_the_next_store(folder, tmp_path, whole):
    write_image(folder / "cat" / "new.png")
    write_image(tmp_path / ".whole.zarr.next" / "state" / "remains.png")
    assert len(extract(folder, tmp_path / "whole.zarr")) == 12


def test_a_store_that_was_replaced_says_so(folder, tmp_path, whole):
    loaded = whole.load()
    eta = whole.eta[:]
    changed(folder)
    extract(folder, tmp_path / "whole.zarr")
    for use in (lambda: whole.eta, lambda: cbir.search(whole, eta[3], k=1)):
        with pytest.raises(ValueError, match="was replaced .* open it again"):
            use()
    assert np.array_equal(loaded.eta[:], eta, equal_nan=True)
    assert cbir.search(loaded, eta[3], k=1).indices.tolist() == [[3]]


@pytest.mark.posix
def test_a_store_behind_a_link_follows_where_it_lies(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    extract(folder, tmp_path / "disk" / "st")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "st")
    write_image(folder / "cat" / "new.png")
    assert len(extract(folder, tmp_path / "link")) == 12
    assert (tmp_path / "link").is_symlink()
    assert len(cbir.open_store(tmp_path / "disk" / "st")) == 12


def test_what_could_not_be_read_is_tried_again(folder, tmp_path, whole):
    """With the next change: the file may have been out of reach for a moment."""
    size = whole.path(2).stat().st_size
    whole.path(2).write_bytes(write_image(tmp_path / "good.png").read_bytes())
    assert whole.path(2).stat().st_size != size
    write_image(folder / "cat" / "new.png")
    assert list(extract(folder, tmp_path / "whole.zarr").unreadable) == ["dog/07.png"]


def test_what_a_package_was_missing_for_is_read_when_it_is_there(folder, tmp_path, monkeypatch):
    def without(path):
        if path.name == "04.png":
            raise decoding.UnreadableImage(decoding.NEEDS_HEIC)
        return decoding.open_image(path)

    monkeypatch.setattr(EXTRACTION, "open_image", without)
    monkeypatch.setattr(create, "KNOWS_HEIC", False)
    assert "cat/04.png" in extract(folder, tmp_path / "st").unreadable
    assert extract(folder, tmp_path / "st").computed == 0
    monkeypatch.undo()
    monkeypatch.setattr(create, "KNOWS_HEIC", True)
    assert "cat/04.png" not in extract(folder, tmp_path / "st").unreadable


def test_a_lost_shard_is_described_again_by_a_store_that_follows(folder, tmp_path, whole):
    (tmp_path / "whole.zarr" / "conv" / "c" / "0" / "0").unlink()
    write_image(folder / "zebra" / "new.png")
    store = extract(folder, tmp_path / "whole.zarr")
    assert store.computed == 4 + 2  # the shard, the new one, and one that cannot be read
    check_same_values(store, extract(folder, tmp_path / "anew"))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text("no store"),
        lambda path: write_image(path / "image.png"),
        lambda path: zarr.create_array(path, shape=(3,), dtype="f4"),
    ],
    ids=["nothing", "empty folder", "file", "folder of images", "zarr array"],
)
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
    with pytest.raises(ValueError, match="cbir-0.*cbir-3"):
        cbir.open_store(tmp_path / "whole.zarr")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(ValueError, match="format"):
        cbir.open_store(tmp_path / "other")


# ---- damage --------------------------------------------------------------------------


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
        file.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
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


@pytest.mark.parametrize("file", ["codes/c/1/0", "conv/c/2/0", "mac/c/0/0"])
def test_a_lost_file_is_named_and_its_images_are_described_again(folder, tmp_path, file):
    whole = extract(folder, tmp_path / "whole", extras={"mac": "mac"})
    st = extract(folder, tmp_path / "st", extras={"mac": "mac"})
    (tmp_path / "st" / file).unlink()
    with pytest.raises(ValueError, match=f"1 shard files .* lost, first {file}"):
        cbir.open_store(tmp_path / "st")
    with pytest.raises(ValueError, match="lost a shard"):
        cbir.search(st, whole, "eta+mac", k=1)  # opened before
    assert [f for _, f in st.damaged()] == [file]
    again = extract(folder, tmp_path / "st", extras={"mac": "mac"})
    assert again.computed == (3 if "2" in file else 4)
    assert_same(again, whole)
    assert again["mac"][:].tobytes() == whole["mac"][:].tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: b"",
    ],
    ids=["cut", "flipped", "emptied"],
)
def test_a_damaged_shard_is_named_by_whatever_reads_it(folder, tmp_path, whole, damage):
    file = tmp_path / "whole.zarr" / "conv" / "c" / "1" / "0"
    good = extract(folder, tmp_path / "good")
    file.write_bytes(damage(file.read_bytes()))
    for read in (
        lambda: whole.eta[:],
        lambda: whole.eta_conv[5],
        lambda: cbir.search(whole, good, k=1),
    ):
        with pytest.raises(ValueError, match="damaged"):
            read()
    assert [f for _, f in whole.damaged()] == ["conv/c/1/0"]
    file.unlink()  # as the message says
    assert_same(extract(folder, tmp_path / "whole.zarr"), good)


FULL = """
import resource, sys
from conftest import make_net, cbir
size = int(sys.argv[3])
net = make_net()
# The first extraction compiles, loads and writes all that it needs.
cbir.extract(sys.argv[1], net, sys.argv[2] + ".other", shard_size=4)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    cbir.extract(sys.argv[1], net, sys.argv[2], shard_size=4)
except OSError as error:
    print("OSError", error)
"""


@pytest.mark.posix
def test_a_disk_that_is_full(tmp_path):
    """No file may grow beyond a limit: an error, and whatever was written before it stays good."""
    for i in range(9):
        write_image(tmp_path / "images" / f"{i}.png", seed=i)
    net = wide_net()
    whole = cbir.extract(tmp_path / "images", net, tmp_path / "whole", shard_size=4)
    largest = max(p.stat().st_size for p in (tmp_path / "whole").rglob("*") if p.is_file())
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            FULL.replace("make_net()", "wide_net()")
            .replace("import make_net", "import make_net as _")
            .replace("size = int", "from test_store import wide_net; size = int"),
            tmp_path / "images",
            tmp_path / "st",
            str(largest - 100),
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert "OSError" in run.stdout, run.stderr
    assert cbir.open_store(tmp_path / "st").missing()
    assert_same(cbir.extract(tmp_path / "images", net, tmp_path / "st", shard_size=4), whole)


def wide_net():
    """With codes that fill a file more than any metadata do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential()
        module.add_module("one", torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU()))
        module.add_module("flat", torch.nn.Flatten())
        module.add_module("code", torch.nn.LazyLinear(3000))
        module(torch.zeros(1, 3, 8, 8))
    return cbir.Network(module, ["one"], ["code"], cbir.resize_transform(8), name="wide")


# ---- more descriptors, half the size -------------------------------------------------

EXTRAS = {"mac": "mac", "color": "color", "relative": {"threshold": "relative"}, "q=0": {"q": 0}}


def test_extras_are_what_their_functions_say(folder, tmp_path, tiny_net, whole):
    st = extract(folder, tmp_path / "st", tiny_net, extras=EXTRAS)
    for name in ("h", "eta_conv", "eta"):
        np.testing.assert_array_equal(getattr(st, name)[:], getattr(whole, name)[:])
    for i in np.flatnonzero(st.described):
        image = cbir.open_image(st.path(i))
        ys, codes = tiny_net(tiny_net.transform(image)[None])
        np.testing.assert_allclose(st["mac"][i], cbir.POOLINGS["mac"](ys)[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            st["color"][i], cbir.color_histogram(np.asarray(image)), rtol=1e-6
        )
        np.testing.assert_allclose(
            st["relative"][i],
            cbir.conv_descriptor(ys, threshold="relative")[0],
            rtol=1e-4,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            st["q=0"][i], cbir.conv_descriptor(ys, q=0)[0], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(st["y_4"][i], codes[0][0], rtol=1e-4, atol=1e-6)
    assert np.isnan(st["color"][2]).all()


def test_parts_and_sums_of_descriptors(folder, tmp_path):
    st = extract(folder, tmp_path / "st", extras=EXTRAS)
    np.testing.assert_array_equal(st["w_1+w_2+w_3"][:], st.eta_conv[:])
    np.testing.assert_array_equal(st["h+eta_conv"][:], st.eta[:])
    np.testing.assert_array_equal(
        st["mac+w_2"][3:5], np.hstack([st["mac"][3:5], st.eta_conv[3:5][:, 4:10]])
    )
    assert st["w_2"].shape == (11, 6) and st["color"].shape == (11, 75)
    with pytest.raises(ValueError, match="unknown descriptor 'w_4'.*'w_3'"):
        st["h+w_4"]


@pytest.mark.parametrize(
    "extras, named",
    [
        ({"mac": "sum"}, "unknown extra 'sum'"),
        ({"codes": "mac"}, "'codes'"),
        ({"w_1": "mac"}, "'w_1'"),
        ({"a/b": "mac"}, "'a/b'"),
        ({"a+b": "mac"}, "'a.b'"),
        ({"": "mac"}, "name"),
        ({"r": {"counting": "all"}}, "counting"),
    ],
)
def test_extras_that_make_no_sense(folder, tmp_path, extras, named):
    with pytest.raises(ValueError, match=named):
        extract(folder, tmp_path / "st", extras=extras)
    assert not (tmp_path / "st").exists()


def test_other_extras_are_other_settings(folder, tmp_path):
    extract(folder, tmp_path / "st", extras={"mac": "mac"})
    for extras in ({}, {"mac": "gem"}, {"mac": "mac", "color": "color"}):
        with pytest.raises(ValueError, match="extras (mac|color)"):
            extract(folder, tmp_path / "st", extras=extras)


def test_half_the_size(folder, tmp_path, whole):
    st = extract(folder, tmp_path / "st", dtype="float16")
    assert st.codes.dtype == np.float16 and st.eta.dtype == st.eta[:].dtype == np.float32
    np.testing.assert_allclose(st.eta[:], whole.eta[:], rtol=2**-11, atol=1e-6)
    rounded = whole.eta[:].astype(np.float16).astype(np.float32)
    hits, expected = cbir.search(st, rounded, k=4), cbir.search(rounded, rounded, k=4)
    np.testing.assert_array_equal(hits.indices, expected.indices)
    np.testing.assert_allclose(hits.distances, expected.distances, rtol=1e-12)
    for other in ("float64", "int8"):
        with pytest.raises(ValueError, match=f"unknown dtype '{other}'"):
            extract(folder, tmp_path / "other", dtype=other)
    with pytest.raises(ValueError, match="dtype: 'float16', now 'float32'"):
        extract(folder, tmp_path / "st")


def test_descriptors_beyond_the_range_of_numbers_are_no_descriptors(folder, tmp_path, tiny_net):
    """Named like unreadable images, in whichever format the numbers do not fit."""
    with torch.no_grad():
        tiny_net.module.hidden[0].bias += 1e5
    st = extract(folder, tmp_path / "st", tiny_net, dtype="float16")
    assert (
        not st.described.any()
        and "not finite as float16" in st.unreadable["cat/00.png"]
        and np.isnan(st.eta[:]).all()
    )
    assert extract(folder, tmp_path / "full", tiny_net).described.sum() == 9
    with torch.no_grad():
        tiny_net.module.hidden[0].bias[:] = torch.nan
    assert (
        "not finite as float32"
        in extract(folder, tmp_path / "nan", tiny_net).unreadable["cat/00.png"]
    )


def test_half_precision_networks(folder, tmp_path, tiny_net, whole):
    st = extract(folder, tmp_path / "st", tiny_net.to(dtype=torch.bfloat16))
    scale = np.nanmax(whole.eta[:])
    np.testing.assert_allclose(st.eta[:], whole.eta[:], atol=0.03 * scale)
    assert st.network != whole.network


# ---- stores that somebody else made --------------------------------------------------


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    "arrays, shape",
    [
        (["files"], 10**13),
        (["conv"], 10**13),
        (["state"], 12),
        (["codes", "conv", "files", "labels", "sizes", "state"], 10**13),
    ],
)
def test_shapes_that_do_not_fit_are_refused_at_once(tmp_path, whole, arrays, shape):
    for name in arrays:
        edit(
            tmp_path / "whole.zarr" / name / "zarr.json",
            lambda about: about["shape"].__setitem__(0, shape),
        )
    with pytest.raises(ValueError, match="no sound store"):
        cbir.open_store(tmp_path / "whole.zarr")


@pytest.mark.parametrize("key", ["root", "network", "recipe", "dims", "extras"])
def test_missing_attributes_are_named(tmp_path, whole, key):
    edit(tmp_path / "whole.zarr" / "zarr.json", lambda about: about["attributes"].pop(key))
    with pytest.raises(ValueError, match=f"no sound store.*{key}"):
        cbir.open_store(tmp_path / "whole.zarr")


def test_chunks_that_are_no_shards_are_refused(tmp_path, whole):
    edit(
        tmp_path / "whole.zarr" / "conv" / "zarr.json",
        lambda about: about["chunk_grid"]["configuration"].update(chunk_shape=[3, 15]),
    )
    with pytest.raises(ValueError, match="no sound store"):
        cbir.open_store(tmp_path / "whole.zarr")


@pytest.mark.parametrize("name", ["files", "labels", "sizes"])
def test_lost_names_are_named(folder, tmp_path, whole, name):
    (tmp_path / "whole.zarr" / name / "c" / "0").unlink()
    for use in (cbir.open_store, lambda path: extract(folder, path)):
        with pytest.raises(ValueError, match=f"lost its {name}"):
            use(tmp_path / "whole.zarr")


def test_rows_whose_state_was_lost_are_not_found(folder, tmp_path, whole):
    (tmp_path / "whole.zarr" / "state" / "c" / "0").unlink()
    st = cbir.open_store(tmp_path / "whole.zarr")
    assert cbir.search(st, st.eta[8:9], k=6).indices.min() >= 4
    assert extract(folder, tmp_path / "whole.zarr").computed == 4


def test_a_complete_store_on_a_disk_that_cannot_be_written(folder, tmp_path, whole, monkeypatch):
    """Nothing to write, no lock: any number of readers at a time."""
    monkeypatch.setattr(EXTRACTION, "locked", None)
    assert extract(folder, tmp_path / "whole.zarr").computed == 0
