"""What fine-tuning left of the pretrained weights: a figure and a table as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchcliff.record import Outcome, Transfer
from batchcliff.report.figures import Line, Point, thin_dots
from batchcliff.report.join import Joined, Trial
from batchcliff.report.pagetables import Table, mean_text
from batchcliff.report.text import NOTHING, clean, display_names, number
from batchcliff.stats.intervals import Estimate, mean_interval
from batchcliff.stats.shares import mean_share, within

CLASSES = {"cifar10": 10, "digits": 10}
"""Data set -> its classes. A record knows those of the new task only, not of the old one."""

Measured = tuple[
    str, int, tuple[Transfer, ...]
]  # arm, batch size, a transfer for each ok trial


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferByBatch:
    """Distance from the pretrained weights, and accuracy on the old task, an arm a line.

    distance: share of the pretrained weights' norm. old: share of the old task's test set,
    running batch-norm statistics. before: mean of `old` before fine-tuning. chance: of the
    old task, None where its number of classes is not known.
    """

    title: str
    subtitle: str
    batch_sizes: tuple[int, ...]
    distance: tuple[Line, ...]
    old: tuple[Line, ...]
    before: float
    chance: float | None
    interval: str


def transfer_figure(
    name: str, joined: Joined, slot_of: Mapping[str, int], level: float
) -> TransferByBatch | None:
    """The figure over the ok trials; None where no trial was fine-tuned."""
    cells = _measured(joined)
    every = [t for _, _, found in cells for t in found]
    if not every:
        return None
    known = {r.spec.settings.pretraining for r in joined.records} - {None}
    old_data = sorted({clean(p.data, 40) for p in known if p is not None})
    chances = {old_chance(p.data) for p in known if p is not None}

    def lines(
        pick: Callable[[Transfer], float | None],
        mean: Callable[[Sequence[float | None], float], Estimate],
    ) -> tuple[Line, ...]:
        found = []
        for arm in dict.fromkeys(arm for arm, _, _ in cells):
            mine = [
                _point(size, values, mean(values, level), len(cells))
                for one, size, transfers in cells
                if one == arm
                for values in ([pick(t) for t in transfers],)
            ]
            found.append(Line(arm=arm, slot=slot_of[arm], points=tuple(mine)))
        return tuple(found)

    return TransferByBatch(
        title=f"{clean(name, 60)}: what is left of the pretrained weights",
        subtitle=f"pretrained on {', '.join(old_data)}; ok trials",
        batch_sizes=joined.batch_sizes,
        distance=lines(lambda t: t.distance, _distance),
        old=lines(lambda t: t.old_accuracy, _share),
        before=math.fsum(t.old_accuracy_before for t in every) / len(every),
        chance=chances.pop() if len(chances) == 1 else None,
        interval=f"{level:.0%} t interval of the mean over seeds",
    )


def old_chance(data: str) -> float | None:
    """Accuracy of guessing on `data`, a whole data set or half of its classes.

    The first half of an odd number of classes has one class less than the second.
    """
    whole = data.removesuffix("-first-half").removesuffix("-second-half")
    classes = CLASSES.get(whole)
    if classes is None:
        return None
    first = classes // 2
    halves = {f"{whole}-first-half": first, f"{whole}-second-half": classes - first}
    return 1 / halves.get(data, classes)


def transfer_table(joined: Joined, level: float) -> Table:
    """The figure's numbers, with old-task accuracy on re-estimated statistics too."""
    names = display_names(joined.arms)
    rows = []
    for arm, size, found in _measured(joined):
        old = _share([t.old_accuracy for t in found], level)
        again = _share([t.old_accuracy_reestimated for t in found], level)
        before = _share([t.old_accuracy_before for t in found], level)
        moved = number(_distance([t.distance for t in found], level).value, 3)
        rows.append(
            (
                names[arm],
                f"{size:,}",
                str(len(found)),
                moved,
                *map(mean_text, (before, old, again)),
            )
        )
    return Table(
        name="transfer",
        caption="What is left of the pretrained weights, means over the ok trials. Distance: "
        "of the final weights from the pretrained ones, all but the last layer, as a share of "
        "the pretrained ones' norm. Old task: test accuracy with the old last layer put back, "
        f"± half of the {level:.0%} interval in points.",
        header=("arm", "batch size", "n", "distance", "old task before", "old task after",
                "after, statistics re-estimated"),
        rows=tuple(rows),
    )  # fmt: skip


def _measured(joined: Joined) -> list[Measured]:
    cells = [(arm, size, _transfers(t)) for (arm, size), t in joined.cells().items()]
    return [cell for cell in cells if cell[2]]


def _transfers(trials: Sequence[Trial]) -> tuple[Transfer, ...]:
    records = [t.record for t in trials if t.record and t.record.outcome is Outcome.OK]
    return tuple(r.transfer for r in records if r.transfer is not None)


def _point(size: int, values: Sequence[float | None], mean: Estimate, cells: int) -> Point:
    return Point(
        batch_size=size,
        n=mean.n,
        mean=mean.value,
        low=mean.low,
        high=mean.high,
        dots=thin_dots([v for v in values if v is not None], cells),
    )


def _share(values: Sequence[float | None], level: float) -> Estimate:
    return mean_share([v for v in values if v is not None], level)


def _distance(values: Sequence[float | None], level: float) -> Estimate:
    return within(mean_interval([v for v in values if v is not None], level), 0.0)


def left_text(figure: TransferByBatch) -> str:
    """The levels that the second panel's rules show, in words."""
    chance = NOTHING if figure.chance is None else f"{figure.chance:.0%}"
    unknown = " (the old task's number of classes is not known)" * (figure.chance is None)
    return f"before fine-tuning {figure.before:.1%}, chance {chance}{unknown}"
