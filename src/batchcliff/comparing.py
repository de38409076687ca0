"""The verb `compare`: the arms of two studies against one arm, if only the arms differ."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.importing import find_imported
from batchcliff.study.printable import printable

if TYPE_CHECKING:
    from batchcliff.record import TrialRecord
    from batchcliff.spec import StudySpec, TrialSpec
    from batchcliff.stats.cells import Cell
    from batchcliff.stats.summary import StudySummary


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Two studies' arms, called "STUDY: ARM", in one summary; its notes say what differs."""

    studies: tuple[str, str]
    summary: StudySummary


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One of the two studies; records and cells under the arms' own names."""

    folder: Path
    study: StudySpec
    records: tuple[TrialRecord, ...]
    cells: tuple[Cell, ...]


def compare(first: str | Path, second: str | Path, *, reference: str | None = None) -> Compared:
    """Cliffs and shifts of the arms of two studies against one arm of the first.

    reference: that arm, the first study's own reference if None. The tolerance is the first
    study's. A seed of one study is the pair of the same seed of the other. Raises UsageError
    where there is no study, an imported table (nothing is known of its settings), one study
    twice, an unknown arm, and studies that differ in more than their arms (workload, data,
    budget, settings, ...); the message names every difference. What single arms change besides
    their techniques, and what of the machines differs, is a note of the summary.
    """
    from batchcliff.report.ledger import environment_rows, mixtures
    from batchcliff.stats.comparable import check_comparable, check_studies
    from batchcliff.stats.summary import chance_of, gaps, mixed_numerics, summarize_cells

    one, other = _side(first), _side(second)
    if one.folder.resolve() == other.folder.resolve():
        raise UsageError(f"{printable(first)} and {printable(second)} are one study")
    arms = [arm.name for arm in one.study.arms]
    base = reference if reference is not None else one.study.reference_arm
    if base not in arms:
        hint = did_you_mean(base, arms)
        raise UsageError(f"no arm {printable(base)!r} in {printable(first)}.{hint}")
    check_studies(one.study, in_the_words_of(one.study, other.study))
    names = _names(one, other)
    records = [*one.records, *other.records]
    by_arm: dict[str, list[TrialSpec]] = {}
    for name, side in zip(names, (one, other), strict=True):
        for record in side.records:
            label = f"{name}: {record.spec.arm}"
            by_arm.setdefault(label, []).append(dataclasses.replace(record.spec, arm=label))
    against = by_arm.pop(reference_arm := f"{names[0]}: {base}", [])
    notes = [note for arm in by_arm.values() for note in check_comparable(arm, against)]
    if same := len(set(one.records) & set(other.records)):
        notes.append(f"{same} trials are one record in both studies, and not two")
    if one.study.tolerance != other.study.tolerance:
        notes.append(
            f"the tolerance is that of {names[0]!r}, {one.study.tolerance:g}; {names[1]!r} has "
            f"{other.study.tolerance:g}"
        )
    cells = [
        dataclasses.replace(cell, arm=f"{name}: {cell.arm}")
        for name, side in zip(names, (one, other), strict=True)
        for cell in side.cells
    ]
    summary = summarize_cells(
        cells,
        reference_arm,
        one.study.tolerance,
        chance=chance_of(records),
        notes=[
            *gaps(cells),
            *mixtures(environment_rows(records)),
            *mixed_numerics(records),
            *notes,
        ],
    )
    return Compared(studies=names, summary=summary)


MOVE_MORE = ("legw", "malladi")
"""Scaling rules that change more than the rate, and by B/B0: there B0 is no mere wording."""


def in_the_words_of(one: StudySpec, other: StudySpec) -> StudySpec:
    """`other` with the rule of `one`'s learning rate, if at every batch size of the two that
    is the same rate: 0.1 at 128, scaled linearly, is 0.2 at 256, scaled linearly."""
    from batchcliff.study.grid import lr_of

    rules = (one.lr, other.lr)
    if any(rule.tune or rule.scaling in MOVE_MORE for rule in rules):
        return other
    sizes = {*one.batch_sizes, *other.batch_sizes}
    if any(lr_of(one.lr, size) != lr_of(other.lr, size) for size in sizes):
        return other
    return dataclasses.replace(other, lr=one.lr)


def _side(study: str | Path) -> _Side:
    from batchcliff.report.join import join, planned_specs
    from batchcliff.standing import find_study
    from batchcliff.stats.cells import make_cells
    from batchcliff.study.store import Store
    from batchcliff.study.tuning import reported_plan

    if find_imported(study) is not None:
        raise UsageError(
            f"{printable(study)} is an imported table, and nothing is known of what its trials "
            "differ in from others. `batchcliff import` compares the arms of one table."
        )
    folder = find_study(study)
    with Store.open(folder) as store:
        records, spec = store.records(), store.study
        plan = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
    joined = join(plan, records.values())
    return _Side(
        folder=folder,
        study=spec,
        records=joined.labelled,
        cells=make_cells(joined.records, planned_specs(joined, spec)),
    )


def _names(one: _Side, other: _Side) -> tuple[str, str]:
    """What the studies are called: by their files, else by their folders."""
    found = one.study.name, other.study.name
    if found[0] == found[1]:
        found = one.folder.resolve().name, other.folder.resolve().name
    return found if found[0] != found[1] else (str(one.folder), str(other.folder))
