"""Warmup and decay put together: the factor of the peak rate at every update of a run.

The whole table is computed before the run starts, so it can be printed, compared and
recorded, and a resumed run reads the same numbers from the update index alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from batchcliff.errors import Infeasible, UsageError, did_you_mean
from batchcliff.schedules.curves import (
    check_warmup,
    cosine_decay,
    multistep_decay,
    polynomial_decay,
    warmup_factors,
)
from batchcliff.schedules.duration import Clock, DurationLike, as_duration

if TYPE_CHECKING:
    from batchcliff.spec import Decay

KINDS = ("constant", "multistep", "polynomial", "cosine")
"""Kinds of `batchcliff.spec.Decay`."""

Curve: TypeAlias = Callable[[int, int], float]
"""A decay over (index, count); e.g. `curves.cosine_decay`. Its index 0 follows the warmup."""


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


def boundaries(clock: Clock, at: tuple[str, ...]) -> list[int]:
    """Updates from which each decay of `at` holds, sorted.

    Raises:
        UsageError: a malformed duration.
        Infeasible: a decay after the end of the run, which would be left out in silence.
    """
    total = _total(clock)
    updates = {text: clock.updates(text) for text in at}
    for text, update in updates.items():
        if update > total:
            raise Infeasible(
                f"decay at {text!r} is update {update} at batch size {clock.batch_size}, after "
                f"the end of the run ({total} updates). Write a share of it, such as '60%'."
            )
    return sorted(updates[text] for text in at)


def factors(
    clock: Clock, warmup: Warmup | None = None, decay: Decay | Curve | None = None
) -> list[float]:
    """The factor of the peak rate at updates 0 .. clock.total - 1.

    `decay` is a `batchcliff.spec.Decay` ("constant"; "multistep": times `factor` from the
    update `clock.updates(at)` on, for each of `at`, counted from the start of the run;
    "polynomial", "cosine"), or any curve of (index, count). A curve begins where the warmup
    ends and lasts for the rest.

    Raises:
        UsageError: `clock.total` is not set, an unknown kind of decay, a malformed duration.
        Infeasible: the warmup is longer than the run, or a decay lies after its end.
    """
    total = _total(clock)
    table = warmup_table(clock, warmup) if warmup is not None else []
    if warmup is not None and len(table) > total:
        raise Infeasible(
            f"warmup of '{as_duration(warmup.duration)}' is {len(table)} updates at batch size "
            f"{clock.batch_size}, longer than the run ({total} updates). Write a share of the "
            "run, such as '5%', or a longer budget."
        )
    rest = total - len(table)
    table += [1.0] * rest
    if decay is None:
        return table
    curve = decay if callable(decay) else curve_of(decay)
    if curve is not None:
        begin = total - rest
        table[begin:] = [curve(index, rest) for index in range(rest)]
        return table
    assert not callable(decay)
    return _decayed(table, clock, decay)


def curve_of(decay: Decay) -> Curve | None:
    """The curve of a decay that begins where the warmup ends; None for the other kinds."""
    if decay.kind == "polynomial":
        return functools.partial(polynomial_decay, power=decay.power, end=decay.floor)
    if decay.kind == "cosine":
        return functools.partial(cosine_decay, end=decay.floor)
    return None


def _decayed(table: list[float], clock: Clock, decay: Decay) -> list[float]:
    if decay.kind == "constant":
        if decay.at:
            raise UsageError(
                f"decay at {list(decay.at)} with kind 'constant': write 'multistep'."
            )
        return table
    if decay.kind not in KINDS:
        hint = did_you_mean(decay.kind, KINDS)
        raise UsageError(f"unknown kind of decay {decay.kind!r}.{hint}")
    starts = boundaries(clock, decay.at)
    for start, end in pairwise([*starts, len(table)]):
        level = multistep_decay(start, starts, decay.factor)
        table[start:end] = [factor * level for factor in table[start:end]]
    return table


def _total(clock: Clock) -> int:
    if clock.total is None:
        raise UsageError("the length of the run is not known: set it with Clock.with_budget.")
    return clock.total
