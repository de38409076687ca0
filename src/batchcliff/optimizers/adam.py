"""Adam and its variants: m and v are running means of the gradient and of its square.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  m' = m / (1 - b1^t);  v' = v / (1 - b2^t)

    adam     w = w - lr m' / (sqrt(v') + eps), decay added to g (Kingma and Ba 2015, 1412.6980)
    adamw    w = (1 - lr wd) w first, no decay in g (Loshchilov and Hutter 2019, 1711.05101)
    gi-adam  adam with v = g^2 before the first update, m = 0: early steps are smaller, by
             sqrt(1 - b2^t) at first (Kalra and Barkeshli 2024, 2406.09405, GI-Adam)
    radam    m' times the rectification r_t where it is defined, else m' alone (Liu et al.
             2020, 1908.03265, algorithm 2), decay added to g

t counts from 1. RAdam begins to adapt at rho_t > 5, as torch.optim.RAdam; the paper's own
threshold is 4, which at b2 = 0.999 lets one more update in. Its eps is added to sqrt(v), as in
torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.optimizers.decay import decayed, included
from batchcliff.optimizers.rule import Rule
from batchcliff.optimizers.stacks import scaled
from batchcliff.spec import Optimizer

RHO = 5.0  # of RAdam: where the variance of the adaptive rate is taken for finite


class AdamRule(Rule):
    """Adam, AdamW, GI-Adam or RAdam, by `options.name`, as a rule.

    State: "exp_avg" (m) and "exp_avg_sq" (v), as the parameters; "count", updates so far.
    """

    def __init__(self, options: Optimizer, parameters: list[Tensor], stack: int) -> None:
        super().__init__(options, parameters, stack)
        self.state["exp_avg"] = [torch.zeros_like(p) for p in parameters]
        self.state["exp_avg_sq"] = [torch.zeros_like(p) for p in parameters]
        # float64, since 1 - b2^t of float32 has 5 digits at t = 1
        count = torch.zeros((), dtype=torch.float64, device=parameters[0].device)
        self.state["count"] = [count]

    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """See `adam_update`."""
        count = state["count"][0]
        count += 1
        adam_update(
            parameters,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            count,
            lr_S,
            self.options,
        )


@torch.no_grad()
def adam_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    count: Tensor,
    lr_S: Tensor,
    options: Optimizer,
) -> None:
    """One update in place; `count` is a float64 scalar, 1 at the first update."""
    if options.name == "adamw":
        places = included(parameters, options.exclude)
        if options.weight_decay and places:
            weights = [parameters[i] for i in places]
            torch._foreach_sub_(weights, scaled(weights, lr_S * options.weight_decay))
    else:
        gradients = decayed(gradients, parameters, options.weight_decay, options.exclude)
    update_moments(gradients, exp_avg, exp_avg_sq, count, options)
    if options.name == "radam":
        directions = rectified_directions(exp_avg, exp_avg_sq, count, options)
    else:
        directions = adam_directions(exp_avg, exp_avg_sq, count, options)
    torch._foreach_sub_(parameters, scaled(directions, lr_S))


@torch.no_grad()
def update_moments(
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    count: Tensor,
    options: Optimizer,
) -> None:
    """m and v in place."""
    first, second = options.betas
    torch._foreach_mul_(exp_avg, first)
    torch._foreach_add_(exp_avg, gradients, alpha=1 - first)
    squares = torch._foreach_mul(gradients, gradients)
    if options.name == "gi-adam":
        # From v = g^2 the first v is b2 g^2 + (1 - b2) g^2; ours is zero before: 1 g^2.
        share = torch.where(count == 1, torch.ones_like(count), 1 - second)
        torch._foreach_mul_(squares, share.to(squares[0].dtype))
    else:
        torch._foreach_mul_(squares, 1 - second)
    torch._foreach_mul_(exp_avg_sq, second)
    torch._foreach_add_(exp_avg_sq, squares)


def adam_directions(
    exp_avg: list[Tensor], exp_avg_sq: list[Tensor], count: Tensor, options: Optimizer
) -> list[Tensor]:
    """m' / (sqrt(v') + eps); new tensors."""
    first, second = options.betas
    kind = exp_avg[0].dtype
    denominators = torch._foreach_sqrt(exp_avg_sq)
    torch._foreach_div_(denominators, (1 - second**count).sqrt().to(kind))
    torch._foreach_add_(denominators, options.eps)
    directions = torch._foreach_div(exp_avg, denominators)
    torch._foreach_div_(directions, (1 - first**count).to(kind))
    return list(directions)


def rectified_directions(
    exp_avg: list[Tensor], exp_avg_sq: list[Tensor], count: Tensor, options: Optimizer
) -> list[Tensor]:
    """r_t m' sqrt(1 - b2^t) / (sqrt(v) + eps) where rho_t > 5, else m'; new tensors."""
    first, second = options.betas
    kind = exp_avg[0].dtype
    most = 2 / (1 - second) - 1
    power = second**count
    rho = most - 2 * count * power / (1 - power)
    square = (rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)
    adapted = (square.clamp(min=0) * (1 - power)).sqrt() / (1 - first**count)
    plain = 1 / (1 - first**count)
    # Both factors of m: one of them is 0, so no branch on a value is needed.
    adapted = torch.where(rho > RHO, adapted, torch.zeros_like(adapted))
    plain = torch.where(rho > RHO, torch.zeros_like(plain), plain)
    factors = torch._foreach_sqrt(exp_avg_sq)
    torch._foreach_add_(factors, options.eps)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, adapted.to(kind))
    torch._foreach_add_(factors, plain.to(kind))
    return list(torch._foreach_mul(factors, exp_avg))
