"""What the verb shows, as frozen values: schedules beside each other, and their differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from batchcliff.schedules.conventions import ROUNDING, Difference

JUMP = 5  # a change of the rate that is so many times its neighbours is a jump
MAX_JUMPS = 24  # in one table; a staircase of 90 epochs is cut here


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Updates from `first` on, all of one batch size; None: not known.

    examples, epochs: that have passed before `first`.
    """

    first: int = 0
    batch_size: int | None = None
    updates_per_epoch: Fraction | None = None
    examples: int = 0
    epochs: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Progress:
    """What an update is worth: one span, or several where the batch size changes."""

    spans: tuple[Span, ...] = (Span(),)

    def span_at(self, update: int) -> Span:
        """The span of an update."""
        return next(span for span in reversed(self.spans) if span.first <= update)

    def examples(self, update: int) -> int | None:
        """Examples seen before `update`."""
        span = self.span_at(update)
        if span.batch_size is None:
            return None
        return span.examples + (update - span.first) * span.batch_size

    def batch_size_at(self, update: int) -> int | None:
        """Examples of `update`."""
        return self.span_at(update).batch_size

    def epochs(self, update: int) -> Fraction | None:
        """Epochs that have passed before `update`; examples that are dropped pass too."""
        span = self.span_at(update)
        if span.updates_per_epoch is None:
            return None
        return span.epochs + (update - span.first) / span.updates_per_epoch

    def growth(self) -> list[tuple[int, int]]:
        """(update, batch size) where the batch size changes."""
        return [
            (after.first, after.batch_size)
            for before, after in itertools.pairwise(self.spans)
            if after.batch_size is not None and after.batch_size != before.batch_size
        ]


def progress_of(stretches: Iterable[tuple[int, int, Fraction]]) -> Progress:
    """From (first update, batch size, updates per epoch) of stretches in a row."""
    spans: list[Span] = []
    for first, batch_size, updates_per_epoch in stretches:
        so_far = Progress(tuple(spans)) if spans else None
        spans.append(
            Span(
                first=first,
                batch_size=batch_size,
                updates_per_epoch=updates_per_epoch,
                examples=(so_far.examples(first) or 0) if so_far else 0,
                epochs=(so_far.epochs(first) or Fraction(0)) if so_far else Fraction(0),
            )
        )
    return Progress(tuple(spans))


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """One line: the learning rate of every update of a run.

    lr: of updates 0, 1, ...; peak: what its factors multiply; warmup_updates: updates of the
    warmup; about: where the peak comes from.
    """

    name: str
    lr: tuple[float, ...]
    peak: float
    warmup_updates: int = 0
    progress: Progress = Progress()
    about: str = ""

    @property
    def first_at_peak(self) -> int | None:
        """The first update at the peak; None if there is none, as under timm's default."""
        least = self.peak * (1 - ROUNDING)
        return next((t for t, lr in enumerate(self.lr) if lr >= least), None)

    @property
    def area(self) -> float:
        """Sum of the rates, in updates at the peak."""
        return math.fsum(self.lr) / self.peak

    def jumps(self) -> list[int]:
        """Updates whose rate differs from the one before by far more than around them."""
        steps = [abs(b - a) for a, b in itertools.pairwise(self.lr)]
        found = []
        for i, step in enumerate(steps):
            around = max(steps[max(i - 1, 0) : i] + steps[i + 1 : i + 2], default=0.0)
            if step > max(JUMP * around, ROUNDING * self.peak):
                found.append(i + 1)
        return found[:MAX_JUMPS]

    def marks(self) -> dict[int, str]:
        """Updates worth a row of a table, with what happens there ("": a neighbour)."""
        count, warmup = len(self.lr), self.warmup_updates
        words: dict[int, list[str]] = {t: [] for t in range(min(3, count))}
        words.setdefault(0, []).append("first")
        if warmup:
            words.setdefault(warmup - 1, []).append("last of the warmup")
            words.setdefault(warmup, [])
        if self.first_at_peak is not None:
            words.setdefault(self.first_at_peak, []).append("first at the peak")
        for t in self.jumps():
            words.setdefault(t - 1, [])
            change = f"lr x {self.lr[t] / self.lr[t - 1]:.4g}" if self.lr[t - 1] else "lr"
            words.setdefault(t, []).append(change)
        for t, size in self.progress.growth():
            words.setdefault(t - 1, [])
            words.setdefault(t, []).append(f"batch size {size}")
        for quarter in (1, 2, 3):
            words.setdefault(quarter * count // 4, [])
        words.setdefault(count - 1, []).append("last")
        return {t: ", ".join(said) for t, said in words.items() if 0 <= t < count}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Schedules beside each other.

    title: what they are schedules of; hint: how to see more of them; notes: a line for each
    that needs one. refused: (name, why) of arms that cannot run. diff: whether to compare the
    first with the others.
    """

    title: str
    schedules: tuple[Schedule, ...]
    hint: str = ""
    notes: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    diff: bool = False

    def groups(self) -> list[list[Schedule]]:
        """Schedules whose updates are alike, so that they can share the rows of a table."""
        found: dict[tuple[Progress, int], list[Schedule]] = {}
        for schedule in self.schedules:
            found.setdefault((schedule.progress, len(schedule.lr)), []).append(schedule)
        return list(found.values())

    def differences(self) -> list[Difference]:
        """The first schedule against those of as many updates, in units of the larger peak."""
        first, *others = self.schedules
        return [_difference(first, s) for s in others if len(s.lr) == len(first.lr)]

    def unlike(self) -> list[Schedule]:
        """Schedules that cannot be compared with the first, update by update."""
        return [s for s in self.schedules if len(s.lr) != len(self.schedules[0].lr)]


def _difference(first: Schedule, second: Schedule) -> Difference:
    peak = max(first.peak, second.peak)
    pairs = zip(first.lr, second.lr, strict=True)
    return Difference(first.name, second.name, tuple((a / peak, b / peak) for a, b in pairs))
