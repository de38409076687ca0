"""Other libraries' warmups as tables; test_conventions_real.py has the libraries themselves."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import UsageError
from batchcliff.schedules.conventions import CONVENTIONS, compare, rates

LOG = [0, math.log(2) / math.log(5), math.log(3) / math.log(5), math.log(4) / math.log(5), 1]
# "Linear warmup over 5 updates to rate 1": what updates 1..8 of each library ran at.
MEASURED = {
    "batchcliff": [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1],
    "torch": [1 / 3, 0.4667, 0.6, 0.7333, 0.8667, 1, 1, 1],
    "torch-same": [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1],
    "pytorch-warmup": [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1],
    "transformers": [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "gradual-warmup": [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "timm": [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "optax": [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "keras": [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1],
    "ignite": [0, 0.25, 0.5, 0.75, 1, 1, 1, 1],
    "bolts": [0, 0.25, 0.5, 0.75, 1, 1, 1, 1],
    "nanogpt": [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1],
    "kozistr": [0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1],
    "goyal": [1 / 32, 0.225, 0.41875, 0.6125, 0.80625, 1, 1, 1],
    # The published formula, one update later: the first call of step() is at its index 0.
    "deepspeed-log": [0, *LOG, 1, 1],
    "deepspeed-linear": [0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1],
}


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_golden_five_updates(name: str) -> None:
    assert rates(name, 5, 8) == pytest.approx(MEASURED[name], abs=5e-5)


def test_golden_timm_default_never_reaches_the_peak() -> None:
    table = rates("timm-cosine", 5, 20)
    expected = [0, 0.2, 0.4, 0.6, 0.8, 0.854, 0.794, 0.727]
    assert table[:8] == pytest.approx(expected, abs=5e-4)
    assert max(table) < 0.855


def test_golden_order_of_arithmetic() -> None:
    """timm multiplies t by peak/W, transformers the peak by t/W: the last bits differ."""
    assert rates("timm", 5, 4)[3] == 0.6000000000000001
    assert rates("transformers", 5, 4)[3] == 0.6


def test_every_convention_has_a_golden_table() -> None:
    assert CONVENTIONS.keys() == MEASURED.keys() | {"timm-cosine"}


RAMPS = sorted(CONVENTIONS.keys() - {"timm-cosine"})


@given(name=st.sampled_from(RAMPS), warmup=st.integers(0, 60), count=st.integers(0, 90))
def test_law_all_rise_to_the_peak_and_stay(name: str, warmup: int, count: int) -> None:
    if 0 < warmup < CONVENTIONS[name].minimum:
        return
    table = rates(name, warmup, count, 1.0)
    assert len(table) == count
    assert all(b >= a - 1e-12 for a, b in pairwise(table))
    assert table[max(warmup, 2) + 1 :] == pytest.approx(
        [1.0] * max(count - max(warmup, 2) - 1, 0)
    )
    assert all(rate <= 1 + 1e-12 for rate in table)


def test_compare_says_how_far_apart() -> None:
    same = compare("pytorch-warmup", "torch-same", 6, 20)
    assert (same.differing, same.lost_updates) == ((), pytest.approx(0, abs=1e-12))
    other = compare("transformers", "batchcliff", 6, 20)
    assert other.differing == (0, 1, 2, 3, 4, 5)
    assert other.largest == pytest.approx(1 / 6)
    assert other.lost_updates == pytest.approx(1.0)  # one whole update at the peak
    assert compare("batchcliff", "transformers", 6, 20).lost_updates == pytest.approx(-1.0)
    assert compare("timm", "optax", 0, 0).largest == 0.0
    assert other.largest_at == 0
    assert (same.largest_at, compare("timm", "optax", 0, 0).largest_at) == (None, None)
    assert compare("ignite", "transformers", 5, 20).largest_at == 4  # 1 against 4/5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pytorch", 5, 8), "unknown convention 'pytorch'. Did you mean"),
        (("ignite", 1, 8), "at least 2"),
        (("timm", -1, 8), "neither can be negative"),
        (("timm", 5, 8, 1.0, 0.1), "leave out start = 0.1"),
        (("torch", 5, 8, 1.0, 0.0), "refuses start = 0"),
        (("goyal", 5, 8, 1.0, math.nan), "start = nan"),
    ],
)
def test_refused(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        rates(*arguments)
    assert says in str(caught.value)
