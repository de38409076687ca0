"""Which quantiles are answered: levels, their p-values, and what a study's counts say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from batchcliff.stats.calibration import (
    MOST,
    Evidence,
    evidence,
    interval_scale,
    shift_scale,
    sliding_scales,
    tail_shares,
    tolerance_place,
    two_sided,
)
from batchcliff.stats.failure import Counts

KINDS = ("tolerance", "collapse")
X = tuple(float(x) for x in range(5, 12))


def known(seeds=3, width=0.0, stray=False, beyond=3.0, mixed=0, lost=0.0):
    return Evidence(
        seeds=seeds, width=width, stray=stray, beyond=beyond, mixed=mixed, lost=lost
    )


def test_a_scale_of_one_leaves_the_level_as_it_is():
    assert tail_shares(0.95, 1.0, 1.0) == pytest.approx((0.025, 0.975))
    assert two_sided(0.025, 1.0) == pytest.approx(0.05)


def test_twin_a_scaled_level_is_that_of_scaled_normal_draws():
    low, high = tail_shares(0.9, 0.8, 0.8)
    assert (low, high) == pytest.approx(
        tuple(stats.norm(0, 1.25).cdf([-1.645, 1.645])), abs=1e-4
    )


def test_the_two_sides_of_an_interval_are_scaled_apart():
    low, high = tail_shares(0.95, 0.5, 1.2)
    assert low == pytest.approx(stats.norm.cdf(-0.98), abs=1e-4)
    assert high == pytest.approx(stats.norm.cdf(2.352), abs=1e-4)


@given(st.floats(0.01, 0.99), st.floats(0.5, 1.5))
def test_law_the_p_value_is_the_level_whose_interval_ends_there(level, scale):
    tail, _ = tail_shares(level, scale, scale)
    assert two_sided(tail, scale) == pytest.approx(1 - level)


@given(st.floats(0.5, 1.0))
def test_law_more_than_half_of_the_draws_beyond_is_no_evidence(tail):
    assert two_sided(tail, 0.9) == 1.0


def test_the_width_is_unbiased_on_average_over_where_the_collapse_lies():
    rng = np.random.default_rng(0)
    for width, seeds in ((0.1, 3), (0.25, 3), (0.25, 10), (0.5, 5)):
        seen = []
        for _ in range(1500):
            share = 1 / (1 + np.exp(-(np.array(X) - 8 - rng.random()) / width))
            fails = tuple(int(f) for f in rng.binomial(seeds, share))
            seen.append(evidence(Counts(X, fails, (seeds,) * 7)).width)
        # what lies before the last size at which all stand is left out: a little too low
        assert 0.8 * width < np.mean(seen) < 1.1 * width


def test_a_finer_grid_shows_the_same_width():
    coarse = Counts(X, (0, 0, 0, 1, 3, 3, 3), (3,) * 7)
    fine = Counts(tuple(5 + k / 2 for k in range(7)), (0, 0, 0, 1, 3, 3, 3), (3,) * 7)
    assert evidence(coarse).width == pytest.approx(1 / 3)
    assert evidence(fine).width == pytest.approx(1 / 6)


def test_a_collapse_before_a_size_where_all_stand_is_stray_and_no_width():
    found = evidence(Counts(X, (1, 0, 0, 0, 3, 3, 3), (3,) * 7))
    assert found == known(stray=True)
    assert evidence(Counts(X, (0, 0, 0, 0, 3, 3, 3), (3,) * 7)) == known()
    both = evidence(Counts(X, (0, 0, 1, 0, 2, 3, 3), (3,) * 7))
    assert both == known(width=pytest.approx(1 / 3), stray=True, mixed=1)


def test_cells_of_one_trial_and_lost_trials_are_no_evidence_of_width():
    assert evidence(Counts(X, (0, 0, 0, 0, 1, 1, 1), (1,) * 7)) == known(seeds=1)
    found = evidence(Counts(X, (0, 0, 0, 0, 2, 1, 3), (3, 3, 2, 1, 2, 1, 3)))
    assert found == known(lost=pytest.approx(1 / 2))


def test_what_is_lost_counts_around_the_collapse_only():
    """A search leaves sizes far from the cliff at one seed: nothing is missing there."""
    searched = Counts(X, (0, 0, 0, 1, 5, 1, 1), (1, 1, 5, 5, 5, 1, 1))
    assert evidence(searched).lost == 0.0
    assert evidence(Counts(X, (0, 0, 0, 1, 3, 3, 3), (5, 5, 4, 3, 5, 1, 1))).lost == (
        pytest.approx(1 / 5)
    )
    never = Counts(X, (0,) * 7, (4, 4, 4, 4, 4, 4, 3))  # the last size is the end of the grid
    assert evidence(never).lost == pytest.approx(1 / 4)
    always = Counts(X, (4, 4, 4, 4, 4, 4, 4), (4,) * 7)
    assert evidence(always).lost == 0.0


def test_what_lies_beyond_is_counted_in_octaves_of_sizes_where_most_collapse():
    assert evidence(Counts(X, (0, 0, 0, 0, 1, 2, 3), (3,) * 7)).beyond == 2.0
    assert evidence(Counts(X, (0, 0, 0, 0, 0, 0, 1), (2,) * 7)).beyond == 0.0
    fine = tuple(5 + k / 4 for k in range(7))
    assert evidence(Counts(fine, (0, 0, 0, 0, 1, 2, 3), (3,) * 7)).beyond == 0.5


def test_the_estimate_is_lower_where_the_collapse_is_seen_to_be_wide():
    for seeds in (3, 5):
        places = [tolerance_place(known(seeds, width)) for width in (0.0, 0.3, 0.6)]
        assert places[0] > places[1] > places[2] > 0.1
        assert tolerance_place(known(seeds, 5.0)) == places[2]


def test_the_estimate_is_higher_where_the_grid_ends_soon_after_the_collapse():
    places = [tolerance_place(known(beyond=octaves)) for octaves in (1.0, 2.0, 3.0, 4.0)]
    assert places[0] > places[1] > places[2] == places[3]
    assert tolerance_place(known(beyond=0.0)) < places[1]  # nobody saw a collapse


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 1000])
@pytest.mark.parametrize("width", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("beyond", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("stray", [False, True])
def test_no_answer_strays_far_from_the_middle_or_the_nominal_level(seeds, width, stray, beyond):
    at = known(seeds, width, stray, beyond)
    assert 0.2 < tolerance_place(at) < 0.82
    for kind in KINDS:
        scale = interval_scale(kind, at)
        low, high = tail_shares(0.95, scale, scale)
        assert low < tolerance_place(at) < high and 0.01 < low < 0.07
        for slide in (False, True):
            for mixed in (0, 1, 2, 5):
                assert 0.5 < shift_scale(kind, seeds, 0.02, mixed, slide) < 1.2


def test_seeds_beyond_those_simulated_change_nothing_in_jumps():
    assert tolerance_place(known(1)) == tolerance_place(known(3))
    assert tolerance_place(known(MOST)) == tolerance_place(known(MOST + 1))
    assert shift_scale("tolerance", 2, 0.02, 2) == shift_scale("tolerance", 3, 0.02, 2)


def test_the_shift_of_a_cliff_with_a_large_tolerance_is_answered_more_as_a_collapse_cliffs():
    costs = [shift_scale("tolerance", 3, cost, 2) for cost in (0.01, 0.02, 0.05, 0.5)]
    assert costs[0] == costs[1] < costs[2] < costs[3] < shift_scale("collapse", 3, 0.5, 2)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_fall_without_a_collapse_is_answered_by_narrower_intervals(seeds):
    below, above = sliding_scales(known(seeds))
    least = min(interval_scale("tolerance", known(seeds, mixed=mixed)) for mixed in (0, 1, 2))
    assert below < least < above  # above, Student's t says where the means cross
    for one in (known(seeds, mixed=2), known(seeds, width=0.5), known(seeds, stray=True)):
        assert sliding_scales(one) == (below, above)  # how wide a collapse may be is no matter
    assert sliding_scales(known(2)) == sliding_scales(known(3))
    for kind in KINDS:
        widest = max(shift_scale(kind, seeds, 0.02, mixed) for mixed in (0, 1, 2))
        assert shift_scale(kind, seeds, 0.02, 0, slide=True) < widest


def test_the_tolerance_cliff_is_least_known_where_one_size_shows_both_kinds_of_trials():
    def scales(seeds, **features):
        return [
            interval_scale("tolerance", known(seeds, mixed=x, **features)) for x in (0, 1, 2)
        ]

    for seeds in (5, 7, 10, 20, 50):
        none, one, more = scales(seeds)
        assert one > more >= none
    none, one, more = scales(3)  # of three seeds none seldom means a step
    assert none > one > more
    assert scales(2) == scales(3) and scales(20) == scales(50)
    for before, after in itertools.pairwise(scales(seeds) for seeds in range(3, 22)):
        assert all(abs(a - b) < 0.15 for a, b in zip(before, after, strict=True)), "no jumps"
    assert scales(5, stray=True) > scales(5)
    at = known(5, mixed=2)
    assert interval_scale("tolerance", at) == interval_scale("tolerance", known(5, mixed=4))


def test_lost_trials_and_an_end_that_is_not_seen_narrow_the_tolerance_cliffs_shift():
    """Both make the draws wider than the answers' errors: 98 to 100% were covered."""
    full = shift_scale("tolerance", 3, 0.02, 1)
    assert shift_scale("tolerance", 3, 0.02, 1, lost=0.1) == pytest.approx(full - 0.05)
    few, many = (shift_scale("tolerance", 3, 0.02, 1, lost=lost) for lost in (0.25, 0.8))
    assert few == many == pytest.approx(full - 0.125)
    assert shift_scale("tolerance", 3, 0.02, 1, beyond=0.0) == pytest.approx(full - 0.1)
    step = shift_scale("tolerance", 3, 0.02, 0)
    assert shift_scale("tolerance", 3, 0.02, 0, beyond=0.0) == step
    assert shift_scale("tolerance", 3, 0.02, 1, beyond=0.5) == full
    assert shift_scale("collapse", 3, 0.02, 1, lost=0.2) == shift_scale("collapse", 3, 0.02, 1)


@pytest.mark.parametrize("mixed", [0, 1, 2, 3])
def test_a_grid_that_ends_with_the_collapse_narrows_the_collapse_cliff_and_its_shift(mixed):
    """By the more the fewer the seeds: 97 to 99% were covered, where 95 is meant."""
    for seeds in (3, 5, 10):
        width = 0.2 * mixed
        two, one, none = (
            interval_scale("collapse", known(seeds, width, beyond=octaves, mixed=mixed))
            for octaves in (2.0, 1.0, 0.0)
        )
        assert two - one == pytest.approx(0.25 / seeds)
        assert none == two  # then nobody saw it
        full, ends = (
            shift_scale("collapse", seeds, 0.02, mixed, beyond=octaves)
            for octaves in (2.0, 1.0)
        )
        assert full - ends == pytest.approx(0.4 / seeds)
        slide = shift_scale("collapse", seeds, 0.02, mixed, slide=True)
        assert shift_scale("collapse", seeds, 0.02, mixed, slide=True, beyond=1.0) == slide


def test_two_seeds_need_wider_intervals_of_a_collapse_than_three():
    """With the constants of three and more, 7.8% of unpaired equal arms were told apart."""
    two, three, ten = (shift_scale("collapse", seeds, 0.02, 2) for seeds in (2, 3, 10))
    assert two > 1.17 > three > ten
    for mixed in (0, 1):  # most studies with two seeds
        assert shift_scale("collapse", 2, 0.02, mixed) == two
    assert interval_scale("collapse", known(2)) > interval_scale("collapse", known(3))
    wide = [interval_scale("collapse", known(seeds, width=0.5)) for seeds in (2, 3, 10)]
    assert wide[0] > 1.17 > wide[1] > wide[2]


@pytest.mark.parametrize("seeds", [3, 4, 5, 7, 10, 20])
def test_the_shift_of_a_collapse_is_narrower_where_one_size_is_mixed(seeds):
    """Of two arms together. None may be a step, of which the bracket is all that is known;
    the tolerance cliff's shift knows no such thing."""
    none, one, two, many = (shift_scale("collapse", seeds, 0.02, k) for k in (0, 1, 2, 7))
    assert one < 0.93 <= none and min(two, many) > 0.97
    assert shift_scale("collapse", seeds, 0.02, 3) == many
    assert shift_scale("tolerance", seeds, 0.02, 2) == shift_scale("tolerance", seeds, 0.02, 7)


@pytest.mark.parametrize("mixed", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shifts_change_without_jumps_between_the_seeds_that_were_fitted(kind, mixed):
    scales = [shift_scale(kind, seeds, 0.02, mixed) for seeds in range(3, 22)]
    assert all(abs(a - b) < 0.12 for a, b in itertools.pairwise(scales))
    assert scales[-1] == shift_scale(kind, 1000, 0.02, mixed)


def test_an_arm_that_is_drawn_with_the_reference_is_answered_more_narrowly_at_three_seeds():
    for mixed in (1, 2):
        at = known(3, mixed=mixed)
        alone, joint = (interval_scale("tolerance", at, both) for both in (False, True))
        assert joint == pytest.approx(0.94 * alone)
    assert interval_scale("tolerance", known(3), joint=True) == interval_scale(
        "tolerance", known(3)
    )
    five = known(5, mixed=2)
    assert interval_scale("tolerance", five, joint=True) == interval_scale("tolerance", five)
    assert interval_scale("collapse", five, joint=True) == interval_scale("collapse", five)


def test_mixed_sizes_are_those_with_both_kinds_beyond_the_last_at_which_all_stand():
    for fails, mixed in (
        ((0, 0, 0, 0, 3, 3, 3), 0),
        ((0, 0, 0, 1, 3, 3, 3), 1),
        ((0, 0, 0, 1, 2, 3, 3), 2),
        ((0, 0, 0, 1, 3, 2, 3), 2),
        ((1, 0, 2, 0, 1, 3, 3), 1),
        ((1, 1, 1, 1, 1, 3, 3), 5),
    ):
        assert evidence(Counts(X, fails, (3,) * 7)).mixed == mixed
    assert evidence(Counts(X, (0, 0, 0, 1, 1, 3, 3), (3, 3, 3, 1, 2, 3, 3))).mixed == 1
