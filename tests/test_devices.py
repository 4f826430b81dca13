"""What "auto" means, and numerics that are set for a block and restored."""

import warnings

import pytest
import torch

from ktglite import devices


@pytest.mark.parametrize(
    ("amx", "avx512", "name", "wanted"),
    [
        (True, True, "Intel Xeon Platinum 8480", "bf16"),
        (False, True, "AMD EPYC 9R14", "bf16"),
        (False, True, "Intel Xeon Processor", "fp32"),  # has the instructions, and loses by them
        (False, False, "AMD EPYC 7R13", "fp32"),
    ],
)
def test_auto_takes_bf16_where_a_processor_gains_by_it(monkeypatch, amx, avx512, name, wanted):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(devices, "cpu_name", lambda: name)
    assert devices.resolve_precision("auto", torch.device("cpu")) == wanted
    assert devices.resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_numerics_are_set_and_restored_without_a_warning():
    torch.set_num_threads(2)
    matmul = torch.backends.cuda.matmul
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with devices.numerics(torch.device("cpu"), tf32=True):
                assert torch.get_num_threads() == 1
                assert matmul.allow_tf32
                assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 2
        assert not matmul.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(1)


def test_numerics_restore_a_caller_s_warnings():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with devices.numerics(torch.device("cpu")):
            pass
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "device is 'gpu': allowed are auto, cpu, cuda"), ("cuda:1", "sees no GPU")],
)
def test_a_device_that_is_not_there_is_named(monkeypatch, name, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=words):
        devices.resolve_device(name)
    assert devices.resolve_device("auto").type == "cpu"
