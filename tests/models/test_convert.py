"""Ghost batch norm for any network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from batchcliff.errors import NoEffect
from batchcliff.models.convert import convert_ghost_batchnorm
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d


def network() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.01, momentum=0.3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), inner)


def images(batch: int = 8) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_layer_is_replaced_and_keeps_what_it_knew() -> None:
    plain = network()
    for _ in range(3):
        plain(images())
    expected = plain.eval()(images())
    plain.train()
    converted = convert_ghost_batchnorm(plain, 4)
    assert converted is plain
    kinds = [type(m) for m in converted.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(GhostBatchNorm2d) == 2
    deep = converted[3][1]
    assert (deep.group, deep.eps, deep.momentum, deep.training) == (4, 0.01, 0.7, True)
    torch.testing.assert_close(converted.eval()(images()), expected)


def test_one_group_is_what_it_was() -> None:
    """A group as large as the batch: outputs and running statistics of PyTorch's layer."""
    plain, ghost = network(), convert_ghost_batchnorm(network(), 8)
    torch.testing.assert_close(ghost(images()), plain(images()))
    torch.testing.assert_close(ghost[1].running_var[0], plain[1].running_var)


def test_groups_are_normalised_apart() -> None:
    """As the chunks of the batch alone, and not as the whole batch."""
    layer = convert_ghost_batchnorm(nn.BatchNorm2d(3), 4)
    x = images() * torch.arange(1, 9).view(8, 1, 1, 1)
    chunks = torch.cat([nn.BatchNorm2d(3)(part) for part in x.split(4)])
    torch.testing.assert_close(layer(x), chunks)
    assert not torch.allclose(layer(x), nn.BatchNorm2d(3)(x), atol=0.1)


def test_what_cannot_be_converted() -> None:
    with pytest.raises(NoEffect, match="has no BatchNorm2d layer"):
        convert_ghost_batchnorm(nn.Linear(3, 3), 4)
    with pytest.raises(ValueError, match="a group of 0 examples"):
        convert_ghost_batchnorm(network(), 0)
    for layer in (
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
    ):
        with pytest.raises(ValueError, match=r"^0: batch norm without weights or running"):
            convert_ghost_batchnorm(nn.Sequential(layer), 4)
    with pytest.raises(ValueError, match=r"^0: batch norm with momentum=None"):
        convert_ghost_batchnorm(nn.Sequential(nn.BatchNorm2d(3, momentum=None)), 4)


def test_a_layer_in_two_places_stays_one() -> None:
    """Of one parent and of two; its weights and statistics are shared afterwards, too."""
    shared = nn.BatchNorm2d(3)
    plain = nn.Sequential(shared, nn.ReLU(), shared, nn.Sequential(shared))
    converted = convert_ghost_batchnorm(plain, 4)
    assert type(converted[0]) is GhostBatchNorm2d
    assert converted[0] is converted[2] is converted[3][0]


class Activated(nn.BatchNorm2d):
    """As a library's batch norm with its activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_what_a_layer_has_beside_is_not_dropped_in_silence() -> None:
    with pytest.raises(ValueError, match=r"^0: Activated has a forward of its own"):
        convert_ghost_batchnorm(nn.Sequential(Activated(3)), 4)
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^0: batch norm with hooks"):
        convert_ghost_batchnorm(nn.Sequential(hooked), 4)
    frozen = nn.BatchNorm2d(3)
    frozen.weight.requires_grad_(False)
    ghost = convert_ghost_batchnorm(frozen, 4)
    assert (ghost.weight.requires_grad, ghost.bias.requires_grad) == (False, True)


def test_float64_stays_float64() -> None:
    """Against PyTorch's own layer of each group, to more digits than float32 has."""
    x, layer = images().double(), nn.BatchNorm2d(3).double()
    ghost = convert_ghost_batchnorm(nn.Sequential(nn.BatchNorm2d(3).double()), 4)
    expected = torch.cat([layer(part) for part in x.split(4)])
    torch.testing.assert_close(ghost(x), expected, rtol=1e-12, atol=1e-12)
    assert ghost[0].running_var.dtype == torch.float64
