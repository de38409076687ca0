"""The kernels against the plain operations, once in a process, before a run relies on them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from batchcliff.kernels.convolution import (
    convolution,
    convolution_backward,
    convolution_statistics,
)
from batchcliff.kernels.layers import convolved_relu

TOLERANCE = 0.02  # of the norm of what the plain operations give; bfloat16 rounds to 0.004
BATCH_NORM = {f"batch norm, pooling {pool}": pool for pool in ("none", "2x2", "all")}
"""Checks of the fused batch norm by what they are called: each pooling is built apart."""

CONVOLUTIONS = {"convolution of images": (3, 64), "convolution of activations": (16, 32)}
"""Checks of convolutions: their channels and their outputs."""

BATCH, SIZE = 8, 8
CALLED = {"weight": "scale", "bias": "shift", "conv.weight": "weights"}


def failing(layer: Any, device: torch.device, pool: str) -> str:
    """Why the fused form of a layer like this one cannot be trusted here; "" if it can.

    Its outputs, gradients and running statistics for random bfloat16 images, with that kind
    of pooling and in evaluation, against those of the same layer with `fused` off.
    """
    kind: Any = type(layer)
    return _failing(layer.weight.numel(), kind, device, layer.eps, layer.momentum, pool)


@functools.cache
def _failing(
    channels: int,
    kind: Callable[..., Any],
    device: torch.device,
    eps: float,
    momentum: float,
    pool: str,
) -> str:
    make: Any = kind  # a class of layers: hashable, so that the answer can be kept
    plain = make(channels, BATCH // 2, eps=eps, momentum=momentum).to(device)
    fused = copy.deepcopy(plain)
    fused.fused = True
    return _first_difference(
        lambda layer: _results(layer, layer.relu, channels, pool, device),
        (fused, plain),
        f"with pooling {pool}",
    )


@functools.cache
def failing_convolution(
    kind: Callable[..., Any], device: torch.device, inputs: int, outputs: int
) -> str:
    """Why `convolved_relu` with a layer of this kind cannot be trusted here; "" if it can.

    As `failing`, and the gradient of the convolution's weights: of images, up to 3 channels, or
    of activations, whose gradient is needed too.
    """
    make: Any = kind
    plain = make(outputs, BATCH // 2).to(device)
    # Weights of their own seed, not of what was drawn before: bfloat16 rounds a value near 0 to
    # the other side, and for 4 of 60 draws a gradient is off by more than TOLERANCE then.
    # And nothing is drawn that others would miss.
    weight = torch.empty(outputs, inputs, 3, 3)
    nn.init.normal_(
        weight, std=(9 * inputs) ** -0.5, generator=torch.Generator().manual_seed(3)
    )
    plain.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, device="meta")
    plain.conv.weight = nn.Parameter(weight)
    plain.conv.to(device, torch.bfloat16, memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fused.fused = fused.convolves = True

    def results(layer: Any) -> dict[str, Tensor]:
        def run(x: Tensor, *, pool: str) -> Tensor:
            later: list[Any] = []
            y = convolved_relu(layer.conv, layer, x, pool=pool, later=later)
            for _, mean_GC, var_GC, count in later:
                layer.follow(mean_GC, var_GC * (count / (count - 1)))
            return y

        return _results(layer, run, inputs, "none", device)

    return _first_difference(results, (fused, plain), f"of a convolution of {inputs} channels")


@functools.cache
def failing_sweep(device: torch.device) -> str:
    """Why `batchcliff.kernels.sweep` cannot be trusted on this Hopper GPU; "" if it can.

    The convolution of random bfloat16 images, its statistics and its gradient, against
    PyTorch's own.
    """

    def results(swept: bool) -> dict[str, Tensor]:
        rng = torch.Generator(device).manual_seed(1)
        x, weight, dy = (
            torch.randn(shape, generator=rng, device=device)
            .to(torch.bfloat16)
            .contiguous(memory_format=torch.channels_last)
            for shape in ((32, 64, 32, 32), (64, 64, 3, 3), (32, 64, 32, 32))
        )
        if swept:
            y, mean_GC, var_GC = convolution_statistics(x, weight, weight, False, 2)
        else:
            y = convolution(x, weight, weight, False, False)
            var_GC, mean_GC = torch.var_mean(
                y.float().view(2, -1, *y.shape[1:]), (1, 3, 4), correction=0
            )
        of_x, _ = convolution_backward(dy, x, weight, False, swept)
        found = {"output": y, "mean": mean_GC, "variance": var_GC}
        found["gradient of the input"] = of_x
        return {name: tensor.float() for name, tensor in found.items()}

    return _first_difference(results, (True, False), "of a swept convolution")


def _first_difference(
    results: Callable[[Any], dict[str, Tensor]], twins: tuple[Any, Any], called: str
) -> str:
    """What differs first between the results of the fused twin and of the plain one, or ""."""
    try:
        ours, theirs = map(results, twins)
        for name, expected in theirs.items():
            off = float((ours[name] - expected).norm() / expected.norm().clamp(min=1e-12))
            if not off <= TOLERANCE:
                return f"kernels fail their check: {name} {called} off by {off:.2g}"
    except Exception as error:  # a compiler's, a driver's: any of them means "plain"
        return f"kernels fail their check: {type(error).__name__}: {error}"[:300]
    return ""


def _results(
    layer: Any, run: Callable[..., Tensor], channels: int, pool: str, device: torch.device
) -> dict[str, Tensor]:
    """Everything that a training pass and an evaluation make, as float32: `run` is the layer,
    for inputs of so many channels."""
    rng = torch.Generator(device).manual_seed(1)
    shape = (BATCH, channels, SIZE, SIZE)
    x = torch.randn(shape, generator=rng, device=device).to(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    images = channels < 8
    x.requires_grad_(not images)
    layer.train()
    y = run(x, pool=pool)
    slope = torch.randn(y.shape, generator=rng, device=device).to(y.dtype)
    wanted = ({} if images else {"input": x}) | dict(layer.named_parameters())
    gradients = torch.autograd.grad(y, list(wanted.values()), slope)
    layer.eval()
    with torch.no_grad():
        evaluated = run(x.detach(), pool=pool)
    found = {
        "output": y,
        **{
            f"gradient of the {CALLED.get(n, n)}": g
            for n, g in zip(wanted, gradients, strict=True)
        },
        "running mean": layer.running_mean,
        "running variance": layer.running_var,
        "evaluation": evaluated,
    }
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}
