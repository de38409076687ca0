"""The monotone envelope and the crossing, against hand calculation and slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from batchcliff.stats.envelope import crossing, monotone_envelope, plateau

means = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8)


@given(means)
def test_twin_the_envelope_is_scipys_isotonic_regression(values):
    found = monotone_envelope(np.array([values], dtype=float))[0]
    twin = isotonic_regression(np.array(values, dtype=float), increasing=False).x
    assert found == pytest.approx(twin, abs=1e-12)


@given(means)
def test_law_a_falling_curve_is_its_own_envelope_and_the_plateau_its_first_level(values):
    falling = np.array([sorted(values, reverse=True)], dtype=float)
    assert monotone_envelope(falling) == pytest.approx(falling, abs=1e-12)
    assert plateau(falling)[0] == pytest.approx(falling[0, 0], abs=1e-12)
    rough = np.array([values], dtype=float)
    assert plateau(rough)[0] == pytest.approx(monotone_envelope(rough)[0, 0], abs=1e-12)


@given(st.lists(means.filter(lambda m: len(m) == 4), min_size=1, max_size=5))
def test_law_draws_do_not_touch_each_other(rows):
    together = monotone_envelope(np.array(rows, dtype=float))
    alone = [monotone_envelope(np.array([row], dtype=float))[0] for row in rows]
    assert together == pytest.approx(np.array(alone), abs=1e-12)


@pytest.mark.parametrize(
    ("curve", "threshold", "expected"),
    [
        ([0.98, 0.98, 0.90, 0.2], 0.96, 6.25),  # (0.98 - 0.96) / (0.98 - 0.90) = 1/4 past 6
        ([0.98, 0.98, 0.90, 0.2], 0.90, 7.0),
        ([0.98, 0.98, 0.90, 0.2], 0.55, 7.5),
        ([0.98, 0.96, 0.96, 0.2], 0.96, 7.0),  # a shelf at the threshold counts to its end
        ([0.98, 0.98, 0.97, 0.97], 0.96, math.inf),
        ([0.90, 0.80, 0.70, 0.60], 0.96, -math.inf),
    ],
)
def test_crossing_by_hand(curve, threshold, expected):
    found = crossing(np.array([curve]), np.array([threshold]), np.array([5.0, 6.0, 7.0, 8.0]))
    assert found[0] == pytest.approx(expected, abs=1e-12)


@given(means.filter(lambda m: len(m) > 1), st.floats(0.01, 0.99))
def test_twin_crossing_is_where_a_fine_interpolation_is_last_above(values, threshold):
    falling = np.array(sorted(values, reverse=True), dtype=float)
    x = np.arange(falling.size, dtype=float)
    found = crossing(falling[None, :], np.array([threshold]), x)[0]
    fine = np.linspace(0, x[-1], 20_001)
    above = fine[np.interp(fine, x, falling) >= threshold]
    if above.size == 0:
        assert found == -math.inf
    elif falling[-1] >= threshold:
        assert found == math.inf
    else:
        assert found == pytest.approx(above[-1], abs=2 * x[-1] / 20_000)
