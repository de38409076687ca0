"""Trial records grouped into cells: one arm at one batch size, every seed accounted for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from batchcliff.errors import UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import TrialSpec

ACCURACIES = {"running": "accuracy", "reestimated": "accuracy_reestimated"}
"""Which batch-norm statistics the accuracy was measured with: name -> record field."""

Ending = tuple[Outcome, float | None]
"""How a trial ended, with its accuracy, a share, where that is ok and only there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One arm at one batch size. `accuracies[i]` is of the ok trial with `seeds[i]`.

    Asserts planned = ok + diverged + infeasible + oom + timeout + failed + missing.
    """

    arm: str
    batch_size: int
    seeds: tuple[int, ...]  # of the ok trials, ascending
    accuracies: tuple[float, ...]  # shares in [0, 1], ok trials only
    diverged_seeds: tuple[int, ...]  # ascending
    planned: int
    ok: int
    diverged: int
    infeasible: int
    oom: int
    timeout: int
    failed: int
    missing: int

    def __post_init__(self) -> None:
        outcomes = self.ok + self.diverged + self.infeasible + self.oom
        outcomes += self.timeout + self.failed
        assert self.planned == outcomes + self.missing, self
        assert self.ok == len(self.seeds) == len(self.accuracies), self
        assert self.diverged == len(self.diverged_seeds), self

    @property
    def measured(self) -> int:
        """Trials that say something about the setting: ok and diverged."""
        return self.ok + self.diverged

    @property
    def lost(self) -> int:
        """Planned trials that say nothing about it: oom, timeout, failed, missing."""
        return self.oom + self.timeout + self.failed + self.missing

    def values(self, diverged_as: float) -> dict[int, float]:
        """Seed -> accuracy over the measured trials, a diverged one taken as `diverged_as`."""
        pairs = dict(zip(self.seeds, self.accuracies, strict=True))
        return dict(sorted((pairs | dict.fromkeys(self.diverged_seeds, diverged_as)).items()))


@dataclass(frozen=True, slots=True)
class Match:
    """Planned trials with their records: `records[i]` of `planned[i]`, None if missing."""

    planned: tuple[TrialSpec, ...]
    records: tuple[TrialRecord | None, ...]
    outside: int  # records of trials that are not planned


def match(records: Iterable[TrialRecord], planned: Sequence[TrialSpec]) -> Match:
    """Find each planned trial's record by trial id, which is computed once per trial.

    A record may serve two arms that are the same experiment. Raises UsageError for two
    records of one trial.
    """
    by_id: dict[str, TrialRecord] = {}
    for record in records:
        trial_id = record.trial_id
        if trial_id in by_id:
            raise UsageError(f"two records of trial {trial_id}: keep one of them")
        by_id[trial_id] = record
    ids = [spec.trial_id for spec in planned]
    return Match(tuple(planned), tuple(by_id.get(i) for i in ids), len(by_id.keys() - set(ids)))


def make_cells(
    records: Iterable[TrialRecord], planned: Sequence[TrialSpec], accuracy: str = "running"
) -> tuple[Cell, ...]:
    """Cells of every planned (arm, batch size); `match` and `cells_of` in one."""
    return cells_of(match(records, planned), accuracy)


def cells_of(matched: Match, accuracy: str = "running") -> tuple[Cell, ...]:
    """Cells of every planned (arm, batch size): arms in planned order, batches ascending.

    `accuracy` is "running" or "reestimated". Raises UsageError for another one, for two
    planned trials with one (arm, batch size, seed), and for an ok record whose accuracy is
    missing, NaN, or outside [0, 1].
    """
    if accuracy not in ACCURACIES:
        raise UsageError(f"accuracy {accuracy!r} is unknown: write {' or '.join(ACCURACIES)}")
    groups: dict[str, dict[int, dict[int, Ending | None]]] = {}
    for spec, record in zip(matched.planned, matched.records, strict=True):
        seeds = groups.setdefault(spec.arm, defaultdict(dict))[spec.batch_size]
        if spec.seed in seeds:
            raise UsageError(
                f"arm {spec.arm!r}, batch size {spec.batch_size}: seed {spec.seed} is planned "
                "twice (do the two differ in learning rate? choose one before the statistics)"
            )
        seeds[spec.seed] = None if record is None else _ending(record, accuracy)
    return tuple(
        make_cell(arm, batch_size, groups[arm][batch_size])
        for arm in groups
        for batch_size in sorted(groups[arm])
    )


def make_cell(arm: str, batch_size: int, by_seed: Mapping[int, Ending | None]) -> Cell:
    """The cell of one arm at one batch size; None for a planned trial without a result."""
    found = [(seed, ending) for seed, ending in sorted(by_seed.items()) if ending is not None]
    ok = [(seed, value) for seed, (_, value) in found if value is not None]
    count = Counter(outcome for _, (outcome, _) in found)
    return Cell(
        arm=arm,
        batch_size=batch_size,
        seeds=tuple(seed for seed, _ in ok),
        accuracies=tuple(value for _, value in ok),
        diverged_seeds=tuple(s for s, (o, _) in found if o is Outcome.DIVERGED),
        planned=len(by_seed),
        ok=len(ok),
        diverged=count[Outcome.DIVERGED],
        infeasible=count[Outcome.INFEASIBLE],
        oom=count[Outcome.OOM],
        timeout=count[Outcome.TIMEOUT],
        failed=count[Outcome.FAILED],
        missing=len(by_seed) - len(found),
    )


def _ending(record: TrialRecord, accuracy: str) -> Ending:
    if record.outcome is not Outcome.OK:
        return record.outcome, None
    value = getattr(record, ACCURACIES[accuracy])
    if value is None or not isfinite(value) or not 0.0 <= value <= 1.0:
        raise UsageError(
            f"trial {record.trial_id} is ok but its {ACCURACIES[accuracy]} is {value}; "
            "an ok trial has a share between 0 and 1"
        )
    return record.outcome, float(value)
