"""A torch scheduler that knows its rate from the update count alone.

torch's own warmups multiply the rate that they find in the optimizer, so what they do after
a restart depends on what was loaded first. This one never reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from batchcliff.errors import UsageError
from batchcliff.schedules.compose import Warmup, factors, warmup_table
from batchcliff.schedules.curves import Curve
from batchcliff.schedules.duration import Clock, DurationLike, as_duration

try:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
except ImportError as error:
    raise UsageError(f"torch is not installed: run pip install torch. ({error})") from error

if TYPE_CHECKING:
    from batchcliff.spec import Decay


class WarmupLR(LRScheduler):
    """Warmup, then constant or `decay`; call `step()` after each `optimizer.step()`.

    Update t runs at `base_lr * factor[t]` for every group, exactly; the W-th update is the
    first at the peak. After the end of the run the last factor holds. State may be loaded in
    any order: optimizer before or after, scheduler built before or after. The shape of the
    schedule is not part of `state_dict()`: build it with the same arguments.

    Args:
        optimizer: its groups' `lr` are the peak rates.
        warmup: duration; an integer counts updates. Other units need `clock`. 0: none.
        shape, start, stepping: see `batchcliff.schedules.Warmup`.
        clock: data set and batch size; with a budget (`Clock.with_budget`) if there is
            a `decay`.
        decay: a `batchcliff.spec.Decay` or a curve of (index, count); see
            `batchcliff.schedules.factors`.
        last_epoch: index of the last update that was done; -1: none. (The name is torch's.)

    Raises:
        UsageError: a malformed duration, or one that needs a clock.
        Infeasible: the warmup is longer than the run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: DurationLike,
        *,
        shape: str = "linear",
        start: float | None = None,
        stepping: Literal["update", "epoch"] = "update",
        clock: Clock | None = None,
        decay: Decay | Curve | None = None,
        last_epoch: int = -1,
    ) -> None:
        rise = Warmup(duration=warmup, shape=shape, start=start, stepping=stepping)
        self._factors = _table(rise, clock, decay)
        super().__init__(optimizer, last_epoch)

    def factor(self, update: int) -> float:
        """The factor of the peak rate at `update`; the last one holds for ever."""
        return self._factors[min(max(update, 0), len(self._factors) - 1)]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def get_lr(self) -> list[float | Tensor]:
        """Rates of the groups at the current count; never computed from `group["lr"]`."""
        return self._get_closed_form_lr()

    def state_dict(self) -> dict[str, Any]:
        """The update count and the peak rates, plain values all."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "_step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over count and peak rates, and set the optimizer to the rate that follows."""
        super().load_state_dict(state_dict)
        for group, lr in zip(
            self.optimizer.param_groups, self._get_closed_form_lr(), strict=True
        ):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = self._get_closed_form_lr()


def _table(warmup: Warmup, clock: Clock | None, decay: Decay | Curve | None) -> list[float]:
    if clock is None:
        length = as_duration(warmup.duration)
        if length.unit != "up" or decay is not None:
            what = "a decay" if decay is not None else f"a warmup of '{length}'"
            raise UsageError(
                f"WarmupLR: {what} needs the length of an epoch. Pass clock=Clock("
                "num_examples, batch_size).with_budget('90ep'), or write a warmup in updates."
            )
        clock = Clock(1, 1)
    if clock.total is not None or decay is not None:
        return factors(clock, warmup, decay)  # which needs to know the length of the run
    return [*warmup_table(clock, warmup), 1.0]
