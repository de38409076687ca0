"""From a function of fixed tensors to one launch: compile, warm up, rewind, capture.

On a CUDA device an update or an evaluation is compiled by torch.compile and captured as one
CUDA graph; a replay costs the host one launch. Elsewhere the same function runs as it is.
`Recorder` is for what is replayed a few times only: it compiles and warms up nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from batchcliff.trace import mark

# Of the captured stream: what runs beside it (gradients of weights, kernels.convolution)
# gets what this leaves of the GPU, and does not hold up what the next layer waits for.
PRIORITY = -1
WARM_UPS = 3  # libraries pick their algorithms and the allocator settles in the first ones


@contextlib.contextmanager
def rewound(tensors: list[Tensor]) -> Iterator[None]:
    """Undo what the block does to `tensors`, in place: captured addresses stay valid."""
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, saved, strict=True):
                tensor.copy_(old)


def compiles(device: torch.device) -> bool:
    """Whether updates are compiled and captured on this device."""
    return device.type == "cuda"


def compiler_seconds() -> dict[str, float]:
    """Seconds of each phase of torch's compiler in this process so far, under its names."""
    import torch._dynamo.utils as utils

    sums = {name: sum(all_) for name, all_ in utils.compilation_time_metrics.items()}
    return {name: round(seconds, 2) for name, seconds in sums.items() if seconds >= 0.1}


def captured(
    function: Callable[[], None], changes: list[Tensor], device: torch.device
) -> Callable[[], None]:
    """`function` as a replay of a captured graph, or itself where there are no graphs.

    `changes` are the tensors that `function` writes: warming up leaves them as they were.
    """
    if not compiles(device):
        return function
    with torch.cuda.device(device):  # graphs are captured on the current device
        return _captured(function, changes, device)


def _captured(
    function: Callable[[], None], changes: list[Tensor], device: torch.device
) -> Callable[[], None]:
    side = torch.cuda.Stream(device, priority=PRIORITY)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for number in range(WARM_UPS):
            with rewound(changes):  # from the start: a short run's logs hold few
                function()
            if not number:
                mark(f"{function.__qualname__}: compiled, run once", compiler_seconds)
    torch.cuda.current_stream(device).wait_stream(side)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # Where ranks are connected, a thread of NCCL's asks the device things all the while.
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    mode = "thread_local" if connected else "global"
    with torch.cuda.graph(graph, stream=side, capture_error_mode=mode):
        function()
    mark(f"{function.__qualname__}: captured")
    return functools.partial(_replay, graph, device, function)


def _replay(graph: torch.cuda.CUDAGraph, device: torch.device, _: Callable[[], None]) -> None:
    """The function is kept as long as the graph is, which reads its tensors and runs its
    compiled code, and would crash without them."""
    with torch.cuda.device(device):
        graph.replay()


class Recorder:
    """Makes a function that has run within `on_its_stream` replays of what it launches.

    A graph for some ten replays must cost no more than a run. So nothing is compiled, nobody
    waits, and no cache is emptied; the graphs share the memory of what they compute between.
    They are kept as long as the recorder, since the device may still be replaying one when the
    host is done with it; the functions are not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs: list[torch.cuda.CUDAGraph] = []

    @contextlib.contextmanager
    def on_its_stream(self) -> Iterator[None]:
        """The block's work begins after what was launched before, and what follows the block
        begins after it. Gradients run where their forward pass ran, so both belong in here."""
        with torch.cuda.device(self.device):
            around = torch.cuda.current_stream()
            self.stream.wait_stream(around)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                around.wait_stream(self.stream)

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Replays of `function`, whose tensors the caller keeps as long as it replays them; or
        itself, where there is no memory for a graph. It must not wait for the device."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask the device things: they are no part of this.
        graph.capture_begin(self.pool, capture_error_mode="thread_local")
        try:
            function()
        except torch.OutOfMemoryError:
            graph.capture_end()
            return function
        except BaseException:
            with contextlib.suppress(RuntimeError):  # a broken capture says so once more
                graph.capture_end()
            raise
        graph.capture_end()
        self.graphs.append(graph)
        return graph.replay
