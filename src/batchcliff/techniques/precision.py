"""Precision: the number format of convolutions and matrix products.

Weights, batch-norm statistics, the loss and the update are float32 in every format; what each
one does stands in `batchcliff.training.precision`, loss scaling in
`batchcliff.training.loss_scaling` (Micikevicius et al. 2018, 1710.03740).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import PRECISIONS, TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """`format`: "fp32", "tf32", "bf16", "fp16" (scaled loss) or "fp16-unscaled"."""

    format: str

    seam: ClassVar[str] = "model"
    part: ClassVar[str] = "number format"

    def __post_init__(self) -> None:
        if self.format not in PRECISIONS:
            raise UsageError(
                f"precision.format: unknown {self.format!r}."
                f"{did_you_mean(self.format, PRECISIONS)}"
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial in this number format."""
        return with_settings(spec, precision=self.format)
