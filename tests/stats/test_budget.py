"""Updates to a target: read from records, fitted to the curve, with intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import least_squares
from target_studies import KNEE, SIZES, SMIN, record, rising, study

from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.stats import budget as module
from batchcliff.stats.budget import Reached, budget, fit, reached

# one trial -----------------------------------------------------------------------------------


def test_the_target_is_reached_between_two_evaluations() -> None:
    curve = (None, 0.2, None, None, 0.6, 0.1, 0.9)
    assert reached(record(64, 3, curve), 0.5) == Reached(3, 20 + 0.75 * 30)
    assert reached(record(64, 3, curve), 0.6) == Reached(3, 50.0)
    assert reached(record(64, 3, curve), 0.8) == Reached(3, 60 + 0.7 / 0.8 * 10)
    assert reached(record(64, 3, curve), 0.95) == Reached(3, None)
    assert reached(record(64, 3, curve), 0.2) == Reached(3, 20.0, at_once=True)


def test_updates_of_an_epoch_may_be_a_fraction_and_the_last_epoch_cut_short() -> None:
    """N / B = 1/3: evaluations come after updates 1, 1, 1, 2; 2.5 epochs of 4 end at 10."""
    third = record(64, 0, (0.1, 0.2, 0.3, 0.5), per_epoch=1 / 3)
    assert reached(third, 0.4).updates == 1.5
    assert reached(record(64, 0, (0.1, 0.2, 0.4), per_epoch=4.0, updates=10), 0.3).updates == 9


def test_a_trial_counts_as_far_as_it_says_something() -> None:
    late = record(64, 1, (0.1, 0.9, None), outcome=Outcome.DIVERGED, accuracy=None)
    lost = record(64, 2, (0.1, 0.9), outcome=Outcome.OOM, accuracy=None)
    other = record(64, 3, (0.1, 0.9), arm="warmup")
    (cell,) = budget([record(64, 0, (0.1, 0.9)), late, lost, other], "none", 0.5).cells
    assert cell.reached == (Reached(0, 15.0), Reached(1, 15.0))
    assert cell.updates.value == pytest.approx(15)
    assert cell.examples == pytest.approx(15 * 64)


# the curve -----------------------------------------------------------------------------------


def test_a_curve_without_noise_is_found() -> None:
    found = budget(study(), "none", 0.8)
    assert found.knee.value == pytest.approx(KNEE, rel=2e-3)
    assert found.fewest_updates.value == pytest.approx(SMIN, rel=2e-3)
    assert found.fewest_examples.value == pytest.approx(SMIN * KNEE, rel=2e-3)
    assert max(abs(r) for _, r in found.residuals) < 1e-3
    assert found.notes == ()
    for cell in found.cells:
        expected = SMIN * (1 + KNEE / cell.batch_size)
        assert cell.updates.value == pytest.approx(expected, rel=1e-6)
        assert found.expected_updates(cell.batch_size) == pytest.approx(expected, rel=3e-3)
        product = (cell.updates.value / SMIN - 1) * (cell.examples / (SMIN * KNEE) - 1)
        assert product == pytest.approx(1, rel=1e-6)
    first, *_, last = found.cells
    assert first.efficiency == 1.0
    assert last.perfect == pytest.approx(first.updates.value * 32 / 2048)
    assert last.efficiency == pytest.approx((1 + KNEE / 32) / 64 / (1 + KNEE / 2048))


def test_the_fit_is_least_squares_in_log_updates() -> None:
    """Against scipy, from the definition."""
    rng, sizes = np.random.default_rng(5), np.array(SIZES, float)
    logs_RK = np.log(SMIN * (1 + KNEE / sizes)) + rng.normal(0, 0.15, (20, len(sizes)))
    knees_R, smins_R = fit(logs_RK, sizes)
    for row, knee, smin in zip(logs_RK, knees_R, smins_R, strict=True):

        def residuals(p, row=row):
            return p[1] + np.log1p(2.0 ** p[0] / sizes) - row

        twin = least_squares(residuals, (8.0, 5.0), xtol=1e-12).x
        assert (knee, smin) == pytest.approx(tuple(twin), abs=2e-3)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover(seeds) -> None:
    """300 studies; the control: Student's t left out, as plain bootstrap errors are used."""
    rng, sizes = np.random.default_rng(seeds), np.array(SIZES, float)
    truth = {"knee": KNEE, "smin": SMIN, "emin": SMIN * KNEE}
    covered, narrow = dict.fromkeys(truth, 0), 0
    for _ in range(300):
        noise = rng.normal(0, 0.08, (seeds, len(sizes))) + rng.normal(0, 0.08, (seeds, 1))
        logs_nK = np.log(SMIN * (1 + KNEE / sizes)) + noise
        *estimates, _ = module._estimates(logs_nK, sizes, 0.95)
        for (name, true), estimate in zip(truth.items(), estimates, strict=True):
            covered[name] += estimate.covers(true)
        knee, width = estimates[0], math.log2(estimates[0].high / estimates[0].low)
        width *= 1.96 / stats.t.ppf(0.975, seeds - 1) * math.sqrt(1 - 1 / seeds)
        narrow += abs(math.log2(knee.value / KNEE)) < width / 2
    assert all(0.915 <= count / 300 <= 0.985 for count in covered.values()), covered
    if seeds == 3:
        assert narrow / 300 < 0.85


def test_equal_data_give_equal_intervals() -> None:
    data = study(0.1)
    assert budget(data, "none", 0.8) == budget(list(reversed(data)), "none", 0.8)


def test_perfect_scaling_has_no_knee_on_the_grid() -> None:
    found = budget(study(0.03, smin=1.0, knee=50_000.0), "none", 0.8)
    assert (found.knee.censored, found.knee.value) == ("above", 2048)
    assert found.knee.high is None and found.knee.unbounded == "high"
    assert (found.fewest_updates.censored, found.fewest_updates.low) == ("below", None)
    assert found.fewest_examples.covers(50_000.0)


def test_no_scaling_has_its_knee_below_the_grid() -> None:
    found = budget(study(0.03, smin=2000.0, knee=1.0), "none", 0.8)
    assert (found.knee.censored, found.knee.value) == ("below", 32)
    assert (found.fewest_examples.censored, found.fewest_examples.low) == ("below", None)
    assert found.fewest_updates.covers(2000.0)


def test_a_size_where_a_trial_never_arrives_is_named_and_left_out() -> None:
    data = [r for r in study() if (r.spec.batch_size, r.spec.seed) != (2048, 1)]
    data.append(record(2048, 1, (0.1, 0.2), outcome=Outcome.DIVERGED, accuracy=None))
    data += [record(16, s, (0.9,)) for s in range(3)]
    found = budget(data, "none", 0.8)
    by_size = {cell.batch_size: cell for cell in found.cells}
    assert by_size[2048].updates.note == "1 of 3 trials never reached the target"
    assert by_size[16].updates.note == "3 of 3 had it at the first evaluation"
    assert by_size[2048].updates.value is None and by_size[16].examples is None
    assert by_size[2048].efficiency is None
    assert [b for b, _ in found.residuals] == list(SIZES[:-1])
    assert len(found.notes) == 2 and found.knee.value == pytest.approx(KNEE, rel=2e-3)


def test_another_form_is_said() -> None:
    bent = [
        rising(b, s, SMIN * (1 + KNEE / b) * (1.6 if b == 256 else 1.0))
        for b in SIZES
        for s in range(3)
    ]
    (note,) = budget(bent, "none", 0.8).notes
    assert note.startswith("the curve is not of this form: it misses") and "256 by +" in note


def test_what_is_too_little_for_a_knee() -> None:
    one = budget(study(seeds=1), "none", 0.8)
    assert one.knee.value == pytest.approx(KNEE, rel=2e-3)
    assert not one.knee.has_interval and "one seed" in one.knee.note
    assert one.cells[0].updates.low is None
    two = budget(study(sizes=(64, 128)), "none", 0.8)
    assert two.knee.value is None and "needs at least 3" in two.knee.note
    assert two.expected_updates(64) is None
    apart = [rising(b, s, SMIN * (1 + KNEE / b)) for s, b in enumerate(SIZES)]
    assert "no seed is common" in budget(apart, "none", 0.8).knee.note
    never = budget(study(), "none", 1.0)
    assert never.knee.value is None and all(c.perfect is None for c in never.cells)


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="write a share of accuracy above 0"):
        budget(study(), "none", 91.0)
    with pytest.raises(UsageError, match="no measured trial"):
        budget(study(), "warmup", 0.8)
    with pytest.raises(UsageError, match="two trials of seed 0"):
        budget([*study(), record(64, 0, (0.1,))], "none", 0.8)
    with pytest.raises(UsageError, match="level"):
        budget(study(), "none", 0.8, level=95.0)
