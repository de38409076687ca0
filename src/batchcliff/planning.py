"""What `run` would do: every trial's arithmetic, what cannot run, the expected time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from batchcliff.canonical import to_plain
from batchcliff.errors import UsageError
from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study.cost import Cost, expected
from batchcliff.study.grid import provenance_of, trials
from batchcliff.study.printable import printable
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import DataFacts, arithmetic
from batchcliff.workloads import WORKLOADS, Workload, load_workload

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
    """What `run` would do.

    differences: why the study in the folder is another one. extends: they only add to it, so
    that `run` with `extend` takes them.
    """

    study: StudySpec
    folder: Path
    trials: tuple[PlannedTrial, ...]
    data_source: str
    cost: Cost
    differences: tuple[str, ...] = ()
    extends: bool = False

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


def with_weights(study: StudySpec, weights: str | Path | None) -> StudySpec:
    """The study that begins with a file's weights, which it names by their SHA-256.

    Raises UsageError if the file cannot be read or the study has no pretraining to replace.
    """
    if weights is None:
        return study
    pretraining = study.settings.pretraining
    if pretraining is None:
        raise UsageError(
            f"--weights {weights}: the study has no pretraining that they could stand for. "
            'Write settings.pretraining = { data = "cifar10-first-half" } in it.'
        )
    try:
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--weights {weights}: {error.strerror or error}") from error
    given = dataclasses.replace(pretraining, weights=digest)
    settings = dataclasses.replace(study.settings, pretraining=given)
    return dataclasses.replace(study, settings=settings)


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
    records, differences, extends = _existing(folder, spec)
    outcomes = {_label(record.spec): record.outcome.value for record in records}
    specs = trials(spec, digest, own.digest if own else "")
    provenance = functools.partial(provenance_of, spec)
    ledgers, reasons = arithmetic(specs, facts, provenance)
    found = [
        PlannedTrial(
            spec=trial,
            ledger=ledgers.get(trial.trial_id),
            lr_provenance=provenance(trial),
            infeasible=reasons.get(trial.trial_id, ""),
            outcome=outcomes.get(_label(trial), ""),
        )
        for trial in specs
    ]
    todo = [t for t in found if t.ledger and not t.outcome]
    cost = expected(
        [(t.spec.batch_size, t.ledger.examples) for t in todo if t.ledger],
        records,
        workload=spec.workload if _as_it_comes(todo, own) else "",
        device=_kind_of(device),
        workers=workers or usual_workers(device),
    )
    return Plan(
        study=spec,
        folder=folder,
        trials=tuple(found),
        data_source=source,
        cost=cost,
        differences=differences,
        extends=extends,
    )


def check_device(device: str) -> None:
    """UsageError if `device` names none; whether it is there, only torch can tell."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"--device {printable(device, 40)}: write auto, cpu, cuda or cuda:0")


def usual_workers(device: str) -> int:
    """How many processes `run` starts by itself; "auto" is guessed without loading torch."""
    from batchcliff.study.supervisor import default_workers

    return default_workers(_kind_of(device))


def _kind_of(device: str) -> str:
    """ "cpu" or "cuda"; for "auto" a guess, without loading torch."""
    if device == "auto":
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return device.partition(":")[0]


def _as_it_comes(todo: list[PlannedTrial], own: Workload | None) -> bool:
    """Whether the trials are of a built-in workload with its own settings and data."""
    if own is not None:
        return False
    return all(
        (base := WORKLOADS.get(t.spec.workload)) is not None
        and (t.spec.settings, t.spec.data) == (base.settings, base.data_name)
        for t in todo
    )


def _label(spec: TrialSpec) -> str:
    """A name of a trial that does not depend on whether the data have been read."""
    return dataclasses.replace(spec, data_digest="").trial_id


def _existing(
    folder: Path, study: StudySpec
) -> tuple[list[TrialRecord], tuple[str, ...], bool]:
    """The records in a study's folder, how its study differs, and if this one only adds."""
    from batchcliff.study.identity import STUDY, difference, only_adds
    from batchcliff.study.store import Store

    if not (folder / STUDY).exists():
        return [], (), False
    with Store.open(folder) as store:
        old, new = to_plain(store.study), to_plain(study)
        changed = tuple(difference(old, new))
        return list(store.records().values()), changed, bool(changed) and only_adds(old, new)


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
    facts = DataFacts(
        num_train=len(dataset.train_labels),
        num_test=len(dataset.test_labels),
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
    )
    return facts, dataset.digest, dataset.source
