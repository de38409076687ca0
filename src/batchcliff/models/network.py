"""What every network of ours can do: fill its weights from seeds, in place.

Weights are filled in place so that a captured graph, which knows their addresses, can serve
one trial after the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.randomness import derive, uniform

# S stack


class Network(nn.Module, ABC):
    """Maps images [B, S*C, H, W] to logits [B, S, K]; `stack` is S.

    Slice s of every parameter's first dimension is network s of the stack.
    """

    stack: int

    @abstractmethod
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, S, K]."""

    @torch.no_grad()
    def initialise(self, kind: str, seeds: list[int]) -> None:
        """Fill network s of the stack from seeds[s]; batch norm to identity, in place.

        kind "glorot-uniform": U(-a, a), a = sqrt(6 / (fan_in + fan_out)), zero bias (Glorot
        and Bengio 2010, eq. 16; Keras' default). "torch": U(-1/sqrt(fan_in), 1/sqrt(fan_in))
        for weights and biases, PyTorch's default for convolutions and linear layers.
        "he-normal": N(0, 2 / fan_in) for convolutions (He et al. 2015, 1502.01852, eq. 10),
        N(0, 0.01^2) for the dense layer, zero bias (Goyal et al. 2017, section 5.1).
        """
        for name, module in self.named_modules():
            if isinstance(module, GhostBatchNorm2d):
                module.weight.fill_(1)
                module.bias.zero_()
                module.running_mean.zero_()
                module.running_var.fill_(1)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                for s, seed in enumerate(seeds):
                    _fill(module, name, kind, seed, s, self.stack)


def slices(stacked: Tensor, stack: int) -> Tensor:
    """A view [S, ...] of a parameter whose first dimension holds S networks in turn."""
    return stacked.view(stack, -1, *stacked.shape[1:])


def normal(stream: int, count: int) -> NDArray[np.float64]:
    """Standard normal, float64 [count] (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log1p(-uniform(stream, count)))
    angle = 2 * math.pi * uniform(stream, count, start=count)
    drawn: NDArray[np.float64] = radius * np.cos(angle)
    return drawn


def _drawn(kind: str, stream: int, weight: Tensor, part: str) -> NDArray[np.float64] | None:
    """Values of one network's weight or bias [out, in, ...], flat; None for zeros."""
    fan_in = weight[0].numel()
    if kind == "he-normal":
        if part == "bias":
            return None
        deviation = math.sqrt(2 / fan_in) if weight.dim() > 2 else 0.01
        return deviation * normal(stream, weight.numel())
    if kind == "torch":
        bound = 1 / math.sqrt(fan_in)
    elif part == "bias":
        return None
    else:
        fan_out = weight.shape[0] * math.prod(weight.shape[2:])
        bound = math.sqrt(6 / (fan_in + fan_out))
    count = weight.shape[0] if part == "bias" else weight.numel()
    return (2 * uniform(stream, count) - 1) * bound


def _fill(
    module: nn.Conv2d | nn.Linear, name: str, kind: str, seed: int, s: int, stack: int
) -> None:
    weight = slices(module.weight, stack)[s]
    parts = {"weight": weight}
    if module.bias is not None:
        parts["bias"] = slices(module.bias, stack)[s]
    for part, tensor in parts.items():
        values = _drawn(kind, derive(seed, "init", name, part), weight, part)
        if values is None:
            tensor.zero_()
        else:
            tensor.copy_(torch.from_numpy(values).to(torch.float32).reshape(tensor.shape))
