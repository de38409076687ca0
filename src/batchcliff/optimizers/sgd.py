"""Stochastic gradient descent with momentum, in the two forms that frameworks use.

They agree while the learning rate is constant and differ whenever it changes (Goyal et al.
2017, 1706.02677, section 3): Keras keeps the rate inside of the velocity.

    keras:  v = m v - lr g;  w = w + v        nesterov: w = w + m v - lr g
    torch:  v = m v + g;     w = w - lr v     nesterov: w = w - lr (g + m v)

Momentum correction (Goyal et al., section 3) makes the keras form follow a
changing rate at once, by scaling the velocity: v = m (lr / last lr) v - lr g. It is then the
torch form to rounding, but for an update at rate 0, which empties the velocity.

`lr` is a tensor [S], one rate per network of a stack, so that a captured graph reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.optimizers.decay import decayed
from batchcliff.optimizers.rule import Rule
from batchcliff.optimizers.stacks import scaled
from batchcliff.spec import Optimizer


class Sgd(Rule):
    """SGD with momentum as a rule; state "velocity", as the parameters, and with momentum
    correction "last", the rates [S] of the last update."""

    def __init__(self, options: Optimizer, parameters: list[Tensor], stack: int) -> None:
        super().__init__(options, parameters, stack)
        self.state["velocity"] = [torch.zeros_like(p) for p in parameters]
        if options.momentum_correction:
            self.state["last"] = [torch.zeros(stack, device=parameters[0].device)]

    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """See `sgd_update`."""
        last_S = state["last"][0] if self.options.momentum_correction else None
        sgd_update(parameters, gradients, state["velocity"], lr_S, self.options, last_S)


@torch.no_grad()
def sgd_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    lr_S: Tensor,
    options: Optimizer,
    last_S: Tensor | None = None,
) -> None:
    """One update in place. Every tensor's first dimension holds the S networks in turn.

    last_S: the rates of the last update, for momentum correction; replaced by `lr_S`.
    """
    gradients = decayed(gradients, parameters, options.weight_decay, options.exclude)
    if options.form == "keras":
        steps = scaled(gradients, lr_S)
        torch._foreach_mul_(velocities, options.momentum)
        if last_S is not None:
            ratio_S = torch.where(last_S > 0, lr_S / last_S, torch.ones_like(lr_S))
            torch._foreach_copy_(velocities, scaled(velocities, ratio_S))
            last_S.copy_(lr_S)
        torch._foreach_sub_(velocities, steps)
        if options.nesterov:
            torch._foreach_add_(parameters, velocities, alpha=options.momentum)
            torch._foreach_sub_(parameters, steps)
        else:
            torch._foreach_add_(parameters, velocities)
    else:
        torch._foreach_mul_(velocities, options.momentum)
        torch._foreach_add_(velocities, gradients)
        moves = velocities
        if options.nesterov:
            moves = list(torch._foreach_add(gradients, velocities, alpha=options.momentum))
        torch._foreach_sub_(parameters, scaled(moves, lr_S))
