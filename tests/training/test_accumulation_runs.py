"""Trials in micro batches from beginning to end: their records, loss scaling, one graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from micro_batched import (
    CASES,
    GHOST,
    OWN,
    RATES,
    TOLERANCE,
    cut,
    data,
    six,
    spec_of,
)
from small_trials import (
    distance,
    facts_of,
    numbers,
    with_settings,
)
from test_compiled import on_gpu, snapshot
from test_loop_no_sync import NoWaiting
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.record import TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import ledger
from batchcliff.training.checkpoint import about
from batchcliff.training.compiled import rewound
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import run_trials


def record_of(spec: TrialSpec, most: int) -> TrialRecord:
    counted = ledger(spec, facts_of(data()))
    (record,) = run_trials([spec], [counted], data(), cut(spec, most))
    return record


@pytest.mark.parametrize("name", ["ghost", "shards", "mixup"])
def test_a_record_says_how_it_ran(name: str) -> None:
    """And re-estimates batch norm in micro batches too."""
    spec = spec_of(CASES[name])
    whole, parts = record_of(spec, 0), record_of(spec, 12)
    assert whole.ledger and parts.ledger and whole.provenance and parts.provenance
    assert (whole.ledger.accumulation, whole.provenance.micro_batch) == (1, 0)
    assert (parts.ledger.accumulation, parts.provenance.micro_batch) == (2, 12)
    assert parts.trial_id == whole.trial_id
    assert dataclasses.replace(parts.ledger, accumulation=1) == whole.ledger
    assert parts.accuracy == pytest.approx(whole.accuracy, abs=0.021), "one example"
    assert parts.accuracy_reestimated == pytest.approx(whole.accuracy_reestimated, abs=0.021)
    assert parts.test_loss == pytest.approx(whole.test_loss, rel=1e-4)
    assert parts.curves.train_loss == pytest.approx(whole.curves.train_loss, rel=1e-5)


def test_a_batch_that_grows_is_cut_where_it_must_be() -> None:
    growth = (("batch-growth", (("at", ("50%",)), ("factor", 2), ("most", 30))),)
    spec = spec_of(batch_size=12, budget="4ep", techniques=growth)
    whole, parts = record_of(spec, 0), record_of(spec, 12)
    assert parts.ledger and [stage.batch_size for stage in parts.ledger.stages] == [12, 24]
    assert parts.ledger.accumulation == 2
    assert parts.curves.train_loss == pytest.approx(whole.curves.train_loss, rel=1e-4)


def test_reestimation_follows_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass is larger than a micro batch, and a batch counts once."""
    prepared, seen = six(spec_of(), 8), []
    layer = next(m for m in prepared.model.modules() if isinstance(m, GhostBatchNorm2d))
    original = GhostBatchNorm2d.forward

    def forward(self: GhostBatchNorm2d, x: Tensor) -> Tensor:
        seen.append(len(x))
        return original(self, x)

    monkeypatch.setattr(GhostBatchNorm2d, "forward", forward)
    index, draws = epoch_tensors([spec_of()], data(), 0, 1)
    before, layer.momentum = layer.running_mean.clone(), 1.0
    prepared.loop.look(index[0], draws[0])
    assert set(seen) == {8}
    assert torch.equal(layer.running_mean, before), "momentum 1 keeps what was"
    assert (layer.momentum, layer.shards) == (1.0, 1)


def test_the_host_waits_for_nothing_and_no_address_moves() -> None:
    spec = spec_of(CASES["mixup"])
    prepared = cut(spec, 8)
    prepared.restart([spec], torch.full((6, 1), 0.1))
    prepared.loop.load_block(*epoch_tensors([spec], data(), 0, 2))
    before, places = snapshot(prepared), [t.data_ptr() for t in prepared.loop.tensors()]
    with rewound(prepared.loop.tensors()):
        with NoWaiting():
            prepared.advance()
            prepared.advance()
        moved = [n for n, v in snapshot(prepared).items() if not torch.equal(v, before[n])]
        assert "head.weight" in moved
        assert "blocks.0.1.running_mean" in moved
    assert all(torch.equal(v, before[n]) for n, v in snapshot(prepared).items())
    assert [t.data_ptr() for t in prepared.loop.tensors()] == places


def test_a_divergence_does_not_reach_the_next_trial() -> None:
    """The statistics of micro batches are forgotten, not a NaN times 0."""
    spec = spec_of()
    expected = numbers(six(spec, 8))
    prepared = cut(spec, 8)
    prepared.restart([spec], torch.full((6, 1), float("nan")))
    prepared.loop.load_block(*epoch_tensors([spec], data(), 0, 2))
    for _ in range(2):
        prepared.advance()
    assert prepared.loop.losses_US[1].isnan()
    prepared.restart([spec], torch.tensor(RATES)[:, None])
    for first in (0, 2, 4):
        prepared.loop.load_block(*epoch_tensors([spec], data(), first, first + 2))
        prepared.advance()
        prepared.advance()
    assert distance(numbers(prepared), expected) == 0


class Burst(torch.autograd.Function):
    """The identity, whose gradient is infinite for an image that begins with white."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x)
        return weight.expand(len(x))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = context.saved_tensors
        burst = torch.where(x[:, 0, 0, 0] > 0.99, float("inf"), 1.0)
        return None, (gradient * burst).sum().view(1)


class Bursting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1)) + Burst.apply(x, self.weight)[:, None] * 0.5
        return out


@pytest.mark.parametrize("bad", [0, 9, 23, None])
def test_loss_scaling_skips_whole_updates(bad: int | None) -> None:
    """One overflow in any micro batch, and no part of the update is applied."""
    spec, resident = spec_of(with_settings(OWN, precision="fp16", gradient_norms=True)), data()
    index, draws = epoch_tensors([spec], resident, 0, 1)
    resident.train_images[:, 0, 0, 0] = 0
    if bad is not None:
        resident.train_images[int(index[0, bad, 0]), 0, 0, 0] = 255
    prepared = prepare(
        spec, resident, num_classes=4, stack=1, user_build=lambda *_: Bursting(), most=8
    )
    assert prepared.accumulation == 3
    prepared.restart([spec], torch.full((6, 1), 0.1))
    before = [p.detach().clone() for p in prepared.loop.parameters]
    prepared.loop.load_block(index, draws)
    prepared.advance()
    kept = all(map(torch.equal, before, prepared.loop.parameters))
    assert kept == bool(prepared.loop.logs["skipped"][0]) == (bad is not None)
    assert prepared.loop.scaling is not None
    assert float(prepared.loop.scaling.scale) == 2.0 ** (16 if bad is None else 15)
    assert bool(prepared.loop.logs["gradient_norm"][0].isfinite()) == (bad is None)


def test_scaled_losses_are_those_of_the_whole_batch() -> None:
    spec = spec_of(with_settings(GHOST, precision="fp16", gradient_norms=True))
    whole, parts = numbers(six(spec, 0)), numbers(six(spec, 8))
    for name in ("losses", "gradient_norm"):  # gradients of a pass are rounded to float16
        assert parts[name] == pytest.approx(whole[name], rel=0.01)
    assert not parts["skipped"].any()


@pytest.mark.parametrize("name", ["ghost", "shards", "mixup"])
def test_all_micro_batches_share_one_compiled_graph(name: str) -> None:
    """As a GPU compiles it: passes over changing statistics are no reason to compile again."""
    spec, graphs = spec_of(CASES[name]), []

    def backend(module: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    prepared = cut(spec, 8)
    compile_: Any = torch.compile
    prepared.loop.loss_function = compile_(prepared.loop.losses, dynamic=False, backend=backend)
    prepared.restart([spec], torch.tensor(RATES)[:, None])
    for first in (0, 2, 4):
        prepared.loop.load_block(*epoch_tensors([spec], data(), first, first + 2))
        prepared.advance()
        prepared.advance()
    assert len(graphs) == 1
    assert distance(numbers(prepared), numbers(six(spec, 8))) < TOLERANCE


def test_a_checkpoint_of_whole_batches_is_no_checkpoint_of_micro_batches() -> None:
    """Bits differ, so a run that went on from it would be neither."""
    said = [
        about(cut(spec_of(), most), [spec_of()], code="", weights="") for most in (0, 12, 8)
    ]
    assert len({names["numerics"] for names in said}) == 3
    assert said[0] == about(cut(spec_of(), 24), [spec_of()], code="", weights="")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["ghost", "shards", "mixup", "clipped"])
def test_compiled_and_captured_equals_plain(name: str) -> None:
    """Two graphs, of the whole batch and of its micro batches, against the CPU: 1e-3."""
    settings = with_settings(CASES[name], model__widths=((8,), (16,)))
    spec = spec_of(settings, budget="2up")
    runs: list[dict[str, Tensor]] = []
    for place, most in ((data(), 0), (on_gpu(data()), 0), (on_gpu(data()), 8)):
        prepared = prepare(spec, place, num_classes=4, stack=1, most=most)
        prepared.restart([spec], torch.tensor([[0.05], [0.1]]))
        prepared.loop.load_block(*epoch_tensors([spec], place, 0, 2))
        prepared.advance()
        prepared.advance()
        found = snapshot(prepared)
        runs.append({n: v for n, v in found.items() if "_UBS" not in n})
    for other in runs[1:]:
        for key, value in runs[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4, msg=key)
