"""Mixup: images and labels are weighted means of two examples.

Source: Zhang et al. 2017 (1710.09412, section 2), s ~ Beta(alpha, alpha); the authors' program
for CIFAR-10 has alpha = 1. Which pairs are mixed and how the shares are drawn stands in
`batchcliff.data.mixup`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup:
    """Each example mixed with the next of its batch, in a share of Beta(alpha, alpha).

    alpha: above 0; 1 is uniform, less leaves most images nearly alone, more halves them.
    """

    alpha: float = 1.0

    seam: ClassVar[str] = "loss"
    part: ClassVar[str] = "mixing"

    def __post_init__(self) -> None:
        if self.alpha == 0:
            raise NoEffect("mixup.alpha: 0 mixes nothing. Write e.g. 1.0.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(
                f"mixup.alpha: {self.alpha} is not a finite number above 0. Write e.g. 1.0."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with mixed examples."""
        return with_settings(spec, mixup=float(self.alpha))
