"""How likely a trial fails at each batch size: a logistic in log2 B, with its posterior.

P(fail at B) = 1 / (1 + exp(-(log2 B - midpoint) / width)); the midpoint is the collapse
cliff. With three seeds a cell, maximum likelihood is at infinity in most studies (some
batch size has no failure, the next has nothing else), so the posterior is integrated on a
grid instead; docs/statistics.md says which prior and how it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BEYOND = 2.0  # octaves by which the midpoint may lie outside of the grid; prior: uniform
MIDPOINTS = 24  # points of the integral per octave
WIDTHS = (0.02, 1.5)  # octaves; prior density in log width: width**WIDTH_POWER
WIDTH_POWER = 0.5  # chosen by simulation among 0 .. 1: see docs/statistics.md
WIDTH_POINTS = 20


def _width_grid() -> Array:
    """Middles of equal steps in log width, [W]."""
    steps = (np.arange(WIDTH_POINTS) + 0.5) / WIDTH_POINTS
    widths: Array = WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** steps
    return widths


@dataclass(frozen=True, slots=True)
class FailureDraws:
    """Posterior draws: `midpoint` in log2 B, `share` the failure share at each size."""

    midpoint: Array  # [D]
    share: Array  # [D, K]


@dataclass(frozen=True, slots=True)
class Counts:
    """`fails[k]` of `trials[k]` at `log2_sizes[k]`: one arm."""

    log2_sizes: tuple[float, ...]
    fails: tuple[int, ...]
    trials: tuple[int, ...]


@lru_cache(maxsize=64)
def _prior_grid(log2_sizes: tuple[float, ...]) -> tuple[Array, Array, Array, Array]:
    """midpoints [M], widths [W], log P(fail) [M, W, K], log P(stand) [M, W, K]."""
    x = np.array(log2_sizes)
    span = x[-1] - x[0] + 2 * BEYOND
    midpoints = np.linspace(x[0] - BEYOND, x[-1] + BEYOND, round(span * MIDPOINTS) + 1)
    widths = _width_grid()
    z = (x - midpoints[:, None, None]) / widths[:, None]
    return midpoints, widths, -np.logaddexp(0.0, -z), -np.logaddexp(0.0, z)


@lru_cache(maxsize=4096)
def _posterior(counts: Counts) -> tuple[Array, Array]:
    """Marginal likelihood of each width [W], and the midpoint's cumulative given it [W, M]."""
    _, _, log_fail, log_stand = _prior_grid(counts.log2_sizes)
    f, n = (np.array(c, dtype=np.float64) for c in (counts.fails, counts.trials))
    log_like = log_fail @ f + log_stand @ (n - f)
    cumulative: Array = np.cumsum(np.exp(log_like - log_like.max()), axis=0).T
    total = cumulative[:, -1].copy()
    return total, cumulative / total[:, None]


def draw_failures(
    arms: Sequence[Counts], draws: int, rng: np.random.Generator
) -> list[FailureDraws]:
    """`draws` posterior draws for each arm, all with one width in common.

    Stratified in the posterior's cumulative weight and spread over the grid's steps, so
    that quantiles are smooth in few draws.
    """
    found = [_posterior(counts) for counts in arms]
    widths = _width_grid()
    weight = np.prod([total for total, _ in found], axis=0) * widths**WIDTH_POWER
    cumulative = np.cumsum(weight) / weight.sum()
    index = np.searchsorted(cumulative, _strata(draws, rng)).clip(0, WIDTH_POINTS - 1)
    width = widths[index]
    out = []
    for counts, (_, midpoint_WM) in zip(arms, found, strict=True):
        midpoints = _prior_grid(counts.log2_sizes)[0]
        step = midpoints[1] - midpoints[0]
        # one search for all widths: row w of the cumulative is shifted by w
        flat = (midpoint_WM + np.arange(WIDTH_POINTS)[:, None]).ravel()
        place = np.searchsorted(flat, index + _strata(draws, rng) * (1 - 1e-9))
        midpoint = midpoints[(place - index * midpoints.size).clip(0, midpoints.size - 1)]
        midpoint = midpoint + step * (rng.random(draws) - 0.5)
        z = (np.array(counts.log2_sizes) - midpoint[:, None]) / width[:, None]
        out.append(FailureDraws(midpoint, 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))))
    return out


def _strata(draws: int, rng: np.random.Generator) -> Array:
    """Uniforms in (0, 1), one in each of `draws` equal strata, in random order, [D]."""
    strata: Array = (rng.permutation(draws) + rng.random(draws)) / draws
    return strata
