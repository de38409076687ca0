"""Draws of the population means: Student's t where nothing fails, the mixture where it does."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_test_curve

from batchcliff.stats.draws import DRAWS, draw_means, failure_counts, make_curve
from batchcliff.stats.failure import FailureDraws
from batchcliff.stats.intervals import mean_interval
from batchcliff.stats.noise import normals


def draws_of(curve, share_K, floor=0.5, chance=0.1):
    sizes = len(curve.batch_sizes)
    share = np.tile(np.array(share_K, dtype=float), (DRAWS, 1))
    noise = [normals(DRAWS, 0, 0, k) for k in range(sizes)]
    failures = FailureDraws(np.zeros(DRAWS), share)
    return draw_means(curve, failures, floor, chance, noise, 0)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_twin_where_nothing_fails_the_draws_are_the_t_interval(seeds):
    rng = np.random.default_rng(seeds)
    columns = [list(0.9 + 0.01 * rng.standard_normal(seeds)) for _ in range(3)]
    drawn = draws_of(make_test_curve(columns), [0, 0, 0])
    for k, column in enumerate(columns):
        twin = mean_interval(column, 0.9)
        low, high = np.quantile(drawn[:, k], [0.05, 0.95])
        assert high - low == pytest.approx(twin.high - twin.low, rel=0.15)
        assert np.median(drawn[:, k]) == pytest.approx(twin.value, abs=0.1 * (high - low))


def test_a_share_that_fails_mixes_the_two_means():
    columns = [[0.9, 0.91, 0.89], [0.9, 0.92, 0.2], [0.2, 0.21, 0.19]]
    drawn = np.median(draws_of(make_test_curve(columns), [0, 0.25, 1]), axis=0)
    assert drawn[0] == pytest.approx(0.9, abs=0.005)
    assert drawn[1] == pytest.approx(0.25 * 0.2 + 0.75 * 0.91, abs=0.01)
    assert drawn[2] == pytest.approx(0.2, abs=0.005)


def test_where_no_trial_stands_the_nearest_smaller_size_lends_its_mean():
    columns = [[0.9, 0.91, 0.89], [0.2, 0.21, 0.19]]
    drawn = np.median(draws_of(make_test_curve(columns), [0, 0.5]), axis=0)
    assert drawn[1] == pytest.approx(0.5 * 0.2 + 0.5 * 0.9, abs=0.01)


def test_where_no_trial_fails_a_failure_would_end_where_others_did_or_at_chance():
    with_failures = make_test_curve([[0.9, 0.9, 0.9], [0.3, 0.3, 0.3]])
    assert np.median(draws_of(with_failures, [1, 1])[:, 0]) == pytest.approx(0.3, abs=0.01)
    without = make_test_curve([[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]])
    assert np.median(draws_of(without, [1, 1])[:, 0]) == pytest.approx(0.1)


def test_a_single_trial_borrows_the_spread_of_the_others():
    columns = [[0.90, 0.92, 0.88, 0.91, 0.89], [0.9]]
    drawn = draws_of(make_test_curve(columns), [0, 0])
    spread = np.diff(np.quantile(drawn, [0.25, 0.75], axis=0), axis=0)[0]
    assert spread[1] / spread[0] == pytest.approx(np.sqrt(5), rel=0.15)


def test_counts_are_of_diverged_and_low_trials():
    curve = make_test_curve([[0.9, 0.9, 0.4], [0.1, 0.3, 0.9]], diverged=[(), (0,)])
    counts = failure_counts(curve, 0.5)
    assert (counts.fails, counts.trials) == ((1, 2), (3, 3))
    assert counts.log2_sizes == (5.0, 6.0)
    assert failure_counts(curve, 0.2).fails == (0, 1)


def test_a_curve_of_no_cells_is_empty():
    curve = make_curve("none", [], 0.1)
    assert curve.batch_sizes == () and curve.seeds == 0


def test_shared_streams_cannot_be_written_into():
    with pytest.raises(ValueError, match="read-only"):
        normals(DRAWS, 0, 0, 0)[0] = 1.0
