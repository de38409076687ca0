"""Longer training: as many updates at a large batch as at the reference batch.

Source: Hoffer, Hubara, Soudry 2017 (1705.08741), "Train longer, generalize better", section 5,
"regime adaptation"; as in their code (eladhoffer/bigBatch), the number of epochs and the
epochs of the decays are multiplied by ceil(B / B0). They also scale the rate by sqrt(B / B0),
normalise in ghost batches and clip gradients: `lr = { scaling = "sqrt", ... }`,
`batch_norm = { group = ... }` and `optimizer = { clip_norm = ... }` of the arm.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.schedules.duration import Duration, as_duration
from batchcliff.spec import Decay, Options, TrialSpec

NAME, BUDGET = "longer-training", "budget"
_LENGTHS = ("at", "duration")  # options of other techniques that are durations


@dataclass(frozen=True, kw_only=True, slots=True)
class LongerTraining:
    """Budget, lengths of the decay and warmups times ceil(batch size / reference_batch_size).

    Lengths in "%" follow the budget by themselves, lengths in updates stay: the number of
    updates is what is kept.

    Args:
        reference_batch_size: the batch whose number of updates every larger one gets.
        most: the largest factor; left out: none.
    """

    reference_batch_size: int
    most: int | None = None

    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = BUDGET

    def __post_init__(self) -> None:
        for key, least in (("reference_batch_size", 1), ("most", 2)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UsageError(
                    f"{NAME}.{key}: {value} is not a whole number of at least {least}."
                )

    def factor(self, batch_size: int) -> int:
        """How many times longer a trial of `batch_size` is."""
        factor = math.ceil(Fraction(batch_size, self.reference_batch_size))
        return factor if self.most is None else min(factor, self.most)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The longer trial. NoEffect if the budget counts updates, which do not change."""
        if as_duration(spec.budget).unit == "up":
            raise NoEffect(
                f"{NAME}: changes nothing, a budget of {spec.budget} has as many updates at "
                "every batch size. Leave it out, or write the budget in epochs."
            )
        factor = self.factor(spec.batch_size)
        if factor == 1:
            return spec
        return dataclasses.replace(
            spec,
            budget=_longer(spec.budget, factor),
            decay=_longer_decay(spec.decay, factor),
            techniques=tuple(
                (name, _longer_options(options, factor)) for name, options in spec.techniques
            ),
        )


def _longer(duration: str | int, factor: int) -> str:
    length = as_duration(duration)
    if length.unit in ("ep", "ex"):
        length = Duration(length.value * factor, length.unit)
    return str(length)


def _longer_decay(decay: Decay, factor: int) -> Decay:
    return dataclasses.replace(
        decay,
        at=tuple(_longer(at, factor) for at in decay.at),
        timescale=_longer(decay.timescale, factor) if decay.timescale else "",
        duration=_longer(decay.duration, factor) if decay.duration else "",
    )


def _longer_options(options: Options, factor: int) -> Options:
    def longer(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(_longer(item, factor) for item in value)
        return _longer(value, factor)

    return tuple((key, longer(v) if key in _LENGTHS else v) for key, v in options)
