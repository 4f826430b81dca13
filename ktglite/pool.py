"""Where tasks run: processes of this machine, or a Dask cluster, behind one `submit`.

A task whose process is killed, for want of memory for instance, is given again; it finds its
checkpoint and goes on.
"""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

__all__ = ["open_pool"]

RESTARTS = 2  # a task whose process was killed is given again this often


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def default_jobs() -> int:
    """One process per GPU, or per core where there is none."""
    return torch.cuda.device_count() or cores()


@contextmanager
def open_pool(
    jobs: int | None = None, dask: str | None = None
) -> Iterator["_LocalPool | _DaskPool"]:
    """A pool with `submit(function, *args) -> concurrent.futures.Future` and `size`, how many tasks
    run at once.

    - `jobs`: processes of one thread each, by default `default_jobs()`; several GPUs are shared out
      among them.
    - `dask`: address of a Dask scheduler, "tcp://HOST:8786", whose workers run the tasks instead.
      They must be started in the same folder of a file system that they share.

    A task whose process keeps being killed fails with ChildProcessError. What was submitted and not
    begun is dropped when the block ends. Raises ValueError for jobs < 1, without Dask installed, or
    if no scheduler answers.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: it must be at least 1")
    pool = _DaskPool(dask) if dask else _LocalPool(jobs or default_jobs())
    try:
        yield pool
    finally:
        pool.close()


class _LocalPool:
    """One executor of one process per place, so that a killed process breaks its own task only."""

    def __init__(self, jobs: int):
        self.size, self._places, self._own = jobs, itertools.count(), threading.local()
        self._executors: list[ProcessPoolExecutor] = []
        self._threads = ThreadPoolExecutor(jobs, "ktglite-pool", self._take_place)

    def submit(self, function: Callable, *args) -> Future:
        return self._threads.submit(self._run, function, *args)

    def _take_place(self) -> None:
        self._own.place = next(self._places)
        self._start()

    def _start(self) -> None:
        executor = ProcessPoolExecutor(1, _context(), _begin_worker, (self._own.place,))
        self._own.executor = executor
        self._executors.append(executor)

    def _run(self, function: Callable, *args):
        for _ in range(RESTARTS + 1):
            try:
                return self._own.executor.submit(function, *args).result()
            except BrokenProcessPool:
                self._start()
        raise ChildProcessError("its process keeps being killed (out of memory?): try fewer jobs")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)


class _DaskPool:
    """The workers of a Dask cluster, which itself gives the tasks of killed workers to others."""

    def __init__(self, address: str):
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError(
                "--dask needs Dask: pip install 'ktglite[dask]', here and on the workers"
            ) from error
        try:
            self._client = Client(address)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {address!r}: {error}") from error
        self._executor = self._client.get_executor(pure=False)

    @property
    def size(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable, *args) -> Future:
        return self._executor.submit(function, *args)

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._client.close()


def _context() -> multiprocessing.context.BaseContext:
    """Processes are forked, where the system can, from a server that has imported torch once: it takes seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ktglite.experiments.runs"])
    return context


def _begin_worker(place: int) -> None:
    """What a worker process does first: it takes its GPU, and must not outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())
