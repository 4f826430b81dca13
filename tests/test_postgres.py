"""The search over a real PostgreSQL: one coordinator at a time, kills, and what a user is told."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import optuna
import pytest
import test_search
from test_search import (
    OVER,
    HerePool,
    check_that_nothing_is_lost,
    kill_worker_and_coordinator,
    run_scripted,
    scripted,
)

from ktglite.experiments import search
from ktglite.experiments.space import sample_graphs, to_params


def server_program(name):
    """PostgreSQL's own programs, which Debian keeps off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


try:
    import psycopg
except ImportError:
    pytest.skip(
        "psycopg is not installed: pip install 'ktglite[postgres]'", allow_module_level=True
    )
if server_program("initdb") is None or server_program("postgres") is None:
    pytest.skip("PostgreSQL is not installed: apt-get install postgresql", allow_module_level=True)


@pytest.fixture(scope="module")
def server():
    """A server of its own on a free loopback port, in a temporary folder."""
    folder = Path(
        tempfile.mkdtemp(prefix="ktglite-pg-")
    )  # not below pytest's folder, which others may not enter
    options = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    initdb = [
        server_program("initdb"),
        "-D",
        data,
        "-U",
        "ktglite",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, **options)
    command = [
        server_program("postgres"),
        "-D",
        data,
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        folder,
        "-F",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    try:
        test_search.wait_until(lambda: can_connect(port))
        yield f"postgresql+psycopg://ktglite@127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)  # without waiting for clients
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def can_connect(port):
    try:
        psycopg.connect(f"host=127.0.0.1 port={port} user=ktglite dbname=postgres").close()
        return True
    except psycopg.OperationalError:
        return False


@pytest.fixture
def database(server):
    """The URL of a database that is empty."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"d{time.monotonic_ns()}"
    with psycopg.connect(
        f"{server.replace('+psycopg', '')}/postgres", autocommit=True
    ) as connection:
        connection.execute(f"create database {name}")
    return f"{server}/{name}"


def test_a_search_on_a_database_is_the_one_on_a_journal(database, tiny_data, tmp_path, monkeypatch):
    curves = [[(7 * i) % 10, i, i + 1, i + 2] for i in range(12)]
    for pruner in ("asha", "promote", "none"):
        journal = run_scripted(monkeypatch, tiny_data, tmp_path / pruner, curves, pruner=pruner)
        settings = dataclasses.replace(test_search.SETTINGS, trials=12, pruner=pruner)
        config = dataclasses.replace(test_search.CONFIG, epochs=4)
        study = search.search(
            settings, tiny_data, config, tmp_path, database, pool=HerePool(), name=pruner
        )
        assert [t.params for t in study.trials] == [
            to_params(graph) for graph in sample_graphs(settings)
        ]
        assert [(t.state, t.value, t.intermediate_values) for t in study.trials] == [
            (t.state, t.value, t.intermediate_values) for t in journal.trials
        ]
        assert (
            search.study_summary(study)["trials"][0]["values"]
            == curves[0][: len(study.trials[0].intermediate_values)]
        )
        assert search.load_study(pruner, database).trials == study.trials


def test_a_second_coordinator_is_refused_from_another_folder_too(
    database, tiny_data, tmp_path, monkeypatch
):
    def second(*arguments):
        with pytest.raises(
            ValueError, match="study 's' in postgresql.* is searched by another process"
        ):
            search.search(
                test_search.SETTINGS,
                tiny_data,
                test_search.CONFIG,
                tmp_path / "b",
                database,
                name="s",
            )
        return scripted([[1, 2]] * 5)(*arguments)

    monkeypatch.setattr(search, "run_until", second)
    settings, config, pool = test_search.SETTINGS, test_search.CONFIG, HerePool(2)
    study = search.search(
        settings, tiny_data, config, tmp_path / "a", database, pool=pool, name="s"
    )
    assert all(trial.state in OVER for trial in study.trials)
    monkeypatch.setattr(
        search, "run_until", scripted([[1, 2]] * 5)
    )  # the claim has ended with its search
    again = search.search(
        settings, tiny_data, config, tmp_path / "b", database, pool=pool, name="s"
    )
    assert len(again.trials) == 5


@pytest.mark.slow
def test_60_graphs_with_a_worker_and_the_coordinator_killed(database, tmp_path):
    study = kill_worker_and_coordinator(tmp_path, 60, database)
    check_that_nothing_is_lost(study, tmp_path, 60, kills=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url.replace("127.0.0.1:", "localhost.invalid:"), "cannot be reached"),
        (lambda url: url + "x", "does not exist"),
        (
            lambda url: "postgresql+nodriver://u:secret@h/d",
            "cannot be reached .*postgresql\\+psycopg://",
        ),
        (lambda url: "postgresql://", "cannot be reached"),
    ],
)
def test_a_database_out_of_reach_is_told_without_the_password(
    database, tiny_data, tmp_path, change, words
):
    url = change(database).replace("ktglite@", "ktglite:secret@")
    with pytest.raises(ValueError, match=words) as error:
        search.search(test_search.SETTINGS, tiny_data, test_search.CONFIG, tmp_path, url)
    assert "secret" not in str(error.value)
