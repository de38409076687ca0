"""Batch warmup: the first part of the run with smaller batches.

Sources: the ramp is that of Megatron-LM (`--rampup-batch-size start increment samples`); Mikami
et al. 2018 (1811.05233) train their first epochs, the warmup, with a smaller total batch.
Why: the largest useful batch is small at first and grows with training (McCandlish et al.
2018, 1812.06162), so small batches at the start cost little time and give many more updates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.batch_size import BatchSizes, batch_warmup, in_examples
from batchcliff.schedules.duration import Duration, as_duration
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import kept

NAME = "batch-warmup"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchWarmup:
    """From batch size B/start to B in `steps` equal increments over `duration`.

    The trial's `batch_size` is B, the one that all of the run after the warmup has.

    Args:
        duration: length of the whole way up, in epochs, examples or percent of the run.
        start: the first batch is B/start; B must be divisible by it.
        steps: how many smaller batch sizes there are, each for an equal share of `duration`:
            1 is B/start, then B. Each has a compiled update of its own.
        scale_lr: the rate in proportion to the batch, so that lr/B is that of the full one;
            false: the same rate at every batch size.
    """

    duration: Duration | str | int
    start: int = 8
    steps: int = 1
    scale_lr: bool = True

    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = "batch size"

    def __post_init__(self) -> None:
        try:
            length = in_examples(self.duration)
        except UsageError as error:
            raise UsageError(f"{NAME}.duration: {error}") from error
        object.__setattr__(self, "duration", str(length))
        if length.value == 0:
            raise UsageError(
                f"{NAME}.duration: {length} is no length. Write e.g. '5ep', or leave it out."
            )
        for key, least in (("start", 2), ("steps", 1)):
            if getattr(self, key) < least:
                raise UsageError(
                    f"{NAME}.{key}: {getattr(self, key)} is not a whole number of at least "
                    f"{least}."
                )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this warmup of its batch."""
        try:
            in_examples(spec.budget)
        except UsageError as error:
            raise UsageError(f"{NAME}: the budget is {error}") from error
        return kept(spec, NAME, self)

    def sizes(self, batch_size: int, num_examples: int, total: int) -> BatchSizes:
        """The batch sizes of a run of `total` examples that ends with `batch_size`.

        Raises:
            Infeasible: `start` does not divide the batch size, or `steps` not the way up.
        """
        first, rest = divmod(batch_size, self.start)
        if rest:
            raise Infeasible(
                f"{NAME}.start: batch size {batch_size} is not divisible by {self.start}. "
                f"Write a divisor, or a batch size such as {max(first, 1) * self.start}."
            )
        increment, rest = divmod(batch_size - first, self.steps)
        if rest:
            raise Infeasible(
                f"{NAME}.steps: the way from {first} to {batch_size} is not divisible by "
                f"{self.steps}. Write e.g. steps = {self.start - 1}."
            )
        ramp = batch_warmup(
            first, batch_size, increment, as_duration(self.duration), num_examples, total
        )
        if not self.scale_lr:
            return ramp
        return BatchSizes(
            tuple(
                dataclasses.replace(stage, lr_factor=stage.batch_size / batch_size)
                for stage in ramp.stages
            )
        )
