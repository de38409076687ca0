"""Estimates as sentences: what the report answers, said no stronger than it is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from batchcliff.report.text import (
    NOTHING,
    batch,
    clean,
    listed,
    number,
    percent,
    plural,
    points,
)
from batchcliff.stats.cells import Cell
from batchcliff.stats.compare import DETECT, POWER, PairedDifference, Shift
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.shares import USELESS
from batchcliff.stats.summary import ArmSummary, StudySummary

TIMES = "\N{MULTIPLICATION SIGN}"
FEW_SIZES = 2  # batch sizes of an arm: no curve, so its differences are what can be said
NO_INTERVAL = " (one seed: no interval)"
MAX_DIFFERENCES = 12  # in one sentence; the table has them all
FEW_ARMS = 3  # besides the reference; the answer stays short with more
EVENTS = {
    "tolerance": "{name} loses {delta} points of accuracy",
    "collapse": "Half of the trials of {name} collapse",
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

    Every sentence carries its interval, or says why it has none. With many arms, their own
    cliffs and the collapse are left to the cliffs' table.
    """
    cells = [c.cell for arm in summary.arms for c in arm.cells]
    if not any(cell.measured for cell in cells):
        return (_nothing_measured(cells),)
    sparse = [a for a in summary.arms if a.differences and _sizes(a) <= FEW_SIZES]
    sentences = _difference_sentences(sparse, summary)
    only_these = bool(sentences) and len(sparse) == len(summary.arms) - 1
    notes = {arm.tolerance.note for arm in summary.arms}
    if len(notes) == 1 and all(arm.tolerance.value is None for arm in summary.arms):
        sentences.append(f"No cliff can be given: {clean(notes.pop(), 200)}.")
        sentences += _other_reference(summary)
    elif only_these:
        sentences.append(
            "One or two measured batch sizes of an arm are too few to place "
            "a cliff: the table of cliffs has what they say of one."
        )
    else:
        sentences = _answers(summary) + sentences
    if max(cell.measured for cell in cells) == 1:
        sentences.append(
            "One seed a cell: no interval can be given, and a fall at one batch size may be "
            "chance. Run at least 3 seeds before deciding on it."
        )
    if missing := sum(cell.missing for cell in cells):
        planned = sum(cell.planned for cell in cells)
        sentences.append(
            f"{missing:,} of {planned:,} planned trials have no result yet: the answer is "
            "preliminary."
        )
    return tuple(sentences)


def _other_reference(summary: StudySummary) -> list[str]:
    """Where the reference arm learns nothing: those that do, which could stand for it."""
    if summary.plateau is None or summary.chance is None:
        return []
    least = summary.chance + 2 * summary.delta
    others = [
        f"“{clean(arm.arm, 32)}”"
        for arm in summary.arms
        if max((c.mean_with_failures.value or 0.0 for c in arm.cells), default=0.0) > least
    ]
    if not others or summary.plateau > least:
        return []
    learn, which = ("learns", "it") if len(others) == 1 else ("learn", "one of them")
    return [f"{listed(others[:3])} {learn}: name {which} as the reference arm."]


def _nothing_measured(cells: Sequence[Cell]) -> str:
    """That there is no answer, and what became of the trials that ended."""
    ended = {
        name: sum(getattr(cell, name) for cell in cells)
        for name in ("failed", "oom", "timeout", "infeasible")
    }
    total = sum(ended.values())
    if total == 0:
        return "No trial has been measured yet: there is no answer to give."
    how = listed(f"{count:,} {name}" for name, count in ended.items() if count)
    return (
        f"None of the {plural(total, 'trial')} that ended says anything of its setting "
        f"({how}): there is no answer to give."
    )


def _sizes(arm: ArmSummary) -> int:
    """How many batch sizes of the arm have a measured trial."""
    return sum(c.cell.measured > 0 for c in arm.cells)


def _difference_sentences(arms: Sequence[ArmSummary], summary: StudySummary) -> list[str]:
    """How `arms` differ from the reference: a sentence for each batch size, and before them
    one for the range where they are many. No sentence without a difference.
    """
    known = [d for arm in arms for d in arm.differences if d.difference.value is not None]
    known.sort(key=lambda d: (d.batch_size, -(d.difference.value or 0.0)))
    if not known:
        return []
    reference = summary.arm(summary.reference_arm)
    name = f"“{clean(reference.arm, 32)}”"
    sentences = []
    if len(known) > FEW_ARMS:
        ends = sorted(known, key=lambda d: d.difference.value or 0.0)
        low, high = (
            f"{points(d.difference.value)} points (“{clean(d.arm, 32)}” at {d.batch_size:,})"
            for d in (ends[0], ends[-1])
        )
        certain = NO_INTERVAL if all(d.difference.n == 1 for d in known) else ""
        sentences.append(
            f"The arms differ from {name} by {low} to {high} of accuracy{certain}."
        )
    means = {c.cell.batch_size: c.mean_with_failures.value for c in reference.cells}
    for size, group in itertools.groupby(known, key=lambda d: d.batch_size):
        found = list(group)
        told = [
            f"“{clean(d.arm, 32)}” {points(d.difference.value)}{_ends(d)}"
            for d in found[:MAX_DIFFERENCES]
        ]
        more = len(found) - MAX_DIFFERENCES
        told += [f"{more} more in the table of differences"] * (more > 0)
        sentences.append(
            f"At batch size {size:,}, in points against {name} with {percent(means[size])}: "
            f"{listed(told)}{_certainty(found, summary)}."
        )
    return sentences


def _ends(found: PairedDifference) -> str:
    low, high = found.difference.low, found.difference.high
    if low is None or high is None:
        return f" ({USELESS})" * (USELESS in found.difference.note)
    return f" ({points(low)} to {points(high)})"


def _certainty(found: Sequence[PairedDifference], summary: StudySummary) -> str:
    if all(d.difference.n == 1 for d in found):
        return NO_INTERVAL
    if all(d.difference.low is None for d in found):
        return ""
    return f" ({summary.level:.0%} intervals of seeds in pairs)"


def _answers(summary: StudySummary) -> list[str]:
    others = [arm for arm in summary.arms if arm.arm != summary.reference_arm]
    few = len(others) <= FEW_ARMS
    sentences = _shift_sentences([a.tolerance_shift for a in others], summary)
    if few:
        sentences += _shift_sentences([a.collapse_shift for a in others], summary)
    told = summary.arms if few else [summary.arm(summary.reference_arm)]
    sentences += [_arm_sentence(arm, summary) for arm in told]
    return [s for s in [*sentences, _collapse_sentence(summary) if few else ""] if s]


def _arm_sentence(arm: ArmSummary, summary: StudySummary) -> str:
    name, estimate = f"“{clean(arm.arm, 32)}”", arm.tolerance
    lost = f"{100 * summary.delta:g} points"
    if estimate.value is None:
        return f"{name}: no cliff can be given ({clean(estimate.note, 200) or 'no data'})."
    plateau = f"the plateau of {percent(summary.plateau, 1)}"
    # The estimate allows for noise, so it can disagree with the means in the table: then
    # neither is the answer, and both are said.
    if estimate.censored and estimate.has_interval and estimate.bracket is not None:
        return (
            f"{name}: the place of its fall is not determined. Its measured means fall {lost} "
            f"below {plateau} between {_bracket(estimate)}, but with their noise the cliff may "
            f"as well lie {'beyond' if estimate.censored == 'above' else 'below'} "
            f"{batch(estimate.value)}{_bound(estimate)}."
        )
    if not estimate.censored and estimate.has_interval and estimate.bracket is None:
        return (
            f"{name} is not shown to fall: its measured means do not cross the line {lost} "
            f"below {plateau}, though their noise would allow a cliff{_bound(estimate)}."
        )
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
    found = (
        f"{name} falls {lost} below {plateau} at batch size {batch(estimate.value)}"
        f"{_bound(estimate)}."
    )
    if estimate.bracket is not None and (why := beside_bracket(estimate, estimate.bracket)):
        crossing = f"Its measured means cross that line between {_bracket(estimate)}"
        found += f" {crossing}; the estimate lies {why}."
    return found


def beside_bracket(estimate: Estimate, bracket: tuple[int, int]) -> str:
    """On which side of two sizes between which the measured means cross an estimate lies, and
    why; "" where it lies between them."""
    low, high = bracket
    assert estimate.value is not None
    if low <= estimate.value <= high and not estimate.censored:
        return ""
    if estimate.value < low or estimate.censored == "below":
        return "lower, since it allows for falls that the seeds at hand may not have shown"
    return "higher, since it weighs how far the means and the plateau may be off"


def _bracket(estimate: Estimate) -> str:
    assert estimate.bracket is not None
    return listed(f"{size:,}" for size in estimate.bracket)


def _bound(estimate: Estimate) -> str:
    text = interval_text(estimate)
    return f" ({estimate.level:.0%} interval: {text})" if text else ""


def _shift_sentences(shifts: Sequence[Shift | None], summary: StudySummary) -> list[str]:
    """A sentence for each known shift, and one for all that are unknown for one reason."""
    sentences = []
    unknown: dict[tuple[str, str, str], list[str]] = {}
    for shift in shifts:
        if shift is not None and shift.factor.value is not None:
            sentences.append(_shift_sentence(shift, shift.factor.value, summary))
        elif shift is not None:
            key = (shift.kind, shift.reference_arm, shift.factor.note)
            unknown.setdefault(key, []).append(f"“{clean(shift.arm, 32)}”")
    for (kind, reference, note), names in unknown.items():
        shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more arms"]
        why = f": {clean(note, 200)}" if note else ""
        move = "moves" if len(names) == 1 else "move"
        sentences.append(
            f"How far {listed(shown)} {move} the {kind} cliff of “{clean(reference, 32)}” is "
            f"unknown{why}."
        )
    return sentences


def _shift_sentence(shift: Shift, value: float, summary: StudySummary) -> str:
    """What an arm does to one of the two cliffs, no stronger than its interval allows."""
    name, reference = f"“{clean(shift.arm, 32)}”", f"“{clean(shift.reference_arm, 32)}”"
    factor = shift.factor
    delta = f"{100 * summary.delta:g}"
    event = EVENTS[shift.kind].replace("{name}", name).replace("{delta}", delta)
    bound = {"": "times", "above": "times or more", "below": "times or less"}[factor.censored]
    size = f"{value:.2f} {bound} the batch size of {reference}"
    if not factor.has_interval:
        return f"{event} at {size}, by the measured means{NO_INTERVAL}."
    size += f" ({factor.level:.0%} interval: {interval_text(factor, factor=True)})"
    if factor.covers(1.0):
        known = f"Whether {name} moves the {shift.kind} cliff is not shown: it lies at {size}."
        return known + _sensitivity(shift)
    if shift.p_adjusted is not None and shift.p_adjusted > 1 - factor.level:
        return f"{event} at {size}; corrected for the number of arms, that is not certain."
    return f"{event} at {size}."


def _sensitivity(shift: Shift) -> str:
    """What so many seeds could have shown; "" where that cannot be said."""
    if shift.minimum_detectable is None or shift.seeds_needed is None:
        return ""
    least = number(shift.minimum_detectable, 3)
    return (
        f" These seeds show a shift of {TIMES}{least} or more with probability {POWER:g}; "
        f"one of {TIMES}{DETECT:.2f} takes about "
        f"{plural(shift.seeds_needed, 'seed')} a cell."
    )


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
    return (
        f"Half of the trials collapse (end far under the plateau, or diverge) {listed(parts)}."
    )
