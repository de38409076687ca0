"""The fused kernels against NumPy's float64 definition, and against the plain operations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import definition
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, keep

# torch's own warnings at its first use of a GPU are not ours
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::UserWarning:torch"
)
EPS = 1e-3
# (batch, channels, height, width, groups): whole blocks, ragged ones, odd sizes of groups
SHAPES = [
    (16, 64, 8, 8, 2),
    (6, 8, 6, 10, 3),
    (4, 512, 4, 4, 1),
    (24, 16, 10, 6, 8),
    (2, 128, 2, 2, 2),
]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 6e-3}  # of norms


def inputs(
    shape: tuple[int, int, int, int, int], kind: torch.dtype, device: torch.device, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations with a mean, a scale and a shift; channels-last, as convolutions give."""
    rng = torch.Generator().manual_seed(seed)
    batch, channels, height, width, _ = shape
    x = torch.randn(batch, channels, height, width, generator=rng) * 2 + 3
    weight = torch.rand(channels, generator=rng) + 0.5
    bias = torch.randn(channels, generator=rng) * 0.5
    x = x.to(kind).contiguous(memory_format=torch.channels_last)
    return x.to(device), weight.to(device), bias.to(device)


def wide(*tensors: Tensor) -> list[Any]:
    return [t.detach().double().cpu().numpy() for t in tensors]


def error(ours: Tensor, exact: Any) -> float:
    """Of the norm; infinite if anything is not finite."""
    (mine,) = wide(ours)
    assert mine.shape == exact.shape
    found = float(np.linalg.norm(mine - exact) / np.linalg.norm(exact))
    return found if np.isfinite(found) else float("inf")


def away_from_the_kink(dy: Tensor, z: Any, pool: str) -> Tensor:
    """dy, zero where rounding could decide on which side of 0 a z lies."""
    near = torch.from_numpy(np.abs(z) < 1e-4)
    if pool == "2x2":
        near = F.max_pool2d(near.float(), 2) > 0
    elif pool == "all":
        near = near.flatten(2).any(2)
    return dy.masked_fill(near.to(dy.device), 0)


@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twin_values_and_gradients(
    kernels: ModuleType, device: torch.device, shape: Any, kind: torch.dtype, pool: str
) -> None:
    x, weight, bias = inputs(shape, kind, device, 0)
    groups = shape[-1]
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    y, mean, var = kernels.batch_norm_relu(x, weight, bias, groups, EPS, pool)
    assert y.dtype == kind
    assert pool == "all" or y.is_contiguous(memory_format=torch.channels_last)
    assert not mean.requires_grad
    assert not var.requires_grad
    numbers = wide(x, weight, bias)
    expected, z, *statistics = definition.forward(*numbers, groups, EPS, pool)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=rng).to(kind).to(device)
    dy = away_from_the_kink(dy, z, pool)
    gradients = torch.autograd.grad(y, (x, weight, bias), dy)
    exact = definition.backward(*wide(dy), *numbers, groups, EPS, pool)
    assert error(y, expected) < TOLERANCE[kind]
    for ours, theirs in zip((mean, var), statistics, strict=True):
        assert error(ours, theirs) < TOLERANCE[torch.float32]
    for ours, theirs, limit in zip(gradients, exact, (kind, *[torch.float32] * 2), strict=True):
        assert error(ours, theirs) < TOLERANCE[limit]
    wrong = definition.forward(*numbers, 1 if groups > 1 else 2, EPS, pool)[0]
    assert error(y, wrong) > 2 * TOLERANCE[kind]


def test_a_large_mean_costs_no_digits(kernels: ModuleType, device: torch.device) -> None:
    """Mean 3,000 and deviation 1: a variance right to 1e-4; E[x^2] - E[x]^2 is not."""
    shape = (8, 16, 16, 16, 2)
    x, weight, bias = inputs(shape, torch.float32, device, 3)
    x = x / 2 + 3000
    _, mean, var = kernels.batch_norm_relu(x, weight, bias, 2, EPS, "none")
    _, _, exact_mean, exact_var = definition.forward(*wide(x, weight, bias), 2, EPS, "none")
    assert error(mean, exact_mean) < 1e-6
    assert error(var, exact_var) < 1e-4
    parts = x.view(2, 4, 16, 16, 16)
    naive = (parts * parts).mean((1, 3, 4)) - parts.mean((1, 3, 4)) ** 2
    assert error(naive, exact_var) > 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(
    kernels: ModuleType, device: torch.device, value: float
) -> None:
    """One bad value makes its group and channel NaN, and nothing else: a ReLU hides none."""
    x, weight, bias = inputs((8, 16, 4, 4, 2), torch.float32, device, 4)
    x[1, 5, 2, 2] = value
    with np.errstate(invalid="ignore"):  # the interpreter computes with NumPy
        y, mean, _ = kernels.batch_norm_relu(x, weight, bias, 2, EPS, "none")
    assert y[:4, 5].isnan().all()
    assert not mean[0, 5].isfinite()
    y[:4, 5] = 0
    assert y.isfinite().all()


def test_equal_inputs_give_equal_bits_and_leave_no_trace(
    kernels: ModuleType, device: torch.device
) -> None:
    x, weight, bias = inputs(SHAPES[0], torch.bfloat16, device, 5)
    first = kernels.batch_norm_relu(x, weight, bias, 2, EPS, "2x2")
    again = kernels.batch_norm_relu(x, weight, bias, 2, EPS, "2x2")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not kernels._arrived(x.device).any()
    sums = [
        kernels.batch_norm_relu_backward(first[0], x, *first[1:], weight, bias, EPS, "2x2")
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*sums, strict=True))
    assert not kernels._arrived(x.device).any()


def test_the_cut_into_programs_does_not_matter(
    kernels: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = inputs((12, 32, 6, 6, 3), torch.float32, device, 6)
    results = []
    for warps, loads, channels, programs in ((4, 4, 64, 4), (1, 4, 8, 1), (2, 8, 32, 1000)):
        cut = kernels.Tuning(warps=warps, loads=loads, channels=channels)
        monkeypatch.setattr(kernels, "REDUCE", cut)
        monkeypatch.setattr(kernels, "APPLY", cut)
        monkeypatch.setattr(kernels, "PER_PROCESSOR", programs)
        monkeypatch.setattr(kernels, "MERGED", 2 * warps)
        y, mean, var = kernels.batch_norm_relu(x, weight, bias, 3, EPS, "2x2")
        back = kernels.batch_norm_relu_backward(y, x, mean, var, weight, bias, EPS, "2x2")
        results.append((y, mean, var, *back))
    for other in results[1:]:
        for ours, first in zip(other, results[0], strict=True):
            torch.testing.assert_close(ours, first, rtol=1e-5, atol=1e-5)


def test_any_layout_is_taken(kernels: ModuleType, device: torch.device) -> None:
    x, weight, bias = inputs(SHAPES[1], torch.float32, device, 7)
    last = kernels.batch_norm_relu(x, weight, bias, 3, EPS, "none")[0]
    first = kernels.batch_norm_relu(x.contiguous(), weight, bias, 3, EPS, "none")[0]
    assert torch.equal(last, first)


@pytest.mark.parametrize(
    ("shape", "groups", "message"),
    [
        ((6, 8, 4, 4), 4, "a batch of 6 cannot be cut into 4 equal groups"),
        ((4, 12, 4, 4), 2, "12 channels: the kernels need a power of two"),
        ((4, 8, 5, 4), 2, "5 x 4 cannot be pooled by 2 x 2 without a rest"),
    ],
)
def test_what_is_not_served_is_refused(
    kernels: ModuleType, device: torch.device, shape: Any, groups: int, message: str
) -> None:
    x = torch.zeros(shape, device=device)
    ones = torch.ones(shape[1], device=device)
    with pytest.raises(ValueError, match=f"^{message}$"):
        kernels.batch_norm_relu(x, ones, ones, groups, EPS, "2x2")


def test_the_operators_say_what_they_are(kernels: ModuleType, device: torch.device) -> None:
    """Shapes, types, layouts and gradients as torch.compile is told them."""
    x, weight, bias = inputs(SHAPES[1], torch.float32, device, 8)
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    torch.library.opcheck(
        kernels.batch_norm_relu,
        (x, weight, bias, 3, EPS, "2x2"),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    with torch.no_grad():
        _, mean, var = kernels.batch_norm_relu(x, weight, bias, 3, EPS, "none")
    torch.library.opcheck(
        kernels.normalise_relu,
        (x.detach(), mean, var, weight.detach(), bias.detach(), EPS, "2x2"),
    )


@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
def test_with_statistics_that_are_known(
    kernels: ModuleType, device: torch.device, pool: str
) -> None:
    """The same bits as the operation that computes them, values and gradients."""
    leaves = [t.requires_grad_() for t in inputs(SHAPES[0], torch.bfloat16, device, 9)]
    x, weight, bias = leaves
    y, mean, var = kernels.batch_norm_relu(x, weight, bias, 2, EPS, pool)
    again = kernels.batch_norm_relu_of(x, mean, var, weight, bias, EPS, pool)
    assert torch.equal(y, again)
    dy = torch.linspace(-1, 1, y.numel(), device=device).view_as(y).to(y.dtype)
    theirs = torch.autograd.grad(y, leaves, dy)
    ours = torch.autograd.grad(again, leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.library.opcheck(
        kernels.batch_norm_relu_of,
        (x, mean, var, weight, bias, EPS, pool),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
def test_a_pair_of_launches_gives_the_bits_of_two(
    kernels: ModuleType, device: torch.device, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [
        t.requires_grad_() for t in inputs((64, 64, 16, 16, 8), torch.bfloat16, device, 9)
    ]

    def results() -> list[Tensor]:
        y, mean, var = kernels.batch_norm_relu(*leaves, 8, EPS, pool)
        dy = torch.linspace(-1, 1, y.numel(), device=device).view_as(y).to(y.dtype)
        return [y, mean, var, *torch.autograd.grad(y, leaves, dy)]

    paired = [results() for _ in range(20)]
    monkeypatch.setattr(kernels, "_pairs", lambda device: False)
    apart = results()
    for found in paired:
        assert all(torch.equal(a, b) for a, b in zip(found, apart, strict=True))


def layers(group: int, shards: int, device: torch.device) -> list[GhostBatchNorm2d]:
    """Two equal ones, the second fused."""
    made = []
    for fused in (False, True):
        layer = GhostBatchNorm2d(16, group, momentum=0.75, shards=shards)
        rng = torch.Generator().manual_seed(2)
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2, generator=rng)
            layer.bias.uniform_(-1, 1, generator=rng)
        layer.fused = fused
        made.append(layer.to(device))
    return made


@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
@pytest.mark.parametrize(("group", "shards"), [(3, 4), (3, 1), (12, 1)])
def test_twin_of_the_plain_layer(
    kernels: ModuleType, device: torch.device, group: int, shards: int, pool: str
) -> None:
    """Values, gradients, running statistics and evaluation, over three updates."""
    plain, fused = layers(group, shards, device)
    for seed in range(3):
        x = inputs((12, 16, 4, 6, 1), torch.float32, device, seed)[0].requires_grad_()
        ours, theirs = fused.relu(x, pool=pool), plain.relu(x, pool=pool)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        towards = torch.ones_like(ours)
        mine = torch.autograd.grad(ours, (x, fused.weight, fused.bias), towards)
        reference = torch.autograd.grad(theirs, (x, plain.weight, plain.bias), towards)
        for a, b in zip(mine, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fused.running_mean, plain.running_mean)
        torch.testing.assert_close(fused.running_var, plain.running_var)
    fused.eval(), plain.eval()
    with torch.no_grad():
        for batch in (12, 8, 5):
            torch.testing.assert_close(
                fused.relu(x[:batch], pool=pool),
                plain.relu(x[:batch], pool=pool),
                rtol=1e-5,
                atol=1e-5,
            )
        unlike = plain.relu(x + 1, pool=pool)
        assert not torch.allclose(fused.relu(x, pool=pool), unlike, atol=1e-2)


def test_statistics_may_be_kept_later(kernels: ModuleType, device: torch.device) -> None:
    at_once, later = layers(3, 4, device)[1], layers(3, 4, device)[1]
    x = inputs((12, 16, 4, 6, 1), torch.float32, device, 0)[0]
    at_once.relu(x)
    owed: list[Any] = []
    later.relu(x, later=owed)
    assert not later.running_mean.any()
    keep(owed)
    assert torch.equal(later.running_mean, at_once.running_mean)
    assert torch.equal(later.running_var, at_once.running_var)


def test_odd_sizes_are_pooled_as_pytorch_does(
    kernels: ModuleType, device: torch.device
) -> None:
    plain, fused = layers(3, 4, device)
    x = inputs((12, 16, 5, 7, 1), torch.float32, device, 0)[0]
    ours, theirs = fused.relu(x, pool="2x2"), plain.relu(x, pool="2x2")
    assert ours.shape[2:] == (2, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def float64_errors(
    kernels: ModuleType, device: torch.device, shape: Any, pool: str
) -> list[float]:
    """Errors of y and of the gradients in bfloat16, against the plain layer in float64."""
    batch, channels, *_, groups = shape
    x, weight, bias = inputs(shape, torch.bfloat16, device, 9)
    layer = GhostBatchNorm2d(channels, batch // groups).to(device).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = kernels.batch_norm_relu(*leaves, groups, EPS, pool)[0]
    dy = torch.randn_like(y)
    ours = (y, *torch.autograd.grad(y, leaves, dy))
    double_x = x.detach().double().requires_grad_()
    group_by_group = [  # the plain layer computes several groups in float32, one as it comes
        layer._one_group(part) for part in double_x.split(batch // groups)
    ]
    exact = F.relu(torch.cat(group_by_group))
    if pool != "none":
        exact = F.avg_pool2d(exact, 2) if pool == "2x2" else exact.mean((2, 3))
    gradients = torch.autograd.grad(exact, (double_x, layer.weight, layer.bias), dy.double())
    pairs = zip(ours, wide(exact, *gradients), strict=True)
    return [error(mine, theirs) for mine, theirs in pairs]


@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
def test_twin_in_float64(kernels: ModuleType, device: torch.device, pool: str) -> None:
    assert max(float64_errors(kernels, device, SHAPES[0], pool)) < 2e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pool", ["none", "2x2", "all"])
@pytest.mark.parametrize(
    "shape", [(1024, 64, 32, 32, 8), (128, 128, 16, 16, 8), (256, 256, 8, 8, 8)], ids=str
)
def test_twin_in_float64_of_the_articles_shapes(
    kernels: ModuleType, device: torch.device, shape: Any, pool: str
) -> None:
    assert max(float64_errors(kernels, device, shape, pool)) < 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_graph_repeats_it(kernels: ModuleType, device: torch.device) -> None:
    """Replays on new numbers in place, as often as one likes: the counters are back at 0."""
    x, weight, bias = inputs((128, 64, 32, 32, 8), torch.bfloat16, device, 10)
    kernels.batch_norm_relu(x, weight, bias, 8, EPS, "2x2")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = kernels.batch_norm_relu(x, weight, bias, 8, EPS, "2x2")
    for seed in (11, 12):
        x.copy_(inputs((128, 64, 32, 32, 8), torch.bfloat16, device, seed)[0])
        graph.replay()
        expected = kernels.batch_norm_relu(x, weight, bias, 8, EPS, "2x2")
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
