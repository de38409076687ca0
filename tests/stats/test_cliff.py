"""The two cliffs: hand-calculated points, brackets, censoring, and honest refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import SIZES, make_test_curve
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.errors import UsageError
from batchcliff.stats.cliff import (
    collapse_cliff,
    collapse_point,
    draw_cliffs,
    make_reference,
    settled,
    slides,
    tolerance_cliff,
    tolerance_point,
)

FALLING = [[0.980], [0.980], [0.970], [0.690], [0.210], [0.120]]


def spread(means, noise=0.002):
    """Three seeds around each mean."""
    return [[m - noise, m, m + noise] for m in means]


def both(columns, *, arm=None, diverged=None, **options):
    base = make_test_curve(columns, diverged=diverged)
    reference = make_reference(base, 0.1, **options)
    curve = base if arm is None else make_test_curve(arm, arm="other")
    return tolerance_cliff(curve, reference), collapse_cliff(curve, reference)


def test_the_plateau_is_the_best_running_mean_of_the_smallest_sizes():
    rising = make_test_curve([[0.96], [0.98], [0.95], [0.2]])
    assert make_reference(rising, 0.1).plateau == pytest.approx(0.97)
    falling = make_test_curve(FALLING)
    reference = make_reference(falling, 0.1)
    assert reference.plateau == pytest.approx(0.98)
    assert reference.threshold == pytest.approx(0.96)
    assert reference.floor == pytest.approx((0.1 + 0.98) / 2)
    assert make_reference(falling, 0.1, floor=0.3).floor == 0.3


def test_one_good_cell_far_out_does_not_raise_the_plateau_by_itself():
    lucky = make_test_curve([[0.95], [0.95], [0.95], [0.98], [0.2]])
    assert make_reference(lucky, 0.1).plateau == pytest.approx((3 * 0.95 + 0.98) / 4)


def test_one_seed_gives_the_interpolated_crossing_its_bracket_and_no_interval():
    tolerance, collapse = both(FALLING)
    # 0.96 lies (0.97 - 0.96) / (0.97 - 0.69) = 1/28 of the octave after 128
    assert tolerance.value == pytest.approx(128 * 2 ** (1 / 28))
    assert tolerance.bracket == (128, 256)
    # 256 stands (0.69 > 0.54), 512 fails: the middle of the bracket in log2
    assert collapse.value == pytest.approx(256 * math.sqrt(2))
    assert collapse.bracket == (256, 512)
    for found in (tolerance, collapse):
        assert not found.has_interval and found.n == 1
        assert "one seed: no interval" in found.note


def test_three_seeds_give_an_interval_around_the_crossing():
    means = [column[0] for column in FALLING]
    tolerance, collapse = both(spread(means))
    assert tolerance.has_interval and tolerance.n == 3
    assert tolerance.covers(128 * 2 ** (1 / 28)) and not tolerance.covers(400)
    assert collapse.covers(256 * math.sqrt(2)) and not collapse.covers(100)
    assert not collapse.covers(1000)


def test_a_diverged_trial_counts_at_chance_and_fails():
    columns = [[0.98, 0.98], [0.98, 0.98], [0.98, 0.1], [0.1, 0.1]]
    base = make_test_curve(columns, diverged=[(), (), (1,), (0, 1)])
    reference = make_reference(base, 0.1)
    # mean at 128 is 0.54: the crossing lies 0.02 / 0.44 of the octave after 64
    assert tolerance_point(base, reference) == pytest.approx(6 + 0.02 / 0.44)
    assert collapse_point(base, reference) == pytest.approx(7.0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_none_failed_is_censored_above_the_grid(seeds):
    tolerance, collapse = both([[0.98, 0.979, 0.981][:seeds]] * 6)
    for found in (tolerance, collapse):
        assert (found.censored, found.value, found.high) == ("above", SIZES[-1], None)
        assert "above the measured" in found.note
        assert found.unbounded == ("" if seeds == 1 else "high")


def test_an_arm_that_fails_everywhere_is_censored_below_the_grid():
    base = spread([0.98, 0.98, 0.97, 0.69, 0.2, 0.1])
    tolerance, collapse = both(base, arm=spread([0.11, 0.12, 0.1, 0.1, 0.1, 0.1]))
    for found in (tolerance, collapse):
        assert (found.censored, found.value, found.low) == ("below", SIZES[0], None)
        assert found.unbounded == "low"


def test_a_reference_that_learns_nothing_is_no_reference():
    tolerance, collapse = both(spread([0.11, 0.1, 0.12, 0.1, 0.1, 0.1]))
    for found in (tolerance, collapse):
        assert found.value is None and not found.has_interval
        assert "learns nothing" in found.note


def test_nothing_measured_and_one_size_are_answered_in_words():
    nothing, _ = both([])
    assert nothing.value is None and "has no measured trial" in nothing.note
    single, _ = both(spread([0.98]))
    assert single.value is None and "one batch size only" in single.note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta is 0.0"),
        ({"delta": 2}, "delta is 2; give a share of accuracy"),
        ({"level": 95}, "level is 95"),
    ],
)
def test_bad_options_are_refused_with_what_to_write(options, message):
    with pytest.raises(UsageError, match=message):
        make_reference(make_test_curve(FALLING), 0.1, **options)
    with pytest.raises(UsageError, match="chance is 1"):
        make_reference(make_test_curve(FALLING), 1.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_law_the_cliff_scales_with_the_batch_sizes(seed, octaves):
    rng = np.random.default_rng(seed)
    columns = [
        list(np.clip(m + 0.01 * rng.standard_normal(3), 0, 1)) for m in (0.98, 0.97, 0.8, 0.2)
    ]
    scaled = [size * 2**octaves for size in SIZES]
    near = make_test_curve(columns)
    far = make_test_curve(columns, sizes=scaled)
    for cliff in (tolerance_cliff, collapse_cliff):
        a = cliff(near, make_reference(near, 0.1))
        b = cliff(far, make_reference(far, 0.1))
        for name in ("value", "low", "high"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert x is None or y == pytest.approx(x * 2**octaves, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_law_the_interval_holds_the_value_and_a_higher_level_is_wider(seed):
    rng = np.random.default_rng(seed)
    means = np.sort(rng.uniform(0.1, 0.98, 5))[::-1]
    columns = [list(np.clip(m + 0.02 * rng.standard_normal(3), 0, 1)) for m in means]
    base = make_test_curve(columns)
    for cliff in (tolerance_cliff, collapse_cliff):
        narrow, wide = (cliff(base, make_reference(base, 0.1, 0.02, v)) for v in (0.8, 0.95))
        if narrow.value is None:
            continue
        assert narrow.covers(narrow.value) and wide.covers(narrow.value)
        assert narrow.low is None or wide.low is None or wide.low <= narrow.low
        assert narrow.high is None or wide.high is None or wide.high >= narrow.high


def test_equal_data_give_equal_draws():
    base = make_test_curve(spread([0.98, 0.97, 0.7, 0.2]))
    reference = make_reference(base, 0.1)
    first, second = (draw_cliffs(base, reference)[0] for _ in range(2))
    assert (first.tolerance == second.tolerance).all()
    assert (first.collapse == second.collapse).all()


SLIDING = [0.98, 0.98, 0.96, 0.88, 0.70, 0.30]
COLLAPSING = [0.98, 0.98, 0.98, 0.97, 0.20, 0.10]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (spread(SLIDING), True),
        (spread(COLLAPSING), False),
        ([*spread(COLLAPSING[:4]), [0.97, 0.98, 0.2], [0.2] * 3], False),  # 0.72 on average
        (spread([0.98, 0.98, 0.97, 0.95, 0.20, 0.10]), False),  # below P - delta, not by two
        ([*spread(SLIDING[:3]), [0.2, 0.7, 0.7], [0.2] * 3, [0.2] * 3], False),  # one fails
    ],
)
def test_an_arm_slides_where_all_trials_stand_and_their_mean_is_deep_below(columns, expected):
    curve = make_test_curve(columns)
    assert slides(curve, make_reference(curve, 0.1)) is expected


COLLAPSED = [0.2, 0.1, 0.1]  # the floor is 0.54, and a trial under 0.87 is far below


@pytest.mark.parametrize(
    ("columns", "counted"),
    [
        ([*spread([0.98] * 3), COLLAPSED, [0.65, 0.1, 0.1]], {4: {0}}),
        ([*spread([0.98] * 3), [0.65, 0.2, 0.1], COLLAPSED], {}),  # on its way down
        # Once it is known that trials linger, those nearer to the cliff do as well.
        ([*spread([0.98] * 2), [0.7, 0.98, 0.98], [0.2, 0.1, 0.8], [0.1, 0.65, 0.1]],
         {2: {0}, 3: {2}, 4: {1}}),
        ([*spread([0.98] * 3), COLLAPSED, [0.9, 0.1, 0.1]], {}),  # it stands
        (spread(SLIDING), {}),
        (spread(COLLAPSING), {}),
    ],
)  # fmt: skip
def test_trials_that_linger_far_past_the_collapse_count_as_collapsed(columns, counted):
    curve = make_test_curve(columns)
    (found,), _ = settled([curve], make_reference(curve, 0.1))
    assert {k: set(s) for k, s in enumerate(found.lingering) if s} == counted
    floor = make_reference(curve, 0.1).floor
    for k in range(len(columns)):
        assert found.failing(k, floor) == curve.failing(k, floor) | counted.get(k, set())
        assert found.below(k, floor) == curve.failing(k, floor)


def test_what_lingers_in_one_arm_is_looked_for_in_all():
    base = make_test_curve([*spread([0.98] * 3), [0.65, 0.2, 0.1], COLLAPSED])
    moved = make_test_curve([*spread([0.98] * 3), COLLAPSED, [0.65, 0.1, 0.1]], arm="warmup")
    reference = make_reference(base, 0.1)
    assert [c.lingering for c in settled([base], reference)[0]] == [()]
    (first, second), against = settled([base, moved], reference)
    assert against.curve is first
    assert set(first.lingering[3]) == {0} == set(second.lingering[4])
    nothing = make_reference(make_test_curve([]), 0.1)
    assert settled([moved], nothing) == ([moved], nothing)


def test_the_cliffs_of_a_step_lie_where_it_is_though_some_trials_linger():
    """Without a look at them the step is a wide collapse, and begins octaves before."""
    stands = [0.98 + 0.001 * seed for seed in range(10)]
    columns = [*[stands] * 3, *[[0.65] * 3 + [0.1] * 7] * 3]
    curve = make_test_curve(columns)
    reference = make_reference(curve, 0.1)
    (found,), against = settled([curve], reference)
    last, gone = SIZES[2], SIZES[3]
    for cliff in (tolerance_cliff, collapse_cliff):
        estimate = cliff(found, against)
        assert (
            estimate.low > last / 2 and last < estimate.value < gone and estimate.high <= gone
        )
    missed = tolerance_cliff(curve, reference)
    assert missed.value < last / 2 and missed.high < last


def test_an_arm_that_diverges_where_it_would_slide_collapses():
    columns, gone = spread(SLIDING), [(), (), (), (0,), (1,), (2,)]
    curve = make_test_curve(columns, diverged=gone)
    assert not slides(curve, make_reference(curve, 0.1))


def test_a_sliding_cliff_has_a_narrower_interval_towards_small_batches(monkeypatch):
    """Where its means cross is known; what may yet collapse there widens the draws for nothing.
    Towards large ones it is Student's t alone, and needs all of its width."""
    tolerance, collapse = both(spread(SLIDING, noise=0.02))
    monkeypatch.setattr("batchcliff.stats.cliff.slides", lambda curve, reference: False)
    wider, same = both(spread(SLIDING, noise=0.02))
    assert wider.low < tolerance.low < tolerance.value
    assert wider.high / wider.low > 1.3 * tolerance.high / tolerance.low
    assert collapse == same and tolerance.value == wider.value
