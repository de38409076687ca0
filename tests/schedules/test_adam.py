"""Warmups from Adam's constants, against their papers' properties and torch's RAdam."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcliff.errors import UsageError
from batchcliff.schedules.adam import (
    radam_factor,
    untuned_exponential,
    untuned_linear,
    untuned_linear_updates,
)
from batchcliff.schedules.curves import warmup_factor

BETAS = st.sampled_from([0.9, 0.95, 0.98, 0.99, 0.999, 0.9999])


def test_golden_length_is_2000_and_not_1999() -> None:
    assert untuned_linear_updates(0.999) == 2000
    assert int(2.0 / (1 - 0.999)) == 1999
    lengths = [untuned_linear_updates(beta2) for beta2 in (0.9, 0.95, 0.98, 0.99, 0.9999)]
    assert lengths == [20, 40, 100, 200, 20_000]
    assert (untuned_linear(1998), untuned_linear(1999)) == (0.9995, 1.0)


@given(beta2=BETAS, t=st.integers(0, 30_000))
def test_twin_linear(beta2: float, t: int) -> None:
    count = untuned_linear_updates(beta2)
    assert untuned_linear(t, beta2) == warmup_factor(t, count, "linear")


@given(beta2=BETAS, t=st.integers(0, 5000))
def test_twin_exponential(beta2: float, t: int) -> None:
    expected = 1 - math.exp(-(1 - beta2) * (t + 1))
    assert untuned_exponential(t, beta2) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)  # a sum over up to 100,000 updates
@given(beta2=BETAS)
def test_law_both_lose_the_same_updates(beta2: float) -> None:
    """Ma & Yarats 2019: the effective warmup period is about 1/(1 - beta2) for both."""
    n = 20 * untuned_linear_updates(beta2)
    if n > 100_000:
        return
    linear = sum(1 - untuned_linear(t, beta2) for t in range(n))
    exponential = sum(1 - untuned_exponential(t, beta2) for t in range(n))
    assert linear == pytest.approx(exponential, abs=1)


def test_golden_radam_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.RAdam([weight], lr=1.0, eps=0.0, betas=(0.9, 0.999))
    for t in range(40):
        weight.grad = torch.ones_like(weight)  # both moments, corrected, are 1
        before = weight.item()
        optimizer.step()
        ours = radam_factor(t, 0.999)
        if t < 5:  # torch rectifies from rho_t > 5 on, the paper from rho_t > 4
            assert before - weight.item() == pytest.approx(1.0)
            assert (ours is None) == (t < 4)
        else:
            assert before - weight.item() == pytest.approx(ours, rel=1e-9)


def test_refused() -> None:
    for beta2 in (1.0, -0.1, math.nan):
        for function in (untuned_linear, untuned_exponential, radam_factor):
            with pytest.raises(UsageError, match="beta2 = "):
                function(0, beta2)
    with pytest.raises(UsageError, match=r"needs one above 0\.6"):
        radam_factor(0, 0.6)
