"""The search over a real PostgreSQL: the command's workers, their deaths, and what the database must never do."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from test_search import kill_one_midway

from ktglite import TrainConfig, epochs, search
from ktglite.search import SearchConfig, is_settled, open_study, planned_trials, sample_graphs, work

CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation="shift", precision="fp32", device="cpu")
SETTINGS = SearchConfig(condition="none", arch="resnet18_tiny", nodes=2, trials=5)


def server_program(name):
    """PostgreSQL's own programs, which Debian keeps off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


try:
    import psycopg
except ImportError:
    pytest.skip("psycopg is not installed: pip install 'ktglite[postgres]'", allow_module_level=True)
if server_program("initdb") is None or server_program("postgres") is None:
    pytest.skip("PostgreSQL is not installed: apt-get install postgresql", allow_module_level=True)


@pytest.fixture(scope="module")
def server():
    """A server of its own on a free loopback port, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="ktglite-pg-"))  # not below pytest's folder, which others may not enter
    options = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    initdb = [server_program("initdb"), "-D", data, "-U", "ktglite", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, **options)
    command = [server_program("postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    try:
        wait(lambda: can_connect(port))
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


def wait(until, seconds=600):
    """Until something is so; a test that waits in vain fails by its name."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)


@pytest.fixture
def database(server):
    """The URL of a database that is empty."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"d{time.monotonic_ns()}"
    with psycopg.connect(f"{server.replace('+psycopg', '')}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{server}/{name}"


# ---- workers in processes of their own, with a quick heart


def fake_objective(trial):
    """Two reports and ASHA, without training."""
    trial.suggest_categorical("gate label->1", tuple(search.GATES))
    for step in (1, 2):
        trial.report(hash(str(trial.user_attrs["plan"])) % 100, step)
        if step == 1 and trial.should_prune():
            raise optuna.TrialPruned
    return 1.0


def hanging_objective(trial):
    time.sleep(3600)


def napping_objective(trial):
    """Sleeps, and is killed or stopped meanwhile."""
    time.sleep(1)
    return fake_objective(trial)


def worker(url, objective, settings):
    search.HEARTBEAT, search.POLL, search.GRACE = 1, 0.1, 2
    storage = search.open_storage(url)
    work(optuna.load_study(study_name="s", storage=storage, pruner=search.make_pruner(settings)), objective, url)


def start(url, objective, settings=SETTINGS):
    process = multiprocessing.get_context("fork").Process(target=worker, args=(url, objective, settings))
    process.start()
    return process


def signed(study):
    """Numbers of the trials that a worker has begun."""
    return {trial.number for trial in study.get_trials(deepcopy=False) if "worker" in trial.user_attrs}


def finished(study):
    return sorted(t.user_attrs["plan"] for t in study.get_trials(deepcopy=False) if t.state in search.DONE)


def test_every_planned_graph_finishes_once_though_a_worker_is_killed(database, tiny_data):
    settings = dataclasses.replace(SETTINGS, trials=40)
    study = open_study("s", database, settings, tiny_data, CONFIG)
    hanging = start(database, hanging_objective, settings)
    wait(lambda: signed(study))
    others = [start(database, fake_objective, settings) for _ in range(3)]
    wait(lambda: len(finished(study)) > 10)
    os.kill(hanging.pid, signal.SIGKILL)  # in the middle of a trial
    for process in [hanging, *others]:
        process.join(600)
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert finished(study) == list(range(40))  # none lost, none twice
    # A crowded machine may keep a live worker from its heartbeat too: its trial is given up and tried again as well.
    retried = [t for t in study.trials if "retry_history" in t.system_attrs]
    lost = [study.trials[t.system_attrs["retry_history"][-1]] for t in retried]
    assert all((t.state, t.params) == (TrialState.FAIL, again.params) for t, again in zip(lost, retried, strict=True))
    assert sum(f"-{hanging.pid}-" in t.user_attrs["worker"] for t in lost) == 1  # the one that was killed


def test_a_worker_that_slept_too_long_gives_up_its_trial_and_goes_on(database, tiny_data):
    settings = dataclasses.replace(SETTINGS, trials=3)
    study = open_study("s", database, settings, tiny_data, CONFIG)
    sleeper = start(database, napping_objective, settings)
    wait(lambda: signed(study))
    os.kill(sleeper.pid, signal.SIGSTOP)
    other = start(database, fake_objective, settings)
    try:
        wait(lambda: finished(study) == [0, 1, 2])
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    for process in (sleeper, other):
        process.join(600)
    assert (sleeper.exitcode, other.exitcode) == (0, 0)
    assert finished(study) == [0, 1, 2]
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1


def killed_after_its_first_epoch(url, data, config, folder):
    """A worker that trains for an epoch and then hangs."""
    real = search.epochs

    def slow(*args, **kwargs):
        for i, record in enumerate(real(*args, **kwargs)):
            if i == 1:
                time.sleep(3600)
            yield record

    search.HEARTBEAT, search.epochs = 1, slow
    search.search_worker("s", url, SETTINGS, data, config, checkpoints=folder)


def test_a_lost_trial_goes_on_from_its_checkpoint_with_the_same_curve(database, tiny_data, tmp_path, monkeypatch):
    settings, config = dataclasses.replace(SETTINGS, trials=1), dataclasses.replace(CONFIG, epochs=3)
    monkeypatch.setattr(search, "HEARTBEAT", 1)
    monkeypatch.setattr(search, "POLL", 0.1)
    study = open_study("s", database, settings, tiny_data, config)
    arguments = (database, tiny_data, config, tmp_path)
    doomed = multiprocessing.get_context("spawn").Process(target=killed_after_its_first_epoch, args=arguments)
    doomed.start()
    wait(lambda: study.trials[0].intermediate_values)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join()
    assert (tmp_path / "s-0.ckpt").exists()
    trained = []
    real = search.epochs

    def spy(*args, checkpoint, **kwargs):
        trained.append(checkpoint.exists())
        return real(*args, checkpoint=checkpoint, **kwargs)

    monkeypatch.setattr(search, "epochs", spy)
    search.search_worker("s", database, settings, tiny_data, config, checkpoints=tmp_path)
    assert trained == [True]
    whole = epochs(sample_graphs(("scratch",), "resnet18_tiny", 2, 1, 0)[0], tiny_data, config, 0)
    last = planned_trials(study)[0]
    assert last.state == TrialState.COMPLETE
    assert list(last.intermediate_values.values()) == [record["val_accuracy"][0] for record in whole]
    assert not list(tmp_path.iterdir())


def test_a_trial_whose_worker_died_before_its_first_heartbeat_is_not_left_running(database, tiny_data, monkeypatch):
    monkeypatch.setattr(search, "GRACE", 0.5)
    monkeypatch.setattr(search, "POLL", 0.1)
    study = open_study("s", database, SETTINGS, tiny_data, CONFIG)
    study.ask()  # and nothing more: Optuna's own check never looks at it
    work(study, fake_objective, database)
    assert finished(study) == list(range(5))
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1


def open_it(url, data):
    open_study("s", url, dataclasses.replace(SETTINGS, trials=12), data, CONFIG)


def test_two_that_open_a_study_at_once_enqueue_one_plan(database, tiny_data):
    search.open_storage(database)  # makes the tables
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_it, args=(database, tiny_data)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    study = search.load_study("s", database)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(t.user_attrs["plan"] for t in study.trials) == list(range(12))


def test_a_worker_completes_a_plan_that_was_cut_short(database, tiny_data, monkeypatch):
    settings = dataclasses.replace(SETTINGS, trials=4)
    study = open_study("s", database, settings, tiny_data, CONFIG)
    study.set_user_attr("trials", 6)  # as if its maker had been killed before the last two
    monkeypatch.setattr(search, "Objective", lambda *args: fake_objective)
    search.search_worker("s", database, settings, tiny_data, CONFIG)
    assert finished(study) == list(range(6))


def test_the_commands_share_a_study(database, tmp_path):
    common = ["--profile", "smoke", "--storage", database, "--out", tmp_path, "--set", f"cache={tmp_path}/cache"]
    ktglite = [sys.executable, "-m", "ktglite.cli"]
    begin = [*ktglite, "search", "--condition", "none", "--trials", "2", "--jobs", "1", *common]
    join = [*ktglite, "search-worker", "--study", "none", "--device", "cpu", "--workers-per-device", "2", *common]
    first = subprocess.run(list(map(str, begin)), capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "none: {" in first.stdout
    study = search.load_study("none", database)
    study.set_user_attr("trials", 6)  # as if it had been killed there: what is left is the worker's
    second = subprocess.run(list(map(str, join)), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert [t.user_attrs["plan"] for t in planned_trials(study) if is_settled(t)] == list(range(6))
    workers = [t.user_attrs["worker"] for t in planned_trials(study)]
    assert not set(workers[:2]) & set(workers[2:])


@pytest.mark.slow
def test_300_real_trainings_by_three_workers_with_one_killed_midway(database, tiny_data, tmp_path):
    settings = dataclasses.replace(SETTINGS, trials=300, nodes=3)
    open_study("s", database, settings, tiny_data, CONFIG)
    thread, killed = kill_one_midway("s", database, 150)
    study = search.search(settings, tiny_data, CONFIG, tmp_path, database, jobs=3, name="s", checkpoints=tmp_path / "c")
    thread.join()
    assert len(killed) == 1
    assert finished(study) == list(range(300))  # exactly: none lost, none twice
    assert not list((tmp_path / "c").iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url.replace("127.0.0.1:", "localhost.invalid:"), "cannot be reached"),
        (lambda url: url + "x", "does not exist"),
        (lambda url: "postgresql+nodriver://u:secret@h/d", "no valid|not installed"),
    ],
)
def test_a_database_out_of_reach_is_told_without_the_password(database, change, words):
    url = change(database).replace("ktglite@", "ktglite:secret@")
    with pytest.raises(ValueError, match=words) as error:
        search.open_storage(url)
    assert "secret" not in str(error.value)


def test_a_study_that_is_not_there_is_told(database, tiny_data):
    with pytest.raises(ValueError, match="has no study 'none'"):
        search.search_worker("none", database, SETTINGS, tiny_data, CONFIG)
