"""Where the batch size grows during the run: the same curves by epoch and by update."""

from __future__ import annotations

from collections.abc import Mapping

from batchcliff.record import TrialRecord
from batchcliff.report.curves import MAX_CURVES, thin
from batchcliff.report.figures import Curve, CurvePanels, Panel
from batchcliff.report.join import Joined, Trial
from batchcliff.report.text import clean, listed, stage_sizes

MAX_TOLD = 6  # cells whose updates the subtitle tells; the ledger has them all


def growth_curves(joined: Joined, slot_of: Mapping[str, int]) -> CurvePanels:
    """Test accuracy of each cell's first trial by epoch and by update.

    No panels where no trial's batch size changes: then updates are epochs times a factor,
    and a panel for each batch size says the same.
    """
    trials = [
        trial
        for cell in joined.cells().values()
        if (trial := next((t for t in cell if t.record and thin(_accuracies(t))), None))
    ][:MAX_CURVES]
    changes = any(t.record and t.record.ledger and t.record.ledger.stages for t in trials)
    panels: tuple[Panel, ...] = ()
    if changes:
        panels = (
            Panel(title="by epoch", curves=_curves(trials, slot_of, updates=False)),
            Panel(
                title="by update",
                curves=_curves(trials, slot_of, updates=True),
                place="update, log axis",
                named=True,
                log=True,
            ),
        )
    return CurvePanels(
        title="The same trials by epoch and by update",
        subtitle=f"test accuracy, the first seed of each cell; {_updates_text(trials)}",
        quantity="test accuracy",
        panels=panels,
    )


def updates_by_epoch(record: TrialRecord) -> list[int]:
    """Updates planned up to the end of epoch 1, 2, ..., an entry for each in the curve.

    In a stage of batch size B an epoch of N examples has N/B updates, floor(N/B) where an
    epoch's remainder is dropped.
    """
    ledger = record.ledger
    assert ledger is not None
    carry = record.spec.settings.remainder == "carry"
    parts = [
        (
            s.updates,
            ledger.num_train / s.batch_size if carry else ledger.num_train // s.batch_size,
        )
        for s in ledger.stages
    ] or [(ledger.updates, ledger.updates_per_epoch)]
    found = []
    for epoch in range(1, len(record.curves.test_accuracy) + 1):
        rest, done = float(epoch), 0.0
        for updates, an_epoch in parts:
            here = min(rest * an_epoch, updates)
            done, rest = done + here, rest - here / an_epoch
        found.append(min(round(done), ledger.updates))
    return found


def _accuracies(trial: Trial) -> tuple[float | None, ...]:
    return trial.record.curves.test_accuracy if trial.record and trial.record.ledger else ()


def _curves(
    trials: list[Trial], slot_of: Mapping[str, int], *, updates: bool
) -> tuple[Curve, ...]:
    curves = []
    for trial in trials:
        record, points = trial.record, thin(_accuracies(trial))
        assert record is not None and record.ledger is not None
        if updates:
            at = updates_by_epoch(record)
            points = tuple((at[epoch - 1], accuracy) for epoch, accuracy in points)
        curves.append(
            Curve(
                arm=trial.arm,
                slot=slot_of[trial.arm],
                batch_size=trial.batch_size,
                seed=trial.seed,
                points=points,
                label=stage_sizes(trial.batch_size, record.ledger.stages),
            )
        )
    return tuple(curves)


def _updates_text(trials: list[Trial]) -> str:
    """Planned updates of the cells, those whose batch grows before the others."""
    told = [
        (not ledger.stages, f"{clean(t.arm, 32)} at {sizes}: {ledger.updates:,}")
        for t in trials
        if t.record and (ledger := t.record.ledger)
        for sizes in [stage_sizes(t.batch_size, ledger.stages)]
    ]
    told.sort(key=lambda item: item[0])
    more = [f"{len(told) - MAX_TOLD} more"] * (len(told) > MAX_TOLD)
    return f"updates in all of {listed([*(text for _, text in told[:MAX_TOLD]), *more])}"
