"""Derived randomness: the published generator, and what a value does not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.randomness import bits, derive, integers, permutation, uniform

MASK = 2**64 - 1
STREAMS = st.integers(0, MASK)


def splitmix(state: int, count: int) -> list[int]:
    """The reference's next(): state += golden; mix. In plain integers."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def test_golden_splitmix64() -> None:
    """Published vectors (Vigna's splitmix64.c, seed 1234567)."""
    assert bits(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(stream=STREAMS, count=st.integers(0, 20), start=st.integers(0, 2**40))
def test_twin_and_any_start(stream: int, count: int, start: int) -> None:
    """Value i is the same whether or not those before it are asked for."""
    state = (stream + start * 0x9E3779B97F4A7C15) & MASK
    assert bits(stream, count, start).tolist() == splitmix(state, count)


@given(stream=STREAMS, count=st.integers(1, 50), start=st.integers(0, 50))
def test_pieces_are_the_whole(stream: int, count: int, start: int) -> None:
    for function in (
        bits,
        uniform,
        lambda s, n, first=0: integers(s, n, 7, first),
    ):
        whole = function(stream, start + count)  # type: ignore[operator]
        assert np.array_equal(whole[start:], function(stream, count, start))  # type: ignore[operator]


@given(stream=STREAMS, below=st.integers(1, 1000))
def test_ranges(stream: int, below: int) -> None:
    values = uniform(stream, 100)
    assert values.dtype == np.float64
    assert ((values >= 0) & (values < 1)).all()
    whole = integers(stream, 100, below)
    assert whole.dtype == np.int64
    assert ((whole >= 0) & (whole < below)).all()
    assert np.array_equal(values * 2**53 % 1, np.zeros(100))  # 53 bits


def test_uniformity() -> None:
    """Chi-squared over 64 cells, the top and the low bits, and one value against the next."""
    count, cells = 64_000, 64
    for stream in (derive(0, "order", 0), derive(1, "init", "head")):
        values = uniform(stream, count)
        tables = [
            np.bincount((values * cells).astype(int), minlength=cells),
            np.bincount((values * 2**30 % 1 * cells).astype(int), minlength=cells),
            np.bincount(integers(stream, count, cells), minlength=cells),
            np.bincount(
                (values[:-1] * 8).astype(int) * 8 + (values[1:] * 8).astype(int),
                minlength=cells,
            ),
        ]
        for table in tables:
            expected = table.sum() / cells
            chi = float(((table - expected) ** 2 / expected).sum())
            assert 25 < chi < 115  # 63 degrees of freedom: beyond either end, 1 in 10,000
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(count)
        assert values.mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / count))


@given(stream=STREAMS, count=st.integers(0, 200))
def test_permutations(stream: int, count: int) -> None:
    order = permutation(stream, count)
    assert sorted(order.tolist()) == list(range(count))
    keys = bits(stream, count).tolist()
    assert order.tolist() == sorted(range(count), key=lambda i: (keys[i], i))


def test_permutations_are_fair() -> None:
    """Each example is as often in each place, over 2,000 epochs."""
    places = np.stack([permutation(derive(0, "order", e), 6) for e in range(2000)])
    for place in range(6):
        table = np.bincount(places[:, place], minlength=6)
        assert ((table - 2000 / 6) ** 2 / (2000 / 6)).sum() < 25.7  # 5 d.f., 1 in 10,000


def test_streams_of_different_names_differ() -> None:
    names = [
        (0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "init", 0),
        ("0", "order", 0), (0, "order", "0"), (0, "ord", "er", 0), (0, "order"), (0,),
        (10, 1), (1, 10), (101,), ("a", "b"), ("ab",), ("a\x1fb",),
    ]  # fmt: skip
    assert len({derive(*name) for name in names}) == len(names)
    assert all(0 <= derive(*name) <= MASK for name in names)
    firsts = {int(bits(derive(seed, "init"), 1)[0]) for seed in range(1000)}
    assert len(firsts) == 1000


def test_golden_derive() -> None:
    """Pinned: another value would change every trial's numbers under the same id."""
    assert derive(0, "order", 0) == 10355224389477023214
    assert derive(7, "init", "head", "weight") == 151375323315733395
    assert permutation(derive(0, "order", 0), 8).tolist() == [7, 1, 6, 0, 3, 5, 4, 2]
