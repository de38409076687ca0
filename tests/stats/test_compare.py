"""Shifts, paired differences, Holm, and the refusal to compare what differs in more."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_spec, make_test_curve
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from batchcliff.errors import UsageError
from batchcliff.spec import Settings
from batchcliff.stats import compare
from batchcliff.stats.calibration import shift_scale
from batchcliff.stats.cliff import make_reference
from batchcliff.stats.comparable import check_comparable
from batchcliff.stats.compare import (
    adjust,
    holm,
    paired_differences,
    seed_correlation,
    sensitivity,
    shift,
)

BASE = [0.98, 0.98, 0.97, 0.2, 0.1, 0.1]
MOVED = [0.98, 0.98, 0.98, 0.98, 0.2, 0.1]


def columns(means, seeds=3, noise=0.003, seed=0):
    rng = np.random.default_rng(seed)
    return [list(m + noise * rng.standard_normal(seeds)) for m in means]


def curves(base=BASE, moved=MOVED, seeds=3):
    first = make_test_curve(columns(base, seeds))
    return make_test_curve(columns(moved, seeds, seed=1), arm="warmup"), make_reference(
        first, 0.1
    )


@pytest.mark.parametrize("kind", ["tolerance", "collapse"])
def test_ten_seeds_find_a_shift_of_one_octave(kind):
    arm, reference = curves(seeds=10)
    found = shift(arm, reference, kind)
    assert found.factor.covers(2.0) and not found.factor.covers(1.0)
    assert found.p_value < 0.05
    assert (found.pairs, found.factor.n) == (60, 10)
    assert found.factor.value == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("kind", ["tolerance", "collapse"])
def test_an_arm_against_its_own_numbers_is_no_shift(kind):
    first = make_test_curve(columns(BASE))
    reference = make_reference(first, 0.1)
    found = shift(make_test_curve(columns(BASE), arm="copy"), reference, kind)
    assert found.factor.covers(1.0) and found.p_value > 0.5
    assert found.factor.value == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("kind", ["tolerance", "collapse"])
@pytest.mark.parametrize("moved", [MOVED, BASE, [0.98] * 6, [0.1] * 6])
def test_law_interval_and_test_are_one_statement(kind, moved):
    arm, reference = curves(moved=moved, seeds=5)
    found = shift(arm, reference, kind)
    assert found.factor.covers(1.0) == (found.p_value > 0.05)


@pytest.mark.parametrize(
    ("first", "second", "mixed"), [(0, 0, 0), (1, 0, 1), (0, 2, 1), (1, 2, 2)]
)
def test_the_interval_goes_by_the_mixed_sizes_of_both_arms(first, second, mixed, monkeypatch):
    """`first` and `second` of three trials collapse where the arm's others stand."""

    def cells(collapsed):
        found = columns(BASE)
        found[2] = [0.1] * collapsed + [0.97] * (3 - collapsed)
        return found

    seen = []

    def scale(kind, seeds, cost, mixed, *more):
        seen.append(mixed)
        return shift_scale(kind, seeds, cost, mixed, *more)

    monkeypatch.setattr(compare, "shift_scale", scale)
    reference = make_reference(make_test_curve(cells(first)), 0.1)
    shift(make_test_curve(cells(second), arm="warmup"), reference, "collapse")
    assert seen == [mixed]


def test_a_censored_cliff_makes_the_factor_a_bound():
    arm, reference = curves(moved=[0.98] * 6, seeds=5)
    found = shift(arm, reference, "collapse").factor
    assert found.censored == "above" and found.unbounded == "high" and found.high is None
    assert found.value == pytest.approx(1024 / (128 * 2**0.5), rel=0.1)
    arm, reference = curves(base=[0.98] * 6, moved=MOVED, seeds=5)
    assert shift(arm, reference, "collapse").factor.censored == "below"
    arm, reference = curves(base=[0.98] * 6, moved=[0.98] * 6, seeds=5)
    nothing = shift(arm, reference, "collapse")
    assert nothing.factor.value is None and nothing.factor.unbounded == "both"
    assert nothing.p_value == 1.0 and nothing.minimum_detectable is None


def test_one_seed_gives_a_factor_without_interval_or_test():
    arm, reference = curves(seeds=1)
    found = shift(arm, reference, "tolerance")
    assert found.factor.value == pytest.approx(2.0, rel=0.1)
    assert not found.factor.has_interval and found.p_value is None
    assert "one seed: no interval, no test" in found.factor.note


def test_more_seeds_detect_smaller_shifts_and_need_no_more():
    few, many = (shift(*curves(seeds=n), "collapse") for n in (3, 10))
    assert 1.0 < many.minimum_detectable < few.minimum_detectable
    assert few.seeds_needed > 3
    with pytest.raises(UsageError, match="cliff kind 'edge' is unknown"):
        shift(*curves(), "edge")


def test_sensitivity_is_the_textbook_sum_of_two_normal_quantiles():
    """Half width 1.96 SE: found with probability 0.8 from (1.96 + 0.8416) SE on."""
    factor, needed = sensitivity(1.959964 * 0.1, 0.95, 4)
    assert np.log2(factor) == pytest.approx(0.280158, abs=1e-5)
    assert needed == 2  # 4 (0.280 / 0.5)^2 = 1.26, and two seeds are the least
    assert sensitivity(1.959964 * 0.3, 0.95, 4)[1] == 12  # 4 (0.840 / 0.5)^2 = 11.3
    assert sensitivity(float("inf"), 0.95, 4) == (None, None)


def test_twin_paired_difference_is_scipys_paired_t():
    arm, reference = curves(seeds=5)
    base = reference.curve
    for found, mine, theirs in zip(
        paired_differences(arm, base, 0.9), arm.values, base.values, strict=True
    ):
        a, b = list(mine.values()), list(theirs.values())
        interval = stats.ttest_rel(a, b).confidence_interval(0.9)
        assert found.difference.low == pytest.approx(interval.low, abs=1e-12)
        assert found.difference.high == pytest.approx(interval.high, abs=1e-12)


def test_pairs_are_of_equal_seeds_and_batch_sizes_only():
    base = make_test_curve([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    arm = make_test_curve([[0.95, 0.85]], arm="short")
    (found,) = paired_differences(arm, base)
    assert (found.batch_size, found.difference.n) == (32, 2)
    assert found.difference.value == pytest.approx(0.05)


def test_a_diverged_trial_is_said_in_the_paired_difference():
    base = make_test_curve([[0.9, 0.1], [0.9, 0.9]], diverged=[(1,), ()])
    arm = make_test_curve([[0.9, 0.9], [0.9, 0.9]], arm="warmup")
    first, second = paired_differences(arm, base)
    assert "diverged trials at chance" in first.difference.note
    assert second.difference.note == ""


@settings(max_examples=6, deadline=None)  # statsmodels takes a quarter of a second a call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_twin_holm_is_statsmodels(p_values):
    twin = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(tuple(twin), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_law_holm_keeps_order_and_lies_between_the_value_and_bonferroni(p_values):
    adjusted = np.array(holm(p_values))
    plain = np.array(p_values)
    assert (adjusted >= plain).all()
    assert (adjusted <= np.minimum(1.0, len(plain) * plain) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(plain)]) >= 0).all()


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(UsageError, match=r"p-values must lie in \[0, 1\]"):
        holm([0.5, 1.5])
    with pytest.raises(UsageError, match="value 0 is nan"):
        holm([float("nan")])
    assert holm([]) == ()


def test_holm_runs_over_the_arms_of_one_kind():
    arm, reference = curves(seeds=10)
    same = make_test_curve(columns(BASE, 10, seed=2), arm="same")
    pair = adjust(
        [shift(a, reference, k) for a in (arm, same) for k in ("tolerance", "collapse")]
    )
    collapse = [s for s in pair if s.kind == "collapse"]
    assert collapse[0].p_adjusted == pytest.approx(2 * collapse[0].p_value)
    alone = adjust([shift(arm, reference, "collapse")])[0]
    assert alone.p_adjusted == alone.p_value


def test_seed_correlation_sees_shared_noise_and_never_invents_it():
    rng = np.random.default_rng(0)
    common = rng.standard_normal((6, 10))
    base = make_test_curve(list(0.9 + 0.01 * common))
    shared = make_test_curve(list(0.9 + 0.01 * common + 0.002 * rng.standard_normal((6, 10))))
    apart = make_test_curve(list(0.9 + 0.01 * rng.standard_normal((6, 10))))
    assert seed_correlation(shared, base) > 0.7
    assert seed_correlation(apart, base) < 0.2
    two = make_test_curve([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    # four degrees of freedom, correlation 1: less one standard error of 1 / sqrt(4)
    assert seed_correlation(two, two) == pytest.approx(0.5)
    flat = make_test_curve([[0.9] * 3] * 6)
    assert seed_correlation(flat, flat) == 0.0
    for value in (0.1, 0.7):  # the mean of three is none of them, by rounding
        fallen = make_test_curve([[0.9, 0.8, 0.7]] + [[value] * 3] * 5)
        other = make_test_curve([[0.9, 0.7, 0.8]] + [[value] * 3] * 5)
        assert seed_correlation(fallen, other) == 0.0


def test_twin_seed_correlation_is_pearsons_less_a_standard_error():
    rng = np.random.default_rng(1)
    common = rng.standard_normal(9)
    a, b = (list(0.9 + 0.01 * common + 0.005 * rng.standard_normal(9)) for _ in range(2))
    twin = stats.pearsonr(a, b).statistic - 1 / np.sqrt(8)
    assert seed_correlation(make_test_curve([a]), make_test_curve([b])) == pytest.approx(twin)


def test_arms_that_differ_in_the_arm_alone_are_comparable():
    base = [make_spec("none", 32, seed) for seed in range(2)]
    assert check_comparable([make_spec("warmup", 32, seed) for seed in range(2)], base) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_digest": "f" * 64}, "differ in more than the arm.*data_digest"),
        ({"workload": "article"}, r"workload \(warmup: 'article', none: 'digits'\)"),
    ],
)
def test_a_difference_beyond_the_arm_is_refused_by_name(change, message):
    with pytest.raises(UsageError, match=message):
        check_comparable([make_spec("warmup", 32, 0, **change)], [make_spec("none", 32, 0)])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"lr": 0.2}, "lr (warmup: 0.2, none: 0.1)"),
        ({"budget": "20ep"}, "budget (warmup: '20ep', none: '10ep')"),
    ],
)
def test_rates_and_lengths_of_an_arm_are_told(change, note):
    arm = [make_spec("warmup", 32, 0, **change)]
    notes = check_comparable(arm, [make_spec("none", 32, 0)])
    assert notes == (f"arms 'warmup' and 'none' also differ in {note}",)


def test_settings_that_an_arm_overrides_are_told():
    arm = [make_spec("warmup", 32, 0, settings=Settings(precision="fp32"))]
    (note,) = check_comparable(arm, [make_spec("none", 32, 0)])
    assert "settings.precision (warmup: 'fp32', none: 'bf16')" in note
