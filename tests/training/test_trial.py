"""From specs to records: divergence to the update, curves, pairing, budgets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_trials import (
    ARTICLE_WARMUP,
    SMALL,
    PretendedTurn,
    Run,
    facts,
    facts_of,
    ready,
    run,
    small_data,
    small_spec,
    with_settings,
)
from torch import Tensor, nn

from batchcliff.data.resident import Resident, epoch_order
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Decay, TrialSpec
from batchcliff.training.arithmetic import ledger
from batchcliff.training.epochs import epoch_tensors, evaluated_epochs, spans
from batchcliff.training.records import first_bad
from batchcliff.training.trial import read_tests, run_trials

UPDATES = 12  # of small_spec: 3 epochs of 4


def first_bad_slowly(losses: Tensor) -> int | None:
    """Look at every loss in turn."""
    for update, loss in enumerate(losses.tolist()):
        if math.isnan(loss) or math.isinf(loss):
            return update
    return None


def poisoned(after: int, updates: int = UPDATES) -> Decay:
    """An infinite rate at update `after`: the weights are not finite from there on."""
    return Decay(kind="multistep", at=(f"{after}up",), factor=1e40)


def check_diverged(record: TrialRecord, bad: int) -> None:
    """What a record of divergence at update `bad` has to be, in epochs of four updates."""
    assert record.outcome is Outcome.DIVERGED
    assert record.first_bad_update == bad
    assert record.updates == bad
    assert f"at update {bad} of {UPDATES}" in record.reason
    assert (record.accuracy, record.accuracy_reestimated) == (None, None)
    assert (record.test_loss, record.train_loss) == (None, None)
    epochs, whole = min(bad // 4 + 1, 3), bad // 4
    curves = record.curves
    assert len(curves.train_loss) == len(curves.lr) == len(curves.test_accuracy) == epochs
    assert [math.isnan(x) for x in curves.train_loss] == [e >= whole for e in range(epochs)]
    assert all(a is None for a in curves.test_accuracy[whole:])


@pytest.mark.parametrize("after", [0, 2, 3, 4, 7, 10])
def test_first_bad_update_is_exact(after: int) -> None:
    """The update after the infinite rate is the first whose loss is not finite."""
    ran = run([small_spec(decay=poisoned(after), lr=0.01)], small_data())
    assert first_bad_slowly(ran.losses[:, 0]) == after + 1
    check_diverged(ran.records[0], after + 1)
    accuracies = ran.records[0].curves.test_accuracy
    # An evaluation after the poisoned update gives no accuracy, though no loss is bad yet.
    assert [a is None for a in accuracies] == [
        4 * e + 3 >= after for e in range(len(accuracies))
    ]
    assert "training loss" in ran.records[0].reason


def test_only_the_test_loss_is_not_finite() -> None:
    """The last update does the damage: every training loss is finite, the test loss is not."""
    ran = run([small_spec(decay=poisoned(UPDATES - 1), lr=0.01)], small_data())
    assert first_bad_slowly(ran.losses[:, 0]) is None
    record = ran.records[0]
    assert record.first_bad_update == record.updates == UPDATES
    assert record.outcome is Outcome.DIVERGED
    assert record.reason == "test loss after the last update not finite at update 12 of 12"
    assert record.accuracy is None
    assert all(math.isfinite(x) for x in record.curves.train_loss)


class Poisoned(nn.Module):
    """A user's network whose first loss is not finite."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(shape[0] * shape[1] * shape[2], classes)
        nn.init.constant_(self.head.bias, math.nan)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(x_BCHW.flatten(1))  # type: ignore[no-any-return]


def test_bad_from_the_start() -> None:
    ran = run([small_spec()], small_data(), build=Poisoned)
    assert first_bad_slowly(ran.losses[:, 0]) == 0
    check_diverged(ran.records[0], 0)


def test_a_huge_rate_diverges_where_the_losses_say() -> None:
    records = []
    for lr in (1e10, 1e15, 1e20, 1e37):
        ran = run([small_spec(lr=lr)], small_data())
        bad = first_bad_slowly(ran.losses[:, 0])
        record = ran.records[0]
        if bad is not None:
            check_diverged(record, bad)
        elif record.outcome is Outcome.DIVERGED:
            assert record.first_bad_update == UPDATES
        records.append(record)
    assert records[-1].first_bad_update is not None
    assert records[-1].first_bad_update > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_first_bad(bad: float) -> None:
    for place in (0, 3, 6):
        losses = torch.arange(7.0)
        losses[place:] = bad
        assert first_bad(losses, 1.0) == place == first_bad_slowly(losses)
        losses[place + 1 :] = 1.0  # one bad loss is enough
        assert first_bad(losses, 1.0) == place
    assert first_bad(torch.arange(7.0), 1.0) is None
    assert first_bad(torch.arange(7.0), bad) == 7


def test_no_accuracy_is_ever_a_nan_or_read_from_one() -> None:
    """Class 0 is what argmax makes of NaN: its share of the test set must not appear."""
    resident = small_data()
    resident.test_labels.zero_()  # an accuracy of NaN logits would be 1
    for after in (1, 4, 8, UPDATES - 1):
        record = run([small_spec(decay=poisoned(after), lr=1e-6)], resident).records[0]
        assert record.accuracy is None
        assert record.accuracy_reestimated is None
        kept = [a for a in record.curves.test_accuracy if a is not None]
        assert all(0 <= a <= 1 for a in kept)
        if after < UPDATES - 1:
            assert len(kept) == (after + 1) // 4


def test_the_same_trial_twice() -> None:
    resident = small_data()
    spec = small_spec(settings=with_settings(SMALL, augmentation="as-written"), seed=4)
    one, two = run([spec], resident), run([spec], resident)
    assert torch.equal(one.losses, two.losses)
    assert facts(one.records[0]) == facts(two.records[0])
    assert all(torch.equal(v, two.state(0)[k]) for k, v in one.state(0).items())
    other = run([small_spec(settings=spec.settings, seed=5)], resident)
    assert not torch.equal(one.losses, other.losses)
    again = run([spec], resident, prepared=other.prepared)
    assert torch.equal(one.losses, again.losses)


def start_of(spec: TrialSpec, resident: Resident) -> dict[str, Tensor]:
    """The state in which the trial starts."""
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.zeros_like(prepared.loop.rates_US))
    return {k: v.clone() for k, v in prepared.model.state_dict().items()}


def test_arms_and_batch_sizes_of_a_seed_are_paired() -> None:
    """Same weights, and the same examples in the same order with the same augmentation."""
    resident = small_data()
    settings = with_settings(SMALL, augmentation="as-written")
    base = {"settings": settings, "budget": "8ep", "seed": 9}
    none = small_spec(**base)
    warmup = small_spec(**base, techniques=ARTICLE_WARMUP, arm="warmup")
    wide = small_spec(**base, batch_size=20)
    starts = [start_of(spec, resident) for spec in (none, warmup, wide)]
    for other in starts[1:]:
        assert all(torch.equal(v, other[k]) for k, v in starts[0].items())
    assert not torch.equal(
        starts[0]["head.weight"],
        start_of(small_spec(**{**base, "seed": 8}), resident)["head.weight"],
    )
    first, draws = epoch_tensors([none], resident, 0, 4)
    for spec, updates in ((warmup, 4), (wide, 2)):
        index, drawn = epoch_tensors([spec], resident, 0, updates)
        assert torch.equal(index.flatten(), first.flatten())
        assert torch.equal(drawn.flatten(0, 1), draws.flatten(0, 1))
    assert first.flatten().tolist() == epoch_order(9, 0, 40).tolist()
    one, two = run([none], resident), run([warmup], resident)
    assert one.losses[0] == two.losses[0]
    assert one.losses[1] != two.losses[1]


@pytest.mark.parametrize(
    ("every", "budget", "measured"),
    [
        (1, "3ep", [0, 1, 2]),
        (0, "3ep", [2]),
        (2, "3ep", [1, 2]),
        (3, "3ep", [2]),
        (3, "7ep", [2, 5, 6]),
        (1, "6up", [0, 1]),
        (0, "2up", [0]),
    ],
)
def test_evaluation_every_few_epochs(every: int, budget: str, measured: list[int]) -> None:
    spec = small_spec(settings=with_settings(SMALL, evaluate_every=every), budget=budget)
    ran = run([spec], small_data())
    record = ran.records[0]
    accuracies = record.curves.test_accuracy
    assert [e for e, a in enumerate(accuracies) if a is not None] == measured
    assert evaluated_epochs(spec, len(accuracies)) == measured
    assert int(ran.prepared.evaluation.count) == len(measured) + 1  # and the re-estimated one
    assert accuracies[-1] == record.accuracy
    always = run([small_spec(budget=budget)], small_data()).records[0]
    assert record.accuracy == always.accuracy  # looking changes nothing
    assert record.test_loss == always.test_loss
    assert record.accuracy_reestimated == always.accuracy_reestimated
    for epoch in measured:
        assert accuracies[epoch] == always.curves.test_accuracy[epoch]


@pytest.mark.parametrize(
    ("remainder", "batch", "budget", "expected"),
    [
        ("drop", 12, "3ep", [(0, 3), (3, 6), (6, 9)]),
        ("drop", 12, "7up", [(0, 3), (3, 6), (6, 7)]),
        ("carry", 12, "3ep", [(0, 4), (4, 7), (7, 10)]),
        ("carry", 12, "5up", [(0, 4), (4, 5)]),
        ("carry", 12, "4up", [(0, 4)]),
        ("carry", 10, "1/2ep", [(0, 2)]),
        ("carry", 40, "2ep", [(0, 1), (1, 2)]),
        ("carry", 30, "61ex", [(0, 2), (2, 3)]),
    ],
)
def test_budgets_and_ends_of_epochs(
    remainder: str, batch: int, budget: str, expected: list[tuple[int, int]]
) -> None:
    """40 examples; a budget may end in the middle of an epoch, and is applied exactly."""
    settings = with_settings(SMALL, remainder=remainder)
    spec = small_spec(settings=settings, batch_size=batch, budget=budget)
    assert spans(spec, 40) == expected
    resident = small_data()
    ran = run([spec], resident)
    record = ran.records[0]
    assert record.outcome is Outcome.OK
    assert record.updates == expected[-1][1] == len(ran.losses)
    assert int(ran.prepared.loop.count) == record.updates
    assert len(record.curves.train_loss) == len(expected)
    for (a, b), mean in zip(expected, record.curves.train_loss, strict=True):
        assert mean == pytest.approx(float(ran.losses[a:b].double().mean()), rel=1e-12)
    assert record.train_loss == record.curves.train_loss[-1]
    blocks = [epoch_tensors([spec], resident, a, b)[0] for a, b in expected]
    seen = torch.cat([block.flatten() for block in blocks]).tolist()
    orders = [epoch_order(0, epoch, 40).tolist() for epoch in range(4)]
    kept = 40 // batch * batch if remainder == "drop" else 40
    stream = [i for order in orders for i in order[:kept]]
    assert seen == stream[: record.updates * batch]


def test_the_run_ends_early_once_all_networks_have_diverged() -> None:
    """One epoch late, since the host does not wait for the epoch that runs."""
    resident = small_data()
    bad = {"lr": 1e-3, "budget": "10ep", "decay": poisoned(1)}

    def applied(specs: list[Any]) -> tuple[Run, int]:
        prepared = ready(specs[0], resident, len(specs))
        calls, advance = [], prepared.advance
        prepared.advance = lambda: (calls.append(1), advance())[1]
        return run(specs, resident, prepared=prepared), len(calls)

    ran, count = applied([small_spec(**bad, seed=1), small_spec(**bad, seed=2)])
    assert count == 8  # two of ten epochs
    assert [r.first_bad_update for r in ran.records] == [2, 2]
    assert [len(r.curves.train_loss) for r in ran.records] == [1, 1]
    mixed, count = applied(
        [small_spec(**bad, seed=1), small_spec(**{**bad, "decay": Decay(kind="constant")})]
    )
    assert count == 40
    assert [r.outcome for r in mixed.records] == [Outcome.DIVERGED, Outcome.OK]
    assert facts(mixed.records[0]) == facts(ran.records[0])


def test_progress_is_told_to_the_end() -> None:
    resident, spec = small_data(), small_spec()
    prepared = ready(spec, resident)
    told: list[tuple[int, int]] = []
    run_trials(
        [spec],
        [ledger(spec, facts_of(resident))],
        resident,
        prepared,
        on_progress=lambda done, updates: told.append((done, updates)),
    )
    assert told == sorted(told)  # a slow machine tells more
    assert {(4, 12), (8, 12)} <= set(told)
    assert told[-1] == (12, 12)


def test_provenance_of_a_stack() -> None:
    resident = small_data()
    records = run([small_spec(seed=s) for s in range(3)], resident, stack=4).records
    for record in records:
        assert record.provenance is not None
        assert record.provenance.stacked == 3
        speed = record.ledger.examples / record.provenance.seconds  # type: ignore[union-attr]
        assert record.provenance.examples_per_second == pytest.approx(speed)
        assert dict(record.provenance.numerics)["compiled"] == "False"


def test_an_accuracy_of_nan_logits_is_none() -> None:
    """Such rates leave the training losses finite, but overflow in an evaluation."""
    settings = with_settings(SMALL, model__widths=((4, 4, 4), (6, 6, 6)))
    resident = small_data()
    resident.test_labels.zero_()  # the accuracy of NaN logits would be 1
    ran = run([small_spec(settings=settings, lr=1e4)], resident)
    record = ran.records[0]
    losses = [loss for _, loss in read_tests(ran.prepared, 50)[0]]
    assert [math.isfinite(loss) for loss in losses] == [False, True, True, False]
    assert record.outcome is Outcome.OK
    assert [a is None for a in record.curves.test_accuracy] == [True, False, False]
    assert record.accuracy is not None
    assert record.accuracy_reestimated is None


def test_only_the_training_is_within_a_turn() -> None:
    """And with it a trial computes what it does without."""
    resident, spec = small_data(), small_spec()
    turn, prepared = PretendedTurn(0.0), ready(spec, resident)
    ledgers = [ledger(spec, facts_of(resident))]
    ran = run_trials(
        [spec],
        ledgers,
        resident,
        prepared,
        on_phase=turn.said.append,
        turn=turn,  # type: ignore[arg-type]
    )
    assert turn.said[:2] == ["begins", "training"]
    assert turn.said[-3:] == ["training", "ends", "reestimating"]
    assert turn.said.count("begins") == turn.said.count("ends") == 1
    assert facts(ran[0]) == facts(run([spec], resident).records[0])


@pytest.mark.parametrize("waited", [-5_000.0, 0.0])
def test_what_was_waited_for_a_turn_is_no_part_of_what_a_run_took(waited: float) -> None:
    """Nor of the rate. A negative wait adds what no other clock would."""
    resident, spec = small_data(), small_spec()
    ledgers = [ledger(spec, facts_of(resident))]
    turn: Any = PretendedTurn(waited)
    (record,) = run_trials([spec], ledgers, resident, ready(spec, resident), turn=turn)
    provenance = record.provenance
    assert provenance is not None
    assert 0 < provenance.seconds + waited < 1_000
    assert provenance.examples_per_second * provenance.seconds == pytest.approx(120)


def test_an_error_in_training_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, spec = small_data(), small_spec()
    turn: Any = PretendedTurn(0.0)
    prepared = ready(spec, resident)

    def advance() -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(prepared, "advance", advance)
    with pytest.raises(torch.OutOfMemoryError):
        run_trials([spec], [ledger(spec, facts_of(resident))], resident, prepared, turn=turn)
    assert turn.said == ["begins", "ends"]
