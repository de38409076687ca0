"""LARS and LARC: every layer's gradient scaled to the layer's weights, then SGD.

    ratio = trust |w| / (|g| + wd |w| + eps)        denominator "separate", the default
    ratio = trust |w| / (|g + wd w| + eps)          denominator "joint"
    g' = ratio (g + wd w), then an update of SGD (`sgd.py`) with g' and without decay

Source: You, Gitman and Ginsburg 2017 (1708.03888). The separate denominator is the paper's and
that of timm, apex, torchlars and pytorch_optimizer; the joint one is that of TensorFlow's model
garden and of Barlow Twins. They are the same without decay.
LARC, NVIDIA's variant (apex), only ever lowers the rate: its ratio is min(ratio / lr, 1), so a
layer moves at min(lr, ratio).

The ratio is 1 where |w| or |g| is 0, and for what `exclude` names, which has no decay either:
such a tensor takes a step of plain SGD at the whole rate. docs/optimizers.md compares packages.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from batchcliff.optimizers.decay import decayed, included, put
from batchcliff.optimizers.sgd import Sgd, sgd_update
from batchcliff.optimizers.stacks import norms, scaled_each
from batchcliff.spec import Optimizer


class LarsRule(Sgd):
    """LARS, or LARC if `options.name` says so, as a rule; state as of `Sgd`."""

    def __init__(self, options: Optimizer, parameters: list[Tensor], stack: int) -> None:
        super().__init__(options, parameters, stack)
        self.without_decay = dataclasses.replace(options, weight_decay=0.0)

    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """See `adapted` and `sgd_update`."""
        last_S = state["last"][0] if self.options.momentum_correction else None
        gradients = adapted(parameters, gradients, lr_S, self.options)
        sgd_update(parameters, gradients, state["velocity"], lr_S, self.without_decay, last_S)


@torch.no_grad()
def adapted(
    parameters: list[Tensor], gradients: list[Tensor], lr_S: Tensor, options: Optimizer
) -> list[Tensor]:
    """ratio (g + wd w) of each parameter and network; new tensors, but for excluded ones."""
    places = included(parameters, options.exclude)
    if not places:
        return gradients
    weights, own = [parameters[i] for i in places], [gradients[i] for i in places]
    sums = decayed(own, weights, options.weight_decay, "nothing")
    weight_PS, gradient_PS = norms(weights, lr_S.numel()), norms(own, lr_S.numel())
    if options.denominator == "joint":
        below_PS = norms(sums, lr_S.numel())
    else:
        below_PS = gradient_PS + options.weight_decay * weight_PS
    ratio_PS = options.trust * weight_PS / (below_PS + options.eps)
    if options.name == "larc":
        ratio_PS = (ratio_PS / lr_S).clamp(max=1)  # rate 0: infinite, so 1
    usual_PS = (weight_PS > 0) & (gradient_PS > 0)
    ratio_PS = torch.where(usual_PS, ratio_PS, torch.ones_like(ratio_PS))
    return put(gradients, places, scaled_each(sums, ratio_PS))
