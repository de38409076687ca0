"""Networks of other kinds than the article's, as a user would bring them: plain PyTorch.

Each maps images [B, C, H, W] in 0..1 to logits [B, K]. Written here, so that a benchmark
needs no more packages than batchcliff does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, C channel, H height, W width, T tokens, D width of a token, K classes


class Residual(nn.Module):
    """A residual block of ResNet (He et al. 2016, 1512.03385, figure 5): two 3x3
    convolutions, or with `bottleneck` 1x1, 3x3 and 1x1 to four times the channels."""

    def __init__(self, previous: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        last = 4 * channels if bottleneck else channels
        if bottleneck:
            sizes = [(previous, channels, 1, 1), (channels, channels, 3, stride),
                     (channels, last, 1, 1)]  # fmt: skip
        else:
            sizes = [(previous, channels, 3, stride), (channels, channels, 3, 1)]
        self.convolutions = nn.ModuleList(convolution(*size) for size in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _, out, _, _ in sizes)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or previous != last:
            self.shortcut = nn.Sequential(
                convolution(previous, last, 1, stride), nn.BatchNorm2d(last)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = x_BCHW
        for number, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            inner = norm(layer(F.relu(inner) if number else inner))
        return F.relu(inner + self.shortcut(x_BCHW))


def convolution(previous: int, channels: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(previous, channels, size, stride, size // 2, bias=False)


class ResNet(nn.Module):
    """blocks: of each stage, whose channels double from `width` on. large: with the stem of
    ImageNet's networks, which halves the image twice."""

    def __init__(
        self,
        image_channels: int,
        num_classes: int,
        *,
        blocks: tuple[int, ...],
        bottleneck: bool,
        large: bool,
        width: int = 64,
    ) -> None:
        super().__init__()
        stem: list[nn.Module] = [
            nn.Conv2d(image_channels, width, 7, 2, 3, bias=False)
            if large
            else convolution(image_channels, width, 3, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        if large:
            stem.append(nn.MaxPool2d(3, 2, 1))
        stages: list[nn.Module] = []
        previous = width
        for stage, count in enumerate(blocks):
            channels = width << stage
            for block in range(count):
                stride = 2 if stage and not block else 1
                stages.append(Residual(previous, channels, stride, bottleneck))
                previous = 4 * channels if bottleneck else channels
        self.features = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(previous, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x_BCHW))
        return logits


class Block(nn.Module):
    """A transformer block with the norms in front (Dosovitskiy et al. 2021, 2010.11929, figure
    1): attention, then two layers with GELU between. causal: no token sees a later one."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.all_three, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        batch, tokens, width = x_BTD.shape
        parts = self.all_three(self.norm1(x_BTD)).view(batch, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x_BTD = x_BTD + self.out(found.transpose(1, 2).reshape(batch, tokens, width))
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))


class ViT(nn.Module):
    """A vision transformer on patches of `patch` x `patch`; classes from the mean token."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
    ) -> None:
        super().__init__()
        height, wide, channels = shape
        tokens = (height // patch) * (wide // patch)
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BTD = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.norm(self.blocks(x_BTD)).mean(1))
        return logits


class Gpt(nn.Module):
    """A GPT on the image's bytes, one token a value, row by row (Chen et al. 2020, "Generative
    pretraining from pixels", section 2); classes from the last token, which has seen all."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
    ) -> None:
        super().__init__()
        height, wide, channels = shape
        self.token = nn.Embedding(256, width)
        self.place = nn.Parameter(0.02 * torch.randn(height * wide * channels, width))
        self.blocks = nn.Sequential(*(Block(width, heads, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        bytes_BT = (x_BCHW.permute(0, 2, 3, 1).flatten(1) * 255).round().long()
        x_BTD = self.blocks(self.token(bytes_BT) + self.place)
        logits: Tensor = self.head(self.norm(x_BTD[:, -1]))
        return logits
