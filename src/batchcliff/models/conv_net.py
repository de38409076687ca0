"""The article's network: blocks of conv-BN-ReLU, average pooling between them.

The widths of the article are three blocks of three 3x3 convolutions with 64, 128 and 256
channels: nine convolutions and one dense layer. `stack` networks of equal shape can be
trained side by side as one grouped network: on a CPU several small networks cost little
more than one. Slice s of every parameter's first dimension is network s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.randomness import derive, uniform
from batchcliff.spec import BatchNorm

# B batch, S stack, C channel, H height, W width, K classes


class ConvNet(nn.Module):
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
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i + 1 < len(self.blocks):
                x = F.avg_pool2d(x, 2)
        if self.stack == 1:
            logits_BK: Tensor = self.head(x.mean((2, 3)))
            return logits_BK.unsqueeze(1)
        # Sums whose order is the same however many networks lie side by side.
        features_BC = F.avg_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)
        features_SBF = features_BC.view(len(x), self.stack, -1).transpose(0, 1)
        weight_SFK = slices(self.head.weight, self.stack).transpose(1, 2)
        logits_SBK = torch.bmm(features_SBF, weight_SFK)
        bias_SK = self.head.bias.view(self.stack, -1)
        biased_SBK: Tensor = _AddBias.apply(logits_SBK, bias_SK)  # type: ignore[no-untyped-call]
        return biased_SBK.transpose(0, 1)

    @torch.no_grad()
    def initialise(self, kind: str, seeds: list[int]) -> None:
        """Fill network s of the stack from seeds[s]; batch norm to identity, in place.

        kind "glorot-uniform": U(-a, a), a = sqrt(6 / (fan_in + fan_out)), zero bias (Glorot
        and Bengio 2010, eq. 16; Keras' default). "torch": U(-1/sqrt(fan_in), 1/sqrt(fan_in))
        for weights and biases, PyTorch's default for convolutions and linear layers.
        """
        for name, module in self.named_modules():
            if isinstance(module, GhostBatchNorm2d):
                module.weight.fill_(1)
                module.bias.zero_()
                module.running_mean.zero_()
                module.running_var.fill_(1)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                for s, seed in enumerate(seeds):
                    _fill(module, name, kind, seed, s, self.stack)


class _AddBias(torch.autograd.Function):
    """[S, B, K] + [S, K]. The bias' gradient is summed along contiguous memory: PyTorch's
    own sum over B takes another order once S * K reaches a few vectors."""

    @staticmethod
    def forward(_: Any, logits_SBK: Tensor, bias_SK: Tensor) -> Tensor:
        return logits_SBK + bias_SK[:, None]

    @staticmethod
    def backward(_: Any, gradient_SBK: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_SBK, gradient_SBK.transpose(1, 2).contiguous().sum(2)


def slices(stacked: Tensor, stack: int) -> Tensor:
    """A view [S, ...] of a parameter whose first dimension holds S networks in turn."""
    return stacked.view(stack, -1, *stacked.shape[1:])


def _fill(
    module: nn.Conv2d | nn.Linear, name: str, kind: str, seed: int, s: int, stack: int
) -> None:
    weight = slices(module.weight, stack)[s]
    fan_in = weight[0].numel()
    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
    if kind == "glorot-uniform":
        bound, bias_bound = math.sqrt(6 / (fan_in + fan_out)), 0.0
    else:
        bound = bias_bound = 1 / math.sqrt(fan_in)
    parts = [(weight, bound, "weight")]
    if module.bias is not None:
        parts.append((slices(module.bias, stack)[s], bias_bound, "bias"))
    for tensor, limit, part in parts:
        drawn = uniform(derive(seed, "init", name, part), tensor.numel())
        values = torch.from_numpy((2 * drawn - 1) * limit).to(torch.float32)
        tensor.copy_(values.reshape(tensor.shape))
