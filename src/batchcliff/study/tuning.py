"""Studies in two stages: trials that choose a learning rate, then those that are reported.

Each (arm, batch size) whose rule has `tune` gets the same number of tuning trials, trained
and judged without the test set. When all of a cell's have a record, its rate is chosen and
the reported trials, which depend on it, are planned. The plan only grows, so the choice is
taken once: whoever resumes, and every other process, reads it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study import grid
from batchcliff.study.plan import Planned
from batchcliff.study.store import Store

# Tuning trials have seeds of their own, which stay when a study gets more of its seeds.
FIRST_SEED = 1_000_000

Choose = Callable[[Sequence[TrialRecord]], float | None]
"""The best rate of a cell from all of its tuning trials; None if none was measured."""

Place = tuple[str, int]
"""(arm, batch size)."""

Choices = Mapping[Place, float | None]
"""The rates that are chosen; None where no candidate was measured."""

UNMEASURED = "no learning rate could be chosen: none of the tuning trials was measured"


@dataclass(frozen=True, slots=True)
class TunedCell:
    """An arm at a batch size whose learning rate is chosen. candidates: rates ascending."""

    candidates: tuple[TrialSpec, ...]  # with the first tuning seed
    seeds: tuple[int, ...]

    @property
    def place(self) -> Place:
        return self.candidates[0].arm, self.candidates[0].batch_size

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """The trials that choose."""
        return tuple(
            dataclasses.replace(candidate, seed=seed)
            for seed in self.seeds
            for candidate in self.candidates
        )

    def reported(self, lr: float | None, seeds: Iterable[int]) -> tuple[TrialSpec, ...]:
        """The trials of the whole training set with the chosen rate, judged by the test set.

        None: no candidate was measured. They keep the validation set then, which makes them
        no trial that could be meant otherwise, and are recorded as infeasible.
        """
        found = next((c for c in self.candidates if c.lr == lr), self.candidates[0])
        share = found.validation if lr is None else 0.0
        return tuple(dataclasses.replace(found, seed=s, validation=share) for s in seeds)

    def planned(self, lr: float | None, seeds: Iterable[int]) -> list[Planned]:
        """The cells of the plan that `reported` fills."""
        return [Planned.of(spec) for spec in self.reported(lr, seeds)]


def tuned_cells(
    study: StudySpec, data_digest: str, workload_digest: str = ""
) -> list[TunedCell]:
    """Every (arm, batch size) whose rate is chosen, largest batch sizes first.

    The candidates are base rates, moved to the batch size by the rule's scaling.
    """
    workload = f"{study.workload}@{workload_digest}" if workload_digest else study.workload
    found = []
    for batch_size in sorted(study.batch_sizes, reverse=True):
        for arm in study.arms:
            rule = grid.rule_of(study, arm)
            if not rule.tune:
                continue
            seeds = tuple(FIRST_SEED + i for i in range(rule.tuning_seeds))
            bases = [dataclasses.replace(rule, base=base) for base in sorted(rule.tune)]
            candidates = tuple(
                dataclasses.replace(
                    grid.whole_trial(study, dataclasses.replace(arm, lr=one), batch_size),
                    workload=workload,
                    data_digest=data_digest,
                    validation=rule.validation,
                    seed=seeds[0],
                )
                for one in bases
            )
            found.append(TunedCell(candidates, seeds))
    return found


def tuned_arms(study: StudySpec) -> set[str]:
    """Names of the arms whose rates are chosen."""
    return {arm.name for arm in study.arms if grid.rule_of(study, arm).tune}


def frozen(
    cells: Iterable[TunedCell], planned: Iterable[Planned], seeds: Sequence[int]
) -> dict[Place, float | None]:
    """The choices that a plan has taken: a rate is chosen where its trials are planned."""
    known, found = set(planned), {}
    for cell in cells:
        for lr in (*(c.lr for c in cell.candidates), None):
            if not known.isdisjoint(cell.planned(lr, seeds)):
                found[cell.place] = lr
                break
    return found


class Stages:
    """What a run of `study` has to do, before and after the rates are chosen."""

    def __init__(
        self, study: StudySpec, data_digest: str, workload_digest: str, choose: Choose | None
    ) -> None:
        self.cells = tuned_cells(study, data_digest, workload_digest)
        self.seeds, self._choose = study.seeds, choose
        arms = tuned_arms(study)
        everything = grid.trials(study, data_digest, workload_digest)
        # Of tuned arms with the middle candidate for a rate: as much work as any other.
        self.later = [spec for spec in everything if spec.arm in arms]
        self.first = [trial for cell in self.cells for trial in cell.trials]
        self.first.sort(key=lambda spec: spec.seed)  # stable: a whole picture a seed
        self.plain = [spec for spec in everything if spec.arm not in arms]
        if self.cells and choose is None:
            raise ValueError("a study that tunes its learning rates needs a way to choose")

    @property
    def planned(self) -> list[Planned]:
        """What is planned before any rate is chosen."""
        first = [dataclasses.replace(Planned.of(s), tuning=True) for s in self.first]
        return [*first, *(Planned.of(s) for s in self.plain)]

    @property
    def possible(self) -> set[Planned]:
        """What another choice, or another process, may have planned."""
        return {
            planned
            for cell in self.cells
            for lr in (*(c.lr for c in cell.candidates), None)
            for planned in cell.planned(lr, self.seeds)
        }

    def decided(self, store: Store) -> dict[Place, float | None]:
        """The choices in the plan, after those that can be taken by now were added to it."""
        assert self._choose is not None or not self.cells
        while True:
            planned = store.planned()
            chosen = frozen(self.cells, planned, self.seeds)
            if open_ := [cell for cell in self.cells if cell.place not in chosen]:
                records = store.records()
                for cell in open_:
                    found = [records.get(trial.trial_id) for trial in cell.trials]
                    whole = [record for record in found if record is not None]
                    if len(whole) == len(found) and self._choose is not None:
                        chosen[cell.place] = self._choose(whole)
            known = set(planned)
            new = [
                trial
                for cell in self._of(chosen)
                for trial in cell.planned(chosen[cell.place], self.seeds)
                if trial not in known
            ]
            if not new or store.add(new):
                return chosen

    def reported(self, chosen: Choices) -> list[TrialSpec]:
        """The trials that the choices lead to, seed by seed."""
        return [
            spec
            for seed in self.seeds
            for cell in self._of(chosen)
            for spec in cell.reported(chosen[cell.place], [seed])
        ]

    def waiting(self, chosen: Choices) -> list[TrialSpec]:
        """Stand-ins for the reported trials of the other cells."""
        return [spec for spec in self.later if (spec.arm, spec.batch_size) not in chosen]

    def _of(self, chosen: Choices) -> list[TunedCell]:
        return [cell for cell in self.cells if cell.place in chosen]


def tuning_records(
    store: Store, records: Mapping[str, TrialRecord]
) -> dict[Place, list[TrialRecord | None]]:
    """The records of each cell's tuning trials, None where one is missing; arms in order.

    records: of the store, by trial id.
    """
    found = dict[Place, list[TrialRecord | None]]()
    for planned in store.planned():
        if planned.tuning:
            place = planned.arm, planned.batch_size
            found.setdefault(place, []).append(records.get(planned.trial_id))
    order = [arm.name for arm in store.study.arms]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def reported_plan(store: Store) -> list[Planned]:
    """The planned trials that are reported, and a stand-in for each that waits for its rate."""
    planned = store.planned()
    return [p for p in planned if not p.tuning] + _undecided(store.study, planned)


def _undecided(study: StudySpec, planned: Iterable[Planned]) -> list[Planned]:
    """A stand-in, which names no trial, for each reported trial that waits for its rate."""
    known = {(p.arm, p.batch_size) for p in planned if not p.tuning}
    arms = tuned_arms(study)
    return [
        Planned(arm.name, size, seed, f"{arm.name}, {size}, {seed}: its rate is not chosen yet")
        for arm in study.arms
        if arm.name in arms
        for size in study.batch_sizes
        if (arm.name, size) not in known
        for seed in study.seeds
    ]
