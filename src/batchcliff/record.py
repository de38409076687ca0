"""What came out of a trial, as a frozen value. Stdlib only: no torch is needed to read one.

`TrialRecord` holds *facts* (they go into tables and are equal for equal trials on one
machine) and `Provenance` (where, when and how fast: outside of every table).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from batchcliff.spec import TrialSpec


class Outcome(enum.StrEnum):
    """How a trial ended; written once. Divergence is a measurement, not an error."""

    OK = "ok"
    DIVERGED = "diverged"
    INFEASIBLE = "infeasible"
    OOM = "oom"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Per epoch, index 0 is the first. Accuracies are shares in [0, 1]; None: not measured.

    train_loss: mean over the epoch's updates, NaN from the epoch of the first bad update on.
    lr: learning rate of the epoch's last update.
    test_accuracy: with running batch-norm statistics, at the end of the epoch.
    """

    train_loss: tuple[float, ...] = ()
    lr: tuple[float, ...] = ()
    test_accuracy: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The arithmetic of a trial: what could fake a cliff. Counts are of what was planned."""

    num_train: int  # examples in the training set
    num_test: int
    num_classes: int
    updates: int
    updates_per_epoch: float
    epochs: float
    examples: int  # seen by the planned updates: updates * batch_size
    dropped_per_epoch: int  # examples that an epoch leaves out (remainder = "drop")
    batch_norm_group: int  # examples that share batch-norm statistics; 0: not known
    batch_norm_horizon_epochs: float  # 1 / (1 - momentum) updates, in epochs; 0: no batch norm
    accumulation: int  # micro batches per update
    warmup_updates: int
    lr_provenance: str  # e.g. "3.2 = 0.1 x 4096/128 (linear)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a record came from; never part of a table of facts."""

    seconds: float  # training and evaluation, compilation excluded; a stack's share of it
    compile_seconds: float
    examples_per_second: float
    started: str  # UTC, ISO 8601
    stacked: int  # how many trials were trained together in one stacked model
    workers: int = 1  # worker processes that shared the machine or the GPU with this one
    device: str  # e.g. "NVIDIA H100 80GB HBM3" or the CPU's model name
    versions: tuple[tuple[str, str], ...] = ()  # (package, version), sorted
    numerics: tuple[tuple[str, str], ...] = ()  # fingerprint of what may change bits
    code: str = ""  # batchcliff's version and source digest
    data_source: str = ""  # which container the data was read from, and notes on it


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One finished trial. `accuracy` is None unless the outcome is ok."""

    spec: TrialSpec
    outcome: Outcome
    reason: str = ""  # what went wrong, for people; empty when ok
    first_bad_update: int | None = None  # diverged: first update whose loss is not finite
    accuracy: float | None = None  # test accuracy, running batch-norm statistics
    accuracy_reestimated: float | None = None  # statistics re-estimated on training data
    test_loss: float | None = None  # mean cross entropy, running statistics
    train_loss: float | None = None  # mean over the last epoch's updates
    updates: int = 0  # applied, up to the end or the first bad one
    ledger: Ledger | None = None  # None: infeasible before the arithmetic could be done
    curves: Curves = field(default_factory=Curves)
    provenance: Provenance | None = None

    @property
    def trial_id(self) -> str:
        return self.spec.trial_id
