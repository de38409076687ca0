"""Tensors that hold several networks: a factor or a norm for each network of each tensor.

Every tensor's first dimension holds the S networks of a stack in turn (S is 1 unless trials
are trained side by side), so what is per layer in a paper is per layer and network here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchcliff.models.network import slices

# P tensors, S networks of the stack


def scaled(tensors: list[Tensor], factors_S: Tensor) -> list[Tensor]:
    """Each tensor times its network's factor; new tensors of the same shapes."""
    stack = factors_S.numel()
    if stack == 1:
        return list(torch._foreach_mul(tensors, factors_S[0]))
    return [
        (slices(t, stack) * factors_S.view(stack, *[1] * t.dim())).view_as(t) for t in tensors
    ]


def scaled_each(tensors: list[Tensor], factors_PS: Tensor) -> list[Tensor]:
    """Tensor p of network s times factors_PS[p, s]; new tensors of the same shapes."""
    return [scaled([t], f)[0] for t, f in zip(tensors, factors_PS.unbind(), strict=True)]


def norms(tensors: Sequence[Tensor], stack: int) -> Tensor:
    """Euclidean norms [P, S] of P >= 1 tensors, without waiting for the device."""
    if stack == 1:
        return torch.stack(torch._foreach_norm(list(tensors)))[:, None]
    return torch.stack([slices(t, stack).flatten(1).norm(dim=1) for t in tensors])
