"""The network: its shape, its initial weights, and stacks of it."""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchcliff.errors import UsageError
from batchcliff.models import MODELS, build
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.models.network import slices
from batchcliff.spec import BatchNorm, Model

MASK = 2**64 - 1
GLOBAL = BatchNorm(group="global", running="mean")
SMALL = Model(widths=((8,), (8, 16)))


def network(
    stack: int = 1, model: Model = SMALL, norm: BatchNorm = GLOBAL, group: int = 6
) -> ConvNet:
    return build(model, norm, (8, 8, 3), 5, batch_norm_group=group, stack=stack)


def splitmix(stream: int, index: int) -> int:
    """SplitMix64's value `index` in plain integers."""
    z = (stream + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def drawn(seed: int, name: str, part: str, count: int) -> list[float]:
    text = f"int:{seed}\x1fstr:init\x1fstr:{name}\x1fstr:{part}"
    stream = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return [(splitmix(stream, i) >> 11) / 2**53 for i in range(count)]


def bounds(weight: Tensor) -> tuple[float, float]:
    """Of Glorot's uniform, and of PyTorch's, from the definitions of the fans."""
    field = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * field, weight.shape[0] * field
    return math.sqrt(6 / (fan_in + fan_out)), 1 / math.sqrt(fan_in)


def layers(net: ConvNet) -> dict[str, nn.Conv2d | nn.Linear]:
    return {n: m for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


@pytest.mark.parametrize("kind", ["glorot-uniform", "torch"])
def test_twin_initial_weights(kind: str) -> None:
    """Every number of every layer from the seed and the layer's name, in plain integers."""
    net = network()
    net.initialise(kind, [7])
    assert list(layers(net)) == ["blocks.0.0", "blocks.1.0", "blocks.1.3", "head"]
    for name, layer in layers(net).items():
        glorot, torch_ = bounds(layer.weight)
        limit = glorot if kind == "glorot-uniform" else torch_
        values = [(2 * u - 1) * limit for u in drawn(7, name, "weight", layer.weight.numel())]
        expected = np.array(values).astype(np.float32).reshape(layer.weight.shape)
        assert np.array_equal(layer.weight.detach().numpy(), expected), name
    bias = net.head.bias.detach()
    if kind == "glorot-uniform":
        assert not bias.any()
    else:
        values = [(2 * u - 1) * bounds(net.head.weight)[1] for u in drawn(7, "head", "bias", 5)]
        assert bias.tolist() == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("kind", ["glorot-uniform", "torch"])
def test_bounds_and_variance(kind: str) -> None:
    """Uniform within its bounds, which it nearly reaches, and of variance bound^2 / 3."""
    net = build(Model(), BatchNorm(), (32, 32, 3), 10, batch_norm_group=16)
    net.initialise(kind, [0])
    deviations = {}
    for name, layer in layers(net).items():
        limit = bounds(layer.weight)[kind == "torch"]
        largest = float(layer.weight.detach().abs().max())
        assert 0.99 * limit < largest <= limit * (1 + 1e-6)
        count = layer.weight.numel()
        spread = 5 * math.sqrt(0.8 / count)  # relative sd of a variance of uniforms
        assert float(layer.weight.detach().var()) == pytest.approx(limit**2 / 3, rel=spread)
        assert abs(float(layer.weight.detach().mean())) < 5 * limit / math.sqrt(3 * count)
        deviations[name] = limit / math.sqrt(3)
    # SCIENCE.md, section 4: std of Keras and of PyTorch
    convolutions = ["blocks.0.0", "blocks.0.3", "blocks.1.0", "blocks.2.0"]
    expected = {
        "glorot-uniform": [".0576", ".0417", ".0340", ".0241"],
        "torch": [".1111", ".0241", ".0241", ".0170"],
    }[kind]
    assert [f"{deviations[n]:.4f}"[1:] for n in convolutions] == expected


def test_the_articles_network() -> None:
    net = build(Model(), BatchNorm(), (32, 32, 3), 10, batch_norm_group=16)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (3, 64), (64, 64), (64, 64), (64, 128), (128, 128), (128, 128),
        (128, 256), (256, 256), (256, 256),
    ]  # fmt: skip
    assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) for m in convolutions)
    norms = [m for m in net.modules() if isinstance(m, GhostBatchNorm2d)]
    assert {(m.eps, m.momentum, m.group, m.shards) for m in norms} == {(1e-3, 0.99, 16, 8)}
    # Nine convolutions without bias, a scale and a shift each, and the dense layer.
    weights = 9 * (3 * 64 + 64 * 64 * 2 + 64 * 128 + 128 * 128 * 2 + 128 * 256 + 256 * 256 * 2)
    norms_and_head = 2 * 3 * (64 + 128 + 256) + 256 * 10 + 10
    assert sum(p.numel() for p in net.parameters()) == weights + norms_and_head
    small = build(Model(), BatchNorm(), (32, 32, 3), 10, batch_norm_group=2)
    assert small(torch.zeros(16, 3, 32, 32)).shape == (16, 1, 10)


def plainly(net: ConvNet, x: Tensor) -> Tensor:
    """The same in evaluation, written out with torch.nn.functional."""
    for number, block in enumerate(net.blocks):
        for conv, norm in zip(block[0::3], block[1::3], strict=True):
            x = F.conv2d(x, conv.weight, padding=1)
            x = F.batch_norm(
                x, norm.running_mean[0], norm.running_var[0], norm.weight, norm.bias, eps=1e-3
            )
            x = F.relu(x)
        if number + 1 < len(net.blocks):
            x = F.avg_pool2d(x, 2)
    return F.linear(x.mean((2, 3)), net.head.weight, net.head.bias)


def test_twin_forward() -> None:
    net = network().eval()
    net.initialise("torch", [3])
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), plainly(net, x)[:, None])


@pytest.mark.parametrize("training", [True, False])
def test_a_stack_is_its_networks_side_by_side(training: bool) -> None:
    """Each network of the stack has the weights, logits and gradients that it has alone."""
    stack = network(3).train(training)
    stack.initialise("torch", [5, 6, 7])
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 3, 8, 8, generator=rng)  # [B, S, C, H, W]
    towards = torch.randn(6, 3, 5, generator=rng)
    logits = stack(x.flatten(1, 2))
    assert logits.shape == (6, 3, 5)
    ours = torch.autograd.grad((logits * towards).sum(), list(stack.parameters()))
    for s, seed in enumerate((5, 6, 7)):
        net = network().train(training)
        net.initialise("torch", [seed])
        for mine, theirs in zip(net.parameters(), stack.parameters(), strict=True):
            assert torch.equal(mine, slices(theirs, 3)[s])
        alone = net(x[:, s])
        torch.testing.assert_close(logits[:, s], alone[:, 0], rtol=1e-4, atol=1e-5)
        gradients = torch.autograd.grad(
            (alone[:, 0] * towards[:, s]).sum(), list(net.parameters())
        )
        for mine, theirs in zip(gradients, ours, strict=True):
            torch.testing.assert_close(slices(theirs, 3)[s], mine, rtol=1e-3, atol=1e-4)


def test_initialising_again_forgets_everything() -> None:
    net = network()
    net.initialise("glorot-uniform", [1])
    first = {k: v.clone() for k, v in net.state_dict().items()}
    addresses = [v.data_ptr() for v in net.state_dict().values()]
    with torch.no_grad():
        for value in net.state_dict().values():
            value.fill_(3)
    net.initialise("glorot-uniform", [1])
    assert all(torch.equal(v, first[k]) for k, v in net.state_dict().items())
    assert [v.data_ptr() for v in net.state_dict().values()] == addresses
    net.initialise("glorot-uniform", [2])
    assert not torch.equal(net.head.weight, first["head.weight"])


def test_shards_follow_the_settings() -> None:
    for norm, shards in [
        (BatchNorm(group="B/8", running="per-group"), 8),
        (BatchNorm(group="B/4", running="per-group"), 4),
        (BatchNorm(group="B/8", running="mean"), 1),
        (GLOBAL, 1),
        (BatchNorm(group=16, running="mean"), 1),
    ]:
        net = network(norm=norm)
        assert net.blocks[0][1].running_mean.shape == (shards, 8)  # type: ignore[index]


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    message = "model.name: unknown 'convnet'. Did you mean 'conv-net'? Known: conv-net, resnet."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        network(model=Model(name="convnet"))
    assert MODELS == ("conv-net", "resnet")
