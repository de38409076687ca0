"""Batch sizes that change during a run, and how one batch is cut into micro-batches.

Progress is counted in examples, not updates: when the batch grows, an update covers more of
the run, and a schedule counted in updates would stretch. A new size holds from the first
update that starts at or after its milestone; a batch that has begun is never cut.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.curves import exact
from batchcliff.schedules.duration import Duration, DurationLike, as_duration


def _whole(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{name} = {size!r}: a positive whole number is needed.")


def split(batch_size: int, max_micro_batch: int, devices: int = 1) -> tuple[int, int]:
    """(micro batch, accumulation) with micro batch x accumulation x devices = batch size.

    The micro batch, what one device holds at once, is the largest that fits in
    `max_micro_batch`. Only exact divisors: a smaller last micro-batch would weigh its
    examples more. A prime batch size may leave a micro batch of 1.

    Raises:
        UsageError: a number that is no positive whole one.
        Infeasible: the batch cannot be shared equally among the devices.
    """
    _whole(batch_size=batch_size, max_micro_batch=max_micro_batch, devices=devices)
    share, rest = divmod(batch_size, devices)
    if rest:
        raise Infeasible(
            f"batch size {batch_size} is not divisible by {devices} devices; {share * devices} "
            f"and {(share + 1) * devices} are."
        )
    accumulation = next(
        count for count in _divisors(share) if share // count <= max_micro_batch
    )
    return share // accumulation, accumulation


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def in_examples(duration: DurationLike) -> Duration:
    """`duration`, if it has a length in examples while the batch size changes.

    Raises:
        UsageError: a length in updates, or a malformed one.
    """
    length = as_duration(duration)
    if length.unit == "up":
        raise UsageError(
            f"'{length}' with a batch size that changes: updates have no fixed size. Write "
            "epochs ('5ep') or examples ('64000ex')."
        )
    return length


def share_of_run(duration: DurationLike, budget: DurationLike) -> Fraction | None:
    """`duration` as a share of `budget`; None where data and batch size would tell."""
    length, run = as_duration(duration), as_duration(budget)
    if length.unit == "%":
        return length.value / 100
    return length.value / run.value if length.unit == run.unit else None


def examples(duration: DurationLike, num_examples: int, total: int | None = None) -> int:
    """Fewest examples that are at least `duration`; `total` is the run's length in examples.

    Raises:
        UsageError: a length in updates, whose size changes, or "%" without `total`.
    """
    length = in_examples(duration)
    if length.unit == "ep":
        return math.ceil(length.value * num_examples)
    if length.unit == "ex":
        return math.ceil(length.value)
    if total is None:
        raise UsageError(f"'{length}' is a share of the run, whose length is not known here.")
    return math.ceil(length.value * total / 100)


@dataclass(frozen=True, slots=True)
class Stage:
    """From `start` examples on: this batch size, and this factor of the peak rate."""

    start: int
    batch_size: int
    lr_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Batch size as a pure function of progress. Raises UsageError for unordered stages."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages or self.stages[0].start != 0:
            raise UsageError("batch sizes: the first stage must start at 0 examples.")
        for stage in self.stages:
            _whole(batch_size=stage.batch_size)
        if any(b.start <= a.start for a, b in pairwise(self.stages)):
            raise UsageError(
                f"batch sizes: stages start at {[s.start for s in self.stages]} examples; each "
                "must start after the one before."
            )

    def stage_at(self, examples_seen: int) -> Stage:
        """The stage of an update that starts after `examples_seen` examples."""
        starts = [stage.start for stage in self.stages]
        return self.stages[bisect_right(starts, examples_seen) - 1]

    def runs(self) -> Iterator[tuple[int, int, int | None, Stage]]:
        """(first update, examples before it, updates or None for the last, stage) of each.

        A stage that an update of the one before overshoots entirely has no run.
        """
        update, seen = 0, 0
        for stage, after in pairwise(self.stages):
            count = max(0, -(-(after.start - seen) // stage.batch_size))
            if count:
                yield update, seen, count, stage
            update, seen = update + count, seen + count * stage.batch_size
        yield update, seen, None, self.stages[-1]

    def locate(self, update: int) -> tuple[int, Stage]:
        """(examples seen before `update`, its stage), from the index alone, as for resuming."""
        for first, seen, count, stage in self.runs():
            if count is None or update < first + count:
                return seen + (update - first) * stage.batch_size, stage
        raise AssertionError("the last run has no end")

    def updates(self, total: int) -> int:
        """Fewest updates that show at least `total` examples."""
        for first, seen, count, stage in self.runs():
            needed = max(0, -(-(total - seen) // stage.batch_size))
            if count is None or needed <= count:
                return first + needed
        raise AssertionError("the last run has no end")


def batch_sizes(sizes: Sequence[tuple[DurationLike, int]], num_examples: int) -> BatchSizes:
    """Batch sizes from (milestone, batch size) pairs, e.g. `[("0ep", 128), ("30ep", 640)]`.

    Raises UsageError as `examples` and `BatchSizes`.
    """
    return BatchSizes(tuple(Stage(examples(when, num_examples), size) for when, size in sizes))


def grow_instead_of_decay(
    batch_size: int,
    milestones: Sequence[DurationLike],
    factor: float | Fraction,
    num_examples: int,
    max_batch_size: int | None = None,
    total: int | None = None,
) -> BatchSizes:
    """Where a schedule would multiply the rate by `factor`, divide the batch size by it.

    Keeps the noise scale of the decayed run (Smith et al. 2017, arXiv:1711.00489). A growth
    past `max_batch_size` (they advise N/10) becomes a decay of the rate from there on, so
    every stage has lr_factor / batch_size of the decayed run. Milestones in "%"
    refer to `total` examples.

    Raises:
        UsageError: 1/factor is not a whole number of at least 2.
    """
    _whole(batch_size=batch_size)
    share = factor if isinstance(factor, Fraction) else exact(factor)
    inverse = 1 / share if share > 0 else Fraction(0)
    if inverse.denominator != 1 or inverse < 2:
        raise UsageError(
            f"factor = {factor!r}: batch sizes grow by whole factors. Write 1/2, 1/5, 1/10, "
            "... as a decimal, such as 0.2."
        )
    stages, size, lr_factor = [Stage(0, batch_size)], batch_size, Fraction(1)
    growing = True
    for milestone in milestones:
        grown = size * int(inverse)
        growing = growing and (max_batch_size is None or grown <= max_batch_size)
        if growing:
            size = grown
        else:
            lr_factor /= inverse
        start = examples(milestone, num_examples, total)
        stages.append(Stage(start, size, float(lr_factor)))
    return BatchSizes(tuple(stages))


def batch_warmup(
    start: int,
    peak: int,
    increment: int,
    duration: DurationLike,
    num_examples: int,
    total: int | None = None,
) -> BatchSizes:
    """From `start` to `peak` by `increment`, in equal shares of `duration`.

    As Megatron-LM's `--rampup-batch-size start increment samples`: each of the
    (peak - start)/increment sizes below the peak lasts for an equal number of examples. A
    duration in "%" refers to `total` examples.

    Raises:
        UsageError: `increment` does not divide `peak - start`, or a step would be shorter
            than one example.
    """
    _whole(start=start, peak=peak, increment=increment)
    count, rest = divmod(peak - start, increment)
    if rest or count < 1:
        raise UsageError(
            f"batch warmup from {start} to {peak} by {increment}: the way up must be a whole "
            "number of increments, and at least one."
        )
    length = examples(duration, num_examples, total)
    starts = [-(-length * step // count) for step in range(count + 1)]
    sizes = range(start, peak + 1, increment)
    return BatchSizes(tuple(map(Stage, starts, sizes)))
