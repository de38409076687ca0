"""Updates to a target accuracy by batch size: the figure, its table and its sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchcliff.record import Outcome, TrialRecord
from batchcliff.report.join import Joined
from batchcliff.report.pagetables import Table
from batchcliff.report.text import NOTHING, clean, display_names, listed, number
from batchcliff.report.words import cliff_text, interval_text
from batchcliff.spec import StudySpec
from batchcliff.stats.budget import Budget, CellBudget, budget
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.summary import StudySummary

LINE = "; target: the line of the tolerance cliff"
FIXED = (
    "The rates of these trials fall at shares of a fixed budget: an accuracy that only comes "
    "with such a fall takes half of the updates at twice the batch for that reason alone."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatesToTarget:
    """Updates to `target`, a share of test accuracy: a curve for each arm, `slots` of their
    colours. notes: arms that are left out, and why."""

    title: str
    subtitle: str
    target: float
    batch_sizes: tuple[int, ...]
    curves: tuple[Budget, ...]
    slots: tuple[int, ...]
    interval: str
    notes: tuple[str, ...]


def target_figure(
    study: StudySpec,
    joined: Joined,
    summary: StudySummary,
    slot_of: Mapping[str, int],
    budget_said: str,
) -> UpdatesToTarget | None:
    """The figure; None where no arm has two batch sizes with a value.

    The target is that of the study's budget; of a study with a fixed budget the line of its
    tolerance cliff, which every trial on the plateau passes. budget_said: in words.
    """
    own = study.settings.stop.accuracy
    target = own or summary.threshold
    if target is None or not 0.0 < target <= 1.0:
        return None
    curves, notes = [], []
    by_arm: dict[str, list[TrialRecord]] = {arm: [] for arm in joined.arms}
    for record in joined.labelled:
        if record.outcome in (Outcome.OK, Outcome.DIVERGED) and record.ledger is not None:
            by_arm[record.spec.arm].append(record)
    for arm, records in by_arm.items():
        if any(r.ledger is not None and r.ledger.stages for r in records):
            notes.append(f"“{clean(arm, 32)}” is left out: its batch size changes in the run.")
        elif records:
            curves.append(budget(records, arm, target, summary.level))
    if all(sum(c.updates.value is not None for c in curve.cells) < 2 for curve in curves):
        return None
    if not own:
        notes.insert(0, FIXED)
    return UpdatesToTarget(
        title=f"{clean(study.name, 60)}: updates to {100 * target:.1f}% test accuracy",
        subtitle=f"{budget_said}{LINE * (not own)}; running batch-norm statistics",
        target=target,
        batch_sizes=joined.batch_sizes,
        curves=tuple(curves),
        slots=tuple(slot_of[curve.arm] for curve in curves),
        interval=f"{summary.level:.0%} t interval of the geometric mean over seeds",
        notes=tuple(notes),
    )


def target_table(figure: UpdatesToTarget) -> Table:
    """The figure's numbers, with the device's time to the target."""
    names = display_names(curve.arm for curve in figure.curves)
    cells = [cell for curve in figure.curves for cell in curve.cells]
    devices = {trial.device for cell in cells for trial in cell.reached} - {""}
    header = ("arm", "batch size", "trials", "updates", "interval", "examples",
              "of perfect scaling", "device s")  # fmt: skip
    several = len(devices) > 1
    rows = [(names[cell.arm], *_row(cell), *([cell.device] * several)) for cell in cells]
    whose = f" ({clean(next(iter(devices)), 60)})" if len(devices) == 1 else ""
    return Table(
        name="updates to target",
        caption=f"Updates and examples to {100 * figure.target:.1f}% test accuracy, "
        f"{figure.interval}; no value where a trial never had it or had it at its first "
        f"evaluation. Device s: mean time of the device to the target{whose}; no value over "
        "trials of several devices.",
        header=(*header, *(["device"] * several)),
        rows=tuple(tuple(clean(text, 60) for text in row) for row in rows),
        text=(0, 8) if several else (0,),
    )


def _row(cell: CellBudget) -> tuple[str, ...]:
    updates, efficiency = cell.updates, cell.efficiency
    first = (f"{cell.batch_size:,}", str(len(cell.reached)))
    if updates.value is None:
        return (*first, NOTHING, updates.note, NOTHING, NOTHING, NOTHING)
    examples, share = cell.batch_size * updates.value, NOTHING
    if efficiency is not None:
        share = f"{efficiency:.0%}"
    seconds = number(cell.device_seconds, 3)
    interval = interval_text(updates) or NOTHING
    return (*first, number(updates.value), interval, f"{examples:,.0f}", share, seconds)


def knee_sentences(curve: Budget) -> list[str]:
    """The knee and both ends of the fit, each with its interval, or why there are none; then
    why batch sizes have no value."""
    if curve.knee.value is None:
        return [f"No knee can be given: {curve.knee.note}.", *curve.notes]

    def said(estimate: Estimate) -> str:
        interval = interval_text(estimate)
        why = f"{estimate.level:.0%} interval: {interval}" if interval else "no interval"
        return f"{cliff_text(estimate)} ({why})"

    return [
        f"Knee (twice the fewest updates and examples) at batch size {said(curve.knee)}.",
        f"Fewest updates, however large the batch: {said(curve.fewest_updates)}.",
        f"Fewest examples, however small: {said(curve.fewest_examples)}.",
        *curve.notes,
    ]


def target_lines(figure: UpdatesToTarget) -> list[str]:
    """What the page says under the figure: the answer of each arm, then what it lacks."""
    lines = []
    for curve in figure.curves:
        knee = knee_sentences(curve)
        told = knee if curve.knee.value is None else knee[:3]
        lines.append(f"“{clean(curve.arm, 32)}”: {clean(' '.join(told), 600)}")
        empty = [f"{c.batch_size:,}" for c in curve.cells if c.updates.value is None]
        if empty and curve.knee.value is not None:
            lines[-1] += f" No value at {listed(empty[:8])}."
    return [*lines, *figure.notes]
