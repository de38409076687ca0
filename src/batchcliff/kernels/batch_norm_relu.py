"""Batch norm per group, ReLU and 2x2 average pooling as one operation of PyTorch's.

Registered with torch.library, so that torch.compile keeps them in its graph and a CUDA graph
captures them. The passes, their bytes and their source are in `batchcliff.kernels.passes`;
importing this module imports Triton. Plain twins: `batchcliff.models.ghost_batch_norm` (torch
operations, which run wherever these do not) and tests/kernels/definition.py (NumPy).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchcliff.kernels.passes import (
    gradient_kernel,
    gradient_sums_kernel,
    image_means_kernel,
    normalise_kernel,
    statistics_kernel,
)

# B batch, C channel, H height, W width, G groups, R rows of a group, P rows after pooling


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How the work is cut up; results differ by rounding only.

    warps: a program's. loads: of 16 bytes that a thread has under way at once, at least 4.
    channels: most that one program handles.
    """

    warps: int = 4
    loads: int = 4
    channels: int = 256


REDUCE = Tuning(channels=64)  # statistics, and sums of gradients
APPLY = Tuning()  # normalising, and gradients
PER_PROCESSOR = 4  # programs of a reduction that a multiprocessor should have to run
MERGED = 64  # partial results that the last program of a group loads at once
REVERSE = True  # reductions go from the end: the pass after them begins with what is cached


@dataclass(frozen=True, slots=True)
class Programs:
    """A launch: its grid, programs of a group, blocks of a program, compile-time numbers."""

    grid: tuple[int, int]
    parts: int
    passes: int
    constants: dict[str, Any]


ARRIVALS = 1 << 16  # counters of unfinished reductions: groups x blocks of channels


class _Cut:
    """How an activation [G, R, C] is cut into programs: of y, for normalising, or of x."""

    def __init__(self, x_BCHW: Tensor, groups: int, pool: bool) -> None:
        batch, self.channels, height, width = x_BCHW.shape
        self.groups = groups
        self.rows = batch // groups * height * width
        self.places = self.rows // 4 if pool else self.rows
        self.half_width = max(width // 2, 1)
        self.processors = _processors(x_BCHW.device)

    def programs(self, tuning: Tuning, *, taken: int, passes: int = 1) -> Programs:
        """For `taken` rows a group, `passes` blocks to a program."""
        columns = min(self.channels, MAX_CHANNELS)
        # 16 bytes of bf16 a thread: 8 elements
        block = max(tuning.warps * 32 * 8 // columns, 1)
        span = block * tuning.loads * passes
        parts = -(-taken // span)
        constants = {
            "C": self.channels,
            "BLOCK_C": columns,
            "BLOCK_R": block,
            "LOADS": tuning.loads,
            "EVEN": taken % span == 0,
            "num_warps": tuning.warps,
        }
        return Programs(
            (self.groups * parts, self.channels // columns), parts, passes, constants
        )

    def reduction(self, tuning: Tuning) -> Programs:
        """Programs that take several blocks each, so that there are few partial sums; but
        enough programs to keep every processor loading."""
        most = self.programs(tuning, taken=self.rows)
        wanted = math.prod(most.grid) // (PER_PROCESSOR * self.processors)
        passes = 1 << max(min(wanted, tuning.passes).bit_length() - 1, 0)
        return self.programs(tuning, taken=self.rows, passes=passes)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _arrived(device: torch.device) -> Tensor:
    """Counters of the reductions, zero between launches: one stream at a time uses them."""
    return torch.zeros(ARRIVALS, dtype=torch.int32, device=device)


def _pooled(x_BCHW: Tensor, pool: bool) -> Tensor:
    """An empty output, channels-last."""
    batch, channels, height, width = x_BCHW.shape
    scale = 2 if pool else 1
    return torch.empty(
        (batch, channels, height // scale, width // scale),
        dtype=x_BCHW.dtype,
        device=x_BCHW.device,
        memory_format=torch.channels_last,
    )


def _check(x_BCHW: Tensor, groups: int, pool: bool) -> None:
    batch, channels, height, width = x_BCHW.shape
    if batch % groups:
        raise ValueError(f"a batch of {batch} cannot be cut into {groups} equal groups")
    if channels & (channels - 1):
        raise ValueError(f"{channels} channels: the kernels need a power of two")
    if pool and (height % 2 or width % 2):
        raise ValueError(f"{height} x {width} cannot be pooled by 2 x 2 without a rest")


def _normalise(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool
) -> Tensor:
    y, cut = _pooled(x, pool), _Cut(x, len(mean), pool)
    # A program with pooling loads four rows of x for each row of y.
    plan = cut.programs(FORWARD, taken=4 * cut.places if pool else cut.places)
    normalise_kernel[plan.grid](
        x, mean, var, weight, bias, y, cut.rows, cut.places, cut.half_width, plan.parts,
        EPS=eps, POOL=pool, **plan.constants,
    )  # fmt: skip
    return y


@torch.library.custom_op("batchcliff::batch_norm_relu", mutates_args=())
def batch_norm_relu(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each of `groups` equal parts of the batch, rectify, and pool 2 x 2 if asked.

    x_BCHW: [B, C, H, W], C a power of two. weight, bias: float32 [C]. Returns y in x's type,
    channels-last, [B, C, H, W] or with `pool` [B, C, H/2, W/2], and each group's mean and
    biased variance, float32 [G, C], through which no gradient flows. ValueError for shapes
    that it does not serve.
    """
    _check(x_BCHW, groups, pool)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    cut = _Cut(x, groups, pool)
    plan = cut.reduction(FORWARD)
    part = weight.new_empty(plan.parts * groups, 2, cut.channels)
    mean = weight.new_empty(groups, cut.channels)
    var = torch.empty_like(mean)
    statistics_kernel[plan.grid](
        x, part, mean, var, _arrived(x.device), cut.rows, plan.passes, plan.parts,
        REVERSE=FORWARD.reverse, **plan.constants,
    )  # fmt: skip
    return _normalise(x, mean, var, weight, bias, eps, pool), mean, var


@batch_norm_relu.register_fake
def _(
    x_BCHW: Tensor,
    weight: Tensor,
    _bias: Tensor,
    groups: int,
    _eps: float,
    pool: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = weight.new_empty(groups, x_BCHW.shape[1])
    return _pooled(x_BCHW, pool), statistics, torch.empty_like(statistics)


@torch.library.custom_op("batchcliff::batch_norm_relu_backward", mutates_args=())
def batch_norm_relu_backward(
    dy: Tensor,
    x_BCHW: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    pool: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, weight and bias; see `batch_norm_relu`."""
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    dy = dy.contiguous(memory_format=torch.channels_last)
    groups = len(mean)
    cut = _Cut(x, groups, pool)
    plan = cut.reduction(BACKWARD)
    part = weight.new_empty(plan.parts * groups, 2, cut.channels)
    sums = weight.new_empty(groups, 2, cut.channels)
    gradient_sums_kernel[plan.grid](
        x, dy, mean, var, weight, bias, part, sums, _arrived(x.device),
        cut.rows, cut.places, cut.half_width, plan.passes, plan.parts,
        EPS=eps, POOL=pool, REVERSE=BACKWARD.reverse, **plan.constants,
    )  # fmt: skip
    dx, dweight, dbias = _pooled(x, False), torch.empty_like(weight), torch.empty_like(bias)
    plan = cut.programs(BACKWARD, taken=cut.rows)
    gradient_kernel[plan.grid](
        x, dy, mean, var, weight, bias, sums, dx, dweight, dbias,
        cut.rows, cut.places, cut.half_width, plan.parts, groups,
        EPS=eps, POOL=pool, **plan.constants,
    )  # fmt: skip
    return dx, dweight, dbias


@batch_norm_relu_backward.register_fake
def _(
    _dy: Tensor,
    x_BCHW: Tensor,
    _mean: Tensor,
    _var: Tensor,
    weight: Tensor,
    bias: Tensor,
    _eps: float,
    _pool: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _pooled(x_BCHW, False), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, eps, pool = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, mean, var, weight, bias)
    ctx.eps, ctx.pool = eps, pool


def _backward(ctx: Any, dy: Tensor, _dmean: Any, _dvar: Any) -> tuple[Any, ...]:
    gradients = batch_norm_relu_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.pool)
    return (*gradients, None, None, None)


batch_norm_relu.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("batchcliff::normalise_relu", mutates_args=())
def normalise_relu(
    x_BCHW: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    pool: bool,
) -> Tensor:
    """As `batch_norm_relu` with given statistics [G, C]; for evaluation, no gradient."""
    _check(x_BCHW, len(mean), pool)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    return _normalise(x, mean, var, weight, bias, eps, pool)


@normalise_relu.register_fake
def _(
    x_BCHW: Tensor,
    _mean: Tensor,
    _var: Tensor,
    _weight: Tensor,
    _bias: Tensor,
    _eps: float,
    pool: bool,
) -> Tensor:
    return _pooled(x_BCHW, pool)
