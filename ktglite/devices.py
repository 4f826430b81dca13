"""What a training runs on and in which precision: what "auto" means."""

import os
import platform
from pathlib import Path

import torch


def resolve_device(name: str) -> torch.device:
    """The device that `TrainConfig.device` names. Raises ValueError for a GPU that is not there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but this torch sees no GPU: use device='cpu'")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16": "auto" takes bf16 where the device computes faster in it, not merely where it can."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_gains_by_bf16() else "fp32"


def cpu_gains_by_bf16() -> bool:
    """AMX tiles multiply bf16 many times faster than fp32, and AMD's AVX-512 (Zen 4 and later) twice as fast; Intel's
    issues half as many bf16 instructions as fp32 ones, and the conversions come on top (benchmarks/RESULTS.md).
    """
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and "AMD" in cpu_name())


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
