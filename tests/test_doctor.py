"""`ktglite doctor`: what it finds in this machine and in runs."""

import pytest

from ktglite import doctor
from ktglite.cli import main
from ktglite.store import write_json


def test_doctor_names_what_waits_and_what_is_wrong(capsys, tmp_path):
    store = tmp_path / "quick" / "runs"
    failed = {"key": "a", "status": "failed", "label": "wild", "seed": 3, "error": "loss is nan"}
    write_json(store / "a.json", {"schema": 1} | failed)
    (store / "b.json").write_text("{")
    (store / "c.ckpt").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--out", str(tmp_path)])
    assert caught.value.code == 1
    text = capsys.readouterr().out
    for words in ("are a pair", "GB free", "c.ckpt; the command that began it"):
        assert words in text
    for words in ("failed: wild, seed 3: loss is nan; delete ", "b.json is not a readable record"):
        assert any(line.startswith("TROUBLE") for line in text.splitlines() if words in line)


def test_a_healthy_machine_is_healthy_and_a_gpu_that_torch_misses_is_none(tmp_path, monkeypatch):
    lines = {line: good for good, line in doctor.examine(tmp_path)}
    assert lines[f"no unfinished or failed run below {tmp_path}"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(doctor.Path, "exists", lambda path: True)  # /dev/nvidia0 among them
    troubles = [line for good, line in doctor.examine(tmp_path) if not good]
    assert troubles == ["a GPU that torch does not see: install a torch for its driver"]


def test_a_folder_that_cannot_be_written_is_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    troubles = [line for good, line in doctor.examine(tmp_path / "data/runs") if not good]
    assert troubles == [f"{tmp_path} cannot be written: work in another folder, or give --out"]
