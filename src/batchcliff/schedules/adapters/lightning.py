"""For Lightning's `configure_optimizers`; needs torch, and Lightning only to be of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def optimizer_config(optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, Any]:
    """What `configure_optimizers` returns so that `scheduler` steps once per update.

    Lightning steps once per *epoch* unless told so, and counts optimizer updates, not
    batches, under gradient accumulation with `interval="step"`.
    """
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
    }
