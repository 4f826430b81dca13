"""Where tasks run: processes of this machine, or a Dask cluster, behind one `submit`.

A task whose process is killed is given again; it finds its checkpoint and goes on.
"""

import itertools
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path

import torch

__all__ = ["open_pool"]

log = logging.getLogger(__name__)

RESTARTS = 2  # of a task whose process was killed
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
NO_GUARD = (
    "a worker process ended before it began, see above. A script that trains must be a file, and "
    'begin with `if __name__ == "__main__":` what it runs; if it does, memory may be short: try '
    "fewer jobs"
)


def cores() -> int:
    """Processor cores that this process may use, a container's quota rounded up among them."""
    affinity = hasattr(os, "sched_getaffinity")  # Linux
    free = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return math.ceil(min([free, *_quotas()]))


def _quotas() -> Iterator[float]:
    """Cores that control groups (of version 1 or 2) allow: this process's own, and those around."""
    with suppress(OSError, ValueError):  # not Linux
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, name = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if kinds else ("cpu.max",)
            group = CGROUPS / ("cpu" if kinds else "") / name.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # it has no such file, or one that says "max"
                    text = " ".join((folder / file).read_text() for file in files)
                    quota, period = map(int, text.split())
                    if quota > 0:
                        yield quota / period


@contextmanager
def open_pool(
    jobs: int | None = None, dask: str | None = None
) -> Iterator["_LocalPool | _DaskPool"]:
    """A pool with `submit(function, *args) -> concurrent.futures.Future` and `size`, how many tasks
    run at once.

    When the block ends, what was submitted and not begun is dropped; when it ends by an error or
    Ctrl-C, what runs is stopped, too. (A Dask worker cannot be: it ends its task.)

    Args:
        jobs: processes of one thread each, by default one per GPU, or per core where there is none;
            several GPUs are shared out among them.
        dask: address of a Dask scheduler, "tcp://HOST:8786", whose workers run the tasks instead.
            They must be started in the same folder of a file system that they share.

    Raises ValueError for jobs < 1, without Dask installed, or if no scheduler answers. A future
    raises ChildProcessError when the task's process keeps being killed; all raise OSError when no
    process can be started or the scheduler is gone.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: it must be at least 1")
    pool = _DaskPool(dask) if dask else _LocalPool(jobs or torch.cuda.device_count() or cores())
    try:
        yield pool
    except BaseException:
        pool.close(at_once=True)
        raise
    pool.close(at_once=False)


class _LocalPool:
    """One executor of one process per place, so that a killed process breaks its own task only."""

    def __init__(self, jobs: int):
        self.size = jobs
        self._begun = False  # whether any process came as far as its first task
        self._stopped = False
        self._places = itertools.count()
        self._own = threading.local()  # the place of a thread and its executor
        self._executors: list[ProcessPoolExecutor] = []
        self._threads = ThreadPoolExecutor(jobs, "ktglite-pool", self._take_place)

    def submit(self, function: Callable, *args) -> Future:
        return self._threads.submit(self._run, function, *args)

    def _take_place(self) -> None:
        self._own.place = next(self._places)
        self._own.executor = None
        # Ctrl-C is for the main process, which stops what this thread starts: that inherits a mask.
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # its start would lift the mask
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

    def _run(self, function: Callable, *args):
        for _ in range(RESTARTS + 1):
            try:
                executor = self._own.executor or self._start()
                return executor.submit(function, *args).result()
            except BrokenProcessPool:
                self._own.executor = None
                if not self._begun:
                    raise OSError(NO_GUARD) from None
        raise ChildProcessError("its process keeps being killed (out of memory?): try fewer jobs")

    def _start(self) -> ProcessPoolExecutor:
        executor = ProcessPoolExecutor(1, _context(), _begin_worker, (self._own.place,))
        self._executors.append(executor)
        if self._stopped:
            raise CancelledError
        executor.submit(os.getpid).result()
        self._begun = True
        self._own.executor = executor
        return executor

    def close(self, at_once: bool) -> None:
        self._stopped = at_once
        self._threads.shutdown(wait=not at_once, cancel_futures=True)
        for executor in self._executors:
            processes = executor._processes or {}  # `kill_workers` is new in Python 3.14
            executor.shutdown(wait=False, cancel_futures=True)  # from now on it starts none
            if at_once:
                for process in list(processes.values()):
                    process.kill()


class _DaskPool:
    """The workers of a Dask cluster, which itself gives the tasks of killed workers to others."""

    def __init__(self, address: str):
        try:
            from distributed import Client
        except ImportError as error:
            way = "pip install 'ktglite[dask]', here and on the workers"
            raise ValueError(f"--dask needs Dask: {way}") from error
        try:
            self._client = Client(address)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {address!r}: {error}") from error
        self._address = address
        if not self._client.nthreads():
            log.warning("the Dask scheduler at %s has no workers yet: start them", address)
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # `_settle` tells it

    @property
    def size(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable, *args) -> Future:
        """Of a future that says in our words why Dask gave a task up."""
        theirs = self._client.submit(function, *args, pure=False)
        ours = Future()
        ours.add_done_callback(lambda _: theirs.release())
        theirs.add_done_callback(lambda _: self._settle(ours, theirs))
        return ours

    def _settle(self, ours: Future, theirs) -> None:
        from distributed import KilledWorker

        if not ours.set_running_or_notify_cancel():
            return
        try:
            ours.set_result(theirs.result())
        except CancelledError:
            way = "start it and its workers again, and the same command resumes"
            gone = f"the Dask scheduler at {self._address} is gone: {way}"
            ours.set_exception(ConnectionError(gone))
        except KilledWorker:
            killed = "its Dask workers keep being killed: give them a larger --memory-limit"
            ours.set_exception(ChildProcessError(killed))
        except BaseException as error:
            ours.set_exception(error)

    def close(self, at_once: bool) -> None:
        self._client.close()  # it forgets what was not begun


def _context() -> multiprocessing.context.BaseContext:
    """Processes are forked, where the system can, from a server that has imported torch: it takes
    seconds. Its socket lies in TMPDIR, which may be long, and has a path of 103 bytes at most.
    """
    server = "forkserver" in multiprocessing.get_all_start_methods()
    if not server or len(os.fsencode(tempfile.gettempdir())) > 70:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ktglite.experiments.runs"])
    return context


def _begin_worker(place: int) -> None:
    """Take a GPU, and watch for a parent that was killed."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())
