"""Everything that a report says about a study, as one value: `summarize`."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.record import UNLIMITED, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.stats.cells import Cell, cells_of, match
from batchcliff.stats.cliff import (
    CliffDraws,
    Reference,
    collapse_cliff,
    draw_cliffs,
    make_reference,
    settled,
    tolerance_cliff,
)
from batchcliff.stats.comparable import check_comparable
from batchcliff.stats.compare import (
    KINDS,
    PairedDifference,
    Shift,
    adjust,
    draw_pair,
    paired_differences,
    shift,
)
from batchcliff.stats.draws import Curve, make_curve
from batchcliff.stats.intervals import Estimate, share_interval
from batchcliff.stats.shares import mean_share, within


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSummary:
    """One point of the plot: the cell, and what is estimated from it.

    mean: of the ok trials' accuracies. mean_with_failures: of ok and diverged ones, the
    latter at chance (what the tolerance cliff follows). failing: trials that diverged or
    ended below the floor; failure_share: their share of the measured, exact interval.
    """

    cell: Cell
    mean: Estimate
    mean_with_failures: Estimate
    failing: int
    failure_share: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmSummary:
    """One line of the plot. Shifts and differences are empty for the reference arm."""

    arm: str
    cells: tuple[CellSummary, ...]  # batch sizes ascending, every planned one
    tolerance: Estimate  # batch size
    collapse: Estimate  # batch size
    tolerance_shift: Shift | None
    collapse_shift: Shift | None
    differences: tuple[PairedDifference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """What a study found. Accuracies are shares in [0, 1]; cliffs are batch sizes.

    threshold = plateau - delta is the line of the tolerance cliff, `floor` that of failing;
    both None where the reference arm measured nothing. `notes` are for the reader: what is
    missing, mixed, or out of the ordinary.
    """

    reference_arm: str
    accuracy: str  # "running" or "reestimated" batch-norm statistics
    delta: float
    level: float
    chance: float | None
    plateau: float | None
    threshold: float | None
    floor: float | None
    arms: tuple[ArmSummary, ...]
    notes: tuple[str, ...]

    def arm(self, name: str) -> ArmSummary:
        """The arm called `name`; UsageError with the nearest name otherwise."""
        for found in self.arms:
            if found.arm == name:
                return found
        names = [found.arm for found in self.arms]
        raise UsageError(f"no arm {name!r} in this study.{did_you_mean(name, names)}")


def summarize(
    records: Iterable[TrialRecord],
    planned: Sequence[TrialSpec],
    reference_arm: str,
    delta: float = 0.02,
    level: float = 0.95,
    *,
    accuracy: str = "running",
    floor: float | None = None,
) -> StudySummary:
    """Cells, cliffs and shifts of a study from its records and its plan.

    `delta` and `floor` are shares of accuracy; `floor` defaults to halfway between chance
    and the reference plateau. Raises UsageError for bad arguments, an unknown reference
    arm, contradictory records, and arms that differ in more than the arm.
    """
    found = list(records)
    arms = list(dict.fromkeys(spec.arm for spec in planned))
    if reference_arm not in arms:
        hint = did_you_mean(reference_arm, arms)
        raise UsageError(f"reference arm {reference_arm!r} is not planned.{hint}")
    matched = match(found, planned)
    cells = cells_of(matched, accuracy)
    notes = []
    if matched.outside:
        notes.append(f"{matched.outside} records are outside of the plan and were left out")
    notes += gaps(cells) + mixed_numerics(found) + _check_arms(planned, arms, reference_arm)
    return summarize_cells(
        cells,
        reference_arm,
        delta,
        level,
        accuracy=accuracy,
        chance=chance_of(found),
        floor=floor,
        notes=notes,
    )


def summarize_cells(
    cells: Sequence[Cell],
    reference_arm: str,
    delta: float = 0.02,
    level: float = 0.95,
    *,
    accuracy: str = "running",
    chance: float | None,
    floor: float | None = None,
    notes: Sequence[str] = (),
) -> StudySummary:
    """Cliffs and shifts from cells alone, wherever they come from; arms in their order.

    `chance`: 1 / number of classes; None where no trial could tell. `notes` come first.
    Raises UsageError for bad arguments and an unknown reference arm.
    """
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    if reference_arm not in arms:
        hint = did_you_mean(reference_arm, arms)
        raise UsageError(f"reference arm {reference_arm!r} has no cell.{hint}")
    told = list(notes)
    curves = {arm: make_curve(arm, cells, chance or 0.0) for arm in arms}
    reference = make_reference(curves[reference_arm], chance or 0.0, delta, level, floor)
    told += [reference.problem] if reference.problem else _rising(reference)
    noted, reference = settled(list(curves.values()), reference)
    curves = dict(zip(curves, noted, strict=True))
    told += _lingering(curves.values()) + _no_plateau(reference)
    others = [arm for arm in arms if arm != reference_arm]
    drawn = {arm: _drawn(curves[arm], reference) for arm in arms}
    shifts = adjust(
        [shift(curves[arm], reference, kind, drawn[arm]) for arm in others for kind in KINDS]
    )
    return StudySummary(
        reference_arm=reference_arm,
        accuracy=accuracy,
        delta=delta,
        level=level,
        chance=chance,
        plateau=reference.plateau,
        threshold=reference.threshold,
        floor=reference.floor,
        arms=tuple(
            _arm_summary(cells, curves[arm], reference, drawn[arm], shifts) for arm in arms
        ),
        notes=tuple(told),
    )


def _rising(reference: Reference) -> list[str]:
    """A sentence where the reference arm does better beyond its plateau than on it."""
    curve, plateau = reference.curve, reference.plateau
    assert curve is not None and plateau is not None
    best = int(np.argmax(curve.means))
    if curve.means[best] <= plateau + reference.delta:
        return []
    note = (
        f"{curve.arm!r} is better at {curve.batch_sizes[best]} ({curve.means[best]:.1%}) than "
        f"on its plateau ({plateau:.1%}, over its smaller batch sizes): cliffs are falls from "
        "the plateau, and say little here"
    )
    return [note]


def _no_plateau(reference: Reference) -> list[str]:
    """A sentence if the reference arm collapses from its smallest batch size on. In
    simulations its tolerance cliff's interval is then right less often than it says (docs/
    statistics.md, "Where they cover too seldom")."""
    curve, floor = reference.curve, reference.floor
    if curve is None or floor is None or reference.problem:
        return []
    failing = [len(curve.failing(k, floor)) for k in range(len(curve.values))]
    if not all(failing):  # all stand at some size: what collapses before it is stray
        return []
    note = (
        f"the reference arm {curve.arm!r} has no plateau: {failing[0]} of "
        f"{len(curve.values[0])} trials collapse at its smallest batch size "
        f"{curve.batch_sizes[0]} already, and some at every other; measure smaller ones: "
        "tolerance cliffs and their intervals are not to be relied on"
    )
    return [note]


def _lingering(curves: Iterable[Curve]) -> list[str]:
    """A sentence if trials above the floor are counted as collapsed."""
    places = [
        f"{len(seeds)} of {len(curve.values[k])} of {curve.arm!r} at {curve.batch_sizes[k]}"
        for curve in curves
        for k, seeds in enumerate(curve.lingering)
        if seeds
    ]
    note = (
        "trials end above the floor and far below the plateau, also past the size at which "
        f"half collapse ({', '.join(places)}): cliffs and shifts count them as collapsed"
    )
    return [note] if places else []


def _drawn(curve: Curve, reference: Reference) -> tuple[CliffDraws, CliffDraws] | None:
    """One drawing serves the arm's cliffs and its shifts; None where nothing can be drawn."""
    base = reference.curve
    if reference.problem or base is None or not curve.batch_sizes:
        return None
    return draw_cliffs(base, reference) if curve is base else draw_pair(curve, reference)


def _arm_summary(
    cells: Sequence[Cell],
    curve: Curve,
    reference: Reference,
    drawn: tuple[CliffDraws, CliffDraws] | None,
    shifts: Sequence[Shift],
) -> ArmSummary:
    base = reference.curve
    arm, mine = curve.arm, None if drawn is None else drawn[0]
    own = {s.kind: s for s in shifts if s.arm == arm}
    return ArmSummary(
        arm=arm,
        cells=tuple(_cell_summary(cell, curve, reference) for cell in cells if cell.arm == arm),
        tolerance=tolerance_cliff(curve, reference, mine),
        collapse=collapse_cliff(curve, reference, mine),
        tolerance_shift=own.get("tolerance"),
        collapse_shift=own.get("collapse"),
        differences=(
            ()
            if base is None or arm == base.arm
            else _possible(paired_differences(curve, base, reference.level))
        ),
    )


def _possible(differences: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """With intervals inside of what a difference of accuracies can be."""
    return tuple(
        dataclasses.replace(d, difference=within(d.difference, -1.0, 1.0)) for d in differences
    )


def _cell_summary(cell: Cell, curve: Curve, reference: Reference) -> CellSummary:
    level, failing = reference.level, 0
    if cell.measured:
        k = curve.batch_sizes.index(cell.batch_size)
        failing = len(curve.below(k, 0.0 if reference.floor is None else reference.floor))
    both = list(cell.values(reference.chance).values())
    mean_all = mean_share(both, level, "mean over seeds, diverged at chance")
    if cell.diverged and cell.measured > 1:
        note = f"{cell.diverged} of {cell.measured} diverged: t interval is rough"
        note = "; ".join(filter(None, [mean_all.note, note]))
        mean_all = dataclasses.replace(mean_all, note=note)
    return CellSummary(
        cell=cell,
        mean=mean_share(cell.accuracies, level),
        mean_with_failures=mean_all,
        failing=failing,
        failure_share=share_interval(failing, cell.measured, level),
    )


def _check_arms(planned: Sequence[TrialSpec], arms: list[str], reference_arm: str) -> list[str]:
    by_arm: dict[str, list[TrialSpec]] = defaultdict(list)
    for spec in planned:
        by_arm[spec.arm].append(spec)
    return [
        note
        for arm in arms
        if arm != reference_arm
        for note in check_comparable(by_arm[arm], by_arm[reference_arm])
    ]


def chance_of(records: Sequence[TrialRecord]) -> float | None:
    """1 / number of classes, from the ledgers; None where no record has one.

    Raises UsageError for records that differ in it, and for fewer than two classes.
    """
    classes = {r.ledger.num_classes for r in records if r.ledger is not None}
    if len(classes) > 1:
        raise UsageError(f"records differ in num_classes: {sorted(classes)}; not one study")
    if not classes:
        return None
    count = classes.pop()
    if count < 2:
        raise UsageError(f"records have num_classes {count}: accuracy needs at least 2")
    return 1.0 / count


def gaps(cells: Sequence[Cell]) -> list[str]:
    """A sentence for each way in which trials say nothing about their setting."""
    notes = []
    for name in ("missing", "oom", "timeout", "failed", "infeasible"):
        count = sum(getattr(cell, name) for cell in cells)
        if count:
            total = sum(cell.planned for cell in cells)
            notes.append(f"{count} of {total} planned trials: {name}; not in any average")
    return notes


def mixed_numerics(records: Sequence[TrialRecord]) -> list[str]:
    """One sentence per fingerprint that is not the same in all records."""
    seen: dict[str, set[str]] = defaultdict(set)
    places = dict.fromkeys(r.provenance.numerics for r in records if r.provenance is not None)
    fingerprints = [UNLIMITED | dict(place) for place in places]
    names = set().union(*fingerprints)
    for fingerprint in fingerprints:
        for name in names:
            seen[name].add(fingerprint.get(name, "not said"))
    return [
        f"mixed numerics: {name} is {', '.join(sorted(values))}; trials of one seed are no "
        "longer exact pairs"
        for name, values in sorted(seen.items())
        if len(values) > 1
    ]
