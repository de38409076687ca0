"""A run whose batch size changes: its laws, its record, and what it shares."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from growing_trials import TORCH, growing
from small_trials import (
    SMALL,
    facts,
    facts_of,
    ready,
    run,
    small_data,
    small_spec,
    with_settings,
)
from test_compiled import on_gpu
from test_loop_no_sync import NoWaiting

from batchcliff.data.resident import epoch_order
from batchcliff.errors import Infeasible
from batchcliff.record import BatchStage, Outcome
from batchcliff.spec import Decay, Settings
from batchcliff.study.jobs import stackable
from batchcliff.techniques.batch_warmup import BatchWarmup
from batchcliff.training.arithmetic import (
    DataFacts,
    learning_rates,
    ledger,
    shape_key,
    timeline_of,
)
from batchcliff.training.compiled import WARM_UPS
from batchcliff.training.epochs import epoch_tensors

STEPS = Decay(kind="multistep", at=("40%", "80%"), factor=0.5)
ONCE: dict[str, Any] = {"at": ("50%",), "factor": 2}


# --- twins
# --- laws


def test_law_the_stream_is_cut_and_nothing_else() -> None:
    """Examples and draws of all updates together are those of a constant batch."""
    resident = small_data()
    settings = with_settings(SMALL, augmentation="as-written")
    plain = small_spec(settings=settings, batch_size=5, decay=STEPS, seed=2, budget="4ep")
    spec = growing(plain)
    timeline = timeline_of(spec, 40)
    assert [s.batch_size for s in timeline.stretches] == [5, 10, 20]
    blocks = [epoch_tensors([spec], resident, p.first, p.last) for p in timeline.pieces()]
    whole = epoch_tensors([plain], resident, 0, 35)  # the last batch ends after the run
    seen = torch.cat([index.flatten() for index, _ in blocks])
    assert torch.equal(seen, whole[0].flatten())
    assert torch.equal(
        torch.cat([draws.flatten(0, 2) for _, draws in blocks]), whole[1].flatten(0, 2)
    )


def test_law_drop_leaves_out_the_end_of_every_epoch() -> None:
    resident = small_data()
    settings = with_settings(SMALL, remainder="drop")
    spec = growing(
        small_spec(settings=settings, batch_size=6, budget="5ep"), at=("2ep",), factor=3
    )
    found = ledger(spec, facts_of(resident))
    assert [(s.batch_size, s.updates) for s in found.stages] == [(6, 12), (18, 6)]
    assert (found.updates, found.examples, found.epochs) == (18, 180, 5)
    assert found.dropped_per_epoch == 4  # both sizes leave out 40 - 36
    for epoch, (first, last) in enumerate(timeline_of(spec, 40).epochs()):
        index, _ = epoch_tensors([spec], resident, first, last)
        assert index.flatten().tolist() == epoch_order(0, epoch, 40)[:36].tolist()
    ran = run([spec], resident)
    assert len(ran.records[0].curves.test_accuracy) == 5


def test_law_noise_scale_follows_the_decayed_runs() -> None:
    """lr / B at every example is that of the trial that decays, up to the end of a batch."""
    facts = DataFacts(num_train=1000, num_test=10, num_classes=2, image_shape=(8, 8, 1))
    warm = (("warmup", (("duration", "2ep"),)),)
    decayed = small_spec(
        batch_size=10,
        budget="20ep",
        lr=0.4,
        techniques=warm,
        decay=Decay(kind="multistep", at=("40%", "14ep", "80%"), factor=0.2),
    )
    spec = growing(decayed, most="N/4")
    found = ledger(spec, facts)
    assert [(s.batch_size, s.updates) for s in found.stages] == [
        (10, 800), (50, 120), (250, 8), (250, 16),
    ]  # fmt: skip
    assert [s.lr for s in found.stages] == pytest.approx([0.4, 0.4, 0.4, 0.08])
    assert found.warmup_updates == 200
    timeline, rates = timeline_of(spec, 1000), learning_rates(spec, 1000)
    plain = learning_rates(decayed, 1000)
    for update, lr in enumerate(rates):
        there = timeline.position(update)
        ours = lr / timeline.stretch_at(update).batch_size
        assert ours == pytest.approx(plain[there // 10] / 10), update
    assert len(rates) == found.updates == 944


def test_law_a_curve_stays_and_does_not_stretch() -> None:
    """The cosine of a growing run is a function of the examples seen, not of the updates."""
    plain = small_spec(batch_size=5, budget="4ep", decay=Decay(kind="cosine"))
    spec = growing(plain, at=("50%",), factor=4)
    table, rates = learning_rates(plain, 40), learning_rates(spec, 40)
    assert rates[:16] == table[:16]
    assert rates[16:] == [table[u] for u in (16, 20, 24, 28)]
    assert spec.decay == plain.decay


def test_law_batch_warmup_keeps_lr_over_batch() -> None:
    plain = small_spec(batch_size=20, budget="4ep", decay=STEPS, lr=0.8)
    for scale_lr, factors in ((True, (0.25, 0.5, 0.75)), (False, (1.0, 1.0, 1.0))):
        warmup = BatchWarmup(duration="60ex", start=4, steps=3, scale_lr=scale_lr)
        found = ledger(warmup.applied(plain), facts_of(small_data()))
        assert [(s.batch_size, s.updates) for s in found.stages] == [
            (5, 4), (10, 2), (15, 2), (20, 5),
        ]  # fmt: skip
        rates = [0.8 * factor for factor in factors]
        assert [s.lr for s in found.stages][:3] == pytest.approx(rates)
        assert found.stages[3].lr == pytest.approx(0.8 * 0.5**0)


# --- what a prepared run shares, and its record


def test_stages_share_all_but_their_blocks() -> None:
    spec = growing(small_spec(batch_size=5, decay=STEPS))
    prepared = ready(spec, small_data())
    assert list(prepared.later) == [10, 20]
    one, other = prepared.at(5).loop, prepared.at(20).loop
    assert one is prepared.loop
    assert [a.data_ptr() for a in one.tensors()] == [b.data_ptr() for b in other.tensors()]
    assert one.rates_US is other.rates_US
    assert (one.index_UBS.shape[1], other.index_UBS.shape[1]) == (5, 20)
    assert other.loss_function == other.losses  # its own, not the first one's
    plain = ready(small_spec(), small_data())
    assert plain.later == {}
    assert plain.at(10) == (plain.loop, plain.advance, 10)


def test_a_later_batch_size_does_not_wait_for_the_device() -> None:
    settings = with_settings(
        SMALL, augmentation="as-written", mixup=0.4, gradient_norms=True, label_smoothing=0.1
    )
    spec, resident = growing(small_spec(settings=settings, batch_size=5), **ONCE), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((18, 1), 0.01))
    loop, advance, group = prepared.at(10)
    loop.load_block(*epoch_tensors([spec], resident, 12, 16))
    with NoWaiting():
        advance()
    assert group == 10
    assert loop.losses_US[0] > 0  # its first update is the counter's, not the stretch's
    assert not stackable(spec)  # the others of a stack would have to grow with it


def test_the_record_of_a_growing_trial() -> None:
    resident = small_data()
    spec = growing(small_spec(batch_size=5, decay=STEPS, budget="5ep", lr=0.05, seed=1))
    ran = run([spec], resident)
    record = ran.records[0]
    assert record.outcome is Outcome.OK
    assert record.ledger is not None
    assert record.ledger.stages == (
        BatchStage(batch_size=5, updates=16, lr=0.05),
        BatchStage(batch_size=10, updates=8, lr=0.05),
        BatchStage(batch_size=20, updates=2, lr=0.05),
    )
    assert record.updates == record.ledger.updates == 26
    assert record.examples == record.ledger.examples == 200
    assert (record.ledger.epochs, record.ledger.updates_per_epoch) == (5, 5.2)
    assert record.ledger.batch_norm_horizon_epochs == pytest.approx(5)  # of batches of 20
    assert len(record.curves.lr) == 5
    assert all(a is not None for a in record.curves.test_accuracy)
    assert record.curves.train_loss[3] == pytest.approx(float(ran.losses[20:24].mean()))
    again = run([spec], resident, prepared=ran.prepared)
    assert facts(again.records[0]) == facts(record)
    assert torch.equal(again.losses, ran.losses)
    plain = run(
        [small_spec(batch_size=5, decay=STEPS, budget="5ep", lr=0.05, seed=1)], resident
    )
    assert torch.equal(plain.losses[:16], ran.losses[:16])  # the same until it grows
    assert not torch.equal(plain.losses[16], ran.losses[16])


def test_divergence_in_a_later_stage_is_found_to_the_update() -> None:
    spec = growing(small_spec(batch_size=5, budget="5ep", lr=1e-3), at=("40%",), factor=2)
    resident = small_data()
    prepared = ready(spec, resident)
    table = torch.full((28, 1), 1e-3)
    advance = prepared.at(10).advance

    def poisoned() -> None:
        if int(prepared.loop.count) == 20:
            table[20] = math.inf
            prepared.loop.rates_US.copy_(table)
        advance()

    prepared.later[10] = prepared.later[10]._replace(advance=poisoned)
    record = run([spec], resident, prepared=prepared).records[0]
    assert record.outcome is Outcome.DIVERGED
    assert record.first_bad_update == record.updates == 21
    assert record.examples == 16 * 5 + 5 * 10
    assert record.accuracy is None


def test_shapes() -> None:
    """Rate, seed and decay share a prepared run; growth has one of its own."""
    spec = growing(small_spec(batch_size=5, decay=STEPS))
    assert shape_key(spec) == shape_key(dataclasses.replace(spec, seed=9, lr=7.0))
    others = [
        small_spec(batch_size=5, decay=STEPS),
        growing(small_spec(batch_size=5, decay=STEPS), factor=4),
    ]
    assert shape_key(spec) not in {shape_key(other) for other in others}


CANNOT: dict[str, tuple[Settings, int, dict[str, Any], str]] = {
    "larger than the data": (
        SMALL, 10, {"at": ("1ep",), "factor": 5, "most": 1000},
        "batch-growth: batch size 50 is larger than the training set (40 examples)",
    ),
    "no whole groups": (
        with_settings(SMALL, batch_norm__group=5), 5, {"at": ("1ep",), "factor": 2, "most": 8},
        "batch-growth: 2 x batch size 5 = 10 passes most = 8: nothing would grow.",
    ),
    "most of the data": (
        SMALL, 10, {"at": ("1ep",), "factor": 2, "most": "N/10"},
        "batch-growth: 2 x batch size 10 = 20 passes most = N/10 = 4: nothing would grow.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_run_is_infeasible(name: str) -> None:
    settings, batch_size, options, message = CANNOT[name]
    spec = growing(small_spec(settings=settings, batch_size=batch_size), **options)
    with pytest.raises(Infeasible) as caught:
        ledger(spec, facts_of(small_data()))
    assert message in str(caught.value)


def test_a_warmed_batch_must_have_whole_groups() -> None:
    settings = with_settings(SMALL, batch_norm__group=8)
    spec = BatchWarmup(duration="1ep", start=4).applied(
        small_spec(settings=settings, batch_size=16)
    )
    with pytest.raises(Infeasible, match="batch size 4 is not divisible by the ghost size 8"):
        ledger(spec, facts_of(small_data()))


def test_a_block_holds_what_warming_up_reads() -> None:
    """An epoch of one update: the graph is warmed up with three, each with a row of its own."""
    prepared = ready(growing(small_spec(batch_size=20), **ONCE), small_data())
    for size in (20, 40):
        loop = prepared.at(size).loop
        assert len(loop.index_UBS) >= WARM_UPS
        assert len(loop.index_UBS) == len(loop.draws_UBSk)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_and_captured_stages_equal_plain() -> None:
    """A graph for each batch size, one network and velocity: 1e-3 of the CPU's, float32."""
    settings = with_settings(TORCH, model__widths=((8,), (16,)), batch_norm__group="B/4")
    resident = small_data(train=80, shape=(8, 8, 3))
    spec = growing(
        small_spec(settings=settings, batch_size=8, budget="4ep", lr=0.05),
        at=("25%", "50%"),
        factor=2,
    )
    cpu, gpu = run([spec], resident), run([spec], on_gpu(resident))
    assert len(cpu.losses) == 10 + 5 + 5
    torch.testing.assert_close(gpu.losses.cpu(), cpu.losses, rtol=1e-3, atol=1e-4)
    assert gpu.records[0].outcome is Outcome.OK
    again = run([spec], on_gpu(resident), prepared=gpu.prepared)  # the graphs a second time
    torch.testing.assert_close(again.losses.cpu(), cpu.losses, rtol=1e-3, atol=1e-4)
