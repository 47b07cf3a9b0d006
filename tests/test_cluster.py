"""The same bits from a Dask cluster as from one process, also when workers die."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import make_net, write_image
from distributed import Client, LocalCluster
from test_store import EXTRAS, assert_same

import cbir
from cbir.extract import connect

OPTIONS = dict(batch_size=2, shard_size=4, extras=EXTRAS)


def local_cluster(n_workers):
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
    return cbir.extract(images, make_net(), tmp_path_factory.mktemp("here") / "st", **OPTIONS)


def test_a_cluster_extracts_the_same_bits(client, images, here, tmp_path):
    """Also what one process began; then it follows the folder."""

    def extract(images):
        return cbir.extract(images, make_net(), tmp_path / "st", client=client, **OPTIONS)

    assert_same(extract(images), here)
    for file in ("done/00002.json", "mac/00004.npy"):
        (tmp_path / "st" / file).unlink()
    st = extract(images)
    assert st.computed == 8
    assert_same(st, here)
    more = [*st.files, os.path.relpath(write_image(tmp_path / "new.png", seed=50), images)]
    st = extract(cbir.ImageSet(images, more, [""] * 42))
    assert st.computed == 1 + 1  # and the one that cannot be read
    assert st.eta[:41].tobytes() == here.eta[:].tobytes()


def test_a_run_on_a_cluster(client, images, here, tmp_path):
    listed = cbir.list_images(images)
    how = dict(network=make_net(), scheduler=client.scheduler.address, batch_size=2)
    _, database, _ = cbir.Run("run", tmp_path).describe("", listed, listed[[0, 1]], **how)
    assert database.eta[:].tobytes() == here.eta[:].tobytes()


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_a_cluster_searches_the_same_bits(client, here, metric):
    names = ["h", "eta_conv", "eta", "mac", "h+color"]
    alone, together = (cbir.search(here, here, names, metric, 7, client=c) for c in (None, client))
    for name in names:
        np.testing.assert_array_equal(alone[name].indices, together[name].indices)
        np.testing.assert_array_equal(alone[name].distances, together[name].distances)


class WaitsForAKill:
    """A hook that holds up whatever worker comes to it after two shards, until one was killed."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, _module, _inputs):
        if len(list(self.folder.glob("st/done/*.json"))) < 2:
            return
        (self.folder / f"{os.getpid()}.waits").touch()
        while not (self.folder / "killed").exists():
            time.sleep(0.01)


@pytest.mark.posix
def test_a_worker_killed_half_way(images, here, tmp_path):
    """Its shards go to the other worker and to the one that replaces it."""
    net = make_net()
    net.module.register_forward_pre_hook(WaitsForAKill(tmp_path))
    done = threading.Event()

    def kill_one_that_waits(workers):
        while not done.wait(0.01):
            for pid in workers:
                if (tmp_path / f"{pid}.waits").exists():
                    os.kill(pid, signal.SIGKILL)
                    return (tmp_path / "killed").touch()

    with local_cluster(2) as cluster, Client(cluster) as client, ThreadPoolExecutor() as pool:
        pool.submit(kill_one_that_waits, [worker.pid for worker in cluster.workers.values()])
        try:
            st = cbir.extract(images, net, tmp_path / "st", client=client, **OPTIONS)
        finally:
            done.set()
    assert (tmp_path / "killed").exists(), "the worker was to be killed before the end"
    assert_same(st, here)


def test_connect():
    with connect(None) as client:
        assert client is None
    with local_cluster(1) as cluster, connect(cluster.scheduler_address) as client:
        assert client.submit(sum, [1, 2]).result() == 3
