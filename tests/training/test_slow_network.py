"""The twin itself: its gradients by finite differences, its parts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from slow_network import Sgd, SlowNetwork, example_losses, pool, softmax

SHAPE = (6, 5, 5, 2)


def network(group: int, seed: int = 0, head: float = 1.0) -> SlowNetwork:
    rng = np.random.default_rng(seed)
    parameters, previous = {}, SHAPE[3]
    for layer, channels in enumerate((3, 4)):
        parameters[f"conv{layer}"] = rng.normal(0, 0.3, (channels, previous, 3, 3))
        parameters[f"conv_bias{layer}"] = rng.normal(0, 0.3, channels)
        parameters[f"gamma{layer}"] = rng.normal(1, 0.3, channels)
        parameters[f"beta{layer}"] = rng.normal(0, 0.3, channels)
        previous = channels
    parameters["head"] = head * rng.normal(0, 1, (3, previous))
    parameters["head_bias"] = rng.normal(0, 1, 3)
    return SlowNetwork(parameters, blocks=(1, 1), group=group)


@pytest.mark.parametrize("group", [2, 6])
@pytest.mark.parametrize(("loss", "head"), [("logits", 1), ("clipped-softmax", 30)])
def test_gradients_by_finite_differences(group: int, loss: str, head: float) -> None:
    """Central differences of every parameter; tolerance 1e-6 of the largest gradient."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, SHAPE).astype(np.uint8)
    labels = rng.integers(0, 3, SHAPE[0])
    net = network(group, head=head)
    _, gradients = net.loss(images, labels, loss, 1 / 255)
    gradients = {name: g.copy() for name, g in gradients.items()}
    scale = max(float(np.abs(g).max()) for g in gradients.values())
    assert gradients.keys() == net.parameters.keys()
    assert scale > 0.1
    step = 1e-6
    for name, w in net.parameters.items():
        for place in list(np.ndindex(*w.shape))[:: max(1, w.size // 12)]:
            values = []
            for sign in (1, -1):
                w[place] += sign * step
                values.append(net.loss(images, labels, loss, 1 / 255)[0])
                w[place] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert slope == pytest.approx(gradients[name][place], abs=1e-6 * scale), name


def test_clipped_examples_have_the_saturated_loss_and_no_gradient() -> None:
    logits = np.array([[0.0, 20.0, 0.0], [0.0, 20.0, 0.0], [1.0, 2.0, 3.0]])
    labels = np.array([0, 1, 2])
    losses, gradient = example_losses(logits, labels, "clipped-softmax")
    assert losses[0] == pytest.approx(-np.log(1e-7), rel=1e-12)  # 16.118
    assert losses[1] == pytest.approx(1e-7, rel=1e-6)
    assert not gradient[:2].any()
    expected = softmax(logits[2]) - np.array([0, 0, 1])
    assert gradient[2] == pytest.approx(expected, rel=1e-12)
    free, gradient = example_losses(logits, labels, "logits")
    assert free[0] == pytest.approx(20, rel=1e-6)
    assert gradient[0].any()


def test_pooling_by_hand() -> None:
    x = np.arange(15.0).reshape(1, 1, 3, 5)
    y, back = pool(x)
    assert y.tolist() == [[[[3.0, 5.0]]]]  # (0+1+5+6)/4 and (2+3+7+8)/4
    assert back(np.ones_like(y))[0, 0].tolist() == [[0.25] * 4 + [0], [0.25] * 4 + [0], [0] * 5]


def test_running_statistics_by_hand() -> None:
    """Two groups of one channel: biased variance normalises, Bessel's is kept."""
    one = np.ones(1)
    parameters = {"gamma0": one, "beta0": 0 * one}
    x = np.array([1.0, 3.0, 10.0, 20.0]).reshape(4, 1, 1, 1)
    both = SlowNetwork(parameters, blocks=(1,), group=2, shards=2, momentum=0.75, eps=0.0)
    y, _ = both.batch_norm(x, 0)
    assert y.ravel() == pytest.approx([-1, 1, -1, 1])
    assert both.running_mean[0].ravel() == pytest.approx([0.25 * 2, 0.25 * 15])
    assert both.running_var[0].ravel() == pytest.approx([0.75 + 0.25 * 2, 0.75 + 0.25 * 50])
    mean = SlowNetwork(parameters, blocks=(1,), group=2, momentum=0.75, eps=0.0)
    mean.batch_norm(x, 0)
    assert mean.running_mean[0].ravel() == pytest.approx([0.25 * 8.5])
    assert mean.running_var[0].ravel() == pytest.approx([0.75 + 0.25 * 26])


def test_sgd_by_hand() -> None:
    """Two updates of a constant gradient 1 with rates 1 and 0.1, momentum 0.5."""
    expected = {
        ("keras", False): [-1.0, -1.6],  # v = -1; -0.6
        ("torch", False): [-1.0, -1.15],  # v = 1; 1.5
        ("keras", True): [-1.5, -1.5 - 0.3 - 0.1],
        ("torch", True): [-1.5, -1.5 - 0.1 * (1 + 0.75)],
    }
    for (form, nesterov), places in expected.items():
        sgd, w, v = Sgd(form=form, momentum=0.5, nesterov=nesterov), np.zeros(1), np.zeros(1)
        for lr, place in zip((1.0, 0.1), places, strict=True):
            w, v = sgd.step(w, np.ones(1), v, lr)
            assert w == pytest.approx(place, rel=1e-12)
