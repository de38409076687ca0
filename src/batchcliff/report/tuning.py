"""How the learning rates of a study were chosen, as a table and as warnings."""

from __future__ import annotations

from collections.abc import Sequence

from batchcliff.report.pagetables import Table
from batchcliff.report.text import NOTHING, clean, display_names, percent, points
from batchcliff.spec import StudySpec
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.shares import USELESS
from batchcliff.stats.summary import StudySummary
from batchcliff.stats.tuning import LrChoice, against_rule, rule_arms


def tuning_table(choices: Sequence[LrChoice], study: StudySpec, summary: StudySummary) -> Table:
    """A row for each search, and what it gained over an arm that follows the rule."""
    names = display_names(arm.name for arm in study.arms)
    pairs = rule_arms(study)
    gained = against_rule(summary, pairs)
    rows = []
    for choice in choices:
        rule = gained.get((choice.arm, choice.batch_size))
        rows.append(
            (
                names[choice.arm],
                f"{choice.batch_size:,}",
                ", ".join(f"{c.lr:.4g}: {percent(c.mean, 1)}" for c in choice.candidates)
                or NOTHING,
                _chosen(choice),
                "yes" if choice.edge else "no" if choice.lr is not None else NOTHING,
                str(choice.budget),
                NOTHING if rule is None else names[rule.rule_arm],
                NOTHING if rule is None else _difference(rule.difference),
            )
        )
    return Table(
        name="tuning",
        caption="How each learning rate was chosen: the candidates with their accuracy on "
        "held-out training examples (diverged trials at chance), the best one, whether it is "
        "on the edge of its grid, and the trials of the search. Against the rule: test "
        "accuracy of the tuned arm minus that of the arm whose rate follows the scaling rule, "
        f"in points, paired by seed, {summary.level:.0%} interval.",
        header=("arm", "batch size", "candidates", "chosen", "on the edge of its grid",
                "trials", "rule", "against the rule"),
        rows=tuple(rows),
        text=(0, 2, 6),
    )  # fmt: skip


def _chosen(choice: LrChoice) -> str:
    if choice.lr is not None:
        return f"{choice.lr:.4g}"
    return f"{choice.missing} trials missing" if choice.missing else "none was measured"


def _difference(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return points(estimate.value) + f" ({USELESS})" * (USELESS in estimate.note)
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def tuning_warnings(choices: Sequence[LrChoice]) -> tuple[str, ...]:
    """What could make a tuned answer too low: a sentence for each kind."""
    found = []
    if edge := [choice for choice in choices if choice.edge]:
        found.append(
            f"{_places(edge)}: the best learning rate is on the edge of its grid; a better one "
            "may lie beyond, and the accuracy is a lower bound of what tuning gives."
        )
    if lost := [choice for choice in choices if any(c.lost for c in choice.candidates)]:
        found.append(
            f"{_places(lost)}: tuning trials without a result, so that the search was smaller "
            "than that of the others."
        )
    return tuple(found)


def _places(choices: Sequence[LrChoice]) -> str:
    """ "none at 64 and 128; warmup at 512"."""
    arms = dict.fromkeys(choice.arm for choice in choices)
    parts = []
    for arm in arms:
        sizes = [f"{c.batch_size:,}" for c in choices if c.arm == arm]
        shown = " and ".join(filter(None, [", ".join(sizes[:-1]), sizes[-1]]))
        parts.append(f"{clean(arm, 32)} at {shown}")
    return "; ".join(parts)
