"""`ktglite doctor`: what it finds in packages, folders and runs."""

import sys

import pytest

from ktglite.store import write_json
from ktglite.tools import commands, doctor


def test_doctor_names_what_waits_and_what_is_wrong(monkeypatch, capsys, tmp_path):
    store = tmp_path / "quick" / "runs"
    write_json(store / "a.json", {"schema": 1, "key": "a", "status": "failed", "label": "wild", "seed": 3,
                                       "error": "the loss is nan"})  # fmt: skip
    (store / "b.json").write_text("{")
    (store / "c.ckpt").write_text("")
    monkeypatch.setattr(sys, "argv", ["ktglite", "doctor", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        commands.main()
    assert caught.value.code == 1
    text = capsys.readouterr().out
    for words in (
        "torch and torchvision are a pair",
        "GB free",
        "unfinished: ",
        "c.ckpt; the same command goes on",
    ):
        assert words in text
    for words in (
        "failed: wild, seed 3: the loss is nan; delete ",
        "damaged: ",
        "b.json is not a readable record",
    ):
        assert any(line.startswith("TROUBLE") for line in text.splitlines() if words in line)


def test_doctor_finds_a_healthy_machine_healthy(tmp_path, monkeypatch):
    lines = dict((line, good) for good, line in doctor.examine(tmp_path))
    assert f"no unfinished or failed run below {tmp_path}" in lines
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda name: ["torch>=99", "nothing-of-that-name"]
    )
    lines = [line for good, line in doctor.packages() if not good]
    assert "needs >=99" in lines[0]
    assert "nothing-of-that-name is missing" in lines[1]
