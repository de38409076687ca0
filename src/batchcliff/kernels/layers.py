"""A convolution with the batch norm, ReLU and pooling behind it, by the kernels that serve it.

Importing this imports no Triton. The layers' own arithmetic, wherever no kernel serves them, is
in `batchcliff.models.ghost_batch_norm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from batchcliff.kernels.convolution import convolution, convolution_statistics, halves
from batchcliff.kernels.sweep import images_of_a_program, is_swept

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
    half: Tensor | None = None,
) -> Tensor:
    """`norm.relu(conv(x))` of a `GhostBatchNorm2d`, which see for `pool` and `later`.

    Where `norm.convolves`, a convolution of images runs as one operation with what follows, and
    others compute the gradient of their weights beside (batchcliff.kernels.convolution, also
    for `alone`). half: the convolution's weights from `halved`, if they are made already.
    """
    if not _convolves(conv, norm):
        y: Tensor = norm.relu(conv(x_BCHW), pool=pool, later=later)
        return y
    if _has_thin(conv, norm, x_BCHW, pool):
        return _thin(conv, norm, x_BCHW.to(torch.bfloat16), later)
    sweeps = norm.sweeps and is_swept(conv.in_channels, conv.out_channels, x_BCHW.shape[3])
    if sweeps or (torch.is_grad_enabled() and x_BCHW.requires_grad):
        if half is None:
            half = halves([conv.weight.detach()])[0]
        if sweeps and norm.training and _has_statistics(norm, x_BCHW, pool):
            return _swept(conv, norm, x_BCHW.to(torch.bfloat16), half, pool, later, alone)
        convolved = convolution(x_BCHW.to(torch.bfloat16), conv.weight, half, alone, sweeps)
    else:
        convolved = conv(x_BCHW)
    y = norm.relu(convolved, pool=pool, later=later)
    return y


def halved(layers: list[tuple[nn.Conv2d, Any]]) -> list[Tensor | None]:
    """For each convolution with its batch norm the weights that `convolved_relu` multiplies in
    training, or None where it makes none: all in one launch, since there are many of them."""
    taken = [
        torch.is_grad_enabled()
        and _convolves(conv, norm)
        and not is_thin(conv.in_channels, conv.out_channels)
        for conv, norm in layers
    ]
    weights = [conv.weight.detach() for (conv, _), t in zip(layers, taken, strict=True) if t]
    made = iter(halves(weights) if weights else [])
    return [next(made) if t else None for t in taken]


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


def _has_statistics(norm: Any, x_BCHW: Tensor, pool: str) -> bool:
    """Whether a swept convolution in training can bring its statistics along."""
    odd = pool == "2x2" and (x_BCHW.shape[2] % 2 or x_BCHW.shape[3] % 2)
    whole = not norm.group % images_of_a_program(x_BCHW.shape[3])
    return bool(norm.fused and whole and not odd and norm.is_served(x_BCHW))


def _swept(
    conv: nn.Conv2d,
    norm: Any,
    x: Tensor,
    half: Tensor,
    pool: str,
    later: list[Any],
    alone: bool,
) -> Tensor:
    from batchcliff.kernels.batch_norm_relu import batch_norm_relu_of

    groups = len(x) // norm.group
    y, mean_GC, var_GC = convolution_statistics(x, conv.weight, half, alone, groups)
    later.append((norm, mean_GC, var_GC, norm.group * x.shape[2] * x.shape[3]))
    made: Tensor = batch_norm_relu_of(
        y, mean_GC, var_GC, norm.weight, norm.bias, norm.eps, pool
    )
    return made


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
