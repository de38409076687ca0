"""Batch normalisation with statistics per group of examples, in Keras' terms.

Sources: Ioffe and Szegedy 2015 (1502.03167); groups: Hoffer et al. 2017 (1705.08741,
section 4, "ghost batch normalization"). The article ran on a TPU of 8 cores, each of which
normalised its own eighth of the batch and kept its own running statistics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, C channel, H height, W width, G groups, R kept running statistics


class GhostBatchNorm2d(nn.Module):
    """Normalises [B, C, H, W] with the statistics of each group of `group` examples.

    momentum: Keras' (running = momentum * running + (1 - momentum) * batch, once an update);
        the variance that is kept is unbiased, as in Keras' fused layer and in PyTorch, the
        one that normalises is biased.
    group: examples that share statistics; the batch must be a multiple of it. The first
        group holds the first `group` examples of the batch, and so on.
    shards: 1 keeps one running mean and variance, fed by the average over groups; R > 1
        keeps one per group (then the batch has exactly R groups), and evaluation normalises
        the r-th R-th of a batch with the r-th statistics.
    Statistics are computed in float32 whatever the input's type. Raises ValueError if a
    training batch is not a multiple of `group`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        group: int,
        *,
        eps: float = 1e-3,
        momentum: float = 0.99,
        shards: int = 1,
    ) -> None:
        super().__init__()
        self.group, self.eps, self.momentum, self.shards = group, eps, momentum, shards
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(shards, channels))
        self.register_buffer("running_var", torch.ones(shards, channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return self._evaluate(x_BCHW)
        batch = x_BCHW.shape[0]
        if batch % self.group:
            raise ValueError(f"a batch of {batch} is not a multiple of the group {self.group}")
        if batch == self.group and self.shards == 1:
            return self._one_group(x_BCHW)
        return self._groups(x_BCHW)

    def _one_group(self, x_BCHW: Tensor) -> Tensor:
        """All examples share statistics: PyTorch's own layer, whose momentum is 1 - ours."""
        return F.batch_norm(
            x_BCHW,
            self.running_mean[0],
            self.running_var[0],
            self.weight,
            self.bias,
            training=True,
            momentum=1 - self.momentum,
            eps=self.eps,
        )

    def _groups(self, x_BCHW: Tensor) -> Tensor:
        _, channels, height, width = x_BCHW.shape
        count = self.group * height * width
        x = x_BCHW.view(-1, self.group, channels, height, width).float()  # [G, n, C, H, W]
        var, mean = torch.var_mean(x, dim=(1, 3, 4), correction=0, keepdim=True)
        with torch.no_grad():
            unbiased = var * (count / max(count - 1, 1))
            self._keep(self.running_mean, mean.reshape(-1, channels))
            self._keep(self.running_var, unbiased.reshape(-1, channels))
        scale = torch.rsqrt(var + self.eps) * self.weight[:, None, None]
        y = (x - mean) * scale + self.bias[:, None, None]
        return y.flatten(0, 1).to(x_BCHW.dtype)

    def _keep(self, running_RC: Tensor, batch_GC: Tensor) -> None:
        if self.shards == 1:
            batch_GC = batch_GC.mean(0, keepdim=True)
        running_RC.mul_(self.momentum).add_(batch_GC, alpha=1 - self.momentum)

    def _evaluate(self, x_BCHW: Tensor) -> Tensor:
        scale_RC = torch.rsqrt(self.running_var + self.eps) * self.weight
        shift_RC = self.bias - self.running_mean * scale_RC
        if self.shards > 1:
            batch = x_BCHW.shape[0]
            shard_B = torch.arange(batch, device=x_BCHW.device) * self.shards // batch
            scale_RC, shift_RC = scale_RC[shard_B], shift_RC[shard_B]
        y = x_BCHW.float() * scale_RC[:, :, None, None] + shift_RC[:, :, None, None]
        return y.to(x_BCHW.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.weight.numel()}, group={self.group}, eps={self.eps}, "
            f"momentum={self.momentum}, shards={self.shards}"
        )
