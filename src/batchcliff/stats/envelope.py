"""Where a falling curve on a log2 grid of batch sizes crosses a threshold. Pure arrays.

Shapes: D draws (or 1 for the data themselves), K batch sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def monotone_envelope(means_DK: Array) -> Array:
    """Closest non-increasing curves in least squares (equal weights), float64 [D, K].

    Isotonic regression by the min-max formula (Barlow et al. 1972, Statistical Inference
    under Order Restrictions, eq. 1.9): g_k = min over i <= k of max over j >= k of the
    average of means i..j. A curve that falls already is returned unchanged.
    """
    draws, sizes = means_DK.shape
    sums_KD = np.zeros((sizes + 1, draws))  # sizes first: long rows are what numpy is fast at
    np.cumsum(means_DK.T, axis=0, out=sums_KD[1:])
    envelope_KD = np.full((sizes, draws), np.inf)
    for i in range(sizes):
        best_D = np.full(draws, -np.inf)
        for j in range(sizes - 1, i - 1, -1):
            np.maximum(best_D, (sums_KD[j + 1] - sums_KD[i]) / (j + 1 - i), out=best_D)
            np.minimum(envelope_KD[j], best_D, out=envelope_KD[j])
    return envelope_KD.T


def plateau(means_DK: Array) -> Array:
    """Level of the envelope at the smallest batch size, [D]: the best running mean.

    Equal to the largest of mean(m_1), mean(m_1, m_2), ..., mean(m_1 .. m_K).
    """
    counts = np.arange(1, means_DK.shape[1] + 1)
    best: Array = np.max(np.cumsum(means_DK, axis=1) / counts, axis=1)
    return best


def crossing(falling_DK: Array, threshold_D: Array, log2_K: Array) -> Array:
    """Largest log2 batch size at which the interpolated curve is still >= threshold, [D].

    `falling_DK` is non-increasing along K; between grid points it is linear in log2 B.
    -inf: below the threshold already at the first size; +inf: not below it at the last.
    """
    sizes = falling_DK.shape[1]
    above = np.sum(falling_DK >= threshold_D[:, None], axis=1)
    right = np.clip(above, 1, max(sizes - 1, 1))
    left = right - 1
    right = np.minimum(right, sizes - 1)
    high = np.take_along_axis(falling_DK, left[:, None], axis=1)[:, 0]
    low = np.take_along_axis(falling_DK, right[:, None], axis=1)[:, 0]
    drop = np.where(high > low, high - low, 1.0)
    share = np.clip((high - threshold_D) / drop, 0.0, 1.0)
    inside = log2_K[left] + share * (log2_K[right] - log2_K[left])
    return np.where(above == 0, -np.inf, np.where(above == sizes, np.inf, inside))
