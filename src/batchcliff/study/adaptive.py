"""Adaptive studies: trials are planned round by round, until the cliffs are found.

A round is planned only when every trial of the rounds before has a record, and follows from
those records alone (`Seek`; stats/search.py). So it is no matter when a run is killed, how
many workers it has, or which of several drivers plans a round: the trials are the same. The
plan only grows, so whoever resumes takes up the round that was planned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study import grid
from batchcliff.study.plan import Planned
from batchcliff.study.progress import Progress
from batchcliff.study.store import Store
from batchcliff.training.arithmetic import DataFacts, arithmetic

Place = tuple[str, int, int]
"""(arm, batch size, seed)."""

Ladders = Mapping[str, tuple[int, ...]]
"""Batch sizes that may be tried, ascending, by arm."""


class Decided(Protocol):
    """What is to be run next, and a sentence for each cliff that is looked for."""

    @property
    def wanted(self) -> Sequence[tuple[str, int, int]]:
        """The trials of the next round; none when the search is over."""

    @property
    def lines(self) -> Sequence[str]:
        """What is known, for people."""


Seek = Callable[[StudySpec, Ladders, float, Mapping[Place, TrialRecord]], Decided]
"""Decides from the ladders, the accuracy of chance and the records so far."""


def ladder(coarse: Sequence[int], precision: float, multiple: int = 1) -> tuple[int, ...]:
    """`coarse` batch sizes with others between them, so that neighbours are a factor of at
    most `precision` apart, but for rounding.

    Evenly on log2 B, rounded to multiples of `multiple` and, between multiples of 8 from 64
    on, of 8, which is what matrix units like.
    """
    found = set(coarse)
    sizes = sorted(found)
    for low, high in itertools.pairwise(sizes):
        parts = math.ceil(math.log(high / low) / math.log(precision) - 0.01)
        step = multiple
        if low >= 64 and low % 8 == high % 8 == 0:
            step = math.lcm(multiple, 8)
        for part in range(1, parts):
            size = low * (high / low) ** (part / parts)
            rounded = round(size / step) * step
            if low < rounded < high:
                found.add(rounded)
    return tuple(sorted(found))


class Adaptive:
    """The trials of one adaptive study: those that may be planned, and those that are next."""

    def __init__(
        self,
        study: StudySpec,
        data_digest: str,
        workload_digest: str,
        facts: DataFacts,
        seek: Seek,
    ) -> None:
        if study.search is None:
            raise ValueError(f"study {study.name!r} is a grid")
        self.study, self.limits, self._seek = study, study.search, seek
        self.chance = 1 / facts.num_classes
        sizes = ladder(study.batch_sizes, self.limits.precision, _multiple(study))
        whole = replace(study, batch_sizes=sizes)
        trials = grid.trials(whole, data_digest, workload_digest)
        self.ledgers, self.reasons = arithmetic(
            trials, facts, lambda spec: grid.provenance_of(study, spec)
        )
        self.specs: dict[Place, TrialSpec] = {
            (spec.arm, spec.batch_size, spec.seed): spec
            for spec in trials
            if spec.trial_id in self.ledgers
        }
        self.ladders: Ladders = {
            arm.name: tuple(s for s in sizes if (arm.name, s, study.seeds[0]) in self.specs)
            for arm in study.arms
        }

    @property
    def most(self) -> int:
        """Trials in the worst case: as many as the search may take, at most the whole ladder
        with all seeds."""
        return min(self.limits.trials or len(self.specs), len(self.specs))

    def decide(self, found: Mapping[Place, TrialRecord]) -> tuple[list[TrialSpec], Decided]:
        """The next round, within the study's budget, and what the search is about.

        found: the records of all trials that are planned so far.
        """
        decided = self._seek(self.study, self.ladders, self.chance, found)
        spent = sum(self._examples(place) for place in found)
        count, wanted = len(found), []
        for place in decided.wanted:
            spent, count = spent + self._examples(place), count + 1
            over = self.limits.examples and spent > self.limits.examples
            if over or (self.limits.trials and count > self.limits.trials):
                break
            wanted.append(self.specs[place])
        return wanted, decided

    def _examples(self, place: Place) -> int:
        """What a trial may train on, as planned."""
        spec = self.specs.get(place)
        return 0 if spec is None else self.ledgers[spec.trial_id].examples


def _multiple(study: StudySpec) -> int:
    """What every batch size must be divisible by, for the batch norm of all arms."""
    found = 1
    for arm in study.arms:
        group = grid.arm_settings(study.settings, arm).batch_norm.group
        number = group if isinstance(group, int) else group.removeprefix("B/")
        found = math.lcm(found, int(number) if number != "global" else 1)
    return found


def recorded(
    planned: Iterable[Planned], records: Mapping[str, TrialRecord]
) -> dict[Place, TrialRecord]:
    """The records of planned trials by place."""
    return {
        (p.arm, p.batch_size, p.seed): records[p.trial_id]
        for p in planned
        if p.trial_id in records
    }


class AdaptiveStages:
    """An adaptive study as a run sees it (study/supervisor.py, in the place of `Stages`):
    nothing is planned in advance, and no learning rate is chosen."""

    def __init__(self, adaptive: Adaptive) -> None:
        self.adaptive = adaptive
        self.first: list[TrialSpec] = []
        self.plain: list[TrialSpec] = []
        self.planned: list[Planned] = []
        self.later = list(adaptive.specs.values())
        self._now: list[TrialSpec] = []
        self._said: tuple[str, ...] = ()

    @property
    def possible(self) -> set[Planned]:
        """What any course of the search may have planned."""
        return {Planned.of(spec) for spec in self.later}

    def decided(self, store: Store) -> dict[tuple[str, int], float | None]:
        """Plan the next round if the one before is over. No rates: {}."""
        while True:
            planned, records = store.planned(), store.records()
            found = recorded(planned, records)
            new: list[TrialSpec] = []
            if len(found) == len(planned):
                new, decided = self.adaptive.decide(found)
                self._said = tuple(decided.lines)
            if not new or store.add(Planned.of(spec) for spec in new):
                break
        specs = self.adaptive.specs
        places = [(p.arm, p.batch_size, p.seed) for p in store.planned()]
        self._now = [specs[place] for place in places if place in specs]
        return {}

    def reported(self, chosen: object) -> list[TrialSpec]:  # noqa: ARG002
        """Everything that is planned so far."""
        return list(self._now)

    def waiting(self, chosen: object) -> list[TrialSpec]:  # noqa: ARG002
        """None: what comes next is not known."""
        return []

    def more(
        self,
        store: Store,
        known: dict[str, TrialSpec],
        ledgers: dict[str, Ledger],
        progress: Progress,
    ) -> list[TrialSpec]:
        """Trials that are new to `known`, which has them afterwards, as have `ledgers`.

        Rounds whose trials all have records (trials of another arm too, or of another driver
        that was faster) are passed over; [] when the search is over.
        """
        while True:
            self.decided(store)
            unknown = {s.trial_id: s for s in self._now if s.trial_id not in known}
            if not unknown:
                return []
            for line in self._said:
                progress.note(line)
            known |= unknown
            ledgers |= {i: self.adaptive.ledgers[i] for i in unknown}
            examples = sum(ledgers[i].examples for i in unknown)
            progress.more(trials=len(unknown), examples=examples)
            done = store.records()
            for trial_id in unknown.keys() & done.keys():
                progress.finished(done[trial_id])
            if new := [spec for i, spec in unknown.items() if i not in done]:
                return new
