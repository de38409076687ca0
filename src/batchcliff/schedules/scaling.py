"""How hyper-parameters follow the batch size. Two rules never agree: name yours, and log it.

Rates are computed with fractions of the decimals that were written: 0.1 x 384/128 is 0.3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from batchcliff.errors import Infeasible, UsageError, did_you_mean
from batchcliff.schedules.duration import Duration


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """lr as a function of (base, base_batch_size, batch_size), with formula and source."""

    name: str
    function: Callable[[float, int, int], float]
    formula: str
    source: str


def _fraction(value: float) -> Fraction:
    return Fraction(str(value))


def _sqrt(value: Fraction) -> float:
    """Square root of a fraction, correctly rounded: exact whenever it is rational."""
    p, q = value.numerator, value.denominator
    shift = 128  # bits below the point, far past a float's 53
    return float(Fraction(math.isqrt((p * q) << (2 * shift)), q << shift))


def _same(base: float, base_batch_size: int, batch_size: int) -> float:  # noqa: ARG001
    return float(_fraction(base))


def _linear(base: float, base_batch_size: int, batch_size: int) -> float:
    return float(_fraction(base) * Fraction(batch_size, base_batch_size))


def _square_root(base: float, base_batch_size: int, batch_size: int) -> float:
    return _sqrt(_fraction(base) ** 2 * Fraction(batch_size, base_batch_size))


_RULES = (
    ScalingRule("none", _same, "lr = base", "the control: the rate is left as it is"),
    ScalingRule(
        "linear",
        _linear,
        "lr = base x B/B0",
        "Goyal et al. 2017, section 2.1, arXiv:1706.02677",
    ),
    ScalingRule(
        "sqrt",
        _square_root,
        "lr = base x sqrt(B/B0)",
        "Hoffer et al. 2017, arXiv:1705.08741",
    ),
    ScalingRule(
        "legw",
        _square_root,
        "lr = base x sqrt(B/B0); warmup epochs x B/B0 (linear-epoch gradual warmup)",
        "You et al. 2019, arXiv:1901.08256",
    ),
    ScalingRule(
        "smith",
        _linear,
        "lr x N / (B (1 - momentum)) constant; at equal momentum lr = base x B/B0",
        "Smith et al. 2017, arXiv:1711.00489",
    ),
    ScalingRule(
        "malladi",
        _square_root,
        "lr = base x sqrt(k), 1 - beta = k (1 - base beta), eps = base eps / sqrt(k), k = B/B0",
        "Malladi et al. 2022, the square-root rule for Adam, arXiv:2205.10287",
    ),
)
SCALING: dict[str, ScalingRule] = {rule.name: rule for rule in _RULES}


def _ratio(base_batch_size: int, batch_size: int) -> Fraction:
    """B/B0. Raises UsageError for a size below 1."""
    for name, size in (("base_batch_size", base_batch_size), ("batch_size", batch_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{name} = {size!r}: a positive whole number is needed.")
    return Fraction(batch_size, base_batch_size)


def _rule(scaling: str, base: float, base_batch_size: int, batch_size: int) -> ScalingRule:
    if scaling not in SCALING:
        raise UsageError(f"unknown lr scaling {scaling!r}.{did_you_mean(scaling, SCALING)}")
    _ratio(base_batch_size, batch_size)
    if not (math.isfinite(base) and base > 0):
        raise UsageError(f"base lr = {base!r}: a positive number is needed, such as 0.1.")
    return SCALING[scaling]


def scale_lr(base: float, base_batch_size: int, batch_size: int, scaling: str) -> float:
    """The peak rate at `batch_size` by the rule named `scaling`.

    Raises:
        UsageError: an unknown rule, a size below 1, a base that is not above 0.
    """
    rule = _rule(scaling, base, base_batch_size, batch_size)
    return rule.function(base, base_batch_size, batch_size)


def provenance(base: float, base_batch_size: int, batch_size: int, scaling: str) -> str:
    """Where a rate comes from: `3.2 = 0.1 x 4096/128 (linear)`. Raises as `scale_lr`."""
    rule = _rule(scaling, base, base_batch_size, batch_size)
    lr = rule.function(base, base_batch_size, batch_size)
    shown = repr(lr) if len(repr(lr)) <= 10 else f"{lr:.6g}"
    ratio = f"{batch_size}/{base_batch_size}"
    if rule.function is _same:
        return f"{shown} (none)"
    if rule.function is _square_root:
        ratio = f"sqrt({ratio})"
    return f"{shown} = {base!r} x {ratio} ({rule.name})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """What a scaling rule may change. `betas` and `eps` are Adam's; `warmup` is a length."""

    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: Duration | None = None


def scale_hyperparameters(
    base: Hyperparameters, base_batch_size: int, batch_size: int, scaling: str
) -> Hyperparameters:
    """All of `base` moved from `base_batch_size` to `batch_size` by the rule `scaling`.

    "legw" multiplies a warmup in epochs by B/B0 and leaves one in updates alone, which is the
    same length; "malladi" changes betas and eps of Adam; the others change `lr` only.

    Raises:
        UsageError: as `scale_lr`; "legw" with no warmup or one in "%".
        Infeasible: "malladi" would need a beta below 0.
    """
    lr = scale_lr(base.lr, base_batch_size, batch_size, scaling)
    ratio = Fraction(batch_size, base_batch_size)
    if scaling == "legw":
        return dataclasses.replace(base, lr=lr, warmup=_legw_warmup(base.warmup, ratio))
    if scaling != "malladi":
        return dataclasses.replace(base, lr=lr)
    betas, eps = malladi_moments(base.betas, base.eps, ratio)
    check_betas(betas)
    return dataclasses.replace(base, lr=lr, betas=betas, eps=eps)


def malladi_moments(
    betas: tuple[float, float], eps: float, ratio: Fraction
) -> tuple[tuple[float, float], float]:
    """Adam's betas and eps at `ratio` times the batch size: 1 - k (1 - beta), eps / sqrt(k).

    Malladi et al. 2022, arXiv:2205.10287. A beta may come out below 0: see `check_betas`.
    """
    first, second = (float(1 - ratio * (1 - _fraction(beta))) for beta in betas)
    return (first, second), _sqrt(_fraction(eps) ** 2 / ratio)


def check_betas(betas: tuple[float, float]) -> None:
    """Infeasible if scaling with the batch size made a beta negative."""
    if (lowest := min(betas)) < 0:
        raise Infeasible(
            f"malladi scaling gives a beta of {lowest:.6g}, below 0. The rule holds for "
            "smaller batches, or betas closer to 1."
        )


def _legw_warmup(warmup: Duration | None, ratio: Fraction) -> Duration:
    if warmup is None or warmup.unit == "%":
        raise UsageError(
            "legw scales the warmup with the batch size: give its length at the base batch "
            "size in epochs ('1ep'), examples or updates."
        )
    return warmup if warmup.unit == "up" else Duration(warmup.value * ratio, warmup.unit)


def noise_scale(lr: float, num_examples: int, batch_size: int, momentum: float = 0.0) -> float:
    """g = lr N / (B (1 - momentum)), the scale of SGD's random fluctuations.

    For B much smaller than N (Smith et al. 2017, arXiv:1711.00489). Linear
    scaling keeps it. Raises UsageError for a momentum outside of [0, 1).
    """
    if not 0 <= momentum < 1:
        raise UsageError(f"momentum = {momentum!r}: a number from 0 to below 1 is needed.")
    return float(_fraction(lr) * num_examples / (batch_size * (1 - _fraction(momentum))))


def constant_noise_lr(
    lr: float, batch_size: int, momentum: float, new_batch_size: int, new_momentum: float
) -> float:
    """The rate with the noise scale of (lr, batch_size, momentum) at the new pair.

    lr' = lr (B'/B) (1 - m')/(1 - m) (Smith et al. 2017, arXiv:1711.00489). Raises UsageError
    for a momentum outside of [0, 1).
    """
    if not (0 <= momentum < 1 and 0 <= new_momentum < 1):
        raise UsageError(f"momentum {momentum!r} or {new_momentum!r} is outside of [0, 1).")
    ratio = Fraction(new_batch_size, batch_size)
    damping = (1 - _fraction(new_momentum)) / (1 - _fraction(momentum))
    return float(_fraction(lr) * ratio * damping)


def constant_half_life_beta(beta: float, base_batch_size: int, batch_size: int) -> float:
    """The decay of a running average that forgets over as many *examples* as before.

    beta' = beta^(B'/B), so that the half-life ln 2 / -ln(beta) x B stays; for Adam's beta2 in
    Marek et al. 2025 (arXiv:2507.07101). To first order in 1 - beta it is malladi's rule,
    and it never falls below 0.

    Raises:
        UsageError: a beta outside of (0, 1), or a size below 1.
    """
    ratio = _ratio(base_batch_size, batch_size)
    if not 0 < beta < 1:
        raise UsageError(f"beta = {beta!r}: a number above 0 and below 1, such as 0.999.")
    return float(beta ** float(ratio))


def constant_timescale_weight_decay(
    weight_decay: float, lr: float, base_batch_size: int, new_lr: float, batch_size: int
) -> float:
    """Decoupled weight decay with the timescale of (weight_decay, lr, B) at the new pair.

    lambda' = lambda (B'/B) (lr/lr'), which keeps tau = B / (lr lambda D), the share of the
    data set D over which weights are averaged (Bergsma et al. 2025, arXiv:2505.13738). At a
    constant lr it is proportional to the batch size; with linear scaling it does not change.

    Raises:
        UsageError: a rate that is not above 0, a negative weight decay, or a size below 1.
    """
    ratio = _ratio(base_batch_size, batch_size)
    for name, rate in (("lr", lr), ("new_lr", new_lr)):
        if not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"{name} = {rate!r}: a positive number is needed, such as 0.1.")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UsageError(f"weight_decay = {weight_decay!r}: a number >= 0 is needed.")
    return float(_fraction(weight_decay) * ratio * _fraction(lr) / _fraction(new_lr))
