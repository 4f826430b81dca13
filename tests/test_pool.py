"""Tasks in processes, their deaths, and what is refused."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from ktglite import pool
from ktglite.pool import open_pool


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


def threads():
    return torch.get_num_threads()


def test_tasks_run_in_processes_of_one_thread(tmp_path):
    with open_pool(2) as two:
        futures = [two.submit(pid_of, tmp_path, str(i)) for i in range(6)]
        assert os.getpid() not in {future.result() for future in futures}
        assert two.submit(threads).result() == 1
        assert two.size == 2
        with pytest.raises(ValueError, match="mine"):
            two.submit(fails).result()


def test_a_killed_process_breaks_no_other(tmp_path):
    with open_pool(1) as one:
        assert one.submit(pid_of, tmp_path, "a", 2).result()
        assert (tmp_path / "a").read_text() == "3"
        assert one.submit(pid_of, tmp_path, "b").result()
        assert (tmp_path / "b").read_text() == "1"


def test_a_task_whose_process_dies_again_and_again_is_given_up(tmp_path):
    with open_pool(1) as one:
        with pytest.raises(ChildProcessError, match="try fewer jobs"):
            one.submit(pid_of, tmp_path, "a", 9).result()
        assert (tmp_path / "a").read_text() == str(pool.RESTARTS + 1)
        assert one.submit(pid_of, tmp_path, "b").result()


def test_what_was_not_begun_is_dropped(tmp_path):
    with open_pool(1) as one:
        futures = [one.submit(time.sleep, 0.3) for _ in range(5)]
    assert sum(future.cancelled() for future in futures) >= 3


def test_jobs(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pool.default_jobs() == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pool.default_jobs() == 4
    with pytest.raises(ValueError, match="jobs is 0"), open_pool(0):
        pass


def test_gpus_are_shared_out(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(
        pool.multiprocessing, "parent_process", lambda: type("P", (), {"join": time.sleep})()
    )
    monkeypatch.setattr(
        pool.threading, "Thread", lambda **more: type("T", (), {"start": lambda self: None})()
    )
    for place in range(5):
        pool._begin_worker(place)
    assert taken == [0, 1, 2, 0, 1]


def test_no_scheduler_is_an_error_that_names_the_address():
    pytest.importorskip(
        "distributed"
    )  # before the setting, or taking it back takes the defaults of distributed too
    dask = pytest.importorskip("dask")
    refused = pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        refused,
        open_pool(dask="tcp://127.0.0.1:9"),
    ):
        pass
