"""A residual network of basic blocks for small images.

Source: He et al. 2016 (1512.03385, section 4.2 and figure 5, left): two 3x3 convolutions a
block, batch norm after each, the sum before the last ReLU. A stage after the first begins
with a stride of 2 and, as everywhere where shapes differ, a 1x1 convolution with batch norm
on the shortcut (option B, table 2). The stem is one 3x3 convolution, as images are small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchcliff.kernels.layers import convolved_relu
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, Statistics, keep
from batchcliff.models.network import Network
from batchcliff.spec import BatchNorm

# B batch, C channel, H height, W width, K classes


class Block(nn.Module):
    """[B, C, H, W] -> [B, C', H/stride, W/stride]; starts as the identity with zero gamma."""

    def __init__(
        self, previous: int, channels: int, stride: int, batch_norm: BatchNorm, group: int
    ) -> None:
        super().__init__()
        self.conv1 = _conv(previous, channels, 3, stride)
        self.norm1 = _norm(channels, batch_norm, group)
        self.conv2 = _conv(channels, channels, 3, 1)
        self.norm2 = _norm(channels, batch_norm, group)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or previous != channels:
            self.shortcut = nn.Sequential(
                _Projection(previous, channels, 1, stride, bias=False),
                _norm(channels, batch_norm, group),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = _convolved(self.conv1, self.norm1, x_BCHW)
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x_BCHW))


class _Projection(nn.Conv2d):
    """A 1x1 convolution. On a CPU the images are thinned out before it, which is the same: for
    strided ones of few channels oneDNN's AVX2 code writes past its memory when it
    differentiates them (uxlfoundation/oneDNN issue 6035)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if x_BCHW.device.type != "cpu":
            return super().forward(x_BCHW)
        rows, columns = self.stride
        thin = x_BCHW[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)
        return F.conv2d(thin, self.weight)


class ResNet(Network):
    """Maps images [B, C, H, W] to logits [B, 1, K].

    widths: channels of each residual block, a tuple per stage. zero_gamma: the scale of each
    block's last batch norm starts at 0 (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        *,
        widths: tuple[tuple[int, ...], ...],
        image_channels: int,
        num_classes: int,
        batch_norm: BatchNorm,
        batch_norm_group: int,
        zero_gamma: bool = False,
    ) -> None:
        super().__init__()
        self.stack, self.zero_gamma = 1, zero_gamma
        previous = widths[0][0]
        self.stem = _conv(image_channels, previous, 3, 1)
        self.stem_norm = _norm(previous, batch_norm, batch_norm_group)
        blocks = []
        for stage, block_widths in enumerate(widths):
            for i, channels in enumerate(block_widths):
                stride = 2 if stage and i == 0 else 1
                blocks.append(Block(previous, channels, stride, batch_norm, batch_norm_group))
                previous = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(previous, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, 1, K]."""
        x = self.blocks(_convolved(self.stem, self.stem_norm, x_BCHW))
        logits_BK: Tensor = self.head(x.mean((2, 3)))
        return logits_BK.unsqueeze(1)

    def relu_norms(self) -> list[GhostBatchNorm2d]:
        """The layers that run as one operation with their ReLU (batchcliff.kernels): not those
        that a sum comes after."""
        return [self.stem_norm, *(b.norm1 for b in self.blocks if isinstance(b, Block))]

    @torch.no_grad()
    def initialise(self, kind: str, seeds: list[int]) -> None:
        """As every network; with `zero_gamma`, each block's last scale to 0."""
        super().initialise(kind, seeds)
        if self.zero_gamma:
            for block in self.blocks:
                assert isinstance(block, Block)
                block.norm2.weight.zero_()


def _convolved(conv: nn.Conv2d, norm: GhostBatchNorm2d, x_BCHW: Tensor) -> Tensor:
    """Convolution, batch norm and ReLU."""
    later: list[Statistics] = []
    y = convolved_relu(conv, norm, x_BCHW, pool="none", later=later)
    keep(later)
    return y


def _conv(previous: int, channels: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(previous, channels, size, stride, padding=size // 2, bias=False)


def _norm(channels: int, batch_norm: BatchNorm, group: int) -> GhostBatchNorm2d:
    shards = 1
    if batch_norm.running == "per-group":
        shards = int(str(batch_norm.group).removeprefix("B/"))
    return GhostBatchNorm2d(
        channels, group, eps=batch_norm.eps, momentum=batch_norm.momentum, shards=shards
    )
