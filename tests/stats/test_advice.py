"""Advice against studies whose cliff is known: never above it too often, and never made up."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import simulated_studies as simulated
from builders import make_ledger, make_record, make_spec, make_study

from batchcliff.record import Outcome, Provenance
from batchcliff.spec import Arm, Decay, LrRule, Settings, StudySpec
from batchcliff.stats.advice import advise, advise_summary, level_for_all
from batchcliff.stats.cells import make_cell
from batchcliff.stats.summary import summarize_cells

STUDIES = 120
LEVEL = 0.95
SETTINGS = {setting.name: setting for setting in simulated.SETTINGS}


def study_spec(arms, **changes):
    values = {
        "name": "s",
        "workload": "digits",
        "batch_sizes": (32,),
        "seeds": (0,),
        "budget": "10ep",
        "lr": LrRule(base=0.1, base_batch_size=32),
        "decay": Decay(),
        "arms": tuple(Arm(name=arm) for arm in arms),
        "settings": Settings(),
        "data": "digits",
        "reference_arm": arms[0],
    }
    return StudySpec(**(values | changes))


def advice_of(table, **changes):
    """Advice of {arm: {batch size: [accuracy, "diverged", None, ...]}}."""
    records, planned = make_study(table)
    return advise(records, planned, study_spec(list(table), **changes))


def cells_of_curve(name, curve):
    def ending(k, seed, value):
        if seed in curve.diverged[k]:
            return Outcome.DIVERGED, None
        return Outcome.OK, value

    return [
        make_cell(name, size, {s: ending(k, s, v) for s, v in curve.values[k].items()})
        for k, size in enumerate(curve.batch_sizes)
    ]


def by_interval(cells, arms):
    """What the tool recommends, over all arms."""
    return one_advice(cells, arms).best


def by_mean(cells, arms):
    """The negative control: the largest batch size whose mean is within the tolerance."""
    advice = one_advice(cells, arms)
    summary = summarize_cells(cells, "arm0", simulated.DELTA, LEVEL, chance=simulated.CHANCE)
    fine = [
        (c.cell.batch_size, c.cell.arm)
        for arm in summary.arms
        for c in arm.cells
        if c.mean_with_failures.value >= advice.threshold
    ]
    size, arm = max(fine)
    known = next(a for a in advice.arms if a.arm == arm)
    return dataclasses.replace(known.recommendation or advice.best, arm=arm, batch_size=size)


def one_advice(cells, arms):
    level = level_for_all(LEVEL, arms)
    summary, strict = (
        summarize_cells(cells, "arm0", simulated.DELTA, at, chance=simulated.CHANCE)
        for at in (LEVEL, level)
    )
    return advise_summary(summary, summary if level == LEVEL else strict, name="s")


def just_below(setting, size):
    """The midpoint with which the true cliff lies just below a batch size of the grid: the
    case in which an error is easiest."""
    k = simulated.SIZES.index(size)
    low, high = 5.0, 11.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = simulated.population(setting, middle, setting.width).mean
        low, high = (low, middle) if mean[k] > mean[0] - simulated.DELTA else (middle, high)
    return low - 0.01


def too_large(choose, setting, seeds, arms, studies=STUDIES):
    """Share of simulated studies in which the recommended batch lies above the true cliff."""
    rng, wrong = np.random.default_rng(11), 0
    midpoint = just_below(setting, 128)
    for _ in range(studies):
        populations = [simulated.population(setting, midpoint, setting.width)] * arms
        curves = simulated.draw_study(setting, populations, seeds, rng)
        cells = [c for i, curve in enumerate(curves) for c in cells_of_curve(f"arm{i}", curve)]
        mean = populations[0].mean
        cliff = simulated.true_tolerance(mean, mean[0] - simulated.DELTA)
        best = choose(cells, arms)
        wrong += best is not None and math.log2(best.batch_size) > cliff
    return wrong / studies


def most(share, studies=STUDIES):
    """4 standard deviations over the share: a true one fails once in 30,000 new seeds."""
    return share + 4 * math.sqrt(share * (1 - share) / studies)


@pytest.mark.parametrize(("arms", "studies"), [(1, STUDIES), (4, 50)])
@pytest.mark.parametrize("name", ["gradual", "bimodal"])
def test_the_recommended_batch_is_rarely_above_the_cliff(name, arms, studies):
    found = too_large(by_interval, SETTINGS[name], 3, arms, studies)
    assert found <= most(1 - LEVEL, studies)


@pytest.mark.parametrize("name", ["gradual", "bimodal"])
def test_advice_from_the_mean_curve_alone_is_caught(name):
    assert too_large(by_mean, SETTINGS[name], 3, 1, 50) > most(1 - LEVEL, 50)


def test_the_simulated_cliff_is_where_it_should_be():
    for name in ("gradual", "bimodal"):
        setting = SETTINGS[name]
        mean = simulated.population(setting, just_below(setting, 128), setting.width).mean
        cliff = simulated.true_tolerance(mean, mean[0] - simulated.DELTA)
        assert 6.9 < cliff < 7


# --- one study at a time

# So many seeds that the interval lies close to the fall; with a few, failures that did not
# happen are still possible, and the lower end lies about an octave below.
GOOD = [0.97, 0.972, 0.968, 0.971] * 40
BAD = [0.3, 0.35, 0.31, 0.28] * 40


def test_the_largest_run_batch_below_the_lower_end_and_why_not_more():
    advice = advice_of({"none": {32: GOOD, 64: GOOD, 128: BAD, 256: BAD}})
    (arm,) = advice.arms
    assert advice.best.batch_size == 64
    assert arm.basis == "interval" and arm.safe_up_to == arm.cliff.low >= 64
    assert [(x.how, x.cell.cell.batch_size) for x in arm.limits] == [("fails", 128)]
    size, low, high = arm.interpolated or (64, 64, 128)
    assert (low, high) == (64, 128) and 64 <= size < 128
    assert any("between 64 and 128: none was run" in text for text in arm.untested)


def test_a_cell_within_tolerance_may_still_not_be_shown_to_be_safe():
    """The bound decides and not the cell's mean: four seeds without a failure are few."""
    few = {32: GOOD[:4], 64: GOOD[:4], 128: GOOD[:4], 256: BAD[:4]}
    advice = advice_of({"none": few})
    (arm,) = advice.arms
    assert advice.best.batch_size < 128 < arm.cliff.value
    hows = {x.cell.cell.batch_size: x.how for x in arm.limits}
    assert hows[128] == "uncertain" and hows[256] == "fails"


def test_a_fall_without_failures_is_told_from_failures():
    low = [value - 0.1 for value in GOOD]
    (arm,) = advice_of({"none": {32: GOOD, 64: GOOD, 128: low, 256: BAD}}).arms
    assert [(x.how, x.cell.cell.batch_size) for x in arm.limits] == [("falls", 128)]


def test_never_a_batch_that_was_not_run():
    """A cell without a measured trial is skipped, whatever its neighbours say."""
    lost = [None, None, "oom", "timeout", "failed"]
    advice = advice_of({"none": {32: GOOD, 64: GOOD, 128: lost, 256: lost}})
    assert advice.best.batch_size == 64
    (arm,) = advice.arms
    assert arm.cliff.censored == "above" and arm.largest_run == 64 and not arm.limits
    told = [text for text in arm.untested if text.startswith("batch size 128")]
    assert told == [
        "batch size 128: planned, nothing measured (2 missing, 1 oom, 1 timeout, 1 failed)"
    ]
    assert (advice.planned, advice.missing) == (330, 4)


def test_no_cliff_on_the_grid_gives_the_largest_and_says_that_it_is_beyond():
    advice = advice_of({"none": {32: GOOD, 64: GOOD, 128: GOOD}})
    (arm,) = advice.arms
    assert advice.best.batch_size == 128 and arm.interpolated is None
    assert arm.cliff.unbounded == "high" and not arm.limits
    assert any("above 128: none was run, and the cliff is beyond" in t for t in arm.untested)


def test_one_seed_takes_the_lower_end_of_the_bracket():
    advice = advice_of({"none": {32: [0.97], 64: [0.97], 128: [0.3]}})
    assert (advice.best.batch_size, advice.arms[0].basis) == (64, "bracket")
    assert not advice.best.accuracy.has_interval
    assert any("one seed a cell" in text for text in advice.untested)


def test_one_seed_without_a_fall():
    advice = advice_of({"none": {32: [0.97], 64: [0.97]}})
    assert (advice.best.batch_size, advice.arms[0].basis) == (64, "one seed, not reached")


@pytest.mark.parametrize("ending", ["diverged", "failed", None])
def test_where_all_fail_nothing_is_recommended(ending):
    advice = advice_of({"none": {32: [ending] * 3, 64: [ending] * 3}})
    assert advice.best is None
    assert advice.arms[0].problem and advice.arms[0].safe_up_to is None
    assert not advice.arms[0].limits


def test_an_arm_that_is_bad_from_the_start_is_not_recommended():
    advice = advice_of(
        {"none": {32: GOOD, 64: GOOD, 128: BAD}, "warmup": {32: BAD, 64: BAD, 128: BAD}}
    )
    assert advice.best.arm == "none"
    warmup = advice.arms[1]
    assert warmup.recommendation is None and "may lie below 32" in warmup.problem


def test_the_arm_that_is_safe_furthest_is_best_and_a_tie_goes_to_the_first():
    falls = {32: GOOD, 64: GOOD, 128: BAD, 256: BAD}
    holds = {32: GOOD, 64: GOOD, 128: GOOD, 256: BAD}
    advice = advice_of({"none": falls, "warmup": holds})
    assert (advice.best.arm, advice.best.batch_size) == ("warmup", 128)
    same = advice_of({"none": falls, "lars": falls})
    assert same.best.arm == "none"


def test_many_arms_are_chosen_among_at_a_stricter_level():
    assert level_for_all(0.95, 1) == level_for_all(0.95, 2) == 0.95
    assert level_for_all(0.95, 5) == pytest.approx(0.98)
    table = {arm: {32: GOOD, 64: GOOD, 128: BAD} for arm in ("none", "a", "b", "c")}
    advice = advice_of(table)
    assert advice.best_level == pytest.approx(0.975) and advice.level == 0.95
    assert advice.best.accuracy.level == 0.95  # its numbers are those of the tables


# --- against the reference


def timed(arm, size, seed, accuracy, *, rate, device="cpu", stacked=1, updates=10):
    ledger = dataclasses.replace(make_ledger(), updates=updates, examples=size * updates)
    where = Provenance(
        seconds=1.0,
        compile_seconds=0.0,
        examples_per_second=rate,
        started="2026-01-01T00:00:00Z",
        stacked=stacked,
        device=device,
    )
    record = make_record(arm, size, seed, accuracy, provenance=where)
    return dataclasses.replace(record, ledger=ledger)


def timed_advice(**reference):
    records = []
    for s in range(80):
        records.append(
            timed("none", 32, s, 0.97, rate=320.0 * (s + 1), updates=64, **reference)
        )
        records.append(timed("none", 64, s, 0.965, rate=1280.0 * (s + 1), updates=32))
        records.append(timed("none", 128, s, 0.2, rate=1.0, updates=16))
    planned = [record.spec for record in records]
    return advise(records, planned, study_spec(["none"]))


def test_speed_is_paired_by_seed_and_counts_whole_trials():
    best = timed_advice().best
    assert (best.batch_size, best.speed.updates, best.speed.reference_updates) == (64, 32, 64)
    # 64 x 32 examples at 320/s against 32 x 64 at 1,280/s, whatever the seed
    assert best.speed.seconds.value == pytest.approx(4.0)
    assert best.speed.seconds.low == pytest.approx(4.0) and best.speed.device == "cpu"
    assert best.difference.value == pytest.approx(-0.005)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ({"device": "gpu"}, "different devices: cpu, gpu"),
        ({"stacked": 4}, "shared the device with unequally many"),
    ],
)
def test_seconds_of_other_machines_are_not_compared(reference, why):
    speed = timed_advice(**reference).best.speed
    assert speed.seconds.value is None and why in speed.seconds.note
    assert speed.updates == 32


def test_the_reference_itself_has_nothing_to_be_compared_with():
    advice = advice_of({"none": {32: GOOD, 64: BAD, 128: BAD}})
    assert advice.best.batch_size == advice.reference_batch_size == 32
    assert advice.best.difference is None and advice.best.speed is None


def test_the_reference_is_where_the_rate_was_given():
    table = {"none": {16: GOOD, 32: GOOD, 64: BAD, 128: BAD}}
    assert advice_of(table).reference_batch_size == 32
    other = advice_of(table, lr=LrRule(base=0.1, base_batch_size=1000))
    assert other.reference_batch_size == 16


def test_rates_that_were_tried_are_told_from_one_by_a_rule():
    table = {"none": {32: GOOD, 64: GOOD, 128: BAD}}
    rule = LrRule(base=0.2, base_batch_size=32, tune=(0.1, 0.2, 0.4))
    told = " ".join(advice_of(table, lr=rule).untested)
    assert "but those tried at each batch size: base 0.1, 0.2, 0.4" in told
    assert "ran at one" not in told
    assert "ran at one, by the rule 0.1 at 32 (linear)" in " ".join(advice_of(table).untested)


def test_mixed_numerics_are_noted():
    records = [
        timed("none", size, s, value, rate=1.0)
        for size, value in ((32, 0.97), (64, 0.97))
        for s in range(2)
    ]
    first = dataclasses.replace(records[0].provenance, numerics=(("tf32", "on"),))
    records[0] = dataclasses.replace(records[0], provenance=first)
    advice = advise(records, [r.spec for r in records], study_spec(["none"]))
    assert any("mixed numerics: tf32" in note for note in advice.notes)


def test_a_shared_record_serves_both_arms_under_their_own_names():
    """An arm's name is a label: the trial of a recommendation has its own arm's."""
    planned = [make_spec("none", size, 0) for size in (32, 64)]
    records = [make_record("none", p.batch_size, p.seed, 0.97) for p in planned]
    twins = [dataclasses.replace(p, arm="twin") for p in planned]
    assert {t.trial_id for t in twins} == {p.trial_id for p in planned}
    advice = advise(records, [*planned, *twins], study_spec(["none", "twin"]))
    assert [a.recommendation.trial.arm for a in advice.arms] == ["none", "twin"]
