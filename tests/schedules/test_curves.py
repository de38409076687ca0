"""Shapes: their ends, their laws, slow twins, and torch's own numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchcliff.errors import UsageError
from batchcliff.schedules import curves
from batchcliff.schedules.curves import warmup_factor, warmup_factors

RISING = st.sampled_from(["linear", "exponential", "cosine"])
SHAPES = st.sampled_from(sorted(curves.WARMUP_SHAPES))
STARTS = st.one_of(st.none(), st.floats(1e-6, 1.0))


@given(shape=RISING, count=st.integers(1, 300), start=STARTS)
@example(shape="linear", count=5, start=0.0)
@example(shape="cosine", count=5, start=0.0)
def test_law_from_start_to_exactly_one(shape: str, count: int, start: float | None) -> None:
    table = [warmup_factor(t, count, shape, start) for t in range(count + 3)]
    first = 1 / count if start is None else start
    assert table[0] == (first if count > 1 else 1.0)
    assert table[count - 1 :] == [1.0] * 4
    assert table == sorted(table)
    if count > 1:
        assert all(factor <= 1 for factor in table)


@given(shape=SHAPES, index=st.integers(0, 50), start=STARTS)
def test_law_no_warmup_is_the_identity(shape: str, index: int, start: float | None) -> None:
    assert warmup_factor(index, 0, shape, start) == 1.0


@given(shape=SHAPES, count=st.integers(0, 100), start=STARTS)
def test_twin_table(shape: str, count: int, start: float | None) -> None:
    one_by_one = [warmup_factor(t, count, shape, start) for t in range(count)]
    assert warmup_factors(count, shape, start) == one_by_one


@given(count=st.integers(1, 2000))
def test_law_linear_default_is_t_plus_one_over_w_to_the_last_bit(count: int) -> None:
    assert warmup_factors(count, "linear") == [(t + 1) / count for t in range(count)]


@given(count=st.integers(2, 200), start=st.integers(0, 100))
def test_twin_linear_is_correctly_rounded(count: int, start: int) -> None:
    first = Fraction(start, 100)
    expected = [float(first + (1 - first) * t / (count - 1)) for t in range(count - 1)]
    assert warmup_factors(count, "linear", start / 100) == [*expected, 1.0]


@given(count=st.integers(3, 100), start=st.floats(1e-4, 0.9))
def test_law_exponential_is_straight_on_a_log_scale(count: int, start: float) -> None:
    table = warmup_factors(count, "exponential", start)
    ratios = [b / a for a, b in pairwise(table)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-12)


@given(count=st.integers(2, 100), start=st.floats(0, 0.9))
def test_law_cosine_is_point_symmetric(count: int, start: float) -> None:
    table = warmup_factors(count, "cosine", start)
    sums = [a + b for a, b in zip(table, reversed(table), strict=True)]
    assert sums == pytest.approx([1 + start] * count, rel=1e-12)


def test_golden_article_staircase() -> None:
    article = [10 ** (-2 + 0.4 * epoch) for epoch in range(6)]
    table = warmup_factors(6, "exponential", 0.01)
    assert table == pytest.approx(article, rel=1e-15)
    assert (table[0], table[5]) == (0.01, 1.0)
    assert [round(factor, 4) for factor in table] == [0.01, 0.0251, 0.0631, 0.1585, 0.3981, 1.0]


def test_constant_holds_its_start_for_all_of_count() -> None:
    assert [warmup_factor(t, 3, "constant", 0.1) for t in range(5)] == [0.1] * 3 + [1.0] * 2
    assert warmup_factor(0, 1, "constant", 0.1) == 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((5, "liner", None), "unknown warmup shape 'liner'. Did you mean 'linear'?"),
        ((-1, "linear", None), "cannot be negative"),
        ((5, "linear", -0.1), "warmup start = -0.1"),
        ((5, "linear", math.nan), "warmup start = nan"),
        ((5, "linear", math.inf), "warmup start = inf"),
        ((5, "linear", 1.001), "warmup start = 1.001: write a factor of the peak from 0 to 1"),
        ((5, "constant", 10**400), "warmup start = 1000"),
        ((5, "exponential", 0.0), "it cannot leave 0"),
    ],
)
def test_refused(arguments: tuple[int, str, float | None], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        warmup_factor(0, *arguments)
    assert says in str(caught.value)


FALLING = {
    "linear": curves.linear_decay,
    "exponential": curves.exponential_decay,
    "cosine": curves.cosine_decay,
    "polynomial": curves.polynomial_decay,
}


@given(name=st.sampled_from(sorted(FALLING)), count=st.integers(1, 200))
def test_law_decays_fall_from_one_and_end_after_the_run(name: str, count: int) -> None:
    curve = FALLING[name]
    table = [curve(t, count) for t in range(count + 2)]
    assert table[0] == 1.0
    assert table == sorted(table, reverse=True)
    end = 0.01 if name == "exponential" else 0.0
    assert table[count] == table[count + 1] == pytest.approx(end, abs=1e-15)
    assert table[count - 1] > end + 1e-9  # no update is spent at the end value


@given(count=st.integers(1, 50), end=st.floats(0.001, 0.9), t=st.integers(0, 60))
def test_twin_decays_with_an_end(count: int, end: float, t: int) -> None:
    share = min(t / count, 1.0)
    assert curves.linear_decay(t, count, end) == pytest.approx(1 - (1 - end) * share)
    assert curves.exponential_decay(t, count, end) == pytest.approx(
        math.exp(math.log(end) * share)
    )
    assert curves.cosine_decay(t, count, end) == pytest.approx(
        end + (1 - end) * (1 + math.cos(math.pi * share)) / 2
    )
    assert curves.polynomial_decay(t, count, 3.0, end) == pytest.approx(
        end + (1 - end) * (1 - share) ** 3
    )


def test_multistep_takes_the_power_of_the_decimal() -> None:
    table = [curves.multistep_decay(t, [2, 4]) for t in range(6)]
    assert table == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert 0.1 * 0.1 != 0.01  # what a product of floats would have given
    assert curves.multistep_decay(3, [2, 2]) == 0.01  # both steps in one update


@given(warmup=st.integers(1, 50), t=st.integers(0, 300))
def test_twin_inverse_sqrt_is_the_transformer_schedule(warmup: int, t: int) -> None:
    step = t + 1
    vaswani = min(step**-0.5, step * warmup**-1.5) / warmup**-0.5
    ours = warmup_factor(t, warmup, "linear") * curves.inverse_sqrt_decay(t, warmup)
    assert ours == pytest.approx(vaswani, rel=1e-12)


@given(warmup=st.integers(0, 9), flat=st.integers(0, 9), decay=st.integers(1, 9))
def test_law_warmup_stable_decay_has_three_parts(warmup: int, flat: int, decay: int) -> None:
    count = warmup + flat + decay
    table = [curves.warmup_stable_decay(t, count, warmup, decay) for t in range(count)]
    assert table[:warmup] == [(t + 1) / warmup for t in range(warmup)]
    assert table[warmup : warmup + flat + 1] == [1.0] * (flat + 1)
    assert table[warmup + flat :] == pytest.approx([1 - t / decay for t in range(decay)])


def test_decays_refuse_what_has_no_meaning() -> None:
    with pytest.raises(UsageError, match="never gets to 0"):
        curves.exponential_decay(0, 10, 0.0)
    with pytest.raises(UsageError, match="power above 0"):
        curves.polynomial_decay(0, 10, 0.0)
    with pytest.raises(UsageError, match="longer than the run: 10"):
        curves.warmup_stable_decay(0, 10, 6, 5)
    with pytest.raises(UsageError, match="timescale = 0"):
        curves.inverse_sqrt_decay(0, 0)
    with pytest.raises(UsageError, match="the peak lies outside of the run"):
        curves.one_cycle(0, 3, rise=0.3)
    assert curves.constant_decay(5, 10) == 1.0


@pytest.mark.parametrize("count", [10, 37, 200])
def test_golden_one_cycle_is_torchs(count: int) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=count, cycle_momentum=False
    )
    theirs = []
    for _ in range(count):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [curves.one_cycle(t, count) for t in range(count)]
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-15)
