"""Which update of a run reads which part of the stream of examples, and how many of them.

A run is one stretch of updates of one batch size, or several where the batch size changes.
Progress is counted in positions of the stream (data/resident.py): update u of a stretch reads
`batch_size` examples from `position(u)` on, and an epoch is the next `num_examples` of them.
Stdlib only: `plan` uses it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from batchcliff.errors import Infeasible
from batchcliff.schedules.batch_size import BatchSizes
from batchcliff.schedules.duration import Remainder


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Updates first .. last - 1, all of one batch size.

    start: position in the stream of its first example. lr_factor: of the learning rate that
    the trial would have without a change of the batch size.
    """

    first: int
    last: int
    start: int
    batch_size: int
    lr_factor: float = 1.0


class Piece(NamedTuple):
    """Updates first .. last - 1: of one epoch and of one batch size."""

    first: int
    last: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """All updates of a run. `stretches` follow each other without a gap.

    remainder: "carry": batches run across the end of an epoch; "drop": an epoch has
    floor(N/B) updates, the rest of its examples is left out.
    """

    num_examples: int
    remainder: Remainder
    stretches: tuple[Stretch, ...]

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.stretches[-1].last

    @property
    def examples(self) -> int:
        """Examples that all updates read together."""
        return sum((s.last - s.first) * s.batch_size for s in self.stretches)

    def stretch_at(self, update: int) -> Stretch:
        """The stretch of an update; the last one goes on after the end of the run."""
        return next((s for s in self.stretches if update < s.last), self.stretches[-1])

    def position(self, update: int) -> int:
        """Where in the stream the examples of an update begin."""
        stretch = self.stretch_at(update)
        row = update - stretch.first
        if self.remainder == "carry":
            return stretch.start + row * stretch.batch_size
        epoch, row = divmod(row, self.num_examples // stretch.batch_size)
        return stretch.start + epoch * self.num_examples + row * stretch.batch_size

    def updates_per_epoch(self, batch_size: int) -> Fraction:
        """Updates of an epoch that are all of one batch size."""
        if self.remainder == "drop":
            return Fraction(self.num_examples // batch_size)
        return Fraction(self.num_examples, batch_size)

    @property
    def length_in_epochs(self) -> Fraction:
        """How many epochs all updates are together."""
        parts = [
            (s.last - s.first) / self.updates_per_epoch(s.batch_size) for s in self.stretches
        ]
        return sum(parts, Fraction(0))

    def epochs(self) -> list[tuple[int, int]]:
        """(first, last + 1) update of every epoch; the last one may be cut short.

        An update belongs to the epoch in which its first example lies.
        """
        found: list[tuple[int, int]] = []
        first = 0
        while first < self.updates:
            end = self._first_at_epoch(len(found) + 1)
            found.append((first, min(end, self.updates)))
            first = found[-1][1]
        return found

    def _first_at_epoch(self, epoch: int) -> int:
        """The first update that starts in `epoch` or later."""
        update = 0
        for stretch in self.stretches:
            before = epoch * self.num_examples - stretch.start
            if self.remainder == "carry":
                count = -(-before // stretch.batch_size)
            else:
                per_epoch = self.num_examples // stretch.batch_size
                count = before // self.num_examples * per_epoch
            update = stretch.first + max(0, count)
            if update < stretch.last:
                break
        return update

    def pieces(self) -> list[Piece]:
        """The epochs, cut where the batch size changes."""
        return [
            Piece(max(a, s.first), min(b, s.last), s.batch_size)
            for a, b in self.epochs()
            for s in self.stretches
            if max(a, s.first) < min(b, s.last)
        ]


def changing(
    sizes: BatchSizes, total: int, num_examples: int, remainder: Remainder, name: str
) -> Timeline:
    """The timeline of a run of `total` positions whose batch size changes as `sizes` say.

    A new size holds from the first update that starts at or after its milestone; a batch
    that has begun is never cut. name: the technique's, for messages.

    Raises:
        Infeasible: "drop" with a change inside of an epoch, a batch larger than the data, or
            a batch size without any update.
    """
    ends = [*(stage.start for stage in sizes.stages[1:]), total]
    found: list[Stretch] = []
    update = position = 0
    for stage, end in zip(sizes.stages, ends, strict=True):
        size = stage.batch_size
        if size > num_examples:
            raise Infeasible(
                f"{name}: batch size {size} is larger than the training set ({num_examples} "
                "examples). Let it grow less."
            )
        if remainder == "drop" and end % num_examples:
            raise Infeasible(
                f"{name}: the batch size {size} would end {end / num_examples:g} epochs into "
                "the run, and with remainder = 'drop' a batch size holds for whole epochs. "
                "Write whole epochs, or remainder = 'carry'."
            )
        if remainder == "drop":
            count = (end - position) // num_examples * (num_examples // size)
            after = end
        else:
            count = -(-(end - position) // size)
            after = position + count * size
        if count < 1:
            raise Infeasible(
                f"{name}: no update of batch size {size} fits between {stage.start} and {end} "
                f"examples of a run of {total}. Write milestones inside of the run, and "
                "further apart."
            )
        found.append(
            Stretch(
                first=update,
                last=update + count,
                start=position,
                batch_size=size,
                lr_factor=stage.lr_factor,
            )
        )
        update, position = update + count, after
    return Timeline(num_examples, remainder, tuple(found))
