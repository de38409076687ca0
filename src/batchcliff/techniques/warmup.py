"""Learning-rate warmup: the first part of the run at a smaller, rising rate.

Sources: Goyal et al. 2017 (1706.02677, section 2.2: constant and gradual warmup); the
article's staircase is `Warmup(shape="exponential", start=0.01, duration="6ep",
stepping="epoch")`, which is 10**(-2 + 0.4 * epoch) in epochs 0 to 5.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import UsageError
from batchcliff.schedules import compose
from batchcliff.schedules.duration import as_duration
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup(compose.Warmup):
    """The schedule `batchcliff.schedules.compose.Warmup` as a technique of an arm.

    start_lr: the learning rate at which it begins, in place of `start`, which is a factor of
        the peak: Goyal et al. begin at the rate of the small batch whatever the large one's.
        Where the peak is no higher, there is nothing to warm up and the trial is unchanged.
    """

    start_lr: float | None = None
    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = "warmup"

    def __post_init__(self) -> None:
        compose.Warmup.__post_init__(self)
        if self.start_lr is None:
            return
        if self.start is not None:
            raise UsageError("warmup: start and start_lr say the same: write one of them.")
        if not (math.isfinite(self.start_lr) and self.start_lr >= 0):
            raise UsageError(
                f"warmup.start_lr: {self.start_lr!r} is no learning rate. Write e.g. 0.1."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this warmup; the trial as it was where every factor would be 1."""
        if self.start_lr is not None and self.start_lr < spec.lr:
            start = self.start_lr / spec.lr
            return dataclasses.replace(self, start=start, start_lr=None).applied(spec)
        none = self.start == 1 or as_duration(self.duration).value == 0
        if none or self.start_lr is not None:
            return spec
        return kept(spec, "warmup", self)
