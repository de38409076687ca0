"""The kernels against the plain operations, once in a process, before a run relies on them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 0.02  # of the norm of what the plain operations give; bfloat16 rounds to 0.004
POOLS = ("none", "2x2", "all")
BATCH, SIZE = 8, 8


def failing(layer: Any, device: torch.device) -> str:
    """Why the fused form of a layer like this one cannot be trusted here; "" if it can.

    Its outputs, gradients and running statistics for random bfloat16 images, with each
    kind of pooling and in evaluation, against those of the same layer with `fused` off.
    """
    kind: Any = type(layer)
    return _failing(layer.weight.numel(), kind, device, layer.eps, layer.momentum)


@functools.cache
def _failing(
    channels: int, kind: Callable[..., Any], device: torch.device, eps: float, momentum: float
) -> str:
    make: Any = kind  # a class of layers: hashable, so that the answer can be kept
    plain = make(channels, BATCH // 2, eps=eps, momentum=momentum).to(device)
    fused = copy.deepcopy(plain)
    fused.fused = True
    try:
        for pool in POOLS:
            ours, theirs = (_results(layer, pool, device) for layer in (fused, plain))
            for name, expected in theirs.items():
                off = float((ours[name] - expected).norm() / expected.norm().clamp(min=1e-12))
                if not off <= TOLERANCE:
                    return (
                        f"kernels fail their check: {name} with pooling {pool} off by {off:.2g}"
                    )
    except Exception as error:  # a compiler's, a driver's: any of them means "plain"
        return f"kernels fail their check: {type(error).__name__}: {error}"[:300]
    return ""


def _results(layer: Any, pool: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that a training pass and an evaluation of `layer` make, as float32."""
    rng = torch.Generator(device).manual_seed(1)
    shape = (BATCH, layer.weight.numel(), SIZE, SIZE)
    x = torch.randn(shape, generator=rng, device=device).to(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer.train()
    y = layer.relu(x, pool=pool)
    slope = torch.randn(y.shape, generator=rng, device=device).to(y.dtype)
    gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], slope)
    layer.eval()
    with torch.no_grad():
        evaluated = layer.relu(x.detach(), pool=pool)
    found = {
        "output": y,
        "gradient of the input": gradients[0],
        "gradient of the scale": gradients[1],
        "gradient of the shift": gradients[2],
        "running mean": layer.running_mean,
        "running variance": layer.running_var,
        "evaluation": evaluated,
    }
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}
