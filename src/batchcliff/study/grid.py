"""The trials of a study: every arm at every batch size with every seed, resolved."""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.schedules.duration import parse_duration
from batchcliff.schedules.scaling import Hyperparameters, provenance, scale_hyperparameters
from batchcliff.schedules.scaling import scale_lr as _scale_lr
from batchcliff.spec import Arm, LrRule, Options, Settings, StudySpec, TrialSpec


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
    return [
        TrialSpec(
            workload=workload,
            data=study.data,
            data_digest=data_digest,
            arm=arm.name,
            techniques=scaled_techniques(study.lr, arm, batch_size),
            settings=arm_settings(study.settings, arm),
            batch_size=batch_size,
            lr=lr_of(study.lr, batch_size),
            decay=study.decay,
            budget=study.budget,
            seed=seed,
        )
        for seed in study.seeds
        for batch_size in sorted(study.batch_sizes, reverse=True)
        for arm in study.arms
    ]


def lr_of(rule: LrRule, batch_size: int) -> float:
    """The peak learning rate at `batch_size`. UsageError for an unknown rule."""
    return _scale_lr(rule.base, rule.base_batch_size, batch_size, rule.scaling)


def provenance_of(study: StudySpec, batch_size: int) -> str:
    """Where the learning rate comes from: `3.2 = 0.1 x 4096/128 (linear)`."""
    rule = study.lr
    return provenance(rule.base, rule.base_batch_size, batch_size, rule.scaling)


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
