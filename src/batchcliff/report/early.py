"""What a report says of a search for cliffs, and of trials that ended before their budget."""

from __future__ import annotations

from collections import Counter

from batchcliff.report.join import Joined
from batchcliff.report.text import clean, plural
from batchcliff.spec import StudySpec
from batchcliff.stats.search import brackets

MEANINGS = {
    "stalled": "ended early as stalled: the training loss had not left chance by then. The "
    "accuracy is the one that the trial had; it counts as collapsed",
    "target": "ended with the first evaluation at the target accuracy, which is therefore "
    "what it shows",
}


def search_notes(study: StudySpec, joined: Joined) -> tuple[str, ...]:
    """Where an adaptive study found each cliff, a sentence each; () for a grid."""
    if study.search is None:
        return ()
    found = {
        (t.arm, t.batch_size, t.seed): t.record for t in joined.trials if t.record is not None
    }
    lines = [f"Adaptive search, {line}." for line in brackets(study, found).lines]
    return ("Batch sizes and numbers of seeds were chosen on the way.", *lines)


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
