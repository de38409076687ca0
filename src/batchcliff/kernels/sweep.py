"""Which convolutions `batchcliff.kernels.sweep_passes` has, and how the work is cut up.

Importing this imports no Triton.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

CHANNELS = 64  # of the input and of the output
PIXELS = 256  # of a row of so many images that a program has at once
WARPS = 8
EXTRA = 3  # rows that take as long as what a program does before its first and after its last


def is_swept(channels: int, outputs: int, width: int) -> bool:
    """Whether there is a kernel for a 3x3 convolution of images so wide, on a Hopper GPU."""
    return channels == outputs == CHANNELS and 8 <= width <= 128 and not width & (width - 1)


def rows_of_a_program(batch: int, height: int, width: int, processors: int) -> int:
    """Rows of the output that one program makes: it reads one more at either end, so many are
    best, unless that leaves multiprocessors idle. Divides the height."""
    images = math.ceil(batch * width / PIXELS)

    def cost(rows: int) -> int:
        rounds = math.ceil(images * (height // rows) / processors)
        return rounds * (min(rows + 2, height) + EXTRA)

    return min((r for r in range(height, 0, -1) if height % r == 0), key=cost)


def images_of_a_program(width: int) -> int:
    """Examples whose rows one program has at once."""
    return PIXELS // width


def sweep(x_BCHW: Tensor, half_OCHW: Tensor, *, back: bool) -> Tensor:
    """The convolution, padding 1, of bfloat16 and channels-last tensors, on a Hopper GPU.

    back: x is the gradient of the convolution's output; the result is that of its input.
    """
    y, _ = _launched(x_BCHW, half_OCHW, back=back, groups=0)
    return y


def sweep_statistics(
    x_BCHW: Tensor, half_OCHW: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution, and mean and biased variance of the result in each of `groups` equal
    parts of the batch, float32 [G, C]. A program's images must be of one group."""
    y, (mean, var) = _launched(x_BCHW, half_OCHW, back=False, groups=groups)
    return y, mean, var


def _launched(
    x_BCHW: Tensor, half_OCHW: Tensor, *, back: bool, groups: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The result, and its statistics if there are groups."""
    from batchcliff.kernels.batch_norm_relu import MERGED, _arrived, _processors
    from batchcliff.kernels.sweep_passes import images_descriptor, sweep_kernel, taps_descriptor

    batch, channels, height, width = x_BCHW.shape
    images = images_of_a_program(width)
    y = torch.empty_like(x_BCHW, memory_format=torch.channels_last)
    rows = rows_of_a_program(batch, height, width, _processors(x_BCHW.device))
    grid = math.ceil(batch / images), height // rows
    each = grid[0] // groups if groups else 0
    new = functools.partial(torch.empty, dtype=torch.float32, device=x_BCHW.device)
    part = new(grid[0] * grid[1] if groups else 0, 2, channels)
    mean, var = new(groups, channels), new(groups, channels)
    sweep_kernel[grid](
        images_descriptor(x_BCHW, images), taps_descriptor(half_OCHW),
        images_descriptor(y, images), part, mean, var, _arrived(x_BCHW.device),
        height, rows, each,
        C=channels, W=width, IMAGES=images, BACK=back, STATISTICS=groups > 0, MERGED=MERGED,
        num_warps=WARPS,
    )  # fmt: skip
    return y, (mean, var)
