"""Warmups that Adam's own constants dictate, with nothing to tune.

The update index counts from 0; the papers' iteration t is update + 1.
"""

from __future__ import annotations

import math
from fractions import Fraction

from batchcliff.errors import UsageError
from batchcliff.schedules.curves import exact


def _complement(beta2: float) -> Fraction:
    """1 - beta2 of the decimal: 1/1000 for 0.999, where floats give 0.0010000000000000009."""
    if not 0 <= beta2 < 1:
        raise UsageError(f"beta2 = {beta2!r}: a number from 0 to below 1, such as 0.999.")
    return 1 - exact(beta2)


def untuned_linear_updates(beta2: float = 0.999) -> int:
    """Updates until `untuned_linear` is at 1: 2/(1 - beta2), so 2000 for 0.999.

    `int(2.0 / (1 - 0.999))` is 1999, which is what pytorch_warmup 0.2 uses. Raises
    UsageError for a beta2 outside of [0, 1).
    """
    return math.ceil(2 / _complement(beta2))


def untuned_linear(update: int, beta2: float = 0.999) -> float:
    """min(1, t (1 - beta2)/2) at t = update + 1 (Ma & Yarats 2019, arXiv:1910.04209).

    Raises UsageError for a beta2 outside of [0, 1).
    """
    part = _complement(beta2)
    return min(1.0, (update + 1) * part.numerator / (2 * part.denominator))


def untuned_exponential(update: int, beta2: float = 0.999) -> float:
    """1 - exp(-t (1 - beta2)) at t = update + 1 (Ma & Yarats 2019, arXiv:1910.04209).

    Raises UsageError for a beta2 outside of [0, 1).
    """
    part = _complement(beta2)
    return -math.expm1(-(update + 1) * part.numerator / part.denominator)


def radam_factor(update: int, beta2: float = 0.999) -> float | None:
    """RAdam's rectification of the adaptive rate (Liu et al. 2020, arXiv:1908.03265).

    None where rho_t <= 4 and it is undefined: RAdam then takes a momentum step that is not
    adapted at all. (torch's `RAdam` does so up to rho_t = 5.)

    Raises:
        UsageError: a beta2 outside of [0, 1), or one of 0.6 or less, where rho never gets
            above 4.
    """
    part = float(_complement(beta2))
    rho_inf = 2 / part - 1
    if rho_inf <= 4:
        raise UsageError(f"beta2 = {beta2!r}: RAdam's factor needs one above 0.6.")
    power = beta2 ** (update + 1)
    rho = rho_inf - 2 * (update + 1) * power / (1 - power)
    if rho <= 4:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
