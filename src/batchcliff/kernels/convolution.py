"""A 3x3 convolution whose gradient of the weights is computed beside what follows it.

The gradient of the input goes on to the layer before; that of the weights is not needed until
the update. So it runs on a stream of its own, beside the gradients of the layers before, and
what one leaves idle of a GPU the other uses: memory-bound passes and small grids beside matrix
products. A captured graph keeps the fork and the join. torch.compile's own kernels may write
into memory after what they know as its last use. So only a layer that nothing but kernels of
ours comes before in the network may leave its gradient under way; others wait for theirs.

Registered with torch.library, so that torch.compile keeps it in its graph. The arithmetic is
cuDNN's, as of `F.conv2d`, or `batchcliff.kernels.sweep`.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from batchcliff.kernels.sweep import sweep, sweep_statistics

AHEAD = 2  # gradients of weights that may be under way: their inputs stay in memory


@dataclass(slots=True)
class _Beside:
    """The stream beside, and what is under way there: when it ends, and what it reads."""

    stream: torch.cuda.Stream
    waits: bool = True  # every backward pass for its own gradient
    halves: torch.cuda.Event | None = None  # until a convolution has waited for them
    under_way: deque[tuple[torch.cuda.Event, tuple[Tensor, ...]]] = field(default_factory=deque)

    def join(self, left: int = 0) -> None:
        """Let the current stream wait until at most `left` are under way."""
        while len(self.under_way) > left:
            event, _ = self.under_way.popleft()
            event.wait()

    def join_halves(self) -> None:
        """Let the current stream wait for the weights' copies."""
        if self.halves is not None:
            self.halves.wait()
            self.halves = None


@functools.cache
def _beside(device: torch.device) -> _Beside:
    return _Beside(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _join_halves(device: torch.device) -> None:
    if device.type == "cuda":
        _beside(device).join_halves()


@contextlib.contextmanager
def until_the_end(device: torch.device) -> Iterator[None]:
    """Within the block gradients of weights may be still under way when a backward pass
    returns them; after it, they are there. So nothing inside may read them, nor may two uses
    of the same weights be added up there."""
    if device.type != "cuda":
        yield
        return
    beside = _beside(device)
    beside.waits = False
    try:
        yield
        beside.join_halves()
        beside.join()
    finally:
        beside.halves = None
        beside.waits = True
        beside.under_way.clear()  # after an error, as out of memory: nothing is left behind


def _gradient(
    dy: Tensor, x: Tensor, weight: Tensor, which: int, *, sweeps: bool = False
) -> Tensor:
    """0: with respect to x. 1: to the weights."""
    if sweeps and which == 0:
        return sweep(dy.contiguous(memory_format=torch.channels_last), weight, back=True)
    asked = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, asked
    )
    gradient: Tensor = found[which]
    return gradient.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("batchcliff::halves", mutates_args=())
def halves(weights_OCHW: list[Tensor]) -> list[Tensor]:
    """The weights as `convolution` multiplies them: bfloat16, channels-last, in one launch.

    They are made beside what runs before the first convolution, which waits for them.
    """
    last, device = torch.channels_last, weights_OCHW[0].device
    made = [torch.empty_like(w, dtype=torch.bfloat16, memory_format=last) for w in weights_OCHW]
    if device.type != "cuda":
        torch._foreach_copy_(made, weights_OCHW)
        return made
    beside = _beside(device)
    beside.stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside.stream):
        torch._foreach_copy_(made, weights_OCHW)
        beside.halves = beside.stream.record_event()
    return made


@halves.register_fake
def _(weights: list[Tensor]) -> list[Tensor]:
    last = torch.channels_last
    return [torch.empty_like(w, dtype=torch.bfloat16, memory_format=last) for w in weights]


@torch.library.custom_op("batchcliff::convolution", mutates_args=())
def convolution(
    x_BCHW: Tensor,
    weight_OCHW: Tensor,  # noqa: ARG001 for its gradient
    half_OCHW: Tensor,
    alone: bool,  # noqa: ARG001 for the gradients
    sweeps: bool,
) -> Tensor:
    """3x3, stride 1, padding 1, channels-last, of bfloat16; [B, O, H, W].

    half: the weights as they are multiplied (`halves`); their gradient goes to `weight`.
    alone: nothing but kernels of ours made x, from the network's input on (`until_the_end`).
    sweeps: it and the gradient of x by `batchcliff.kernels.sweep`, else by cuDNN.
    """
    _join_halves(x_BCHW.device)
    if sweeps:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        return sweep(x_BCHW, half_OCHW, back=False)
    y = F.conv2d(x_BCHW, half_OCHW, padding=1)
    return y.contiguous(memory_format=torch.channels_last)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, _half: Tensor, _alone: bool, _sweeps: bool) -> Tensor:
    batch, _, height, width = x.shape
    shape, last = (batch, len(weight), height, width), torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)


@torch.library.custom_op("batchcliff::convolution_backward", mutates_args=())
def convolution_backward(
    dy: Tensor, x: Tensor, half: Tensor, alone: bool, sweeps: bool
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x, in its type, and the weights, float32.

    half, alone, sweeps: as of `convolution`.
    """
    if dy.device.type != "cuda":
        of_x = _gradient(dy, x, half, 0, sweeps=sweeps)
        return of_x, _gradient(dy, x, half, 1).float()
    beside, here = _beside(dy.device), torch.cuda.current_stream(dy.device)
    joins = beside.waits or not alone
    beside.join(AHEAD - 1)
    beside.stream.wait_stream(here)
    with torch.cuda.stream(beside.stream):
        of_weight = _gradient(dy, x, half, 1).float()
        beside.under_way.append((beside.stream.record_event(), (dy, x, half)))
    try:
        of_x = _gradient(dy, x, half, 0, sweeps=sweeps)
        if joins:
            beside.join()
    finally:
        if beside.waits:
            beside.under_way.clear()
    return of_x, of_weight


@convolution_backward.register_fake
def _(
    _dy: Tensor, x: Tensor, half: Tensor, _alone: bool, _sweeps: bool
) -> tuple[Tensor, Tensor]:
    last = torch.channels_last
    of_weight = torch.empty_like(half, dtype=torch.float32, memory_format=last)
    return torch.empty_like(x, memory_format=last), of_weight


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, _, half, ctx.alone, ctx.sweeps = inputs
    ctx.save_for_backward(x, half)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    of_x, of_weight = convolution_backward(dy, *ctx.saved_tensors, ctx.alone, ctx.sweeps)
    return of_x, of_weight, None, None, None


convolution.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("batchcliff::convolution_statistics", mutates_args=())
def convolution_statistics(
    x_BCHW: Tensor,
    weight_OCHW: Tensor,  # noqa: ARG001 for its gradient
    half_OCHW: Tensor,
    alone: bool,  # noqa: ARG001 for the gradients
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """A swept `convolution`, and its mean and biased variance in each of `groups` equal parts
    of the batch, float32 [G, O], through which no gradient flows."""
    _join_halves(x_BCHW.device)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    return sweep_statistics(x, half_OCHW, groups)


@convolution_statistics.register_fake
def _(
    x: Tensor, weight: Tensor, _half: Tensor, _alone: bool, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    mean = weight.new_empty(groups, len(weight))
    y = torch.empty_like(x, memory_format=torch.channels_last)  # as many channels
    return y, mean, torch.empty_like(mean)


def _keep_swept(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, half, ctx.alone, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, half)


def _backward_swept(ctx: Any, dy: Tensor, _dmean: Any, _dvar: Any) -> tuple[Any, ...]:
    of_x, of_weight = convolution_backward(dy, *ctx.saved_tensors, ctx.alone, True)
    return of_x, of_weight, None, None, None


convolution_statistics.register_autograd(_backward_swept, setup_context=_keep_swept)
