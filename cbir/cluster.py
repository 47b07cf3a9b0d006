"""Where work runs: in this process, on this machine's cores, or on any Dask cluster that the user has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def connect(scheduler: str | None = None) -> "Iterator[Client | None]":
    """A Dask client for the time of a `with` block.

    scheduler: None, no cluster: yields None; "local": a LocalCluster of this machine, one process a core; anything else: the address of
    a running scheduler ("tcp://host:8786"; dask-jobqueue and Kubernetes clusters tell theirs), whose workers have cbir installed.
    Raises OSError where nobody answers there.
    """
    if not scheduler:
        yield None
        return
    from distributed import Client, LocalCluster  # half a second that work in this process need not pay

    if scheduler == "local":
        with LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            yield client
    else:
        with Client(scheduler, timeout="10s") as client:
            yield client
