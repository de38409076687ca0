"""A batch that grows where the rate would have decayed, as a schedule to show."""

from __future__ import annotations

from fractions import Fraction

from batchcliff.errors import UsageError
from batchcliff.schedule_view.grammar import Growth
from batchcliff.schedule_view.view import Progress, Schedule, progress_of
from batchcliff.schedules.batch_size import BatchSizes, examples, grow_instead_of_decay
from batchcliff.schedules.compose import Warmup, warmup_table
from batchcliff.schedules.duration import Clock, DurationLike, as_duration


def growing(
    peak: float,
    clock: Clock,
    progress: Progress,
    rise: Warmup | None,
    budget: DurationLike,
    growth: Growth,
) -> Schedule:
    """Warmup, then the batch divided by `factor` at each of `at` (see `grow_instead_of_decay`).

    clock, progress: of the first batch size. Raises UsageError: no length of an epoch in
    examples, a length in updates, a growth that does not divide, or a warmup that is still
    going on when the batch grows.
    """
    if progress.examples(0) is None or progress.epochs(0) is None:
        raise UsageError(
            "--decay growth counts in examples: --num-examples 50000 --batch-size 128."
        )
    if rise is not None and as_duration(rise.duration).unit == "%":
        raise UsageError(
            f"--warmup {rise.duration} with --decay growth: the number of updates depends on "
            "the growth. Write epochs ('5ep') or examples ('64000ex')."
        )
    total = examples(budget, clock.num_examples)
    sizes = grow_instead_of_decay(
        clock.batch_size,
        growth.at,
        growth.factor,
        clock.num_examples,
        growth.max_batch_size,
        total,
    )
    table = warmup_table(clock, rise) if rise is not None else []
    lr = _rates(peak, table, sizes, sizes.updates(total))
    return Schedule(
        name="lr",
        lr=tuple(lr),
        peak=peak,
        warmup_updates=len(table),
        progress=progress_of(
            (first, stage.batch_size, Fraction(clock.num_examples, stage.batch_size))
            for first, _, _, stage in sizes.runs()
        ),
    )


def _rates(peak: float, table: list[float], sizes: BatchSizes, count: int) -> list[float]:
    _, _, first, _ = next(sizes.runs())
    if len(table) > min(count, count if first is None else first):
        raise UsageError(
            f"warmup of {len(table)} updates is longer than the {first} until the batch grows."
        )
    lr = [peak * factor for factor in table]
    for start, _, length, stage in sizes.runs():
        end = count if length is None else min(start + length, count)
        lr += [peak * stage.lr_factor] * (end - max(start, len(lr)))
    return lr
