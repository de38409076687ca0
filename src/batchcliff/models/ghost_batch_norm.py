"""Batch normalisation with statistics per group of examples, in Keras' terms.

Sources: Ioffe and Szegedy 2015 (1502.03167); groups: Hoffer et al. 2017 (1705.08741,
section 4, "ghost batch normalization"). The article ran on a TPU of 8 cores, each of which
normalised its own eighth of the batch and kept its own running statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, C channel, H height, W width, G groups, R kept running statistics


class GhostBatchNorm2d(nn.Module):
    """Normalises [B, C, H, W] with the statistics of each group of `group` examples (Hoffer et
    al. 2017, 1705.08741, section 4).

    momentum: Keras' (running = momentum * running + (1 - momentum) * batch, once an update);
        the variance that is kept is unbiased, as in Keras' fused layer and in PyTorch, the
        one that normalises is biased.
    group: examples that share statistics. The first group holds the first `group` examples
        of the batch, and so on; a last, smaller group holds the rest, if there is one, and
        counts in the running statistics by its size.
    shards: 1 keeps one running mean and variance, fed by the average over groups; R > 1
        keeps one per group (then the batch has exactly R groups), and evaluation normalises
        the r-th R-th of a batch with the r-th statistics.
    Statistics are computed in float32, or in the input's float64. Raises ValueError for a
    training batch that is not a multiple of `group` where shards > 1, and for a group of one
    single value.
    fused: `relu` runs the Triton kernels of `batchcliff.kernels`; see `fused_batch_norm`.
    convolves: and `batchcliff.kernels.layers` runs the convolution before it by kernels too.
    sweeps: and where `batchcliff.kernels.sweep` has that convolution, by its kernel.
    normalise: `training.second_derivatives.batch_norm`, in place of PyTorch's operations in
        training, where groups are of equal size; running statistics stay as they are.
    """

    normalise: Callable[[Tensor, Tensor, Tensor, int, float], Tensor] | None = None
    fused: bool = False
    convolves: bool = False
    sweeps: bool = False
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
        rest = batch % self.group
        if rest and self.shards > 1:
            raise ValueError(f"a batch of {batch} is not a multiple of the group {self.group}")
        if rest and rest * x_BCHW.shape[2] * x_BCHW.shape[3] == 1:
            raise ValueError(
                f"a batch of {batch} in groups of {self.group} leaves a group of one value, "
                "which has no variance"
            )
        if rest:
            return self._with_rest(x_BCHW, rest)
        if self.normalise is not None:
            return self.normalise(x_BCHW, self.weight, self.bias, self.group, self.eps)
        if batch == self.group and self.shards == 1:
            return self._one_group(x_BCHW)
        return self._groups(x_BCHW)

    def relu(
        self, x_BCHW: Tensor, *, pool: str = "none", later: list[Statistics] | None = None
    ) -> Tensor:
        """This layer, ReLU and average pooling: one operation if `fused`.

        pool: "none"; "2x2"; or "all", the mean over each image, [B, C]. In training, what a
        fused layer's running statistics are to follow is appended to `later` if that is
        given; then the caller owes a `keep(later)`. The layers of a network are kept in a
        few launches so, not in some for each.
        """
        odd = pool == "2x2" and (x_BCHW.shape[2] % 2 or x_BCHW.shape[3] % 2)
        if not self.fused or odd or not self.is_served(x_BCHW):
            y = F.relu(self(x_BCHW))
            if pool == "all":
                return y.mean((2, 3))
            return F.avg_pool2d(y, 2) if pool == "2x2" else y
        from batchcliff.kernels.batch_norm_relu import batch_norm_relu, normalise_relu

        if not self.training:
            evaluated: Tensor = normalise_relu(
                x_BCHW,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.eps,
                pool,
            )
            return evaluated
        groups = len(x_BCHW) // self.group
        normal: tuple[Tensor, Tensor, Tensor] = batch_norm_relu(
            x_BCHW, self.weight, self.bias, groups, self.eps, pool
        )
        count = self.group * x_BCHW.shape[2] * x_BCHW.shape[3]
        statistics = (self, normal[1], normal[2], count)
        if later is None:
            keep([statistics])
        else:
            later.append(statistics)
        return normal[0]

    def is_served(self, x_BCHW: Tensor) -> bool:
        """Whether the kernels have this case: groups and shards of equal size, and gradients
        in training only. `fused_batch_norm` looks at the rest beforehand."""
        if self.training:
            return len(x_BCHW) % self.group == 0
        return not torch.is_grad_enabled() and len(x_BCHW) % self.shards == 0

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
        y_BCHW, mean_GC, unbiased_GC = self._normalised(x_BCHW, self.group)
        self.follow(mean_GC, unbiased_GC)
        return y_BCHW

    def follow(self, mean_GC: Tensor, unbiased_GC: Tensor) -> None:
        """Let the running statistics follow the means and unbiased variances of a batch's
        groups, once."""
        self._keep(self.running_mean, mean_GC)
        self._keep(self.running_var, unbiased_GC)

    def _with_rest(self, x_BCHW: Tensor, rest: int) -> Tensor:
        """As many whole groups as there are, and one of the `rest` examples left."""
        whole = x_BCHW.shape[0] - rest
        parts = [self._normalised(x_BCHW[whole:], rest)]
        if whole:
            parts.insert(0, self._normalised(x_BCHW[:whole], self.group))
        shares = torch.tensor(
            [self.group / x_BCHW.shape[0]] * (whole // self.group) + [rest / x_BCHW.shape[0]],
            device=x_BCHW.device,
        )
        for running, at in ((self.running_mean, 1), (self.running_var, 2)):
            values_GC = torch.cat([part[at] for part in parts])
            self._keep(running, (shares[:, None] * values_GC).sum(0, keepdim=True))
        return torch.cat([part[0] for part in parts])

    def _normalised(self, x_BCHW: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Values normalised by groups, and each group's mean and unbiased variance [G, C]."""
        _, channels, height, width = x_BCHW.shape
        count = group * height * width
        x = _wide(x_BCHW.view(-1, group, channels, height, width))  # [G, n, C, H, W]
        var, mean = torch.var_mean(x, dim=(1, 3, 4), correction=0, keepdim=True)
        scale = torch.rsqrt(var + self.eps) * self.weight[:, None, None]
        y = (x - mean) * scale + self.bias[:, None, None]
        with torch.no_grad():
            unbiased = var * (count / max(count - 1, 1))
        y_BCHW = y.flatten(0, 1).to(x_BCHW.dtype)
        return y_BCHW, mean.reshape(-1, channels).detach(), unbiased.reshape(-1, channels)

    def _keep(self, running_RC: Tensor, batch_GC: Tensor) -> None:
        if self.shards == 1:
            batch_GC = batch_GC.mean(0, keepdim=True)
        with torch.no_grad():
            running_RC.mul_(self.momentum).add_(batch_GC, alpha=1 - self.momentum)

    def _evaluate(self, x_BCHW: Tensor) -> Tensor:
        scale_RC = torch.rsqrt(self.running_var + self.eps) * self.weight
        shift_RC = self.bias - self.running_mean * scale_RC
        if self.shards > 1:
            batch = x_BCHW.shape[0]
            shard_B = torch.arange(batch, device=x_BCHW.device) * self.shards // batch
            scale_RC, shift_RC = scale_RC[shard_B], shift_RC[shard_B]
        y = _wide(x_BCHW) * scale_RC[:, :, None, None] + shift_RC[:, :, None, None]
        return y.to(x_BCHW.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.weight.numel()}, group={self.group}, eps={self.eps}, "
            f"momentum={self.momentum}, shards={self.shards}"
        )


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


Statistics = tuple[GhostBatchNorm2d, Tensor, Tensor, int]
"""A layer, its batch's means and biased variances [G, C], and the values in each of them."""


@torch.no_grad()
def keep(statistics: list[Statistics]) -> None:
    """Let running statistics follow those of a batch, as the layers do by themselves.

    One launch for all layers of the same momentum and size: they are tiny, and there are many.
    """
    by_share: dict[tuple[float, float], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for layer, mean_GC, var_GC, count in statistics:
        if layer.shards == 1:
            mean_GC, var_GC = mean_GC.mean(0, keepdim=True), var_GC.mean(0, keepdim=True)
        share = 1 - layer.momentum
        unbiased = share * (count / max(count - 1, 1))
        by_share[layer.momentum, share].append((layer.running_mean, mean_GC))
        by_share[layer.momentum, unbiased].append((layer.running_var, var_GC))
    for (momentum, share), pairs in by_share.items():
        running, batch = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        torch._foreach_mul_(running, momentum)
        torch._foreach_add_(running, batch, alpha=share)
