"""Re-estimated batch norm: a trial is judged with statistics of its final weights.

Source: "precise batch norm", Wu and Johnson 2021 (2105.07576, section 3). Training does not
change: the arm has the weights that the same arm without it has, and only which accuracy
counts differs. Every record holds both accuracies anyway; as an arm, the re-estimated one has
its own cliff and its own place in the plot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ReestimatedBatchNorm:
    """`accuracy` and test loss after the run are those with statistics re-estimated.

    They are means over the training batches that would have come next, 10,000 examples or
    an epoch, instead of the running averages of the run.
    """

    seam: ClassVar[str] = "model"
    part: ClassVar[str] = "batch-norm statistics at evaluation"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial judged by re-estimated statistics."""
        return with_settings(spec, evaluation="reestimated")
