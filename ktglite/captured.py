"""A training step replayed as one CUDA graph: below about 128 px, launching its kernels takes
longer than running them.

The rules are those of PyTorch's notes on CUDA graphs: warm up on a side stream, nothing but device
tensors as inputs, every changing number (batch, progress, learning rate) in memory that keeps its
address, no synchronisation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MAX_CAPTURED_SIZE = 128  # px; above it the arithmetic hides the launches
WARM_UP_CALLS = 3  # they allocate what must outlive the capture, such as the momentum buffers


def captured(step: Callable, device: torch.device, size: int) -> Callable:
    """`step`, or on a GPU and at small sizes a function that replays it from its fourth call on.

    `step(*tensors)` returns tensors and changes networks and optimizers in place; it starts and
    ends without gradients, and every call brings tensors on `device` of the same shapes. The
    warm-up calls are real ones, so the same updates happen in the same order either way. What a
    replay returns is overwritten by the next one.
    """
    if device.type != "cuda" or size > MAX_CAPTURED_SIZE:
        return step
    stream = torch.cuda.Stream(device)
    graph = torch.cuda.CUDAGraph()
    calls = 0
    inputs = outputs = None

    def replay(*tensors: Tensor):
        nonlocal calls, inputs, outputs
        calls += 1
        with torch.cuda.device(device):
            if calls <= WARM_UP_CALLS:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    result = step(*tensors)
                torch.cuda.current_stream().wait_stream(stream)
                return result
            if inputs is None:
                inputs = [tensor.clone() for tensor in tensors]
                with torch.cuda.graph(graph, stream=stream):  # records, computes nothing
                    outputs = step(*inputs)
            for static, tensor in zip(inputs, tensors, strict=True):
                static.copy_(tensor)
            graph.replay()
        return outputs

    return replay


def restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load what an optimizer saved on any device; its learning rate keeps its place in memory."""
    lr = optimizer.param_groups[0]["lr"]
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["lr"] = lr
