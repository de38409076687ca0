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


POOLS = ("none", "2x2", "all")
REDUCE = Tuning(loads=8, channels=64)  # statistics, and sums of gradients
APPLY = Tuning()  # normalising, and gradients
PER_PROCESSOR = 4  # programs of a reduction that a multiprocessor should have to run
FEW = 4  # blocks of a program of a reduction
MERGED = 32  # partial results that the last program of a group loads at once
ARRIVALS = 1 << 16  # counters of unfinished reductions: groups x blocks of channels
ALONE = {"BEHIND": False}  # a launch that starts when all before it has ended
REVERSE = True  # reductions go from the end: the pass after them begins with what is cached


@dataclass(frozen=True, slots=True)
class Programs:
    """A launch: its grid, programs of a group, blocks of a program, compile-time numbers."""

    grid: tuple[int, int]
    parts: int
    passes: int
    constants: dict[str, Any]


class _Cut:
    """How an activation [G, R, C] is cut into programs: of y, for normalising, or of x."""

    def __init__(self, x_BCHW: Tensor, groups: int, pool: str) -> None:
        batch, self.channels, height, width = x_BCHW.shape
        image = height * width
        self.batch, self.groups, self.rows = batch, groups, batch // groups * image
        # How many rows of x a row of y stands for, and what finds it: passes._place.
        window, self.unit = {"none": (1, 1), "2x2": (4, width // 2), "all": (image, image)}[
            pool
        ]
        self.places = self.rows // window
        self.processors = _processors(x_BCHW.device)

    def programs(self, tuning: Tuning, *, taken: int, passes: int = 1) -> Programs:
        """For `taken` rows a group, `passes` blocks to a program."""
        columns = min(self.channels, tuning.channels)
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
        """Enough programs to keep every processor loading, and no more: the last program of
        a group waits for what the others leave to it. Where that is few blocks a program, some
        programs too few beat a second round of some."""
        blocks = math.prod(self.programs(tuning, taken=self.rows).grid)
        each = blocks / (PER_PROCESSOR * self.processors)
        power = math.ceil(math.log2(each)) if 1 < each < FEW else math.floor(math.log2(each))
        return self.programs(tuning, taken=self.rows, passes=1 << max(power, 0))


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _pairs(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it still runs (a Hopper GPU's
    "programmatic dependent launch"): it loads what is there already, and then waits."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def _ahead(device: torch.device) -> dict[str, Any]:
    """What the first kernel of such a pair is launched with."""
    return {"AHEAD": _pairs(device)}


def _behind(device: torch.device) -> dict[str, Any]:
    """And the second."""
    return {"BEHIND": True, "launch_pdl": True} if _pairs(device) else {"BEHIND": False}


@functools.cache
def _arrived(device: torch.device) -> Tensor:
    """Counters of the reductions, zero between launches: one stream at a time uses them."""
    return torch.zeros(ARRIVALS, dtype=torch.int32, device=device)


def _like(x_BCHW: Tensor, pool: str) -> Tensor:
    """An empty output, channels-last; [B, C] where it is the mean over each image."""
    batch, channels, height, width = x_BCHW.shape
    if pool == "all":
        return x_BCHW.new_empty(batch, channels)
    scale = 2 if pool == "2x2" else 1
    return torch.empty(
        (batch, channels, height // scale, width // scale),
        dtype=x_BCHW.dtype,
        device=x_BCHW.device,
        memory_format=torch.channels_last,
    )


def _check(x_BCHW: Tensor, groups: int, pool: str) -> None:
    batch, channels, height, width = x_BCHW.shape
    if batch % groups:
        raise ValueError(f"a batch of {batch} cannot be cut into {groups} equal groups")
    if channels & (channels - 1):
        raise ValueError(f"{channels} channels: the kernels need a power of two")
    if pool not in POOLS:
        raise ValueError(f"pool: unknown {pool!r}, not one of {', '.join(POOLS)}")
    if pool == "2x2" and (height % 2 or width % 2):
        raise ValueError(f"{height} x {width} cannot be pooled by 2 x 2 without a rest")


def _normalise(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: str,
    behind: dict[str, Any],
) -> Tensor:  # fmt: skip
    """behind: what says whether the statistics' kernel comes right before."""
    y, cut = _like(x, pool), _Cut(x, len(mean), pool)
    if pool == "all":
        plan = cut.programs(REDUCE, taken=cut.unit)
        image_means_kernel[cut.batch, plan.grid[1]](
            x, mean, var, weight, bias, y, cut.rows, cut.unit,
            EPS=eps, **plan.constants, **behind,
        )  # fmt: skip
        return y
    # A program with pooling loads four rows of x for each row of y.
    plan = cut.programs(APPLY, taken=4 * cut.places if pool == "2x2" else cut.places)
    normalise_kernel[plan.grid](
        x, mean, var, weight, bias, y, cut.rows, cut.places, cut.unit, plan.parts,
        EPS=eps, POOL=pool, **plan.constants, **behind,
    )  # fmt: skip
    return y


@torch.library.custom_op("batchcliff::batch_norm_relu", mutates_args=())
def batch_norm_relu(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, pool: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each of `groups` equal parts of the batch, rectify, and pool.

    x_BCHW: [B, C, H, W], C a power of two. weight, bias: float32 [C]. pool: "none", "2x2"
    (averages of 2 x 2), or "all" (the mean over each image). Returns y in x's type,
    channels-last, [B, C, H, W], [B, C, H/2, W/2] or [B, C], and each group's mean and biased
    variance, float32 [G, C], through which no gradient flows. ValueError for shapes that it
    does not serve.
    """
    _check(x_BCHW, groups, pool)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    cut = _Cut(x, groups, pool)
    plan = cut.reduction(REDUCE)
    part = weight.new_empty(plan.parts * groups, 2, cut.channels)
    mean = weight.new_empty(groups, cut.channels)
    var = torch.empty_like(mean)
    statistics_kernel[plan.grid](
        x, part, mean, var, _arrived(x.device), cut.rows, plan.passes, plan.parts,
        MERGED=MERGED, REVERSE=REVERSE, **plan.constants, **_ahead(x.device),
    )  # fmt: skip
    behind = _behind(x.device)
    return _normalise(x, mean, var, weight, bias, eps, pool, behind), mean, var


@batch_norm_relu.register_fake
def _(
    x_BCHW: Tensor,
    weight: Tensor,
    _bias: Tensor,
    groups: int,
    _eps: float,
    pool: str,
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = weight.new_empty(groups, x_BCHW.shape[1])
    return _like(x_BCHW, pool), statistics, torch.empty_like(statistics)


@torch.library.custom_op("batchcliff::batch_norm_relu_backward", mutates_args=())
def batch_norm_relu_backward(
    dy: Tensor,
    x_BCHW: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    pool: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, weight and bias; see `batch_norm_relu`."""
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    dy = dy.contiguous(
        memory_format=torch.contiguous_format if pool == "all" else torch.channels_last
    )
    groups = len(mean)
    cut = _Cut(x, groups, pool)
    plan = cut.reduction(REDUCE)
    part = weight.new_empty(plan.parts * groups, 2, cut.channels)
    sums = weight.new_empty(groups, 2, cut.channels)
    gradient_sums_kernel[plan.grid](
        x, dy, mean, var, weight, bias, part, sums, _arrived(x.device),
        cut.rows, cut.places, cut.unit, plan.passes, plan.parts,
        EPS=eps, POOL=pool, MERGED=MERGED, REVERSE=REVERSE, **plan.constants,
        **_ahead(x.device),
    )  # fmt: skip
    dx, dweight, dbias = _like(x, "none"), torch.empty_like(weight), torch.empty_like(bias)
    plan = cut.programs(APPLY, taken=cut.rows)
    gradient_kernel[plan.grid](
        x, dy, mean, var, weight, bias, sums, dx, dweight, dbias,
        cut.rows, cut.places, cut.unit, plan.parts, groups,
        EPS=eps, POOL=pool, **plan.constants, **_behind(x.device),
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
    _pool: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x_BCHW, "none"), torch.empty_like(weight), torch.empty_like(bias)


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


@torch.library.custom_op("batchcliff::batch_norm_relu_of", mutates_args=())
def batch_norm_relu_of(
    x_BCHW: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    pool: str,
) -> Tensor:
    """As `batch_norm_relu` where x's own statistics [G, C] are known already: gradients flow to
    x, also on their account, to weight and to bias."""
    _check(x_BCHW, len(mean), pool)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    return _normalise(x, mean, var, weight, bias, eps, pool, ALONE)


@batch_norm_relu_of.register_fake
def _given_statistics(
    x_BCHW: Tensor,
    _mean: Tensor,
    _var: Tensor,
    _weight: Tensor,
    _bias: Tensor,
    _eps: float,
    pool: str,
) -> Tensor:
    return _like(x_BCHW, pool)


def _keep_of(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, mean, var, weight, bias, ctx.eps, ctx.pool = inputs
    ctx.save_for_backward(x, mean, var, weight, bias)


def _backward_of(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    dx, *of_parameters = batch_norm_relu_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.pool)
    return (dx, None, None, *of_parameters, None, None)


batch_norm_relu_of.register_autograd(_backward_of, setup_context=_keep_of)


@torch.library.custom_op("batchcliff::normalise_relu", mutates_args=())
def normalise_relu(
    x_BCHW: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    pool: str,
) -> Tensor:
    """As `batch_norm_relu` with given statistics [G, C]; for evaluation, no gradient."""
    _check(x_BCHW, len(mean), pool)
    x = x_BCHW.contiguous(memory_format=torch.channels_last)
    return _normalise(x, mean, var, weight, bias, eps, pool, ALONE)


normalise_relu.register_fake(_given_statistics)
