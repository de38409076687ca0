"""The arithmetic of a trial before any compute: updates, learning rates, what could mislead.

Shared by `plan` (which must not import torch) and by the training itself, so that what a
plan states is what runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from batchcliff.canonical import canonical_json
from batchcliff.errors import Infeasible
from batchcliff.record import Ledger
from batchcliff.schedules.compose import factors
from batchcliff.schedules.duration import Clock, Remainder, parse_duration
from batchcliff.spec import TrialSpec
from batchcliff.techniques import techniques
from batchcliff.techniques.warmup import Warmup


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the arithmetic needs to know of a data set."""

    num_train: int
    num_test: int
    num_classes: int
    image_shape: tuple[int, int, int]  # H, W, C


def clock_of(spec: TrialSpec, num_train: int) -> Clock:
    """The trial's clock with its budget in updates. Infeasible if an epoch has no update."""
    remainder: Remainder = "carry" if spec.settings.remainder == "carry" else "drop"
    clock = Clock(num_train, spec.batch_size, remainder)
    return clock.with_budget(parse_duration(spec.budget))


def warmup_of(spec: TrialSpec) -> Warmup | None:
    """The trial's warmup, if its arm has one."""
    found = [t for t in techniques(spec.techniques) if isinstance(t, Warmup)]
    return found[0] if found else None


def learning_rates(spec: TrialSpec, num_train: int) -> list[float]:
    """The learning rate of every update, [updates]."""
    clock = clock_of(spec, num_train)
    return [spec.lr * f for f in factors(clock, warmup=warmup_of(spec), decay=spec.decay)]


def shape_key(spec: TrialSpec) -> bytes:
    """Equal for trials that one prepared update can serve."""
    key = spec.key()
    for name in ("seed", "lr", "decay"):
        del key[name]
    key["techniques"] = [pair for pair in spec.techniques if pair[0] != "warmup"]
    return canonical_json(key)


def batch_norm_group(spec: TrialSpec) -> int:
    """Examples that share batch-norm statistics. Infeasible if the batch does not divide."""
    group, batch_size = spec.settings.batch_norm.group, spec.batch_size
    if group == "global":
        return batch_size
    if isinstance(group, str):
        shards = int(group.removeprefix("B/"))
        if batch_size % shards:
            raise Infeasible(
                f"batch size {batch_size} is not divisible by {shards} "
                f"(batch_norm.group = {group!r}: {shards} groups share an update)"
            )
        return batch_size // shards
    if batch_size % group:
        raise Infeasible(
            f"batch size {batch_size} is not divisible by the ghost size {group} "
            f"(batch_norm.group = {group})"
        )
    return group


def ledger(spec: TrialSpec, facts: DataFacts, lr_provenance: str = "") -> Ledger:
    """The trial's arithmetic. Infeasible with the reason if it cannot run as specified."""
    if spec.batch_size > facts.num_train:
        raise Infeasible(
            f"batch size {spec.batch_size} is larger than the training set "
            f"({facts.num_train} examples)"
        )
    own = spec.settings.model.name == "own"  # whose batch norm, if any, is not ours to know
    group = 0 if own else batch_norm_group(spec)
    if not own and group < 2:
        raise Infeasible(f"batch norm needs at least 2 examples a group, not {group}")
    clock = clock_of(spec, facts.num_train)
    updates, per_epoch = clock.updates(spec.budget), clock.updates_per_epoch
    warmup = warmup_of(spec)
    warmup_updates = clock.updates(warmup.duration) if warmup else 0
    if warmup_updates > updates:
        raise Infeasible(
            f"warmup of {warmup_updates} updates is longer than the whole run ({updates} "
            f'updates at batch size {spec.batch_size}); give it as a share, e.g. "5%"'
        )
    momentum = spec.settings.batch_norm.momentum
    dropped = facts.num_train % spec.batch_size if spec.settings.remainder == "drop" else 0
    return Ledger(
        num_train=facts.num_train,
        num_test=facts.num_test,
        num_classes=facts.num_classes,
        updates=updates,
        updates_per_epoch=float(per_epoch),
        epochs=float(updates / per_epoch),
        examples=updates * spec.batch_size,
        dropped_per_epoch=dropped,
        batch_norm_group=group,
        batch_norm_horizon_epochs=float(1 / ((1 - momentum) * per_epoch))
        if momentum < 1
        else 0.0,
        accumulation=1,
        warmup_updates=warmup_updates,
        lr_provenance=lr_provenance,
    )


def arithmetic(
    specs: Iterable[TrialSpec], facts: DataFacts, provenance: Callable[[TrialSpec], str]
) -> tuple[dict[str, Ledger], dict[str, str]]:
    """By trial id: the ledgers of the trials that can run, the reasons of those that cannot.

    A trial can run if its ledger and the whole table of its learning rates can be made: what
    is planned is what runs. provenance: where a trial's learning rate comes from, in words.
    Raises UsageError for what no trial can be.
    """
    ledgers: dict[str, Ledger] = {}
    reasons: dict[str, str] = {}
    cells: dict[str, Ledger | str] = {}
    for spec in specs:
        cell = dataclasses.replace(spec, seed=0).trial_id  # the seed changes nothing of it
        if cell not in cells:
            try:
                counted = ledger(spec, facts, provenance(spec))
                learning_rates(spec, facts.num_train)
                cells[cell] = counted
            except Infeasible as reason:
                cells[cell] = str(reason)
        found = cells[cell]
        if isinstance(found, Ledger):
            ledgers[spec.trial_id] = found
        else:
            reasons[spec.trial_id] = found
    return ledgers, reasons
