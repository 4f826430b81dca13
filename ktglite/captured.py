"""What makes small networks fast on a GPU: a stream for every node, and a training step replayed as
one CUDA graph. Below about 128 px, launching kernels takes longer than running them.

The rules are those of PyTorch's notes on CUDA graphs: warm up on a side stream, nothing but device
tensors as inputs, every changing number (batch, progress, learning rate) in memory that keeps its
address, no synchronisation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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


def node_streams(nets: Sequence, device: torch.device) -> list[torch.cuda.Stream | None]:
    """On a GPU a stream for every network: a small one alone leaves most of it idle."""
    if device.type != "cuda":
        return [None] * len(nets)
    return [None if net is None else torch.cuda.Stream(device) for net in nets]


@contextmanager
def side_by_side(streams: Sequence[torch.cuda.Stream | None]) -> Iterator[None]:
    """Within it, what runs on one of `streams` begins after all that came before, and ends before
    all that comes after. Autograd runs an operation backwards on the stream it ran forwards."""
    used = [stream for stream in streams if stream is not None]
    for stream in used:
        stream.wait_stream(torch.cuda.current_stream())
    yield
    for stream in used:
        torch.cuda.current_stream().wait_stream(stream)


def restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load what an optimizer saved on any device; its learning rate keeps its place in memory."""
    lr = optimizer.param_groups[0]["lr"]
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["lr"] = lr
