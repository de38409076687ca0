"""What came out of a trial, as a frozen value. Stdlib only: no torch is needed to read one.

`TrialRecord` holds *facts* (they go into tables and are equal for equal trials on one
machine) and `Provenance` (where, when and how fast: outside of every table).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from batchcliff.canonical import ADDED
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

    Where the trial's settings ask for gradient norms (Euclidean, of the loss' gradient over
    all parameters, before clipping and weight decay; of the unscaled loss):
    gradient_norm, gradient_norm_max: mean and maximum over the epoch's updates, those that
        loss scaling skipped left out; NaN as in train_loss, and where all were skipped.
    first_gradient_norms: of updates 0, 1, ... up to 99 or the first bad one, which is the
        last here; skipped ones too, whose norms are not finite.
    """

    train_loss: tuple[float, ...] = ()
    lr: tuple[float, ...] = ()
    test_accuracy: tuple[float | None, ...] = ()
    gradient_norm: tuple[float, ...] = field(default=(), metadata=ADDED)
    gradient_norm_max: tuple[float, ...] = field(default=(), metadata=ADDED)
    first_gradient_norms: tuple[float, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStage:
    """A part of a run whose batch size changes: its updates, and their highest rate."""

    batch_size: int
    updates: int
    lr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The arithmetic of a trial: what could fake a cliff. Counts are of what was planned.

    Where the batch size changes, `stages` has all sizes in turn; `updates_per_epoch` is the
    mean over the run, `dropped_per_epoch`, the horizon and the accumulation are the largest of
    any stage, and `batch_norm_group` is that of the spec's batch size.
    """

    num_train: int  # examples in the training set
    num_test: int
    num_classes: int
    updates: int
    updates_per_epoch: float
    epochs: float
    examples: int  # seen by the planned updates: the sum of their batch sizes
    dropped_per_epoch: int  # examples that an epoch leaves out (remainder = "drop")
    batch_norm_group: int  # examples that share batch-norm statistics; 0: not known
    batch_norm_horizon_epochs: float  # 1 / (1 - momentum) updates, in epochs; 0: no batch norm
    accumulation: int  # micro batches per update; planned 1, of a record what ran
    warmup_updates: int
    lr_provenance: str  # e.g. "3.2 = 0.1 x 4096/128 (linear)"
    stages: tuple[BatchStage, ...] = field(default=(), metadata=ADDED)  # (): one batch size


UNLIMITED = {"mkl_instructions": "no limit", "onednn_isa": "no limit"}
"""Of `Provenance.numerics`, what is there only where it is set, and what holds where it is not:
to be laid under the entries of two places before they are compared by name."""


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
    # updates taken over from a checkpoint of a run that was ended; `seconds` has theirs too
    resumed_from: int = field(default=0, metadata=ADDED)
    # most examples at once in training, of batches that were cut; 0: none was
    micro_batch: int = field(default=0, metadata=ADDED)
    ranks: int = field(default=1, metadata=ADDED)  # processes that shared every batch
    # of other numerics under which updates before `resumed_from` ran, (name, value) pairs
    mixed: tuple[tuple[str, str], ...] = field(default=(), metadata=ADDED)

    @property
    def fingerprint(self) -> tuple[tuple[str, str], ...]:
        """Everything of it that may change bits, as (name, value) pairs, sorted. The version of
        batchcliff is not among them: a study compares the code that trains apart."""
        pairs = (("device", self.device), *self.versions, *self.numerics)
        return tuple(sorted(pair for pair in pairs if pair[0] != "batchcliff"))

    @property
    def device_seconds(self) -> float:
        """Seconds of devices that the trial took: those of every rank, over the workers that
        shared each."""
        return self.seconds * self.ranks / self.workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """What fine-tuning left of the pretrained weights; None: not a finite number.

    distance: of the final weights from the pretrained ones, all but the last layer, as a
        share of the pretrained ones' norm (Euclidean, over all parameters).
    old_accuracy_before, old_accuracy: test accuracy on the task of pretraining, before and
        after, with the last layer that it had then put back.
    old_accuracy_reestimated: after, with batch-norm statistics re-estimated on that task:
        what is missing then is lost in the weights, not in the statistics.
    weights: SHA-256 of the pretrained weights, 16 hex digits.
    """

    distance: float | None
    old_accuracy_before: float
    old_accuracy: float | None
    old_accuracy_reestimated: float | None
    weights: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """What a trial was probed for (settings.probes), at some of its updates.

    Each tuple but the last two has an entry for each of `updates`, or none at all where it was
    not asked for; None: not measured there, or not a finite number. Measured on the weights
    that the update begins with.

    lr: rate of the update.
    noise_trace, gradient_square: unbiased estimates of tr(Sigma), the variance of one example's
        gradient summed over the parameters, and of |G|^2, which may come out negative.
    sharpness: largest eigenvalue of the Hessian of the training loss on a fixed batch, from
        below; some eigenvalue lies within `sharpness_error` of it.
    update_ratio: length of the update over that of the weights, for each of `groups`:
        [groups][updates].
    first_losses: training losses of updates 0, 1, ... up to 99 or the first bad one.
    """

    updates: tuple[int, ...] = ()
    lr: tuple[float, ...] = ()
    noise_trace: tuple[float | None, ...] = ()
    gradient_square: tuple[float | None, ...] = ()
    sharpness: tuple[float | None, ...] = ()
    sharpness_error: tuple[float | None, ...] = ()
    update_ratio: tuple[tuple[float | None, ...], ...] = ()
    groups: tuple[str, ...] = ()
    first_losses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One finished trial. `accuracy` is None unless the outcome is ok.

    Under the setting evaluation = "reestimated", `accuracy` and `test_loss` are those with
    re-estimated statistics; the running ones are then the last of `curves.test_accuracy`.
    """

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
    # of `updates`, those that loss scaling skipped (precision "fp16")
    skipped_updates: int = field(default=0, metadata=ADDED)
    transfer: Transfer | None = field(default=None, metadata=ADDED)  # with pretraining
    probes: Probes | None = field(default=None, metadata=ADDED)  # with settings.probes
    # why an ok trial ended before its budget by settings.stop: "stalled", "target"; else ""
    ended: str = field(default="", metadata=ADDED)

    @property
    def trial_id(self) -> str:
        """That of its spec."""
        return self.spec.trial_id

    @property
    def examples(self) -> int:
        """Examples that the applied updates read."""
        if self.ledger is None or not self.ledger.stages:
            return self.updates * self.spec.batch_size
        found, rest = 0, self.updates
        for stage in self.ledger.stages:
            found += min(rest, stage.updates) * stage.batch_size
            rest = max(rest - stage.updates, 0)
        return found
