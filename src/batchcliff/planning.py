"""What `run` would do: every trial's arithmetic, what cannot run, the expected time."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from batchcliff.canonical import to_plain
from batchcliff.errors import Infeasible, UsageError
from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study.cost import Cost, expected
from batchcliff.study.grid import provenance_of, trials
from batchcliff.study.printable import printable
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import DataFacts, learning_rates, ledger
from batchcliff.workloads import Workload, load_workload

STUDIES = Path("studies")  # where studies lie unless a folder is named


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """A trial before it runs. `infeasible` says why it cannot; `outcome` if it has run."""

    spec: TrialSpec
    ledger: Ledger | None
    lr_provenance: str
    infeasible: str = ""
    outcome: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `run` would do. `differences`: why the study in the folder is another one."""

    study: StudySpec
    folder: Path
    trials: tuple[PlannedTrial, ...]
    data_source: str
    cost: Cost
    differences: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """Trials that have a record in the folder."""
        return sum(bool(trial.outcome) for trial in self.trials)

    @property
    def infeasible(self) -> int:
        """Trials that cannot run as specified."""
        return sum(bool(trial.infeasible) for trial in self.trials)


def resolved(study: StudySpec | str | Path, own: Workload | None) -> StudySpec:
    """The study itself, or read from a file or a recipe."""
    return study if isinstance(study, StudySpec) else load_study(study, workload=own)


def folder_of(study: StudySpec, out: str | Path | None) -> Path:
    """The study's folder: `out`, or studies/NAME."""
    return Path(out) if out is not None else STUDIES / study.name


def plan(
    study: StudySpec | str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    workload: str | None = None,
) -> Plan:
    """What `run` would do, trial by trial, with the time that it is expected to take.

    study: a spec, a study file, or a recipe's name; out: its folder; data: a local copy of
    the data (without it, nothing is downloaded: sizes that are known are used); workload:
    `module:function`. Writes nothing. Raises UsageError, DataError.
    """
    check_device(device)
    own = load_workload(workload) if workload else None
    spec = resolved(study, own)
    folder = folder_of(spec, out)
    facts, digest, source = _data_facts(spec, Path(data) if data else None, own)
    records, differences = _existing(folder, spec)
    outcomes = {_label(record.spec): record.outcome.value for record in records}
    found = []
    ledgers: dict[tuple[str, int], tuple[Ledger | None, str]] = {}
    for trial in trials(spec, digest, own.digest if own else ""):
        cell = (trial.arm, trial.batch_size)
        if cell not in ledgers:  # the seed changes nothing of it
            ledgers[cell] = _arithmetic(trial, facts, provenance_of(spec, trial.batch_size))
        counted, reason = ledgers[cell]
        found.append(
            PlannedTrial(
                spec=trial,
                ledger=counted,
                lr_provenance=provenance_of(spec, trial.batch_size),
                infeasible=reason,
                outcome=outcomes.get(_label(trial), ""),
            )
        )
    todo = [t for t in found if t.ledger and not t.outcome]
    cost = expected(
        [(t.spec.batch_size, t.ledger.examples) for t in todo if t.ledger],
        records,
        workload=spec.workload,
        workers=workers or usual_workers(device),
    )
    return Plan(
        study=spec,
        folder=folder,
        trials=tuple(found),
        data_source=source,
        cost=cost,
        differences=differences,
    )


def check_device(device: str) -> None:
    """UsageError if `device` names none; whether it is there, only torch can tell."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"--device {printable(device, 40)}: write auto, cpu, cuda or cuda:0")


def usual_workers(device: str) -> int:
    """How many processes `run` starts by itself; "auto" is guessed without loading torch."""
    from batchcliff.study.supervisor import default_workers

    if device == "auto":
        device = "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return default_workers(device)


def _label(spec: TrialSpec) -> str:
    """A name of a trial that does not depend on whether the data have been read."""
    return dataclasses.replace(spec, data_digest="").trial_id


def _arithmetic(
    trial: TrialSpec, facts: DataFacts, provenance: str
) -> tuple[Ledger | None, str]:
    """The trial's ledger, or why it cannot run."""
    try:
        counted = ledger(trial, facts, provenance)
        learning_rates(trial, facts.num_train)
    except (Infeasible, UsageError) as reason:
        return None, str(reason)
    return counted, ""


def _existing(folder: Path, study: StudySpec) -> tuple[list[TrialRecord], tuple[str, ...]]:
    """The records in a study's folder, and how its study differs from this one."""
    from batchcliff.study.identity import STUDY, difference
    from batchcliff.study.store import Store

    if not (folder / STUDY).exists():
        return [], ()
    with Store.open(folder) as store:
        changed = difference(to_plain(store.study), to_plain(study))
        return list(store.records().values()), tuple(changed)


def _data_facts(
    study: StudySpec, location: Path | None, own: Workload | None
) -> tuple[DataFacts, str, str]:
    """Sizes of the data, their digest ("" if they were not read), and what was read."""
    from batchcliff.data import cifar, sources

    if study.data == "cifar10" and location is None:
        facts = DataFacts(
            num_train=cifar.NUM_TRAIN,
            num_test=cifar.NUM_TEST,
            num_classes=len(cifar.CLASS_NAMES),
            image_shape=cifar.IMAGE_SHAPE,
        )
        return facts, "", "sizes of the official data set; the data have not been read"
    if own is not None and callable(own.data) and study.data == own.data_name:
        dataset = own.data()
    else:
        dataset = sources.load(study.data, location)
    facts = DataFacts(
        num_train=len(dataset.train_labels),
        num_test=len(dataset.test_labels),
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
    )
    return facts, dataset.digest, dataset.source
