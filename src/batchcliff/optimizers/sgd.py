"""Stochastic gradient descent with momentum, in the two forms that frameworks use.

They agree while the learning rate is constant and differ whenever it changes (Goyal et al.
2017, section 3, "momentum correction"): Keras keeps the rate inside of the velocity.

    keras:  v = m v - lr g;  w = w + v        nesterov: w = w + m v - lr g
    torch:  v = m v + g;     w = w - lr v     nesterov: w = w - lr (g + m v)

`lr` is a tensor [S], one rate per network of a stack, so that a captured graph reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.models.conv_net import slices
from batchcliff.optimizers.rule import Rule
from batchcliff.spec import Optimizer


class Sgd(Rule):
    """SGD with momentum as a rule; state "velocity", as the parameters."""

    def __init__(self, options: Optimizer, parameters: list[Tensor], stack: int) -> None:
        super().__init__(options, parameters, stack)
        self.state["velocity"] = [torch.zeros_like(p) for p in parameters]

    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """See `sgd_update`."""
        sgd_update(parameters, gradients, state["velocity"], lr_S, self.options)


@torch.no_grad()
def sgd_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    lr_S: Tensor,
    options: Optimizer,
) -> None:
    """One update in place. Every tensor's first dimension holds the S networks in turn."""
    if options.weight_decay:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=options.weight_decay))
    if options.form == "keras":
        steps = _scaled(gradients, lr_S)
        torch._foreach_mul_(velocities, options.momentum)
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
        torch._foreach_sub_(parameters, _scaled(moves, lr_S))


def _scaled(tensors: list[Tensor], lr_S: Tensor) -> list[Tensor]:
    """Each tensor times its network's rate; new tensors of the same shapes."""
    stack = lr_S.numel()
    if stack == 1:
        return list(torch._foreach_mul(tensors, lr_S[0]))
    return [(slices(t, stack) * lr_S.view(stack, *[1] * t.dim())).view_as(t) for t in tensors]
