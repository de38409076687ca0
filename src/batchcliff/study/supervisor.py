"""Runs what a study still misses, and survives everything.

Resuming is a set difference (planned minus recorded). This process is the only one that
writes records; workers train. Killed at any moment, it leaves whole records and free leases,
and the same command goes on.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.data.sources import Dataset, forget_files
from batchcliff.provenance import code_name
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study import ahead, grid
from batchcliff.study.adaptive import Adaptive, AdaptiveStages, Seek
from batchcliff.study.checkpoints import CheckpointFolder, room
from batchcliff.study.compile_cache import check_compiler_folders
from batchcliff.study.dispatch import Dispatcher, Interrupted
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.material import Material, load_material
from batchcliff.study.micro_batch import check_wanted, wanted_micro_batch
from batchcliff.study.named import NamedTrials
from batchcliff.study.options import RunOptions
from batchcliff.study.placement import (
    default_workers,
    devices_of,
    environment,
    is_alone,
    resolve_device,
)
from batchcliff.study.progress import Progress
from batchcliff.study.ranks import check_wanted_ranks, teams_of
from batchcliff.study.store import Store
from batchcliff.study.tuning import UNMEASURED, Choices, Choose, Stages
from batchcliff.training.arithmetic import arithmetic
from batchcliff.training.deterministic import ENVIRONMENT as DETERMINISTIC
from batchcliff.workloads import own_reference

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """How a run ended: trials by outcome, those without one, and the exit code."""

    counts: dict[str, int]
    missing: int
    exit_code: int
    folder: Path


def plan_trials(
    study: StudySpec,
    stages: Stages | AdaptiveStages | NamedTrials,
    chosen: Choices,
    material: Material,
) -> tuple[list[TrialSpec], dict[str, Ledger], list[TrialRecord]]:
    """All trials that can be planned with the rates that are chosen, the arithmetic of those
    that can run, and records of those that cannot."""
    reported = stages.reported(chosen)
    specs = [*stages.first, *stages.plain, *reported]
    provenance = functools.partial(grid.provenance_of, study)
    ledgers, reasons = arithmetic(specs, material.facts, provenance)
    for spec in reported:
        if spec.validation:  # no rate was found for it, see TunedCell.reported
            why = reasons.get(spec.trial_id)
            reasons[spec.trial_id] = f"{UNMEASURED} ({why})" if why else UNMEASURED
            ledgers.pop(spec.trial_id, None)
    infeasible = [
        TrialRecord(spec=spec, outcome=Outcome.INFEASIBLE, reason=reasons[spec.trial_id])
        for spec in specs
        if spec.trial_id in reasons
    ]
    return specs, ledgers, infeasible


def run_study(
    study: StudySpec,
    *,
    folder: Path,
    progress: Progress,
    options: RunOptions,
    choose: Choose | None = None,
    seek: Seek | None = None,
) -> RunSummary:
    """Run or resume `study` in `folder` until every trial has an outcome.

    choose: of a study that tunes its learning rates, takes the best one from a cell's trials
    (study/tuning.py); the trials that depend on it run after those of all cells.
    seek: of an adaptive study, decides what is needed next (study/adaptive.py).
    Exit codes: 0 all done; 3 some failed; 130, 143, ... a signal stopped it (resumable).
    Raises UsageError and DataError before anything is written, StorageError (resumable).
    """
    given = _Given(study, options, choose, seek)
    with Store.create(
        folder,
        study,
        _about(given.material.dataset),
        code_name(),
        accept_code_change=options.accept_code_change,
        extend=options.extend,
        shared=options.shared,
    ) as store:
        stages = given.stages
        store.extend(stages.planned, study if options.extend else None, stages.possible)
        return _Run(given, store, progress).to_the_end()


class _Given:
    """What a run begins with, known and checked before anything is written."""

    def __init__(
        self, study: StudySpec, options: RunOptions, choose: Choose | None, seek: Seek | None
    ) -> None:
        options.check()
        self.study, self.options = study, options
        self.device = resolve_device(options.device)
        check_compiler_folders(self.device)
        self.devices = teams_of(devices_of(self.device), options.ranks)
        self.micro_batch = wanted_micro_batch(options.micro_batch, self.device)
        self.workload_reference = options.workload_reference or own_reference(study.workload)
        if options.verify:
            forget_files()
        self.material = load_material(self.workload_reference, study.data, options.data)
        whole = _stages(study, self.material, choose, seek)
        self.stages = whole if options.only is None else NamedTrials(whole, options.only)
        specs, ledgers, _ = plan_trials(study, self.stages, {}, self.material)
        # Of trials that cannot be told yet, by those that stand for them.
        self.later, _ = arithmetic(self.stages.later, self.material.facts, lambda _: "")
        every, counted = [*specs, *self.stages.later], ledgers | self.later
        check_wanted(self.micro_batch, every, counted)
        check_wanted_ranks(options.ranks, every, counted)


class _Run:
    """A run whose folder is open: the trials that can be told by now, round after round."""

    def __init__(self, given: _Given, store: Store, progress: Progress) -> None:
        self.given, self.store, self.progress = given, store, progress
        options, self.stages = given.options, given.stages
        self.width = options.workers or default_workers(
            given.device, len(given.devices), options.ranks
        )
        self.done, self.chosen = store.records(), self.stages.decided(store)
        CheckpointFolder(store.folder).drop(self.done.keys())  # of a run that ended in between
        self.plan()
        self.tell_start()
        self.setup = self.setup_of_workers()
        self.fingerprints = Fingerprints(record.provenance for record in self.done.values())
        self.parked: set[str] = set()  # trials that are left for the next run

    def plan(self) -> None:
        """The trials that follow from the rates that are chosen."""
        given = self.given
        planned = plan_trials(given.study, self.stages, self.chosen, given.material)
        self.specs, self.ledgers, self.infeasible = planned
        self.unique = {spec.trial_id: spec for spec in self.specs}

    def tell_start(self) -> None:
        """Say how much there is to do, and what was done before."""
        waiting, later = self.stages.waiting(self.chosen), self.given.later
        self.progress.started(
            total=len(self.unique) + len(waiting),
            done=len(self.done.keys() & self.unique.keys()),
            examples=sum(item.examples for item in self.ledgers.values())
            + sum(later[s.trial_id].examples for s in waiting if s.trial_id in later),
            examples_done=sum(self.ledgers[i].examples for i in self.done if i in self.ledgers),
        )
        for item in self.store.quarantined:
            self.progress.note(f"quarantined {item}")

    def setup_of_workers(self) -> dict[str, Any]:
        """What the dispatcher and its workers are told, whatever the round."""
        given, options = self.given, self.given.options
        variables = environment(given.device, self.width)
        return {
            **worker_setup(
                given.study,
                given.material,
                options.data,
                given.device,
                given.workload_reference,
            ),
            "devices": given.devices,
            "cache": str(self.store.cache),
            "study": str(self.store.folder),
            "checkpoint_every": options.checkpoint_every,
            "micro_batch": given.micro_batch,
            "weights": str(options.weights) if options.weights else "",
            "groups": sorted({s.settings.batch_norm.group for s in self.specs}, key=str),
            "deterministic": options.deterministic,
            "alone": is_alone(self.width, len(given.devices), options.ranks),
            "grace": options.grace,
            "mixing": options.allow_mixed_numerics,
            "ranks": options.ranks,
            "environment": variables | (DETERMINISTIC if options.deterministic else {}),
        }

    def to_the_end(self) -> RunSummary:
        """Round after round, until no record makes more trials known or a signal stops it."""
        while True:
            self.publish_infeasible()
            missing = self.missing()
            ahead.keep(min(self.width, len(missing)))
            if missing:
                self.store.check_space(room(0, self.width))
            stopped = _until_signalled(self.dispatcher(missing), missing)
            former = self.chosen
            if stopped is None:
                self.chosen = self.stages.decided(self.store)
            if stopped is not None or self.chosen == former:
                waiting = len(self.stages.waiting(self.chosen))
                return _summary(self.store, self.unique, stopped, waiting)
            self.next_round(former)

    def publish_infeasible(self) -> None:
        """Record the trials that cannot run as specified."""
        for record in self.infeasible:
            if record.trial_id not in self.done:
                self.store.publish(record)
                self.progress.finished(record)

    def missing(self) -> list[TrialSpec]:
        """The trials that can run and have no record."""
        over = self.done.keys() | self.parked
        return [s for i, s in self.unique.items() if i in self.ledgers and i not in over]

    def dispatcher(self, missing: list[TrialSpec]) -> Dispatcher:
        """Who hands out this round's trials, and those that a search finds meanwhile."""
        busy = min(self.width, max(len(missing), 1))
        self.setup["workers"] = -(-busy // len(self.given.devices))
        made = Dispatcher(
            self.store,
            self.specs,
            self.ledgers,
            self.setup,
            self.width,
            self.progress,
            self.fingerprints,
            self.parked,
        )
        if isinstance(self.stages, AdaptiveStages):
            made.more = functools.partial(
                self.stages.more, self.store, self.unique, self.ledgers, self.progress
            )
        made.waits = self.given.options.only is None
        return made

    def next_round(self, former: Choices) -> None:
        """Take up the trials whose rates were chosen since the choices were `former`."""
        self.progress.note(f"learning rates are chosen for {len(self.chosen)} cells")
        self.plan()
        self.done = self.store.records()
        new = {place: lr for place, lr in self.chosen.items() if place not in former}
        for spec in self.stages.reported(new):
            if spec.trial_id in self.done:  # the trial of another arm too, or another process'
                self.progress.finished(self.done[spec.trial_id])


def _stages(
    study: StudySpec, material: Material, choose: Choose | None, seek: Seek | None
) -> Stages | AdaptiveStages:
    """What is run when: a grid, with rates to be chosen or without, or a search."""
    digests = material.dataset.digest, material.workload_digest
    if study.search is None:
        return Stages(study, *digests, choose)
    if seek is None:
        raise ValueError("an adaptive study needs a way to decide what is next")
    return AdaptiveStages(Adaptive(study, *digests, material.facts, seek))


def _about(dataset: Dataset) -> dict[str, Any]:
    """What STUDY.json says of the data."""
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": list(dataset.class_names),
    }


def worker_setup(
    study: StudySpec,
    material: Material,
    data: Path | None,
    device: str,
    workload_reference: str | None,
) -> dict[str, Any]:
    """What every worker is told before its first job."""
    return {
        "workload": workload_reference,
        "data": study.data,
        "location": str(data) if data else None,
        "digest": material.dataset.digest,
        "device": device,
        "threads": 1,
        "code": code_name(),
        # Where a module:function was found; a study of ours needs nothing of it.
        "path": [place for place in sys.path if place] if workload_reference else [],
    }


def _until_signalled(dispatcher: Dispatcher, missing: list[TrialSpec]) -> int | None:
    """Run; the number of the signal that ended it, or None."""

    def stop(number: int, _: object) -> None:
        # The loop looks at it twice a second, between two steps that belong together. Who
        # asks again (something blocks, or saving takes too long) gets an exception where we
        # are, and nothing more is saved.
        if dispatcher.stop_signal is None:
            dispatcher.stop_signal = number
        elif not dispatcher.stopping:
            dispatcher.hurried = True
            raise Interrupted(number)

    former = {}
    if threading.current_thread() is threading.main_thread():  # others may not
        # What is ignored stays ignored: `nohup` means it.
        wanted = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, stop) for number in wanted}
    try:
        dispatcher.run(missing)
    except Interrupted as interruption:
        return interruption.number
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return None


def _summary(
    store: Store, unique: dict[str, TrialSpec], stopped: int | None, waiting: int
) -> RunSummary:
    """waiting: trials that cannot be told yet, since their rates are not chosen."""
    records = {i: r for i, r in store.records().items() if i in unique}
    outcomes = Counter(str(record.outcome) for record in records.values())
    missing = len(unique) - len(records) + waiting
    if stopped is not None:
        code = 128 + stopped
    elif missing:
        code = 75
    else:
        code = 3 if outcomes[Outcome.FAILED] else 0
    return RunSummary(
        counts=dict(outcomes), missing=missing, exit_code=code, folder=store.folder
    )
