"""Trials of the digits, each trained on its own as a worker does it."""

from __future__ import annotations

import functools

from batchcliff.data.resident import Resident
from batchcliff.data.sources import load
from batchcliff.record import TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import DataFacts, ledger
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import run_trials

# What makes a recipe about images one about the digits, as --set writes it.
MINIATURE = (
    "workload=digits",
    "data=digits",
    "settings.precision=fp32",
    "settings.augmentation=none",
    "settings.batch_norm.group=16",
    "settings.model.widths=[[8], [8]]",
)
# The same, with the recipe's own workload, formats and augmentation.
ON_DIGITS = (
    "data=digits",
    "settings.model.widths=[[8], [8]]",
    "settings.batch_norm={momentum=0.9, group='B/8'}",
)


@functools.cache
def digits() -> tuple[Resident, DataFacts]:
    dataset = load("digits")
    return Resident.of(dataset), DataFacts.of(dataset)


def trained(spec: TrialSpec) -> TrialRecord:
    """The record of a trial of the digits, with the network that its settings say."""
    resident, facts = digits()
    prepared = prepare(spec, resident, num_classes=facts.num_classes, stack=1)
    (record,) = run_trials([spec], [ledger(spec, facts)], resident, prepared)
    return record
