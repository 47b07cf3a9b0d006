"""Past one machine: the same bits from a Dask cluster, also when workers die; stores at URLs."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import make_net, write_image
from distributed import Client, LocalCluster
from zarr.storage import FsspecStore

import cbir

EXTRAS = {"mac": "mac", "color": "color", "relative": {"threshold": "relative"}}
OPTIONS = dict(batch_size=2, shard_size=4, extras=EXTRAS)


def local_cluster(n_workers):
    """Worker processes with one thread each."""
    return LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)


@pytest.fixture(scope="module")
def client():
    with local_cluster(2) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """41 images, the third of which cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for i in range(41):
        write_image(root / f"{i:02}.png", seed=i)
    (root / "02.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def here(images, tmp_path_factory):
    """The store, made in this process."""
    return cbir.extract(images, make_net(), tmp_path_factory.mktemp("here") / "st", **OPTIONS)


def assert_same(a, b):
    for attribute in ("files", "labels", "unreadable", "recipe", "network", "extras"):
        assert getattr(a, attribute) == getattr(b, attribute)
    for name in a.arrays:
        assert a.arrays[name][:].tobytes() == b.arrays[name][:].tobytes()


# ---- Dask ----------------------------------------------------------------------------


def test_a_cluster_extracts_the_same_bits(client, images, here, tmp_path):
    st = cbir.extract(images, make_net(), tmp_path / "st", client=client, **OPTIONS)
    assert_same(st, here)
    assert cbir.extract(images, make_net(), tmp_path / "st", client=client, **OPTIONS).computed == 0


def test_a_cluster_completes_what_one_process_began(client, images, here, tmp_path):
    cbir.extract(images, make_net(), tmp_path / "st", **OPTIONS)
    for file in ("state/c/2", "mac/c/4/0"):
        (tmp_path / "st" / file).unlink()
    st = cbir.extract(images, make_net(), tmp_path / "st", client=client, **OPTIONS)
    assert st.computed == 8
    assert_same(st, here)


def test_a_cluster_follows_a_folder_that_changed(client, tmp_path):
    """One image a batch: a larger one may be rounded in another way."""
    options = OPTIONS | dict(batch_size=1)
    images = tmp_path / "images"
    for i in range(14):
        write_image(images / f"{i:02}.png", seed=i)
    cbir.extract(images, make_net(), tmp_path / "st", **options)
    (images / "03.png").unlink()
    write_image(images / "07a.png", seed=20)
    st = cbir.extract(images, make_net(), tmp_path / "st", client=client, **options)
    assert st.computed == 1
    assert_same(st, cbir.extract(images, make_net(), tmp_path / "anew", **options))


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_a_cluster_searches_the_same_bits(client, here, metric):
    names = ["h", "eta_conv", "eta", "mac", "h+color"]
    alone = cbir.search(here, here, names, metric, k=7)
    together = cbir.search(here, here, names, metric, k=7, client=client)
    for name in names:
        np.testing.assert_array_equal(alone[name].indices, together[name].indices)
        np.testing.assert_array_equal(alone[name].distances, together[name].distances)


class WaitsForAKill:
    """A hook that holds up whatever worker comes to it, until one was killed.

    At module level, since hooks travel with the network. The first shards pass, so that the store
    is half filled; then every worker leaves its process number and waits for the file "killed".
    """

    def __init__(self, folder, store):
        self.folder = folder
        self.store = store

    def __call__(self, _module, _inputs):
        if len(list(self.store.glob("state/c/*"))) < 2:
            return
        (self.folder / f"{os.getpid()}.waits").touch()
        while not (self.folder / "killed").exists():
            time.sleep(0.01)


@pytest.mark.posix
def test_a_worker_killed_half_way(images, here, tmp_path):
    """Its shards go to the other worker and to the one that replaces it."""
    net = make_net()
    net.module.register_forward_pre_hook(WaitsForAKill(tmp_path, tmp_path / "st"))
    workers = set()
    done = threading.Event()

    def kill_one_that_waits():
        while not done.wait(0.01):
            for waiting in tmp_path.glob("*.waits"):
                pid = int(waiting.stem)
                if pid in workers:
                    os.kill(pid, signal.SIGKILL)
                    (tmp_path / "killed").touch()
                    return

    with local_cluster(2) as cluster, Client(cluster) as client:
        workers |= {worker.pid for worker in cluster.workers.values()}
        killer = threading.Thread(target=kill_one_that_waits)
        killer.start()
        try:
            st = cbir.extract(images, net, tmp_path / "st", client=client, **OPTIONS)
        finally:
            done.set()
            killer.join()
    assert (tmp_path / "killed").exists(), "the worker was to be killed before the end"
    assert_same(st, here)


def test_faults_on_a_worker_are_raised_here(client, images, tmp_path):
    net = make_net()
    net.transform = Faulty()
    with pytest.raises(ZeroDivisionError):
        cbir.extract(images, net, tmp_path / "st", client=client, **OPTIONS)


class Faulty:
    """Works for `Network.probe`'s noise, (256, 256), and fails for every image."""

    def __call__(self, image):
        if image.size != (256, 256):
            raise ZeroDivisionError
        return cbir.resize_transform(32)(image)

    __str__ = __repr__ = lambda self: "faulty"


def test_connect(monkeypatch):
    with cbir.cluster.connect(None) as client:
        assert client is None
    with local_cluster(1) as cluster:
        with cbir.cluster.connect(cluster.scheduler_address) as client:
            assert client.submit(sum, [1, 2]).result() == 3

    def impatient_client(address, timeout):
        return Client(address, timeout="0.5s")

    monkeypatch.setattr("distributed.Client", impatient_client)
    with pytest.raises(OSError):
        with cbir.cluster.connect("tcp://127.0.0.1:9"):
            pass


# ---- object storage ------------------------------------------------------------------


@pytest.fixture
def url():
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket/stores/st"
    fsspec.filesystem("memory").store.clear()


def test_a_store_at_a_url(images, here, url):
    with pytest.raises(FileNotFoundError, match="memory://bucket/stores/st"):
        cbir.open_store(url)
    st = cbir.extract(images, make_net(), url, **OPTIONS)
    assert_same(st, here)
    assert_same(cbir.open_store(url), here)
    assert cbir.extract(images, make_net(), url, **OPTIONS).computed == 0
    found, expected = cbir.search(st, here, k=3), cbir.search(here, here, k=3)
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_resuming_at_a_url(images, here, url, monkeypatch):
    """Interrupted before any write: also between those that make the store."""

    class Interrupted(Exception):
        pass

    for name in ("set", "set_if_not_exists"):

        async def limited(self, *args, write=getattr(FsspecStore, name), **options):
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
            return await write(self, *args, **options)

        monkeypatch.setattr(FsspecStore, name, limited)
    left = [0]
    for allowed in (0, 1, 5, 12, 30):
        fsspec.filesystem("memory").store.clear()
        left[0] = allowed
        with pytest.raises(Interrupted):
            cbir.extract(images, make_net(), url, **OPTIONS)
        left[0] = 10**6
        assert_same(cbir.extract(images, make_net(), url, **OPTIONS), here)


def test_the_package_of_a_url_is_named(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    message = r"s3://bucket/st needs another package .*s3fs.*: pip install 'cbir\[s3\]'"
    with pytest.raises(ImportError, match=message):
        cbir.open_store("s3://bucket/st")
    with pytest.raises(ImportError, match=message):
        cbir.extract(images, make_net(), "s3://bucket/st", **OPTIONS)


def test_a_file_url_is_a_folder(images, here, tmp_path):
    assert_same(cbir.extract(images, make_net(), f"file://{tmp_path}/st", **OPTIONS), here)
    assert_same(cbir.open_store(tmp_path / "st"), here)


def test_other_objects_are_left_alone(images, url):
    fsspec.filesystem("memory").pipe_file("bucket/stores/st/zarr.json", b"{}")
    with pytest.raises(Exception):
        cbir.extract(images, make_net(), url, **OPTIONS)
    assert fsspec.filesystem("memory").cat_file("bucket/stores/st/zarr.json") == b"{}"


def test_a_url_with_something_else_is_left_alone(images, url):
    """Objects that are no store, below the very address, stay, and the call says why it stops."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("bucket/stores/st/photo.jpg", b"somebody's")
    with pytest.raises(FileExistsError):
        cbir.extract(images, make_net(), url, **OPTIONS)
    assert memory.cat_file("bucket/stores/st/photo.jpg") == b"somebody's"


# ---- two processes -------------------------------------------------------------------

SECOND = """
import sys
from conftest import make_net, cbir
try:
    cbir.extract(sys.argv[1], make_net(), sys.argv[2], batch_size=2, shard_size=4)
except BlockingIOError as error:
    print(error)
"""


def test_a_second_process_is_told(images, tmp_path):
    """While the first one is at it; afterwards the store is the first one's, whole."""
    net = make_net()
    second = []

    def other(_module, _inputs):
        if second or not (tmp_path / "st").exists():
            return
        command = [sys.executable, "-c", SECOND, images, tmp_path / "st"]
        here = Path(__file__).parent
        second.append(subprocess.run(command, cwd=here, capture_output=True, text=True))

    net.module.register_forward_pre_hook(other)
    st = cbir.extract(images, net, tmp_path / "st", batch_size=2, shard_size=4)
    assert "another process is describing images into" in second[0].stdout, second[0].stderr
    assert not st.missing()
    assert st.described.sum() == 40
