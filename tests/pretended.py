"""A trainer that only pretends: records in a real store, within milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchcliff.record import Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.study.options import RunOptions
from batchcliff.study.progress import Progress
from batchcliff.study.store import Planned, Store
from batchcliff.study.supervisor import RunSummary
from batchcliff.training.arithmetic import DataFacts, ledger

FACTS = DataFacts(num_train=1024, num_test=773, num_classes=10, image_shape=(8, 8, 1))
DIGEST = "d" * 64


def trained(spec: TrialSpec, arithmetic: Ledger) -> TrialRecord:
    """Of two seconds' training that never was."""
    return TrialRecord(
        spec=spec,
        outcome=Outcome.OK,
        accuracy=0.9 if spec.arm == "warmup" else 0.5 + 0.1 * spec.seed,
        accuracy_reestimated=0.9,
        test_loss=0.1,
        train_loss=0.1,
        updates=arithmetic.updates,
        ledger=arithmetic,
        provenance=Provenance(
            seconds=2.0,
            compile_seconds=0.0,
            examples_per_second=arithmetic.examples / 2.0,
            started="2026-01-01T00:00:00Z",
            stacked=1,
            device="pretended",
        ),
    )


class Trainer:
    """Stands for `run_study`: records in a real store, no training."""

    def __init__(self) -> None:
        self.calls: list[RunOptions] = []
        self.folders: list[Path] = []
        self.limit = 10**6
        self.code = "code"
        self.outcome: Callable[[TrialRecord], TrialRecord] = lambda record: record
        self.exit_code: int | None = None

    def __call__(
        self,
        study: StudySpec,
        *,
        folder: Path,
        progress: Progress,
        options: RunOptions,
        **_: Any,
    ) -> RunSummary:
        self.folders.append(folder)
        self.calls.append(options)
        specs = trials(study, DIGEST)
        allowed = {
            "extend": options.extend,
            "accept_code_change": options.accept_code_change,
        }
        about = {"digest": DIGEST}
        with Store.create(folder, study, about, self.code, **allowed) as store:
            planned = [Planned.of(spec) for spec in specs]
            store.extend(planned, study if options.extend else None)
            done = store.records()
            progress.started(
                total=len(specs), done=len(done), examples=len(specs), examples_done=len(done)
            )
            for spec in [s for s in specs if s.trial_id not in done][: self.limit]:
                arithmetic = ledger(spec, FACTS)
                progress.trial_started(spec, updates=arithmetic.updates)
                record = self.outcome(trained(spec, arithmetic))
                store.publish(record)
                progress.finished(record)
            records = store.records()
        missing = len(specs) - len(records)
        counts: dict[str, int] = {}
        for record in records.values():
            counts[record.outcome.value] = counts.get(record.outcome.value, 0) + 1
        code = 75 if missing else 3 if counts.get("failed") else 0
        return RunSummary(
            counts=counts,
            missing=missing,
            exit_code=code if self.exit_code is None else self.exit_code,
            folder=folder,
        )
