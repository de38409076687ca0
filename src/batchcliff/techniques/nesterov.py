"""Nesterov's momentum: the step looks one update ahead.

    torch form:  w = w - lr (g + m v)        keras form:  w = w + m v - lr g

with v already updated by g. Source: Sutskever et al. 2013, as frameworks write it; Goyal et
al. 2017 (1706.02677) train with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings
from batchcliff.techniques.update_rules import USES


@dataclass(frozen=True, kw_only=True, slots=True)
class Nesterov:
    """Nesterov's momentum for SGD, LARS and LARC.

    Args:
        momentum: m; None keeps the trial's.

    No effect without momentum.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = "momentum"

    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.momentum is not None and not 0 < self.momentum < 1:
            raise UsageError(
                f"nesterov.momentum: {self.momentum!r} is not between 0 and 1. Write e.g. 0.9."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with it. NoEffect if its rule has no momentum, or one of 0."""
        optimizer = spec.settings.optimizer
        if "nesterov" not in USES[optimizer.name]:
            raise NoEffect(f"nesterov: {optimizer.name} has no momentum of this kind.")
        momentum = optimizer.momentum if self.momentum is None else self.momentum
        if momentum == 0:
            raise NoEffect(
                "nesterov: without momentum it changes nothing. Write momentum = 0.9."
            )
        return with_settings(spec, optimizer={"nesterov": True, "momentum": momentum})
