"""Weight decay, and which parameters have none.

`exclude` is "nothing", "norms-and-biases" (every tensor of one dimension or none: scales and
shifts of normalisation, biases), or "everything", which only the public classes take, for a
parameter group of its own. Source of the rule: Goyal et al. 2017 (1706.02677: no decay
on batch norm's scale and shift); LARS and LAMB programs exclude the same tensors from
their trust ratios too (docs/optimizers.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchcliff.errors import UsageError, did_you_mean

EXCLUDE = ("everything", "norms-and-biases", "nothing")


def included(parameters: list[Tensor], exclude: str) -> list[int]:
    """Positions of the parameters that `exclude` leaves in. UsageError for an unknown rule."""
    if exclude not in EXCLUDE:
        raise UsageError(f"exclude: unknown {exclude!r}.{did_you_mean(exclude, EXCLUDE)}")
    if exclude == "everything":
        return []
    least = 2 if exclude == "norms-and-biases" else 0
    return [i for i, p in enumerate(parameters) if p.dim() >= least]


def decayed(
    gradients: list[Tensor], parameters: list[Tensor], weight_decay: float, exclude: str
) -> list[Tensor]:
    """The gradients plus `weight_decay` times those parameters that are not excluded.

    Decay as an L2 penalty of weight_decay/2 |w|^2. New tensors, but for excluded ones.
    """
    if not weight_decay:
        return gradients
    places = included(parameters, exclude)
    if not places:
        return gradients
    added = torch._foreach_add(
        [gradients[i] for i in places], [parameters[i] for i in places], alpha=weight_decay
    )
    return put(gradients, places, list(added))


def put(tensors: list[Tensor], places: list[int], new: list[Tensor]) -> list[Tensor]:
    """A copy of the list with new[k] at places[k]."""
    result = list(tensors)
    for place, tensor in zip(places, new, strict=True):
        result[place] = tensor
    return result
