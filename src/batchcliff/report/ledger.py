"""The arithmetic of every cell, and the flags of what could pass for a cliff and is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchcliff.record import BatchStage, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.report.join import Joined, Trial
from batchcliff.report.text import clean, percent, plural, points
from batchcliff.stats.dead import dead_since

# Where a flag is raised. A flag says "look here", it does not say "wrong".
MAX_DROPPED_SHARE = 0.05  # of an epoch's examples
MIN_UPDATES_PER_EPOCH = 10
MIN_UPDATES = 1000
MAX_HORIZON_SHARE = 0.10  # batch-norm horizon, of the run
MAX_REESTIMATION = 0.02  # |accuracy_reestimated - accuracy|

FLAGS = {
    "dropped": "more than 5% of each epoch is left out",
    "few-updates": "under 10 updates an epoch, or under 1,000 in all: perhaps undertrained",
    "batch-norm-lag": "batch norm's running average spans more than 10% of the run",
    "batch-norm-gap": "accuracy changes by over 2 points when batch-norm statistics are "
    "re-estimated",
    "dead-network": "the network is dead: its training loss is constant to the end at a level "
    "that has no gradient, so that neither rate nor time brings it back. Rule: in at least the "
    "last 3 epochs, each mean loss within 0.5% of the clipped softmax' ceiling for K classes, "
    "(K - 1)/K x -ln 1e-7 (14.51 for 10), or within 0.1% of ln K with recorded gradient norms "
    "of 0",
    "mixed": "trials of one cell differ in their arithmetic",
    "mixed-numerics": "trials of one cell ran under different numerics (see Environment), so "
    "that more than the seed differs between them",
}
"""Short name of a flag -> what it means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerRow:
    """The arithmetic of one cell. `flags` are keys of `FLAGS`."""

    arm: str
    batch_size: int
    lr: float | None
    lr_provenance: str
    updates: int
    updates_per_epoch: float
    epochs: float
    examples: int
    dropped_share: float  # of an epoch's examples, in [0, 1]
    batch_norm_group: int
    batch_norm_horizon_epochs: float
    horizon_share: float  # of the run
    accumulation: int
    warmup_updates: int
    reestimated_gap: float | None  # largest |re-estimated - running| of the ok trials
    flags: tuple[str, ...]
    dead: tuple[int, ...] = ()  # of each dead network, the first epoch of its end, from 1
    stages: tuple[BatchStage, ...] = ()  # where the batch size changes during the run
    device: str = ""  # of all of the cell's trials; "": several, or not known
    seconds: float | None = None  # mean of the trials that ended ok; None without one device
    device_hours: float | None = None  # of all of the cell's trials, on the one device


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRow:
    """Where `trials` trials ran: one row for each different environment."""

    trials: int
    device: str
    code: str
    data_source: str
    versions: tuple[tuple[str, str], ...]
    numerics: tuple[tuple[str, str], ...]
    stacked: tuple[int, ...]  # how many trials were trained together, every value met
    seconds: float  # summed over the trials
    examples_per_second: float  # largest of the trials


def ledger_rows(joined: Joined) -> tuple[LedgerRow, ...]:
    """One row for each cell with at least one record that has a ledger."""
    rows = []
    for (arm, size), trials in joined.cells().items():
        ledgers = [t.record.ledger for t in trials if t.record and t.record.ledger]
        if ledgers:
            rows.append(_ledger_row(arm, size, trials, ledgers))
    return tuple(rows)


def _ledger_row(
    arm: str, size: int, trials: Sequence[Trial], ledgers: Sequence[Ledger]
) -> LedgerRow:
    one = ledgers[0]
    gap = _reestimated_gap(trials)
    dropped = one.dropped_per_epoch / one.num_train if one.num_train else 0.0
    horizon = one.batch_norm_horizon_epochs / one.epochs if one.epochs else 0.0
    few = one.updates_per_epoch < MIN_UPDATES_PER_EPOCH or one.updates < MIN_UPDATES
    every = [dead_since(t.record) for t in trials if t.record is not None]
    dead = tuple(sorted(epoch for epoch in every if epoch is not None))
    device, seconds, hours = _device_time(trials)
    raised = {
        "dropped": dropped > MAX_DROPPED_SHARE,
        "few-updates": few,
        "batch-norm-lag": horizon > MAX_HORIZON_SHARE,
        "batch-norm-gap": gap is not None and gap > MAX_REESTIMATION,
        "dead-network": bool(dead),
        "mixed": len(set(ledgers)) > 1,
        "mixed-numerics": _mixes_numerics(trials),
    }
    return LedgerRow(
        arm=arm,
        batch_size=size,
        lr=next((t.record.spec.lr for t in trials if t.record), None),
        lr_provenance=one.lr_provenance,
        updates=one.updates,
        updates_per_epoch=one.updates_per_epoch,
        epochs=one.epochs,
        examples=one.examples,
        dropped_share=dropped,
        batch_norm_group=one.batch_norm_group,
        batch_norm_horizon_epochs=one.batch_norm_horizon_epochs,
        horizon_share=horizon,
        accumulation=one.accumulation,
        warmup_updates=one.warmup_updates,
        reestimated_gap=gap,
        flags=tuple(name for name, is_up in raised.items() if is_up),
        dead=dead,
        stages=one.stages,
        device=device,
        seconds=seconds,
        device_hours=hours,
    )


def _mixes_numerics(trials: Iterable[Trial]) -> bool:
    """Whether trials that computed something did so in several ways, or one of them did."""
    computed = (Outcome.OK, Outcome.DIVERGED)
    records = [t.record for t in trials if t.record is not None]
    places = [r.provenance for r in records if r.outcome in computed and r.provenance]
    return len({p.fingerprint for p in places}) > 1 or any(p.mixed for p in places)


def _device_time(trials: Iterable[Trial]) -> tuple[str, float | None, float | None]:
    """(device, mean seconds of an ok trial, device hours of all trials): seconds of two
    devices make no mean and no sum, nor do those of trials that do not say."""
    records = [t.record for t in trials if t.record is not None and t.record.ledger is not None]
    ran = [r for r in records if r.outcome in (Outcome.OK, Outcome.DIVERGED)]
    places = [r.provenance for r in ran if r.provenance is not None]
    devices = {where.device for where in places}
    if len(devices) != 1 or len(places) < len(ran):
        return "", None, None
    ok = [r.provenance.seconds for r in ran if r.outcome is Outcome.OK and r.provenance]
    hours = math.fsum(where.device_seconds for where in places) / 3600
    return devices.pop(), math.fsum(ok) / len(ok) if ok else None, hours


def _reestimated_gap(trials: Iterable[Trial]) -> float | None:
    gaps = [
        abs(t.record.accuracy_reestimated - t.record.accuracy)
        for t in trials
        if t.record is not None
        and t.record.outcome is Outcome.OK
        and t.record.accuracy is not None
        and t.record.accuracy_reestimated is not None
    ]
    return max(gaps, default=None)


def environment_rows(records: Iterable[TrialRecord]) -> tuple[EnvironmentRow, ...]:
    """One row for each different environment, the most used first."""
    groups: dict[tuple[object, ...], list[Provenance]] = {}
    for record in records:
        if (where := record.provenance) is not None:
            numerics = where.numerics, where.mixed
            key = (where.device, where.code, where.data_source, where.versions, numerics)
            groups.setdefault(key, []).append(where)
    rows = [_environment_row(group) for group in groups.values()]
    return tuple(sorted(rows, key=lambda r: (-r.trials, r.device, r.code, r.versions)))


def _environment_row(group: Sequence[Provenance]) -> EnvironmentRow:
    one = group[0]
    return EnvironmentRow(
        trials=len(group),
        device=one.device,
        code=one.code,
        data_source=one.data_source,
        versions=one.versions,
        numerics=(*one.numerics, *((f"{name} at first", value) for name, value in one.mixed)),
        stacked=tuple(sorted({where.stacked for where in group})),
        seconds=sum(where.seconds for where in group),
        examples_per_second=max(where.examples_per_second for where in group),
    )


def warnings(
    rows: Sequence[LedgerRow],
    places: Sequence[EnvironmentRow],
    joined: Joined,
    quarantined: Sequence[str],
) -> tuple[str, ...]:
    """What a reader must know before believing a fall, a sentence each, worst first."""
    found = []
    if quarantined:
        found.append(
            f"{plural(len(quarantined), 'record')} quarantined as damaged or foreign; "
            "the trials count as missing until they have run again."
        )
    found += [f"{mixed} (see Environment)." for mixed in mixtures(places)]
    for flag, meaning in FLAGS.items():
        if cells := [r for r in rows if flag in r.flags]:
            found.append(f"{_cells_text(cells)}: {meaning}{_worst(flag, cells)}.")
    if joined.strangers:
        found.append(f"{plural(joined.strangers, 'record')} outside of the plan left out.")
    if joined.duplicates:
        found.append(f"{plural(joined.duplicates, 'second record')} of one trial left out.")
    return tuple(found)


def mixtures(places: Sequence[EnvironmentRow]) -> list[str]:
    """Trials that differ in more than their place in the grid may not be comparable."""
    kinds: dict[str, set[object]] = {
        "devices": {p.device for p in places},
        "numerics": {p.numerics for p in places},
        "versions of batchcliff": {p.code for p in places},
        "versions of packages": {p.versions for p in places},
        "data sources": {p.data_source for p in places},
    }
    mixed = [f"{len(values)} {kind}" for kind, values in kinds.items() if len(values) > 1]
    return [f"The trials mix {', '.join(mixed)}"] if mixed else []


def _cells_text(cells: Sequence[LedgerRow]) -> str:
    """ "none at 4,096 and 8,192; warmup at 8,192", short however many cells there are."""
    by_sizes: dict[tuple[int, ...], list[str]] = {}
    for arm in dict.fromkeys(c.arm for c in cells):
        sizes = tuple(c.batch_size for c in cells if c.arm == arm)
        by_sizes.setdefault(sizes, []).append(clean(arm, 32))
    parts = [
        f"{_some(arms)} at {_some(f'{size:,}' for size in sizes)}"
        for sizes, arms in by_sizes.items()
    ]
    shown = "; ".join(parts[:4])
    return shown + (f"; {len(parts) - 4} more" if len(parts) > 4 else "")


def _some(items: Iterable[str]) -> str:
    parts = list(items)
    return ", ".join(parts) if len(parts) <= 5 else f"{', '.join(parts[:4])} … {parts[-1]}"


def _worst(flag: str, cells: Sequence[LedgerRow]) -> str:
    """The largest excess behind `flag`, in brackets."""
    if flag == "dropped":
        return f" (up to {percent(max(c.dropped_share for c in cells), 0)})"
    if flag == "few-updates":
        fewest = min(cells, key=lambda c: c.updates)
        return f" (as few as {fewest.updates:,}, {fewest.updates_per_epoch:.3g} an epoch)"
    if flag == "batch-norm-lag":
        return f" (up to {percent(max(c.horizon_share for c in cells), 0)})"
    if flag == "batch-norm-gap":
        gap = max(c.reestimated_gap or 0.0 for c in cells)
        return f" (by up to {points(gap, 1).lstrip('+')})"
    if flag == "dead-network":
        since = [epoch for c in cells for epoch in c.dead]
        return f" ({plural(len(since), 'trial')}, the first from epoch {min(since)} on)"
    return ""


def jpeg_note(places: Sequence[EnvironmentRow], data: str = "") -> str:
    """A sentence for results from JPEG-recompressed images; "" for all others."""
    text = " ".join([data, *(p.data_source for p in places)]).casefold()
    if "jpeg" not in text and "jpg" not in text:
        return ""
    return (
        "The images were JPEG-recompressed: accuracies lie a few points under those of the "
        "original data set, on the plateau as well."
    )


def evaluation_note(joined: Joined) -> tuple[str, ...]:
    """A sentence on arms that are judged with re-estimated batch-norm statistics, if any."""
    specs = [record.spec for record in joined.labelled]
    judged = dict.fromkeys(s.arm for s in specs if s.settings.evaluation == "reestimated")
    if not judged:
        return ()
    names = ", ".join(clean(arm, 32) for arm in judged)
    whose = "all arms" if {s.arm for s in specs} == set(judged) else names
    what = "are with re-estimated batch-norm statistics"
    return (f"Accuracies of {whose} {what}; the curves by epoch are with running ones.",)


def counts_by_outcome(joined: Joined) -> dict[str, int]:
    """How many planned trials ended how, "missing" for none yet; zeros left out."""
    found = Counter(t.record.outcome.value if t.record else "missing" for t in joined.trials)
    order = [*(o.value for o in Outcome), "missing"]
    return {name: found[name] for name in order if found[name]}
