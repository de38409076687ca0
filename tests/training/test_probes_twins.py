"""What probes measure, against slow twins and closed forms."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from probed_trials import PROBED, TINY, probes_of
from small_trials import ready, run, small_data, small_spec, with_settings
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.spec import Model, Settings
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.loop import Loop
from batchcliff.training.probes_measure import (
    gradient_noise,
    lanczos,
    pair_estimate,
    parameter_groups,
    ritz,
    update_ratios,
)
from batchcliff.training.probes_plan import effort, examples_of_a_probe
from batchcliff.workloads.noisy_quadratic import QUADRATIC, network
from batchcliff.workloads.noisy_quadratic import dataset as quadratic_data

# sharpness -----------------------------------------------------------------------------------


def hessian(loss: Any, parameters: list[Tensor]) -> Tensor:
    """The full matrix, a row at a time, float64."""
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    rows = [
        torch.cat(
            [
                r.reshape(-1)
                for r in torch.autograd.grad(
                    one, parameters, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for one in flat
    ]
    return torch.stack(rows).double()


def small_network() -> tuple[Any, list[Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(20, 3).double(), torch.randint(2, (20,))
    parameters = list(network.parameters())
    return lambda: nn.functional.cross_entropy(network(x), y), parameters


def test_lanczos_against_the_full_hessian() -> None:
    loss, parameters = small_network()
    values = torch.linalg.eigvalsh(hessian(loss, parameters))
    weights = sum(p.numel() for p in parameters)
    start = torch.linspace(-1, 1, weights).double()
    found = {k: ritz(lanczos(loss, parameters, start, k).numpy()) for k in (1, 3, 8)}
    for k, pair in found.items():
        assert pair is not None
        value, error = pair
        assert value <= values[-1] + 1e-9  # from below
        assert (values - value).abs().min() <= error + 1e-9, k
    last = found[8]
    assert last is not None and last[0] == pytest.approx(float(values[-1]), rel=1e-4)
    first = found[1]
    assert first is not None and first[0] < 0.99 * float(values[-1])  # one step is not enough
    assert float(values[-2]) < 0.9 * float(values[-1])  # nor would the second one pass


def test_a_space_that_is_exhausted() -> None:
    """A Hessian of two distinct values has a Krylov space of two dimensions: what follows in T
    is rounding, and a 0 in it is no eigenvalue."""
    curvature = torch.tensor([-3.0, -3.0, -1.0, -1.0, -1.0])
    w = torch.ones(5, requires_grad=True)
    matrix = lanczos(lambda: 0.5 * (curvature * w.square()).sum(), [w], torch.ones(5), 5)
    found = ritz(matrix.double().numpy())
    assert found is not None and found[0] == pytest.approx(-1.0, abs=1e-4)
    assert found[1] < 1e-4


def test_a_linear_loss_has_no_curvature_and_nan_no_eigenvalue() -> None:
    w = torch.ones(3, requires_grad=True)
    assert ritz(lanczos(lambda: w.sum(), [w], torch.ones(3), 2).double().numpy()) == (0.0, 0.0)
    bad = lanczos(lambda: (w * torch.nan).square().sum(), [w], torch.ones(3), 2)
    assert ritz(bad.double().numpy()) is None


def at_point(settings: Settings, update: int) -> tuple[Loop, Tensor, Tensor]:
    """A loop that has applied `update` updates, and the examples that come after its end."""
    spec, resident = small_spec(settings=settings), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.1))
    for u in range(update):
        if u % 4 == 0:
            prepared.loop.load_block(*epoch_tensors([spec], resident, u, u + 4))
        prepared.advance()
    index, draws = epoch_tensors([spec], resident, 12, 14)
    return prepared.loop, index.flatten(0, 1), draws.flatten(0, 1)


def twin_loss(loop: Loop, index: Tensor, draws: Tensor) -> Any:
    """The mean loss, batch norm over all the examples given."""
    own = copy.copy(loop)
    for module in own.model.modules():
        if hasattr(module, "group"):
            module.group = len(index)
    return lambda: own.losses(index, draws).sum()


@pytest.mark.parametrize("update", [0, 5])
def test_the_recorded_sharpness_and_noise_against_slow_twins(update: int) -> None:
    record = run([small_spec(settings=TINY)], small_data()).records[0]
    probes = probes_of(record)
    at = probes.updates.index(update)
    loop, index, draws = at_point(TINY, update)
    count, parts = examples_of_a_probe(40), effort(small_spec(settings=TINY), 40).parts
    assert count == 8
    values = torch.linalg.eigvalsh(
        hessian(twin_loss(loop, index[:count], draws[:count]), loop.parameters)
    )
    sharpness, error = probes.sharpness[at], probes.sharpness_error[at]
    assert sharpness is not None and error is not None
    assert sharpness <= float(values[-1]) * (1 + 1e-4)
    assert float((values - sharpness).abs().min()) <= error + 1e-4 * float(values[-1])
    assert sharpness == pytest.approx(float(values[-1]), rel=0.02)
    gradients = []
    small = 2 * count // parts
    for i in range(parts):
        part = slice(i * small, (i + 1) * small)
        loss = twin_loss(loop, index[part], draws[part])
        found = torch.autograd.grad(loss(), loop.parameters)
        gradients.append(np.concatenate([g.double().flatten().numpy() for g in found]))
    # From the definition of a sample variance, not from two squared norms.
    spread = np.var(gradients, axis=0, ddof=1).sum()
    assert probes.noise_trace[at] == pytest.approx(small * spread, rel=1e-3)
    square = (np.mean(gradients, axis=0) ** 2).sum() - spread / parts
    assert probes.gradient_square[at] == pytest.approx(square, rel=1e-3)


def test_the_noisy_quadratic_has_the_curvature_and_the_noise_that_it_was_made_with() -> None:
    """Through the whole engine: the largest h, sum of c, and sum of h^2 w^2 with |w| = 1."""
    h, c = np.array(QUADRATIC.curvatures), np.array(QUADRATIC.noise)
    settings = with_settings(PROBED, model=Model(name="own", widths=()), probe_at=("0up",))
    found = []
    for seed in range(4):
        spec = small_spec(settings=settings, batch_size=64, budget="3up", seed=seed, lr=0.01)
        resident = Resident.of(quadratic_data())
        prepared = ready(spec, resident, build=network, classes=2)
        probes = probes_of(run([spec], resident, prepared=prepared).records[0])
        assert probes.sharpness[0] == pytest.approx(h.max(), rel=0.03)
        assert probes.sharpness[0] <= h.max() * (1 + 1e-4)
        found.append((probes.noise_trace[0], probes.gradient_square[0]))
    trace, square = np.mean(found, axis=0)
    assert trace == pytest.approx(c.sum(), rel=0.2)  # 4 seeds, 3 x 64 degrees of freedom each
    assert square == pytest.approx((h**2).sum(), rel=0.1)


# gradient noise ------------------------------------------------------------------------------


def test_the_noise_of_a_linear_regression_is_the_closed_form() -> None:
    """x ~ N(0, 1_d), y = x w* + s e: with u = w - w*, G = u and
    tr(Sigma) = (d + 1) |u|^2 + d s^2, since E |x|^2 (x u)^2 = (d + 2) |u|^2."""
    dimensions, sigma, small, repeats = 5, 0.7, 16, 400
    torch.manual_seed(0)
    u = torch.tensor([0.5, -0.2, 0.1, 0.3, 0.0], dtype=torch.float64)
    w = u.clone().requires_grad_()
    found, naive = [], []
    for _ in range(repeats):
        x = torch.randn(4, small, dimensions, dtype=torch.float64)
        noise = sigma * torch.randn(4, small, dtype=torch.float64)
        losses = [
            lambda x=x[i], n=noise[i]: 0.5 * (x @ w - n).square().mean() for i in range(4)
        ]
        found.append(gradient_noise(losses, [w], small).numpy())
        (whole,) = torch.autograd.grad(sum(loss() for loss in losses) / 4, [w])
        naive.append(float(whole.square().sum()))
    square = float(u.square().sum())
    trace = (dimensions + 1) * square + dimensions * sigma**2
    mean, error = np.mean(found, 0), np.std(found, 0) / math.sqrt(repeats)
    assert abs(mean[0] - trace) < 4 * error[0] < 0.1 * trace
    assert abs(mean[1] - square) < 4 * error[1] < 0.2 * square
    # The squared norm of the large batch alone is biased by tr(Sigma) / 64, and this sees it.
    assert np.mean(naive) - square > 4 * np.std(naive) / math.sqrt(repeats)


def test_the_pair_estimate_inverts_its_definition() -> None:
    square, trace, small, big = 0.3, 40.0, 8, 128
    at = [torch.tensor(square + trace / size).double() for size in (small, big)]
    found = pair_estimate(at[0], at[1], small, big)
    assert [float(f) for f in found] == pytest.approx([trace, square])


# update ratios -------------------------------------------------------------------------------


def test_update_ratios_against_numpy() -> None:
    record = run([small_spec(settings=TINY)], small_data()).records[0]
    probes = probes_of(record)
    assert (
        probes.groups == ("first", "hidden", "last", "norms-and-biases")[:1] + probes.groups[1:]
    )
    before, after = (
        [p.detach().numpy() for p in at_point(TINY, u)[0].parameters] for u in (5, 6)
    )
    groups = parameter_groups([p.shape for p in before])
    assert tuple(groups) == probes.groups and set(groups) >= {"first", "last"}
    for g, members in enumerate(groups.values()):
        moved = math.sqrt(sum(((after[i] - before[i]) ** 2).sum() for i in members))
        length = math.sqrt(sum((before[i] ** 2).sum() for i in members))
        recorded = probes.update_ratio[g][probes.updates.index(5)]
        assert recorded == pytest.approx(moved / length, rel=1e-4) and moved > 0


def test_groups_of_parameters() -> None:
    shapes = [(4, 1, 3, 3), (4,), (4,), (6, 4, 3, 3), (6,), (2, 6), (2,)]
    found = parameter_groups(shapes)
    assert found == {
        "first": [0], "hidden": [3], "last": [5], "norms-and-biases": [1, 2, 4, 6]
    }  # fmt: skip
    assert parameter_groups([(3,)]) == {"norms-and-biases": [0]}
    assert parameter_groups([(3, 2)]) == {"last": [0]}
    zero = update_ratios([torch.zeros(2)], [torch.ones(2)], [[0]])
    assert not torch.isfinite(zero).any()  # a record has None there
