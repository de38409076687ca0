"""Rectangles of an image blotted out: cutout and random erasing, as draws and device part.

Cutout (DeVries and Taylor 2017, 1708.04552, section 3): a square of fixed side, its centre
anywhere in the image, so that a part of it may lie outside; zeros inside. Here the image is
0..1, so zero is black, as in the padding of a crop; the authors' images have their mean
subtracted first, so theirs is the mean colour.

Random erasing (Zhong et al. 2017, 1708.04896, algorithm 1 and section 4): with a probability
p, a rectangle of 2% to 40% of the image's area, its height over its width from 0.3 to 1/0.3,
both uniform; inside, every value is drawn anew, from black to white in 256 levels. A rectangle
that is as high or as wide as the image is drawn again. The corner is uniform over the places
where the rectangle fits, as in the authors' code; their algorithm draws everything anew until
it fits, which favours small rectangles.

The draws of an example depend on (seed, epoch, example) alone. The device part has static
shapes and no branch on data.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchcliff.randomness import derive, integers, uniform

# N examples, B batch, H height, W width, C channel

CUTOUT_COLUMNS = 2  # row and column of the centre
ERASING_COLUMNS = 6  # top, left, height, width (0: nothing is erased), noise: high, low

AREA = (0.02, 0.4)  # s_l, s_h: shares of the image
ASPECT = (0.3, 1 / 0.3)  # r_1, 1/r_1: height over width
_ATTEMPTS = 10  # one in 27 rectangles of a square image is drawn again
_NOISE_BITS = 15  # of one column: an int16, and exact in float32 too


def cutout_draws(
    seed: int, epoch: int, num_examples: int, image_shape: tuple[int, int, int]
) -> NDArray[np.int16]:
    """The centre of each example's square, [N, 2]: uniform over the pixels (H, W, C)."""
    drawn = [
        integers(derive(seed, "augmentation", "cutout", epoch, axis), num_examples, size)
        for axis, size in enumerate(image_shape[:2])
    ]
    return np.stack(drawn, axis=1).astype(np.int16)


def cutout(pixels_BHWC: Tensor, draws_Bk: Tensor, side: int) -> Tensor:
    """The images with a square of `side` pixels set to 0; what lies outside is not there."""
    top_B, left_B = (draws_Bk.long() - side // 2).unbind(1)
    sides_B = torch.full_like(top_B, side)
    inside = _inside(pixels_BHWC, top_B, left_B, sides_B, sides_B)
    return torch.where(inside, torch.zeros_like(pixels_BHWC), pixels_BHWC)


def random_erasing_draws(
    probability: float,
    seed: int,
    epoch: int,
    num_examples: int,
    image_shape: tuple[int, int, int],
) -> NDArray[np.int16]:
    """What is erased of each example, [N, 6]; see ERASING_COLUMNS.

    The rectangle of an example is the same whatever the probability is.
    """
    high, wide, _ = image_shape

    def share(*purpose: int | str) -> NDArray[np.float64]:
        stream = derive(seed, "augmentation", "random-erasing", epoch, *purpose)
        return uniform(stream, num_examples)

    heights, widths = np.zeros((2, num_examples), np.int64)
    fits = np.zeros(num_examples, bool)
    for attempt in range(_ATTEMPTS):
        area = high * wide * (AREA[0] + (AREA[1] - AREA[0]) * share("area", attempt))
        aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * share("aspect", attempt)
        tall = np.rint(np.sqrt(area * aspect)).astype(np.int64).clip(1)
        broad = np.rint(np.sqrt(area / aspect)).astype(np.int64).clip(1)
        taken = ~fits & (tall < high) & (broad < wide)
        heights[taken], widths[taken] = tall[taken], broad[taken]
        fits |= taken
        if fits.all():  # the rows are independent: the others would not have changed
            break
    erased = fits & (share("whether") < probability)
    top = np.floor(share("top") * (high - heights + 1))
    left = np.floor(share("left") * (wide - widths + 1))
    noise = [
        integers(
            derive(seed, "augmentation", "random-erasing", epoch, "noise", part),
            num_examples,
            1 << _NOISE_BITS,
        )
        for part in range(2)
    ]
    columns = [top, left, heights * erased, widths * erased, *noise]
    return np.stack(columns, axis=1).astype(np.int16)


def random_erasing(pixels_BHWC: Tensor, draws_Bk: Tensor, white: float) -> Tensor:
    """The images with their rectangles filled with 256 levels from 0 to `white`."""
    top_B, left_B, high_B, wide_B, noise_high_B, noise_low_B = draws_Bk.long().unbind(1)
    inside = _inside(pixels_BHWC, top_B, left_B, high_B, wide_B)
    seed_B = (noise_high_B << _NOISE_BITS) + noise_low_B
    places = torch.arange(math.prod(pixels_BHWC.shape[1:]), device=pixels_BHWC.device)
    values = _mixed(_mixed(seed_B)[:, None] + places) & 255
    noise = values.view(pixels_BHWC.shape).float() * (white / 255)
    return torch.where(inside, noise, pixels_BHWC)


def _inside(
    pixels_BHWC: Tensor, top_B: Tensor, left_B: Tensor, high_B: Tensor, wide_B: Tensor
) -> Tensor:
    """Whether a pixel lies in its image's rectangle: bool [B, H, W, 1]."""
    _, height, width, _ = pixels_BHWC.shape
    y_BH = torch.arange(height, device=pixels_BHWC.device) - top_B[:, None]
    x_BW = torch.arange(width, device=pixels_BHWC.device) - left_B[:, None]
    rows_BH = (y_BH >= 0) & (y_BH < high_B[:, None])
    columns_BW = (x_BW >= 0) & (x_BW < wide_B[:, None])
    return (rows_BH[:, :, None] & columns_BW[:, None, :])[..., None]


def _mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits to 32 bits, of int64 values (C. Wellons, "Prospecting for Hash
    Functions", 2018: lowbias32). The second factor is 0x846CA68B - 2**32, which gives the
    same low 32 bits and no overflow of 63."""
    x = (x & 0xFFFFFFFF) ^ ((x & 0xFFFFFFFF) >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - (1 << 32))) & 0xFFFFFFFF
    return x ^ (x >> 16)
