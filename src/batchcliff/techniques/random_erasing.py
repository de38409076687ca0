"""Random erasing: a rectangle of some training images is filled with noise.

Source: Zhong et al. 2017 (1708.04896), p = 0.5. The rectangle (2% to 40% of the area, height
over width from 0.3 to 1/0.3) and the noise stand in `batchcliff.data.erasing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomErasing:
    """Each image, with `probability`, loses a random rectangle to noise.

    A trial whose images are under 4 pixels a side is infeasible.
    """

    probability: float = 0.5

    seam: ClassVar[str] = "loss"
    part: ClassVar[str] = "random erasing"

    def __post_init__(self) -> None:
        if self.probability == 0:
            raise NoEffect("random-erasing.probability: 0 erases nothing. Write e.g. 0.5.")
        if not 0 < self.probability <= 1:
            raise UsageError(
                f"random-erasing.probability: {self.probability} is not above 0 and at most 1. "
                "Write e.g. 0.5."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with rectangles erased from its training images."""
        return with_settings(spec, random_erasing=float(self.probability))
