"""The convolution of images with batch norm and ReLU, against NumPy's float64 definition."""

from __future__ import annotations

import copy
import importlib
from types import ModuleType
from typing import Any

import definition
import numpy as np
import pytest
import torch
from test_batch_norm_relu import EPS, TOLERANCE, error, wide
from torch import Tensor, nn

from batchcliff.kernels.layers import convolved_relu, is_thin
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, keep
from batchcliff.models.resnet import ResNet
from batchcliff.spec import BatchNorm

# torch's own warnings at its first use of a GPU are not ours
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::UserWarning:torch"
)
# (batch, image channels, output channels, height, width, groups): whole blocks and ragged ones
SHAPES = [(4, 3, 16, 6, 10, 2), (6, 3, 64, 8, 8, 3), (2, 1, 16, 5, 7, 1), (8, 2, 32, 8, 8, 8)]
SUMS = 1e-3  # of norms: x - mean enters a sum as bfloat16 on a GPU


@pytest.fixture(scope="module")
def thin(kernels: ModuleType) -> ModuleType:
    return importlib.import_module("batchcliff.kernels.thin_convolution")


def inputs(
    shape: Any, kind: torch.dtype, device: torch.device, seed: int
) -> tuple[Tensor, ...]:
    """Images in [0, 1], weights, scale and shift, and dy; exact as bfloat16."""
    rng = torch.Generator().manual_seed(seed)
    batch, depth, channels, height, width, _ = shape

    def last(tensor: Tensor) -> Tensor:
        return tensor.bfloat16().to(kind).contiguous(memory_format=torch.channels_last)

    images = last(torch.rand(batch, depth, height, width, generator=rng))
    conv = last(torch.randn(channels, depth, 3, 3, generator=rng) * 0.3).float()
    weight = torch.rand(channels, generator=rng) + 0.5
    bias = torch.randn(channels, generator=rng) * 0.3
    dy = last(torch.randn(batch, channels, height, width, generator=rng))
    return tuple(tensor.to(device) for tensor in (images, conv, weight, bias, dy))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twin_values_and_gradients(
    thin: ModuleType, device: torch.device, shape: Any, kind: torch.dtype
) -> None:
    images, conv, weight, bias, dy = inputs(shape, kind, device, 0)
    groups = shape[-1]
    parameters = [tensor.requires_grad_() for tensor in (conv, weight, bias)]
    y, mean, var = thin.thin_convolution(images, *parameters, groups, EPS)
    assert y.dtype == kind
    assert y.is_contiguous(memory_format=torch.channels_last)
    pixels, filters, *scales = wide(images, *parameters)
    x = definition.convolved(pixels, filters)
    expected, z, *statistics = definition.forward(x, *scales, groups, EPS, "none")
    dy = dy.masked_fill(torch.from_numpy(np.abs(z) < 1e-4).to(device), 0)
    gradients = torch.autograd.grad(y, parameters, dy)
    dx, *exact = definition.backward(wide(dy)[0], x, *scales, groups, EPS, "none")
    exact.insert(0, definition.convolution_gradient(dx, pixels, filters))
    assert error(y, expected) < TOLERANCE[kind]
    for ours, theirs in zip((mean, var), statistics, strict=True):
        assert error(ours, theirs) < 1e-5
    for ours, theirs in zip(gradients, exact, strict=True):
        assert error(ours, theirs) < SUMS
    mirrored = definition.convolved(pixels, filters[:, :, ::-1])
    wrong = definition.forward(mirrored, *scales, groups, EPS, "none")[0]
    assert error(y, wrong) > 10 * TOLERANCE[kind]
    unlike = definition.convolution_gradient(wide(dy)[0], pixels, filters)
    assert error(gradients[0], unlike) > 10 * SUMS


def test_a_bright_image_costs_no_digits(thin: ModuleType, device: torch.device) -> None:
    """Pixels of 100 with a deviation of 1/2: a variance right to 1e-4."""
    images, conv, weight, bias, _ = inputs((4, 3, 16, 8, 8, 2), torch.float32, device, 1)
    images = (images * 2 + 100).bfloat16().float()
    _, mean, var = thin.thin_convolution(images, conv, weight, bias, 2, EPS)
    pixels, filters, *scales = wide(images, conv, weight, bias)
    x = definition.convolved(pixels, filters)[
        :, :, 1:-1, 1:-1
    ]  # edges see zeros: a large variance
    _, _, inner_mean, _ = definition.forward(x, *scales, 2, EPS, "none")
    assert error(mean, inner_mean) > 1e-3  # the edges do count
    _, _, exact_mean, exact_var = definition.forward(
        definition.convolved(pixels, filters), *scales, 2, EPS, "none"
    )
    assert error(mean, exact_mean) < 1e-5
    assert error(var, exact_var) < 1e-4


def test_what_is_not_finite_stays_so(thin: ModuleType, device: torch.device) -> None:
    images, conv, weight, bias, _ = inputs((8, 3, 16, 4, 4, 2), torch.float32, device, 4)
    images[1, 2, 2, 2] = float("nan")
    with np.errstate(invalid="ignore"):  # the interpreter computes with NumPy
        y, mean, _ = thin.thin_convolution(images, conv, weight, bias, 2, EPS)
    assert y[:4].isnan().all()
    assert mean[0].isnan().all()
    assert y[4:].isfinite().all()


def test_equal_inputs_give_equal_bits_however_cut(
    thin: ModuleType, kernels: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, *parameters, dy = inputs((12, 3, 16, 6, 6, 3), torch.float32, device, 6)

    def results() -> list[Tensor]:
        y, mean, var = thin.thin_convolution(images, *parameters, 3, EPS)
        back = thin.thin_convolution_backward(dy, images, parameters[0], mean, var,
                                              *parameters[1:], EPS)  # fmt: skip
        assert not kernels._arrived(images.device).any()
        return [y, mean, var, *back]

    first = results()
    assert all(torch.equal(a, b) for a, b in zip(results(), first, strict=True))
    for rows, programs in ((16, 1), (64, 1000)):
        cut = thin.ThinTuning(rows=rows, programs=programs)
        for name in ("STATISTICS", "NORMALISE", "GRADIENT"):
            monkeypatch.setattr(thin, name, cut)
        for ours, expected in zip(results(), first, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "groups", "message"),
    [
        ((16, 3, 3, 3), 4, "a batch of 6 cannot be cut into 4 equal groups"),
        ((24, 3, 3, 3), 2, r"no kernels for a convolution of \[24, 3, 3, 3\]"),
        ((16, 3, 5, 5), 2, r"no kernels for a convolution of \[16, 3, 5, 5\]"),
    ],
)
def test_what_is_not_served_is_refused(
    thin: ModuleType, device: torch.device, shape: Any, groups: int, message: str
) -> None:
    images, ones = torch.zeros(6, 3, 4, 4, device=device), torch.ones(shape[0], device=device)
    with pytest.raises(ValueError, match=f"^{message}$"):
        thin.thin_convolution(
            images, torch.zeros(shape, device=device), ones, ones, groups, EPS
        )


def test_which_convolutions_are_thin() -> None:
    served = {(d, c) for d in range(5) for c in (8, 16, 48, 64, 128, 256) if is_thin(d, c)}
    assert served == {(d, c) for d in (1, 2, 3) for c in (16, 64, 128)}


def test_the_operators_say_what_they_are(thin: ModuleType, device: torch.device) -> None:
    """Shapes, types, layouts and gradients as torch.compile is told them."""
    images, *parameters, dy = inputs((4, 3, 16, 4, 6, 2), torch.bfloat16, device, 8)
    for tensor in parameters:
        tensor.requires_grad_()
    torch.library.opcheck(
        thin.thin_convolution,
        (images, *parameters, 2, EPS),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    with torch.no_grad():
        _, mean, var = thin.thin_convolution(images, *parameters, 2, EPS)
    conv, weight, bias = (tensor.detach() for tensor in parameters)
    torch.library.opcheck(thin.thin_evaluation, (images, conv, mean, var, weight, bias, EPS))
    torch.library.opcheck(
        thin.thin_convolution_backward, (dy, images, conv, mean, var, weight, bias, EPS)
    )


@pytest.mark.parametrize(("group", "shards"), [(3, 4), (3, 1), (12, 1)])
def test_twin_of_the_plain_layers(
    thin: ModuleType, device: torch.device, group: int, shards: int
) -> None:
    """Values, gradients, running statistics and evaluation, over three updates."""
    plain = nn.Module()
    plain.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    plain.norm = GhostBatchNorm2d(16, group, momentum=0.75, shards=shards)
    start = inputs((12, 3, 16, 4, 6, 1), torch.float32, device, 1)[1:4]
    with torch.no_grad():
        for parameter, value in zip(plain.parameters(), start, strict=True):
            parameter.copy_(value)
    plain.to(device, memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fused.norm.fused = fused.norm.convolves = True
    for seed in range(3):
        images, *_, dy = inputs((12, 3, 16, 4, 6, 1), torch.float32, device, seed)
        results = []
        for one in (fused, plain):
            later: list[Any] = []
            y = convolved_relu(one.conv, one.norm, images, pool="none", later=later)
            assert len(later) == (one is fused)
            keep(later)
            results.append(
                [y.float(), *torch.autograd.grad(y, list(one.parameters()), dy.to(y))]
            )
        for ours, theirs in zip(*results, strict=True):
            assert error(ours, wide(theirs)[0]) < 6e-3  # y is bfloat16 where it is fused
        torch.testing.assert_close(fused.norm.running_mean, plain.norm.running_mean)
        torch.testing.assert_close(fused.norm.running_var, plain.norm.running_var)
    fused.eval(), plain.eval()
    with torch.no_grad():
        for batch in (12, 8, 5):
            ours, theirs = (
                convolved_relu(one.conv, one.norm, images[:batch], pool="none", later=[])
                for one in (fused, plain)
            )
            assert error(ours, wide(theirs)[0]) < 6e-3


def networks(kind: type[Any], device: torch.device) -> list[Any]:
    """A plain one, and one that runs the kernels, of equal weights."""
    made = []
    for fused in (False, True):
        network = kind(
            widths=((16, 16), (16,)),
            image_channels=3,
            num_classes=4,
            batch_norm=BatchNorm(group="B/2", running="per-group"),
            batch_norm_group=4,
        )
        network.initialise("glorot-uniform", [3])
        for layer in network.relu_norms():
            layer.fused = layer.convolves = fused
        made.append(network.to(device, memory_format=torch.channels_last))
    return made


@pytest.mark.parametrize(("kind", "layers"), [(ConvNet, 3), (ResNet, 4)])
def test_twin_of_the_plain_networks(
    thin: ModuleType, device: torch.device, kind: type[Any], layers: int
) -> None:
    """Logits, running statistics and evaluation; gradients that no ReLU's kink can turn."""
    plain, fused = networks(kind, device)
    assert len(plain.relu_norms()) == layers
    images = inputs((8, 3, 16, 8, 8, 2), torch.float32, device, 5)[0]
    with torch.autocast(device.type, torch.bfloat16):
        ours, theirs = fused(images), plain(images)
        assert error(ours, wide(theirs)[0]) < 2e-2
        slope = torch.linspace(-1, 1, ours.numel(), device=device).view_as(ours)
        gradients = [
            torch.autograd.grad(y.float(), network.head.weight, slope)[0]
            for network, y in ((fused, ours), (plain, theirs))
        ]
        assert error(gradients[0], wide(gradients[1])[0]) < 2e-2
        for mine, reference in zip(fused.buffers(), plain.buffers(), strict=True):
            assert error(mine, wide(reference)[0]) < 2e-2
        fused.eval(), plain.eval()
        with torch.no_grad():
            assert error(fused(images), wide(plain(images))[0]) < 2e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [128, 1024])
def test_twin_in_float64_of_the_articles_shape(
    thin: ModuleType, device: torch.device, batch: int
) -> None:
    images, *parameters, dy = inputs((batch, 3, 64, 32, 32, 8), torch.bfloat16, device, 2)
    for tensor in parameters:
        tensor.requires_grad_()
    y = thin.thin_convolution(images, *parameters, 8, EPS)[0]
    ours = torch.autograd.grad(y, parameters, dy)
    exact = [tensor.detach().double().requires_grad_() for tensor in parameters]
    x = torch.nn.functional.conv2d(images.double(), exact[0], padding=1)
    hat = torch.cat([_standard(part) for part in x.split(batch // 8)])
    z = hat * exact[1][:, None, None] + exact[2][:, None, None]
    theirs = torch.autograd.grad(z.relu(), exact, dy.double())
    assert error(y, wide(z.relu())[0]) < 6e-3
    for mine, reference in zip(ours, theirs, strict=True):
        assert error(mine, wide(reference)[0]) < 5e-3


def _standard(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + EPS)
