"""The article's network: blocks of conv-BN-ReLU, average pooling between them.

The widths of the article are three blocks of three 3x3 convolutions with 64, 128 and 256
channels: nine convolutions and one dense layer. `stack` networks of equal shape can be
trained side by side as one grouped network: on a CPU several small networks cost little
more than one. Slice s of every parameter's first dimension is network s.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchcliff.kernels.layers import all_kernels, convolved_relu, halved
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d, Statistics, keep
from batchcliff.models.network import Network, slices
from batchcliff.spec import BatchNorm

# B batch, S stack, C channel, H height, W width, K classes


class ConvNet(Network):
    """Maps images [B, S*C, H, W] to logits [B, S, K] (S = `stack`, 1 unless told).

    Global average pooling and a dense layer follow the last block; 2x2 average pooling
    follows each other block.
    """

    def __init__(
        self,
        *,
        widths: tuple[tuple[int, ...], ...],
        image_channels: int,
        num_classes: int,
        batch_norm: BatchNorm,
        batch_norm_group: int,
        stack: int = 1,
    ) -> None:
        super().__init__()
        self.stack, self.num_classes = stack, num_classes
        self.last_pool = "all" if stack == 1 else "none"
        shards = 1
        if batch_norm.running == "per-group":
            shards = int(str(batch_norm.group).removeprefix("B/"))
        blocks, previous = [], image_channels
        for block_widths in widths:
            layers: list[nn.Module] = []
            for channels in block_widths:
                layers += [
                    nn.Conv2d(
                        previous * stack,
                        channels * stack,
                        3,
                        padding=1,
                        groups=stack,
                        bias=False,
                    ),
                    GhostBatchNorm2d(
                        channels * stack,
                        batch_norm_group,
                        eps=batch_norm.eps,
                        momentum=batch_norm.momentum,
                        shards=shards,
                    ),
                    nn.ReLU(),
                ]
                previous = channels
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(previous, num_classes * stack)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        statistics: list[Statistics] = []
        alone = True  # nothing but kernels so far
        half = iter(halved([pair for block in self.blocks for pair in _pairs(block)]))
        for i, block in enumerate(self.blocks):
            layers = _pairs(block)
            for at, (conv, norm) in enumerate(layers, 1):
                pool = "none"
                if at == len(layers):
                    pool = "2x2" if i + 1 < len(self.blocks) else self.last_pool
                whole = all_kernels(conv, norm, x, pool)
                x = convolved_relu(
                    conv, norm, x, pool=pool, later=statistics, alone=alone, half=next(half)
                )
                alone = alone and whole
        keep(statistics)
        if self.stack == 1:
            logits_BK: Tensor = self.head(x)
            return logits_BK.unsqueeze(1)
        # Sums whose order is the same however many networks lie side by side.
        features_BC = F.avg_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)
        features_SBF = features_BC.view(len(x), self.stack, -1).transpose(0, 1)
        weight_SFK = slices(self.head.weight, self.stack).transpose(1, 2)
        logits_SBK = torch.bmm(features_SBF, weight_SFK)
        bias_SK = self.head.bias.view(self.stack, -1)
        biased_SBK: Tensor = _AddBias.apply(logits_SBK, bias_SK)  # type: ignore[no-untyped-call]
        return biased_SBK.transpose(0, 1)

    def relu_norms(self) -> list[GhostBatchNorm2d]:
        """The layers that run as one operation with their ReLU: all (batchcliff.kernels)."""
        return [m for m in self.modules() if isinstance(m, GhostBatchNorm2d)]


def _pairs(block: nn.Module) -> list[tuple[nn.Conv2d, GhostBatchNorm2d]]:
    """A block's convolutions, each with its batch norm."""
    layers = list(block.children())  # convolution, batch norm, ReLU, and again
    pairs = []
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, GhostBatchNorm2d)
        pairs.append((conv, norm))
    return pairs


class _AddBias(torch.autograd.Function):
    """[S, B, K] + [S, K]. The bias' gradient is summed along contiguous memory: PyTorch's
    own sum over B takes another order once S * K reaches a few vectors."""

    @staticmethod
    def forward(_: Any, logits_SBK: Tensor, bias_SK: Tensor) -> Tensor:
        return logits_SBK + bias_SK[:, None]

    @staticmethod
    def backward(_: Any, gradient_SBK: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_SBK, gradient_SBK.transpose(1, 2).contiguous().sum(2)
