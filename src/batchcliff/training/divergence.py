"""When a trial has diverged, from what it logged: the first update that is bad, and why.

Source: RELIABILITY.md, F15, F16 and F18. A loss that is not finite is always a divergence. A
loss that is finite and has exploded is one where the study declares what that is
(`settings.explosion`, part of a trial's id); an accuracy at chance never is, but the
statistics' to judge. A scale of float16 losses (loss_scaling.py) that has collapsed leaves
gradients that round to nothing, whatever the loss says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchcliff.spec import Explosion
from batchcliff.training.loss_scaling import BACKOFF, GROWTH, GROWTH_INTERVAL, INITIAL

COLLAPSED_SCALE = 1e-4
COLLAPSED_UPDATES = 10

# U updates


class Divergence(NamedTuple):
    """The first bad update, and what is bad in words."""

    update: int
    reason: str


def divergence(
    losses_U: Tensor, bad: int | None, explosion: Explosion, logs: dict[str, Tensor]
) -> Divergence | None:
    """The earliest sign of divergence; None if there is none.

    losses_U: training losses. bad: first update whose loss is not finite; their number where
    that is the test loss after the last one. logs: [U] by name.
    """
    updates = len(losses_U)
    found = []
    if bad is not None:
        what = "training loss" if bad < updates else "test loss after the last update"
        found.append(Divergence(bad, f"{what} not finite at update {bad} of {updates}"))
    at = exploded(losses_U, explosion)
    if at is not None:
        more = f"more than {explosion.factor:g} times the first one, {float(losses_U[0]):.4g}"
        what = f"exploded: training loss {more}, for {explosion.updates} updates"
        found.append(Divergence(at, f"{what} from update {at} of {updates} on"))
    at = collapsed(logs["skipped"]) if "skipped" in logs else None
    if at is not None:
        what = f"scale: the loss' below {COLLAPSED_SCALE:g}, for {COLLAPSED_UPDATES} updates"
        found.append(Divergence(at, f"{what} from update {at} of {updates} on"))
    return min(found, key=lambda sign: sign.update, default=None)


def over(losses_US: Tensor, rule: Explosion) -> bool:
    """Whether these first losses decide that every network of the stack has diverged: then
    nothing that comes after them can change a record."""
    decided = ~torch.isfinite(losses_US).all(0)
    return all(
        bad or exploded(losses_U, rule) is not None
        for bad, losses_U in zip(decided.tolist(), losses_US.unbind(1), strict=True)
    )


def exploded(losses_U: Tensor, rule: Explosion) -> int | None:
    """The first update of those in a row whose losses are as large as `rule` says, if any."""
    if not rule.factor or not len(losses_U):
        return None
    wide_U = losses_U.double()
    return _first_run(wide_U > rule.factor * wide_U[0], rule.updates)


def collapsed(skipped_U: Tensor) -> int | None:
    """The first update of those in a row that had a scale which is no use any more, if any."""
    return _first_run(scales(skipped_U) < COLLAPSED_SCALE, COLLAPSED_UPDATES)


def scales(skipped_U: Tensor) -> Tensor:
    """The scale of each update's loss, float32 [U]; skipped_U: which of them were skipped."""
    scale, since = torch.tensor(INITIAL), 0
    found = torch.empty(len(skipped_U))
    for update, skipped in enumerate(skipped_U.bool().tolist()):
        found[update] = scale
        since = 0 if skipped else since + 1
        if skipped:
            scale = scale * BACKOFF
        elif since == GROWTH_INTERVAL:
            since, grown = 0, scale * GROWTH
            scale = grown if torch.isfinite(grown) else scale
    return found


def _first_run(true_U: Tensor, count: int) -> int | None:
    """Where the first `count` in a row begin."""
    if len(true_U) < count:
        return None
    whole = true_U.unfold(0, count, 1).all(1).nonzero()
    return int(whole[0]) if len(whole) else None
