"""Probes: each against the definition, none of them seen by the training that it looks at."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_trials import CLASSES, SMALL, ready, run, small_data, small_spec, with_settings
from test_loop_no_sync import NoWaiting
from torch import Tensor, nn

from batchcliff.canonical import canonical_json, from_plain, parse_json
from batchcliff.data.resident import Resident
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.record import Outcome, Probes, TrialRecord
from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import PROBES, BatchNorm, Decay, Model, Settings
from batchcliff.training.arithmetic import timeline_of
from batchcliff.training.epochs import epoch_tensors, probing_of
from batchcliff.training.loop import Loop
from batchcliff.training.probes_measure import (
    aside,
    gradient_noise,
    lanczos,
    pair_estimate,
    parameter_groups,
    ritz,
    update_ratios,
)
from batchcliff.training.probes_plan import effort, examples_of_a_probe, points, update_at
from batchcliff.workloads.noisy_quadratic import QUADRATIC, network
from batchcliff.workloads.noisy_quadratic import dataset as quadratic_data

PROBED = with_settings(SMALL, probes=PROBES)
TINY = with_settings(PROBED, model=Model(widths=((2,), (3,))), probe_at=("0up", "5up"))
GROUPED = {"batch_norm": BatchNorm(momentum=0.9, group="B/5", running="per-group")}


class Dropping(nn.Module):
    """A network of a user's own that draws random numbers and keeps statistics."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[2], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def probes_of(record: TrialRecord) -> Probes:
    assert record.probes is not None
    return record.probes


# the training is not touched -----------------------------------------------------------------

SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "per-group statistics, augmented": {
        **GROUPED, "augmentation": "as-written", "loss": "clipped-softmax",
        "precision": "bf16", "remainder": "drop", "gradient_norms": True,
    },
    "mixed": {"mixup": 0.4, "label_smoothing": 0.1, "optimizer__weight_decay": 0.01},
    "scaled losses": {"precision": "fp16"},
    "residual": {"model": Model(name="resnet", widths=((4,), (4,)), init="he-normal")},
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_trial_ends_on_the_same_bits(case: str) -> None:
    settings = with_settings(SMALL, **SAME[case])
    spec = small_spec(settings=settings)
    probed = small_spec(settings=with_settings(settings, probes=PROBES))
    plain, looked = run([spec], small_data()), run([probed], small_data())
    assert torch.equal(plain.losses, looked.losses)
    before, after = plain.prepared, looked.prepared
    for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(before.model.buffers(), after.model.buffers(), strict=True):
        assert torch.equal(a, b)
    found = dataclasses.replace(looked.records[0], spec=spec, probes=None, provenance=None)
    assert found == dataclasses.replace(plain.records[0], provenance=None)
    assert spec.trial_id != probed.trial_id and probes_of(looked.records[0]).updates


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_trial_ends_on_the_same_bits_and_measures_what_the_cpu_does() -> None:
    settings = with_settings(SMALL, model=Model(widths=((8,), (16,))))
    probed = with_settings(settings, probes=PROBES, probe_at=("0up", "5up"))
    place = small_data(train=80, shape=(8, 8, 3))
    arrays = (place.train_images, place.train_labels, place.test_images, place.test_labels)
    device = Resident(*(array.cuda() for array in arrays), place.scale)
    on_cpu = run([small_spec(settings=probed, batch_size=16)], place)
    plain = run([small_spec(settings=settings, batch_size=16)], device)
    looked = run([small_spec(settings=probed, batch_size=16)], device)
    assert torch.equal(plain.losses, looked.losses)
    both = zip(plain.prepared.loop.parameters, looked.prepared.loop.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    ours, theirs = probes_of(looked.records[0]), probes_of(on_cpu.records[0])
    for name in ("sharpness", "noise_trace", "gradient_square"):
        assert getattr(ours, name)[0] == pytest.approx(getattr(theirs, name)[0], rel=0.01), name


def test_a_network_that_draws_random_numbers_draws_the_same_ones() -> None:
    settings = with_settings(SMALL, model=Model(name="own", widths=()))
    spec = small_spec(settings=settings)
    probed = small_spec(settings=with_settings(settings, probes=PROBES))
    plain = run([spec], small_data(), build=Dropping)
    looked = run([probed], small_data(), build=Dropping)
    assert torch.equal(plain.losses, looked.losses)
    for a, b in zip(
        plain.prepared.model.buffers(), looked.prepared.model.buffers(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_pass_that_is_not_aside_leaves_a_trace() -> None:
    """The negative control of the two above: the pass itself does change statistics."""
    spec = small_spec(settings=with_settings(SMALL, **GROUPED))
    loop = ready(spec, small_data()).loop
    loop.load_block(*epoch_tensors([spec], small_data(), 0, 4))

    def changed() -> bool:
        old = [b.clone() for b in loop.model.buffers()]
        loop.losses(loop.index_UBS[0], loop.draws_UBSk[0])
        return not all(map(torch.equal, old, loop.model.buffers()))

    layers = [m for m in loop.model.modules() if isinstance(m, GhostBatchNorm2d)]
    with aside(loop.model, 4):
        changed()
    assert {(m.group, m.shards) for m in layers} == {(2, 5)}
    for layer in layers:
        layer.fused = layer.convolves = True
    with aside(loop.model, 4):  # its kernels cannot be differentiated twice
        assert not any(m.fused or m.convolves for m in layers)
    assert all(m.fused and m.convolves for m in layers)
    for layer in layers:
        layer.fused = layer.convolves = False
    assert all(b.abs().sum() in (0, b.numel()) for b in loop.model.buffers())  # as at the start
    assert changed()


def test_nothing_waits_for_the_device() -> None:
    spec, resident = small_spec(settings=TINY), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.1))
    probing = probing_of(prepared, [spec], resident)
    assert probing is not None
    prepared.loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    prepared.advance()
    with NoWaiting():
        probing.measure(5, prepared.advance)


def test_a_restart_forgets_and_a_second_run_is_the_first() -> None:
    resident = small_data()
    prepared = ready(small_spec(settings=TINY), resident)
    first = run([small_spec(settings=TINY)], resident, prepared=prepared).records[0]
    other = run([small_spec(settings=TINY, seed=1)], resident, prepared=prepared).records[0]
    again = run([small_spec(settings=TINY)], resident, prepared=prepared).records[0]
    assert probes_of(first) == probes_of(again) != probes_of(other)


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


# what is recorded ----------------------------------------------------------------------------


def test_a_record_travels_as_json_and_old_ones_keep_their_ids() -> None:
    record = run([small_spec(settings=TINY)], small_data()).records[0]
    assert from_plain(TrialRecord, parse_json(canonical_json(record))) == record
    plain = run([small_spec()], small_data()).records[0]
    assert plain.probes is None
    assert b"probe" not in canonical_json(plain)


def test_a_diverged_trial_keeps_what_came_before() -> None:
    settings = with_settings(PROBED, probe_at=("0up", "2up", "6up", "9up"))
    blows = Decay(kind="multistep", at=("4up",), factor=1e38)
    record = run([small_spec(settings=settings, decay=blows)], small_data()).records[0]
    bad = record.first_bad_update
    assert record.outcome is Outcome.DIVERGED and bad is not None
    probes = probes_of(record)
    assert probes.updates == tuple(u for u in (0, 2, 6, 9) if u <= bad)
    assert len(probes.first_losses) == bad + 1 and not math.isfinite(probes.first_losses[-1])
    assert len(probes.lr) == len(probes.sharpness) == len(probes.noise_trace)
    first = probes.sharpness[0]
    assert first is not None and math.isfinite(first)


def test_only_what_is_asked_for() -> None:
    settings = with_settings(SMALL, probes=("first-losses",))
    ran = run([small_spec(settings=settings)], small_data())
    probes = probes_of(ran.records[0])
    losses = [float(f"{x:.6g}") for x in ran.losses[:, 0].tolist()]
    assert probes == Probes(first_losses=tuple(losses)) and len(losses) == 12
    assert not any(name.startswith("probe") for name in ran.prepared.loop.logs)


# where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "update"),
    [("0up", 0), ("7up", 7), ("1ep", 4), ("1.1ep", 5), ("25ex", 3), ("50%", 6), ("30%", 4)],
)
def test_places_of_a_run(text: str, update: int) -> None:
    timeline = timeline_of(small_spec(), 40)  # 12 updates of 10 examples
    assert update_at(timeline, text) == update
    position = {"ep": 40, "ex": 1}.get(parse_duration(text).unit)
    if position:
        wanted = parse_duration(text).value * position
        assert timeline.position(update) >= wanted > timeline.position(update - 1)


def test_usual_places_lie_inside_of_the_run_and_sharpness_is_rare() -> None:
    found = points(small_spec(settings=PROBED), 40)
    assert found.every == (0, 1, 3, 4, 11) and found.sharpness == (0, 3)
    whole = with_settings(PROBED, remainder="drop")
    article = points(small_spec(settings=whole, batch_size=128, budget="100ep"), 50_000)
    assert article.every == (0, 1, 4, 16, 3900, 9750, 19500, 35100)
    assert article.sharpness == (0, 16, 9750)
    cheap = points(small_spec(settings=with_settings(SMALL, probes=("noise-scale",))), 40)
    assert cheap.sharpness == ()


def test_sizes() -> None:
    assert [examples_of_a_probe(n) for n in (40, 1437, 50_000)] == [8, 32, 256]
    assert CLASSES == 4
