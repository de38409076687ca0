"""Ghost batch norm against PyTorch's layer and against autograd of the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d

BATCH, CHANNELS, SIZE = 12, 5, 3


def images(seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, CHANNELS, SIZE, SIZE, generator=rng) * 3 + 1


def filled(layer: GhostBatchNorm2d) -> GhostBatchNorm2d:
    """With scales and shifts that are not 1 and 0."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2, generator=rng)
        layer.bias.uniform_(-1, 1, generator=rng)
    return layer


def definition(x: Tensor, weight: Tensor, bias: Tensor, group: int, eps: float) -> Tensor:
    """Each group by itself: minus its mean, over the root of its biased variance plus eps."""
    parts = []
    for part in x.split(group):
        mean = part.mean((0, 2, 3), keepdim=True)
        variance = ((part - mean) ** 2).mean((0, 2, 3), keepdim=True)
        normal = (part - mean) / (variance + eps).sqrt()
        parts.append(normal * weight[:, None, None] + bias[:, None, None])
    return torch.cat(parts)


@pytest.mark.parametrize("group", [2, 3, 6, 12])
@pytest.mark.parametrize("channels_last", [False, True])
def test_twin_values_and_gradients(group: int, channels_last: bool) -> None:
    """float64 autograd of the definition; 1e-5 in float32."""
    layer = filled(GhostBatchNorm2d(CHANNELS, group))
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = images().contiguous(memory_format=form).requires_grad_()
    towards = images(1)
    y = layer(x)
    ours = torch.autograd.grad((y * towards).sum(), (x, layer.weight, layer.bias))
    wide = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    expected = definition(*wide, group, layer.eps)
    theirs = torch.autograd.grad((expected * towards.double()).sum(), wide)
    assert not torch.allclose(expected, definition(*wide, 4, layer.eps), atol=1e-2)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=1e-5, atol=3e-5)


def test_one_group_equals_torch() -> None:
    """Output, gradient and running statistics of nn.BatchNorm2d over three updates."""
    ours = filled(GhostBatchNorm2d(CHANNELS, BATCH, momentum=0.8))
    theirs = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.2)
    theirs.load_state_dict(
        {"weight": ours.weight.detach(), "bias": ours.bias.detach()}, strict=False
    )
    for seed in range(3):
        torch.testing.assert_close(ours(images(seed)), theirs(images(seed)))
        torch.testing.assert_close(ours.running_mean[0], theirs.running_mean)
        torch.testing.assert_close(ours.running_var[0], theirs.running_var)
    torch.testing.assert_close(ours.eval()(images(7)), theirs.eval()(images(7)))
    assert not torch.allclose(ours(images(7)), ours.train()(images(7)), atol=1e-2)


def test_both_ways_of_one_group_agree() -> None:
    """The fast way and the way over groups, where they must: one group, kept as a shard."""
    fast, slow = (GhostBatchNorm2d(CHANNELS, BATCH, momentum=0.7) for _ in range(2))
    torch.testing.assert_close(fast(images()), slow._groups(images()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.running_mean, slow.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast.running_var, slow.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shards", [1, 4])
def test_running_statistics_by_hand(shards: int) -> None:
    layer = GhostBatchNorm2d(CHANNELS, 3, momentum=0.75, shards=shards)
    mean, var = torch.zeros(4, CHANNELS), torch.ones(4, CHANNELS)
    for seed in range(3):
        layer(images(seed))
        for g, part in enumerate(images(seed).split(3)):
            flat = part.transpose(0, 1).flatten(1)
            mean[g] = 0.75 * mean[g] + 0.25 * flat.mean(1)
            var[g] = 0.75 * var[g] + 0.25 * flat.var(1)  # unbiased
    if shards == 1:
        mean, var = mean.mean(0, keepdim=True), var.mean(0, keepdim=True)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-5, atol=1e-6)


def test_evaluation_leaves_statistics_and_uses_each_shards_own() -> None:
    layer = filled(GhostBatchNorm2d(CHANNELS, 3, shards=4))
    layer(images())
    layer.eval()
    before = layer.running_mean.clone(), layer.running_var.clone()
    for batch in (12, 7, 4, 1):
        x = images(3)[:batch]
        y = layer(x)
        for b in range(batch):
            r = b * 4 // batch
            scale = layer.weight / (layer.running_var[r] + 1e-3).sqrt()
            expected = (x[b] - layer.running_mean[r][:, None, None]) * scale[
                :, None, None
            ] + layer.bias[:, None, None]
            torch.testing.assert_close(y[b], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.running_mean, before[0])
    assert torch.equal(layer.running_var, before[1])


def test_half_precision_keeps_statistics_in_float32() -> None:
    wide, half = (GhostBatchNorm2d(CHANNELS, 3) for _ in range(2))
    x = images().bfloat16()
    y = half(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, wide(x.float()).bfloat16())
    assert half.running_mean.dtype == torch.float32
    torch.testing.assert_close(half.running_mean, wide.running_mean, rtol=0, atol=0)
    assert half.eval()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("group", [5, 8, 24])
def test_the_rest_of_a_batch_is_a_group_of_its_own(group: int) -> None:
    """12 images: each group as a layer of its own would have it; its share of the average."""
    layer, x = GhostBatchNorm2d(CHANNELS, group, momentum=0.75), images()
    y = layer(x)
    mean, var = torch.zeros(CHANNELS), torch.zeros(CHANNELS)
    for start in range(0, 12, group):
        part = x[start : start + group]
        alone = GhostBatchNorm2d(CHANNELS, len(part), momentum=0.0)
        torch.testing.assert_close(y[start : start + group], alone(part), rtol=1e-5, atol=1e-5)
        mean += alone.running_mean[0] * len(part) / 12
        var += alone.running_var[0] * len(part) / 12
    torch.testing.assert_close(layer.running_mean[0], 0.25 * mean)
    torch.testing.assert_close(layer.running_var[0], 0.75 + 0.25 * var)


def test_groups_that_cannot_be_are_refused() -> None:
    layer = GhostBatchNorm2d(CHANNELS, 8, shards=2)
    with pytest.raises(ValueError, match=r"^a batch of 12 is not a multiple of the group 8$"):
        layer(images())
    layer.eval()(images())  # evaluation takes any batch
    with pytest.raises(ValueError, match=r"^a batch of 9 in groups of 4 leaves a group of one"):
        GhostBatchNorm2d(CHANNELS, 4)(torch.randn(9, CHANNELS, 1, 1))
    GhostBatchNorm2d(CHANNELS, 4)(torch.randn(9, CHANNELS, 1, 2))


def test_it_says_what_it_is() -> None:
    layer = GhostBatchNorm2d(4, 16, eps=0.5, momentum=0.75, shards=8)
    assert repr(layer) == "GhostBatchNorm2d(4, group=16, eps=0.5, momentum=0.75, shards=8)"
