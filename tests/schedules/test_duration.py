"""Durations and the clock: exact, refused where they are not meant, right at the edges."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.duration import Clock, Duration, parse_duration

REMAINDERS = st.sampled_from(["drop", "carry"])


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5ep", 5, "ep"),
        ("0.29ep", Fraction(29, 100), "ep"),
        (".5ep", Fraction(1, 2), "ep"),
        ("1/3ep", Fraction(1, 3), "ep"),
        ("200up", 200, "up"),
        ("200", 200, "up"),
        (200, 200, "up"),
        (0, 0, "up"),
        (" 64000 ex ", 64000, "ex"),
        ("5%", 5, "%"),
        ("100%", 100, "%"),
        ("12.5 %", Fraction(25, 2), "%"),
    ],
)
def test_golden_parsed(text: str | int, value: Fraction, unit: str) -> None:
    assert parse_duration(text) == Duration(Fraction(value), unit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5 epochs", "Write '5ep' (epochs)"),
        ("5EP", "Write '5ep'"),
        ("200ba", "Write '200up' (updates)"),
        ("200 steps", "Write '200up'"),
        ("64000sp", "Write '64000ex' (examples)"),
        ("0.05dur", "Write '5%'"),
        ("5 percent", "Write '5%'"),
        ("0.05", "Write '0.05ep' (epochs) or '5%' (of the run)"),
        ("2.5", "Write '2.5ep' (epochs)."),
        ("5lightyears", "unknown unit 'lightyears'"),
        ("-5ep", "cannot be negative"),
        (-1, "cannot be negative"),
        ("2.5up", "updates come whole"),
        ("0.5ex", "examples come whole"),
        ("101%", "longer than the run"),
        ("1/0ep", "not a fraction"),
        ("nan", "not understood"),
        ("inf", "not understood"),
        ("1e3up", "not understood"),
        ("5ep 2", "not understood"),
        ("", "not understood"),
        ("ep", "not understood"),
        ("\uff15ep", "not understood"),  # a full-width 5
        ("9" * 9999 + "ep", "not understood"),
        (True, "neither a text nor a whole number"),
        (2.5, "neither a text nor a whole number"),
        (None, "neither a text nor a whole number"),
    ],
)
def test_refused_with_a_hint(text: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_float_is_no_exact_length() -> None:
    with pytest.raises(UsageError, match="a Fraction is needed"):
        Duration(0.29, "ep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown unit 'dur'"):
        Duration(Fraction(1), "dur")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be negative"):
        Duration(Fraction(-1), "ep")


@given(
    numerator=st.integers(0, 10**6),
    denominator=st.integers(1, 10**4),
    unit=st.sampled_from(["ep", "%"]),
)
def test_law_text_and_value_are_inverse(numerator: int, denominator: int, unit: str) -> None:
    value = Fraction(numerator, denominator)
    if unit == "%":
        value = min(value, Fraction(100))
    duration = Duration(value, unit)
    assert parse_duration(str(duration)) == duration


def test_golden_text() -> None:
    assert [str(parse_duration(t)) for t in ("05.50ep", "2/4ep", "4/3ep", 7)] == [
        "5.5ep",
        "0.5ep",
        "4/3ep",
        "7up",
    ]


@given(
    n=st.integers(1, 500),
    batch=st.integers(1, 600),
    hundredths=st.integers(0, 2000),
    remainder=REMAINDERS,
)
def test_twin_updates_are_the_fewest_that_suffice(
    n: int, batch: int, hundredths: int, remainder: str
) -> None:
    if remainder == "drop" and batch > n:
        return
    clock = Clock(n, batch, remainder)
    shown = n // batch * batch if remainder == "drop" else n  # examples shown in an epoch
    updates = 0
    while 100 * updates * batch < hundredths * shown:  # integers only
        updates += 1
    assert clock.updates(Duration(Fraction(hundredths, 100), "ep")) == updates


def test_golden_lengths() -> None:
    assert Clock(100, 1).updates("0.29ep") == 29  # int(0.29 * 100) is 28
    clock = Clock(50_000, 8192)
    assert (clock.updates("5ep"), clock.updates("1ex"), clock.updates("8193ex")) == (30, 1, 2)
    assert clock.updates("200up") == clock.updates(200) == 200
    assert clock.updates("0ep") == 0
    carry = Clock(50_000, 8192, "carry")
    assert carry.updates_per_epoch == Fraction(50_000, 8192)
    assert carry.updates("5ep") == 31  # 30.5 of them
    assert clock.with_budget("100ep").total == 600
    assert clock.with_budget("100ep").updates("60%") == 360
    assert [Clock(9, 3, total=7).updates(share) for share in ("10%", "50%", "58%")] == [1, 4, 5]
    assert carry.with_budget("100ep").total == 611
    assert clock.with_budget("100ep").with_budget("10up").total == 10


@pytest.mark.parametrize(
    ("batch", "per_epoch"),
    [(128, 390), (256, 195), (512, 97), (1024, 48), (2048, 24), (4096, 12), (8192, 6)],
)
def test_golden_article_updates(batch: int, per_epoch: int) -> None:
    clock = Clock(50_000, batch).with_budget("100ep")
    assert clock.updates_per_epoch == per_epoch
    assert clock.total == 100 * per_epoch


@given(n=st.integers(1, 300), batch=st.integers(1, 700), remainder=REMAINDERS)
def test_twin_epochs(n: int, batch: int, remainder: str) -> None:
    if remainder == "drop" and batch > n:
        return
    clock = Clock(n, batch, remainder)
    expected = []
    for update in range(40):
        dropping = remainder == "drop"  # what is dropped counts as passed
        expected.append(update // (n // batch) if dropping else update * batch // n)
    assert [clock.epoch_of(update) for update in range(40)] == expected
    for epoch in range(5):
        end = clock.epoch_end(epoch)
        assert clock.epoch_of(end) > epoch
        assert end == 0 or clock.epoch_of(end - 1) <= epoch


def test_sizes_are_checked() -> None:
    with pytest.raises(Infeasible, match="batch size 64 is larger than the 50 examples"):
        Clock(50, 64)
    assert Clock(50, 64, "carry").updates("1ep") == 1
    for size in (0, -1, 2.0, True, "3"):
        with pytest.raises(UsageError, match=r"batch_size = .*positive whole number"):
            Clock(50, size)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="write 'drop' or 'carry'"):
        Clock(50, 5, "keep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="with_budget"):
        Clock(50, 5).updates("5%")
    with pytest.raises(UsageError, match="cannot be a share of itself"):
        Clock(50, 5, total=10).with_budget("5%")
    with pytest.raises(UsageError, match="has no update"):
        Clock(50, 5).with_budget("0ep")


def test_clock_is_a_frozen_value() -> None:
    assert Clock(50, 5) == Clock(50, 5, "drop", None)
    assert hash(Clock(50, 5)) == hash(Clock(50, 5))
    assert math.ceil(Clock(50, 7, "carry").updates_per_epoch) == 8
