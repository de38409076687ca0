"""Estimates as sentences: what the report answers, said no stronger than it is known."""

from __future__ import annotations

from dataclasses import dataclass

from batchcliff.report.text import NOTHING, batch, clean, listed, percent
from batchcliff.stats.compare import Shift
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.summary import ArmSummary, StudySummary

TIMES = "\N{MULTIPLICATION SIGN}"
FEW_ARMS = 3  # besides the reference; the answer stays short with more
EVENTS = {
    "tolerance": "loses {delta} points of accuracy",
    "collapse": "has half of its trials fail",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CliffRow:
    """One arm's cliffs as texts for the table under the answer."""

    arm: str
    tolerance: str
    tolerance_interval: str
    tolerance_shift: str
    collapse: str
    collapse_interval: str
    collapse_shift: str


def open_ends(estimate: Estimate) -> tuple[bool, bool]:
    """Whether the interval is open towards small and towards large batch sizes."""
    return estimate.unbounded in ("low", "both"), estimate.unbounded in ("high", "both")


def cliff_text(estimate: Estimate) -> str:
    """A cliff as a batch size: "890", "> 8,192", "< 128", "512 to 1,024", or a dash."""
    if estimate.value is None:
        return NOTHING
    if estimate.censored:
        sign = {"above": ">", "below": "<"}[estimate.censored]
        return f"{sign} {batch(estimate.value)}"
    if not estimate.has_interval and estimate.bracket is not None:
        low, high = estimate.bracket
        return f"{batch(low)} to {batch(high)}"
    return batch(estimate.value)


def interval_text(estimate: Estimate, factor: bool = False) -> str:
    """The interval in words, "" where there is none."""
    if not estimate.has_interval:
        return ""

    def end(value: float | None) -> str:
        return NOTHING if value is None else (f"{value:.2f}" if factor else batch(value))

    open_low, open_high = open_ends(estimate)
    if open_low and open_high:
        return "unbounded on this grid"
    if open_high:
        return f"at least {end(estimate.low)}"
    if open_low:
        return f"at most {end(estimate.high)}"
    return f"{end(estimate.low)} to {end(estimate.high)}"


def shift_text(shift: Shift | None) -> str:
    """Such as "x2.03 (1.62 to 2.41)" with a multiplication sign, or a dash."""
    if shift is None or shift.factor.value is None:
        return NOTHING
    sign = {"": "", "above": "≥ ", "below": "≤ "}[shift.factor.censored]
    interval = interval_text(shift.factor, factor=True)
    return f"{sign}{TIMES}{shift.factor.value:.2f}" + (f" ({interval})" if interval else "")


def cliff_rows(summary: StudySummary) -> tuple[CliffRow, ...]:
    """The cliffs of every arm."""
    return tuple(
        CliffRow(
            arm=arm.arm,
            tolerance=cliff_text(arm.tolerance),
            tolerance_interval=interval_text(arm.tolerance) or NOTHING,
            tolerance_shift=shift_text(arm.tolerance_shift),
            collapse=cliff_text(arm.collapse),
            collapse_interval=interval_text(arm.collapse) or NOTHING,
            collapse_shift=shift_text(arm.collapse_shift),
        )
        for arm in summary.arms
    )


def headline(summary: StudySummary) -> tuple[str, ...]:
    """The answer: how far each arm moves each cliff, then where each arm's cliffs are.

    Every sentence carries its interval, or says why it has none. With many arms, what the
    cliffs' table says of the collapse is left to it.
    """
    if not any(c.cell.measured for arm in summary.arms for c in arm.cells):
        return ("No trial has been measured yet: there is no answer to give.",)
    others = [arm for arm in summary.arms if arm.arm != summary.reference_arm]
    sentences = [_shift_sentence(arm.tolerance_shift, summary) for arm in others]
    if len(others) <= FEW_ARMS:
        sentences += [_shift_sentence(arm.collapse_shift, summary) for arm in others]
    sentences += [_arm_sentence(arm, summary) for arm in summary.arms]
    if len(others) <= FEW_ARMS:
        sentences.append(_collapse_sentence(summary))
    if max(c.cell.measured for arm in summary.arms for c in arm.cells) == 1:
        sentences.append(
            "One seed a cell: no interval can be given, and a fall at one batch size may be "
            "chance. Run at least 3 seeds before deciding on it."
        )
    return tuple(s for s in sentences if s)


def _arm_sentence(arm: ArmSummary, summary: StudySummary) -> str:
    name, estimate = f"“{clean(arm.arm, 32)}”", arm.tolerance
    lost = f"{100 * summary.delta:g} points"
    if estimate.value is None:
        return f"{name}: no cliff can be given ({clean(estimate.note, 200) or 'no data'})."
    plateau = f"the plateau of {percent(summary.plateau, 1)}"
    if estimate.censored == "above":
        return (
            f"{name} stays within {lost} of {plateau} up to {batch(estimate.value)}, the "
            f"largest batch size measured: its cliff was not reached{_bound(estimate)}."
        )
    if estimate.censored == "below":
        return (
            f"{name} lies more than {lost} under {plateau} at {batch(estimate.value)} already, "
            f"the smallest batch size measured{_bound(estimate)}."
        )
    if not estimate.has_interval and estimate.bracket is not None:
        return f"{name} falls {lost} below {plateau} between {_bracket(estimate)}."
    return (
        f"{name} falls {lost} below {plateau} at batch size {batch(estimate.value)}"
        f"{_bound(estimate)}."
    )


def _bracket(estimate: Estimate) -> str:
    assert estimate.bracket is not None
    return listed(f"{size:,}" for size in estimate.bracket)


def _bound(estimate: Estimate) -> str:
    text = interval_text(estimate)
    return f" ({estimate.level:.0%} interval: {text})" if text else ""


def _shift_sentence(shift: Shift | None, summary: StudySummary) -> str:
    """What an arm does to one of the two cliffs, no stronger than its interval allows."""
    if shift is None:
        return ""
    name, reference = f"“{clean(shift.arm, 32)}”", f"“{clean(shift.reference_arm, 32)}”"
    event = EVENTS[shift.kind].format(delta=f"{100 * summary.delta:g}")
    factor = shift.factor
    if factor.value is None:
        why = f": {clean(factor.note, 200)}" if factor.note else ""
        return f"How far {name} moves the {shift.kind} cliff of {reference} is unknown{why}."
    bound = {"": "", "above": "at least ", "below": "at most "}[factor.censored]
    found = f"{name} {event} at {bound}{factor.value:.2f} times the batch size of {reference}"
    if not factor.has_interval:
        return f"{found} (one seed: no interval)."
    found += f" ({factor.level:.0%} interval: {interval_text(factor, factor=True)})"
    if factor.covers(1.0):
        return f"{found}; that it moves the cliff at all is not shown."
    if shift.p_adjusted is not None and shift.p_adjusted > 1 - factor.level:
        return f"{found}; corrected for the number of arms, that is not certain."
    return f"{found}."


def _collapse_sentence(summary: StudySummary) -> str:
    parts = []
    for arm in summary.arms:
        estimate, name = arm.collapse, f"“{clean(arm.arm, 32)}”"
        if estimate.value is None:
            continue
        if estimate.censored == "above":
            parts.append(f"not up to {batch(estimate.value)} in {name}")
        elif estimate.censored == "below":
            parts.append(f"below {batch(estimate.value)} in {name}")
        elif not estimate.has_interval and estimate.bracket is not None:
            parts.append(f"between {_bracket(estimate)} in {name}")
        else:
            parts.append(f"at {batch(estimate.value)} in {name}{_bound(estimate)}")
    if not parts:
        return ""
    return f"Half of the trials fail (diverge, or end far under the plateau) {listed(parts)}."
