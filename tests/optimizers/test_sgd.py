"""Both forms of SGD: closed forms, the published ratio of their steps, and the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_network import Sgd
from test_arithmetic import wrap_scheduler

from batchcliff.optimizers.sgd import sgd_update
from batchcliff.spec import Optimizer

WIDE = torch.float64


def updates(options: Optimizer, rates: list[float], gradient: float = 1.0) -> list[float]:
    """Where a weight that starts at 0 is after each update with a constant gradient."""
    w, v = torch.zeros(1, dtype=WIDE), torch.zeros(1, dtype=WIDE)
    places = []
    for lr in rates:
        g = torch.full((1,), gradient, dtype=WIDE)
        sgd_update([w], [g], [v], torch.tensor([lr], dtype=WIDE), options)
        places.append(float(w))
    return places


@pytest.mark.parametrize("form", ["keras", "torch"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_closed_form_of_a_constant_gradient(form: str, nesterov: bool) -> None:
    """v_t = (1 - m^t)/(1 - m) g: w_T = -lr g sum of v_t, with Nesterov of v_(t+1)."""
    m, lr, g = 0.9, 0.1, 3.0
    options = Optimizer(form=form, momentum=m, nesterov=nesterov)
    places = updates(options, [lr] * 20, g)
    for count, place in enumerate(places, 1):
        ahead = 1 if nesterov else 0
        total = sum((1 - m ** (t + ahead)) / (1 - m) for t in range(1, count + 1))
        assert place == pytest.approx(-lr * g * total, rel=1e-12)


def test_forms_agree_while_the_rate_is_constant_and_differ_when_it_changes() -> None:
    keras, torch_ = Optimizer(form="keras"), Optimizer(form="torch")
    assert updates(keras, [0.1] * 9) == pytest.approx(updates(torch_, [0.1] * 9), rel=1e-12)
    changing = [0.1] * 4 + [0.01] * 4
    ours, theirs = updates(keras, changing), updates(torch_, changing)
    assert ours[:4] == pytest.approx(theirs[:4], rel=1e-12)
    assert ours[4] < theirs[4] - 0.1  # Keras goes on with the velocity of the large rate


def test_golden_ratio_of_the_two_forms_at_8192() -> None:
    """SCIENCE.md, section 0: with six updates an epoch and a constant gradient, what Keras
    moves in an epoch as a share of what PyTorch moves."""
    scheduler = wrap_scheduler(6.4, True)
    rates = [scheduler(epoch) for epoch in range(100) for _ in range(6)]
    moved = {}
    for form in ("keras", "torch"):
        ends = np.array([0.0, *updates(Optimizer(form=form), rates)])[::6]
        moved[form] = np.diff(ends)
    ratio = [f"{r:.2f}" for r in moved["keras"] / moved["torch"]]
    assert ratio[:8] == ["1.00", "0.68", "0.57", "0.52", "0.49", "0.48", "0.73", "0.86"]
    assert ratio[60:65] == ["7.33", "4.36", "2.79", "1.95", "1.50"]


@pytest.mark.parametrize("form", ["keras", "torch"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.03])
@pytest.mark.parametrize("stack", [1, 3])
def test_twin(form: str, nesterov: bool, decay: float, stack: int) -> None:
    """Tensors of several shapes, a rate per network, random gradients; 1e-12 in float64."""
    rng = np.random.default_rng(0)
    shapes = [(stack * 4, 3, 3, 3), (stack * 4,), (stack * 2, 5)]
    options = Optimizer(form=form, momentum=0.8, nesterov=nesterov, weight_decay=decay)
    twin = Sgd(form=form, momentum=0.8, nesterov=nesterov, weight_decay=decay)
    weights = [rng.normal(size=shape) for shape in shapes]
    speeds = [np.zeros(shape) for shape in shapes]
    ours = [torch.tensor(w) for w in weights]
    velocities = [torch.zeros_like(w) for w in ours]
    addresses = [t.data_ptr() for t in (*ours, *velocities)]
    for _ in range(4):
        rates = rng.uniform(0.01, 1, stack)
        gradients = [rng.normal(size=shape) for shape in shapes]
        given = [torch.tensor(g) for g in gradients]
        sgd_update(ours, given, velocities, torch.tensor(rates), options)
        for g, tensor in zip(gradients, given, strict=True):
            assert np.array_equal(g, tensor.numpy())  # the caller's gradients stay
        for i, (w, g, v) in enumerate(zip(weights, gradients, speeds, strict=True)):
            parts = [
                twin.step(*split, float(lr))
                for *split, lr in zip(
                    *(np.split(x, stack) for x in (w, g, v)), rates, strict=True
                )
            ]
            weights[i] = np.concatenate([part[0] for part in parts])
            speeds[i] = np.concatenate([part[1] for part in parts])
    for w, tensor in zip(weights, ours, strict=True):
        assert tensor.numpy() == pytest.approx(w, rel=1e-12, abs=1e-14)
    assert [t.data_ptr() for t in (*ours, *velocities)] == addresses


def test_equals_torch_sgd() -> None:
    """The torch form is torch.optim.SGD, decay and Nesterov included."""
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=rng, dtype=WIDE)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.02, nesterov=True)
    options = Optimizer(form="torch", momentum=0.9, nesterov=True, weight_decay=0.02)
    ours, velocity = start.clone(), torch.zeros_like(start)
    for lr in (0.1, 0.5, 0.02):
        gradient = torch.randn(5, 3, generator=rng, dtype=WIDE)
        theirs.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        sgd_update([ours], [gradient], [velocity], torch.tensor([lr], dtype=WIDE), options)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=0)
