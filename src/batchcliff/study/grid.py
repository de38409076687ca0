"""The trials of a study: every arm at every batch size with every seed, resolved."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.schedules.duration import parse_duration
from batchcliff.schedules.scaling import (
    Hyperparameters,
    malladi_moments,
    provenance,
    scale_hyperparameters,
)
from batchcliff.schedules.scaling import scale_lr as _scale_lr
from batchcliff.spec import Arm, LrRule, Options, Settings, StudySpec, TrialSpec
from batchcliff.techniques import techniques
from batchcliff.techniques.longer_training import BUDGET
from batchcliff.techniques.seams import with_settings
from batchcliff.techniques.update_rules import ADAM, PART, check_effect


def trials(study: StudySpec, data_digest: str, workload_digest: str = "") -> list[TrialSpec]:
    """All trials of `study`, in the order in which they are best run.

    Seed by seed, so that the whole picture stands after a share of the time and each seed
    sharpens it; within a seed from the largest batch size down, since the cliff lies at that
    end and its trials are the quickest; the arms of a cell next to each other, since they are
    compared as pairs. data_digest: of the decoded arrays. workload_digest: of the source of
    a workload of the user's own; it becomes part of the trial's workload, and so of its id.
    Raises UsageError if the learning-rate rule cannot be applied.
    """
    workload = f"{study.workload}@{workload_digest}" if workload_digest else study.workload
    cells = {
        (batch_size, arm.name): whole_trial(study, arm, batch_size)
        for batch_size in study.batch_sizes
        for arm in study.arms
    }
    return [
        dataclasses.replace(
            cells[batch_size, arm.name], seed=seed, workload=workload, data_digest=data_digest
        )
        for seed in study.seeds
        for batch_size in sorted(study.batch_sizes, reverse=True)
        for arm in study.arms
    ]


def plain_trial(study: StudySpec, arm: Arm, batch_size: int) -> TrialSpec:
    """The arm's trial at `batch_size` without its techniques, of seed 0 and unknown data."""
    return TrialSpec(
        workload=study.workload,
        data=study.data,
        data_digest="",
        arm=arm.name,
        techniques=(),
        settings=arm_settings(study.settings, arm),
        batch_size=batch_size,
        lr=lr_of(rule_of(study, arm), batch_size),
        decay=arm.decay or study.decay,
        budget=study.budget,
        seed=0,
    )


def whole_trial(study: StudySpec, arm: Arm, batch_size: int) -> TrialSpec:
    """The arm's trial at `batch_size` with its techniques, of seed 0 and unknown data.

    Raises UsageError, NoEffect.
    """
    rule = rule_of(study, arm)
    pairs = scaled_techniques(rule, arm, batch_size)
    return scaled_moments(rule, with_techniques(plain_trial(study, arm, batch_size), pairs))


def with_techniques(spec: TrialSpec, pairs: tuple[tuple[str, Options], ...]) -> TrialSpec:
    """`spec` with all of an arm's techniques applied. Raises UsageError, NoEffect.

    The update rule comes first, whatever its name, since the others change fields of it; the
    budget last, since it stretches what the others take a part of the run for.
    """
    items = techniques(pairs)
    for item in sorted(items, key=lambda item: (item.part == BUDGET, item.part != PART)):
        spec = item.applied(spec)
    check_effect(spec, steady=all(item.seam != "rate" for item in items))
    return spec


def scaled_moments(rule: LrRule, spec: TrialSpec) -> TrialSpec:
    """`spec` with betas and eps moved from the base batch size where `malladi` says so.

    Source of `malladi`: Malladi et al. 2022 (2205.10287), for Adam. A beta below 0 makes the
    trial infeasible (training.arithmetic). UsageError for another kind of optimizer.
    """
    optimizer = spec.settings.optimizer
    if rule.scaling != "malladi":
        return spec
    if optimizer.name not in ADAM:
        raise UsageError(
            f'lr.scaling = "malladi" is a rule for Adam, and arm {spec.arm!r} trains with '
            f'{optimizer.name}. Write "sqrt", or give the arm an lr of its own.'
        )
    ratio = Fraction(spec.batch_size, rule.base_batch_size)
    betas, eps = malladi_moments(optimizer.betas, optimizer.eps, ratio)
    return with_settings(spec, optimizer={"betas": betas, "eps": eps})


def rule_of(study: StudySpec, arm: Arm) -> LrRule:
    """The arm's own rule of the learning rate, or the study's."""
    return arm.lr or study.lr


def lr_of(rule: LrRule, batch_size: int) -> float:
    """The peak learning rate at `batch_size`. UsageError for an unknown rule."""
    return _scale_lr(rule.base, rule.base_batch_size, batch_size, rule.scaling)


def provenance_of(study: StudySpec, spec: TrialSpec) -> str:
    """Where a trial's learning rate comes from: `3.2 = 0.1 x 4096/128 (linear)`."""
    rule = rule_of(study, next(arm for arm in study.arms if arm.name == spec.arm))
    tried = (dataclasses.replace(rule, base=base) for base in rule.tune)
    rule = next((r for r in tried if lr_of(r, spec.batch_size) == spec.lr), rule)
    text = provenance(rule.base, rule.base_batch_size, spec.batch_size, rule.scaling)
    if rule.tune:
        text += f", one of {len(rule.tune)} tried"
    if rule.scaling != "malladi":
        return text
    first, second = spec.settings.optimizer.betas
    return f"{text}, betas {first:g} and {second:g}"


def scaled_techniques(
    rule: LrRule, arm: Arm, batch_size: int
) -> tuple[tuple[str, Options], ...]:
    """The arm's techniques, sorted by name; under `legw` its warmup grows with the batch.

    Source of `legw`: You et al. 2019 (1901.08256): warmup epochs in proportion to the batch.
    """
    found = []
    for name, options in sorted(arm.techniques):
        values = dict(options)
        if rule.scaling == "legw" and name == "warmup":
            base = Hyperparameters(lr=rule.base, warmup=parse_duration(values["duration"]))
            scaled = scale_hyperparameters(base, rule.base_batch_size, batch_size, "legw")
            values["duration"] = str(scaled.warmup)
        found.append((name, tuple(sorted(values.items()))))
    return tuple(found)


def arm_settings(base: Settings, arm: Arm) -> Settings:
    """The study's settings with those that the arm overrides, by dotted names."""
    settings = base
    for name, value in arm.settings:
        settings = _replaced(settings, name.split("."), value)
    return settings


def _replaced(value: Any, parts: list[str], new: Any) -> Any:
    """A nested frozen dataclass with one field replaced. AttributeError if there is none."""
    head, rest = parts[0], parts[1:]
    inner = getattr(value, head)
    return dataclasses.replace(value, **{head: _replaced(inner, rest, new) if rest else new})
