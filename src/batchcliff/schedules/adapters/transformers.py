"""For Hugging Face's Trainer: pass the result as `optimizers=(optimizer, scheduler)`.

The Trainer takes any torch scheduler, so this module needs torch and not transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchcliff.schedules.curves import Curve, constant_decay, cosine_decay, linear_decay
from batchcliff.schedules.duration import Clock

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from batchcliff.schedules.adapters.torch import WarmupLR


def _schedule(
    optimizer: Optimizer, warmup: int, total: int, decay: Curve, last_epoch: int
) -> WarmupLR:
    from batchcliff.schedules.adapters.torch import WarmupLR

    # One example per update: an epoch is the run, and its length is given in updates.
    clock = Clock(total, 1).with_budget(f"{total}up")
    return WarmupLR(optimizer, warmup, clock=clock, decay=decay, last_epoch=last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> WarmupLR:
    """As transformers' function of this name, but no update runs at rate 0.

    Update W - 1 is at the peak and the decay to 0 would end at update T, so the first and
    the last update both count. Raises as `WarmupLR`.
    """
    return _schedule(optimizer, num_warmup_steps, num_training_steps, linear_decay, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> WarmupLR:
    """As transformers' function of this name (half a period), but no update runs at rate 0."""
    return _schedule(optimizer, num_warmup_steps, num_training_steps, cosine_decay, last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> WarmupLR:
    """As transformers' function of this name, but no update runs at rate 0."""
    return _schedule(
        optimizer, num_warmup_steps, num_training_steps, constant_decay, last_epoch
    )
