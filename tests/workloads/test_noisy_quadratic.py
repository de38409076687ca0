"""The noisy quadratic is what docs/noisy_quadratic.md says, and the truth of it is true."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from batchcliff.errors import UsageError
from batchcliff.spec import TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study, parse_study
from batchcliff.training.arithmetic import learning_rates
from batchcliff.workloads import NOISY_QUADRATIC, load_workload, own_reference
from batchcliff.workloads import quadratic_truth as quadratic
from batchcliff.workloads.noisy_quadratic import (
    DIMENSIONS,
    NUM_TRAIN,
    QUADRATIC,
    SCALE,
    NoisyQuadratic,
    dataset,
    network,
    spectrum,
)
from batchcliff.workloads.quadratic_truth import Heavy, expected_losses

Array = NDArray[np.float64]

DOCS = Path(__file__).parents[2] / "docs" / "noisy_quadratic.md"
DATA = dataset()
SIGNS = 1.0 - DATA.train_images[:, 0, :-2, 0] / 64.0  # [N, D], as in the docs up to the sign
H, A = np.array(QUADRATIC.curvatures), np.array(QUADRATIC.displacements)


def study_trials() -> list[TrialSpec]:
    return [t for t in trials(load_study("noisy-quadratic"), DATA.digest) if t.seed == 0]


def made() -> torch.nn.Module:
    built = network(DATA.image_shape, 2)
    assert isinstance(built, torch.nn.Module)
    return built


def inputs(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32) * SCALE).permute(0, 3, 1, 2)


# the data and the network --------------------------------------------------------------------


def test_the_noise_has_mean_0_and_covariance_1_exactly() -> None:
    assert SIGNS.shape == (NUM_TRAIN, DIMENSIONS)
    assert set(np.unique(SIGNS)) == {-1.0, 1.0}
    assert (SIGNS.sum(0) == 0).all()
    assert (NUM_TRAIN * np.eye(DIMENSIONS) == SIGNS.T @ SIGNS).all()


def test_cross_entropy_of_the_network_is_the_loss_and_its_gradient() -> None:
    torch.manual_seed(1)
    net = made()
    with torch.no_grad():
        net.w.copy_(torch.randn(DIMENSIONS))
    w = net.w.detach().double().numpy()
    batch = slice(100, 140)
    images, labels = inputs(DATA.train_images[batch]), DATA.train_labels[batch]
    losses = F.cross_entropy(net(images), torch.from_numpy(labels), reduction="none")
    x = -SIGNS[batch]  # pixel 128 is +1
    assert losses.detach().numpy() == pytest.approx(0.5 * ((w - A * x) ** 2 @ H), rel=2e-6)
    (gradient,) = torch.autograd.grad(losses.mean(), [net.w])
    assert gradient.numpy() == pytest.approx(
        H * w - np.sqrt(QUADRATIC.noise) * x.mean(0), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("share", [1e-4, 0.03, 0.5, 0.97, 1.3, 1e12, math.inf, math.nan])
def test_accuracy_is_the_declared_function_of_the_loss(share: float) -> None:
    net = made()
    with torch.no_grad():
        net.w.mul_(math.sqrt(share))
        logits = net(inputs(DATA.test_images))
    right = (logits.argmax(1).numpy() == DATA.test_labels).mean()
    if math.isfinite(share):
        expected = quadratic.expected_accuracy(QUADRATIC, share * QUADRATIC.start_loss)
        assert right == pytest.approx(expected, abs=1 / 2048)
    else:  # the engine tells by the loss that it diverged
        assert not torch.isfinite(F.cross_entropy(logits, torch.from_numpy(DATA.test_labels)))


def test_other_data_are_refused() -> None:
    with pytest.raises(UsageError, match=r"not \(32, 32, 3\) of 10"):
        network((32, 32, 3), 10)


def test_the_workload_brings_its_network_and_takes_no_settings_of_one() -> None:
    assert load_workload("noisy-quadratic") is NOISY_QUADRATIC
    assert own_reference("noisy-quadratic") == "noisy-quadratic"
    assert [own_reference(n) for n in ("digits", "article", "mine@0f")] == [None] * 3
    text = 'name = "q"\nworkload = "noisy-quadratic"\nbatch_sizes = [64]\nseeds = 1\n'
    with pytest.raises(UsageError, match=r"settings\.model.*the workload's own"):
        parse_study(text + "[settings.model]\ninit = 'torch'\n[arms.none]\n")


# the truth -----------------------------------------------------------------------------------

SMALL = NoisyQuadratic((1.0, 0.3), (0.7, 0.2), (1.0, 1.0))
POINTS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # variance 1, as Walsh


def descent(problem: NoisyQuadratic, rates: list[float], rule: Heavy, noise_TD: Array) -> Array:
    """Losses [T + 1] of one run from its definition; noise_TD: mean x of each batch."""
    h, root = np.array(problem.curvatures), np.sqrt(problem.noise)
    w, v = np.array(problem.start), np.zeros(len(h))
    losses = [0.5 * h @ w**2]
    for rate, x in zip(rates, noise_TD, strict=True):
        gradient = h * w - root * x
        if rule.form == "keras":
            v = rule.momentum * v - rate * gradient
            w = w + v
        else:
            v = rule.momentum * v + gradient
            w = w - rate * v
        losses.append(0.5 * h @ w**2)
    return np.array(losses)


@pytest.mark.parametrize("form", ["keras", "torch"])
@pytest.mark.parametrize(
    ("batch_size", "remainder"), [(1, "carry"), (2, "carry"), (3, "carry"), (3, "drop")]
)
def test_expected_loss_is_the_mean_over_every_order(
    form: str, batch_size: int, remainder: str
) -> None:
    """Four examples, two epochs: all 24^2 orders, each run from the definition."""
    rates = [0.3, 0.8, 0.5, 0.6, 0.9, 0.2, 0.7, 0.4]
    updates = 2 * (4 // batch_size) if remainder == "drop" else 8 // batch_size
    rates, rule = rates[:updates], Heavy(0.6, form)
    runs = []
    for first, second in itertools.product(itertools.permutations(range(4)), repeat=2):
        stream = [*first, *second]
        if remainder == "drop":
            stream = [*first[:3], *second[:3]]
        cut = np.array(stream[: updates * batch_size]).reshape(updates, batch_size)
        runs.append(descent(SMALL, rates, rule, POINTS[cut].mean(1)))
    expected = expected_losses(
        SMALL, rates, rule, batch_size=batch_size, num_examples=4, remainder=remainder
    )
    assert expected == pytest.approx(np.mean(runs, axis=0), rel=1e-12)


def test_expected_loss_of_independent_examples_is_the_mean_over_every_draw() -> None:
    rates, rule = [0.3, 0.8, 0.5], Heavy(0.6)
    draws = itertools.product(range(4), repeat=6)
    runs = [
        descent(SMALL, rates, rule, POINTS[np.array(d).reshape(3, 2)].mean(1)) for d in draws
    ]
    expected = expected_losses(
        SMALL, rates, rule, batch_size=2, num_examples=4, independent=True
    )
    assert expected == pytest.approx(np.mean(runs, axis=0), rel=1e-12)


def simulated(batch_size: int, rates: list[float], runs: int) -> Array:
    """Losses [runs, T + 1] of the workload's own problem and data."""
    rng, epochs = np.random.default_rng(0), -(-batch_size * len(rates) // NUM_TRAIN)
    found = []
    for _ in range(runs):
        stream = np.concatenate([rng.permutation(NUM_TRAIN) for _ in range(epochs)])
        cut = stream[: batch_size * len(rates)].reshape(len(rates), batch_size)
        found.append(descent(QUADRATIC, rates, Heavy(0.9), SIGNS[cut].mean(1)))
    return np.array(found)


def test_every_update_against_many_simulated_runs() -> None:
    """Largest deviation in standard errors; the two wrong models stand out."""
    spec = next(t for t in study_trials() if (t.arm, t.batch_size) == ("warmup", 181))
    rates = learning_rates(spec, NUM_TRAIN)
    assert rates == pytest.approx(quadratic.rates_of(spec), rel=1e-12)
    losses = simulated(181, rates, 400)
    error = losses.std(0, ddof=1) / math.sqrt(len(losses))

    def deviation(problem: NoisyQuadratic, momentum: float) -> float:
        found = expected_losses(problem, rates, Heavy(momentum), batch_size=181)
        return float(np.abs((losses.mean(0) - found) / np.maximum(error, 1e-12))[1:].max())

    assert losses[:, 0] == pytest.approx(QUADRATIC.start_loss)
    assert deviation(QUADRATIC, 0.9) < 3.5
    assert deviation(spectrum(2.4), 0.9) > 8
    assert deviation(QUADRATIC, 0.88) > 8


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_divergence_is_at_2_1_plus_m_over_h_whatever_the_batch_size(momentum: float) -> None:
    limit = quadratic.divergence_rate(QUADRATIC, momentum)
    assert limit == pytest.approx(2 * (1 + momentum) / max(QUADRATIC.curvatures))
    for batch_size in (1, 500):
        grown = {
            factor: expected_losses(
                QUADRATIC,
                [factor * limit] * 3000,
                Heavy(momentum),
                batch_size=batch_size,
                independent=True,
            )
            for factor in (0.99, 1.01)
        }
        assert grown[1.01][-1] > 1e6 * grown[0.99][-1]
        stationary = quadratic.stationary_loss(QUADRATIC, 0.99 * limit, momentum, batch_size)
        assert grown[0.99][-1] == pytest.approx(stationary, rel=1e-6)
    assert quadratic.stationary_loss(QUADRATIC, limit, momentum, 1) == math.inf


def test_a_cold_start_is_the_cosine_of_the_docs() -> None:
    """Equation 9: amplitude m^(t/2) sqrt(r h) / sin(omega), frequency omega."""
    rate, h, m = 1.4, 0.8, 0.9
    only = NoisyQuadratic((h,), (0.0,), (1.0,))
    losses = expected_losses(only, [rate] * 60, Heavy(m), batch_size=1)
    omega = math.acos((1 + m - rate * h) / (2 * math.sqrt(m)))
    amplitude = math.sqrt(rate * h) / math.sin(omega)
    phase = math.acos(1 / amplitude)
    t = np.arange(61)
    cosines = [amplitude * np.cos(omega * t + sign * phase) for sign in (1, -1)]
    errors = [np.abs(np.sqrt(2 * losses / h) - m ** (t / 2) * np.abs(c)).max() for c in cosines]
    assert min(errors) < 1e-12 < 0.1 < max(errors)


def test_the_table_of_the_docs() -> None:
    rows = []
    specs = {(t.arm, t.batch_size): t for t in study_trials()}
    for size in sorted({size for _, size in specs}):
        row = [str(size), str(len(quadratic.rates_of(specs["none", size])))]
        for arm in ("none", "warmup"):
            for problem in (QUADRATIC, spectrum(0.0)):
                loss = quadratic.trial_losses(specs[arm, size], problem)[-1]
                share = quadratic.expected_accuracy(problem, float(loss))
                row.append(f"{100 * (share if problem is QUADRATIC else 1 - share):.2f}")
        rows.append(f"| {' | '.join(row)} |")
    table = re.search(r"<!-- truth -->\n(.*?)<!-- /truth -->", DOCS.read_text(), re.DOTALL)
    assert table is not None
    assert table[1].splitlines()[2:] == rows


def test_the_cliffs_of_the_docs() -> None:
    found = quadratic.truth(study_trials(), "none", 0.02)
    none, warmup = found["none"], found["warmup"]
    assert (round(none.tolerance), round(warmup.tolerance)) == (199, 297)
    assert none.divergence == warmup.divergence == pytest.approx(64 * 3.8 / 0.56)
    threshold = max(none.accuracies) - 0.02
    for arm, last in (("none", 208), ("warmup", 292)):
        base = next(t for t in study_trials() if (t.arm, t.batch_size) == (arm, 64))
        for size, above in ((last, True), (last + 1, False)):
            spec = dataclasses.replace(base, batch_size=size, lr=base.lr * size / 64)
            loss = float(quadratic.trial_losses(spec)[-1])
            assert (quadratic.expected_accuracy(QUADRATIC, loss) >= threshold) == above
    far = quadratic.truth([t for t in study_trials() if t.batch_size < 200], "none", 0.02)
    assert far["none"].tolerance == math.inf
    near = quadratic.truth([t for t in study_trials() if t.batch_size > 300], "none", 0.4)
    assert near["none"].tolerance == math.inf
    assert quadratic.truth(study_trials(), "none", 1e-4)["none"].tolerance > 64


@pytest.mark.parametrize(
    "changes", [{"nesterov": True}, {"weight_decay": 0.1}, {"form": "torch", "nesterov": True}]
)
def test_no_truth_where_none_is_derived(changes: dict[str, object]) -> None:
    spec = study_trials()[0]
    optimizer = dataclasses.replace(spec.settings.optimizer, **changes)  # type: ignore[arg-type]
    settings = dataclasses.replace(spec.settings, optimizer=optimizer)
    with pytest.raises(UsageError, match="is known for SGD with momentum"):
        quadratic.trial_losses(dataclasses.replace(spec, settings=settings))
