"""The adaptive search finds what is there, at its price, and nothing but the trials decides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_studies import (
    ARMS,
    COARSE,
    DELTA,
    LADDER,
    SEEDS,
    Workload,
    error_octaves,
    rules,
    run,
)

from batchcliff.record import Outcome
from batchcliff.stats import search as module
from batchcliff.stats.cells import Ending
from batchcliff.stats.search import Wanted, decide

GRID = len(LADDER) * len(SEEDS)  # trials of an arm
STUDIES = 60
NOISY = {
    "step": {"width": 0.0},
    "sharp": {"width": 0.05},
    "half an octave": {"width": 0.1},  # from a tenth that collapse to nine tenths
    "gradual": {"width": 0.25, "gradual": True},
    "slow": {"width": 0.45, "gradual": True},
}


def workloads(number: int, arms: tuple[str, ...], **kind: object) -> dict[str, Workload]:
    """Cliffs anywhere between the third and the fifth octave, an octave apart by arm."""
    place = 9.0 + 2 * np.random.default_rng([3, number]).random()
    return {a: Workload(midpoint=place + k, **kind) for k, a in enumerate(arms)}  # type: ignore[arg-type]


def scores(
    kind: Mapping[str, object], arms: tuple[str, ...], seeds: tuple[int, ...] = SEEDS
) -> tuple[list[float], float]:
    """Errors in octaves over studies, arms and cliffs; the mean share of the grid's trials."""
    rule = rules(arms, seeds=seeds)
    errors, trials = [], 0
    for number in range(STUDIES):
        made = workloads(number, arms, **kind)
        endings, decision = run(rule, made, number)
        trials += len(endings)
        threshold = made[arms[0]].plateau - DELTA
        errors += [error_octaves(s, made[s.arm], threshold) for s in decision.sought]
    return errors, trials / (STUDIES * len(arms) * len(LADDER) * len(seeds))


# --- what it finds, and its price ----------------------------------------------------------


@pytest.mark.parametrize("kind", NOISY)
def test_both_cliffs_within_a_factor_of_sqrt_2_at_a_quarter_of_the_cost(kind: str) -> None:
    errors, cost = scores(NOISY[kind], ARMS)
    assert np.mean(np.array(errors) <= 0.5) >= 0.95
    assert cost <= 0.25


@pytest.mark.parametrize("place", np.linspace(8.3, 12.9, 8))
@pytest.mark.parametrize("gradual", [False, True])
def test_without_noise_the_cliff_lies_in_its_bracket(place: float, gradual: bool) -> None:
    one = Workload(midpoint=place, width=0.3 * gradual, noise=0.0, slope=0.0, gradual=gradual)
    endings, decision = run(rules(("none",)), {"none": one}, 0)
    truths = one.cliffs(one.plateau - DELTA)
    assert len(endings) <= GRID / 3
    for sought, truth in zip(decision.sought, truths, strict=True):
        low, high = sought.holds or 0, sought.falls or math.inf
        assert math.log2(max(low, 1)) <= truth + 2e-3 and truth <= math.log2(high) + 2e-3
        assert sought.over
        if sought.state == "found":
            assert LADDER.index(sought.falls) == LADDER.index(sought.holds) + 1  # type: ignore[arg-type]


def test_control_without_more_seeds_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed a size is cheaper, and finds the wrong cliff where trials collapse at random."""
    wide = {"width": 0.15}
    monkeypatch.setattr(module, "ABRUPT_TRIALS", 1)
    monkeypatch.setattr(module, "SURE", 0.0)
    errors, cost = scores(wide, ARMS)
    assert np.mean(np.array(errors) <= 0.5) < 0.9 and cost < 0.2


def test_control_a_search_that_stops_at_the_coarse_sizes_misses() -> None:
    coarse = rules(("none",), ladder={"none": COARSE[::2]})
    one = Workload(midpoint=9.05, width=0.0, noise=0.0)
    _, decision = run(coarse, {"none": one}, 0)
    assert error_octaves(decision.sought[1], one, one.plateau - DELTA) > 0.5


@pytest.mark.parametrize("kind", NOISY)
def test_with_five_seeds_the_share_is_smaller(kind: str) -> None:
    errors, cost = scores(NOISY[kind], ARMS, seeds=(0, 1, 2, 3, 4))
    assert np.mean(np.array(errors) <= 0.5) >= 0.95
    assert cost <= 0.2


# --- when a neighbour is settled -----------------------------------------------------------

PLATEAU = 0.9


def asked(values: dict[int, list[float]], seeds: int) -> set[Wanted]:
    """What is wanted after trials at these sizes, neighbours on the ladder; nan: diverged."""
    sizes = tuple(values)
    endings: dict[Wanted, Ending] = {
        Wanted("none", size, seed): (
            (Outcome.DIVERGED, None) if math.isnan(value) else (Outcome.OK, value)
        )
        for size, found in values.items()
        for seed, value in enumerate(found)
    }
    rule = rules(("none",), ladder={"none": sizes}, seeds=tuple(range(seeds)))
    return set(decide(rule, endings).wanted)


def test_a_mean_is_settled_when_the_seeds_left_cannot_move_it() -> None:
    """The spread is 0.005, the prior's. The four values have a mean 0.004 below the line of
    0.88. A fifth moves it by 0.005 * sqrt(1 / 4 - 1 / 5) = 0.0011, and 1.5 times that is less
    than 0.004; with a hundred seeds to come the mean may yet end above the line."""
    plateau = [PLATEAU] * 4
    below = [0.876] * 4
    assert asked({128: plateau, 184: below}, 5) == set()
    wide = [0.866, 0.886, 0.871, 0.881]
    assert asked({128: plateau, 184: wide}, 5) == set()
    assert asked({128: plateau, 184: wide}, 100) == {Wanted("none", 184, 4)}
    assert asked({128: plateau, 184: [0.876]}, 5) == {Wanted("none", 184, 1)}
    assert asked({128: plateau, 184: below}, 4) == set()  # there is none left


def test_a_majority_that_none_can_overturn_is_settled() -> None:
    """Of five, three decide; with 0.9 and chance 0.1 one collapse decides the tolerance."""
    nan = math.nan
    stands, split = [PLATEAU] * 2, [PLATEAU, nan, nan]
    assert asked({128: stands, 184: split}, 5) == {Wanted("none", 184, 3)}
    assert asked({128: stands, 184: [*split, nan]}, 5) == set()
    assert asked({128: stands, 184: split}, 3) == set()
    both = [PLATEAU, PLATEAU, nan]
    assert asked({128: stands, 184: both, 256: [nan, nan]}, 5) == {Wanted("none", 184, 3)}
    assert asked({128: stands, 184: [*both, PLATEAU], 256: [nan, nan]}, 5) == set()


# --- the ends that are no cliff ------------------------------------------------------------


@pytest.mark.parametrize(
    ("midpoint", "state"), [(20.0, "above"), (7.1, "found"), (12.99, "found")]
)
def test_the_ends_of_the_grid(midpoint: float, state: str) -> None:
    one = Workload(midpoint=midpoint, width=0.0, noise=0.0, slope=0.0)
    endings, decision = run(rules(("none",)), {"none": one}, 0)
    assert {s.state for s in decision.sought} == {state}
    if state == "above":
        assert len(endings) == 4  # the smallest, then the middle, and so on upwards


def test_an_arm_may_fall_below_the_grid_and_a_study_that_learns_nothing_ends() -> None:
    two = {
        "none": Workload(midpoint=10.0, width=0.0, noise=0.0),
        "warmup": Workload(midpoint=1.0, width=0.0, noise=0.0),
    }
    _, decision = run(rules(), two, 0)
    assert [s.state for s in decision.sought] == ["found", "found", "below", "below"]
    nothing = {arm: Workload(midpoint=1.0, width=0.0, noise=0.0) for arm in ARMS}
    endings, decision = run(rules(), nothing, 0)
    assert {s.state for s in decision.sought} == {"impossible"} and len(endings) == 4
    assert "nothing to fall from" in decision.lines[0]


def test_no_memory_ends_the_ladder_and_a_failed_trial_gets_its_next_seed() -> None:
    one = Workload(midpoint=20.0, width=0.0, noise=0.0, slope=0.0)
    endings: dict[Wanted, Ending] = {}
    while wanted := decide(rules(("none",)), endings).wanted:
        for trial in wanted:
            ending = one.trial(trial.batch_size, np.random.default_rng(0))
            if trial.batch_size > 2048:
                ending = (Outcome.OOM, None)
            elif (trial.batch_size, trial.seed) == (128, 0):
                ending = (Outcome.FAILED, None)
            endings[trial] = ending
    assert Wanted("none", 128, 1) in endings
    assert sum(outcome is Outcome.OOM for outcome, _ in endings.values()) <= 2
    assert decide(rules(("none",)), endings).sought[0].state == "above"
    assert decide(rules(("none",)), endings).sought[0].holds == 2048


# --- decisions -----------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.permutations(range(12)))
def test_it_ends_whatever_comes_out_and_the_order_of_trials_is_no_matter(
    number: int, at_once: int, order: list[int]
) -> None:
    rng = np.random.default_rng(number)
    rule = rules(at_once=at_once)
    endings: dict[Wanted, Ending] = {}
    while wanted := decide(rule, endings).wanted:
        assert len(set(wanted)) == len(wanted) and not set(wanted) & set(endings)
        for trial in wanted:
            assert trial.batch_size in LADDER and trial.seed in SEEDS
            u = rng.random()
            endings[trial] = (Outcome.OK, float(u)) if u > 0.2 else (Outcome.DIVERGED, None)
        items = list(endings.items())
        order_now = sorted(range(len(items)), key=lambda i: order[i % 12])
        shuffled = dict(items[i] for i in order_now)
        assert decide(rule, shuffled) == decide(rule, endings)
    assert len(endings) <= 2 * GRID
    assert all(s.over for s in decide(rule, endings).sought)


def test_more_at_once_asks_for_what_will_be_needed_next() -> None:
    """Workers are kept busy; the needed trials stay first, and the answer is the same."""
    made = workloads(5, ARMS, width=0.0, noise=0.0)
    one, many = rules(), rules(at_once=8)
    first = decide(many, {}).wanted
    assert first[: len(decide(one, {}).wanted)] == decide(one, {}).wanted and len(first) == 8
    few, found = run(one, made, 5)
    more, same = run(many, made, 5)
    assert len(few) < len(more)
    for a, b in zip(found.sought, same.sought, strict=True):
        assert abs(math.log2((a.at or 1) / (b.at or 1))) <= 0.5


def test_sizes_of_the_study_come_first_and_no_size_twice() -> None:
    made = workloads(1, ("none",), width=0.0, noise=0.0)
    rule, endings = rules(("none",)), dict[Wanted, Ending]()
    sizes: list[list[int]] = []
    while wanted := decide(rule, endings).wanted:
        for trial in wanted:
            endings[trial] = made["none"].trial(trial.batch_size, np.random.default_rng(0))
        sizes.append([trial.batch_size for trial in wanted if trial.seed == 0])
    order = list(itertools.chain.from_iterable(sizes))
    assert len(set(order)) == len(order)
    between = [size not in COARSE for size in order]
    assert not any(between[:3]) and sum(between) <= 2


def test_the_tolerance_decides_what_holds() -> None:
    """The same trials under another tolerance are another cliff."""
    one = Workload(midpoint=10.0, width=0.45, gradual=True, noise=0.0, slope=0.0)
    at = {}
    for delta in (0.02, 0.2):
        _, decision = run(rules(("none",), delta=delta), {"none": one}, 0)
        at[delta] = decision.sought[0].at
    assert at[0.02] < at[0.2]  # type: ignore[operator]
