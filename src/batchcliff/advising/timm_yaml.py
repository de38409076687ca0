"""Settings as a configuration file of timm's training program: `train.py --config FILE`.

Its schedules count from other places than ours do (docs/advice.md), and the warmup is linear;
the file says how far each update's rate is from what was run. timm's arithmetic, 1.0.31, in
`timm_factors`; a test holds it against timm itself where that is installed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from batchcliff.advising.frameworks import comment
from batchcliff.advising.settings import TrainingSettings, left_out
from batchcliff.errors import UsageError
from batchcliff.schedules.compose import warmup_table
from batchcliff.schedules.decays import milestones

_OPTIMIZERS = {"adam": "adam", "gi-adam": "adam", "adamw": "adamw", "radam": "radam"}
_CYCLES = {"cosine": "cosine", "linear": "poly", "polynomial": "poly"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimmSchedule:
    """What `timm.scheduler.create_scheduler_v2` is asked for, stepping by update.

    Lengths in epochs of `updates_per_epoch`; rates as factors of the peak.
    """

    sched: str
    epochs: int
    warmup_epochs: float
    warmup: float  # factor at update 0
    warmup_prefix: bool
    decay_rate: float
    floor: float
    decay_milestones: tuple[float, ...]
    updates_per_epoch: int

    @property
    def updates(self) -> int:
        """Updates of the whole run: timm trains whole epochs."""
        more = int(self.warmup_epochs) if self.warmup_prefix else 0
        return (self.epochs + more) * self.updates_per_epoch


def timm_schedule(settings: TrainingSettings) -> TimmSchedule:
    """The nearest schedule of timm's. Raises UsageError where there is none."""
    decay, clock = settings.trial.decay, settings.clock
    if decay.kind not in (*_CYCLES, "constant", "multistep"):
        raise UsageError(
            f"timm has no schedule that is a {decay.kind} decay as it was run. Write "
            "--format torch, or train with another decay."
        )
    each = clock.num_examples // clock.batch_size
    if each == 0:
        raise UsageError(
            f"timm drops the rest of an epoch, and one of {clock.num_examples:,} examples has "
            f"no batch of {clock.batch_size:,}. Write --format torch."
        )
    epochs = math.ceil(settings.updates / each)
    start, rises = 1.0, settings.rises
    if settings.warmup is not None:
        start = warmup_table(clock, settings.warmup)[0]
    if decay.kind in _CYCLES:
        # Whole epochs: train.py counts its epochs with the prefix's length.
        prefix = max(1, round(rises / each)) if rises else 0
        if prefix >= epochs:
            raise UsageError("timm: the warmup is the whole run. Write --format torch.")
        return TimmSchedule(
            sched=_CYCLES[decay.kind],
            epochs=epochs - prefix,
            warmup_epochs=prefix,
            warmup=start,
            warmup_prefix=True,
            decay_rate=decay.power if decay.kind == "polynomial" else 1.0,
            floor=decay.floor,
            decay_milestones=(),
            updates_per_epoch=each,
        )
    at = milestones(clock, decay.at) if decay.kind == "multistep" else []
    return TimmSchedule(
        sched=decay.kind,
        epochs=epochs,
        # timm is at the peak at update W, we are at W - 1.
        warmup_epochs=max(rises - 1, 0) / each,
        warmup=start,
        warmup_prefix=False,
        decay_rate=decay.factor if decay.kind == "multistep" else 1.0,
        floor=0.0,
        # It decays from the update before a milestone on; half an update more is safe from
        # rounding.
        decay_milestones=tuple((update + 0.5) / each for update in at),
        updates_per_epoch=each,
    )


def timm_factors(schedule: TimmSchedule, count: int) -> list[float]:
    """The factor of the peak at updates 0 .. count-1, as timm 1.0.31 computes it."""
    each = schedule.updates_per_epoch
    rising = schedule.warmup_epochs * each
    found = []
    for t in range(count):
        if t < rising:
            found.append(schedule.warmup + t * (1 - schedule.warmup) / rising)
            continue
        after = t - rising if schedule.warmup_prefix else t
        share = after / (schedule.epochs * each)
        if schedule.sched == "constant":
            fallen = 1.0
        elif schedule.sched == "multistep":
            at = [epoch * each for epoch in schedule.decay_milestones]
            fallen = schedule.decay_rate ** bisect_right(at, after + 1)
        elif share >= 1:
            fallen = schedule.floor
        else:
            low = schedule.floor
            curve = (1 + math.cos(math.pi * share)) / 2
            if schedule.sched == "poly":
                curve = (1 - share) ** schedule.decay_rate
            fallen = low + (1 - low) * curve
        found.append(fallen)
    return found


def timm_yaml(settings: TrainingSettings, head: tuple[str, ...]) -> str:
    """The file's text. Raises UsageError for what timm cannot be asked for."""
    rule, chosen = settings.optimizer, settings.trial.settings
    if rule.name in ("lars", "larc", "lamb"):
        raise UsageError(
            f"timm's {rule.name} scales other tensors than the one that was run (exclude = "
            f"{rule.exclude!r}), so that its rate means something else (docs/optimizers.md). "
            "Write --format torch."
        )
    schedule = timm_schedule(settings)
    values: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "grad_accum_steps": 1,
        "opt": _OPTIMIZERS.get(rule.name, "sgd" if rule.nesterov else "momentum"),
        "weight_decay": rule.weight_decay,
    }
    if rule.name == "sgd":
        values["momentum"] = rule.momentum
    else:
        values |= {"opt_betas": list(rule.betas), "opt_eps": rule.eps}
    if rule.weight_decay and rule.exclude == "nothing":
        values["opt_kwargs"] = {"filter_bias_and_bn": False}
    values |= {
        "clip_grad": rule.clip_norm or None,
        "clip_mode": "norm",
        "lr": settings.lr,
        "sched": schedule.sched,
        "sched_on_updates": True,
        "epochs": schedule.epochs,
        "cooldown_epochs": 0,
        "warmup_epochs": schedule.warmup_epochs,
        "warmup_prefix": schedule.warmup_prefix,
        "warmup_lr": settings.lr * schedule.warmup,
        "min_lr": settings.lr * schedule.floor,
        "decay_rate": schedule.decay_rate,
        "decay_milestones": list(schedule.decay_milestones),
        "smoothing": chosen.label_smoothing,
        "mixup": chosen.mixup,
        "cutmix": 0.0,
        "reprob": chosen.random_erasing,
        "remode": "pixel",
        "amp": chosen.precision in ("bf16", "fp16"),
        "amp_dtype": "float16" if chosen.precision == "fp16" else "bfloat16",
    }
    told = (
        *head,
        "",
        "python train.py DATA --config THIS_FILE (timm 1.0.31)",
        "That is for one device; on more, divide batch_size by their number.",
        _difference(settings, schedule),
    )
    missing = left_out(settings, "timm")
    if chosen.random_erasing:
        missing += ("random erasing of up to 40% of an image: timm erases up to a third",)
    lines = [*comment(told, missing), ""]
    return "\n".join([*lines, *(f"{key}: {_scalar(v)}" for key, v in values.items())]) + "\n"


def _difference(settings: TrainingSettings, schedule: TimmSchedule) -> str:
    """How far the rates are from what was run, counted over the run."""
    theirs = timm_factors(schedule, settings.updates)
    gaps = [abs(a - b) for a, b in zip(settings.factors, theirs, strict=True)]
    largest = max(gaps)
    told = "The rate of every update is what was run."
    if largest > 1e-9:
        told = (
            f"The rates differ from what was run by up to {largest:.3g} of the peak (update "
            f"{gaps.index(largest):,}), {math.fsum(gaps) / len(gaps):.3g} on average."
        )
    if settings.warmup is not None and (
        settings.warmup.shape != "linear" or settings.warmup.stepping == "epoch"
    ):
        told += f" timm's warmup is linear; the one that was run is {settings.warmup.shape}."
    if schedule.updates != settings.updates:
        told += (
            f" timm trains whole epochs: {schedule.updates:,} updates, where "
            f"{settings.updates:,} were run."
        )
    return told


def _scalar(value: Any) -> str:
    """A YAML 1.1 scalar or flow: floats always with a point, or `1e-3` would be a text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, power = text.partition("e")
        if e and "." not in mantissa:
            mantissa += ".0"
        return mantissa + (f"e{int(power):+03d}" if e else "")
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_scalar(v)}" for k, v in value.items()) + "}"
    return str(value)
