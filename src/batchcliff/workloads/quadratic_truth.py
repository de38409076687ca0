"""What the noisy quadratic does, exactly: the truth that a study of it must find.

Nothing of `training` or `stats` is used: mean and covariance of the weights follow from the
learning rates and from how often each epoch's examples are drawn (docs/noisy_quadratic.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchcliff.errors import UsageError
from batchcliff.schedules.compose import Warmup, factors
from batchcliff.schedules.duration import Clock, Remainder, parse_duration
from batchcliff.spec import Optimizer, TrialSpec
from batchcliff.techniques import technique
from batchcliff.workloads import NOISY_QUADRATIC
from batchcliff.workloads.noisy_quadratic import NUM_TRAIN, QUADRATIC, NoisyQuadratic

Array = NDArray[np.float64]

TOO_LARGE = 1e100  # a loss above it is called infinite

# T updates, D coordinates, 2 the state (weight, velocity) of a coordinate


@dataclass(frozen=True, slots=True)
class Heavy:
    """Stochastic gradient descent with momentum, in one of the two forms of `Optimizer`."""

    momentum: float
    form: str = "keras"

    def transition(self, rate: float, curvatures_D: Array) -> tuple[Array, Array]:
        """(M [D, 2, 2], b [2]): state -> M state + b noise, of an update with `rate`.

        The noise is what the batch adds to the minimum's side of the gradient:
        gradient = h w - noise.
        """
        m, step_D = self.momentum, rate * curvatures_D
        ones_D = np.ones_like(step_D)
        if self.form == "keras":  # v' = m v - rate g, w' = w + v'
            rows = [[1 - step_D, m * ones_D], [-step_D, m * ones_D]]
            return np.moveaxis(np.array(rows), 2, 0), np.array([rate, rate])
        # v' = m v + g, w' = w - rate v'
        rows = [[1 - step_D, -rate * m * ones_D], [curvatures_D, m * ones_D]]
        return np.moveaxis(np.array(rows), 2, 0), np.array([rate, -1.0])


def expected_losses(
    problem: NoisyQuadratic,
    rates: Sequence[float],
    rule: Heavy,
    *,
    batch_size: int,
    num_examples: int = NUM_TRAIN,
    remainder: str = "carry",
    independent: bool = False,
) -> Array:
    """Expected loss 1/2 sum_i h_i w_i^2 before the first and after every update, [T + 1];
    infinite from where it has grown beyond `TOO_LARGE`.

    Exact for examples drawn without replacement, a fresh order every epoch; with
    `independent`, for examples drawn with replacement (the paper's model: noise of
    variance c_i / B that knows nothing of the batches before).
    """
    h_D, c_D = np.array(problem.curvatures), np.array(problem.noise)
    mean_D2 = np.stack([np.array(problem.start), np.zeros_like(h_D)], 1)
    white_D22 = np.zeros((len(h_D), 2, 2))  # sum of squared responses to single examples
    past_D22 = np.zeros_like(white_D22)  # squares of the epochs' summed responses
    epoch_D2 = np.zeros_like(mean_D2)  # summed response of the current epoch
    population = 1.0 if independent else num_examples / (num_examples - 1)
    losses, seen = [problem.start_loss], 0
    for rate in rates:
        M_D22, b_2 = rule.transition(rate, h_D)
        T_D22 = M_D22.transpose(0, 2, 1)
        mean_D2, epoch_D2 = ((M_D22 @ x[:, :, None])[..., 0] for x in (mean_D2, epoch_D2))
        white_D22, past_D22 = (M_D22 @ x @ T_D22 for x in (white_D22, past_D22))
        white_D22 = white_D22 + np.outer(b_2, b_2) / batch_size
        left = batch_size
        while left:
            drawn = min(left, num_examples - seen)
            epoch_D2 = epoch_D2 + b_2 * (drawn / batch_size)
            left, seen = left - drawn, seen + drawn
            if seen == num_examples or (
                remainder == "drop" and left == 0 and num_examples - seen < batch_size
            ):
                past_D22 = past_D22 + epoch_D2[:, :, None] * epoch_D2[:, None, :]
                epoch_D2, seen = np.zeros_like(epoch_D2), 0
        drawn_twice_D = past_D22[:, 0, 0] + epoch_D2[:, 0] ** 2
        spread_D = white_D22[:, 0, 0]
        if not independent:
            spread_D = spread_D - drawn_twice_D / num_examples
        variance_D = c_D * population * spread_D
        losses.append(float(h_D @ (mean_D2[:, 0] ** 2 + variance_D)) / 2)
        if losses[-1] > TOO_LARGE:  # it diverges: before numbers overflow
            losses += [math.inf] * (len(rates) + 1 - len(losses))
            break
    return np.array(losses)


def divergence_rate(problem: NoisyQuadratic, momentum: float) -> float:
    """2 (1 + m) / h_max: a constant rate above it diverges, whatever the batch size."""
    return 2 * (1 + momentum) / max(problem.curvatures)


def stationary_loss(
    problem: NoisyQuadratic, rate: float, momentum: float, batch_size: int
) -> float:
    """Expected loss after many updates at a constant `rate`, examples drawn independently.

    sum_i rate c_i (1 + m) / (2 B (1 - m) (2 (1 + m) - rate h_i)); infinite from the
    divergence rate on.
    """
    if rate >= divergence_rate(problem, momentum):
        return math.inf
    top, bottom = 1 + momentum, 2 * batch_size * (1 - momentum)
    pairs = zip(problem.curvatures, problem.noise, strict=True)
    return math.fsum(rate * c * top / (bottom * (2 * top - rate * h)) for h, c in pairs)


def expected_accuracy(problem: NoisyQuadratic, loss: float) -> float:
    """1 - loss / (2 start loss), and 1/2 from the start loss on.

    Of an expected loss it is the expected accuracy, but for the rounding to 1 in 2,048, as
    long as single trials stay under the start loss.
    """
    return 1 - min(loss / problem.start_loss, 1.0) / 2


def rates_of(spec: TrialSpec, num_examples: int = NUM_TRAIN) -> list[float]:
    """The learning rate of every update. UsageError for a technique other than warmup."""
    found = [technique(name, options) for name, options in spec.techniques]
    if any(not isinstance(item, Warmup) for item in found) or len(found) > 1:
        names = ", ".join(name for name, _ in spec.techniques)
        raise UsageError(f"the truth of arm {spec.arm!r} is not known: techniques {names}")
    warmup = found[0] if found and isinstance(found[0], Warmup) else None
    remainder: Remainder = "carry" if spec.settings.remainder == "carry" else "drop"
    clock = Clock(num_examples, spec.batch_size, remainder)
    clock = clock.with_budget(parse_duration(spec.budget))
    return [spec.lr * f for f in factors(clock, warmup=warmup, decay=spec.decay)]


def trial_losses(spec: TrialSpec, problem: NoisyQuadratic = QUADRATIC) -> Array:
    """Expected losses [T + 1] of a trial of the workload.

    UsageError where its settings or techniques are not those that the derivation covers.
    """
    own, settings = NOISY_QUADRATIC.settings, spec.settings
    plain = dataclasses.replace(
        settings,
        optimizer=own.optimizer,
        remainder=own.remainder,
        evaluate_every=own.evaluate_every,
    )
    rule = settings.optimizer
    if plain != own or rule != Optimizer(form=rule.form, momentum=rule.momentum):
        raise UsageError(
            f"the truth of arm {spec.arm!r} is known for SGD with momentum in "
            "single precision, and for no other settings"
        )
    return expected_losses(
        problem,
        rates_of(spec),
        Heavy(rule.momentum, rule.form),
        batch_size=spec.batch_size,
        remainder=settings.remainder,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmTruth:
    """What a study of the quadratic should find for one arm. Accuracies are shares.

    tolerance: the tolerance cliff of the exact curve, linear in log2 B between the study's
    batch sizes; inf or -inf outside of them. divergence: the batch size from which on the
    peak rate diverges, where the rule of the learning rate is a power of the batch size.
    """

    batch_sizes: tuple[int, ...]
    accuracies: tuple[float, ...]
    tolerance: float
    divergence: float


def truth(
    specs: Iterable[TrialSpec],
    reference_arm: str,
    tolerance: float,
    problem: NoisyQuadratic = QUADRATIC,
) -> dict[str, ArmTruth]:
    """The truth of every arm of a study's trials. UsageError as `trial_losses`."""
    arms: dict[str, dict[int, TrialSpec]] = {}
    for spec in specs:
        arms.setdefault(spec.arm, {})[spec.batch_size] = spec
    curves = {arm: _curve(sizes, problem) for arm, sizes in arms.items()}
    reference = list(curves[reference_arm].values())
    plateau = max(math.fsum(reference[:k]) / k for k in range(1, len(reference) + 1))
    return {
        arm: ArmTruth(
            batch_sizes=tuple(curve),
            accuracies=tuple(curve.values()),
            tolerance=_crossing(curve, plateau - tolerance),
            divergence=_divergence(arms[arm], problem),
        )
        for arm, curve in curves.items()
    }


def _curve(sizes: dict[int, TrialSpec], problem: NoisyQuadratic) -> dict[int, float]:
    """Exact expected accuracy by batch size, ascending."""
    return {
        size: expected_accuracy(problem, float(trial_losses(sizes[size], problem)[-1]))
        for size in sorted(sizes)
    }


def _crossing(curve: dict[int, float], threshold: float) -> float:
    """Where the curve first falls through `threshold`, log2-interpolated."""
    sizes, values = list(curve), list(curve.values())
    below = next((k for k, value in enumerate(values) if value < threshold), None)
    if below is None:
        return math.inf
    if below == 0:
        return -math.inf
    share = (values[below - 1] - threshold) / (values[below - 1] - values[below])
    return float(sizes[below - 1] * (sizes[below] / sizes[below - 1]) ** share)


def _divergence(sizes: dict[int, TrialSpec], problem: NoisyQuadratic) -> float:
    """Batch size at which the peak rate is the divergence rate; inf if it never is.

    The power law through the smallest and the largest batch size of the study.
    """
    first, last = sizes[min(sizes)], sizes[max(sizes)]
    limit = divergence_rate(problem, first.settings.optimizer.momentum)
    if first.batch_size == last.batch_size or first.lr == last.lr:
        return math.inf
    power = math.log(last.lr / first.lr) / math.log(last.batch_size / first.batch_size)
    return float(first.batch_size * (limit / first.lr) ** (1 / power))
