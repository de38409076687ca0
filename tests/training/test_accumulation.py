"""A batch in micro batches makes the same update as the whole batch.

Each comparison with the whole batch has a variant of ours that is broken on purpose, and is
told from it by many times the tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from micro_batched import (
    BATCH,
    BROKEN,
    CASES,
    GHOST,
    MIXED,
    OWN,
    RATES,
    SHARDS,
    TOLERANCE,
    Wide,
    cut,
    data,
    six,
    spec_of,
)
from slow_network import Sgd, train
from small_trials import (
    distance,
    numbers,
    numpy_batches,
    state_of,
    twin_of,
    twin_state,
    with_settings,
)
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, Statistics
from batchcliff.spec import Settings, TrialSpec
from batchcliff.training.accumulation import MicroBatches
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.loop import Loop
from batchcliff.training.prepare import Build

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


FP64 = {
    "without batch norm": (OWN, lambda *_: Wide(None)),
    "group norm": (OWN, lambda *_: Wide(nn.GroupNorm(5, 5))),
    "ghost batch norm": (
        with_settings(OWN, batch_norm__group=2), lambda *_: Wide(nn.BatchNorm2d(5))
    ),
    "clipped softmax": (
        with_settings(OWN, loss="clipped-softmax"), lambda *_: Wide(nn.GroupNorm(5, 5))
    ),
    "mixup, smoothing, cutout": (
        with_settings(OWN, mixup=0.4, label_smoothing=0.1, cutout=3, batch_norm__group=2),
        lambda *_: Wide(nn.BatchNorm2d(5)),
    ),
    "crop, flip, erasing": (
        with_settings(OWN, augmentation="as-written", random_erasing=0.5),
        lambda *_: Wide(nn.GroupNorm(5, 5)),
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
# --- which micro batches there are -----------------------------------------------------------
