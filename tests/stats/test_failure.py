"""The posterior of the collapse's logistic, against quadrature done the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from batchcliff.stats.failure import (
    BEYOND,
    STRAY,
    STRAY_PRIOR,
    WIDTH_POWER,
    WIDTHS,
    Counts,
    draw_failures,
)

X = (5.0, 6.0, 7.0, 8.0)
MIXED = Counts(X, (0, 1, 2, 3), (3, 3, 3, 3))


def draws_of(*arms, draws=20_000):
    return draw_failures(arms, draws)


def integral(counts, power):
    """Integral of half**power times the posterior: the trapezoid rule, width by width."""
    x, f, n = (np.array(part) for part in (counts.log2_sizes, counts.fails, counts.trials))
    midpoints = np.linspace(x[0] - BEYOND, x[-1] + BEYOND, 1501)
    widths = np.geomspace(*WIDTHS, 301)
    at_width = []
    for width in widths:
        total = np.zeros_like(midpoints)
        for stray, prior in zip(STRAY, STRAY_PRIOR, strict=True):
            p = stray + (1 - stray) * expit((x - midpoints[:, None]) / width)
            half = midpoints + width * np.log((0.5 - stray) / 0.5)
            total += prior * half**power * np.prod(p**f * (1 - p) ** (n - f), axis=1)
        at_width.append(np.trapezoid(total, midpoints) * width**WIDTH_POWER)
    return np.trapezoid(at_width, np.log(widths))


def test_twin_posterior_moments_are_those_of_the_integral():
    total, first, second = (integral(MIXED, power) for power in (0, 1, 2))
    mean = first / total
    (drawn,) = draws_of(MIXED)
    assert drawn.half.mean() == pytest.approx(mean, abs=0.01)
    assert drawn.half.std() == pytest.approx(np.sqrt(second / total - mean**2), abs=0.015)


def test_law_shares_rise_with_batch_size_in_every_draw():
    (drawn,) = draws_of(MIXED)
    assert (np.diff(drawn.share, axis=1) >= 0).all()
    assert ((drawn.share >= 0) & (drawn.share <= 1)).all()


def test_law_half_is_where_half_fail():
    counts = Counts((5.0, 5.25, 5.5, 5.75, 6.0), (0, 1, 2, 3, 4), (4, 4, 4, 4, 4))
    (drawn,) = draws_of(counts, draws=2000)
    above = drawn.share > 0.5
    sizes = np.array(counts.log2_sizes)
    assert (above == (sizes > drawn.half[:, None])).all()


def test_law_more_trials_of_equal_shares_narrow_the_answer():
    few, many = MIXED, Counts(X, (0, 10, 20, 30), (30, 30, 30, 30))
    assert draws_of(many)[0].half.std() < 0.6 * draws_of(few)[0].half.std()


def test_arms_drawn_together_lend_each_other_their_width():
    wide = Counts(X, (2, 4, 6, 8), (10, 10, 10, 10))
    sharp = Counts(X, (0, 0, 10, 10), (10, 10, 10, 10))
    unsure = Counts(X, (0, 1, 2, 2), (2, 2, 2, 2))
    spread = {
        name: draws_of(other, unsure)[1].half.std()
        for name, other in (("wide", wide), ("sharp", sharp))
    }
    assert spread["sharp"] < 0.8 * spread["wide"]


def test_one_failure_among_many_that_stand_is_taken_as_stray():
    """Ten seeds: a single failure at the smallest size does not widen the collapse."""
    sizes = tuple(float(x) for x in range(5, 12))
    clean = Counts(sizes, (0, 0, 0, 0, 0, 10, 10), (10,) * 7)
    stray = Counts(sizes, (1, 0, 0, 0, 0, 10, 10), (10,) * 7)
    medians = [np.median(draws_of(counts)[0].half) for counts in (clean, stray)]
    assert medians[1] == pytest.approx(medians[0], abs=0.15)
    shares = draws_of(stray)[0].share[:, 3]
    assert np.median(shares) < 0.1


def test_separated_counts_keep_the_answer_in_their_bracket():
    (drawn,) = draws_of(Counts(X, (0, 0, 10, 10), (10, 10, 10, 10)))
    low, high = np.quantile(drawn.half, [0.025, 0.975])
    assert 5.8 < low < 6.3 and 6.7 < high < 7.2


def test_a_likelihood_of_zero_at_some_shapes_leaves_finite_draws():
    sizes = tuple(float(x) for x in range(5, 12))
    counts = Counts(sizes, (0, 60, 0, 60, 0, 60, 60), (60,) * 7)
    (drawn,) = draws_of(counts, draws=500)
    assert np.isfinite(drawn.half).all() and np.isfinite(drawn.share).all()
