"""Label smoothing and mixup of losses against their definitions in NumPy, float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_trials import SMALL, ready, small_data, small_spec, with_settings

from batchcliff.spec import Settings
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.losses import EPSILON, LOSSES, mean_per_network, training_losses

KINDS = sorted(LOSSES)
Array = NDArray[np.float64]


def some(spread: float, networks: int = 3) -> tuple[Array, NDArray[np.int64]]:
    """Logits [B, S, K] and labels [B, S]."""
    rng = np.random.default_rng(0)
    shape = (40, networks, 7)
    return rng.normal(0, spread, shape), rng.integers(0, 7, shape[:2])


def smoothed_twin(logits: Array, labels: NDArray[np.int64], kind: str, share: float) -> Array:
    """-sum over k of q_k log p_k, with q = (1 - e) one-hot + e / K. Keras clips every p_k."""
    classes = logits.shape[-1]
    one_hot = np.eye(classes)[labels]
    q = one_hot * (1 - share) + share / classes
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if kind == "clipped-softmax":
        p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.asarray(-(q * np.log(p)).sum(-1))


@pytest.mark.parametrize("spread", [1.0, 12.0])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_twin_of_smoothed_losses(kind: str, share: float, spread: float) -> None:
    logits, labels = some(spread)
    ours = LOSSES[kind](torch.tensor(logits), torch.tensor(labels), share).numpy()
    np.testing.assert_allclose(ours, smoothed_twin(logits, labels, kind, share), rtol=2e-5)
    # The negative controls: another share, the other loss where it clips.
    assert np.abs(ours - smoothed_twin(logits, labels, kind, share / 2)).max() > 0.01
    if spread > 10:
        other = next(k for k in KINDS if k != kind)
        assert np.abs(ours - smoothed_twin(logits, labels, other, share)).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_twin_of_the_gradient(kind: str) -> None:
    """Central differences of the definition, where no probability is at its clip."""
    logits, labels = some(2.0, 1)
    ours = torch.tensor(logits, requires_grad=True)
    LOSSES[kind](ours, torch.tensor(labels), 0.2).sum().backward()
    assert ours.grad is not None
    step = 1e-5
    for k in range(7):
        shift = step * np.eye(7)[k]
        up, down = (smoothed_twin(logits + sign * shift, labels, kind, 0.2) for sign in (1, -1))
        difference = (up - down) / (2 * step)
        np.testing.assert_allclose(ours.grad[..., k].numpy(), difference, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_smoothing_has_the_bits_that_it_had(kind: str) -> None:
    logits, labels = (torch.tensor(x) for x in some(12.0))
    plain, zero = LOSSES[kind](logits, labels), LOSSES[kind](logits, labels, 0.0)
    assert torch.equal(plain, zero)
    if kind == "logits":
        flat = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        assert torch.equal(plain.flatten(), flat)


def test_a_clipped_class_has_no_gradient_though_smoothing_asks_for_one() -> None:
    """Class 2 lies far behind: Keras' clip takes its share of the target's pull away."""
    logits = torch.tensor([[[3.0, 0.0, -30.0]]], requires_grad=True)
    labels = torch.zeros(1, 1, dtype=torch.int64)
    (free,) = torch.autograd.grad(LOSSES["logits"](logits, labels, 0.3).sum(), logits)
    (clipped,) = torch.autograd.grad(
        LOSSES["clipped-softmax"](logits, labels, 0.3).sum(), logits
    )
    assert free[0, 0, 2] == pytest.approx(-0.1)
    assert clipped[0, 0, 2] == pytest.approx(0, abs=1e-6)
    assert clipped[0, 0, :2].abs().min() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_so_when_smoothed(kind: str) -> None:
    logits = torch.tensor([[[float("nan"), 0.0]], [[1.0, 0.0]]])
    losses = LOSSES[kind](logits, torch.zeros(2, 1, dtype=torch.int64), 0.1)
    assert not torch.isfinite(mean_per_network(losses)).any()


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_twin_of_mixed_losses(kind: str, share: float) -> None:
    logits, labels = some(3.0)
    own = np.random.default_rng(4).random(labels.shape)
    settings = Settings(loss=kind, label_smoothing=share, mixup=1.0)
    ours = training_losses(
        torch.tensor(logits), torch.tensor(labels), torch.tensor(own).float(), settings
    )
    expected = np.zeros(labels.shape)
    for i in range(len(labels)):
        partner = labels[(i + 1) % len(labels)]
        expected[i] = own[i] * smoothed_twin(logits[i], labels[i], kind, share) + (
            1 - own[i]
        ) * smoothed_twin(logits[i], partner, kind, share)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)
    alone = training_losses(torch.tensor(logits), torch.tensor(labels), None, settings)
    assert (ours - alone).abs().max() > 0.1
    np.testing.assert_allclose(
        alone.numpy(), smoothed_twin(logits, labels, kind, share), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["mixed", "plain"])
def test_the_losses_of_a_loop_compile_as_one_graph(name: str) -> None:
    extras = {"mixup": 0.4, "cutout": 3, "random_erasing": 0.5, "label_smoothing": 0.1}
    settings = with_settings(SMALL, augmentation="as-written", **extras)
    if name == "plain":
        settings = with_settings(SMALL, loss="clipped-softmax", label_smoothing=0.1)
    spec, resident = small_spec(settings=settings), small_data()
    loop = ready(spec, resident).loop
    loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    inputs = loop.index_UBS[0], loop.draws_UBSk[0]
    compiled = torch.compile(loop.losses, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(*inputs), loop.losses(*inputs))


def test_shares_of_one_and_nothing() -> None:
    logits, labels = (torch.tensor(x) for x in some(3.0))
    settings = Settings(loss="logits", mixup=1.0)
    whole = training_losses(logits, labels, torch.ones(labels.shape), settings)
    assert torch.equal(whole, LOSSES["logits"](logits, labels))
    none = training_losses(logits, labels, torch.zeros(labels.shape), settings)
    assert torch.equal(none[:-1], LOSSES["logits"](logits[:-1], labels[1:]))
