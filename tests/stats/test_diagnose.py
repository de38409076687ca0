"""Each cause of a fall, made by hand, and beside it the same records without the cause."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from builders import make_ledger, make_spec

from batchcliff.record import Curves, Outcome, Probes, TrialRecord
from batchcliff.spec import Settings
from batchcliff.stats.diagnose import (
    BATCH_NORM,
    CANNOT_TELL,
    CAUSES,
    DATA,
    GENERALIZATION,
    INSTABILITY,
    LATER,
    UPDATES,
    CellDiagnosis,
    diagnose,
)
from batchcliff.stats.diagnose_evidence import MISSING, NO, YES, judged, peak_epochs
from batchcliff.stats.summary import summarize

EPOCHS = 20
LN_K = math.log(10)


def falling(last: float, *, first: float = 2.0) -> tuple[float, ...]:
    """A loss that falls by the same factor in every epoch."""
    return tuple(first * (last / first) ** (e / (EPOCHS - 1)) for e in range(EPOCHS))


GOOD = falling(0.1)
FLAT = (2.0, 1.0, 0.5, *[0.11] * 10, *[0.1] * (EPOCHS - 13))


def record(
    arm: str,
    size: int,
    accuracy: float | None,
    losses: tuple[float, ...] = GOOD,
    *,
    updates_per_epoch: float = 100.0,
    reestimated: float | None = None,
    curves: dict[str, Any] | None = None,
    ledger: dict[str, Any] | None = None,
    **fields: Any,
) -> TrialRecord:
    counts = {
        "updates": round(EPOCHS * updates_per_epoch),
        "updates_per_epoch": updates_per_epoch,
        "epochs": float(EPOCHS),
        "examples": EPOCHS * 1024,
    }
    return TrialRecord(
        spec=make_spec(arm, size, 0, settings=fields.pop("settings", Settings())),
        outcome=fields.pop("outcome", Outcome.OK),
        accuracy=accuracy,
        accuracy_reestimated=accuracy if reestimated is None else reestimated,
        train_loss=losses[-1],
        ledger=dataclasses.replace(make_ledger(), **{**counts, **(ledger or {})}),
        curves=Curves(train_loss=losses, lr=(0.1,) * EPOCHS, **(curves or {})),
        **fields,
    )


def diagnosed(*records: TrialRecord, arm: str = "none") -> CellDiagnosis:
    """The fallen cell of `arm` in a study whose arm "none" holds at batch size 64."""
    held = record("none", 64, 0.9, FLAT)
    found = [held, *records]
    planned = [r.spec for r in found]
    summary = summarize(found, planned, "none")
    cells = [c for c in diagnose(found, planned, summary).cells if c.arm == arm]
    assert len(cells) == 1 and cells[0].batch_size == 128
    return cells[0]


# batch-norm statistics -----------------------------------------------------------------------


def test_statistics_that_re_estimating_mends() -> None:
    found = diagnosed(record("none", 128, 0.7, reestimated=0.88))
    assert found.cause == BATCH_NORM and found.also == ()
    assert found.finding(GENERALIZATION).verdict == NO
    control = diagnosed(record("none", 128, 0.7, reestimated=0.71))
    assert control.finding(BATCH_NORM).verdict == NO
    between = diagnosed(record("none", 128, 0.7, reestimated=0.77))
    assert between.finding(BATCH_NORM).verdict == CANNOT_TELL


def test_statistics_that_are_re_estimated_anyway_are_not_to_blame() -> None:
    settings = Settings(evaluation="reestimated")
    found = diagnosed(record("none", 128, 0.7, reestimated=None, settings=settings))
    assert found.finding(BATCH_NORM).verdict == NO


# early instability ---------------------------------------------------------------------------


def test_what_warmup_cures() -> None:
    fell = record("none", 128, 0.5, falling(1.5))
    found = diagnosed(fell, record("warmup", 128, 0.89))
    assert found.cause == INSTABILITY
    control = diagnosed(fell, record("warmup", 128, 0.51, falling(1.5)))
    assert control.finding(INSTABILITY).verdict == NO


def test_a_warmup_arm_that_differs_in_more_is_no_experiment() -> None:
    other = record("warmup", 128, 0.89, settings=Settings(loss="logits"))
    found = diagnosed(record("none", 128, 0.5, falling(1.5)), other)
    assert found.finding(INSTABILITY).verdict == CANNOT_TELL


def test_a_warmup_arm_that_broke_itself_refutes_nothing() -> None:
    broken = record("warmup", 128, None, outcome=Outcome.DIVERGED, first_bad_update=1000)
    found = diagnosed(record("none", 128, 0.5, falling(1.5)), broken)
    assert found.finding(INSTABILITY).verdict == CANNOT_TELL


@pytest.mark.parametrize(
    ("bad", "early", "later"), [(100, YES, NO), (400, YES, NO), (401, CANNOT_TELL, YES)]
)
def test_divergence_early_and_late(bad: int, early: str, later: str) -> None:
    losses = (*GOOD[:5], *[math.nan] * (EPOCHS - 5))
    fell = record("none", 128, None, losses, outcome=Outcome.DIVERGED, first_bad_update=bad)
    found = diagnosed(fell)
    assert found.finding(INSTABILITY).verdict == early
    # Losses that are not finite do not say whether something was lost before.
    assert found.finding(LATER).verdict == (later if later == YES else CANNOT_TELL)
    assert found.finding(LATER).evidence[0].says == later
    assert found.finding(UPDATES).verdict == found.finding(GENERALIZATION).verdict == NO


def test_a_dead_network() -> None:
    ceiling = 0.9 * -math.log(1e-7)
    dead = (2.0, *[ceiling] * (EPOCHS - 1))
    found = diagnosed(record("none", 128, 0.1, dead))
    assert found.cause == INSTABILITY
    assert found.finding(UPDATES).verdict == found.finding(GENERALIZATION).verdict == NO
    near = (2.0, *[0.9 * ceiling] * (EPOCHS - 1))
    assert diagnosed(record("none", 128, 0.1, near)).finding(INSTABILITY).evidence[1].says == NO


def probed(*, rise: float, sharpness: float, norm: float) -> dict[str, Any]:
    """Signs of the first updates; lr 0.1 and m 0.9 allow a sharpness of 38."""
    probes = Probes(
        updates=(0, 4), lr=(0.1, 0.1), sharpness=(None, sharpness),
        sharpness_error=(None, 0.0), first_losses=(2.0, 2.0 * rise, 1.0),
    )  # fmt: skip
    return {
        "probes": probes,
        "curves": {"first_gradient_norms": (norm, 1.0), "gradient_norm": (1.0,) * EPOCHS},
    }


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ({"rise": 3.0, "sharpness": 60.0, "norm": 1.0}, YES),
        ({"rise": 3.0, "sharpness": 10.0, "norm": 20.0}, YES),
        ({"rise": 3.0, "sharpness": 10.0, "norm": 1.0}, CANNOT_TELL),
        ({"rise": 1.0, "sharpness": 10.0, "norm": 1.0}, NO),
    ],
)
def test_signs_of_the_first_updates(signs: dict[str, float], verdict: str) -> None:
    found = diagnosed(record("none", 128, 0.5, falling(1.0, first=1.9), **probed(**signs)))
    assert found.finding(INSTABILITY).verdict == verdict


def test_a_loss_of_another_kind_is_not_measured_by_guessing() -> None:
    """All losses 60 higher, as a regression's may be: no epoch is above ln K for that."""
    held = record("none", 64, 0.9, tuple(x + 60 for x in FLAT))
    fell = record("none", 128, 0.5, tuple(x + 60 for x in falling(1.5)))
    planned = [held.spec, fell.spec]
    found = diagnose([held, fell], planned, summarize([held, fell], planned, "none")).cells[0]
    says = {e.name: e.says for e in found.finding(INSTABILITY).evidence}
    assert {says[n] for n in says if "ln K" in n} == {MISSING}
    assert found.finding(INSTABILITY).verdict == CANNOT_TELL


# later instability ---------------------------------------------------------------------------

LEARNS = (2.0, 1.2, 0.6, 0.4, 0.3)  # of 20 epochs: a fifth of the run, and one more


@pytest.mark.parametrize(
    ("rest", "verdict"),
    [
        ((2.0,) * 15, YES),  # (2.0 - 0.3) / (ln 10 - 0.3) = 0.85 of what was learnt
        ((1.31,) * 15, YES),  # 0.504
        ((1.29,) * 15, CANNOT_TELL),  # 0.494
        ((0.9, 2.0, 1.5, *(0.3,) * 12), CANNOT_TELL),  # lost, and regained
        ((0.7, *(0.3,) * 14), NO),  # 0.2 for one epoch: noise
        ((0.3,) * 15, NO),
    ],
)
def test_what_was_learnt_and_lost_again(rest: tuple[float, ...], verdict: str) -> None:
    found = diagnosed(record("none", 128, 0.5, (*LEARNS, *rest)))
    assert found.finding(LATER).verdict == verdict
    if verdict == YES:
        assert found.cause == LATER
        assert found.finding(UPDATES).verdict == found.finding(GENERALIZATION).verdict == NO


def test_who_has_learnt_nothing_has_nothing_to_lose() -> None:
    """A tenth of ln K is 0.23: the loss of guessing less than that is noise."""
    stuck = diagnosed(record("none", 128, 0.1, (2.2, 2.1, *(2.3,) * 18)))
    assert stuck.finding(LATER).verdict == NO
    learnt = diagnosed(record("none", 128, 0.1, (2.2, 2.06, *(2.3,) * 18)))
    assert learnt.finding(LATER).verdict == YES


def test_a_loss_of_another_kind_says_nothing_of_what_was_learnt() -> None:
    """Where the batch size that holds ends above ln K too, that is not guessing's loss."""
    held = record("none", 64, 0.9, tuple(x + LN_K for x in FLAT))
    fell = record("none", 128, 0.5, (*LEARNS, *(2.0,) * 15))
    planned = [r.spec for r in (held, fell)]
    (cell,) = diagnose([held, fell], planned, summarize([held, fell], planned, "none")).cells
    assert cell.finding(LATER).verdict == CANNOT_TELL
    assert [e.says for e in cell.finding(LATER).evidence] == [NO, NO, MISSING, MISSING]


@pytest.mark.parametrize(("alive", "early", "later"), [(4, YES, NO), (5, NO, YES)])
def test_a_network_that_dies_early_or_late(alive: int, early: str, later: str) -> None:
    """Dead at the end either way; what tells is whether a fifth of the run had passed."""
    ceiling = 0.9 * -math.log(1e-7)
    losses = (*LEARNS[:alive], *[ceiling] * (EPOCHS - alive))
    found = diagnosed(record("none", 128, 0.1, losses))
    assert found.finding(INSTABILITY).evidence[1].says == early
    assert found.finding(LATER).evidence[1].says == later
    assert found.finding(UPDATES).verdict == found.finding(GENERALIZATION).verdict == NO


# too few updates -----------------------------------------------------------------------------


def test_a_loss_that_is_on_the_way_of_the_smaller_batch() -> None:
    """Half the updates: it has the loss that the smaller batch had after as many."""
    held = record("none", 64, 0.9, falling(0.1))
    half = falling(0.1)[::2]
    slow = tuple(x for pair in zip(half, half, strict=True) for x in pair)
    fell = record("none", 128, 0.7, (*slow[:-1], 0.5), updates_per_epoch=50.0)
    found = diagnose([held, fell], [held.spec, fell.spec], summarize(
        [held, fell], [held.spec, fell.spec], "none"
    )).cells[0]  # fmt: skip
    assert found.cause == UPDATES
    control = record("none", 128, 0.7, (*[1.3] * 19, 1.2), updates_per_epoch=50.0)
    both = [held, control]
    specs = [r.spec for r in both]
    other = diagnose(both, specs, summarize(both, specs, "none")).cells[0]
    assert other.finding(UPDATES).verdict == NO  # its updates did less than as many before


def test_a_loss_that_still_falls_where_equal_updates_are_not_to_be_had() -> None:
    few = {"updates_per_epoch": 0.5}  # the smaller batch had its first epoch done by then
    found = diagnosed(record("none", 128, 0.7, falling(0.6), **few))
    assert found.finding(UPDATES).verdict == YES
    assert found.finding(UPDATES).evidence[1].says == MISSING
    control = diagnosed(record("none", 128, 0.7, (*falling(0.6)[:10], *[0.9] * 10), **few))
    assert control.finding(UPDATES).verdict == CANNOT_TELL


def test_a_loss_that_stands_still_is_not_short_of_updates() -> None:
    """At guessing's loss as the smaller batch was after as many updates: that is no proof."""
    still = record("none", 128, 0.1, (2.4, *[2.31] * 19), updates_per_epoch=50.0)
    held = record("none", 64, 0.9, (*[2.31] * 15, 1.5, 0.7, 0.3, 0.15, 0.1))
    specs = [held.spec, still.spec]
    found = diagnose([held, still], specs, summarize([held, still], specs, "none")).cells[0]
    loss, equal, falls, guessing = found.finding(UPDATES).evidence
    assert (loss.says, equal.says, falls.says, guessing.says) == (YES, YES, NO, YES)
    assert found.finding(UPDATES).verdict == CANNOT_TELL


# generalization ------------------------------------------------------------------------------


def test_training_that_ends_as_well_and_tests_worse() -> None:
    found = diagnosed(record("none", 128, 0.8, falling(0.1)))
    assert found.cause == GENERALIZATION and found.finding(UPDATES).verdict == NO
    control = diagnosed(record("none", 128, 0.8, falling(0.4)))
    assert control.finding(GENERALIZATION).verdict == NO


# data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ledger", "verdict"),
    [
        ({"dropped_per_epoch": 100}, YES),
        ({"dropped_per_epoch": 10}, NO),
        ({"examples": EPOCHS * 900}, YES),
        ({"examples": EPOCHS * 2000}, NO),  # more than the others is no loss
    ],
)
def test_examples_that_were_not_seen(ledger: dict[str, Any], verdict: str) -> None:
    found = diagnosed(record("none", 128, 0.8, ledger=ledger))
    assert found.finding(DATA).verdict == verdict


# what all have in common ---------------------------------------------------------------------


def test_without_curves_and_ledgers_nothing_can_be_told() -> None:
    bare = TrialRecord(spec=make_spec("none", 128, 0), outcome=Outcome.OK, accuracy=0.5)
    found = diagnosed(bare)
    assert found.cause == CANNOT_TELL
    assert {f.cause: f.verdict for f in found.findings} == dict.fromkeys(CAUSES, CANNOT_TELL)


def test_only_fallen_cells_and_none_without_a_plateau() -> None:
    good = [record("none", 64, 0.9), record("none", 128, 0.895)]
    planned = [r.spec for r in good]
    found = diagnose(good, planned, summarize(good, planned, "none"))
    assert found.cells == () and "no cell has fallen" in found.note
    missing = diagnose([], planned, summarize([], planned, "none"))
    assert missing.cells == () and "no plateau" in missing.note


def test_thresholds_in_both_directions() -> None:
    up = [judged("", value, 2.0, 1.0, "").says for value in (2.0, 1.5, 1.0, None, math.nan)]
    assert up == [YES, "neither", NO, MISSING, MISSING]
    down = [judged("", value, 1.0, 2.0, "").says for value in (1.0, 1.5, 2.0)]
    assert down == [YES, "neither", NO]


def test_epochs_before_the_decay() -> None:
    lr = (0.01, 0.05, *[0.1] * 8, *[0.01] * 10)
    warmed = dataclasses.replace(record("none", 64, 0.9), curves=Curves(train_loss=GOOD, lr=lr))
    assert peak_epochs(warmed) == 10
