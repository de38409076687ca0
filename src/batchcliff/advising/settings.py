"""The settings of a recommended cell, resolved for somebody's own training program.

The rate of every update is the trial's own table, so that an export can say how far it is
from what was run.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchcliff.errors import UsageError
from batchcliff.schedules.compose import Warmup, factors, warmup_table
from batchcliff.schedules.duration import Clock
from batchcliff.spec import Optimizer, TrialSpec
from batchcliff.stats.advice import Recommendation
from batchcliff.training.arithmetic import CHANGE_BATCH, clock_of, warmup_of

FORMATS = ("torch", "toml", "lightning", "transformers", "timm")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """What to train with. factors: of the peak rate `lr` at updates 0, 1, ..., [updates].

    rises: updates of the warmup, staircase included; 0 without one.
    """

    trial: TrialSpec
    rule: str
    clock: Clock
    warmup: Warmup | None
    rises: int
    factors: tuple[float, ...]

    @property
    def batch_size(self) -> int:
        return self.trial.batch_size

    @property
    def lr(self) -> float:
        return self.trial.lr

    @property
    def updates(self) -> int:
        return len(self.factors)

    @property
    def optimizer(self) -> Optimizer:
        return self.trial.settings.optimizer


def settings_of(found: Recommendation) -> TrainingSettings:
    """The settings of a recommendation.

    Raises UsageError if its table has none, or if the arm changes its batch size during the
    run, which no setting of the libraries says.
    """
    if found.trial is None or found.ledger is None:
        raise UsageError(
            f"arm {found.arm!r} at batch size {found.batch_size} came without settings (an "
            "imported table has none): there is no learning rate or warmup to export."
        )
    trial, num_train = found.trial, found.ledger.num_train
    changing = [name for name, _ in trial.techniques if name in CHANGE_BATCH]
    if changing:
        raise UsageError(
            f"arm {found.arm!r} changes its batch size during the run ({changing[0]}), which "
            "this format cannot say, and without it the rate would be another. Write "
            "--format toml, or choose another arm with --arm."
        )
    warmup, clock = warmup_of(trial), clock_of(trial, num_train)
    rises = len(warmup_table(clock, warmup)) if warmup is not None else 0
    return TrainingSettings(
        trial=trial,
        rule=found.rule,
        clock=clock,
        warmup=warmup if rises else None,
        rises=rises,
        factors=tuple(factors(clock, warmup, trial.decay)),
    )


def left_out(settings: TrainingSettings, target: str) -> tuple[str, ...]:
    """What was trained with and `target` does not say, a sentence each; never in silence."""
    chosen, optimizer = settings.trial.settings, settings.optimizer
    model, norm = chosen.model, chosen.batch_norm
    timm = target == "timm"
    told = []
    if model.name != "own":
        told.append(f"the network ({model.name}, init {model.init}): bring your own")
        if norm.group != "global":
            told.append(
                f"batch norm over groups of {norm.group!r} examples: make your network's do so"
            )
        if model.zero_gamma:
            told.append("zero-gamma: start the last scale of each residual block at 0")
    if chosen.loss == "clipped-softmax":
        told.append("the loss clipped-softmax (Keras'): plain cross entropy stands for it")
    if chosen.augmentation != "none":
        told.append(f"augmentation {chosen.augmentation!r}: your input pipeline's")
    if chosen.mixup and not timm:
        told.append(f"mixup with alpha = {chosen.mixup:g}: add it to your input pipeline")
    if chosen.cutout:
        told.append(f"cutout of {chosen.cutout} pixels: add it to your input pipeline")
    if chosen.random_erasing and not timm:
        told.append(
            f"random erasing with probability {chosen.random_erasing:g}: your pipeline's"
        )
    if chosen.evaluation == "reestimated":
        told.append("re-estimated batch-norm statistics: the accuracy above was measured with")
    if chosen.pretraining is not None:
        told.append(f"weights from pretraining on {chosen.pretraining.data}: load your own")
    if chosen.precision == "fp16-unscaled":
        told.append("precision fp16 without loss scaling: bring it yourself")
    if chosen.precision == "fp16" and target == "torch":
        told.append("the loss scaling of fp16: torch.amp.GradScaler in your loop")
    if optimizer.name == "gi-adam":
        told.append("GI-Adam's start of the second moment: plain Adam stands for it")
    if timm and _keras_form_matters(settings):
        told.append(
            "SGD's keras form (the rate inside of the velocity): timm's moves at once when the "
            "rate changes"
        )
    if chosen.remainder == "carry":
        told.append(
            "batches that run across the end of an epoch: a loader that drops the rest of an "
            "epoch shows fewer examples in it, while the schedule counts updates"
        )
    return tuple(told)


def _keras_form_matters(settings: TrainingSettings) -> bool:
    """The two forms of momentum are one while the rate is constant."""
    optimizer = settings.optimizer
    return (
        optimizer.name in ("sgd", "lars", "larc")
        and optimizer.form == "keras"
        and not optimizer.momentum_correction
        and optimizer.momentum > 0
        and len(set(settings.factors)) > 1
    )


def sgd_form(settings: TrainingSettings) -> str:
    """The form that trains alike: "torch" where keras' is no other (momentum correction makes
    it torch's to rounding)."""
    return "keras" if _keras_form_matters(settings) else "torch"
