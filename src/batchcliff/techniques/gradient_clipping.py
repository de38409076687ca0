"""Gradient clipping: no gradient longer than `max_norm`, over all parameters together.

    g = g min(1, max_norm / |g|)

Source: Pascanu, Mikolov and Bengio 2013 (1211.5063, algorithm 1); Hoffer et al. 2017's program
(1705.08741) clips at 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientClipping:
    """Clipping by global norm, before weight decay, trust ratio and momentum.

    Args:
        max_norm: longest gradient; 0 turns the study's clipping off.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = "clipping"

    max_norm: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_norm) and self.max_norm >= 0):
            raise UsageError(
                f"gradient-clipping.max_norm: {self.max_norm!r} is not a number >= 0."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with clipping. NoEffect for 0 where there is none anyway."""
        if self.max_norm == spec.settings.optimizer.clip_norm == 0:
            raise NoEffect("gradient-clipping: 0, and the study does not clip. Write e.g. 1.0.")
        return with_settings(spec, optimizer={"clip_norm": self.max_norm})
