"""LAMB: Adam's direction, scaled in every layer to the norm of the layer's weights.

    r = m' / (sqrt(v') + eps) + wd w;  w = w - lr (|w| / |r|) r

Source: You et al. 2020 (1904.00962, algorithm 2) with phi the identity, and with Adam's bias
correction, as apex and timm have it (versions of the paper differ in it). The ratio is 1 where
|w| or |r| is 0, and for what `exclude` names, which has no decay either: a step of Adam.
docs/optimizers.md compares packages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.optimizers.adam import AdamRule, adam_directions, update_moments
from batchcliff.optimizers.decay import decayed, included, put
from batchcliff.optimizers.stacks import norms, scaled, scaled_each
from batchcliff.spec import Optimizer


class LambRule(AdamRule):
    """LAMB as a rule; state as of `AdamRule`."""

    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """See `lamb_update`."""
        count = state["count"][0]
        count += 1
        lamb_update(
            parameters,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            count,
            lr_S,
            self.options,
        )


@torch.no_grad()
def lamb_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    count: Tensor,
    lr_S: Tensor,
    options: Optimizer,
) -> None:
    """One update in place; `count` is a float64 scalar, 1 at the first update."""
    update_moments(gradients, exp_avg, exp_avg_sq, count, options)
    directions = adam_directions(exp_avg, exp_avg_sq, count, options)
    directions = decayed(directions, parameters, options.weight_decay, options.exclude)
    if places := included(parameters, options.exclude):
        weights, moves = [parameters[i] for i in places], [directions[i] for i in places]
        weight_PS, move_PS = norms(weights, lr_S.numel()), norms(moves, lr_S.numel())
        usual_PS = (weight_PS > 0) & (move_PS > 0)
        ratio_PS = torch.where(usual_PS, weight_PS / move_PS, torch.ones_like(weight_PS))
        directions = put(directions, places, scaled_each(moves, ratio_PS))
    torch._foreach_sub_(parameters, scaled(directions, lr_S))
