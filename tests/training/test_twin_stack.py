"""A trial trained beside others has the bits that it has beside any others, or repeated.

From two networks on, and for widths that are multiples of 8: fewer channels than a vector
holds are summed in another order according to where they lie. The first convolution of a
single network, or of three with one input channel each, is another kernel on some
processors; so the worker pads, and no stack of three of those is compared here.
"""

from __future__ import annotations

import pytest
import torch
from small_trials import (
    ARTICLE_WARMUP,
    SMALL,
    Run,
    facts,
    ready,
    run,
    small_data,
    small_spec,
    with_settings,
)

from batchcliff.record import Outcome
from batchcliff.spec import Settings, TrialSpec

NARROW = with_settings(SMALL, model__widths=((8,), (8, 16)))
DIGITS_LIKE = with_settings(SMALL, model__widths=((8,), (8, 8), (8, 8, 128)))
KERAS_WRITTEN = with_settings(
    NARROW, loss="clipped-softmax", augmentation="as-written", remainder="drop"
)
CODED = with_settings(
    NARROW,
    augmentation="as-coded",
    optimizer__form="torch",
    optimizer__nesterov=True,
    optimizer__weight_decay=1e-3,
    model__init="torch",
)
SMOOTHED = with_settings(NARROW, label_smoothing=0.1, augmentation="as-coded", cutout=3)
ERASED = with_settings(KERAS_WRITTEN, label_smoothing=0.2, random_erasing=0.7)
# settings, image shape, batch size, classes: 10 classes, as 4 networks' biases fill a vector
CASES: dict[str, tuple[Settings, tuple[int, int, int], int, int]] = {
    "grey": (NARROW, (8, 8, 1), 10, 4),
    "colour": (KERAS_WRITTEN, (8, 8, 3), 16, 10),
    "digits-like": (DIGITS_LIKE, (8, 8, 1), 32, 10),
    "coded": (CODED, (8, 8, 3), 7, 5),
    "smoothed": (SMOOTHED, (8, 8, 1), 10, 10),
    "erased": (ERASED, (8, 8, 3), 16, 10),
}


def trial(settings: Settings, batch: int, seed: int = 0, lr: float = 0.1) -> TrialSpec:
    return small_spec(settings=settings, batch_size=batch, seed=seed, lr=lr, budget="3ep")


def differences(one: Run, i: int, other: Run, j: int) -> list[str]:
    """What is not bit for bit the same in network i of one and j of the other."""
    found = [] if torch.equal(one.losses[:, i], other.losses[:, j]) else ["losses"]
    if facts(one.records[i]) != facts(other.records[j]):
        found.append("record")
    ours, theirs = one.state(i), other.state(j)
    return found + [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("name", CASES)
def test_neighbours_and_places_make_no_difference(name: str) -> None:
    """Stacks of 2, 3, 4 and 6, every place, other seeds and rates beside, one diverging."""
    settings, shape, batch, classes = CASES[name]
    resident = small_data(train=64, shape=shape)

    def stacked(specs: list[TrialSpec], stack: int) -> Run:
        return run(specs, resident, prepared=ready(specs[0], resident, stack, classes=classes))

    spec = trial(settings, batch)
    padded = stacked([spec], 2)  # as the worker does with one
    assert padded.records[0].outcome is Outcome.OK
    for stack in (2, 3, 4, 6):
        if stack == 3 and shape[2] == 1:
            continue
        for place in range(stack):
            specs = [trial(settings, batch, 10 + i, 0.05 * (i + 1)) for i in range(stack)]
            specs[(place + 1) % stack] = trial(settings, batch, 99, 1e30)
            specs[place] = spec
            beside = stacked(specs, stack)
            assert differences(padded, 0, beside, place) == [], (stack, place)
            assert beside.records[(place + 1) % stack].outcome is Outcome.DIVERGED
            if stack > 2:
                assert "losses" in differences(padded, 0, beside, place - 1)


def test_arms_of_a_stack_keep_their_own_rates() -> None:
    """Warmup and none side by side equal each of them padded by itself."""
    resident = small_data(train=64)
    specs = [
        small_spec(settings=NARROW, lr=0.2, budget="8ep", techniques=techniques, seed=1)
        for techniques in ((), ARTICLE_WARMUP)
    ]
    both = run(specs, resident)
    for place, spec in enumerate(specs):
        assert differences(run([spec], resident, stack=2), 0, both, place) == []
    assert both.records[0].curves.lr[0] == 0.2
    assert both.records[1].curves.lr[0] == pytest.approx(0.002)
    assert both.losses[0, 0] == both.losses[0, 1]  # same weights, same first batch
    assert both.losses[1, 0] != both.losses[1, 1]


def test_slots_beyond_the_last_trial_repeat_it() -> None:
    resident = small_data(train=64)
    three = [trial(NARROW, 10, seed) for seed in range(3)]
    padded = run(three, resident, stack=4)
    assert [r.spec.seed for r in padded.records] == [0, 1, 2]
    whole = run([*three, three[-1]], resident)
    for place in range(3):
        assert differences(padded, place, whole, place) == []
    assert differences(padded, 2, whole, 3) == []


def test_a_prepared_stack_forgets_the_former_trials() -> None:
    """Trials one after the other on one prepared shape equal those on a fresh one."""
    resident = small_data(train=64)
    prepared = ready(trial(NARROW, 10), resident, stack=2)
    run([trial(NARROW, 10, 5, 1e30), trial(NARROW, 10, 6)], resident, prepared=prepared)
    again = run([trial(NARROW, 10, 0), trial(NARROW, 10, 1)], resident, prepared=prepared)
    fresh = run([trial(NARROW, 10, 0), trial(NARROW, 10, 1)], resident)
    assert differences(again, 0, fresh, 0) == []
    assert differences(again, 1, fresh, 1) == []


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3)])
def test_alone_agrees_up_to_rounding(shape: tuple[int, int, int]) -> None:
    """One network by itself takes other kernels: not the same bits, but the same numbers."""
    resident = small_data(train=64, shape=shape)
    spec = trial(NARROW, 16)
    alone, padded = run([spec], resident, stack=1), run([spec], resident, stack=2)
    torch.testing.assert_close(alone.losses[:, 0], padded.losses[:, 0], rtol=1e-4, atol=1e-5)
    for name, value in alone.state(0).items():
        torch.testing.assert_close(value, padded.state(0)[name], rtol=1e-3, atol=1e-4)
