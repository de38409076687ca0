"""Batch norm per group, ReLU and average pooling in float64 NumPy, from the definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def normal(x: Array, groups: int, eps: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(var + eps) of each group and channel; mean and variance [G, C]."""
    out = np.empty_like(x)
    size = len(x) // groups
    mean, var = np.empty((groups, x.shape[1])), np.empty((groups, x.shape[1]))
    for g in range(groups):
        for c in range(x.shape[1]):
            part = x[g * size : (g + 1) * size, c]
            mean[g, c] = part.sum() / part.size
            var[g, c] = ((part - mean[g, c]) ** 2).sum() / part.size
            out[g * size : (g + 1) * size, c] = (part - mean[g, c]) / np.sqrt(var[g, c] + eps)
    return out, mean, var


def forward(
    x: Array, weight: Array, bias: Array, groups: int, eps: float, pool: str
) -> tuple[Array, Array, Array, Array]:
    """y, z (before the ReLU), and each group's mean and variance."""
    hat, mean, var = normal(x, groups, eps)
    z = hat * weight[:, None, None] + bias[:, None, None]
    y = np.where(z > 0, z, 0)
    if pool == "2x2":
        y = (y[:, :, 0::2, 0::2] + y[:, :, 0::2, 1::2] + y[:, :, 1::2, 0::2]
             + y[:, :, 1::2, 1::2]) / 4  # fmt: skip
    if pool == "all":
        y = y.sum((2, 3)) / (y.shape[2] * y.shape[3])
    return y, z, mean, var


def backward(
    dy: Array, x: Array, weight: Array, bias: Array, groups: int, eps: float, pool: str
) -> tuple[Array, Array, Array]:
    """Gradients of sum(dy * y), by the chain of Ioffe and Szegedy 2015, section 3."""
    hat, mean, var = normal(x, groups, eps)
    z = hat * weight[:, None, None] + bias[:, None, None]
    if pool == "2x2":
        dy = dy.repeat(2, axis=2).repeat(2, axis=3) / 4
    if pool == "all":
        dy = np.broadcast_to(dy[:, :, None, None], x.shape) / (x.shape[2] * x.shape[3])
    dz = np.where(z > 0, dy, 0)
    dx, size = np.empty_like(x), len(x) // groups
    for g in range(groups):
        for c in range(x.shape[1]):
            at = (slice(g * size, (g + 1) * size), c)
            part, dhat = x[at], dz[at] * weight[c]
            off, count = part - mean[g, c], part.size
            dvar = (dhat * off).sum() * -0.5 * (var[g, c] + eps) ** -1.5
            dmean = -dhat.sum() / np.sqrt(var[g, c] + eps) - 2 * dvar * off.sum() / count
            dx[at] = dhat / np.sqrt(var[g, c] + eps) + 2 * dvar * off / count + dmean / count
    return dx, (dz * hat).sum((0, 2, 3)), dz.sum((0, 2, 3))


def _shifted(x: Array, down: int, right: int) -> Array:
    """x[.., h + down, w + right], 0 outside of the images."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def convolved(x: Array, w: Array) -> Array:
    """3x3, padding 1: out[b, o, h, w] = sum of w[o, i, r, s] x[b, i, h + r - 1, w + s - 1]."""
    out = np.zeros((len(x), len(w), *x.shape[2:]))
    for r in range(3):
        for s in range(3):
            out += np.einsum("bihw,oi->bohw", _shifted(x, r - 1, s - 1), w[:, :, r, s])
    return out


def convolution_gradient(dout: Array, x: Array, like: Array) -> Array:
    """Gradient of sum(dout * convolved(x, w)) with respect to w."""
    dw = np.zeros_like(like)
    for r in range(3):
        for s in range(3):
            dw[:, :, r, s] = np.einsum("bohw,bihw->oi", dout, _shifted(x, r - 1, s - 1))
    return dw
