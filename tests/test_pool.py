"""Tasks in processes, their deaths, and what is refused."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
import torch

from ktglite import pool
from ktglite.pool import open_pool
from ktglite.store import write_json


def pid_of(folder, name, dies=0):
    """A task that kills its own process the first `dies` times."""
    tries = Path(folder) / name
    count = int(tries.read_text()) if tries.exists() else 0
    tries.write_text(str(count + 1))
    if count < dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fails():
    raise ValueError("mine")


def tick(path):
    """A task that goes on for minutes and shows it."""
    for count in range(6000):
        write_json(path, [os.getpid(), count])
        time.sleep(0.02)


def wait_until(so, seconds=60):
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_tasks_run_in_processes_of_one_thread(tmp_path):
    with open_pool(2) as two:
        futures = [two.submit(pid_of, tmp_path, str(i)) for i in range(6)]
        assert os.getpid() not in {future.result() for future in futures}
        assert two.submit(torch.get_num_threads).result() == 1
        assert two.size == 2
        with pytest.raises(ValueError, match="mine"):
            two.submit(fails).result()


def test_a_killed_process_breaks_its_own_task_only_and_not_for_good(tmp_path):
    with open_pool(1) as one:
        assert one.submit(pid_of, tmp_path, "twice", 2).result()
        assert (tmp_path / "twice").read_text() == "3"
        with pytest.raises(ChildProcessError, match="try fewer jobs"):
            one.submit(pid_of, tmp_path, "always", 9).result()
        assert (tmp_path / "always").read_text() == str(pool.RESTARTS + 1)
        assert one.submit(pid_of, tmp_path, "other").result()


def test_a_block_that_ends_well_drops_what_was_not_begun(tmp_path, capfd):
    with open_pool(1) as one:
        first = one.submit(pid_of, tmp_path, "first")
        first.result()
        futures = [one.submit(time.sleep, 0.3) for _ in range(5)]
    assert sum(future.cancelled() for future in futures) >= 3
    assert all(future.done() for future in futures)
    wait_until(lambda: is_gone(first.result()))
    assert capfd.readouterr().err == ""


def run_until_it_ticks(folder, end):
    """Two tasks in one process; when the first is at work, `end` it from within the block."""
    with open_pool(1) as one:
        futures = [one.submit(tick, folder / name) for name in "ab"]
        wait_until(lambda: (folder / "a").exists())
        end(json.loads((folder / "a").read_text()))
        futures[0].result()


def interrupt(begun):
    """Ctrl-C reaches every process; Slurm and editors send it to the main process alone."""
    worker, _ = begun
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    os.kill(worker, signal.SIGINT)
    time.sleep(0.5)
    assert not is_gone(worker)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


def fail(begun):
    raise ValueError("mine")


@pytest.mark.parametrize(("end", "error"), [(interrupt, KeyboardInterrupt), (fail, ValueError)])
def test_a_block_that_ends_by_an_error_stops_what_runs(tmp_path, end, error):
    with pytest.raises(error):
        run_until_it_ticks(tmp_path, end)
    worker, _ = json.loads((tmp_path / "a").read_text())
    wait_until(lambda: is_gone(worker), seconds=5)
    assert not (tmp_path / "b").exists()


GUARDLESS = """
from ktglite.pool import open_pool
with open_pool(1) as one:
    one.submit(print).result()
"""


@pytest.mark.parametrize("name", ["script.py", "<stdin>"])
def test_a_script_without_a_guard_is_told_so(tmp_path, monkeypatch, name):
    """A worker runs the main script before anything else, here one that would open a pool again."""
    (tmp_path / "script.py").write_text(GUARDLESS)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / name), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    guard = 'must be a file, and begin with `if __name__ == "__main__":`'
    with pytest.raises(OSError, match=guard), open_pool(1) as one:
        one.submit(pid_of, tmp_path, "never").result()
    assert not (tmp_path / "never").exists()


def test_below_a_long_folder_for_temporary_files_there_is_no_socket(monkeypatch):
    """Batch systems have them; what forks workers listens at a path of at most 103 bytes."""
    monkeypatch.setattr(pool.tempfile, "tempdir", "/tmp/" + "x" * 70)
    assert pool._context().get_start_method() == "spawn"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/user/job", {"user/cpu.max": "50000 100000", "user/job/cpu.max": "max 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        (
            "4:memory:/a\n3:cpu,cpuacct:/docker/b",
            {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("nonsense", {}, 8),
    ],
)
def test_a_container_s_quota_counts(tmp_path, monkeypatch, cgroup, files, cores):
    """Of version 2 (one hierarchy) and 1, of this process's group and those around it."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cgroup").write_text(cgroup)
    monkeypatch.setattr(pool, "CGROUPS", tmp_path)
    monkeypatch.setattr(pool, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert pool.cores() == cores


def test_jobs(monkeypatch):
    monkeypatch.setattr(pool, "_quotas", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    for gpus, size in ((0, 3), (4, 4)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        with open_pool() as jobs:
            assert jobs.size == size
    with pytest.raises(ValueError, match="jobs is 0"), open_pool(0):
        pass


def test_gpus_are_shared_out(monkeypatch):
    taken = []
    parent = type("Parent", (), {"join": time.sleep})
    thread = type("Thread", (), {"start": lambda self: None})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(pool.multiprocessing, "parent_process", parent)
    monkeypatch.setattr(pool.threading, "Thread", lambda **more: thread())
    for place in range(5):
        pool._begin_worker(place)
    assert taken == [0, 1, 2, 0, 1]


# ---- Dask


def test_no_scheduler_is_an_error_that_names_the_address():
    # First: taking the setting back would take the defaults of distributed too.
    pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    refused = pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'")
    quickly = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    with quickly, refused, open_pool(dask="tcp://127.0.0.1:9"):
        pass


class DaskClient:
    """Of a cluster whose futures the test settles."""

    def __init__(self, address):
        self.futures = []

    def submit(self, function, *args, pure):
        self.futures.append(Future())
        self.futures[-1].release = self.futures[-1].cancel
        return self.futures[-1]

    def nthreads(self):
        return {}

    def close(self):
        pass


def test_what_dask_gives_up_is_told_in_our_words(monkeypatch, caplog):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", DaskClient)
    gone = "the Dask scheduler at tcp://a:1 is gone: .* the same command resumes"
    with open_pool(dask="tcp://a:1") as pool:
        assert "tcp://a:1 has no workers yet: start them" in caplog.text
        for theirs, kind, words in (
            (CancelledError(), ConnectionError, gone),
            (distributed.KilledWorker("task", None, 3), ChildProcessError, "larger --memory-limit"),
            (ZeroDivisionError("mine"), ZeroDivisionError, "mine"),
        ):
            future = pool.submit(print)
            pool._client.futures[-1].set_exception(theirs)
            with pytest.raises(kind, match=words):
                future.result(5)
        future = pool.submit(print)
        pool._client.futures[-1].set_result(3)
        assert future.result(5) == 3
        assert pool.submit(print).cancel()
        assert pool._client.futures[-1].cancelled()
