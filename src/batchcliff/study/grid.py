"""The trials of a study: every arm at every batch size with every seed, resolved."""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.schedules.duration import parse_duration
from batchcliff.schedules.scaling import Hyperparameters, provenance, scale_hyperparameters
from batchcliff.schedules.scaling import scale_lr as _scale_lr
from batchcliff.spec import Arm, LrRule, Options, Settings, StudySpec, TrialSpec
from batchcliff.techniques import techniques


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
        (batch_size, arm.name): with_techniques(
            plain_trial(study, arm, batch_size),
            scaled_techniques(rule_of(study, arm), arm, batch_size),
        )
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


def with_techniques(spec: TrialSpec, pairs: tuple[tuple[str, Options], ...]) -> TrialSpec:
    """`spec` with all of an arm's techniques applied. Raises UsageError, NoEffect."""
    for item in techniques(pairs):
        spec = item.applied(spec)
    return spec


def rule_of(study: StudySpec, arm: Arm) -> LrRule:
    """The arm's own rule of the learning rate, or the study's."""
    return arm.lr or study.lr


def lr_of(rule: LrRule, batch_size: int) -> float:
    """The peak learning rate at `batch_size`. UsageError for an unknown rule."""
    return _scale_lr(rule.base, rule.base_batch_size, batch_size, rule.scaling)


def provenance_of(study: StudySpec, spec: TrialSpec) -> str:
    """Where a trial's learning rate comes from: `3.2 = 0.1 x 4096/128 (linear)`."""
    rule = rule_of(study, next(arm for arm in study.arms if arm.name == spec.arm))
    return provenance(rule.base, rule.base_batch_size, spec.batch_size, rule.scaling)


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
