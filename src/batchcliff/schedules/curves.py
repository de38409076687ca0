"""Shapes of warmup and decay: pure functions of (index, count), factors of the peak rate.

The index counts updates 0, 1, ... (or epochs, for a staircase). A warmup of `count` starts
at `start` with index 0 and is exactly 1 at index count - 1, so no update is spent at rate 0
unless `start = 0` asks for it. A decay over `count` is 1 at index 0 and would reach `end` at
index `count`, the first one after the run: no update is wasted at the end either.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from batchcliff.errors import UsageError, did_you_mean

WarmupShape = Callable[[int, int, Fraction], float]
Curve = Callable[[int, int], float]
"""A decay over (index, count); e.g. `cosine_decay`. Its index 0 follows the warmup."""


@lru_cache(maxsize=256)
def exact(value: float) -> Fraction:
    """The decimal that a float was written as: 0.1 is 1/10, not its binary neighbour."""
    return Fraction(str(value))


def _constant(index: int, count: int, start: Fraction) -> float:  # noqa: ARG001
    return float(start)


def _linear(index: int, count: int, start: Fraction) -> float:
    # One division of integers, which Python rounds correctly: (t + 1) / W comes out exact.
    p, q, last = start.numerator, start.denominator, count - 1
    return (p * (last - index) + q * index) / (q * last)


def _exponential(index: int, count: int, start: Fraction) -> float:
    return float(float(start) ** ((count - 1 - index) / (count - 1)))


def _cosine(index: int, count: int, start: Fraction) -> float:
    # sin^2(x/2) is (1 - cos x)/2 without its cancellation near 0.
    risen = math.sin(math.pi * index / (2 * (count - 1))) ** 2
    first = float(start)
    return first + (1.0 - first) * risen


WARMUP_SHAPES: dict[str, WarmupShape] = {
    "constant": _constant,
    "linear": _linear,
    "exponential": _exponential,
    "cosine": _cosine,
}


def check_warmup(count: int, shape: str, start: float | None) -> Fraction:
    """The start factor as a fraction, 1/count if omitted.

    Raises:
        UsageError: an unknown shape, a negative count, a start outside of 0 to 1 (above 1 the
            rate would fall to its peak), or one of 0 with "exponential", which cannot leave it.
    """
    if shape not in WARMUP_SHAPES:
        raise UsageError(f"unknown warmup shape {shape!r}.{did_you_mean(shape, WARMUP_SHAPES)}")
    if count < 0:
        raise UsageError(f"warmup over {count} updates: the count cannot be negative.")
    if start is None:
        return Fraction(1, max(count, 1))
    if not 0 <= start <= 1:  # NaN is refused too
        raise UsageError(
            f"warmup start = {start!r}: write a factor of the peak from 0 to 1, such as 0.01."
        )
    if shape == "exponential" and start == 0:
        raise UsageError(
            "warmup start = 0 with shape 'exponential': it cannot leave 0. Write a start above "
            "0, such as 0.01, or shape 'linear'."
        )
    return exact(start)


def warmup_factor(index: int, count: int, shape: str, start: float | None = None) -> float:
    """Share of the peak rate at `index` of a warmup over `count` updates (or epochs).

    Index 0 is at `start` (default 1/count, so "linear" is (t+1)/W), index count - 1 and all
    after it are exactly 1. `count = 0` is the identity. Shapes: "linear"; "exponential",
    straight on a log scale, start^(1 - t/(W-1)); "cosine", half a period; "constant", which
    holds `start` for all of `count` and then jumps to 1 (Goyal et al. 2017, section 2.2,
    arXiv:1706.02677; its "gradual" warmup is the linear one).

    Raises:
        UsageError: as `check_warmup`.
    """
    first = check_warmup(count, shape, start)
    if index >= count or (index == count - 1 and shape != "constant"):
        return 1.0
    return WARMUP_SHAPES[shape](index, count, first)


def warmup_factors(count: int, shape: str, start: float | None = None) -> list[float]:
    """`warmup_factor` at 0 .. count-1, checked once. Raises UsageError as `check_warmup`."""
    first, curve = check_warmup(count, shape, start), WARMUP_SHAPES[shape]
    if shape == "constant":
        return [float(first)] * count
    return [curve(index, count, first) for index in range(count - 1)] + [1.0] * (count > 0)


# Decays. `count` is the number of updates of the decay, index 0 its first.


def _share(index: int, count: int) -> float:
    """Progress in [0, 1]; past the end a decay stays where it is."""
    return min(index, count) / count if count > 0 else 1.0


def constant_decay(index: int, count: int) -> float:  # noqa: ARG001
    """1 at every update."""
    return 1.0


def linear_decay(index: int, count: int, end: float = 0.0) -> float:
    """From 1 to `end` on a straight line; `end` is reached at index `count`."""
    return 1.0 + (end - 1.0) * _share(index, count)


def exponential_decay(index: int, count: int, end: float = 0.01) -> float:
    """From 1 to `end` on a straight line of the log scale: end^(t/T).

    Raises:
        UsageError: `end` is not above 0.
    """
    if not end > 0:
        raise UsageError(f"exponential decay to end = {end!r}: it never gets to 0 or below.")
    return float(end ** _share(index, count))


def cosine_decay(index: int, count: int, end: float = 0.0) -> float:
    """Half a cosine from 1 to `end` (Loshchilov & Hutter 2017, eq. 5, arXiv:1608.03983)."""
    return end + (1.0 - end) * math.cos(math.pi * _share(index, count) / 2) ** 2


def polynomial_decay(index: int, count: int, power: float = 2.0, end: float = 0.0) -> float:
    """(1 - t/T)^power from 1 to `end`; power 2 is usual with LARS (You et al. 2017).

    Raises:
        UsageError: `power` is not above 0.
    """
    if not power > 0:
        raise UsageError(f"polynomial decay with power = {power!r}: write a power above 0.")
    return end + (1.0 - end) * float((1.0 - _share(index, count)) ** power)


def multistep_decay(index: int, boundaries: Sequence[int], factor: float = 0.1) -> float:
    """`factor` to the power of how many of the sorted `boundaries` are at or before `index`.

    The power is taken of the decimal: twice 0.1 is 0.01, not 0.010000000000000002.
    """
    return float(exact(factor) ** bisect_right(boundaries, index))


def inverse_sqrt_decay(index: int, timescale: int) -> float:
    """1 for the first `timescale` updates, then sqrt(timescale / (t + 1)).

    With a linear warmup over `timescale` updates it is Vaswani et al. 2017, eq. 3
    (arXiv:1706.03762), in units of the peak. Raises UsageError for a timescale below 1.
    """
    if timescale < 1:
        raise UsageError(f"inverse-sqrt decay with timescale = {timescale!r}: at least 1.")
    return math.sqrt(timescale / max(index + 1, timescale))


def one_cycle(
    index: int, count: int, rise: float = 0.3, start: float = 0.04, end: float = 4e-6
) -> float:
    """Up from `start` to 1 over the share `rise` of the run, then down to `end`, in cosines.

    A whole schedule with its own warmup (Smith & Topin 2017, arXiv:1708.07120); the numbers
    and the index of the peak, rise * count - 1, are those of torch's `OneCycleLR` in two
    phases: `start` = 1/div_factor, `end` = start/final_div_factor.

    Raises:
        UsageError: the peak would lie before the first update, or after the last.
    """
    peak, last = rise * count - 1, count - 1
    if not 0 < peak < last:
        raise UsageError(
            f"one-cycle over {count} updates with rise = {rise!r}: the peak lies outside "
            "of the run. Write a rise between 0 and 1, and a run of at least 2/rise updates."
        )
    if index <= peak:
        return start + (1.0 - start) * math.sin(math.pi * index / peak / 2) ** 2
    share = min(index - peak, last - peak) / (last - peak)
    return end + (1.0 - end) * math.cos(math.pi * share / 2) ** 2


def warmup_stable_decay(
    index: int, count: int, warmup: int, decay: int, end: float = 0.0
) -> float:
    """Linear warmup over `warmup` updates, flat, then linear to `end` over the last `decay`.

    (Hu et al. 2024, MiniCPM, arXiv:2404.06395.)

    Raises:
        UsageError: warmup and decay together are longer than the run.
    """
    if warmup + decay > count:
        raise UsageError(
            f"warmup of {warmup} and decay of {decay} updates are longer than the run: {count}"
        )
    if index < count - decay:
        return warmup_factor(index, warmup, "linear")
    return linear_decay(index - (count - decay), decay, end)
