"""Ghost batch norm: statistics of small groups of examples, however large the batch.

Source: Hoffer, Hubara and Soudry 2017 (1705.08741, section 4 and algorithm 1): large batches
lose accuracy partly because their batch-norm statistics have less noise, so each group of
`group` examples, of the size that the small batch had, is normalised by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class GhostBatchNorm:
    """`group`: examples that share statistics; one running average is fed by all groups.

    In a network of the user's own every `nn.BatchNorm2d` becomes a `GhostBatchNorm2d`.
    """

    group: int
    seam: ClassVar[str] = "model"
    part: ClassVar[str] = "batch norm's groups"

    def __post_init__(self) -> None:
        if self.group < 2:
            raise UsageError(
                f"ghost-batch-norm.group: {self.group} examples have no variance. Write e.g. "
                "32."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with groups of `group` examples."""
        return with_settings(spec, batch_norm={"group": self.group, "running": "mean"})
