"""A 3x3 convolution of few channels, batch norm per group and ReLU as one operation.

Registered with torch.library as those of `batchcliff.kernels.batch_norm_relu` are. The passes
and their source are in `batchcliff.kernels.thin_passes`; importing this module imports Triton.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchcliff.kernels.batch_norm_relu import (
    ALONE,
    MERGED,
    _ahead,
    _arrived,
    _behind,
    _processors,
)
from batchcliff.kernels.layers import is_thin
from batchcliff.kernels.thin_passes import (
    FACTORS,
    K,
    thin_gradient_kernel,
    thin_gradient_sums_kernel,
    thin_normalise_kernel,
    thin_statistics_kernel,
)

# B batch, D channels of the images, C of the output, H height, W width, G groups, P parts


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinTuning:
    """How the work is cut up; results differ by rounding only.

    rows: that a program computes at once. warps: a program's. programs: of a reduction that a
    multiprocessor should have to run. stages: of loads under way ahead of their use.
    """

    rows: int = 128
    warps: int = 4
    programs: int = 4
    stages: int = 1


STATISTICS = ThinTuning(rows=64)
NORMALISE = ThinTuning()
GRADIENT = ThinTuning(programs=2)


class _Cut:
    """How rows of the images, [G, rows, D], are cut into programs."""

    def __init__(self, images_BDHW: Tensor, weight_CDHW: Tensor, groups: int) -> None:
        batch, depth, height, width = images_BDHW.shape
        channels = len(weight_CDHW)
        if batch % groups:
            raise ValueError(f"a batch of {batch} cannot be cut into {groups} equal groups")
        if weight_CDHW.shape != (channels, depth, 3, 3) or not is_thin(depth, channels):
            raise ValueError(f"no kernels for a convolution of {list(weight_CDHW.shape)}")
        self.groups, self.rows = groups, batch // groups * height * width
        factor = FACTORS[images_BDHW.device.type]
        self.sizes = {"C": channels, "D": depth, "K": K, "FACTOR": factor}
        self.image = {"H": height, "W": width}
        self.processors = _processors(images_BDHW.device)

    def programs(self, tuning: ThinTuning, *, passes: int = 1) -> tuple[int, dict[str, Any]]:
        """Programs of a group for `passes` blocks each, and the compile-time numbers."""
        parts = math.ceil(self.rows / (tuning.rows * passes))
        launch = {"num_warps": tuning.warps, "num_stages": tuning.stages}
        return parts, self.sizes | self.image | launch | {"BLOCK_R": tuning.rows}

    def passes(self, tuning: ThinTuning) -> int:
        """Blocks of a reduction's program: no more programs than run at once."""
        blocks = self.groups * math.ceil(self.rows / tuning.rows)
        return 1 << max(math.ceil(math.log2(blocks / (tuning.programs * self.processors))), 0)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _output(images_BDHW: Tensor, channels: int) -> Tensor:
    batch, _, height, width = images_BDHW.shape
    return torch.empty(
        (batch, channels, height, width),
        dtype=images_BDHW.dtype,
        device=images_BDHW.device,
        memory_format=torch.channels_last,
    )


def _normalise(
    images: Tensor, conv: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor,
    eps: float, cut: _Cut, behind: dict[str, Any],
) -> Tensor:  # fmt: skip
    y = _output(images, len(conv))
    parts, constants = cut.programs(NORMALISE)
    thin_normalise_kernel[cut.groups * parts,](
        images, conv, mean, var, weight, bias, y, cut.rows, parts, EPS=eps, **constants,
        **behind,
    )  # fmt: skip
    return y


@torch.library.custom_op("batchcliff::thin_convolution", mutates_args=())
def thin_convolution(
    images_BDHW: Tensor,
    conv_CDHW: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve (3x3, padding 1), normalise each of `groups` equal parts of the batch, rectify.

    images_BDHW: [B, D, H, W], 9 D < 32. conv_CDHW: the convolution's weights, [C, D, 3, 3], C a
    power of two from 16 to 128; multiplied as bfloat16. weight, bias: float32 [C]. Returns y
    [B, C, H, W] in the images' type, channels-last, and the mean and the biased variance of the
    convolution in each group, float32 [G, C]. Gradients flow to the weights, the scale and the
    shift, not to the images. ValueError for shapes that it does not serve.
    """
    cut = _Cut(images_BDHW, conv_CDHW, groups)
    images, conv = _last(images_BDHW), _last(conv_CDHW)
    passes = cut.passes(STATISTICS)
    parts, constants = cut.programs(STATISTICS, passes=passes)
    part = weight.new_empty(groups * parts, 2, len(conv))
    mean = weight.new_empty(groups, len(conv))
    var = torch.empty_like(mean)
    thin_statistics_kernel[groups * parts,](
        images, conv, part, mean, var, _arrived(images.device), cut.rows, passes, parts,
        MERGED=MERGED, **constants, **_ahead(images.device),
    )  # fmt: skip
    behind = _behind(images.device)
    return _normalise(images, conv, mean, var, weight, bias, eps, cut, behind), mean, var


@thin_convolution.register_fake
def _(
    images: Tensor, conv: Tensor, weight: Tensor, _bias: Tensor, groups: int, _eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = weight.new_empty(groups, len(conv))
    return _output(images, len(conv)), mean, torch.empty_like(mean)


@torch.library.custom_op("batchcliff::thin_convolution_backward", mutates_args=())
def thin_convolution_backward(
    dy: Tensor, images_BDHW: Tensor, conv_CDHW: Tensor, mean: Tensor, var: Tensor,
    weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients with respect to conv, weight and bias; see `thin_convolution`."""
    cut = _Cut(images_BDHW, conv_CDHW, len(mean))
    images, conv, dy = _last(images_BDHW), _last(conv_CDHW), _last(dy)
    passes = cut.passes(GRADIENT)
    parts, constants = cut.programs(GRADIENT, passes=passes)
    channels = len(conv)
    part = weight.new_empty(cut.groups * parts, 2 * channels + 1, K)
    thin_gradient_sums_kernel[cut.groups * parts,](
        images, conv, dy, mean, var, weight, bias, part, cut.rows, passes, parts,
        EPS=eps, **constants, **_ahead(images.device),
    )  # fmt: skip
    dconv = torch.empty_like(conv, dtype=torch.float32, memory_format=torch.channels_last)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    share = weight.new_empty(cut.groups, channels, K)
    thin_gradient_kernel[cut.groups, channels](
        part, conv, mean, var, weight, share, dconv, dweight, dbias, _arrived(images.device),
        cut.rows, parts, cut.groups, MERGED=MERGED, EPS=eps, **cut.sizes,
        **_behind(images.device),
    )  # fmt: skip
    return dconv, dweight, dbias


@thin_convolution_backward.register_fake
def _(
    _dy: Tensor, _images: Tensor, conv: Tensor, _mean: Tensor, _var: Tensor,
    weight: Tensor, bias: Tensor, _eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dconv = torch.empty_like(conv, dtype=torch.float32, memory_format=torch.channels_last)
    return dconv, torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    images, conv, weight, bias, _, eps = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(images, conv, mean, var, weight, bias)
    ctx.eps = eps


def _backward(ctx: Any, dy: Tensor, _dmean: Any, _dvar: Any) -> tuple[Any, ...]:
    gradients = thin_convolution_backward(dy, *ctx.saved_tensors, ctx.eps)
    return (None, *gradients, None, None)


thin_convolution.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("batchcliff::thin_evaluation", mutates_args=())
def thin_evaluation(
    images_BDHW: Tensor, conv_CDHW: Tensor, mean: Tensor, var: Tensor, weight: Tensor,
    bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """As `thin_convolution` with given statistics [G, C]; for evaluation, no gradient."""
    cut = _Cut(images_BDHW, conv_CDHW, len(mean))
    images, conv = _last(images_BDHW), _last(conv_CDHW)
    return _normalise(images, conv, mean, var, weight, bias, eps, cut, ALONE)


@thin_evaluation.register_fake
def _(
    images: Tensor, conv: Tensor, _mean: Tensor, _var: Tensor, _weight: Tensor, _bias: Tensor,
    _eps: float,
) -> Tensor:  # fmt: skip
    return _output(images, len(conv))
