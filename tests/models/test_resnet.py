"""The residual network: against plain torch layers, and as the identity at its start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from batchcliff.models import build
from batchcliff.models.network import normal
from batchcliff.models.resnet import Block, ResNet
from batchcliff.randomness import derive
from batchcliff.spec import BatchNorm, Model

NORM = BatchNorm(group="global", running="mean")
WIDTHS = ((8, 8), (16,), (24,))


def network(zero_gamma: bool = False, seed: int = 3, kind: str = "he-normal") -> ResNet:
    model = Model(name="resnet", widths=WIDTHS, init=kind, zero_gamma=zero_gamma)
    found = build(model, NORM, (12, 12, 3), 5, batch_norm_group=6)
    assert isinstance(found, ResNet)
    found.initialise(kind, [seed])
    return found


def images(batch: int = 6) -> Tensor:
    return torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-3).sqrt() * weight[:, None, None] + bias[:, None, None]


def plainly(net: ResNet, x: Tensor) -> Tensor:
    """The definition with functions only, shapes and strides written out."""
    p = dict(net.named_parameters())

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        return normalised(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = norm(conv(x, "stem"), "stem_norm").relu()
    for i, stride in enumerate((1, 1, 2, 2)):
        name = f"blocks.{i}"
        inner = norm(conv(x, f"{name}.conv1", stride), f"{name}.norm1").relu()
        inner = norm(conv(inner, f"{name}.conv2"), f"{name}.norm2")
        if stride == 2:
            x = norm(conv(x, f"{name}.shortcut.0", 2), f"{name}.shortcut.1")
        x = (inner + x).relu()
    assert x.shape[1:] == (24, 3, 3)
    return x.mean((2, 3)) @ p["head.weight"].t() + p["head.bias"]


def test_twin_forward() -> None:
    net = network(kind="glorot-uniform")
    torch.testing.assert_close(
        net(images())[:, 0], plainly(net, images()), rtol=1e-4, atol=1e-4
    )
    assert net(images()).shape == (6, 1, 5)


def test_with_zero_gamma_every_block_starts_as_the_identity() -> None:
    """Of what is positive: the last ReLU lets it pass. Without, none does."""
    x = images(6).abs()[:, :1].repeat(1, 8, 1, 1)
    for zero_gamma in (True, False):
        first = network(zero_gamma).blocks[0]
        assert isinstance(first, Block)
        assert torch.equal(first(x), x) == zero_gamma
    gammas = [b.norm2.weight for b in network(zero_gamma=True).blocks]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gammas)
    scales = [p for n, p in network(zero_gamma=True).named_parameters() if "norm1.weight" in n]
    assert all(torch.equal(s, torch.ones_like(s)) for s in scales)


def test_zero_gamma_trains_from_the_first_update_on() -> None:
    """A gamma of zero has a gradient, and through the shortcuts the stem has one too."""
    net = network(zero_gamma=True)
    F.cross_entropy(net(images())[:, 0], torch.arange(6) % 5).backward()
    block = net.blocks[0]
    assert isinstance(block, Block)
    for parameter in (block.norm2.weight, net.stem.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert block.conv1.weight.grad is not None
    assert block.conv1.weight.grad.abs().max() == 0  # until the gamma has moved


def test_he_normal() -> None:
    """The values from their seed, by hand; variance 2 / fan_in; the dense layer's 0.01."""
    net = network(seed=7)
    weight = net.blocks[3].conv2.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    stream = derive(7, "init", "blocks.3.conv2", "weight")
    expected = math.sqrt(2 / (24 * 9)) * normal(stream, weight.numel())
    torch.testing.assert_close(
        weight.detach().flatten(), torch.from_numpy(expected).float(), rtol=0, atol=1e-8
    )
    assert abs(float(weight.detach().std()) / math.sqrt(2 / (24 * 9)) - 1) < 0.03
    assert 0.008 < float(net.head.weight.detach().std()) < 0.012
    assert torch.equal(net.head.bias, torch.zeros(5))


def test_normal_numbers_are_normal() -> None:
    """Mean, variance, kurtosis and tail of 200,000, within 4 standard errors; no neighbours."""
    z = normal(derive(1, "z"), 200_000)
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / len(z))
    assert abs((np.abs(z) > 1.959964).mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / len(z))
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / math.sqrt(len(z))
    assert np.isfinite(normal(derive(2, "z"), 10_000)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_initialising_again_forgets_everything(seed: int) -> None:
    net, other = network(True, seed), network(True, 99)
    other(images())  # moves running statistics
    other.initialise("he-normal", [seed])
    pairs = zip(net.state_dict().items(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)


def test_a_narrow_strided_shortcut_has_its_gradients() -> None:
    """oneDNN's AVX2 code writes past its memory there (its issue 6035): wrong gradients, or a
    crash. In float64 it is not asked."""
    torch.manual_seed(0)
    for _ in range(10):
        block = Block(4, 8, 2, NORM, 6).train()
        twin = Block(4, 8, 2, NORM, 6).double().train()
        twin.load_state_dict(block.state_dict())
        x = torch.randn(6, 4, 12, 12).contiguous(memory_format=torch.channels_last)
        slope = torch.randn(6, 8, 6, 6)
        block(x).backward(slope)
        twin(x.double()).backward(slope.double())
        for mine, exact in zip(block.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None and exact.grad is not None
            torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=1e-3, atol=1e-3)
