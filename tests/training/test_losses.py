"""Losses against the definitions: values, gradients, where clipping begins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from slow_network import example_losses

from batchcliff.training.losses import EPSILON, LOSSES, mean_per_network


@pytest.mark.parametrize("kind", sorted(LOSSES))
@pytest.mark.parametrize("spread", [1.0, 12.0])
def test_twin(kind: str, spread: float) -> None:
    """Values to 1e-5 and gradients to 1e-6 of the definitions, [B, S, K] for three networks."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, spread, (50, 3, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (50, 3))
    ours = torch.tensor(logits, requires_grad=True)
    losses = LOSSES[kind](ours, torch.tensor(labels))
    losses.sum().backward()
    assert ours.grad is not None
    for s in range(3):
        values, gradient = example_losses(logits[:, s].astype(np.float64), labels[:, s], kind)
        assert losses[:, s].detach().numpy() == pytest.approx(values, rel=1e-5, abs=1e-6)
        assert ours.grad[:, s].numpy() == pytest.approx(gradient, abs=1e-6)
    if spread > 10:
        other = next(k for k in LOSSES if k != kind)
        assert not torch.allclose(LOSSES[other](ours, torch.tensor(labels)), losses)


def test_the_clipped_loss_saturates_and_lets_go() -> None:
    """True class far behind: loss 16.118 and no gradient; a little nearer: the full one."""
    places = torch.tensor([[[0.0, 40.0]], [[0.0, 15.9]], [[0.0, 0.0]]], requires_grad=True)
    losses = LOSSES["clipped-softmax"](places, torch.zeros(3, 1, dtype=torch.int64))
    losses.sum().backward()
    assert places.grad is not None
    assert losses[0].item() == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert f"{losses[0].item():.3f}" == "16.118"
    assert places.grad[0].tolist() == [[0.0, 0.0]]
    assert places.grad[1, 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)
    assert places.grad[2, 0].tolist() == pytest.approx([-0.5, 0.5])
    free = LOSSES["logits"](places, torch.zeros(3, 1, dtype=torch.int64))
    assert free[0].item() == pytest.approx(40)


def test_golden_loss_of_a_collapsed_network() -> None:
    """All examples taken for one class of ten: nine in ten are wrong, 14.506 (SCIENCE.md)."""
    logits = torch.zeros(10, 1, 10)
    logits[:, :, 0] = 100
    losses = LOSSES["clipped-softmax"](logits, torch.arange(10)[:, None])
    assert f"{losses.mean().item():.3f}" == "14.506"


def test_a_sure_and_right_example_costs_what_is_clipped() -> None:
    """1 - 1e-7 is no float32; the nearest below 1 is 1 - 1.19e-7."""
    logits = torch.tensor([[[50.0, 0.0]]], requires_grad=True)
    losses = LOSSES["clipped-softmax"](logits, torch.zeros(1, 1, dtype=torch.int64))
    losses.sum().backward()
    assert 0 < losses.item() < 2 * EPSILON
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_what_is_not_finite_stays_so(kind: str) -> None:
    """A NaN never becomes a number on the way to the log of losses."""
    for bad in (math.nan, math.inf):
        logits = torch.tensor([[[bad, 0.0]], [[1.0, 0.0]]])
        losses = LOSSES[kind](logits, torch.zeros(2, 1, dtype=torch.int64))
        assert math.isnan(losses[0].item())
        assert not torch.isfinite(mean_per_network(losses)).any()


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_half_precision_logits_are_widened(kind: str) -> None:
    logits = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.zeros(6, 2, dtype=torch.int64)
    losses = LOSSES[kind](logits, labels)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, LOSSES[kind](logits.float(), labels), rtol=0, atol=0)


def test_mean_per_network() -> None:
    losses = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    assert mean_per_network(losses).tolist() == [2.0, 20.0]
