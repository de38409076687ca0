"""Learning-rate warmup: the first part of the run at a smaller, rising rate.

Sources: Goyal et al. 2017 (1706.02677, section 2.2: constant and gradual warmup); the
article's staircase is `Warmup(shape="exponential", start=0.01, duration="6ep",
stepping="epoch")`, which is 10**(-2 + 0.4 * epoch) in epochs 0 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.schedules import compose
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup(compose.Warmup):
    """The schedule `batchcliff.schedules.compose.Warmup` as a technique of an arm."""

    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = "warmup"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this warmup."""
        return kept(spec, "warmup", self)
