"""Warmup and decay put together: the factor of the peak rate at every update of a run.

The whole table is computed before the run starts, so it can be printed, compared and
recorded, and a resumed run reads the same numbers from the update index alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.curves import Curve, check_warmup, warmup_factors
from batchcliff.schedules.decays import after_warmup, decay_levels, length_of_run
from batchcliff.schedules.duration import Clock, DurationLike, as_duration
from batchcliff.spec import Decay


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup:
    """How the rate rises to its peak.

    Args:
        duration: how long; `"5ep"`, `"200up"`, `"5%"`, ... ; 0 is no warmup.
        shape: "linear", "exponential", "cosine" or "constant"; see `curves.warmup_factor`.
        start: factor of the peak at the first update (or epoch); None: 1/count.
        stepping: "update": a new factor at every update; "epoch": one factor an epoch, as
            Keras' `LearningRateScheduler`, with the epochs of `duration` as the count.
    """

    duration: DurationLike
    shape: str = "linear"
    start: float | None = None
    stepping: Literal["update", "epoch"] = "update"

    def __post_init__(self) -> None:
        check_warmup(1, self.shape, self.start)
        length = as_duration(self.duration)
        if self.stepping not in ("update", "epoch"):
            raise UsageError(f"stepping = {self.stepping!r}: write 'update' or 'epoch'.")
        if self.stepping == "epoch" and (length.unit != "ep" or length.value.denominator != 1):
            raise UsageError(
                f"warmup of '{length}' with stepping = 'epoch': a staircase of epochs needs a "
                "whole number of them. Write '5ep', or stepping = 'update'."
            )


def warmup_table(clock: Clock, warmup: Warmup) -> list[float]:
    """Factors of the updates of the warmup; every later one is at 1.

    Raises:
        UsageError: a duration in "%" while `clock.total` is not set.
    """
    updates = clock.updates(warmup.duration)
    if warmup.stepping == "update":
        return warmup_factors(updates, warmup.shape, warmup.start)
    epochs = int(as_duration(warmup.duration).value)
    stages = warmup_factors(epochs, warmup.shape, warmup.start)
    table: list[float] = []
    for epoch, factor in enumerate(stages):
        table += [factor] * (clock.epoch_end(epoch) - len(table))
    return table


def factors(
    clock: Clock, warmup: Warmup | None = None, decay: Decay | Curve | None = None
) -> list[float]:
    """The factor of the peak rate at updates 0 .. clock.total - 1.

    `decay` is a `batchcliff.spec.Decay`, of any kind of `decays.DECAYS`, or any curve of
    (index, count), which begins where the warmup ends and lasts for the rest.

    Raises:
        UsageError: `clock.total` is not set, or what `decays.decay_levels` refuses.
        Infeasible: the warmup is longer than the run, or a decay lies after its end.
    """
    total = length_of_run(clock)
    table = warmup_table(clock, warmup) if warmup is not None else []
    if warmup is not None and len(table) > total:
        raise Infeasible(
            f"warmup of '{as_duration(warmup.duration)}' is {len(table)} updates at batch size "
            f"{clock.batch_size}, longer than the run ({total} updates). Write a share of the "
            "run, such as '5%', or a longer budget."
        )
    risen = len(table)
    table += [1.0] * (total - risen)
    if decay is None:
        return table
    if isinstance(decay, Decay):
        levels = decay_levels(decay, clock, risen)
    else:
        levels = after_warmup(decay, clock, risen)
    return [factor * level for factor, level in zip(table, levels, strict=True)]
