"""A convolution with the batch norm, ReLU and pooling behind it, by the kernels that serve it.

Importing this imports no Triton. The layers' own arithmetic, wherever no kernel serves them, is
in `batchcliff.models.ghost_batch_norm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from batchcliff.kernels.convolution import convolution

SERVED = {
    "kernel_size": (3, 3),
    "stride": (1, 1),
    "padding": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
    "bias": None,
    "padding_mode": "zeros",
}


def is_thin(channels: int, outputs: int) -> bool:
    """Whether `batchcliff.kernels.thin_convolution` has a convolution of so many channels."""
    return 1 <= channels <= 3 and 16 <= outputs <= 128 and not outputs & (outputs - 1)


def convolved_relu(
    conv: nn.Conv2d,
    norm: Any,
    x_BCHW: Tensor,
    *,
    pool: str,
    later: list[Any],
    alone: bool = False,
) -> Tensor:
    """`norm.relu(conv(x))` of a `GhostBatchNorm2d`, which see for `pool` and `later`.

    Where `norm.convolves`, a convolution of images runs as one operation with what follows, and
    others compute the gradient of their weights beside (batchcliff.kernels.convolution, also
    for `alone`).
    """
    if not _convolves(conv, norm):
        y: Tensor = norm.relu(conv(x_BCHW), pool=pool, later=later)
        return y
    if _has_thin(conv, norm, x_BCHW, pool):
        return _thin(conv, norm, x_BCHW.to(torch.bfloat16), later)
    if torch.is_grad_enabled() and x_BCHW.requires_grad:
        convolved = convolution(x_BCHW.to(torch.bfloat16), conv.weight, alone)[0]
    else:
        convolved = conv(x_BCHW)
    y = norm.relu(convolved, pool=pool, later=later)
    return y


def all_kernels(conv: nn.Conv2d, norm: Any, x_BCHW: Tensor, pool: str) -> bool:
    """Whether `convolved_relu` of these runs kernels of ours and nothing else."""
    if not _convolves(conv, norm):
        return False
    if _has_thin(conv, norm, x_BCHW, pool):
        return True
    odd = pool == "2x2" and (x_BCHW.shape[2] % 2 or x_BCHW.shape[3] % 2)
    ours = x_BCHW.requires_grad and x_BCHW.dtype == torch.bfloat16
    return bool(norm.fused and ours and not odd and norm.is_served(x_BCHW))


def _convolves(conv: nn.Conv2d, norm: Any) -> bool:
    return norm.convolves and all(getattr(conv, name) == v for name, v in SERVED.items())


def _has_thin(conv: nn.Conv2d, norm: Any, x_BCHW: Tensor, pool: str) -> bool:
    thin = is_thin(conv.in_channels, conv.out_channels) and not x_BCHW.requires_grad
    return bool(thin and pool == "none" and norm.is_served(x_BCHW))


def _thin(conv: nn.Conv2d, norm: Any, images: Tensor, later: list[Any]) -> Tensor:
    from batchcliff.kernels.thin_convolution import thin_convolution, thin_evaluation

    if not norm.training:
        evaluated: Tensor = thin_evaluation(
            images, conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias,
            norm.eps,
        )  # fmt: skip
        return evaluated
    groups = len(images) // norm.group
    y: Tensor
    y, mean_GC, var_GC = thin_convolution(
        images, conv.weight, norm.weight, norm.bias, groups, norm.eps
    )
    later.append((norm, mean_GC, var_GC, norm.group * images.shape[2] * images.shape[3]))
    return y
