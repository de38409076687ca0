"""The arithmetic of a trial before any compute: updates, learning rates, what could mislead.

Shared by `plan` (which must not import torch) and by the training itself, so that what a
plan states is what runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from batchcliff.canonical import canonical_json
from batchcliff.data.sources import Dataset
from batchcliff.data.validation import num_held_out
from batchcliff.errors import Infeasible
from batchcliff.record import BatchStage, Ledger
from batchcliff.schedules.batch_size import examples
from batchcliff.schedules.compose import factors
from batchcliff.schedules.duration import Clock, Remainder, as_duration, parse_duration
from batchcliff.schedules.scaling import check_betas
from batchcliff.spec import TrialSpec
from batchcliff.techniques import batch_growth, batch_warmup, techniques
from batchcliff.techniques.batch_growth import BatchGrowth
from batchcliff.techniques.batch_warmup import BatchWarmup
from batchcliff.techniques.warmup import Warmup
from batchcliff.training.timeline import Stretch, Timeline, changing

CHANGE_BATCH = (batch_growth.NAME, batch_warmup.NAME)

SMALLEST_ERASED = 4  # pixels a side; in smaller images 2% to 40% of the area is no rectangle


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the arithmetic needs to know of a data set."""

    num_train: int
    num_test: int
    num_classes: int
    image_shape: tuple[int, int, int]  # H, W, C

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        """Those of a data set that was read."""
        return cls(
            num_train=len(dataset.train_labels),
            num_test=len(dataset.test_labels),
            num_classes=dataset.num_classes,
            image_shape=dataset.image_shape,
        )


def facts_for(spec: TrialSpec, facts: DataFacts) -> DataFacts:
    """What of the data is the trial's: with `validation`, less to train on, and no test set."""
    if not spec.validation:
        return facts
    count = num_held_out(facts.num_train, spec.validation)
    if not count:
        raise Infeasible(
            f"validation = {spec.validation:g} of {facts.num_train} training examples holds "
            "out none"
        )
    return dataclasses.replace(facts, num_train=facts.num_train - count, num_test=count)


def clock_of(spec: TrialSpec, num_train: int) -> Clock:
    """The trial's clock with its budget in updates, all of `spec.batch_size`: what runs,
    unless a technique changes the batch size (`timeline_of`). Infeasible if an epoch has no
    update."""
    clock = Clock(num_train, spec.batch_size, _remainder(spec))
    return clock.with_budget(parse_duration(spec.budget))


def _remainder(spec: TrialSpec) -> Remainder:
    return "carry" if spec.settings.remainder == "carry" else "drop"


def timeline_of(spec: TrialSpec, num_train: int) -> Timeline:
    """Which update reads which examples: one stretch, or several where the batch changes.

    Raises Infeasible if a batch size is too large for the data or would have no update.
    """
    pair = next((pair for pair in spec.techniques if pair[0] in CHANGE_BATCH), None)
    if pair is None:
        clock = clock_of(spec, num_train)
        assert clock.total is not None
        whole = Stretch(first=0, last=clock.total, start=0, batch_size=spec.batch_size)
        return Timeline(num_train, clock.remainder, (whole,))
    (change,) = techniques((pair,))
    assert isinstance(change, (BatchGrowth, BatchWarmup))
    total = examples(spec.budget, num_train)
    sizes = change.sizes(spec.batch_size, num_train, total)
    return changing(sizes, total, num_train, _remainder(spec), pair[0])


def warmup_of(spec: TrialSpec) -> Warmup | None:
    """The trial's warmup, if its arm has one."""
    found = [t for t in techniques(spec.techniques) if isinstance(t, Warmup)]
    return found[0] if found else None


def learning_rates(spec: TrialSpec, num_train: int) -> list[float]:
    """The learning rate of every update, [updates].

    Where the batch size changes, progress is counted in examples: an update has the rate
    that the same trial with a constant batch has at the same place of the stream, times the
    factor of its stretch.
    """
    clock = clock_of(spec, num_train)
    table = [spec.lr * f for f in factors(clock, warmup=warmup_of(spec), decay=spec.decay)]
    timeline = timeline_of(spec, num_train)
    if len(timeline.stretches) == 1:
        return table
    return [
        table[_update_at(clock, timeline.position(update))] * stretch.lr_factor
        for stretch in timeline.stretches
        for update in range(stretch.first, stretch.last)
    ]


def _update_at(clock: Clock, position: int) -> int:
    """The update, of a run of constant batch size, for a position of the stream; of those
    that "drop" leaves out at the end of an epoch, the epoch's last."""
    if clock.remainder == "carry":
        return position // clock.batch_size
    epoch, within = divmod(position, clock.num_examples)
    per_epoch = clock.num_examples // clock.batch_size
    return epoch * per_epoch + min(within // clock.batch_size, per_epoch - 1)


def shape_key(spec: TrialSpec) -> bytes:
    """Equal for trials that one prepared update can serve."""
    key = spec.key()
    for name in ("seed", "lr", "decay"):
        del key[name]
    key["settings"].pop("evaluation", None)  # which of two measured accuracies counts
    key["techniques"] = [pair for pair in spec.techniques if pair[0] != "warmup"]
    return canonical_json(key)


def batch_norm_group(spec: TrialSpec, batch_size: int | None = None) -> int:
    """Examples that share batch-norm statistics, in a batch of another size if one is given.

    Raises Infeasible if the batch does not divide.
    """
    group, batch_size = spec.settings.batch_norm.group, batch_size or spec.batch_size
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
        without = f" without the {facts.num_test} held out" if spec.validation else ""
        raise Infeasible(
            f"batch size {spec.batch_size} is larger than the training set "
            f"({facts.num_train} examples{without})"
        )
    check_betas(spec.settings.optimizer.betas)
    own = spec.settings.model.name == "own"  # whose batch norm, if any, is not ours to know
    known = not own or isinstance(spec.settings.batch_norm.group, int)
    timeline = timeline_of(spec, facts.num_train)
    sizes = [stretch.batch_size for stretch in timeline.stretches]
    for group in [batch_norm_group(spec, size) for size in sizes] if known else []:
        if not own and group < 2:
            raise Infeasible(f"batch norm needs at least 2 examples a group, not {group}")
    _check_augmentation(spec, facts.image_shape)
    epochs, updates = timeline.length_in_epochs, timeline.updates
    fewest = min(timeline.updates_per_epoch(size) for size in sizes)
    momentum = spec.settings.batch_norm.momentum
    return Ledger(
        num_train=facts.num_train,
        num_test=facts.num_test,
        num_classes=facts.num_classes,
        updates=updates,
        updates_per_epoch=float(updates / epochs),
        epochs=float(epochs),
        examples=timeline.examples,
        dropped_per_epoch=max(facts.num_train % size for size in sizes)
        if timeline.remainder == "drop"
        else 0,
        batch_norm_group=batch_norm_group(spec) if known else 0,
        batch_norm_horizon_epochs=float(1 / ((1 - momentum) * fewest)) if momentum < 1 else 0.0,
        accumulation=1,
        warmup_updates=_warmup_updates(spec, timeline),
        lr_provenance=lr_provenance,
        stages=_stages(spec, timeline),
    )


def _warmup_updates(spec: TrialSpec, timeline: Timeline) -> int:
    """Updates of the warmup. Infeasible if it outlasts the run or rounds to nothing."""
    warmup = warmup_of(spec)
    if warmup is None:
        return 0
    clock = clock_of(spec, timeline.num_examples)
    count = clock.updates(warmup.duration)
    assert clock.total is not None
    said = f'warmup.duration = "{as_duration(warmup.duration)}"'
    if count > clock.total:
        raise Infeasible(
            f"{said} is {count} updates at batch size {spec.batch_size}, longer than the whole "
            f'run of {clock.total}. Write a share of the run, such as "5%", or a longer budget.'
        )
    length = clock.exactly(warmup.duration)
    if 0 < length <= Fraction(1, 2):  # rounded up, it would be one update, at the peak
        raise Infeasible(
            f"{said} is {float(length):.2g} of an update at batch size {spec.batch_size} and "
            "rounds to nothing. Write a longer one, or leave this batch size out."
        )
    if len(timeline.stretches) == 1:
        return count
    places = map(timeline.position, range(timeline.updates))
    return sum(_update_at(clock, place) < count for place in places)


def _stages(spec: TrialSpec, timeline: Timeline) -> tuple[BatchStage, ...]:
    """What the ledger says of each batch size of a run that changes it."""
    if len(timeline.stretches) == 1:
        return ()
    rates = learning_rates(spec, timeline.num_examples)
    return tuple(
        BatchStage(
            batch_size=s.batch_size,
            updates=s.last - s.first,
            lr=max(rates[s.first : s.last]),
        )
        for s in timeline.stretches
    )


def _check_augmentation(spec: TrialSpec, image_shape: tuple[int, int, int]) -> None:
    """Infeasible where a technique of the images cannot do what it says."""
    settings, (height, width, _) = spec.settings, image_shape
    if settings.cutout > min(height, width):
        raise Infeasible(
            f"cutout of {settings.cutout} pixels is larger than the images of {height} x "
            f"{width}; half of their side is much already"
        )
    if settings.random_erasing and min(height, width) < SMALLEST_ERASED:
        raise Infeasible(
            f"random erasing needs images of at least {SMALLEST_ERASED} x {SMALLEST_ERASED} "
            f"pixels, not {height} x {width}"
        )
    if settings.mixup and spec.batch_size < 2:
        raise Infeasible("mixup at batch size 1: there is no other example to mix with")


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
                own = facts_for(spec, facts)
                counted = ledger(spec, own, provenance(spec))
                learning_rates(spec, own.num_train)
                cells[cell] = counted
            except Infeasible as reason:
                cells[cell] = str(reason)
        found = cells[cell]
        if isinstance(found, Ledger):
            ledgers[spec.trial_id] = found
        else:
            reasons[spec.trial_id] = found
    return ledgers, reasons
