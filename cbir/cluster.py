"""Where work runs: in threads, on this machine's cores, or on any Dask cluster of the user."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from distributed import Client, Worker

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    n_ahead: int,
) -> Iterator[Result]:
    """Like `map`, in order; n_ahead results are worked on while the caller uses the present one."""
    items = iter(items)
    futures = deque(pool.submit(function, item) for item in islice(items, n_ahead))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, item) for item in islice(items, 1))
        yield result


@contextmanager
def connect(scheduler: str | None = None) -> "Iterator[Client | None]":
    """A Dask client for the time of a `with` block.

    Args:
        scheduler: None for no cluster; "local" for this machine, one process a core; else the
            address of a running scheduler ("tcp://host:8786"; dask-jobqueue and Kubernetes
            clusters tell theirs), whose workers have cbir installed.

    Yields:
        The client, or None.

    Raises:
        OSError: nobody answers at the address.
    """
    if not scheduler:
        yield None
        return
    from distributed import Client, LocalCluster  # half a second that no other work need pay

    if scheduler == "local":
        with LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster:
            with Client(cluster) as client:
                yield client
    else:
        with Client(scheduler, timeout="10s") as client:
            yield client


def run_on_workers(
    client: "Client", function: Callable[..., Any], kept: Any, tasks: Sequence[tuple[Any, ...]]
) -> Iterator[Any]:
    """Runs function(kept, *task) for every task, with one copy of `kept` on each worker.

    A worker that starts later, or again, gets its copy too. Tasks of workers that die go to
    others. The threads of a worker take turns.

    Args:
        client: whose workers run the tasks.
        function: a function of a module that the workers have.
        kept: what is too large to travel with every task.
        tasks: the other arguments of each call.

    Yields:
        The results, as they come.
    """
    if not tasks:
        return
    from distributed import WorkerPlugin, as_completed

    class Keep(WorkerPlugin):
        def __init__(self, kept: Any) -> None:
            self.kept = kept

        def setup(self, worker: "Worker") -> None:
            self.lock = Lock()

    name = f"cbir-{uuid.uuid4()}"
    client.register_plugin(Keep(kept), name=name)
    futures = [client.submit(_run, name, function, task, pure=False) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        client.cancel(futures)
        client.unregister_worker_plugin(name)


def _run(name: str, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    """A task of `run_on_workers`, on a worker."""
    from distributed import get_worker

    plugin: Any = get_worker().plugins[name]
    with plugin.lock:
        return function(plugin.kept, *task)
