"""A 3x3 convolution whose gradient of the weights is computed beside what follows it.

The gradient of the input goes on to the layer before; that of the weights is not needed until
the update. So it runs on a stream of its own, beside the gradients of the layers before, and
what one leaves idle of a GPU the other uses: memory-bound passes and small grids beside matrix
products. A captured graph keeps the fork and the join. torch.compile's own kernels may write
into memory after what they know as its last use. So only a layer that nothing but kernels of
ours comes before in the network may leave its gradient under way; others wait for theirs.

Registered with torch.library, so that torch.compile keeps it in its graph. The arithmetic is
cuDNN's, as of `F.conv2d`.
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

AHEAD = 2  # gradients of weights that may be under way: their inputs stay in memory


@dataclass(slots=True)
class _Beside:
    """The stream beside, and what is under way there: when it ends, and what it reads."""

    stream: torch.cuda.Stream
    waits: bool = True  # every backward pass for its own gradient
    under_way: deque[tuple[torch.cuda.Event, tuple[Tensor, ...]]] = field(default_factory=deque)

    def join(self, left: int = 0) -> None:
        """Let the current stream wait until at most `left` are under way."""
        while len(self.under_way) > left:
            event, _ = self.under_way.popleft()
            event.wait()


@functools.cache
def _beside(device: torch.device) -> _Beside:
    return _Beside(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


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
        beside.join()
    finally:
        beside.waits = True
        beside.under_way.clear()  # after an error, as out of memory: nothing is left behind


def _gradient(dy: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
    """0: with respect to x. 1: to the weights."""
    asked = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, asked
    )
    gradient: Tensor = found[which]
    return gradient.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("batchcliff::convolution", mutates_args=())
def convolution(
    x_BCHW: Tensor,
    weight_OCHW: Tensor,
    alone: bool,  # noqa: ARG001 for the gradients
) -> tuple[Tensor, Tensor]:
    """3x3, stride 1, padding 1, channels-last, in x's type; [B, O, H, W].

    alone: nothing but kernels of ours made x, from the network's input on (`until_the_end`).
    Also the weights as they were multiplied, a copy in x's type; no gradient flows through it.
    """
    half = torch.empty_like(weight_OCHW, dtype=x_BCHW.dtype, memory_format=torch.channels_last)
    half.copy_(weight_OCHW)
    y = F.conv2d(x_BCHW, half, padding=1)
    return y.contiguous(memory_format=torch.channels_last), half


@convolution.register_fake
def _(x: Tensor, weight: Tensor, _alone: bool) -> tuple[Tensor, Tensor]:
    batch, _, height, width = x.shape
    shape, last = (batch, len(weight), height, width), torch.channels_last
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)
    return y, torch.empty_like(weight, dtype=x.dtype, memory_format=last)


@torch.library.custom_op("batchcliff::convolution_backward", mutates_args=())
def convolution_backward(
    dy: Tensor, x: Tensor, half: Tensor, alone: bool
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x, in its type, and the weights, float32.

    half: the second result of `convolution`. alone: as there.
    """
    if dy.device.type != "cuda":
        return _gradient(dy, x, half, 0), _gradient(dy, x, half, 1).float()
    beside, here = _beside(dy.device), torch.cuda.current_stream(dy.device)
    joins = beside.waits or not alone
    beside.join(AHEAD - 1)
    beside.stream.wait_stream(here)
    with torch.cuda.stream(beside.stream):
        of_weight = _gradient(dy, x, half, 1).float()
        beside.under_way.append((beside.stream.record_event(), (dy, x, half)))
    try:
        of_x = _gradient(dy, x, half, 0)
        if joins:
            beside.join()
    finally:
        if beside.waits:
            beside.under_way.clear()
    return of_x, of_weight


@convolution_backward.register_fake
def _(_dy: Tensor, x: Tensor, half: Tensor, _alone: bool) -> tuple[Tensor, Tensor]:
    last = torch.channels_last
    of_weight = torch.empty_like(half, dtype=torch.float32, memory_format=last)
    return torch.empty_like(x, memory_format=last), of_weight


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    (x, _, ctx.alone), half = inputs, output[1]
    ctx.mark_non_differentiable(half)
    ctx.save_for_backward(x, half)


def _backward(ctx: Any, dy: Tensor, _dhalf: Any) -> tuple[Tensor, Tensor, None]:
    of_x, of_weight = convolution_backward(dy, *ctx.saved_tensors, ctx.alone)
    return of_x, of_weight, None


convolution.register_autograd(_backward, setup_context=_keep)
