"""The plan and the records side by side: the one place that says which trial is which."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec

Planned = TrialSpec | tuple[str, int, int, str]
"""One planned trial: its specification, or (arm, batch size, seed, trial id)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One planned trial and its record, None while there is none."""

    arm: str
    batch_size: int
    seed: int
    trial_id: str
    record: TrialRecord | None
    spec: TrialSpec | None = None  # where the plan gives it


@dataclass(frozen=True)  # no slots: what is cut out of ten thousand trials is kept
class Joined:
    """Every planned trial in the plan's order, and what did not fit the plan."""

    trials: tuple[Trial, ...]
    strangers: int  # records whose trial id is not planned; left out of everything
    duplicates: int  # records of an id that had one already; the first is kept

    @functools.cached_property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the plan's order."""
        return tuple(dict.fromkeys(t.arm for t in self.trials))

    @functools.cached_property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes, ascending."""
        return tuple(sorted({t.batch_size for t in self.trials}))

    @functools.cached_property
    def records(self) -> tuple[TrialRecord, ...]:
        """Records of planned trials, each once, in the plan's order."""
        found = {t.trial_id: t.record for t in self.trials if t.record is not None}
        return tuple(found.values())

    @functools.cached_property
    def labelled(self) -> tuple[TrialRecord, ...]:
        """A record for each planned trial that has one, under the arm's name of the plan.

        An arm's name is a label and no part of a trial's id: two arms may share a record.
        """
        return tuple(_relabel(t.record, t.arm) for t in self.trials if t.record is not None)

    def cells(self) -> dict[tuple[str, int], tuple[Trial, ...]]:
        """Trials by (arm, batch size): arms in the plan's order, batch sizes ascending."""
        found: dict[tuple[str, int], list[Trial]] = {
            (arm, size): [] for arm in self.arms for size in self.batch_sizes
        }
        for trial in self.trials:
            found[trial.arm, trial.batch_size].append(trial)
        return {key: tuple(trials) for key, trials in found.items() if trials}


def join(planned: Sequence[Planned], records: Iterable[TrialRecord]) -> Joined:
    """Match `records` to the plan by trial id."""
    by_id: dict[str, TrialRecord] = {}
    duplicates = 0
    for record in records:
        trial_id = record.trial_id  # a hash of the whole specification: ask once
        duplicates += trial_id in by_id
        by_id.setdefault(trial_id, record)
    trials = tuple(_trial(item, by_id) for item in planned)
    strangers = len(by_id.keys() - {t.trial_id for t in trials})
    return Joined(trials, strangers, duplicates)


def _trial(item: Planned, by_id: dict[str, TrialRecord]) -> Trial:
    if isinstance(item, TrialSpec):
        trial_id = item.trial_id
        return Trial(item.arm, item.batch_size, item.seed, trial_id, by_id.get(trial_id), item)
    arm, size, seed, trial_id = item
    return Trial(arm, size, seed, trial_id, by_id.get(trial_id))


def planned_specs(joined: Joined, study: StudySpec) -> list[TrialSpec]:
    """A specification for every planned trial, as `stats` wants the plan.

    A trial that the plan names by its id only and that has no record yet gets a stand-in:
    a copy of the nearest trial (same batch size and seed if there is one), with the id as
    its technique, so that it finds no record of another trial.
    """
    known = [s for t in joined.trials if (s := _known_spec(t)) is not None]
    by_place = {(s.batch_size, s.seed): s for s in reversed(known)}
    by_size = {s.batch_size: s for s in reversed(known)}
    default = known[0] if known else _default_spec(study)
    found = []
    for trial in joined.trials:
        spec = _known_spec(trial)
        if spec is None:
            place = (trial.batch_size, trial.seed)
            near = by_place.get(place) or by_size.get(trial.batch_size) or default
            spec = dataclasses.replace(
                near,
                arm=trial.arm,
                batch_size=trial.batch_size,
                seed=trial.seed,
                techniques=(("planned", (("trial_id", trial.trial_id),)),),
            )
        found.append(spec)
    return found


def _known_spec(trial: Trial) -> TrialSpec | None:
    if trial.spec is not None:
        return trial.spec
    return _relabel(trial.record, trial.arm).spec if trial.record is not None else None


def _default_spec(study: StudySpec) -> TrialSpec:
    return TrialSpec(
        workload=study.workload,
        data=study.data,
        data_digest="",
        arm="",
        techniques=(),
        settings=study.settings,
        batch_size=study.lr.base_batch_size,
        lr=study.lr.base,
        decay=study.decay,
        budget=study.budget,
        seed=0,
    )


def ok_accuracies(trials: Iterable[Trial]) -> list[float]:
    """Accuracies of the trials that ended ok, the only ones that any average is over."""
    return [
        t.record.accuracy
        for t in trials
        if t.record is not None
        and t.record.outcome is Outcome.OK
        and t.record.accuracy is not None
    ]


def _relabel(record: TrialRecord, arm: str) -> TrialRecord:
    if record.spec.arm == arm:
        return record
    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, arm=arm))
