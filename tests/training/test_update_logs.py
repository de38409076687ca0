"""Gradient norms: each against the gradient itself, and what a record keeps of them."""

from __future__ import annotations

import math

import pytest
import torch
from small_trials import SMALL, facts, ready, run, small_data, small_spec, with_settings
from test_loop_no_sync import NoWaiting
from torch import Tensor

from batchcliff.canonical import canonical_json, from_plain, parse_json
from batchcliff.record import Curves, Outcome, TrialRecord
from batchcliff.spec import Decay, Settings
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.update_logs import FIRST, norm_curves, skipped_updates

LOGGED = with_settings(SMALL, gradient_norms=True)


def norms_slowly(settings: Settings, updates: int, stack: int = 1) -> list[list[float]]:
    """The root of the sum of all squares of each network's gradient, [U][S]."""
    specs = [small_spec(settings=settings, seed=s) for s in range(stack)]
    resident = small_data()
    prepared = ready(specs[0], resident, stack)
    prepared.restart(specs, torch.full((12, stack), 0.1))
    loop, found = prepared.loop, []
    for epoch in range(-(-updates // 4)):
        loop.load_block(*epoch_tensors(specs, resident, 4 * epoch, 4 * epoch + 4))
        for row in range(4):
            buffers = [b.clone() for b in prepared.model.buffers()]
            losses = loop.losses(loop.index_UBS[row], loop.draws_UBSk[row])
            gradients = torch.autograd.grad(losses.sum(), loop.parameters)
            for buffer, old in zip(prepared.model.buffers(), buffers, strict=True):
                buffer.copy_(old)
            squares = torch.stack(
                [g.double().square().reshape(stack, -1).sum(1) for g in gradients]
            )
            found.append(squares.sum(0).sqrt().tolist())
            prepared.advance()
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer__weight_decay": 0.5, "optimizer__clip_norm": 0.01},
        {"mixup": 0.4, "label_smoothing": 0.1, "augmentation": "as-written", "cutout": 2},
    ],
    ids=["plain", "before decay and clipping", "mixed"],
)
def test_twin(changes: dict[str, object]) -> None:
    settings = with_settings(LOGGED, **changes)
    ran = run([small_spec(settings=settings)], small_data())
    expected = [n for (n,) in norms_slowly(settings, 12)]
    curves = ran.records[0].curves
    assert curves.first_gradient_norms == pytest.approx(expected, rel=1e-4)
    epochs = [expected[i : i + 4] for i in (0, 4, 8)]
    assert curves.gradient_norm == pytest.approx([sum(e) / 4 for e in epochs], rel=1e-4)
    assert curves.gradient_norm_max == pytest.approx([max(e) for e in epochs], rel=1e-4)
    assert max(expected) > 1.01 * min(expected)


def test_every_network_of_a_stack_has_its_own() -> None:
    expected = norms_slowly(LOGGED, 4, stack=3)
    specs = [small_spec(settings=LOGGED, seed=s) for s in range(3)]
    ran = run(specs, small_data())
    for s in range(3):
        norms = ran.records[s].curves.first_gradient_norms[:4]
        assert norms == pytest.approx([row[s] for row in expected], rel=1e-4)


def test_logging_changes_nothing_else() -> None:
    resident = small_data()
    plain, logged = (
        run([small_spec(settings=settings)], resident) for settings in (SMALL, LOGGED)
    )
    assert torch.equal(plain.losses, logged.losses)
    one, two = facts(plain.records[0]), facts(logged.records[0])
    assert one.curves.train_loss == two.curves.train_loss and one.accuracy == two.accuracy
    assert one.curves.gradient_norm == one.curves.first_gradient_norms == ()
    assert "gradient_norm" not in canonical_json(one).decode()


def test_it_waits_for_nothing() -> None:
    spec, resident = small_spec(settings=LOGGED), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.01))
    prepared.loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    before = [t.data_ptr() for t in prepared.loop.tensors()]
    with NoWaiting():
        prepared.advance()
    assert float(prepared.loop.logs["gradient_norm"][0]) > 0
    assert [t.data_ptr() for t in prepared.loop.tensors()] == before
    prepared.restart([spec], torch.zeros(12, 1))
    assert not prepared.loop.logs["gradient_norm"].any()


def diverged(after: int) -> TrialRecord:
    decay = Decay(kind="multistep", at=(f"{after}up",), factor=1e40)
    spec = small_spec(settings=LOGGED, decay=decay, lr=0.01)
    return run([spec], small_data()).records[0]


@pytest.mark.parametrize("after", [1, 3, 5])
def test_what_is_kept_of_a_diverged_run(after: int) -> None:
    """Up to the first bad update, whose own norm is not finite; and no mean of its epoch."""
    record, bad = diverged(after), after + 1
    assert record.outcome is Outcome.DIVERGED and record.first_bad_update == bad
    curves = record.curves
    assert len(curves.first_gradient_norms) == bad + 1
    assert [math.isfinite(n) for n in curves.first_gradient_norms] == [True] * bad + [False]
    epochs = bad // 4 + 1
    for means in (curves.gradient_norm, curves.gradient_norm_max):
        assert [math.isnan(m) for m in means] == [False] * (epochs - 1) + [True]
    again = from_plain(TrialRecord, parse_json(canonical_json(record)))
    assert canonical_json(again) == canonical_json(record)


def logs(norms: list[float], skipped: list[int] | None = None) -> dict[str, Tensor]:
    found = {"gradient_norm": torch.tensor(norms)}
    return found if skipped is None else found | {"skipped": torch.tensor(skipped).float()}


def test_skipped_updates_are_in_no_mean() -> None:
    found = logs([1.0, math.inf, 3.0, math.nan, math.inf], [0, 1, 0, 1, 1])
    curves = norm_curves(found, [(0, 3), (3, 5)], None)
    assert curves["gradient_norm"][0] == 2 and curves["gradient_norm_max"][0] == 3
    assert math.isnan(curves["gradient_norm"][1])
    assert math.isnan(curves["gradient_norm_max"][1])
    assert str(curves["first_gradient_norms"]) == "(1.0, inf, 3.0, nan, inf)"
    assert skipped_updates(found, 5) == 3 and skipped_updates(found, 4) == 2
    assert skipped_updates(logs([1.0]), 1) == 0


def test_what_is_not_finite_is_in_the_mean_where_it_was_applied() -> None:
    curves = norm_curves(logs([1.0, math.inf, 2.0, math.nan]), [(0, 2), (2, 4)], None)
    assert curves["gradient_norm"][0] == math.inf
    assert math.isnan(curves["gradient_norm_max"][1])


def test_a_hundred_are_kept() -> None:
    curves = norm_curves(logs([float(i) for i in range(150)]), [(0, 150)], None)
    assert curves["first_gradient_norms"] == tuple(range(FIRST)) and FIRST == 100
    assert norm_curves({}, [(0, 3)], None) == {}
    assert Curves(**curves).gradient_norm == (74.5,)
