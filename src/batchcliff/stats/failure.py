"""How likely a trial fails at each batch size: a logistic in log2 B, with its posterior.

P(fail at B) = stray + (1 - stray) / (1 + exp(-(log2 B - midpoint) / width)): `stray` is the
share of trials that fail at any batch size, and the collapse cliff is where half fail. With
three seeds a cell, maximum likelihood is at infinity in most studies (one batch size has no
failure, the next nothing else), so the posterior is integrated on a grid instead;
docs/statistics.md says which prior and how the intervals cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from batchcliff.stats.noise import uniforms

Array = NDArray[np.float64]

BEYOND = 2.0  # octaves by which the midpoint may lie outside of the grid; prior: uniform
MIDPOINTS = 16  # points of the integral per octave
WIDTHS = (0.02, 1.5)  # octaves; prior density in log width: width**WIDTH_POWER
WIDTH_POWER = 0.5  # chosen by simulation among 0 .. 1: see docs/statistics.md
WIDTH_POINTS = 20
WIDTHS_ALIKE = 0.8  # two arms' widths differ by this log-normal standard deviation
STRAY = (0.0, 0.02, 0.06, 0.15)  # shares that fail at any batch size, equal in all arms
STRAY_PRIOR = (0.7, 0.1, 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class FailureDraws:
    """Posterior draws: `half` where half fail, in log2 B; `share` that fail at each size."""

    half: Array  # [D]
    share: Array  # [D, K]


@dataclass(frozen=True, slots=True)
class Counts:
    """`fails[k]` of `trials[k]` at `log2_sizes[k]`: one arm."""

    log2_sizes: tuple[float, ...]
    fails: tuple[int, ...]
    trials: tuple[int, ...]


def _width_grid() -> Array:
    """Middles of equal steps in log width, [W]."""
    steps = (np.arange(WIDTH_POINTS) + 0.5) / WIDTH_POINTS
    widths: Array = WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** steps
    return widths


@lru_cache(maxsize=64)
def _prior_grid(log2_sizes: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """midpoints [M], log P(fail) and log P(stand) [M, W, E, K]."""
    x, stray_E = np.array(log2_sizes), np.array(STRAY)
    span = x[-1] - x[0] + 2 * BEYOND
    points = round(span * MIDPOINTS) + 1
    midpoints = np.linspace(x[0] - BEYOND, x[-1] + BEYOND, points)
    z = (x - midpoints[:, None, None, None]) / _width_grid()[:, None, None]
    log_stand = np.log1p(-stray_E)[:, None] - np.logaddexp(0.0, z)
    with np.errstate(divide="ignore"):
        log_stray = np.log(stray_E)[:, None]
    log_fail = np.logaddexp(log_stray, np.log1p(-stray_E)[:, None] - np.logaddexp(0.0, -z))
    return midpoints, log_fail, log_stand


@lru_cache(maxsize=4096)
def _posterior(counts: Counts) -> tuple[Array, Array]:
    """Likelihood of (width, stray) with the midpoint integrated out [W, E], and the
    midpoint's cumulative given them [W * E, M]."""
    _, log_fail, log_stand = _prior_grid(counts.log2_sizes)
    f, n = (np.array(c, dtype=np.float64) for c in (counts.fails, counts.trials))
    log_like = log_fail @ f + log_stand @ (n - f)
    cumulative: Array = np.cumsum(np.exp(log_like - log_like.max()), axis=0)
    total: Array = cumulative[-1].copy()
    shares: Array = np.where(total > 0, cumulative / np.where(total > 0, total, 1.0), 1.0)
    return total, np.ascontiguousarray(shares.reshape(shares.shape[0], -1).T)


def _shape_weights(totals: Sequence[Array]) -> Array:
    """Posterior weight of the arms' widths and of their common stray share.

    One arm: [W, 1, E]. Two: [W, W, E], widths alike within `WIDTHS_ALIKE`, and the prior
    counted once: half of it by either width.
    """
    log_width = np.log(_width_grid())
    prior_E = np.array(STRAY_PRIOR)
    if len(totals) == 1:
        prior_W = np.exp(WIDTH_POWER * log_width)
        one: Array = (prior_W[:, None] * totals[0] * prior_E)[:, None, :]
        return one
    half_W = np.exp(WIDTH_POWER / 2 * log_width)
    alike = np.exp(-0.5 * ((log_width[:, None] - log_width) / WIDTHS_ALIKE) ** 2)
    alike *= half_W[:, None] * half_W
    weights: Array = alike[:, :, None] * totals[0][:, None, :] * totals[1][None] * prior_E
    return weights


def draw_failures(arms: Sequence[Counts], draws: int) -> list[FailureDraws]:
    """`draws` joint posterior draws for one arm or two.

    Stratified in the posterior's cumulative weight and spread over the grid's steps, so
    that quantiles are smooth in few draws.
    """
    found = [_posterior(counts) for counts in arms]
    weights = _shape_weights([total for total, _ in found])
    cumulative = np.cumsum(weights)
    place = np.searchsorted(cumulative, uniforms(draws, 0) * cumulative[-1])
    first, second, stray = np.unravel_index(place.clip(0, weights.size - 1), weights.shape)
    widths, stray_D = _width_grid(), np.array(STRAY)[stray]
    out = []
    for i, (counts, width) in enumerate(zip(arms, (first, second), strict=False)):
        midpoint_SM = found[i][1]
        midpoints = _prior_grid(counts.log2_sizes)[0]
        shape = width * len(STRAY) + stray
        # one search for all shapes: row s of the cumulative is raised by s
        raised = (midpoint_SM + np.arange(len(midpoint_SM))[:, None]).ravel()
        place = np.searchsorted(raised, shape + uniforms(draws, 1, i) * (1 - 1e-9))
        midpoint = midpoints[(place - shape * midpoints.size).clip(0, midpoints.size - 1)]
        midpoint = midpoint + (midpoints[1] - midpoints[0]) * (uniforms(draws, 2, i) - 0.5)
        z_KD = (np.array(counts.log2_sizes)[:, None] - midpoint) / widths[width]
        logistic_KD = 1.0 / (1.0 + np.exp(-np.clip(z_KD, -500.0, 500.0)))
        share = (stray_D + (1 - stray_D) * logistic_KD).T
        half = midpoint + widths[width] * np.log((0.5 - stray_D) / 0.5)
        out.append(FailureDraws(half, share))
    return out
