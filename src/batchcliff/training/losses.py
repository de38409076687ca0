"""Losses on logits [B, S, K] and labels [B, S]: mean over the batch per network, [S].

Natural logarithms (nats). "clipped-softmax" is what Keras 2 computed on the output of a
softmax layer (tensorflow 1.13.1, keras/backend.py, categorical_crossentropy with
from_logits=False): the probability is clipped to [1e-7, 1 - 1e-7], so the gradient is
exactly zero where the true class has less, and the loss saturates at 16.118.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7


def example_losses_logits(logits_BSK: Tensor, labels_BS: Tensor) -> Tensor:
    """Cross entropy of the softmax, [B, S]."""
    flat = F.cross_entropy(
        logits_BSK.float().flatten(0, 1), labels_BS.flatten(), reduction="none"
    )
    return flat.view(labels_BS.shape)


def example_losses_clipped(logits_BSK: Tensor, labels_BS: Tensor) -> Tensor:
    """Cross entropy of softmax probabilities clipped to [1e-7, 1 - 1e-7], [B, S]."""
    probabilities = torch.softmax(logits_BSK.float(), -1)
    true_BS = probabilities.gather(-1, labels_BS.unsqueeze(-1)).squeeze(-1)
    return -true_BS.clamp(EPSILON, 1 - EPSILON).log()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": example_losses_logits,
    "clipped-softmax": example_losses_clipped,
}


def mean_per_network(losses_BS: Tensor) -> Tensor:
    """Mean over the batch, [S]; summed along contiguous memory, so that a network's value
    has the same bits however many networks are stacked beside it."""
    return losses_BS.t().contiguous().mean(1)
