"""Convolution and batch norm whose second derivatives take few, fast operations.

PyTorch differentiates both twice, by formulas that a GPU is slow at: a convolution of the
images with their own gradients as kernels, and some fifty passes over a batch norm's values.
Within `differentiated_twice` their gradients are operations with gradients of their own, in
closed form. Values and derivatives are the same (tests/training/test_second_derivatives.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d

# B batch, C channel, O output channel, P places of an image (one to three dimensions), p those
# of a kernel; G groups, n examples of one


class Geometry(NamedTuple):
    """What a convolution has beside its images and kernels."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


IMAGE, KERNEL, SLOPE = range(3)


class _Partial(torch.autograd.Function):
    """A partial derivative of the form <C(image, kernel), slope> by one of the three.

    The form is linear in each: its derivative by the slope is the convolution, those by image
    and kernel are the convolution's gradients, and the gradients of each are the other two. Of
    the one that is differentiated by, only the shape is read (the slope: nothing, so None).
    """

    @staticmethod
    def forward(
        ctx: Any, by: int, shape: Geometry,
        image_BCP: Tensor, kernel_OCp: Tensor, slope_BOP: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.save_for_backward(image_BCP, kernel_OCp, slope_BOP)
        ctx.by, ctx.shape = by, shape
        stride, padding, dilation, groups = shape
        settings = stride, padding, dilation, False, [0] * len(stride), groups
        if by == SLOPE:
            return torch.convolution(image_BCP, kernel_OCp, None, *settings)
        wanted = [by == IMAGE, by == KERNEL, False]
        return torch.ops.aten.convolution_backward(
            slope_BOP, image_BCP, kernel_OCp, None, *settings, wanted
        )[by]

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        three = list(ctx.saved_tensors)
        three[ctx.by] = along
        _, _, *needed = ctx.needs_input_grad
        found = [
            _applied(_Partial, by, ctx.shape, *three) if need and by != ctx.by else None
            for by, need in enumerate(needed)
        ]
        return None, None, *found


class _BatchNorm(torch.autograd.Function):
    """h w + b with h = (x - mean) r, r = (var + eps)^(-1/2), by group and channel."""

    @staticmethod
    def forward(
        ctx: Any, x_GnCP: Tensor, weight_C1: Tensor, bias_C1: Tensor, eps: float
    ) -> Tensor:
        var, mean = torch.var_mean(x_GnCP, _averaged(x_GnCP), correction=0, keepdim=True)
        rate = torch.rsqrt(var + eps)
        normal = (x_GnCP - mean) * rate
        ctx.save_for_backward(x_GnCP, weight_C1, normal, rate)
        return torch.addcmul(bias_C1, normal, weight_C1)

    @staticmethod
    def backward(ctx: Any, slope_GnCP: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, normal, rate = ctx.saved_tensors
        found = _applied(_BatchNormGradient, slope_GnCP, x, weight, normal, rate)
        return *found, None


class _BatchNormGradient(torch.autograd.Function):
    """The gradients of `_BatchNorm`, given the slope g, with averages <.> by group and channel:

        to x: r w (g - <g> - h <g h>);   to w: sum of g h;   to b: sum of g

    Their own gradients follow from dh = r (dx - <dx> - h <h dx>) and dr = -r^2 <h dx>. Along
    (v, s, t) they are

        to g: r w (v - <v> - h <v h>) + s h + t
        to w: r n sum over groups of (<v g> - <v> <g> - <v h> <g h>)
        to x: -r^2 w (<g h> v + <v h> g + (<v g> - <v> <g> - 3 <v h> <g h>) h - <v> <g h>
              - <v h> <g>) + s r (g - <g> - h <g h>)

    x is an argument for its gradient's sake only: h and r are what it is read by.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, _x: Tensor, weight_C1: Tensor, h: Tensor, r: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        averaged = _averaged(g)
        mean_g, mean_gh = g.mean(averaged, True), (g * h).mean(averaged, True)
        ctx.save_for_backward(g, weight_C1, h, r, mean_g, mean_gh)
        scale = r * weight_C1
        to_x = _combined(-scale * mean_g, (scale, g), (-scale * mean_gh, h))
        count = h.numel() // mean_g.numel()
        return to_x, count * mean_gh.sum((0, 1)), count * mean_g.sum((0, 1))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, v: Tensor, s_C1: Tensor, t_C1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        g, weight, h, r, mean_g, mean_gh = ctx.saved_tensors
        averaged = _averaged(g)
        mean_v, mean_vh = v.mean(averaged, True), (v * h).mean(averaged, True)
        scale, both = r * weight, mean_vh * mean_gh
        common = (v * g).mean(averaged, True) - mean_v * mean_g
        to_g = _combined(
            t_C1 - scale * mean_v, (scale.expand_as(mean_v), v), (s_C1 - scale * mean_vh, h)
        )
        slope, part = -r * scale, s_C1 * r
        to_x = _combined(
            -slope * (mean_v * mean_gh + mean_vh * mean_g) - part * mean_g,
            (slope * mean_gh, v),
            (slope * mean_vh + part, g),
            (slope * (common - 3 * both) - part * mean_gh, h),
        )
        count = h.numel() // mean_g.numel()
        to_weight = count * (r * (common - both)).sum((0, 1))
        return to_g, to_x, to_weight, None, None


def _averaged(x_GnCP: Tensor) -> list[int]:
    """All dimensions but the groups and the channels."""
    return [1, *range(3, x_GnCP.dim())]


def _combined(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """constant + sum of factor * values; constant and factors: one by group and channel."""
    (factor, values), *others = terms
    found = torch.addcmul(constant, factor, values)
    for factor, values in others:
        found.addcmul_(factor, values)
    return found


def batch_norm(
    x_BCP: Tensor, weight_C: Tensor, bias_C: Tensor, group: int, eps: float
) -> Tensor:
    """Values normalised by the statistics of each group of `group` examples, scaled, shifted.

    The number of examples is a multiple of `group`.
    """
    _, channels, *places = x_BCP.shape
    ones = [1] * len(places)
    found: Tensor = _applied(
        _BatchNorm,
        x_BCP.view(-1, group, channels, *places),
        weight_C.view(channels, *ones),
        bias_C.view(channels, *ones),
        eps,
    )
    return found.flatten(0, 1)


CONVOLUTIONS = torch.conv1d, torch.conv2d, torch.conv3d


class _Twice(TorchFunctionMode):
    """Takes convolutions that are given by numbers, and batch norm in training."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        found = None
        if function in CONVOLUTIONS:
            found = _convolution(*args, **named)
        elif function is F.batch_norm:
            found = _normalised(*args, **named)
        return function(*args, **named) if found is None else found


@contextlib.contextmanager
def differentiated_twice(model: nn.Module) -> Iterator[None]:
    """Within the block the network's convolutions and batch norms in training are those of this
    module, in float32 and float64; running statistics stay as they are. A batch norm whose last
    group is smaller, and a convolution with padding by name, stay PyTorch's."""
    layers = [m for m in model.modules() if isinstance(m, GhostBatchNorm2d)]
    before = [layer.normalise for layer in layers]
    try:
        for layer in layers:
            layer.normalise = batch_norm
        with _Twice():
            yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.normalise = kept


def _convolution(
    input: Tensor,  # noqa: A002  (as torch.conv2d names it)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor | None:
    """In place of torch.conv1d, conv2d and conv3d; None where it does not serve."""
    places = weight.dim() - 2
    if isinstance(padding, str) or input.dim() != weight.dim():
        return None

    def numbers(given: int | tuple[int, ...]) -> list[int]:
        return [given] * places if isinstance(given, int) else list(given)

    shape = Geometry(numbers(stride), numbers(padding), numbers(dilation), groups)
    found: Tensor = _applied(_Partial, SLOPE, shape, input, weight, None)
    return found if bias is None else found + bias.view(-1, *[1] * places)


def _normalised(
    input: Tensor,  # noqa: A002  (as F.batch_norm names it)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """In place of F.batch_norm in training; None where it does not serve."""
    del running_mean, running_var, momentum  # no statistics are kept
    wide = input.dtype in (torch.float32, torch.float64)
    if not training or weight is None or bias is None or not wide:
        return None
    return batch_norm(input, weight, bias, len(input), eps)
