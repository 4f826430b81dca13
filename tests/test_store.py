"""Atomic files, content hashes, keys over code, and checkpoints."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress

import pytest
from filelock import FileLock

from ktglite import store
from ktglite.store import (
    Checkpoint,
    atomic_write,
    code_hash,
    make_key,
    make_once,
    read_record,
    write_json,
)

HASH = "c21c117f6ecb1801f321b8e75dc5b3134349fb60972d8d5a3b8814cb17f5fad0"
RECORD = {"schema": 1, "value": 1, "label": "a", "sha256": HASH}


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    with suppress(KeyError), atomic_write(path) as file:
        file.write(b"half")
        raise KeyError
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_made_once_by_many(tmp_path):
    made = []

    def make(path):
        made.append(path)
        time.sleep(0.2)
        write_json(path, 1)

    arguments = tmp_path / "x" / "r.json", make
    threads = [threading.Thread(target=make_once, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [tmp_path / "x" / "r.json"]
    assert list((tmp_path / "x").iterdir()) == made  # and no lock beside it


@pytest.mark.parametrize("flock", [True, False])
def test_who_waits_for_a_lock_says_so(tmp_path, monkeypatch, caplog, flock):
    """On a disk without flock, a lock file is a lock, and one that a killed process left stays."""

    def no_flock(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    path = tmp_path / "r.json"
    lock = FileLock(f"{path}.lock")
    lock.acquire()
    if not flock:
        monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr(store, "WAIT_IN_SILENCE", 0.1)
    monkeypatch.setattr(warnings, "warn", lambda *arguments, **more: None)  # filelock's own
    waiting = threading.Thread(target=make_once, args=(path, lambda path: write_json(path, 1)))
    waiting.start()
    while not caplog.text:
        time.sleep(0.05)
    assert f"release {path}.lock; if there is none, delete that file" in caplog.text
    os.unlink(lock.lock_file) if not flock else lock.release()
    waiting.join(30)
    assert json.loads(path.read_text()) == 1


def test_partial_files_of_others_stay(tmp_path):
    host = socket.gethostname()
    others = [f"x.json.{host}-b-1.partial", f"x.json.{host}-x.partial"]
    for name in others:
        (tmp_path / name).touch()
    dead = tmp_path / f"x.json.{host}-4194999.partial"
    dead.touch()
    write_json(tmp_path / "x.json", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["x.json", *others])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable record"),
        ("[]", "schema"),
        ('{"schema": 99}', "schema 99"),
        (json.dumps(RECORD | {"value": 2}), "not as it was written"),
    ],
)
def test_a_foreign_or_changed_record_is_named(tmp_path, text, message):
    path = tmp_path / "x.json"
    store.write_record(path, {"value": 1, "label": "a"}, 1)
    assert json.loads(path.read_text()) == RECORD == read_record(path, 1)
    path.write_text(json.dumps(RECORD | {"label": "b"}))
    assert read_record(path, 1)["label"] == "b"  # a label is no content
    path.write_text(text)
    with pytest.raises(ValueError, match=f"x.json.*{message}"):
        read_record(path, 1)


def test_code_is_known_by_what_it_does(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def hash_of(text):
        (tmp_path / "some_gate.py").write_text(text)
        sys.modules.pop("some_gate", None)
        code_hash.cache_clear()
        return code_hash("some_gate")

    first = hash_of('"""A gate."""\ndef gate(x):\n    """Its mean."""\n    return x.mean()\n')
    other_words = '"""Words."""\n\ndef gate(x):\n    # a comment\n    return x.mean()\n'
    assert hash_of(other_words) == first
    assert hash_of("def gate(x):\n    return 2 * x.mean()\n") != first
    inside = hash_of("for x in y:\n    a()\n    b()\n")
    assert hash_of("for x in y:\n    a()\nb()\n") != inside  # moved out of the loop
    code_hash.cache_clear()


def test_the_text_that_is_hashed_is_the_same_in_every_python():
    """Syntax trees and tokens are not: f-strings have been other tokens since 3.12."""
    source = '''"""Words."""
import math  # more
def area(r: float) -> str:
    """Of a circle,
    # of radius r."""
    text = f"{math.pi * r**2:.2f} # m"  # it is
    "alone"
    return (
        text
        # or so
    )
'''
    text = 'text=f"{math.pi*r**2:.2f}#m"'
    wanted = f"importmath;defarea(r:float)->str:;⟦{text};return(text);⟧"
    assert store._dump_code(source) == wanted


def test_the_commit_of_a_project_around_the_package_is_not_ours(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True)
        return done.stdout.decode().strip()

    git("init")
    git("commit", "--allow-empty", "--message", "another project")
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    for checkout, commit in ((tmp_path, git("rev-parse", "HEAD")), (site, None)):
        monkeypatch.setattr(store, "CHECKOUT", checkout)
        facts = store.provenance()
        assert facts["git"] == commit
        assert facts["dirty"] == (None if commit is None else False)


def test_keys_are_made_of_all_parts():
    assert make_key({"a": 1, "b": 2}) == make_key({"b": 2, "a": 1}) != make_key({"a": 1, "b": 3})
    assert len(make_key()) == 32


def test_checkpoints_take_no_more_than_their_share(tmp_path, monkeypatch):
    """Saving takes a tick of this clock, and so does an epoch that is not: one in ten is saved."""
    now = iter(range(1000))
    monkeypatch.setattr(store.time, "perf_counter", lambda: next(now))
    checkpoint, kept = Checkpoint(tmp_path / "a.ckpt", "key", share=0.1), []
    for epoch in range(60):
        before = checkpoint._saved
        checkpoint.save({"epoch": epoch})
        kept.append(checkpoint._saved != before)
    assert kept[0]
    assert 4 <= sum(kept) <= 8
    assert checkpoint.load()["epoch"] == max(epoch for epoch in range(60) if kept[epoch])


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    words = r"cache.x.json.lock could not be written .*choose a folder that can be written"
    with pytest.raises(OSError, match=words):
        make_once(tmp_path / "cache" / "x.json", lambda path: write_json(path, 1))
