"""Mixup: an update sees weighted means of two images, and their labels in the same shares.

Zhang et al. 2017 (1710.09412, section 2): image s x_i + (1 - s) x_j, loss s L(y_i) + (1 - s)
L(y_j), s ~ Beta(alpha, alpha). Here each example has its own share s, drawn on the host from
(seed, epoch, example), and the partner of an example is the next one of its batch, the first
one's of the last. Since each epoch's order is random, so is the pair; and since the share and
the order do not depend on the batch size, only the last pair of a batch does. The authors'
code draws one share and one random pairing an update.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchcliff.randomness import derive, uniform

# N examples, B batch, S stack

MIXUP_COLUMNS = 1  # the share, in units of 1 / UNITS
UNITS = 1 << 14  # a whole number fits into an int16, and 1 is reached
_QUANTILES = 1 << 14


@functools.lru_cache(maxsize=8)
def _quantiles(alpha: float) -> NDArray[np.int16]:
    """The middles of 16,384 equally likely parts of Beta(alpha, alpha), in units."""
    from scipy.special import betaincinv  # slow to import, and few trials need it

    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.rint(betaincinv(alpha, alpha, middles) * UNITS).astype(np.int16)


def share_draws(alpha: float, seed: int, epoch: int, num_examples: int) -> NDArray[np.int16]:
    """The share of each example in its own image, in units of 1 / UNITS, [N, 1].

    Rounding to whole units keeps the draws the same whatever the version of SciPy.
    """
    drawn = uniform(derive(seed, "augmentation", "mixup", epoch), num_examples)
    return _quantiles(alpha)[np.floor(drawn * _QUANTILES).astype(np.int64)][:, None]


def shares(draws_BS: Tensor) -> Tensor:
    """The drawn shares as numbers from 0 to 1, float32."""
    return draws_BS.float() / UNITS


def partners(values_B: Tensor) -> Tensor:
    """What belongs to each example's partner: the next of the batch, the first for the last."""
    return torch.roll(values_B, -1, 0)


def mixed(images_BCHW: Tensor, share_BS: Tensor) -> Tensor:
    """Images [B, S*C, H, W], each with its partner's, in the shares of its network."""
    channels = images_BCHW.shape[1] // share_BS.shape[1]
    share_BCHW = share_BS.repeat_interleave(channels, 1)[:, :, None, None]
    return share_BCHW * images_BCHW + (1 - share_BCHW) * partners(images_BCHW)
