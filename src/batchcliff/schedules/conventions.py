"""What other libraries do when asked for "linear warmup over W updates": they disagree.

Each convention gives the rates that optimizer updates 0, 1, ... really use when the library
is driven in its own documented order, with the same arithmetic in the same order, so that
float64 results agree bit for bit. optax and keras compute in float32: theirs is the same
formula in double precision. Versions: see `Convention.source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.schedules.curves import warmup_factors

ROUNDING = 1e-9  # of the peak: what float32 and recursions on the rate may be apart
Rates = Callable[[int, int, float, float | None], list[float]]
"""(warmup updates W, number of updates n, peak, start factor or None) -> n rates."""


@dataclass(frozen=True, slots=True)
class Convention:
    """One library's reading of a warmup; `minimum` is the least W that it can run."""

    name: str
    rates: Rates
    formula: str
    source: str
    minimum: int = 1
    takes_start: bool = False


def _batchcliff(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    table = [peak * factor for factor in warmup_factors(warmup, "linear", start)]
    return (table + [peak] * n)[:n]


def _torch(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    # A recursion on the rate in the optimizer, so rounding errors add up, as they do there.
    first = 1.0 / 3 if start is None else start
    table = [peak * first]
    for t in range(1, n):
        ratio = 1.0
        if t <= warmup:
            ratio += (1.0 - first) / (warmup * first + (t - 1) * (1.0 - first))
        table.append(table[-1] * ratio)
    return table[:n]


def _torch_same(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return _torch(warmup - 1, n, peak, 1 / warmup)


def _transformers(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return [peak * (t / warmup) if t < warmup else peak for t in range(n)]


def _timm(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    slope = peak / warmup
    return [t * slope if t < warmup else peak for t in range(n)]


def _timm_cosine(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    ramp = _timm(warmup, min(warmup, n), peak, start)
    fall = [0.5 * peak * (1 + math.cos(math.pi * t / n)) for t in range(len(ramp), n)]
    return ramp + fall


def _optax(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    first = peak * (start or 0.0)
    return [(first - peak) * (1 - min(t, warmup) / warmup) + peak for t in range(n)]


def _keras(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    first = peak * (start or 0.0)
    return [(peak - first) * (t / warmup) + first if t < warmup else peak for t in range(n)]


def _deepspeed(warmup: int, n: int, peak: float, logarithmic: bool) -> list[float]:
    # The constructor sets the minimum rate, and the first call of step() is at index 0, where
    # gamma is 0 too: the first *two* updates run at 0.
    warmup = max(2, warmup)
    inverse = 1.0 / math.log(warmup)
    table = [0.0] * min(n, 1)
    for t in range(n - 1):
        gamma = inverse * math.log(t + 1) if logarithmic else t / warmup
        table.append(peak * (gamma if t < warmup else 1.0))
    return table


def _deepspeed_log(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return _deepspeed(warmup, n, peak, True)


def _deepspeed_linear(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return _deepspeed(warmup, n, peak, False)


def _ignite(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    first = peak * (start or 0.0)
    last = warmup - 1
    return [first + (peak - first) * t / last if t < last else peak for t in range(n)]


def _pytorch_warmup(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return [peak * min(1.0, (t + 1) / warmup) for t in range(n)]


def _nanogpt(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    return [peak * (t + 1) / (warmup + 1) if t < warmup else peak for t in range(n)]


def _bolts(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    # Another recursion: each update adds the increment to the rate in the optimizer.
    table = [peak * (start or 0.0)]
    for t in range(1, n):
        rise = (peak - table[0]) / (warmup - 1) if t < warmup else 0.0
        table.append(table[-1] + rise if t < warmup else peak)
    return table[:n]


def _kozistr(warmup: int, n: int, peak: float, start: float | None) -> list[float]:  # noqa: ARG001
    # The constructor sets rate 0, and so does the first call of step(), which is at index 0.
    return [peak * max(t - 1, 0) / warmup if t <= warmup else peak for t in range(n)]


def _goyal(warmup: int, n: int, peak: float, start: float | None) -> list[float]:
    first = 1 / 32 if start is None else start
    shares = (min(1.0, t / warmup) for t in range(n))
    return [peak * (first * (1 - share) + share) for share in shares]


_ALL = (
    Convention(
        "batchcliff", _batchcliff, "s + (1 - s) t/(W - 1), s = 1/W", "this package", 1, True
    ),
    Convention(
        "torch",
        _torch,
        "s + (1 - s) t/W, s = 1/3",
        "torch 2.13: LinearLR(total_iters=W)",
        1,
        True,
    ),
    Convention(
        "torch-same",
        _torch_same,
        "(t + 1)/W",
        "torch 2.13: LinearLR(start_factor=1/W, total_iters=W-1)",
    ),
    Convention("transformers", _transformers, "t/W", "transformers 5: get_*_with_warmup"),
    Convention("gradual-warmup", _transformers, "t/W", "warmup-scheduler 0.3, multiplier=1"),
    Convention(
        "timm", _timm, "t/W", "timm 1.0: warmup_t=W, warmup_prefix=True, step_update(t)"
    ),
    Convention(
        "timm-cosine",
        _timm_cosine,
        "t/W, then (1 + cos(pi t/n))/2: never at the peak",
        "timm 1.0: CosineLRScheduler(t_initial=n, warmup_t=W), default warmup_prefix=False",
    ),
    Convention(
        "optax",
        _optax,
        "s + (1 - s) t/W, s = 0",
        "optax 0.2: linear_schedule(0, 1, W)",
        1,
        True,
    ),
    Convention(
        "keras",
        _keras,
        "s + (1 - s) t/W, s = 0",
        "keras 3: CosineDecay(warmup_steps=W)",
        1,
        True,
    ),
    Convention(
        "deepspeed-log",
        _deepspeed_log,
        "0, then log(t)/log(W)",
        "DeepSpeed 0.19: WarmupLR(warmup_num_steps=W), its default",
    ),
    Convention(
        "deepspeed-linear",
        _deepspeed_linear,
        "0, then (t - 1)/W",
        "DeepSpeed 0.19: WarmupLR(warmup_num_steps=W, warmup_type='linear')",
    ),
    Convention(
        "ignite",
        _ignite,
        "s + (1 - s) t/(W - 1), s = 0",
        "ignite 0.5: create_lr_scheduler_with_warmup(warmup_duration=W)",
        2,
        True,
    ),
    Convention(
        "pytorch-warmup", _pytorch_warmup, "(t + 1)/W", "pytorch_warmup 0.2: LinearWarmup(W)"
    ),
    Convention("nanogpt", _nanogpt, "(t + 1)/(W + 1)", "nanoGPT: train.py since PR #578"),
    Convention(
        "bolts",
        _bolts,
        "s + (1 - s) t/(W - 1), s = 0",
        "lightning-bolts 0.7: LinearWarmupCosineAnnealingLR(warmup_epochs=W)",
        2,
        True,
    ),
    Convention(
        "kozistr",
        _kozistr,
        "max(t - 1, 0)/W",
        "pytorch_optimizer 4.1: CosineScheduler(warmup_steps=W)",
    ),
    Convention(
        "goyal",
        _goyal,
        "s + (1 - s) t/W, s = base lr/peak (default 1/32)",
        "Goyal et al. 2017, section 2.2, arXiv:1706.02677",
        1,
        True,
    ),
)
CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in _ALL}


def rates(
    convention: str, warmup: int, count: int, peak: float = 1.0, start: float | None = None
) -> list[float]:
    """Rates that updates 0 .. count-1 use under a `convention`, by name, with that `warmup`.

    `warmup = 0` is no warmup, in every convention (some of the libraries crash or keep the
    start rate for ever). `start` is a factor of the peak; None: the library's default. For
    "timm-cosine", `count` is also the length of its decay.

    Raises:
        UsageError: an unknown name, a warmup too short for the library, a negative count, or
            a `start` where it takes none.
    """
    if convention not in CONVENTIONS:
        hint = did_you_mean(convention, CONVENTIONS)
        raise UsageError(f"unknown convention {convention!r}.{hint}")
    found = CONVENTIONS[convention]
    if warmup < 0 or count < 0:
        raise UsageError(f"warmup = {warmup}, count = {count}: neither can be negative.")
    if warmup == 0 or count == 0:
        return [peak] * count
    if warmup < found.minimum:
        raise UsageError(
            f"{convention} has no warmup over {warmup} updates: at least {found.minimum}."
        )
    if start is not None and not found.takes_start:
        raise UsageError(
            f"{convention} always starts by its own formula: leave out start = {start!r}."
        )
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise UsageError(f"start = {start!r}: write a factor of the peak, such as 0.1.")
    if convention == "torch" and start == 0:
        raise UsageError("torch's LinearLR refuses start = 0. Write a start above 0.")
    return found.rates(warmup, count, peak, start)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two schedules side by side; rates are factors of the peak."""

    first: str
    second: str
    rates: tuple[tuple[float, float], ...]

    @property
    def differing(self) -> tuple[int, ...]:
        """Updates whose rates differ by more than rounding (1e-9 of the peak)."""
        return tuple(t for t, (a, b) in enumerate(self.rates) if abs(a - b) > ROUNDING)

    @property
    def largest(self) -> float:
        """The largest difference, in units of the peak; 0 if there is none."""
        return max((abs(a - b) for a, b in self.rates), default=0.0)

    @property
    def largest_at(self) -> int | None:
        """The first update with the largest difference, to rounding; None if all are equal."""
        least = self.largest - ROUNDING
        gaps = (abs(a - b) for a, b in self.rates)
        if self.largest <= ROUNDING:
            return None
        return next(t for t, gap in enumerate(gaps) if gap >= least)

    @property
    def lost_updates(self) -> float:
        """Updates at the peak that `first` does less than `second`: sum of (second - first)."""
        return math.fsum(b - a for a, b in self.rates)


def compare(first: str, second: str, warmup: int, count: int) -> Difference:
    """What changes between two libraries asked for the same warmup. Raises as `rates`."""
    pairs = zip(rates(first, warmup, count), rates(second, warmup, count), strict=True)
    return Difference(first, second, tuple(pairs))
