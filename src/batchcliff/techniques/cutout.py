"""Cutout: a square of every training image is set to 0.

Source: DeVries and Taylor 2017 (1708.04552); the authors' program for CIFAR-10 with crop and
flip cuts 16 pixels out. What is cut stands in `batchcliff.data.erasing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutout:
    """A square of `size` pixels a side, its centre anywhere in the image, is black.

    A trial whose images are smaller than the square is infeasible.
    """

    size: int = 16

    seam: ClassVar[str] = "loss"
    part: ClassVar[str] = "cutout"

    def __post_init__(self) -> None:
        if self.size == 0:
            raise NoEffect("cutout.size: 0 cuts nothing out. Write e.g. 16.")
        if self.size < 0:
            raise UsageError(
                f"cutout.size: {self.size} is not a number of pixels above 0. Write e.g. 16."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with squares cut out of its training images."""
        return with_settings(spec, cutout=self.size)
