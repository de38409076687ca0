"""What `run` would do: every trial's arithmetic, what cannot run, the expected time."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.canonical import to_plain, uncollected
from batchcliff.errors import UsageError
from batchcliff.naming import begun, folder_of, resolved
from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study.adaptive import Adaptive, Seek
from batchcliff.study.cost import Cost, expected
from batchcliff.study.grid import provenance_of, trials
from batchcliff.study.printable import printable
from batchcliff.study.ranks import check_wanted_ranks
from batchcliff.study.reading import Labels
from batchcliff.study.tuning import (
    UNMEASURED,
    Place,
    TunedCell,
    tuned_cells,
    tuning_records,
)
from batchcliff.training.arithmetic import DataFacts, arithmetic
from batchcliff.workloads import WORKLOADS, Workload, load_workload

if TYPE_CHECKING:
    from batchcliff.stats.tuning import LrChoice
    from batchcliff.study.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """A trial before it runs. `infeasible` says why it cannot; `outcome` if it has run."""

    spec: TrialSpec
    ledger: Ledger | None
    lr_provenance: str
    infeasible: str = ""
    outcome: str = ""
    waits: bool = False  # for a rate that is not chosen yet: `spec` stands for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `run` would do.

    tuning: the trials that choose learning rates, which run first; a trial of `trials` that
    waits for its rate stands here with one of the candidates.
    differences: why the study in the folder is another one. extends: they only add to it, so
    that `run` with `extend` takes them.
    """

    study: StudySpec
    folder: Path
    trials: tuple[PlannedTrial, ...]
    data_source: str
    cost: Cost
    tuning: tuple[PlannedTrial, ...] = ()
    differences: tuple[str, ...] = ()
    extends: bool = False
    search: tuple[str, ...] = ()  # of an adaptive study: what is known of each cliff, in words
    most: int = 0  # of an adaptive study: trials in the worst case; `trials` are those so far
    ranks: int = 1  # processes that share every batch of a trial

    @property
    def done(self) -> int:
        """Trials that have a record in the folder."""
        return sum(bool(trial.outcome) for trial in self.trials)

    @property
    def infeasible(self) -> int:
        """Trials that cannot run as specified."""
        return sum(bool(trial.infeasible) for trial in self.trials)

    @property
    def missing_ids(self) -> tuple[str, ...]:
        """Ids of the trials that have no outcome, as `run` with `only` takes them: those that
        choose learning rates first, and none that waits for its rate.

        Raises UsageError if the data were not read: their digest is a part of each id.
        """
        every = (*self.tuning, *self.trials)
        if any(not trial.spec.data_digest for trial in every):
            raise UsageError(
                f"the ids of trials change with the data, and {self.study.data} has not been "
                "read; say where it lies: --data PATH"
            )
        open_ = (trial for trial in every if not trial.outcome and not trial.waits)
        return tuple(dict.fromkeys(trial.spec.trial_id for trial in open_))


@uncollected()
def plan(
    study: StudySpec | str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    workload: str | None = None,
    ranks: int = 1,
) -> Plan:
    """What `run` would do, trial by trial, with the time that it is expected to take.

    study: a spec, a study file, a recipe's name, or the folder of a study that has been begun;
    out: its folder; data: a local copy of the data (without it, nothing is downloaded: sizes
    that are known are used); workload: `module:function`; ranks: processes that share every
    batch, refused where `run` refuses them. Writes nothing. Raises UsageError, DataError.
    """
    check_device(device)
    own = load_workload(workload) if workload else None
    spec = resolved(study, own)
    folder = folder_of(spec, out or begun(study))
    facts, digest, source = _data_facts(spec, Path(data) if data else None, own)
    records, choices, differences, extends = _existing(folder, spec)
    workload_digest = own.digest if own else ""
    adaptive: Adaptive | None = None
    said: tuple[str, ...] = ()
    if spec.search is not None:
        adaptive = Adaptive(spec, digest, workload_digest, facts, _seek())
        specs, said = _next_of(adaptive, folder, records)
    cells = tuned_cells(spec, digest, workload_digest)
    if adaptive is None:
        specs = _with_rates(trials(spec, digest, workload_digest), cells, choices)
    every = [*specs, *(t for cell in cells for t in cell.trials)]
    look = _Look(spec, facts, every, records)
    check_wanted_ranks(ranks, every, look.ledgers)
    waiting = {c.place: c for c in cells if c.place not in choices or choices[c.place].missing}
    found = []
    for trial in specs:
        cell = waiting.get((trial.arm, trial.batch_size))
        found.append(look.at(trial) if cell is None else look.waiting(trial, cell))
    tuning = tuple(look.at(trial) for cell in cells for trial in cell.trials)
    plain = spec.workload if ranks == 1 and own is None else ""
    width = workers or usual_workers(device, ranks)
    cost = _cost([*found, *tuning], records, plain, _kind_of(device), width, ranks)
    return Plan(
        study=spec,
        folder=folder,
        trials=tuple(found),
        data_source=source,
        cost=cost,
        tuning=tuning,
        differences=differences,
        extends=extends,
        search=said,
        most=adaptive.most if adaptive is not None else 0,
        ranks=ranks,
    )


def _seek() -> Seek:
    from batchcliff.stats.search import search

    return search


def _next_of(
    adaptive: Adaptive, folder: Path, records: list[TrialRecord]
) -> tuple[list[TrialSpec], tuple[str, ...]]:
    """The trials of a search so far and those that are next, and what is known by now.

    Those are the planned ones that have no record, or the next round where all have one.
    """
    label = Labels().of
    known = {label(record.spec): record for record in records}
    labels = {place: label(spec) for place, spec in adaptive.specs.items()}
    planned = _planned_places(folder)
    found = {p: known[labels[p]] for p in planned if labels.get(p) in known}
    now = [adaptive.specs[place] for place in planned if place in adaptive.specs]
    wanted, decided = adaptive.decide(found)
    if len(found) == len(planned):
        now += wanted
    return now, tuple(decided.lines)


def _planned_places(folder: Path) -> list[tuple[str, int, int]]:
    from batchcliff.study.identity import STUDY
    from batchcliff.study.store import Store

    if not (folder / STUDY).exists():
        return []
    with Store.open(folder) as store:
        return [(p.arm, p.batch_size, p.seed) for p in store.planned()]


class _Look:
    """What there is to say of each of `specs` before it runs, or after."""

    def __init__(
        self,
        study: StudySpec,
        facts: DataFacts,
        specs: list[TrialSpec],
        records: list[TrialRecord],
    ) -> None:
        self.provenance = functools.partial(provenance_of, study)
        self.ledgers, self.reasons = arithmetic(specs, facts, self.provenance)
        self.label = Labels().of
        self.outcomes = {self.label(r.spec): r.outcome.value for r in records}

    def at(self, spec: TrialSpec) -> PlannedTrial:
        """A trial whose rate is known."""
        return PlannedTrial(
            spec=spec,
            ledger=self.ledgers.get(spec.trial_id),
            lr_provenance=self.provenance(spec),
            infeasible=self.reasons.get(spec.trial_id, ""),
            outcome=self.outcomes.get(self.label(spec), ""),
        )

    def waiting(self, spec: TrialSpec, cell: TunedCell) -> PlannedTrial:
        """A trial that waits for its rate; infeasible if each that could choose it is."""
        rates = ", ".join(f"{one.lr:g}" for one in cell.candidates)
        shown = dataclasses.replace(
            self.at(spec), lr_provenance=f"best of {rates}", outcome="", waits=True
        )
        why = {self.reasons.get(trial.trial_id, "") for trial in cell.trials}
        if "" in why:
            return shown
        return dataclasses.replace(shown, ledger=None, infeasible=f"{UNMEASURED} ({min(why)})")


def _with_rates(
    specs: list[TrialSpec], cells: list[TunedCell], choices: Mapping[Place, LrChoice]
) -> list[TrialSpec]:
    """`specs` with the rates that are chosen; the others keep the candidate they stand for."""
    tuned = {cell.place: cell for cell in cells}
    found = []
    for spec in specs:
        place = spec.arm, spec.batch_size
        choice = choices.get(place)
        if place in tuned and choice is not None and not choice.missing:
            (spec,) = tuned[place].reported(choice.lr, [spec.seed])
        found.append(spec)
    return found


def lr_choices(store: Store, records: Mapping[str, TrialRecord]) -> tuple[LrChoice, ...]:
    """The search of each cell whose learning rate is chosen, in the order of the arms.

    records: of the store, by trial id.
    """
    from batchcliff.stats.tuning import lr_choice

    found, taken = tuning_records(store, records).items(), dict[Place, float]()
    for planned in store.planned() if found else ():
        record = records.get(planned.trial_id)
        if record is not None and not record.spec.validation:
            taken[planned.arm, planned.batch_size] = record.spec.lr
    return tuple(lr_choice(*place, tries, taken.get(place)) for place, tries in found)


def check_device(device: str) -> None:
    """UsageError if `device` names none; whether it is there, only torch can tell."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"--device {printable(device, 40)}: write auto, cpu, cuda or cuda:0")


def usual_workers(device: str, ranks: int = 1) -> int:
    """How many trials `run` trains side by side by itself, each by so many ranks; "auto" is
    guessed, and one GPU a rank taken for granted, without loading torch."""
    from batchcliff.study.placement import default_workers

    return default_workers(_kind_of(device), ranks=ranks)


def _kind_of(device: str) -> str:
    """ "cpu" or "cuda"; for "auto" a guess, without loading torch."""
    if device == "auto":
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return device.partition(":")[0]


def _cost(
    trials: list[PlannedTrial],
    records: list[TrialRecord],
    workload: str,
    device: str,
    workers: int,
    ranks: int,
) -> Cost:
    """Of the trials without an outcome, by records of as many ranks, or by what was measured
    of the built-in `workload`, "" for none."""
    todo = [t for t in trials if t.ledger and not t.outcome]
    like = [r for r in records if r.provenance and r.provenance.ranks == ranks]
    found = expected(
        [(t.spec.batch_size, t.ledger.examples) for t in todo if t.ledger],
        like,
        workload=workload if _as_it_comes(todo) else "",
        device=device,
        workers=workers,
    )
    if found.seconds is None and len(like) < len(records):
        return Cost(seconds=None, basis=f"unknown until a trial has run with --ranks {ranks}")
    return found


def _as_it_comes(todo: list[PlannedTrial]) -> bool:
    """Whether the trials are of a built-in workload with its own settings and data."""
    return all(
        (base := WORKLOADS.get(t.spec.workload)) is not None
        and (t.spec.settings, t.spec.data) == (base.settings, base.data_name)
        for t in todo
    )


def _existing(
    folder: Path, study: StudySpec
) -> tuple[list[TrialRecord], dict[Place, LrChoice], tuple[str, ...], bool]:
    """The records in a study's folder, the learning rates that were chosen by them, how its
    study differs, and if this one only adds."""
    from batchcliff.study.identity import STUDY, difference, only_adds
    from batchcliff.study.store import Store

    if not (folder / STUDY).exists():
        return [], {}, (), False
    with Store.open(folder) as store:
        old, new = to_plain(store.study), to_plain(study)
        changed = tuple(difference(old, new))
        records = store.records()
        choices = {(c.arm, c.batch_size): c for c in lr_choices(store, records)}
        return list(records.values()), choices, changed, bool(changed) and only_adds(old, new)


def _data_facts(
    study: StudySpec, location: Path | None, own: Workload | None
) -> tuple[DataFacts, str, str]:
    """Sizes of the data, their digest ("" if they were not read), and what was read."""
    from batchcliff.data import cifar
    from batchcliff.study.material import load_data

    if study.data.startswith("cifar10") and location is None:
        share = 2 if study.data.endswith("-half") else 1  # of classes that are equally many
        facts = DataFacts(
            num_train=cifar.NUM_TRAIN // share,
            num_test=cifar.NUM_TEST // share,
            num_classes=len(cifar.CLASS_NAMES) // share,
            image_shape=cifar.IMAGE_SHAPE,
        )
        return facts, "", "sizes of the official data set; the data have not been read"
    dataset = load_data(study.data, location, own)
    return DataFacts.of(dataset), dataset.digest, dataset.source
