"""What a short probe predicts of a study that has not been run. None of it is a measured cliff.

All intervals are over blocks of examples at the same weights of one network: they say how well
the probe read that place, and nothing of later ones or of other seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from batchcliff.spec import Optimizer
from batchcliff.stats.intervals import Estimate, check_level, finite, mean_interval
from batchcliff.stats.noise_scale import stability_limit

RATIO = "ratio of means over blocks of examples, Fieller"
STABLE = "2 (1 + m) / sharpness, mean over blocks of examples"
GROWS = 0.9  # of the fastest rate: from here on larger batches are hardly faster
USED = 0.9  # of the memory that there is, when the largest batch is predicted


def noise_scale(
    trace: Sequence[float], square: Sequence[float], level: float = 0.95
) -> Estimate:
    """tr(Sigma) / |G|^2 in examples, from unbiased estimates of both on n blocks.

    The critical batch size of McCandlish et al. 2018 (1812.06162, equation 2.9). Interval:
    Fieller's for a ratio of two correlated means (Fieller 1954, J. R. Stat. Soc. B 16:175),
    the values of r for which trace - r square has a mean that t does not tell from 0. Its
    upper end is open where |G|^2 cannot be told from 0; then the value is a lower bound, if
    there is one. Raises UsageError for a number that is not finite.
    """
    check_level(level)
    a_n, b_n = finite(trace, "tr(Sigma)"), finite(square, "|G|^2")
    n = len(a_n)
    nothing = Estimate(value=None, low=None, high=None, level=level, method=RATIO, n=n)
    if n < 3:
        return dataclasses.replace(nothing, note="too few blocks of examples")
    t = float(special.stdtrit(n - 1, (1 + level) / 2))
    a, b = float(a_n.mean()), float(b_n.mean())
    ((aa, ab), (_, bb)) = (t * t * np.cov(a_n, b_n) / n).tolist()
    if a <= 0 or a * a <= aa:
        return dataclasses.replace(nothing, note="no noise can be told from 0")
    # The roots of (b^2 - bb) r^2 - 2 (a b - ab) r + (a^2 - aa) = 0.
    top, middle, last = b * b - bb, a * b - ab, a * a - aa
    root = math.sqrt(max(middle * middle - top * last, 0.0))
    if top > 0 and b > 0:
        low, high = (middle - root) / top, (middle + root) / top
        return dataclasses.replace(nothing, value=a / b, low=low, high=high)
    lost = dataclasses.replace(nothing, note="the gradient is lost in its noise")
    if top >= 0:  # |G|^2 is told from 0, below it: blocks that are not independent, or chance
        return lost
    low = last / (middle + root)  # the positive root, without cancellation
    return dataclasses.replace(lost, value=low, low=low, censored="above", unbounded="high")


def stable_lr(
    optimizer: Optimizer, sharpness: Sequence[float], level: float = 0.95
) -> Estimate:
    """The largest constant rate at which updates along the sharpest direction shrink.

    Heavy ball: 2 (1 + m) / (lambda + weight decay); Nesterov: a (1 + 2 m)-th of it (Cohen et
    al. 2021, 2103.00065, appendix B). The interval is that of the mean sharpness over blocks.
    The largest eigenvalue of a few examples is on average above that of all of them, so the
    rate errs downwards. No value for rules of the update that have no limit of this form.
    """
    share = stability_limit(optimizer, 1.0)
    mean = mean_interval(sharpness, level, STABLE)

    def rate(curvature: float | None) -> float | None:
        if share is None or curvature is None:
            return None
        total = curvature + optimizer.weight_decay
        return (share + optimizer.weight_decay) / total if total > 0 else None

    note = mean.note.replace("one seed", "one block")
    if share is None:
        note = f"{optimizer.name} has no limit of this form"
    elif rate(mean.value) is None:
        note = "no direction curves upwards" if mean.n else "the sharpness is not finite"
    value, low, high = rate(mean.value), rate(mean.high), rate(mean.low)
    # An interval of the sharpness that reaches 0 leaves the rate open above.
    unbounded = "high" if low is not None and high is None else ""
    return Estimate(
        value=value,
        low=low if value is not None else None,
        high=high if value is not None else None,
        level=level,
        method=STABLE,
        n=mean.n,
        note=note,
        unbounded=unbounded if value is not None else "",
    )


def batch_of_rate(rule: Callable[[int], float], limit: float, most: int) -> int | None:
    """The smallest batch size up to `most` whose rate is above `limit`; None if none is.

    rule: the rate of a batch size, which never falls as it grows.
    """
    if rule(most) <= limit:
        return None
    low, high = 0, most  # rule(low) <= limit < rule(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rule(middle) > limit else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """From which batch size on examples a second hardly grow.

    enough: the smallest measured one with 90% of the fastest rate. growing: it is the largest
    one that was measured, so that a larger one may be faster still.
    """

    enough: int
    rate: float
    fastest: float
    growing: bool


def throughput(rates: Sequence[tuple[int, float]]) -> Throughput | None:
    """From (batch size, examples a second), ascending; None without any."""
    if not rates:
        return None
    fastest = max(rate for _, rate in rates)
    enough, rate = next((size, rate) for size, rate in rates if rate >= GROWS * fastest)
    growing = enough == rates[-1][0] and len(rates) > 1
    return Throughput(enough=enough, rate=rate, fastest=fastest, growing=growing)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Which batch fits into the memory that there is, as one micro batch.

    largest_run: the largest that was run. failed: the smallest that had no room, or None.
    predicted: examples that would fill 90% of `limit`, from how memory grew between the two
    largest that were run; None where it did not grow, or where nobody says. No more than
    `most`, the training set; `all` says that this fits.
    bytes_per_example: of that growth.
    """

    limit: int | None
    largest_run: int
    failed: int | None
    predicted: int | None
    bytes_per_example: float | None
    most: int

    @property
    def all(self) -> bool:
        """Whether the whole training set fits into one micro batch, as predicted."""
        return self.predicted is not None and self.predicted >= self.most


def memory(
    peaks: Sequence[tuple[int, int | None]], limit: int | None, failed: int | None, most: int
) -> Memory | None:
    """From (batch size, peak bytes), ascending; None without any."""
    if not peaks:
        return None
    known = [(size, peak) for size, peak in peaks if peak is not None]
    largest = peaks[-1][0]
    per_example, predicted = None, None
    if len(known) > 1:
        (small, less), (large, more) = known[-2:]
        if more > less:
            per_example = (more - less) / (large - small)
        if per_example is not None and limit is not None:
            room = large + (USED * limit - more) / per_example
            predicted = max(largest, min(int(room), most))
    if failed is not None:  # what was tried counts for more than what was predicted
        predicted = min(predicted, failed - 1) if predicted is not None else None
    return Memory(
        limit=limit,
        largest_run=largest,
        failed=failed,
        predicted=predicted,
        bytes_per_example=per_example,
        most=most,
    )
