"""Dynamic loss scaling for float16, with the semantics of torch.amp.GradScaler.

The loss is multiplied by a scale before the backward pass, so that gradients of float16
activations do not round to 0, and the gradients of the weights, which are float32, are divided
by it afterwards. If one of them is not finite, the update is skipped (weights and optimizer
stay as they were) and the scale is halved; after 2,000 updates in a row without a skip it is
doubled. The first scale is 65,536. Source: Micikevicius et al. 2018 (1710.03740, section 3.2);
the numbers are torch's defaults.

Everything is a tensor on the device and every choice a torch.where, so that an update with a
skip in it is the same graph as one without. A skipped update is an update of the run: the
learning rate moves on, and batch norm's running statistics have seen the batch, as with
GradScaler.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from batchcliff.optimizers.rule import Rule
from batchcliff.optimizers.stacks import norms

INITIAL = 2.0**16
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_INTERVAL = 2_000  # updates


class LossScaled(Rule):
    """A rule whose gradients are of the loss times `scale`, and which skips bad updates.

    State: the inner rule's; "loss_scale", a float32; "updates_since_skip", an int32 that
    starts again when the scale grows; "skipped", whether the last update was. One network
    only (ValueError else): trials that share a scale would not be alone.
    """

    def __init__(self, inner: Rule) -> None:
        if inner.stack != 1:
            raise ValueError(f"loss scaling is for one network, not for {inner.stack}")
        # The inner rule clips, once the gradients have their true length.
        options = dataclasses.replace(inner.options, clip_norm=0.0)
        super().__init__(options, inner.parameters, inner.stack)
        device = inner.parameters[0].device
        self.inner = inner
        self.scale = torch.tensor(INITIAL, device=device)
        self.since = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped = torch.zeros((), dtype=torch.bool, device=device)
        self.state = inner.state | {
            "loss_scale": [self.scale],
            "updates_since_skip": [self.since],
            "skipped": [self.skipped],
        }

    def restart(self) -> None:
        """As before the first update."""
        super().restart()
        self.inner.restart()
        self.scale.fill_(INITIAL)

    @torch.no_grad()
    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """The inner rule's update with gradients / scale, or none; then the next scale."""
        (scale,), (since,) = state["loss_scale"], state["updates_since_skip"]
        (skipped,) = state["skipped"]
        inner_state = {name: state[name] for name in self.inner.state}
        changed = [*parameters, *(t for tensors in inner_state.values() for t in tensors)]
        before = [tensor.clone() for tensor in changed]
        skipped.copy_(~torch.isfinite(norms(gradients, 1)).all())
        true = list(torch._foreach_mul(gradients, scale.double().reciprocal().float()))
        self.inner.update(parameters, true, inner_state, lr_S)
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(torch.where(skipped, old, tensor))
        since.copy_(torch.where(skipped, 0, since + 1))
        grows = since == GROWTH_INTERVAL
        grown = torch.where(torch.isfinite(scale * GROWTH), scale * GROWTH, scale)
        scale.copy_(torch.where(skipped, scale * BACKOFF, torch.where(grows, grown, scale)))
        since.copy_(torch.where(grows, 0, since))
