"""The tables of the page and of `results.md`, as values: texts in rows, ready to be shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchcliff.published import Published
from batchcliff.record import Outcome
from batchcliff.report.join import Joined
from batchcliff.report.ledger import LedgerRow
from batchcliff.report.tables import PublishedRow
from batchcliff.report.text import (
    NOTHING,
    batch,
    clean,
    display_names,
    number,
    percent,
    points,
    stage_sizes,
)
from batchcliff.report.words import TIMES, CliffRow, shift_text
from batchcliff.stats.compare import DETECT, POWER
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.shares import USELESS
from batchcliff.stats.summary import CellSummary, StudySummary

WIDE_ARMS = 5  # more arms than that do not fit beside each other as columns
OUTCOME_ROWS = 200  # at most this many trials that are not ok are listed one by one
COUNTS = ("planned", "ok", "diverged", "infeasible", "oom", "timeout", "failed", "missing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table to be read: `rows[i][0]` names its row, `text` columns are aligned left."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: tuple[int, ...] = (0,)  # indices of columns that hold words


def cliffs_table(rows: Sequence[CliffRow], summary: StudySummary) -> Table:
    """Both cliffs of each arm and how far they moved."""
    lost = f"{100 * summary.delta:g} points"
    level = f"{summary.level:.0%}"
    return Table(
        name="cliffs",
        caption=f"Cliffs as batch sizes. Tolerance: the mean falls {lost} below the plateau of "
        f"“{clean(summary.reference_arm, 32)}”. Collapse: half of the trials end near chance "
        f"(under the floor, {percent(summary.floor, 1)}) or diverge. Shift: "
        "factor of batch size against that arm, both drawn together: not the quotient of the "
        f"two cliffs beside it, which are estimated apart. Intervals: {level}.",
        header=("arm", "tolerance cliff", "interval", "shift", "collapse cliff", "interval",
                "shift"),
        rows=tuple(
            (clean(r.arm, 60), r.tolerance, r.tolerance_interval, r.tolerance_shift,
             r.collapse, r.collapse_interval, r.collapse_shift)
            for r in rows
        ) if any(NOTHING not in (r.tolerance, r.collapse) for r in rows) else (),
    )  # fmt: skip


def shifts_table(summary: StudySummary) -> Table:
    """The test of every shift, and what the seeds at hand could have found."""
    names = display_names(arm.arm for arm in summary.arms)
    found = [
        (arm.arm, shift)
        for arm in summary.arms
        for shift in (arm.tolerance_shift, arm.collapse_shift)
        if shift is not None and shift.p_value is not None
    ]
    return Table(
        name="shifts",
        caption=f"How far each arm moves a cliff of “{clean(summary.reference_arm, 32)}”, as "
        "a factor of batch size. p: of no shift, two-sided; corrected: Holm's, over the arms, "
        "for each kind of cliff. Found from: the smallest shift that as many seeds show with "
        f"probability {POWER:g}. Seeds for {TIMES}{DETECT:.2f}: about how many a cell show "
        "so small a one.",
        header=("arm", "cliff", "shift", "pairs of trials", "p", "p, corrected", "found from",
                f"seeds for {TIMES}{DETECT:.2f}"),
        rows=tuple(
            (names[arm], shift.kind, shift_text(shift), f"{shift.pairs:,}",
             chance_text(shift.p_value), chance_text(shift.p_adjusted),
             NOTHING if shift.minimum_detectable is None
             else TIMES + number(shift.minimum_detectable, 3), number(shift.seeds_needed))
            for arm, shift in found
        ),
        text=(0, 1),
    )  # fmt: skip


def chance_text(p_value: float | None) -> str:
    """ "0.012", "< 0.001" (which 2,000 draws do not resolve), or a dash."""
    if p_value is None:
        return NOTHING
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def mean_text(estimate: Estimate) -> str:
    """ "91.75% ± 0.30" (half the interval, points), "97.10% (81.2 to 100)" where it is cut at
    what is possible, "91.75%" without one, or a dash."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return NOTHING
    if low is None or high is None:
        return percent(value) + f" ({USELESS})" * (USELESS in estimate.note)
    if not math.isclose(value - low, high - value, abs_tol=1e-9):
        return f"{percent(value)} ({100 * low:.3g} to {100 * high:.3g})"
    return f"{percent(value)} ± {100 * (high - low) / 2:.2f}"


HEADER = ("arm", "batch size", "updates", "accuracy", "n", "collapsed or diverged",
          "lowest to highest")  # fmt: skip


def results_table(summary: StudySummary, ledger: Sequence[LedgerRow] = ()) -> Table:
    """Accuracy by arm and batch size: an arm a row of cells, a batch size a line."""
    names = display_names(arm.arm for arm in summary.arms)
    updates = {(row.arm, row.batch_size): row.updates for row in ledger}
    rows = [
        (
            names[arm.arm],
            f"{c.cell.batch_size:,}",
            number(updates.get((arm.arm, c.cell.batch_size))),
            mean_text(c.mean),
            str(c.cell.ok),
            _failing_text(c),
            _best_worst(c.cell.accuracies),
        )
        for arm in summary.arms
        for c in arm.cells
    ]
    return Table(
        name="results",
        caption=f"Test accuracy over the n trials that ended ok: mean ± half of the "
        f"{summary.level:.0%} t interval, in points, or its ends where it is cut at 0 or 100%. "
        f"{USELESS.capitalize()}: it would reach beyond both. "
        "Failing: diverged, or ended below "
        f"{percent(summary.floor, 1)}, with the exact binomial interval of their share.",
        header=HEADER,
        rows=tuple(rows),
    )


def _failing_text(cell: CellSummary) -> str:
    """ "3 of 8 (9 to 76%)"; without interval for one trial, which has none worth a name."""
    if not cell.cell.measured:
        return NOTHING
    text, share = f"{cell.failing} of {cell.cell.measured}", cell.failure_share
    if cell.cell.measured == 1 or share.low is None or share.high is None:
        return text
    return f"{text} ({100 * share.low:.0f} to {100 * share.high:.0f}%)"


def _best_worst(accuracies: Sequence[float]) -> str:
    if len(accuracies) < 2:
        return NOTHING
    return f"{percent(min(accuracies))} to {percent(max(accuracies))}"


def wide_results_table(summary: StudySummary) -> Table:
    """The article's form: a batch size a row, an arm a column; with many arms, turned."""
    names = display_names(arm.arm for arm in summary.arms)
    texts = {
        (a.arm, c.cell.batch_size): mean_text(c.mean)
        + (f", {c.cell.diverged} diverged" if c.cell.diverged else "")
        for a in summary.arms
        for c in a.cells
    }
    sizes = sorted({size for _, size in texts})
    turned = len(names) > max(WIDE_ARMS, len(sizes))
    if turned:
        rows = [(names[a], *(texts.get((a, size), NOTHING) for size in sizes)) for a in names]
    else:
        rows = [
            (f"{size:,}", *(texts.get((a, size), NOTHING) for a in names)) for size in sizes
        ]
    return Table(
        name="accuracy",
        caption=f"Test accuracy{' by batch size' * turned}, mean ± half of the "
        f"{summary.level:.0%} interval in points",
        header=("arm", *(f"{size:,}" for size in sizes))
        if turned
        else ("batch size", *names.values()),
        rows=tuple(rows),
        text=(0,) if turned else (),
    )


def accounting_table(summary: StudySummary) -> Table:
    """How every planned trial ended; each row's counts add up to its planned ones."""
    cells = [(arm.arm, c.cell) for arm in summary.arms for c in arm.cells]
    sums = {name: sum(getattr(cell, name) for _, cell in cells) for name in COUNTS}
    assert sums["planned"] == sum(sums[name] for name in COUNTS[1:]), sums
    names = display_names(arm.arm for arm in summary.arms)
    rows = [
        (names[arm], f"{cell.batch_size:,}", *(str(getattr(cell, name)) for name in COUNTS))
        for arm, cell in cells
    ]
    rows.append(("all", "", *(str(sums[name]) for name in COUNTS)))
    return Table(
        name="accounting",
        caption="Accounting: planned = ok + diverged + infeasible + oom + timeout + failed + "
        "missing, in every row",
        header=("arm", "batch size", *COUNTS),
        rows=tuple(rows),
    )


def published_table(rows: Sequence[PublishedRow], published: Published) -> Table:
    """A published table beside ours."""
    return Table(
        name="published",
        caption=f"{published.source}, beside this study: {published.metric}. Difference: ours "
        "minus published, in percentage points.",
        header=("arm", "batch size", "published", "ours", "n", "not ok", "difference"),
        rows=tuple(
            (r.arm, f"{r.batch_size:,}", percent(r.published), percent(r.ours), str(r.n),
             str(r.not_ok), points(r.difference))
            for r in rows
        ),
    )  # fmt: skip


def differences_table(summary: StudySummary) -> Table:
    """Arm minus reference arm at each batch size."""
    names = display_names(arm.arm for arm in summary.arms)
    rows = [
        (
            names[arm.arm],
            f"{d.batch_size:,}",
            points(d.difference.value),
            NOTHING
            if d.difference.low is None
            else f"{points(d.difference.low)} to {points(d.difference.high)}",
            str(d.difference.n),
            clean(d.difference.note, 120),
        )
        for arm in summary.arms
        for d in arm.differences
    ]
    return Table(
        name="differences",
        caption=f"Arm minus “{clean(summary.reference_arm, 32)}”, percentage points, paired by "
        f"seed; {summary.level:.0%} interval, cut at 100 points either way",
        header=("arm", "batch size", "difference", "interval", "pairs", "note"),
        rows=tuple(rows),
        text=(0, 5),
    )


def ledger_table(rows: Sequence[LedgerRow]) -> Table:
    """The arithmetic of every cell with its flags."""
    names = display_names(row.arm for row in rows)
    devices = {row.device for row in rows} - {""}
    several = len(devices) > 1
    whose = f" ({clean(next(iter(devices)), 60)})" if len(devices) == 1 else ""
    return Table(
        name="ledger",
        caption="What each trial of a cell was given. Flags are explained below. Batch size: "
        "every one in turn where it changes during the run. Updates: planned, in all, an epoch "
        "and in warmup. Dropped: examples that an epoch leaves out. "
        "Norm group: examples that share batch-norm statistics; its horizon is in epochs. "
        "Re-estimated: largest change of accuracy, in points, with re-estimated statistics. "
        f"Seconds: of a trial that ended ok{whose}, a mean; its share, where trials trained "
        "together. Device hours: of all of the cell's trials, workers that shared a device "
        "counted once; neither over trials of several devices.",
        header=("arm", "batch size", "flags", "updates", "an epoch", "warmup", "dropped",
                "norm group", "norm horizon", "micro batches", "re-estimated",
                "peak learning rate", "seconds", "device hours", *(["device"] * several)),
        rows=tuple(
            (names[r.arm], stage_sizes(r.batch_size, r.stages), ", ".join(r.flags),
             number(r.updates), number(r.updates_per_epoch), number(r.warmup_updates),
             percent(r.dropped_share, 1), number(r.batch_norm_group),
             number(r.batch_norm_horizon_epochs, 3), number(r.accumulation),
             points(r.reestimated_gap, 1).lstrip("+"),
             (clean(r.lr_provenance, 60) or number(r.lr)) + _later_rates(r),
             number(r.seconds, 3), number(r.device_hours, 3),
             *([clean(r.device, 60)] * several))
            for r in rows
        ),
        text=(0, 2, 11, 14) if several else (0, 2, 11),
    )  # fmt: skip


def _later_rates(row: LedgerRow) -> str:
    """ "; 0.1, 0.1, 0.02 in turn": the rates of the stages, where they differ."""
    rates = [f"{stage.lr:.4g}" for stage in row.stages]
    return f"; {', '.join(rates)} in turn" if len(set(rates)) > 1 else ""


def outcomes_table(joined: Joined) -> Table:
    """The trials that did not end ok, one by one, at most `OUTCOME_ROWS` of them."""
    bad = [
        (t, t.record)
        for t in joined.trials
        if t.record is not None and t.record.outcome is not Outcome.OK
    ]
    names = display_names(joined.arms)
    more = len(bad) - OUTCOME_ROWS
    return Table(
        name="outcomes",
        caption="Trials that did not end ok. Divergence is a measurement: it says something "
        "about the setting."
        + (f" The first {OUTCOME_ROWS}; {more:,} more in results.csv." if more > 0 else ""),
        header=("arm", "batch size", "seed", "outcome", "first bad update", "of", "reason"),
        rows=tuple(
            (names[t.arm], f"{t.batch_size:,}", str(t.seed), r.outcome.value,
             number(r.first_bad_update), number(r.ledger.updates if r.ledger else None),
             clean(r.reason, 200))
            for t, r in bad[:OUTCOME_ROWS]
        ),
        text=(0, 3, 6),
    )  # fmt: skip


def missing_text(joined: Joined) -> str:
    """Which planned trials have no record, in one line; "" if none."""
    missing = [t for t in joined.trials if t.record is None]
    names = display_names(joined.arms)
    shown = [f"{names[t.arm]} {batch(t.batch_size)} seed {t.seed}" for t in missing[:6]]
    more = len(missing) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
