"""The posterior of the collapse's logistic, against quadrature done the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import expit

from batchcliff.stats.failure import BEYOND, WIDTH_POWER, WIDTHS, Counts, draw_failures

X = (5.0, 6.0, 7.0, 8.0)
MIXED = Counts(X, (0, 1, 2, 3), (3, 3, 3, 3))


def draws_of(*arms, draws=20_000):
    return draw_failures(arms, draws, np.random.default_rng(0))


def integral(counts, power):
    """Integral of midpoint**power times the posterior, by adaptive quadrature."""
    x, f, n = (np.array(part) for part in (counts.log2_sizes, counts.fails, counts.trials))

    def density(midpoint, log_width):
        p = expit((x - midpoint) / np.exp(log_width))
        like = np.prod(p**f * (1 - p) ** (n - f))
        return float(midpoint**power * like * np.exp(WIDTH_POWER * log_width))

    low, high = np.log(WIDTHS)
    found, _ = dblquad(density, low, high, x[0] - BEYOND, x[-1] + BEYOND, epsabs=1e-7)
    return found


def test_twin_posterior_moments_are_those_of_the_integral():
    total, first, second = (integral(MIXED, power) for power in (0, 1, 2))
    mean = first / total
    (drawn,) = draws_of(MIXED)
    assert drawn.midpoint.mean() == pytest.approx(mean, abs=0.01)
    assert drawn.midpoint.std() == pytest.approx(np.sqrt(second / total - mean**2), abs=0.015)


def test_law_mirrored_counts_give_the_mirrored_midpoint():
    mirrored = Counts(X, (0, 1, 2, 3), (3, 3, 3, 3))
    middle = (X[0] + X[-1]) / 2
    (drawn,) = draws_of(mirrored)
    assert np.median(drawn.midpoint) == pytest.approx(middle, abs=0.02)
    low, high = np.quantile(drawn.midpoint, [0.025, 0.975]) - middle
    assert low == pytest.approx(-high, abs=0.05)


def test_law_shares_rise_with_batch_size_in_every_draw():
    (drawn,) = draws_of(MIXED)
    assert (np.diff(drawn.share, axis=1) >= 0).all()
    assert ((drawn.share >= 0) & (drawn.share <= 1)).all()


def test_law_more_trials_of_equal_shares_narrow_the_midpoint():
    few, many = MIXED, Counts(X, (0, 10, 20, 30), (30, 30, 30, 30))
    assert draws_of(many)[0].midpoint.std() < 0.6 * draws_of(few)[0].midpoint.std()


def test_arms_drawn_together_share_their_width_and_nothing_else():
    other = Counts(X, (0, 0, 1, 3), (3, 3, 3, 3))
    first, second = draws_of(MIXED, other)
    widths = [
        (x - d.midpoint) / np.log(d.share[:, k] / (1 - d.share[:, k]))
        for d, k, x in ((first, 1, X[1]), (second, 1, X[1]))
    ]
    sure = np.abs(np.log(first.share[:, 1])) < 20
    sure &= np.abs(np.log(second.share[:, 1])) < 20
    assert widths[0][sure] == pytest.approx(widths[1][sure], rel=1e-4)
    assert abs(np.corrcoef(first.midpoint, second.midpoint)[0, 1]) < 0.05


def test_separated_counts_keep_the_midpoint_in_their_bracket():
    (drawn,) = draws_of(Counts(X, (0, 0, 10, 10), (10, 10, 10, 10)))
    low, high = np.quantile(drawn.midpoint, [0.025, 0.975])
    assert 5.8 < low < 6.3 and 6.7 < high < 7.2
