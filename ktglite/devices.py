"""What a training runs on: device, precision, and numerics that make two runs the same."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def resolve_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is a GPU where there is one.

    Raises ValueError for a name that is no device, and for a GPU that is not there.
    """
    try:
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        device = torch.device(wanted)
    except RuntimeError:
        message = f"device is {name!r}: allowed are auto, cpu, cuda, cuda:1, .."
        raise ValueError(message) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but this torch sees no GPU: use device='cpu'")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16": "auto" takes bf16 where the device is faster in it, not where it can."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # AMX and AMD's AVX-512 multiply bf16 faster than fp32, Intel's AVX-512 does not
    # (benchmarks/RESULTS.md).
    amd = torch.cpu._is_avx512_bf16_supported() and "AMD" in cpu_name()
    return "bf16" if torch.cpu._is_amx_tile_supported() or amd else "fp32"


@contextmanager
def numerics(
    device: torch.device, deterministic: bool = True, tf32: bool = False
) -> Iterator[None]:
    """Set how `device` computes, and restore it; a CPU uses one thread, whatever its cores.

    `deterministic`: the same bits again on the same device.  `tf32`: let a GPU round fp32 to 10
    bits, as cuDNN does by default.
    """
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cpu":
        torch.set_num_threads(1)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic = deterministic
    cudnn.benchmark = False
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.set_num_threads(threads)


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
