"""Which fields of `spec.Optimizer` each update rule has a use for, and what has no effect.

A field that a rule has no use for keeps its default: two spellings of one trial would else
have two ids, and an arm could be named after something that it does not do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.errors import NoEffect, UsageError, did_you_mean
from batchcliff.spec import Optimizer, TrialSpec
from batchcliff.techniques.seams import with_settings

PART = "update rule"  # of the seam "optimizer"; its techniques are applied before the others

_SGD = ("form", "momentum", "nesterov", "momentum_correction")
_EVERY = ("name", "weight_decay", "exclude", "clip_norm")
_TRUST = ("trust", "denominator", "eps")
_ADAM = ("betas", "eps")
USES: dict[str, tuple[str, ...]] = {
    "sgd": _EVERY + _SGD,
    "lars": _EVERY + _SGD + _TRUST,
    "larc": _EVERY + _SGD + _TRUST,
    "lamb": _EVERY + _ADAM,
    "adam": _EVERY + _ADAM,
    "adamw": _EVERY + _ADAM,
    "gi-adam": _EVERY + _ADAM,
    "radam": _EVERY + _ADAM,
}
LAYERWISE = ("lamb", "larc", "lars")  # rules with a trust ratio, so with a rule of exclusion
ADAM = ("adam", "adamw", "gi-adam", "radam")


def with_rule(spec: TrialSpec, name: str, **options: Any) -> TrialSpec:
    """`spec` with another update rule: what both rules use is kept, all else is default."""
    old, plain = spec.settings.optimizer, Optimizer()
    kept = {
        f.name: getattr(old if f.name in USES[name] else plain, f.name)
        for f in dataclasses.fields(Optimizer)
    }
    return with_settings(spec, optimizer={**kept, "name": name, **options})


def without_use(optimizer: Optimizer) -> tuple[str, str] | None:
    """The first field that changes nothing or cannot work, and why; None if all do."""
    plain = Optimizer()
    for f in dataclasses.fields(Optimizer):
        default = getattr(plain, f.name)
        if f.name not in USES[optimizer.name] and getattr(optimizer, f.name) != default:
            shown = list(default) if isinstance(default, tuple) else default
            return f.name, f"{optimizer.name} has no {f.name}. Leave it at {shown!r}."
    decays = optimizer.weight_decay > 0
    if optimizer.nesterov and optimizer.momentum == 0:
        return "nesterov", "changes nothing with momentum = 0. Write e.g. momentum = 0.9."
    if optimizer.momentum_correction and optimizer.momentum == 0:
        return "momentum_correction", "changes nothing with momentum = 0. Leave it out."
    if optimizer.momentum_correction and optimizer.form != "keras":
        return "momentum_correction", (
            'changes nothing with form = "torch", whose velocity has no rate in it. Write '
            'form = "keras", or leave it out.'
        )
    if optimizer.exclude != "nothing" and not decays and optimizer.name not in LAYERWISE:
        return "exclude", (
            f"changes nothing: {optimizer.name} has no weight decay here. Write e.g. "
            "weight-decay = { weight_decay = 5e-4 }, or leave it out."
        )
    if optimizer.denominator != "separate" and not decays:
        return "denominator", (
            "changes nothing without weight decay: both forms are |g| then. Leave it out."
        )
    if optimizer.eps == 0 and optimizer.name in (*ADAM, "lamb"):
        return "eps", "divides by zero wherever a gradient is 0. Write e.g. eps = 1e-8."
    return None


def check_effect(spec: TrialSpec, *, steady: bool) -> None:
    """NoEffect if a part of the optimizer of a whole trial, techniques included, is idle.

    steady: no technique of the arm is one of the rate, though at other batch sizes it may
    have no effect. UsageError for an unknown update rule.
    """
    optimizer = spec.settings.optimizer
    if optimizer.name not in USES:
        raise UsageError(
            f"optimizer.name: unknown {optimizer.name!r}.{did_you_mean(optimizer.name, USES)}"
        )
    if found := without_use(optimizer):
        raise NoEffect(f"optimizer.{found[0]} {found[1]}")
    if optimizer.momentum_correction and steady and spec.decay.kind == "constant":
        raise NoEffect(
            "optimizer.momentum_correction changes nothing while the rate is constant, and "
            "this arm has neither warmup nor decay. Leave it out, or give it one."
        )
