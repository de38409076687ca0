"""Label smoothing: a share of every target is spread evenly over all classes.

Source: Szegedy et al. 2015 (1512.00567, section 7, "label-smoothing regularization"):
q'(k) = (1 - e) [k is the label] + e / K, with e = 0.1. Which formula each loss makes of it
stands in `batchcliff.training.losses`. The test loss stays the plain cross entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSmoothing:
    """Targets smoothed by `smoothing`, the share e of all classes: above 0 and below 1."""

    smoothing: float = 0.1

    seam: ClassVar[str] = "loss"
    part: ClassVar[str] = "targets"

    def __post_init__(self) -> None:
        if self.smoothing == 0:
            raise NoEffect("label-smoothing.smoothing: 0 smooths nothing. Write e.g. 0.1.")
        if not 0 < self.smoothing < 1:
            raise UsageError(
                f"label-smoothing.smoothing: {self.smoothing} is not a share above 0 and "
                "below 1. Write e.g. 0.1."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with smoothed targets."""
        return with_settings(spec, label_smoothing=float(self.smoothing))
