"""Small studies for the tests of `batchcliff.stats`, from tables of accuracies."""

from __future__ import annotations

from batchcliff.record import Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.stats.draws import Curve

SIZES = (32, 64, 128, 256, 512, 1024)


def make_spec(arm, batch_size, seed, *, lr=0.1, **changes):
    """A trial of arm "none" or of any other name; the name alone changes nothing else."""
    techniques = () if arm.endswith("none") else ((arm, ()),)
    base = {
        "workload": "digits",
        "data": "digits",
        "data_digest": "0" * 64,
        "arm": arm,
        "techniques": techniques,
        "settings": Settings(),
        "batch_size": batch_size,
        "lr": lr,
        "decay": Decay(),
        "budget": "10ep",
        "seed": seed,
    }
    return TrialSpec(**(base | changes))


def make_ledger(num_classes=10):
    return Ledger(
        num_train=1024,
        num_test=773,
        num_classes=num_classes,
        updates=10,
        updates_per_epoch=1.0,
        epochs=10.0,
        examples=1024,
        dropped_per_epoch=0,
        batch_norm_group=32,
        batch_norm_horizon_epochs=1.0,
        accumulation=1,
        warmup_updates=0,
        lr_provenance="0.1",
    )


def make_provenance(**numerics):
    return Provenance(
        seconds=1.0,
        compile_seconds=0.0,
        examples_per_second=1.0,
        started="2026-01-01T00:00:00Z",
        stacked=1,
        device="cpu",
        numerics=tuple(sorted(numerics.items())),
    )


def make_record(
    arm,
    batch_size,
    seed,
    accuracy,
    outcome=Outcome.OK,
    *,
    reestimated=None,
    num_classes=10,
    provenance=None,
    **changes,
):
    return TrialRecord(
        spec=make_spec(arm, batch_size, seed, **changes),
        outcome=outcome,
        accuracy=accuracy,
        accuracy_reestimated=reestimated,
        ledger=make_ledger(num_classes),
        provenance=provenance,
    )


def make_study(table):
    """(records, planned) of {arm: {batch size: [accuracy, "diverged", None: missing, ...]}}."""
    records, planned = [], []
    for arm, cells in table.items():
        for size, values in cells.items():
            for seed, value in enumerate(values):
                planned.append(make_spec(arm, size, seed))
                if isinstance(value, str):
                    records.append(make_record(arm, size, seed, None, Outcome(value)))
                elif value is not None:
                    records.append(make_record(arm, size, seed, value))
    return records, planned


def make_test_curve(columns, sizes=SIZES, arm="none", diverged=None):
    """A curve from per-size lists of accuracies; `diverged[k]`: seeds that diverged."""
    return Curve(
        arm=arm,
        batch_sizes=tuple(sizes[: len(columns)]),
        values=tuple(dict(enumerate(column)) for column in columns),
        diverged=tuple(frozenset(d) for d in (diverged or [()] * len(columns))),
    )
