"""Scaling rules: exact decimals, the articles' numbers, and the laws the rules come from."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.duration import parse_duration
from batchcliff.schedules.scaling import (
    SCALING,
    Hyperparameters,
    constant_half_life_beta,
    constant_noise_lr,
    constant_timescale_weight_decay,
    noise_scale,
    provenance,
    scale_hyperparameters,
    scale_lr,
)

SIZES = st.integers(1, 10**6)
BASES = st.integers(1, 10**6).map(lambda n: n / 10**4)


def test_golden_article() -> None:
    sizes = [128, 256, 512, 1024, 2048, 4096, 8192]
    assert [scale_lr(0.1, 128, size, "linear") for size in sizes] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        3.2,
        6.4,
    ]


def test_golden_goyal() -> None:
    assert scale_lr(0.1, 256, 8192, "linear") == 3.2
    assert scale_lr(0.1, 256, 8192, "sqrt") == 0.565685424949238  # 0.1 sqrt(32) = ...380195


def test_linear_is_exact_where_floats_are_not() -> None:
    assert scale_lr(0.1, 128, 384, "linear") == 0.3
    assert 0.1 * 384 / 128 == 0.30000000000000004


@given(base=BASES, b0=SIZES, b=SIZES)
def test_twin_of_every_rule(base: float, b0: int, b: int) -> None:
    exact = Fraction(str(base))
    assert scale_lr(base, b0, b, "none") == base
    assert scale_lr(base, b0, b, "linear") == float(exact * b / b0)
    root = scale_lr(base, b0, b, "sqrt")
    assert Fraction(root) ** 2 == pytest.approx(exact**2 * b / b0, rel=1e-15)
    # Correctly rounded: the true root lies between the neighbours of the float.
    below, above = math.nextafter(root, 0), math.nextafter(root, math.inf)
    assert Fraction(below) ** 2 < exact**2 * b / b0 < Fraction(above) ** 2


@given(name=st.sampled_from(sorted(SCALING)), base=BASES, b0=SIZES)
def test_law_the_base_batch_size_has_the_base_rate(name: str, base: float, b0: int) -> None:
    assert scale_lr(base, b0, b0, name) == base


@given(base=BASES, k=st.integers(1, 1000), b0=SIZES)
def test_law_square_roots_of_squares_are_exact(base: float, k: int, b0: int) -> None:
    assert scale_lr(base, b0, b0 * k * k, "sqrt") == float(Fraction(str(base)) * k)


def test_golden_provenance() -> None:
    assert provenance(0.1, 128, 4096, "linear") == "3.2 = 0.1 x 4096/128 (linear)"
    assert provenance(0.1, 128, 4096, "sqrt") == "0.565685 = 0.1 x sqrt(4096/128) (sqrt)"
    assert provenance(0.1, 128, 4096, "none") == "0.1 (none)"
    assert provenance(0.1, 384, 1000, "linear") == "0.260417 = 0.1 x 1000/384 (linear)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.1, 128, 256, "liner"), "unknown lr scaling 'liner'. Did you mean 'linear'?"),
        ((0.1, 0, 256, "linear"), "base_batch_size = 0"),
        ((0.1, 128, 2.0, "linear"), "batch_size = 2.0"),
        ((0.0, 128, 256, "linear"), "base lr = 0.0"),
        ((math.nan, 128, 256, "linear"), "base lr = nan"),
        ((math.inf, 128, 256, "linear"), "base lr = inf"),
    ],
)
def test_refused(arguments: tuple[float, int, int, str], says: str) -> None:
    for function in (scale_lr, provenance):
        with pytest.raises(UsageError) as caught:
            function(*arguments)
        assert says in str(caught.value)


def test_rules_say_what_they_are() -> None:
    assert list(SCALING) == [rule.name for rule in SCALING.values()]
    assert all(rule.formula and rule.source for rule in SCALING.values())


def test_golden_malladi() -> None:
    base = Hyperparameters(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    scaled = scale_hyperparameters(base, 256, 1024, "malladi")
    assert scaled == Hyperparameters(lr=2e-3, betas=(0.6, 0.996), eps=5e-9)
    with pytest.raises(Infeasible, match=r"gives a beta of -0.6, below 0"):
        scale_hyperparameters(base, 256, 4096, "malladi")


@given(k=st.integers(1, 9), j=st.integers(1, 9))
def test_law_malladi_there_and_back(k: int, j: int) -> None:
    base = Hyperparameters(lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    back = scale_hyperparameters(
        scale_hyperparameters(base, 10 * k, 10 * j, "malladi"), 10 * j, 10 * k, "malladi"
    )
    assert back.lr == pytest.approx(base.lr)
    assert back.betas == pytest.approx(base.betas)
    assert back.eps == pytest.approx(base.eps)


def test_legw_keeps_the_warmup_in_updates() -> None:
    base = Hyperparameters(lr=0.1, warmup=parse_duration("1.25ep"))
    scaled = scale_hyperparameters(base, 256, 1024, "legw")
    assert (scaled.lr, str(scaled.warmup)) == (0.2, "5ep")
    for length in ("200up", "5120ex"):
        kept = Hyperparameters(lr=0.1, warmup=parse_duration(length))
        warmup = scale_hyperparameters(kept, 256, 1024, "legw").warmup
        assert str(warmup) == {"200up": "200up", "5120ex": "20480ex"}[length]
    for missing in (None, parse_duration("5%")):
        with pytest.raises(UsageError, match="legw scales the warmup"):
            scale_hyperparameters(Hyperparameters(lr=0.1, warmup=missing), 1, 2, "legw")
    others = Hyperparameters(lr=0.1, momentum=0.9)
    assert scale_hyperparameters(others, 1, 2, "linear") == Hyperparameters(
        lr=0.2, momentum=0.9
    )


@given(
    b=SIZES, new_b=SIZES, m=st.integers(0, 99).map(lambda n: n / 100), new_m=st.integers(0, 9)
)
def test_law_smith_keeps_the_noise_scale(b: int, new_b: int, m: float, new_m: int) -> None:
    lr = constant_noise_lr(0.1, b, m, new_b, new_m / 10)
    assert noise_scale(lr, 50_000, new_b, new_m / 10) == pytest.approx(
        noise_scale(0.1, 50_000, b, m), rel=1e-12
    )
    assert constant_noise_lr(0.1, b, m, new_b, m) == scale_lr(0.1, b, new_b, "smith")


def test_golden_noise_scale_of_the_article() -> None:
    assert noise_scale(6.4, 50_000, 8192, 0.9) == 390.625
    with pytest.raises(UsageError, match=r"momentum = 1\.0"):
        noise_scale(0.1, 10, 1, 1.0)
    with pytest.raises(UsageError, match=r"outside of \[0, 1\)"):
        constant_noise_lr(0.1, 1, 0.9, 1, 1.0)


@given(beta=st.sampled_from([0.9, 0.95, 0.999]), b=st.integers(1, 512), new=st.integers(1, 512))
def test_law_the_half_life_in_examples_stays(beta: float, b: int, new: int) -> None:
    moved = constant_half_life_beta(beta, b, new)
    if moved > 0:  # very large ratios underflow, as they should
        assert b / math.log(beta) == pytest.approx(new / math.log(moved), rel=1e-6)


def test_golden_half_life_beside_malladi() -> None:
    """A doubled batch: beta squared, where Malladi's line is its tangent at beta = 1."""
    assert constant_half_life_beta(0.999, 256, 512) == pytest.approx(0.999**2)
    line = scale_hyperparameters(Hyperparameters(lr=1.0), 256, 512, "malladi").betas[1]
    assert line == 0.998
    assert constant_half_life_beta(0.999, 256, 512) - line == pytest.approx(1e-6)
    assert constant_half_life_beta(0.9, 256, 8192) == pytest.approx(0.9**32)  # malladi: below 0
    for beta in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="beta = "):
            constant_half_life_beta(beta, 1, 2)
    with pytest.raises(UsageError, match="batch_size = 0"):
        constant_half_life_beta(0.9, 1, 0)


@given(b=SIZES, new=SIZES, lr=BASES, new_lr=BASES)
def test_law_the_timescale_of_weight_decay_stays(
    b: int, new: int, lr: float, new_lr: float
) -> None:
    moved = constant_timescale_weight_decay(0.1, lr, b, new_lr, new)
    assert b / (lr * 0.1) == pytest.approx(new / (new_lr * moved), rel=1e-12)


def test_golden_weight_decay() -> None:
    assert constant_timescale_weight_decay(0.1, 1e-3, 256, 1e-3, 1024) == 0.4
    linear = scale_lr(1e-3, 256, 1024, "linear")
    assert constant_timescale_weight_decay(0.1, 1e-3, 256, linear, 1024) == 0.1
    with pytest.raises(UsageError, match=r"new_lr = 0\.0"):
        constant_timescale_weight_decay(0.1, 1e-3, 256, 0.0, 1024)
    with pytest.raises(UsageError, match="weight_decay = -1"):
        constant_timescale_weight_decay(-1, 1e-3, 256, 1.0, 1024)
