"""A batch in micro batches: the same update as the whole batch, and what cannot be is refused.

Each comparison with the whole batch has a variant of ours that is broken on purpose, and is
told from it by many times the tolerance.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from slow_network import Sgd, train
from small_trials import (
    SMALL,
    distance,
    facts_of,
    numpy_batches,
    small_data,
    small_spec,
    state_of,
    twin_of,
    twin_state,
    with_settings,
)
from test_compiled import on_gpu, snapshot
from test_loop_no_sync import NoWaiting
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, Statistics
from batchcliff.record import TrialRecord
from batchcliff.spec import Settings, TrialSpec
from batchcliff.training import accumulation
from batchcliff.training.accumulation import MicroBatches
from batchcliff.training.arithmetic import ledger
from batchcliff.training.checkpoint import about
from batchcliff.training.compiled import rewound
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.loop import Loop
from batchcliff.training.micro_batch import Inseparable, halved, micro_batch
from batchcliff.training.prepare import Build, Prepared, prepare
from batchcliff.training.trial import run_trials
from batchcliff.workloads import OWN_MODEL

BATCH, TOLERANCE, BROKEN = 24, 3e-5, 1e-3
RATES = [0.02, 0.1, 0.05, 0.01, 0.08, 0.03]
GHOST = with_settings(SMALL, batch_norm__group=4)
SHARDS = with_settings(SMALL, batch_norm__group="B/6", batch_norm__running="per-group")
MIXED = with_settings(GHOST, mixup=0.4, augmentation="as-written", label_smoothing=0.1)
CASES: dict[str, Settings] = {
    "ghost": GHOST,
    "shards": SHARDS,
    "mixup": MIXED,
    "clipped": with_settings(GHOST, optimizer__clip_norm=0.5, gradient_norms=True),
    "lars": with_settings(SHARDS, optimizer__name="lars", optimizer__trust=0.1),
    "adamw": with_settings(GHOST, optimizer__name="adamw", loss="clipped-softmax"),
    "resnet": with_settings(
        GHOST, model__name="resnet", model__widths=((4,), (6, 6)), augmentation="as-coded"
    ),
}


def spec_of(settings: Settings = GHOST, **changes: Any) -> TrialSpec:
    values = {"settings": settings, "batch_size": BATCH, "budget": "6up", "seed": 3}
    return small_spec(**{**values, **changes})


def data() -> Resident:
    return small_data(train=60, shape=(8, 8, 3))


def cut(spec: TrialSpec, most: int, build: Build | None = None, stack: int = 1) -> Prepared:
    return prepare(spec, data(), num_classes=4, stack=stack, user_build=build, most=most)


def six(spec: TrialSpec, most: int, stack: int = 1) -> Prepared:
    """After six updates; batches run across the end of an epoch."""
    prepared = cut(spec, most, stack=stack)
    rates_US = torch.tensor(RATES)[:, None].expand(-1, stack)
    specs = [dataclasses.replace(spec, seed=3 + s) for s in range(stack)]
    prepared.restart(specs, rates_US)
    for first in (0, 2, 4):
        prepared.loop.load_block(*epoch_tensors(specs, data(), first, first + 2))
        prepared.advance()
        prepared.advance()
    return prepared


def numbers(prepared: Prepared) -> dict[str, Any]:
    """Weights, optimizer, running statistics and logs, float64."""
    loop = prepared.loop
    found = dict(prepared.model.state_dict())
    found |= {f"optimizer {i}": tensor for i, tensor in enumerate(loop.rule.tensors())}
    found |= {"losses": loop.losses_US, **loop.logs}
    return {name: tensor.detach().double().numpy() for name, tensor in found.items()}


# --- equal to the whole batch ----------------------------------------------------------------


@pytest.mark.parametrize("most", [12, 8, 4])
@pytest.mark.parametrize("name", CASES)
def test_six_updates_are_those_of_the_whole_batch(name: str, most: int) -> None:
    """Weights, optimizer state, running statistics of every shard, losses, gradient norms."""
    whole, parts = six(spec_of(CASES[name]), 0), six(spec_of(CASES[name]), most)
    assert (whole.accumulation, whole.micro_batch) == (1, 0)
    assert (parts.accumulation, parts.micro_batch) == (BATCH // most, most)
    assert distance(numbers(parts), numbers(whole)) < TOLERANCE


def test_a_stack_of_two() -> None:
    whole, parts = six(spec_of(), 0, stack=2), six(spec_of(), 8, stack=2)
    assert distance(numbers(parts), numbers(whole)) < TOLERANCE


@pytest.mark.parametrize("settings", [GHOST, SHARDS], ids=["ghost", "shards"])
@pytest.mark.parametrize("most", [12, 4])
def test_equal_to_the_slow_twin(settings: Settings, most: int) -> None:
    """NumPy, from the definition, which knows of no micro batches; shards in their order."""
    spec, resident = spec_of(settings), data()
    prepared = cut(spec, most)
    prepared.restart([spec], torch.tensor(RATES)[:, None])
    network = twin_of(prepared.model, spec)
    index = np.random.default_rng(5).integers(0, 60, (6, BATCH)).astype(np.int32)
    for first in (0, 3):
        block = torch.from_numpy(index[first : first + 3])[:, :, None]
        prepared.loop.load_block(block, torch.zeros(*block.shape, 0, dtype=torch.int16))
        for _ in range(3):
            prepared.advance()
    losses = train(network, numpy_batches(resident, index), RATES, Sgd(), loss="logits")
    assert prepared.loop.losses_US[:, 0].tolist() == pytest.approx(losses, rel=TOLERANCE)
    theirs = twin_state(network)
    ours = state_of(prepared.model, spec)
    if settings is SHARDS:
        assert ours["mean0"].shape == (6, 4)
        assert np.ptp(ours["mean0"], axis=0).min() > 100 * TOLERANCE, "shards differ"
    assert distance({n: v for n, v in ours.items() if v.shape == theirs[n].shape}, theirs) < (
        TOLERANCE
    )
    means = {n for n in ours if n.startswith(("mean", "var"))}
    assert all(np.allclose(ours[n], theirs[n], rtol=1e-4) for n in means)


class Wide(nn.Module):
    """A user's network in float64; `norm` between its two layers."""

    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = norm or nn.Identity()
        self.head = nn.Linear(5 * 8 * 8, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.first(x.double())).tanh().flatten(1))
        return out


def gradients_of(build: Build, spec: TrialSpec, most: int) -> dict[str, Any]:
    """Of the first update, with its loss and the running statistics after it."""
    prepared, seen = cut(spec, most, build), {}

    def keep(_: object, gradients: list[Tensor], *__: object) -> None:
        names = [name for name, _ in prepared.model.named_parameters()]
        seen.update({n: g.numpy().copy() for n, g in zip(names, gradients, strict=True)})

    prepared.restart([spec], torch.ones(6, 1))
    prepared.loop.load_block(*epoch_tensors([spec], data(), 0, 2))
    prepared.loop.apply_function = keep
    prepared.advance()
    seen["loss"] = prepared.loop.losses_US[:1].numpy().copy()
    seen |= {name: buffer.numpy() for name, buffer in prepared.model.named_buffers()}
    return seen


OWN = with_settings(SMALL, model=OWN_MODEL)
FP64 = {
    "without batch norm": (OWN, lambda *_: Wide(None)),
    "group norm": (OWN, lambda *_: Wide(nn.GroupNorm(5, 5))),
    "ghost batch norm": (
        with_settings(OWN, batch_norm__group=2), lambda *_: Wide(nn.BatchNorm2d(5))
    ),
}  # fmt: skip


@pytest.mark.parametrize("most", [12, 7, 2])
@pytest.mark.parametrize("name", FP64)
def test_gradients_to_1e_6_in_float64(name: str, most: int) -> None:
    settings, build = FP64[name]
    spec = spec_of(settings)
    whole, parts = gradients_of(build, spec, 0), gradients_of(build, spec, most)
    assert whole["network.first.weight"].dtype == np.float64
    assert distance(parts, whole) < 1e-6


def test_the_sum_itself_in_float64() -> None:
    """Least squares, whose gradient has a formula: 2/B sum (x.w - y) x."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(24, 3)), rng.normal(size=24), rng.normal(size=3)
    weight = torch.tensor(w, requires_grad=True)

    def forward(x_MD: Tensor, y_M: Tensor) -> list[Tensor]:
        loss = (x_MD @ weight - y_M).square().mean() / (24 // 8)
        return [loss.detach(), *torch.autograd.grad(loss, [weight])]

    parts = MicroBatches(nn.Linear(3, 1), 24, 8)
    loss, gradient = parts.sums(forward, torch.tensor(x), torch.tensor(y))
    assert float(loss) == pytest.approx(np.mean((x @ w - y) ** 2), rel=1e-13)
    np.testing.assert_allclose(gradient.numpy(), 2 / 24 * (x @ w - y) @ x, rtol=1e-12)


def test_a_tensor_that_autograd_hands_out_twice() -> None:
    """Two parameters that are added have one gradient tensor: summing in place would double."""
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)

    def forward(x_M: Tensor, _: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(((a + b) * x_M.sum()).sum(), [a, b]))

    x_B = torch.arange(6.0)
    for gradient in MicroBatches(nn.Identity(), 6, 2).sums(forward, x_B, x_B):
        assert gradient.tolist() == [15.0, 15.0]


@pytest.mark.parametrize("settings", [GHOST, SHARDS], ids=["ghost", "shards"])
@pytest.mark.parametrize("most", [12, 8, 4])
def test_running_statistics_of_an_update_have_the_same_bits(
    settings: Settings, most: int
) -> None:
    """Whatever the micro batch: the groups are the same, and so is what they are fed to."""
    found = []
    for wanted in (0, most):
        prepared = cut(spec_of(settings), wanted)
        prepared.restart([spec_of(settings)], torch.tensor(RATES)[:, None])
        prepared.loop.load_block(*epoch_tensors([spec_of(settings)], data(), 0, 2))
        prepared.advance()
        found.append(dict(prepared.model.named_buffers()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("settings", [GHOST, SHARDS], ids=["ghost", "shards"])
@pytest.mark.parametrize("most", [12, 4])
def test_statistics_that_are_kept_for_all_layers_at_once(
    settings: Settings, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the fused kernels leave them to `keep`, here with the plain operations."""
    expected, calls = numbers(six(spec_of(settings), 0)), []

    def relu(
        self: GhostBatchNorm2d, x: Tensor, *, pool: str, later: list[Statistics]
    ) -> Tensor:
        count = self.group * x.shape[2] * x.shape[3]
        y, mean, unbiased = self._normalised(x, self.group)
        later.append((self, mean, unbiased * (count - 1) / count, count))
        calls.append(len(x))
        if pool == "all":
            return y.relu().mean((2, 3))
        return nn.functional.avg_pool2d(y.relu(), 2) if pool == "2x2" else y.relu()

    monkeypatch.setattr(GhostBatchNorm2d, "relu", relu)
    assert distance(numbers(six(spec_of(settings), most)), expected) < TOLERANCE
    assert set(calls) == {most}


# --- broken on purpose -----------------------------------------------------------------------


def unequal_weights(patch: pytest.MonkeyPatch) -> None:
    """The last micro batch counts twice, the others less."""
    original, calls = Loop._backward, [0]

    def backward(self: Loop, *rows: Tensor) -> list[Tensor]:
        calls[0] += 1
        count = self.micro_batches.count
        share = (2 if calls[0] % count == 0 else 1) * count / (count + 1)
        return [part * share for part in original(self, *rows)]

    patch.setattr(Loop, "_backward", backward)


def no_weights(patch: pytest.MonkeyPatch) -> None:
    """The sum of the micro batches' gradients, not their mean."""
    original = Loop._backward

    def backward(self: Loop, *rows: Tensor) -> list[Tensor]:
        return [part * self.micro_batches.count for part in original(self, *rows)]

    patch.setattr(Loop, "_backward", backward)


def statistics_once_a_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """As batch norm does when nobody cares."""

    original = MicroBatches.sums

    def sums(self: MicroBatches, *arguments: Any) -> list[Tensor]:
        self._statistics = []
        return original(self, *arguments)

    patch.setattr(MicroBatches, "sums", sums)


def statistics_of_the_last_micro_batch(patch: pytest.MonkeyPatch) -> None:
    original = GhostBatchNorm2d.follow

    def follow(self: GhostBatchNorm2d, mean: Tensor, var: Tensor) -> None:
        original(self, mean[-2:], var[-2:])

    patch.setattr(GhostBatchNorm2d, "follow", follow)


def pairs_inside_of_micro_batches(patch: pytest.MonkeyPatch) -> None:
    original = MicroBatches.__init__

    def init(self: MicroBatches, model: nn.Module, batch: int, size: int, _: int = 0) -> None:
        original(self, model, batch, size)

    patch.setattr(MicroBatches, "__init__", init)


@pytest.mark.parametrize(
    ("broken", "settings"),
    [
        (unequal_weights, GHOST),
        (no_weights, GHOST),
        (statistics_once_a_micro_batch, GHOST),
        (statistics_of_the_last_micro_batch, GHOST),
        (pairs_inside_of_micro_batches, MIXED),
    ],
)
def test_what_is_broken_is_told(
    broken: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = numbers(six(spec_of(settings), 0))
    assert distance(numbers(six(spec_of(settings), 8)), whole) < TOLERANCE
    broken(monkeypatch)
    assert distance(numbers(six(spec_of(settings), 8)), whole) > BROKEN


# --- a run, its record, and one graph --------------------------------------------------------


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


# --- which micro batches there are -----------------------------------------------------------


def test_the_largest_part_that_holds_whole_groups() -> None:
    """Against a search through all sizes; refused exactly where there is none."""
    for batch in (12, 24, 30, 32, 36):
        for group in (2, 3, 4, 6, "B/2", "B/3", "global"):
            spec = spec_of(with_settings(SMALL, batch_norm__group=group), batch_size=batch)
            size = {"global": batch, "B/2": batch // 2, "B/3": batch // 3}.get(group, group)
            if batch % size or (group == "B/3" and batch % 3):
                continue
            for most in range(1, batch + 2):
                fits = [m for m in range(1, most + 1) if batch % m == 0 and m % size == 0]
                if fits:
                    assert micro_batch(spec, batch, most) == fits[-1]
                else:
                    with pytest.raises(Inseparable):
                        micro_batch(spec, batch, most)
            assert micro_batch(spec, batch, 0) == batch


@pytest.mark.parametrize(
    ("group", "of", "larger"),
    [
        ("global", "the whole batch", ""),
        ("B/2", "groups of 12 examples", "a micro batch of at least 12, or "),
    ],
)
def test_what_global_statistics_are_told(group: str, of: str, larger: str) -> None:
    spec = spec_of(with_settings(SMALL, batch_norm__group=group))
    said = (
        "batch size 24 cannot be run in micro batches of 5 with the same result: batch norm's "
        f"statistics are of {of} (batch_norm.group = {group!r}). Write {larger}a ghost size, "
        "such as batch_norm.group = 4: that is another trial, and said so."
    )
    with pytest.raises(Inseparable, match=f"^{re.escape(said)}$"):
        cut(spec, 5)


def test_halving_ends() -> None:
    spec, most, seen = spec_of(SHARDS, batch_size=48), 0, []
    with pytest.raises(Inseparable, match="groups of 8"):
        while True:
            seen.append(most := halved(spec, 60, most))
    assert seen == [24, 8]
    own, most, seen = spec_of(OWN), 0, []
    with pytest.raises(Inseparable, match="one example"):
        while True:
            seen.append(most := halved(own, 60, most))
    assert seen == [12, 6, 3, 1]


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (lambda: nn.BatchNorm2d(5), r"norm \(BatchNorm2d\) normalises by all .* ghost size"),
        (lambda: nn.Dropout(0.1), r"draws random numbers \(dropout\?\)"),
        (Counts, "changes the network's buffer norm.seen"),
    ],
)
def test_a_network_that_must_have_its_batch_whole(norm: Any, said: str) -> None:
    built: list[Wide] = []

    def build(*_: object) -> nn.Module:
        built.append(Wide(norm()))
        return built[-1]

    cut(spec_of(OWN), 0, build)
    with pytest.raises(Inseparable, match=said):
        cut(spec_of(OWN), 12, build)
    if isinstance(built[-1].norm, Counts):
        assert float(built[-1].norm.seen) == 0, "the trial pass is undone"


def test_a_network_without_such_a_layer_is_let_alone() -> None:
    """Constants in buffers, group norm, and what is drawn when it is built."""
    norm = nn.GroupNorm(1, 5)
    norm.register_buffer("constant", torch.randn(3))
    network, drawn = Wide(norm), torch.get_rng_state()
    accumulation.check_separable(network, lambda: network(torch.zeros(2, 3, 8, 8)))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert cut(spec_of(OWN), 12, lambda *_: Wide(norm)).accumulation == 2
