"""Probes: each against the definition, none of them seen by the training that it looks at."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from probed_trials import PROBED, TINY, probes_of
from small_trials import CLASSES, SMALL, ready, run, small_data, small_spec, with_settings
from test_compiled import on_gpu
from test_loop_no_sync import NoWaiting
from torch import Tensor, nn

from batchcliff.canonical import canonical_json, from_plain, parse_json
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.record import Outcome, Probes, TrialRecord
from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import PROBES, BatchNorm, Decay, Model
from batchcliff.training.arithmetic import timeline_of
from batchcliff.training.epochs import epoch_tensors, probing_of
from batchcliff.training.probes_measure import (
    aside,
)
from batchcliff.training.probes_plan import examples_of_a_probe, points, update_at

GROUPED = {"batch_norm": BatchNorm(momentum=0.9, group="B/5", running="per-group")}


class Dropping(nn.Module):
    """A network of a user's own that draws random numbers and keeps statistics."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[2], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


# the training is not touched -----------------------------------------------------------------

SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "per-group statistics, augmented": {
        **GROUPED, "augmentation": "as-written", "loss": "clipped-softmax",
        "precision": "bf16", "remainder": "drop", "gradient_norms": True,
    },
    "mixed": {"mixup": 0.4, "label_smoothing": 0.1, "optimizer__weight_decay": 0.01},
    "scaled losses": {"precision": "fp16"},
    "residual": {"model": Model(name="resnet", widths=((4,), (4,)), init="he-normal")},
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_trial_ends_on_the_same_bits(case: str) -> None:
    settings = with_settings(SMALL, **SAME[case])
    spec = small_spec(settings=settings)
    probed = small_spec(settings=with_settings(settings, probes=PROBES))
    plain, looked = run([spec], small_data()), run([probed], small_data())
    assert torch.equal(plain.losses, looked.losses)
    before, after = plain.prepared, looked.prepared
    for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(before.model.buffers(), after.model.buffers(), strict=True):
        assert torch.equal(a, b)
    found = dataclasses.replace(looked.records[0], spec=spec, probes=None, provenance=None)
    assert found == dataclasses.replace(plain.records[0], provenance=None)
    assert spec.trial_id != probed.trial_id and probes_of(looked.records[0]).updates


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_trial_ends_on_the_same_bits_and_measures_what_the_cpu_does() -> None:
    settings = with_settings(SMALL, model=Model(widths=((8,), (16,))))
    probed = with_settings(settings, probes=PROBES, probe_at=("0up", "5up"))
    place = small_data(train=80, shape=(8, 8, 3))
    device = on_gpu(place)
    on_cpu = run([small_spec(settings=probed, batch_size=16)], place)
    plain = run([small_spec(settings=settings, batch_size=16)], device)
    looked = run([small_spec(settings=probed, batch_size=16)], device)
    assert torch.equal(plain.losses, looked.losses)
    both = zip(plain.prepared.loop.parameters, looked.prepared.loop.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    ours, theirs = probes_of(looked.records[0]), probes_of(on_cpu.records[0])
    for name in ("sharpness", "noise_trace", "gradient_square"):
        assert getattr(ours, name)[0] == pytest.approx(getattr(theirs, name)[0], rel=0.01), name


def test_a_network_that_draws_random_numbers_draws_the_same_ones() -> None:
    settings = with_settings(SMALL, model=Model(name="own", widths=()))
    spec = small_spec(settings=settings)
    probed = small_spec(settings=with_settings(settings, probes=PROBES))
    plain = run([spec], small_data(), build=Dropping)
    looked = run([probed], small_data(), build=Dropping)
    assert torch.equal(plain.losses, looked.losses)
    for a, b in zip(
        plain.prepared.model.buffers(), looked.prepared.model.buffers(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_pass_that_is_not_aside_leaves_a_trace() -> None:
    """The negative control of the two above: the pass itself does change statistics."""
    spec = small_spec(settings=with_settings(SMALL, **GROUPED))
    loop = ready(spec, small_data()).loop
    loop.load_block(*epoch_tensors([spec], small_data(), 0, 4))

    def changed() -> bool:
        old = [b.clone() for b in loop.model.buffers()]
        loop.losses(loop.index_UBS[0], loop.draws_UBSk[0])
        return not all(map(torch.equal, old, loop.model.buffers()))

    layers = [m for m in loop.model.modules() if isinstance(m, GhostBatchNorm2d)]
    with aside(loop.model, 4):
        changed()
    assert {(m.group, m.shards) for m in layers} == {(2, 5)}
    for layer in layers:
        layer.fused = layer.convolves = True
    with aside(loop.model, 4):  # its kernels cannot be differentiated twice
        assert not any(m.fused or m.convolves for m in layers)
    assert all(m.fused and m.convolves for m in layers)
    for layer in layers:
        layer.fused = layer.convolves = False
    assert all(b.abs().sum() in (0, b.numel()) for b in loop.model.buffers())  # as at the start
    assert changed()


def test_nothing_waits_for_the_device() -> None:
    spec, resident = small_spec(settings=TINY), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.1))
    probing = probing_of(prepared, [spec], resident)
    assert probing is not None
    prepared.loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    prepared.advance()
    with NoWaiting():
        probing.measure(5, prepared.advance)


def test_a_restart_forgets_and_a_second_run_is_the_first() -> None:
    resident = small_data()
    prepared = ready(small_spec(settings=TINY), resident)
    first = run([small_spec(settings=TINY)], resident, prepared=prepared).records[0]
    other = run([small_spec(settings=TINY, seed=1)], resident, prepared=prepared).records[0]
    again = run([small_spec(settings=TINY)], resident, prepared=prepared).records[0]
    assert probes_of(first) == probes_of(again) != probes_of(other)


# what is recorded ----------------------------------------------------------------------------


def test_a_record_travels_as_json_and_old_ones_keep_their_ids() -> None:
    record = run([small_spec(settings=TINY)], small_data()).records[0]
    assert from_plain(TrialRecord, parse_json(canonical_json(record))) == record
    plain = run([small_spec()], small_data()).records[0]
    assert plain.probes is None
    assert b"probe" not in canonical_json(plain)


def test_a_diverged_trial_keeps_what_came_before() -> None:
    settings = with_settings(PROBED, probe_at=("0up", "2up", "6up", "9up"))
    blows = Decay(kind="multistep", at=("4up",), factor=1e38)
    record = run([small_spec(settings=settings, decay=blows)], small_data()).records[0]
    bad = record.first_bad_update
    assert record.outcome is Outcome.DIVERGED and bad is not None
    probes = probes_of(record)
    assert probes.updates == tuple(u for u in (0, 2, 6, 9) if u <= bad)
    assert len(probes.first_losses) == bad + 1 and not math.isfinite(probes.first_losses[-1])
    assert len(probes.lr) == len(probes.sharpness) == len(probes.noise_trace)
    first = probes.sharpness[0]
    assert first is not None and math.isfinite(first)


def test_only_what_is_asked_for() -> None:
    settings = with_settings(SMALL, probes=("first-losses",))
    ran = run([small_spec(settings=settings)], small_data())
    probes = probes_of(ran.records[0])
    losses = [float(f"{x:.6g}") for x in ran.losses[:, 0].tolist()]
    assert probes == Probes(first_losses=tuple(losses)) and len(losses) == 12
    assert not any(name.startswith("probe") for name in ran.prepared.loop.logs)


# where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "update"),
    [("0up", 0), ("7up", 7), ("1ep", 4), ("1.1ep", 5), ("25ex", 3), ("50%", 6), ("30%", 4)],
)
def test_places_of_a_run(text: str, update: int) -> None:
    timeline = timeline_of(small_spec(), 40)  # 12 updates of 10 examples
    assert update_at(timeline, text) == update
    position = {"ep": 40, "ex": 1}.get(parse_duration(text).unit)
    if position:
        wanted = parse_duration(text).value * position
        assert timeline.position(update) >= wanted > timeline.position(update - 1)


def test_usual_places_lie_inside_of_the_run_and_sharpness_is_rare() -> None:
    found = points(small_spec(settings=PROBED), 40)
    assert found.every == (0, 1, 3, 4, 11) and found.sharpness == (0, 3)
    whole = with_settings(PROBED, remainder="drop")
    article = points(small_spec(settings=whole, batch_size=128, budget="100ep"), 50_000)
    assert article.every == (0, 1, 4, 16, 3900, 9750, 19500, 35100)
    assert article.sharpness == (0, 16, 9750)
    cheap = points(small_spec(settings=with_settings(SMALL, probes=("noise-scale",))), 40)
    assert cheap.sharpness == ()


def test_sizes() -> None:
    assert [examples_of_a_probe(n) for n in (40, 1437, 50_000)] == [8, 32, 256]
    assert CLASSES == 4
