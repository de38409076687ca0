"""Evaluation against the twin, with running statistics and with re-estimated ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from slow_network import SlowNetwork, evaluate, pixels
from small_trials import (
    CLASSES,
    SMALL,
    ready,
    small_data,
    small_spec,
    twin_of,
    with_settings,
)
from torch import nn

from batchcliff.data.resident import Resident
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.spec import TrialSpec
from batchcliff.training.evaluate import BATCH, reestimated
from batchcliff.training.prepare import Prepared

TOLERANCE = 2e-5
MEAN = with_settings(SMALL, model__widths=((3,), (4,)))
PER_GROUP = with_settings(MEAN, batch_norm__group="B/8", batch_norm__running="per-group")
SETTINGS = {"mean": MEAN, "per-group": PER_GROUP}
TESTS = 2300  # 1000, 1000 and 300


def prepared_with_statistics(
    name: str, resident: Resident, seed: int = 0
) -> tuple[TrialSpec, Prepared, SlowNetwork]:
    """A network whose parameters and running statistics are random, and its twin."""
    spec = small_spec(settings=SETTINGS[name], batch_size=16, budget="3up")
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.zeros(3, 1))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in norms(prepared.model):
            layer.weight.uniform_(0.5, 2, generator=rng)
            layer.bias.uniform_(-1, 1, generator=rng)
            layer.running_mean.normal_(0, 0.5, generator=rng)
            layer.running_var.uniform_(0.2, 2, generator=rng)
    twin = twin_of(prepared.model, spec)
    for i, layer in enumerate(norms(prepared.model)):
        twin.running_mean[i] = layer.running_mean.numpy().astype(np.float64)
        twin.running_var[i] = layer.running_var.numpy().astype(np.float64)
    return spec, prepared, twin


def norms(model: nn.Module) -> list[GhostBatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, GhostBatchNorm2d)]


def evaluated(prepared: Prepared) -> tuple[int, float]:
    """Right answers and the sum of losses of one evaluation."""
    prepared.evaluation.count.zero_()
    prepared.model.eval()
    prepared.evaluate()
    evaluation = prepared.evaluation
    return int(evaluation.correct_ES[0, 0]), float(evaluation.loss_ES[0, 0])


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_the_twin_and_not_to_its_neighbour(name: str) -> None:
    resident = small_data(test=TESTS)
    _, prepared, twin = prepared_with_statistics(name, resident)
    images, labels = resident.test_images.numpy(), resident.test_labels.numpy()
    accuracy, loss = evaluate(twin, images, labels, batch=1000)
    right, total = evaluated(prepared)
    assert BATCH == 1000
    assert right == round(accuracy * TESTS)
    assert total / TESTS == pytest.approx(loss, rel=TOLERANCE)
    if name == "mean":  # the statistics matter, the way the batches are cut does not
        assert evaluate(twin, images, labels, batch=7)[1] == pytest.approx(loss, rel=1e-12)
        twin.running_mean[1] = twin.running_mean[1] + 0.01
        assert evaluate(twin, images, labels)[1] != pytest.approx(loss, rel=10 * TOLERANCE)
    else:  # another cut gives the examples other cores
        other = evaluate(twin, images, labels, batch=TESTS)[1]
        assert other != pytest.approx(loss, rel=10 * TOLERANCE)


def test_each_eighth_of_a_batch_has_its_own_statistics() -> None:
    """All statistics but one core's are those of a useless network: its 125 examples of
    each thousand, and its share of the shorter last batch, are the only ones in sight."""
    layer = GhostBatchNorm2d(1, 2, shards=8, eps=0.0).eval()
    with torch.no_grad():
        layer.running_mean[5] = 7
    for batch in (1000, 300, 44, 8):
        out = layer(torch.full((batch, 1, 1, 1), 7.0)).flatten()
        expected = [0.0 if b * 8 // batch == 5 else 7.0 for b in range(batch)]
        assert out.tolist() == expected
    assert sum(b * 8 // 300 == 5 for b in range(300)) == 37


@pytest.mark.parametrize("name", SETTINGS)
def test_every_example_counts_exactly_once(name: str) -> None:
    resident = small_data(test=TESTS)
    _, prepared, twin = prepared_with_statistics(name, resident)
    images = resident.test_images.numpy()
    answers = np.concatenate(
        [
            twin.forward(pixels(images[a : a + 1000], 1 / 255), training=False)[0].argmax(-1)
            for a in range(0, TESTS, 1000)
        ]
    )
    resident.test_labels.copy_(torch.from_numpy(answers))
    assert evaluated(prepared)[0] == TESTS
    for place in (0, 999, 1000, 1999, 2000, TESTS - 1):
        resident.test_labels[place] = (answers[place] + 1) % CLASSES
        assert evaluated(prepared)[0] == TESTS - 1, place
        resident.test_labels[place] = int(answers[place])


@pytest.mark.parametrize("stack", [1, 3])
def test_evaluations_are_logged_in_turn(stack: int) -> None:
    resident = small_data()
    spec = small_spec(budget="3up")
    prepared = ready(spec, resident, stack)
    prepared.restart([spec] * stack, torch.zeros(3, stack))
    prepared.model.eval()
    prepared.evaluate()
    with torch.no_grad():
        prepared.model.head.bias += 1000 * torch.arange(CLASSES).repeat(stack)  # type: ignore[operator, union-attr]
    prepared.evaluate()
    evaluation = prepared.evaluation
    assert int(evaluation.count) == 2
    last = (resident.test_labels == CLASSES - 1).sum()
    assert evaluation.correct_ES[1].tolist() == [int(last)] * stack
    assert (evaluation.loss_ES[0] < 1000).all()
    assert (evaluation.loss_ES[1] > 1000).all()
    assert not evaluation.loss_ES[2:].any()


@pytest.mark.parametrize("name", SETTINGS)
def test_reestimated_statistics_are_the_mean_over_batches(name: str) -> None:
    resident = small_data(train=48)
    _, prepared, twin = prepared_with_statistics(name, resident)
    index = np.arange(48).reshape(3, 16)
    sums = [[np.zeros(0)] * 2 for _ in norms(prepared.model)]
    batches = []
    for row in index:
        fresh = SlowNetwork(twin.parameters, twin.blocks, twin.group, twin.shards, momentum=0.0)
        fresh.forward(pixels(resident.train_images.numpy()[row], 1 / 255), training=True)
        for i, kept in enumerate(zip(fresh.running_mean, fresh.running_var, strict=True)):
            for j, value in enumerate(kept):
                mean = value.mean(0, keepdims=True) / len(index)  # over groups, over batches
                sums[i][j] = mean if sums[i][j].size == 0 else sums[i][j] + mean
        block = torch.from_numpy(row.astype(np.int32))[:, None]
        batches.append(functools.partial(prepared.loop.losses, block, torch.zeros(16, 1, 0)))
    before = {k: v.clone() for k, v in prepared.model.state_dict().items()}
    momenta = [layer.momentum for layer in norms(prepared.model)]
    prepared.model.eval()
    with reestimated(prepared.model, batches):
        assert not prepared.model.training
        for layer, (mean, var) in zip(norms(prepared.model), sums, strict=True):
            shape = layer.running_mean.shape
            expected = np.broadcast_to(mean, shape), np.broadcast_to(var, shape)
            assert layer.running_mean.numpy() == pytest.approx(expected[0], abs=1e-5)
            assert layer.running_var.numpy() == pytest.approx(expected[1], rel=1e-4)
        changed = prepared.model.state_dict()
        assert any(not torch.equal(changed[k], v) for k, v in before.items())
    after = prepared.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert [layer.momentum for layer in norms(prepared.model)] == momenta
    assert not prepared.model.training


def test_reestimation_restores_everything_after_an_error() -> None:
    spec = small_spec()
    prepared = ready(spec, small_data())
    prepared.restart([spec], torch.zeros(12, 1))
    before = {k: v.clone() for k, v in prepared.model.state_dict().items()}
    momenta = [layer.momentum for layer in norms(prepared.model)]
    images = torch.rand(10, 1, 8, 8)

    def fail() -> None:
        prepared.model(images)
        raise RuntimeError("in the middle")

    prepared.model.train()
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        reestimated(prepared.model, [fail]),
    ):
        raise AssertionError("not reached")
    assert all(torch.equal(prepared.model.state_dict()[k], v) for k, v in before.items())
    assert [layer.momentum for layer in norms(prepared.model)] == momenta
    assert prepared.model.training


def test_layers_of_others_are_reestimated_too() -> None:
    """A user's own network with torch's batch norm; its counter of batches as well."""
    layer = nn.BatchNorm2d(2)
    layer(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    rng = torch.Generator().manual_seed(1)
    images = [torch.randn(5, 2, 3, 3, generator=rng) * (i + 1) for i in range(3)]
    with reestimated(layer, [functools.partial(layer, x) for x in images]):
        means = torch.stack([x.mean((0, 2, 3)) for x in images]).mean(0)
        variances = torch.stack([x.var((0, 2, 3)) for x in images]).mean(0)
        torch.testing.assert_close(layer.running_mean, means)
        torch.testing.assert_close(layer.running_var, variances)
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in before.items())
    assert layer.momentum == 0.1


def test_the_model_is_what_the_twin_is_made_of() -> None:
    resident = small_data()
    _, prepared, _ = prepared_with_statistics("mean", resident)
    assert isinstance(prepared.model, ConvNet)
    assert len(norms(prepared.model)) == 2
