"""Losses on logits [B, S, K] and labels [B, S]: mean over the batch per network, [S].

Natural logarithms (nats). "clipped-softmax" is what Keras 2 computed on the output of a
softmax layer (tensorflow 1.13.1, keras/backend.py, categorical_crossentropy with
from_logits=False): the probability is clipped to [1e-7, 1 - 1e-7], so the gradient is
exactly zero where the true class has less, and the loss saturates at 16.118.

Label smoothing (Szegedy et al. 2015, 1512.00567, section 7) mixes the true class' one-hot
target with the uniform distribution over the K classes, in the shares 1 - e and e:

    loss = (1 - e) * -log p_true + e * mean over all K of -log p_k

"logits" takes the p of the softmax (`torch.nn.CrossEntropyLoss(label_smoothing=e)`);
"clipped-softmax" clips every p_k to [1e-7, 1 - 1e-7] first, which is what Keras computes from
probabilities with the targets y (1 - e) + e / K (`CategoricalCrossentropy(label_smoothing=e)`):
a class of less has no gradient, be it the true one or not.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from batchcliff.data.mixup import partners
from batchcliff.spec import Settings

EPSILON = 1e-7


class ExampleLosses(Protocol):
    """Losses [B, S] of logits [B, S, K] and labels [B, S]; smoothing: the share e."""

    def __call__(
        self, logits_BSK: Tensor, labels_BS: Tensor, smoothing: float = 0.0
    ) -> Tensor: ...


def example_losses_logits(
    logits_BSK: Tensor, labels_BS: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross entropy of the softmax, [B, S]."""
    flat = F.cross_entropy(
        logits_BSK.float().flatten(0, 1),
        labels_BS.flatten(),
        reduction="none",
        label_smoothing=smoothing,
    )
    return flat.view(labels_BS.shape)


def example_losses_clipped(
    logits_BSK: Tensor, labels_BS: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross entropy of softmax probabilities clipped to [1e-7, 1 - 1e-7], [B, S]."""
    probabilities = torch.softmax(logits_BSK.float(), -1)
    true_BS = probabilities.gather(-1, labels_BS.unsqueeze(-1)).squeeze(-1)
    losses_BS = -true_BS.clamp(EPSILON, 1 - EPSILON).log()
    if not smoothing:
        return losses_BS
    spread_BS = -probabilities.clamp(EPSILON, 1 - EPSILON).log().mean(-1)
    return (1 - smoothing) * losses_BS + smoothing * spread_BS


LOSSES: dict[str, ExampleLosses] = {
    "logits": example_losses_logits,
    "clipped-softmax": example_losses_clipped,
}


def training_losses(
    logits_BSK: Tensor, labels_BS: Tensor, share_BS: Tensor | None, settings: Settings
) -> Tensor:
    """The losses that are trained on, [B, S]. share_BS: each example's own share in its
    mixed image (mixup); None: images are not mixed.

    labels_BS may have a row more, the last example's partner where that is not the first.
    """
    losses = functools.partial(LOSSES[settings.loss], smoothing=settings.label_smoothing)
    batch = len(logits_BSK)
    own_BS = losses(logits_BSK, labels_BS[:batch])
    if share_BS is None:
        return own_BS
    other_BS = losses(logits_BSK, partners(labels_BS)[:batch])
    return share_BS * own_BS + (1 - share_BS) * other_BS


def mean_per_network(losses_BS: Tensor) -> Tensor:
    """Mean over the batch, [S]; summed along contiguous memory, so that a network's value
    has the same bits however many networks are stacked beside it."""
    return losses_BS.t().contiguous().mean(1)
