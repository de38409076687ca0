"""Gradient clipping by global norm, before anything else of an update.

    g = g min(1, max_norm / |g|), |g| over all parameters of one network

Source: Pascanu, Mikolov and Bengio 2013 (1211.5063, algorithm 1). `torch.nn.utils
.clip_grad_norm_` adds 1e-6 to the norm; this does not. A norm that is not finite stays so:
clipping never hides a divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.optimizers.stacks import norms, scaled


@torch.no_grad()
def clipped(gradients: list[Tensor], max_norm: float, stack: int) -> list[Tensor]:
    """The gradients, each network's no longer than `max_norm` (above 0); new tensors."""
    norm_S = norms(gradients, stack).norm(dim=0)
    factor_S = torch.where(norm_S > max_norm, max_norm / norm_S, torch.ones_like(norm_S))
    return scaled(gradients, factor_S)
