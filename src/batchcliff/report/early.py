"""What a report says of a search for cliffs, and of trials that ended before their budget."""

from __future__ import annotations

from collections import Counter

from batchcliff.report.join import Joined
from batchcliff.report.text import clean, plural
from batchcliff.report.words import beside_bracket, cliff_text, interval_text
from batchcliff.spec import StudySpec
from batchcliff.stats.search import Sought, brackets
from batchcliff.stats.summary import StudySummary

LEGEND = (
    "Adaptive search: “holds” and “falls” are said of the measured means, by which it decides; "
    "the estimate beside them is that of the cliffs' table, which allows for the noise of the "
    "means, and for falls that the seeds at hand may not have shown."
)

MEANINGS = {
    "stalled": "ended early as stalled: the training loss had not left chance by then. The "
    "accuracy is the one that the trial had; it counts as collapsed",
    "target": "ended with the first evaluation at the target accuracy, which is therefore "
    "what it shows",
}


def search_lines(study: StudySpec, joined: Joined, summary: StudySummary) -> tuple[str, ...]:
    """What an adaptive study knows of each cliff, a line each, after one that says how to read
    them; () for a grid. The size that holds and the one that falls are of the measured means,
    the estimate is `summary`'s: they may differ, and a line says why where they do."""
    if study.search is None:
        return ()
    found = {
        (t.arm, t.batch_size, t.seed): t.record for t in joined.trials if t.record is not None
    }
    decision = brackets(study, found)
    lines = [
        line + _estimated(one, summary)
        for line, one in zip(decision.lines, decision.sought, strict=True)
    ]
    return LEGEND, *lines


def _estimated(one: Sought, summary: StudySummary) -> str:
    """ "; estimate 634 (95% interval: 170 to 1,140), lower, since ..."; "" without interval."""
    arm = next((arm for arm in summary.arms if arm.arm == one.arm), None)
    if arm is None or one.holds is None or one.falls is None:
        return ""
    estimate = arm.tolerance if one.kind == "tolerance" else arm.collapse
    if estimate.value is None or not estimate.has_interval:
        return ""
    text = (
        f"; estimate {cliff_text(estimate)} "
        f"({estimate.level:.0%} interval: {interval_text(estimate)})"
    )
    why = beside_bracket(estimate, (one.holds, one.falls))
    return f"{text}, {why}" if why else text


def search_notes(study: StudySpec, joined: Joined, summary: StudySummary) -> tuple[str, ...]:
    """Where an adaptive study found each cliff, a sentence each; () for a grid."""
    if study.search is None:
        return ()
    legend, *lines = search_lines(study, joined, summary)
    chosen = "Batch sizes and numbers of seeds were chosen on the way."
    return (chosen, legend, *(f"Adaptive search, {line}." for line in lines))


def early_notes(joined: Joined) -> tuple[str, ...]:
    """How many trials of which cells ended before their budget, and why."""
    ended = Counter(
        (t.record.ended, clean(t.arm, 32), t.batch_size)
        for t in joined.trials
        if t.record is not None and t.record.ended
    )
    notes = []
    for why, meaning in MEANINGS.items():
        cells = [f"{arm} at {size:,}" for kind, arm, size in sorted(ended) if kind == why]
        if not cells:
            continue
        count = sum(number for (kind, _, _), number in ended.items() if kind == why)
        shown = ", ".join(cells[:5]) + (f" and {len(cells) - 5} more" if cells[5:] else "")
        notes.append(f"{plural(count, 'trial')} ({shown}) {meaning}.")
    return tuple(notes)
