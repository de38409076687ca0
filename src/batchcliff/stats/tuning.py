"""The best learning rate of a cell, chosen by accuracy on examples that were held out.

As Shallue et al. 2019 (1811.03600) argue, arms can be compared fairly only where each of
them, at each batch size, had the same search: a rule that suits one may not suit the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchcliff.errors import UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.shares import mean_difference
from batchcliff.stats.summary import StudySummary


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A rate that was tried. mean: validation accuracy over the measured trials, a share,
    diverged ones at chance; None where none was measured. lost: oom, timeout, failed, ..."""

    lr: float
    mean: float | None
    trials: int
    diverged: int
    lost: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LrChoice:
    """The search of one arm at one batch size.

    lr: the best candidate; None where none was measured, or while trials are `missing`.
    edge: "lowest" or "highest" where the best is at that end of the candidates, so that a
    better one may lie beyond; else "". budget: trials of the search, as planned.
    """

    arm: str
    batch_size: int
    candidates: tuple[Candidate, ...]  # with a record, rates ascending
    lr: float | None
    edge: str
    budget: int
    missing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleComparison:
    """Tuned minus scaled by the rule, paired by seed: test accuracy in shares."""

    arm: str
    rule_arm: str
    batch_size: int
    difference: Estimate


def candidates_of(records: Iterable[TrialRecord]) -> tuple[Candidate, ...]:
    """The rates that `records` of one cell's tuning trials tried, ascending.

    Raises UsageError for an ok record without an accuracy, and for one of the test set.
    """
    by_lr: dict[float, list[TrialRecord]] = defaultdict(list)
    for record in records:
        if not record.spec.validation:
            raise UsageError(f"trial {record.trial_id} is judged by the test set: no tuning")
        by_lr[record.spec.lr].append(record)
    return tuple(_candidate(lr, found) for lr, found in sorted(by_lr.items()))


def _candidate(lr: float, records: Sequence[TrialRecord]) -> Candidate:
    values, diverged = [], 0
    for record in records:
        if record.outcome is Outcome.DIVERGED and record.ledger is not None:
            values.append(1 / record.ledger.num_classes)
            diverged += 1
        elif record.outcome is Outcome.OK:
            if record.accuracy is None or not math.isfinite(record.accuracy):
                raise UsageError(f"trial {record.trial_id} is ok and has no accuracy")
            values.append(record.accuracy)
    return Candidate(
        lr=lr,
        mean=math.fsum(values) / len(values) if values else None,
        trials=len(records),
        diverged=diverged,
        lost=len(records) - len(values),
    )


def best_lr(records: Iterable[TrialRecord]) -> float | None:
    """The rate with the best mean validation accuracy, of equal ones the smallest.

    records: of all tuning trials of one cell. None if no candidate was measured.
    """
    return _best(candidates_of(records))


def _best(candidates: Sequence[Candidate]) -> float | None:
    measured = [(c.mean, -c.lr) for c in candidates if c.mean is not None]
    return -max(measured)[1] if measured else None


def lr_choice(
    arm: str,
    batch_size: int,
    records: Sequence[TrialRecord | None],
    taken: float | None = None,
) -> LrChoice:
    """The search of one cell; `records` of all its planned tuning trials, None if missing.

    taken: the rate that its reported trials have, where they have one already.
    """
    candidates = candidates_of(record for record in records if record is not None)
    missing = sum(record is None for record in records)
    lr = taken if taken is not None else (None if missing else _best(candidates))
    edge, rates = "", [candidate.lr for candidate in candidates]
    if lr is not None and lr in (rates[0], rates[-1]):
        edge = "lowest" if lr == rates[0] else "highest"
    return LrChoice(
        arm=arm,
        batch_size=batch_size,
        candidates=candidates,
        lr=lr,
        edge=edge,
        budget=len(records),
        missing=missing,
    )


def rule_arms(study: StudySpec) -> dict[str, str]:
    """Tuned arm -> the arm that differs from it only in following the rule, if there is one."""
    rules = {arm.name: arm.lr or study.lr for arm in study.arms}
    found: dict[str, str] = {}
    for arm in study.arms:
        tuned = rules[arm.name]
        for other in study.arms if tuned.tune else ():
            plain = rules[other.name]
            alike = all(
                getattr(arm, name) == getattr(other, name)
                for name in ("techniques", "settings", "decay")
            )
            rule = (plain.scaling, plain.base_batch_size)
            if alike and not plain.tune and rule == (tuned.scaling, tuned.base_batch_size):
                found.setdefault(arm.name, other.name)
    return found


def against_rule(
    summary: StudySummary, pairs: Mapping[str, str]
) -> dict[tuple[str, int], RuleComparison]:
    """Tuned arms against the rule's at each batch size that both have, by (arm, batch size).

    pairs: as from `rule_arms`. Diverged trials count at chance.
    """
    found = {}
    for tuned, plain in pairs.items():
        others = {c.cell.batch_size: c.cell for c in summary.arm(plain).cells}
        for cell in (c.cell for c in summary.arm(tuned).cells):
            other = others.get(cell.batch_size)
            if other is None or summary.chance is None:
                continue
            mine, theirs = cell.values(summary.chance), other.values(summary.chance)
            values = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
            found[tuned, cell.batch_size] = RuleComparison(
                arm=tuned,
                rule_arm=plain,
                batch_size=cell.batch_size,
                difference=mean_difference(
                    values, summary.level, "tuned minus rule, paired by seed"
                ),
            )
    return found
