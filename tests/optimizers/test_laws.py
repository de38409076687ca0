"""What the formulas promise, in closed form; and torch's own optimizers as twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from batchcliff.optimizers import rule
from batchcliff.schedules.adam import radam_factor
from batchcliff.spec import Optimizer

WIDE = torch.float64


def moved(options: Optimizer, w: Tensor, gradients: list[Tensor], rates: list[float]) -> Tensor:
    """How far `w` has moved after each update, [U, ...]."""
    w = w.clone()
    engine = rule(options, [w], 1)
    places = [w.clone()]
    for g, lr in zip(gradients, rates, strict=True):
        engine.update([w], [g], engine.state, torch.tensor([lr], dtype=WIDE))
        places.append(w.clone())
    return torch.stack(places).diff(dim=0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=WIDE)


@pytest.mark.parametrize("form", ["keras", "torch"])
def test_a_first_step_of_lars_is_a_share_of_the_weights(form: str) -> None:
    """lr trust |w|, however long the gradient; with decay less than the sum's share."""
    w, g = drawn(3, 4), drawn(3, 4, seed=1)
    options = Optimizer(name="lars", form=form, trust=0.02, eps=0.0)
    for size in (1e-6, 1.0, 1e6):
        step = moved(options, w, [size * g], [3.0])[0]
        assert float(step.norm()) == pytest.approx(3 * 0.02 * float(w.norm()), rel=1e-12)
        assert torch.nn.functional.cosine_similarity(
            step.flatten(), -g.flatten(), dim=0
        ) == pytest.approx(1, abs=1e-12)


def test_lars_does_not_care_for_the_scale_of_a_layer() -> None:
    """Weights times c, gradients over c (as behind batch norm): the same relative step."""
    w, g = drawn(3, 4), drawn(3, 4, seed=1)
    options = Optimizer(name="lars", trust=0.02, eps=0.0)
    one, ten = (moved(options, c * w, [g / c], [1.0])[0] / c for c in (1.0, 10.0))
    torch.testing.assert_close(one, ten, rtol=1e-12, atol=0)


def test_the_two_denominators_agree_without_decay_and_order_with_it() -> None:
    """|g + wd w| <= |g| + wd |w|: the joint ratio is never the smaller one."""
    w, g = drawn(3, 4), drawn(3, 4, seed=1)
    steps = {}
    for decay in (0.0, 0.5):
        for kind in ("separate", "joint"):
            options = Optimizer(name="lars", weight_decay=decay, denominator=kind)
            steps[decay, kind] = moved(options, w, [g], [1.0])[0]
    assert torch.equal(steps[0.0, "separate"], steps[0.0, "joint"])
    assert steps[0.5, "joint"].norm() > 1.1 * steps[0.5, "separate"].norm()


@pytest.mark.parametrize(("lr", "expected"), [(10.0, 0.02), (1e-4, 1e-4)])
def test_larc_moves_at_the_smaller_rate(lr: float, expected: float) -> None:
    """With |w| = |g| the ratio is the coefficient: min(lr, 0.02)."""
    g = drawn(3, 4)
    options = Optimizer(name="larc", trust=0.02, eps=0.0)
    step = moved(
        options, drawn(3, 4, seed=1) / drawn(3, 4, seed=1).norm() * g.norm(), [g], [lr]
    )
    assert float(step[0].norm() / g.norm()) == pytest.approx(expected, rel=1e-12)


def test_larc_at_rate_zero_does_not_move() -> None:
    step = moved(Optimizer(name="larc"), drawn(3, 4), [drawn(3, 4, seed=1)], [0.0])
    assert not step.any()


def test_a_step_of_lamb_is_the_rate_as_a_share_of_the_weights() -> None:
    """|step| = lr |w| at every update, whatever gradients and decay are."""
    w, gradients = drawn(3, 4), [drawn(3, 4, seed=s) * 10.0**s for s in range(1, 6)]
    options = Optimizer(name="lamb", weight_decay=0.1)
    steps = moved(options, w, gradients, [0.1] * 5)
    places = w + torch.cat([torch.zeros(1, 3, 4, dtype=WIDE), steps.cumsum(0)[:-1]])
    for step, place in zip(steps, places, strict=True):
        assert float(step.norm()) == pytest.approx(0.1 * float(place.norm()), rel=1e-12)


def test_excluded_tensors_take_plain_steps() -> None:
    bias, g = drawn(4), drawn(4, seed=1)
    for name, plain in (("lars", "sgd"), ("lamb", "adam")):
        options = Optimizer(name=name, weight_decay=0.1, exclude="norms-and-biases")
        step = moved(options, bias, [g] * 3, [0.1] * 3)
        assert torch.equal(step, moved(Optimizer(name=plain), bias, [g] * 3, [0.1] * 3))


def test_gi_adam_dampens_the_first_steps() -> None:
    """With a constant gradient v = g^2 throughout: Adam's step times sqrt(1 - b2^t)."""
    w, g = torch.zeros(3, dtype=WIDE), drawn(3)
    rates = [0.1] * 20
    ours = moved(Optimizer(name="gi-adam", eps=0.0), w, [g] * 20, rates)
    for t, step in enumerate(ours, 1):
        expected = -0.1 * g.sign() * math.sqrt(1 - 0.999**t)
        torch.testing.assert_close(step, expected, rtol=1e-12, atol=0)


def test_radam_follows_the_factor_of_the_schedules() -> None:
    """With a constant gradient Adam's step is lr: RAdam's is lr r_t from rho > 5 on."""
    w, g, rates = torch.zeros(3, dtype=WIDE), drawn(3), [0.1] * 20
    options = Optimizer(name="radam", eps=0.0)
    for t, step in enumerate(moved(options, w, [g] * 20, rates), 1):
        factor = radam_factor(t - 1)
        if t <= 5:  # rho_5 is 4.996 at b2 = 0.999
            expected = -0.1 * g
        else:
            assert factor is not None
            expected = -0.1 * factor * g.sign()
        torch.testing.assert_close(step, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_clipping_is_by_the_norm_of_all_parameters_of_a_network(clip: float) -> None:
    """Two networks side by side: the gradient of one is 1 long, of the other 4."""
    gradients = [torch.tensor([[0.6], [2.4]], dtype=WIDE), torch.tensor([0.8, 3.2], dtype=WIDE)]
    weights = [torch.zeros_like(g) for g in gradients]
    engine = rule(Optimizer(momentum=0.0, clip_norm=clip), weights, 2)
    engine.update(weights, gradients, engine.state, torch.ones(2, dtype=WIDE))
    for s, length in enumerate((1.0, 4.0)):
        step = torch.stack([weights[0][s, 0], weights[1][s]])
        share = min(1.0, clip / length)
        torch.testing.assert_close(
            -step, torch.tensor([0.6, 0.8], dtype=WIDE) * length * share, rtol=1e-12, atol=0
        )


def test_clipping_agrees_with_torch() -> None:
    g = [drawn(3, 4), drawn(4, seed=1)]
    theirs = [torch.nn.Parameter(torch.zeros_like(x)) for x in g]
    for p, x in zip(theirs, g, strict=True):
        p.grad = x.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 0.3)
    weights = [torch.zeros_like(x) for x in g]
    engine = rule(Optimizer(momentum=0.0, clip_norm=0.3), weights, 1)
    engine.update(weights, g, engine.state, torch.ones(1, dtype=WIDE))
    for w, p in zip(weights, theirs, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(-w, p.grad, rtol=1e-5, atol=0)  # theirs has + 1e-6


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_correction_is_the_torch_form(nesterov: bool) -> None:
    """Through a ramp and a decay; without it the keras form is somewhere else."""
    rates = [0.01, 0.02, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001]
    w, gradients = drawn(3), [drawn(3, seed=s) for s in range(len(rates))]
    theirs = moved(Optimizer(form="torch", nesterov=nesterov), w, gradients, rates)
    ours = moved(Optimizer(momentum_correction=True, nesterov=nesterov), w, gradients, rates)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    without = moved(Optimizer(nesterov=nesterov), w, gradients, rates)
    assert (without - theirs).abs().max() > 0.05


def test_momentum_correction_by_hand_and_after_a_rate_of_zero() -> None:
    """v = m (lr/last) v - lr g with g = 1: -1, then -(0.9 x 2 + 2); at 0 the velocity ends."""
    g = [torch.ones(1, dtype=WIDE)] * 4
    steps = moved(
        Optimizer(momentum_correction=True), torch.zeros(1, dtype=WIDE), g, [1, 2, 0, 1]
    )
    assert steps.flatten().tolist() == pytest.approx([-1, -3.8, 0, -1], abs=1e-6)


TORCH = {
    "sgd": (
        Optimizer(form="torch", weight_decay=0.02, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.02, nesterov=True),
    ),
    "adam": (
        Optimizer(name="adam", weight_decay=0.02, eps=1e-3),
        lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.02, eps=1e-3),
    ),
    "adamw": (
        Optimizer(name="adamw", weight_decay=0.02, betas=(0.8, 0.95)),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.02, betas=(0.8, 0.95)),
    ),
    "radam": (
        Optimizer(name="radam", weight_decay=0.02, eps=1e-3),
        lambda p: torch.optim.RAdam(p, 0.1, weight_decay=0.02, eps=1e-3),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_equals_torch(name: str) -> None:
    options, make = TORCH[name]
    ours = [drawn(5, 3), drawn(3, seed=1)]
    theirs = [torch.nn.Parameter(w.clone()) for w in ours]
    optimizer, engine = make(theirs), rule(options, ours, 1)
    for update in range(12):
        lr = 0.1 / (1 + update % 3)
        gradients = [drawn(*w.shape, seed=10 + update) for w in ours]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        engine.update(ours, gradients, engine.state, torch.tensor([lr], dtype=WIDE))
    for w, p in zip(ours, theirs, strict=True):
        torch.testing.assert_close(w, p.detach(), rtol=1e-11, atol=1e-13)
