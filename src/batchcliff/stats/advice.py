"""What to use: the largest batch size that a study shows to be safe, and what it does not show.

Safe is what lies at or below the lower end of the tolerance cliff's interval. What is
recommended is the largest batch size that was run and is safe; how the numbers are chosen,
and how often a recommendation lies above the true cliff, is in docs/advice.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.stats.cells import Cell, match
from batchcliff.stats.intervals import Estimate, mean_interval
from batchcliff.stats.shares import mean_difference
from batchcliff.stats.summary import ArmSummary, CellSummary, StudySummary, summarize
from batchcliff.stats.untested import Cells, untested, untested_sizes

ROUNDING = 1e-9  # of a batch size that went through log2 and back


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a recommendation saves against the reference batch size of the reference arm.

    updates, reference_updates: of a whole trial. seconds: how many times as fast a whole
    trial is, training and evaluation; no value where that was not measured alike.
    """

    updates: int
    reference_updates: int
    seconds: Estimate
    device: str  # "" where seconds has no value


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """An arm at a batch size that was run.

    accuracy: expected test accuracy, a share: the mean over seeds, diverged ones at chance.
    difference: to the reference arm at the reference batch size, paired by seed; None of
    itself. trial: one of the cell's trials, whose settings these are, and its ledger; None
    for a table that came without settings. rule: where its learning rate comes from.
    """

    arm: str
    batch_size: int
    accuracy: Estimate
    trials: int  # measured ones of the cell
    failing: int
    difference: Estimate | None
    speed: Speed | None
    trial: TrialSpec | None
    ledger: Ledger | None

    @property
    def rule(self) -> str:
        return "" if self.ledger is None else self.ledger.lr_provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A measured cell above the recommended one, and why it is not recommended.

    how: "fails" (trials diverge or end under the floor), "falls" (its mean lies under the
    threshold), "uncertain" (neither, and the interval of the cliff begins below it).
    """

    cell: CellSummary
    how: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmAdvice:
    """How far one arm is safe.

    cliff: its tolerance cliff. safe_up_to: the lower end of the cliff's interval (`basis`
    "interval"), or with one seed of its bracket ("bracket") or the largest batch size that
    was run ("one seed, not reached"); None if nothing is safe, and `problem` says why.
    interpolated: a batch size up to `safe_up_to` that was not run, and the two neighbours
    that were. limits: the cells above, up to the first that fails or falls.
    """

    arm: str
    cliff: Estimate
    safe_up_to: float | None
    basis: str
    recommendation: Recommendation | None
    interpolated: tuple[int, int, int] | None  # (batch size, run below, run above)
    limits: tuple[Limit, ...]
    largest_run: int | None
    untested: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What a study says about the batch size to use.

    best: of all arms, the recommendation with the largest batch size, of equal ones the first
    arm's. Among more than two arms it is chosen by intervals of `best_level`, which hold for
    all arms at once (Bonferroni), so that it may be smaller than the arm's own.
    reference_batch_size: what speed and difference are against. notes: what is missing or
    mixed.
    """

    study: str
    reference_arm: str
    reference_batch_size: int | None
    delta: float
    level: float
    best_level: float
    plateau: float | None
    threshold: float | None
    arms: tuple[ArmAdvice, ...]
    best: Recommendation | None
    planned: int
    missing: int
    untested: tuple[str, ...]
    notes: tuple[str, ...]


def advise(
    records: Iterable[TrialRecord],
    planned: Sequence[TrialSpec],
    study: StudySpec,
    level: float = 0.95,
) -> Advice:
    """Advice from a study's records and plan. Raises UsageError as `summarize`."""
    found = list(records)

    def summary_at(level: float) -> StudySummary:
        return summarize(found, planned, study.reference_arm, study.tolerance, level)

    matched = match(found, planned)
    cells: dict[tuple[str, int], dict[int, TrialRecord]] = defaultdict(dict)
    for spec, record in zip(matched.planned, matched.records, strict=True):
        if record is not None:
            cells[spec.arm, spec.batch_size][spec.seed] = record
    summary = summary_at(level)
    strict = level_for_all(level, len(summary.arms))
    return advise_summary(
        summary,
        summary if strict == level else summary_at(strict),
        name=study.name,
        cells=cells,
        study=study,
    )


def level_for_all(level: float, arms: int) -> float:
    """Level at which `arms` two-sided intervals have lower ends that are all below their
    truths with probability `level` (Bonferroni); `level` itself up to two arms."""
    return level if arms <= 2 else 1 - 2 * (1 - level) / arms


def advise_summary(
    summary: StudySummary,
    strict: StudySummary,
    *,
    name: str,
    cells: Cells | None = None,
    study: StudySpec | None = None,
) -> Advice:
    """Advice from estimates. `strict`: the same cells at `level_for_all`.

    cells: records, for settings and speed; study: for what is not tested. Without them, as
    for an imported table, a recommendation has neither settings nor speed.
    """
    reference = _reference_cell(summary, study)
    known = cells or {}
    arms = tuple(_arm_advice(arm, summary, reference, known) for arm in summary.arms)
    chosen = arms
    if strict is not summary:
        chosen = tuple(_arm_advice(arm, strict, reference, known) for arm in strict.arms)
    best = _best(chosen)
    if best is not None and strict is not summary:  # its numbers are those of the tables
        arm = next(a for a in summary.arms if a.arm == best.arm)
        best = _recommendation(arm, _cell(arm, best.batch_size), summary, reference, known)
    every = [c.cell for arm in summary.arms for c in arm.cells]
    return Advice(
        study=name,
        reference_arm=summary.reference_arm,
        reference_batch_size=None if reference is None else reference.cell.batch_size,
        delta=summary.delta,
        level=summary.level,
        best_level=strict.level,
        plateau=summary.plateau,
        threshold=summary.threshold,
        arms=arms,
        best=best,
        planned=sum(cell.planned for cell in every),
        missing=sum(cell.missing for cell in every),
        untested=untested(every, study, known),
        notes=summary.notes,
    )


def _best(arms: Sequence[ArmAdvice]) -> Recommendation | None:
    """The largest batch size; of equal ones that of the arm which comes first in the study."""
    found = [arm.recommendation for arm in arms if arm.recommendation is not None]
    return max(found, key=lambda r: r.batch_size, default=None)  # the first of equal ones


def _reference_cell(summary: StudySummary, study: StudySpec | None) -> CellSummary | None:
    """The reference arm at the batch size that the learning rate was given at, if it was
    measured there, else at its smallest measured one."""
    cells = [c for c in summary.arm(summary.reference_arm).cells if c.cell.measured]
    base = None if study is None else study.lr.base_batch_size
    return next((c for c in cells if c.cell.batch_size == base), cells[0] if cells else None)


def _arm_advice(
    arm: ArmSummary, summary: StudySummary, reference: CellSummary | None, cells: Cells
) -> ArmAdvice:
    cliff, measured = arm.tolerance, [c for c in arm.cells if c.cell.measured]
    safe, basis, problem = _safe_up_to(cliff, measured)
    under = [c for c in measured if safe is not None and _at_most(c.cell.batch_size, safe)]
    # The bound is at least the smallest measured size, so that nothing is lost here.
    found = _recommendation(arm, under[-1], summary, reference, cells) if under else None
    above = measured[len(under) :]
    between = None
    if found is not None and safe is not None and above and found.batch_size < int(safe):
        between = (int(safe), found.batch_size, above[0].cell.batch_size)
    return ArmAdvice(
        arm=arm.arm,
        cliff=cliff,
        safe_up_to=safe,
        basis=basis,
        recommendation=found,
        interpolated=between,
        limits=_limits(above, summary) if cliff.value is not None else (),
        largest_run=measured[-1].cell.batch_size if measured else None,
        untested=untested_sizes(arm, None if found is None else found.batch_size, above),
        problem=problem,
    )


def _safe_up_to(
    cliff: Estimate, measured: Sequence[CellSummary]
) -> tuple[float | None, str, str]:
    """(lower end of the cliff, what it is the end of, why there is none)."""
    if cliff.value is None:
        return None, "", cliff.note or "no cliff can be given"
    first = measured[0].cell.batch_size
    if cliff.has_interval:
        if cliff.low is None:
            return None, "", f"the cliff may lie below {first:,}, the smallest batch size run"
        return cliff.low, "interval", ""
    if cliff.bracket is not None:
        return float(cliff.bracket[0]), "bracket", ""
    if cliff.censored == "above":
        return cliff.value, "one seed, not reached", ""
    return None, "", f"accuracy is too low at {first:,} already, the smallest batch size run"


def _at_most(size: int, bound: float) -> bool:
    return size <= bound * (1 + ROUNDING)


def _cell(arm: ArmSummary, batch_size: int) -> CellSummary:
    return next(c for c in arm.cells if c.cell.batch_size == batch_size)


def _limits(above: Sequence[CellSummary], summary: StudySummary) -> tuple[Limit, ...]:
    found: list[Limit] = []
    for cell in above:
        mean = cell.mean_with_failures.value
        low = mean is not None and summary.threshold is not None and mean < summary.threshold
        found.append(
            Limit(cell=cell, how="fails" if cell.failing else "falls" if low else "uncertain")
        )
        if found[-1].how != "uncertain":
            break
    return tuple(found)


def _recommendation(
    arm: ArmSummary,
    cell: CellSummary,
    summary: StudySummary,
    reference: CellSummary | None,
    cells: Cells,
) -> Recommendation:
    place = (arm.arm, cell.cell.batch_size)
    records = cells.get(place, {})
    ok = [r for _, r in sorted(records.items()) if r.outcome is Outcome.OK]
    one = next((r for r in ok if r.ledger is not None), None)
    against = reference
    if against is not None and (against.cell.arm, against.cell.batch_size) == place:
        against = None
    return Recommendation(
        arm=arm.arm,
        batch_size=cell.cell.batch_size,
        accuracy=cell.mean_with_failures,
        trials=cell.cell.measured,
        failing=cell.failing,
        difference=None if against is None else _difference(cell.cell, against.cell, summary),
        speed=None
        if against is None
        else _speed(
            records, cells.get((against.cell.arm, against.cell.batch_size), {}), summary
        ),
        trial=None if one is None else dataclasses.replace(one.spec, arm=arm.arm),
        ledger=None if one is None else one.ledger,
    )


def _difference(cell: Cell, reference: Cell, summary: StudySummary) -> Estimate:
    """Accuracy here minus there, in shares, over the seeds that both have."""
    chance = summary.chance or 0.0
    mine, theirs = cell.values(chance), reference.values(chance)
    values = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
    return mean_difference(values, summary.level, "paired difference over seeds")


def _speed(
    records: Mapping[int, TrialRecord],
    reference: Mapping[int, TrialRecord],
    summary: StudySummary,
) -> Speed | None:
    """Updates from the ledgers; seconds where both cells had the device alike."""
    mine, theirs = _planned_updates(records), _planned_updates(reference)
    if mine is None or theirs is None:
        return None
    places = {p for cell in (records, reference) for r in cell.values() if (p := _place(r))}
    method = "ratio of a trial's seconds, geometric mean over pairs of seeds"
    nothing = Estimate(value=None, low=None, high=None, level=summary.level, method=method, n=0)
    if len(places) != 1:
        devices = sorted({place[0] for place in places})
        note = "no trial says how fast it was"
        if len(devices) > 1:
            note = f"measured on different devices: {', '.join(devices)}"
        elif devices:
            note = "trials shared the device with unequally many others"
        return Speed(
            updates=mine,
            reference_updates=theirs,
            seconds=dataclasses.replace(nothing, note=note),
            device="",
        )
    logs = [
        math.log(slow / fast)
        for seed in sorted(records.keys() & reference.keys())
        if (fast := _seconds(records[seed])) and (slow := _seconds(reference[seed]))
    ]
    ratio = mean_interval(logs, summary.level, method)
    return Speed(
        updates=mine,
        reference_updates=theirs,
        seconds=dataclasses.replace(
            ratio, value=_exp(ratio.value), low=_exp(ratio.low), high=_exp(ratio.high)
        ),
        device=next(iter(places))[0] if logs else "",
    )


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _planned_updates(records: Mapping[int, TrialRecord]) -> int | None:
    return next((r.ledger.updates for r in records.values() if r.ledger is not None), None)


def _place(record: TrialRecord) -> tuple[str, int, int] | None:
    """Device, and how many trials shared it: only equal ones have comparable rates."""
    where = record.provenance
    if where is None or record.outcome is not Outcome.OK:
        return None
    return where.device, where.stacked, where.workers


def _seconds(record: TrialRecord) -> float | None:
    """Of a whole trial that ended ok: its examples at the rate that it had."""
    where = record.provenance
    if record.outcome is not Outcome.OK or where is None or record.ledger is None:
        return None
    rate = where.examples_per_second
    return record.ledger.examples / rate if math.isfinite(rate) and rate > 0 else None
