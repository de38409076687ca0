"""Decays by name: against the curves that they stand for, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules import Clock, Warmup, factors
from batchcliff.schedules.curves import cosine_decay, one_cycle, warmup_stable_decay
from batchcliff.schedules.decays import DECAYS, LENGTHS
from batchcliff.spec import Decay

CLOCK = Clock(10, 1).with_budget("40up")


def table(kind: str, warmup: int = 10, **options: Any) -> list[float]:
    rise = Warmup(duration=warmup) if warmup else None
    return factors(CLOCK, rise, Decay(kind=kind, **options))


def test_golden_kinds() -> None:
    t = [index / 30 for index in range(30)]
    ramp = [(i + 1) / 10 for i in range(10)]
    expected = {
        "constant": [1.0] * 30,
        "linear": [1 - x for x in t],
        "cosine": [(1 + math.cos(math.pi * x)) / 2 for x in t],
        "polynomial": [1 - x for x in t],
        "inverse-sqrt": [math.sqrt(10 / (i + 1)) for i in range(10, 40)],
    }
    for kind, rest in expected.items():
        assert table(kind) == pytest.approx([*ramp, *rest]), kind
    assert table("exponential", floor=0.01) == pytest.approx([*ramp, *(0.01**x for x in t)])


def test_golden_options() -> None:
    assert table("cosine", floor=0.25)[20] == cosine_decay(10, 30, 0.25)
    assert table("linear", floor=0.25)[25] == pytest.approx(1 - 0.75 / 2)
    assert table("polynomial", power=2.0, floor=0.5)[25] == pytest.approx(0.5 + 0.5 * 0.25)
    steps = table("multistep", at=("50%", "30up"), factor=0.2)
    assert (steps[19], steps[20], steps[30], steps[39]) == (1.0, 0.2, 0.04, 0.04)
    assert table("inverse-sqrt", timescale="20up")[19:21] == [1.0, math.sqrt(20 / 21)]


def test_golden_a_milestone_in_the_warmup_lowers_what_is_left_of_it() -> None:
    assert table("multistep", 4, at=("2up",), factor=0.5)[:5] == [0.25, 0.5, 0.375, 0.5, 0.5]


@given(warmup=st.integers(0, 20), length=st.integers(1, 20))
def test_twin_stable_decay_is_the_whole_schedule_of_curves(warmup: int, length: int) -> None:
    ours = table("warmup-stable-decay", warmup, duration=f"{length}up", floor=0.1)
    assert ours == [warmup_stable_decay(t, 40, warmup, length, 0.1) for t in range(40)]


def test_twin_one_cycle() -> None:
    assert table("one-cycle", 0, rise=0.5) == [one_cycle(t, 40, 0.5) for t in range(40)]


NEEDED: dict[str, dict[str, Any]] = {
    "exponential": {"floor": 0.01},
    "multistep": {"at": ("60%",)},
    "warmup-stable-decay": {"duration": "20%"},
}


@pytest.mark.parametrize("kind", sorted(DECAYS))
def test_law_every_decay_rises_to_the_peak_and_falls_from_it(kind: str) -> None:
    found = table(kind, 0 if kind == "one-cycle" else 10, **NEEDED.get(kind, {}))
    peak = found.index(max(found))
    assert len(found) == 40
    assert all(a <= b for a, b in pairwise(found[: peak + 1]))
    assert all(a >= b for a, b in pairwise(found[peak:]))
    assert max(found) == pytest.approx(1.0)
    assert (found[-1] < 1.0) == (kind != "constant")


def test_every_option_of_a_decay_belongs_to_a_kind_and_the_reverse() -> None:
    of_kinds = {option for kind in DECAYS.values() for option in kind.options}
    assert of_kinds == {f.name for f in dataclasses.fields(Decay)} - {"kind"}
    assert set(LENGTHS) <= of_kinds
    for kind in DECAYS.values():
        assert set(kind.required) <= set(kind.options)
        assert kind.required == tuple(NEEDED.get(kind.name, {}))


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("cosin", {}, "unknown kind of decay 'cosin'. Did you mean 'cosine'?"),
        ("cosine", {"power": 2.0}, "decay power = 2.0 with kind 'cosine', which has none"),
        ("constant", {"floor": 0.1}, "write 'linear' or 'exponential' or 'cosine'"),
        ("linear", {"at": ("60%",)}, "write 'multistep'"),
        ("multistep", {"at": ("0.5",)}, "has no unit"),
        ("one-cycle", {}, "has a warmup of its own"),
        ("polynomial", {"power": 0.0}, "write a power above 0"),
        ("exponential", {}, "it never gets to 0"),
        ("warmup-stable-decay", {}, "duration is missing"),
    ],
)
def test_refused(kind: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        table(kind, **options)
    assert says in str(caught.value)


def test_a_decay_that_does_not_fit_the_run_is_infeasible() -> None:
    with pytest.raises(Infeasible, match=r"warmup of 10 and decay of 32 updates \('80%'\)"):
        table("warmup-stable-decay", duration="80%")
    with pytest.raises(Infeasible, match="no update before the peak"):
        table("one-cycle", 0, rise=0.02)
    with pytest.raises(UsageError, match="timescale is missing"):
        table("inverse-sqrt", 0)
