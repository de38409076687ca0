"""From the probes of a trial to a critical batch size, and how it compares with the cliff.

The gradient noise scale B_noise = tr(Sigma) / |G|^2 (McCandlish et al. 2018, 1812.06162,
equation 2.9) is the batch size at which noise and gradient are equally long: far below it
doubling the batch halves the updates, far above it doubling gains nothing. It predicts where
more examples an update stop *helping*; where accuracy falls under a rule for the rate is
another question, which is why the two are put beside each other here.

Both parts are unbiased and noisy, and their quotient is biased, so each is smoothed before they
are divided (appendix A.1 there): an exponential moving average over the places of the run, its
start corrected as Adam's is. An average that is not above 0 gives no noise scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchcliff.record import Probes, TrialRecord
from batchcliff.spec import Optimizer, TrialSpec
from batchcliff.stats.intervals import Estimate, mean_interval
from batchcliff.stats.summary import StudySummary

DECAY = 0.5  # of the moving average, from one place of the run to the next
EARLY = 0.1  # share of the updates that "early" means
METHOD = "ratio of means over the run, geometric mean over trials"


def smoothed(values: Sequence[float | None], decay: float = DECAY) -> list[float | None]:
    """Exponential moving average with its bias corrected; places without a value keep the
    last one."""
    total = weight = 0.0
    found: list[float | None] = []
    for value in values:
        if value is not None:
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        found.append(total / weight if weight else None)
    return found


def noise_scales(probes: Probes) -> tuple[tuple[int, float], ...]:
    """(update, smoothed noise scale in examples) of each place that has one."""
    parts = (
        zip(
            probes.updates,
            smoothed(probes.noise_trace),
            smoothed(probes.gradient_square),
            strict=True,
        )
        if probes.noise_trace
        else ()
    )
    return tuple(
        (update, trace / square)
        for update, trace, square in parts
        if trace is not None and square is not None and trace > 0 and square > 0
    )


def run_noise_scale(probes: Probes, updates: int) -> float | None:
    """The noise scale of the run: mean tr(Sigma) over mean |G|^2, each place weighted by the
    updates that lie nearer to it than to another. None where a mean is not above 0."""
    if not probes.noise_trace:
        return None
    middles = [(a + b) / 2 for a, b in zip(probes.updates, probes.updates[1:], strict=False)]
    ends = [0.0, *middles, float(updates)]
    trace = square = 0.0
    rows = zip(probes.noise_trace, probes.gradient_square, ends, ends[1:], strict=False)
    for one, other, begin, end in rows:
        if one is not None and other is not None:
            trace += one * (end - begin)
            square += other * (end - begin)
    return trace / square if trace > 0 and square > 0 else None


def stability_limit(optimizer: Optimizer, lr: float) -> float | None:
    """The largest curvature that updates at a constant rate do not diverge along; None where
    the rule of the update has none of this form.

    Heavy ball: 2 (1 + m) / lr; Nesterov: 2 (1 + m) / ((1 + 2 m) lr) (Cohen et al. 2021,
    2103.00065, appendix B). Weight decay adds to the curvature and so takes from the limit.
    """
    if optimizer.name != "sgd" or lr <= 0 or not math.isfinite(lr):
        return None
    m = optimizer.momentum
    share = 1 + 2 * m if optimizer.nesterov else 1.0
    return 2 * (1 + m) / (share * lr) - optimizer.weight_decay


def sharpness_shares(spec: TrialSpec, probes: Probes) -> tuple[tuple[int, float], ...]:
    """(update, sharpness as a share of the stability limit at the update's rate) of each place
    that has one: above 1 an update overshoots along the sharpest direction."""
    found = []
    for update, lr, value in zip(probes.updates, probes.lr, probes.sharpness, strict=False):
        limit = stability_limit(spec.settings.optimizer, lr)
        if value is not None and limit is not None and limit > 0:
            found.append((update, value / limit))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScaleRow:
    """One arm: what its noise predicts, what was measured, and the quotient of the two.

    early: smoothed noise scale at the end of the first tenth of the run. predicted: of the
    whole run. Both from the arm's trials below its fall, in examples. cliff: the arm's
    tolerance cliff. ratio: cliff / predicted; None where either is missing or censored.
    """

    arm: str
    early: float | None
    predicted: Estimate
    cliff: Estimate
    ratio: float | None


def noise_scale_rows(
    records: Iterable[TrialRecord], summary: StudySummary
) -> tuple[NoiseScaleRow, ...]:
    """A row for each arm that has a trial with a noise scale.

    Trials of fallen cells are left out as long as there are others: what they say of the noise
    is said of another training.
    """
    by_arm: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.probes is not None and record.probes.noise_trace:
            by_arm.setdefault(record.spec.arm, []).append(record)
    rows = []
    for arm in summary.arms:
        trials = by_arm.get(arm.arm, [])
        if not trials:
            continue
        held = {
            cell.cell.batch_size
            for cell in arm.cells
            if summary.threshold is None
            or (cell.mean_with_failures.value or 0.0) >= summary.threshold
        }
        chosen = [r for r in trials if r.spec.batch_size in held] or trials
        predicted = _predicted(chosen, summary.level)
        cliff, ratio = arm.tolerance, None
        if cliff.value is not None and not cliff.censored and predicted.value:
            ratio = cliff.value / predicted.value
        rows.append(
            NoiseScaleRow(
                arm=arm.arm, early=_early(chosen), predicted=predicted, cliff=cliff, ratio=ratio
            )
        )
    return tuple(rows)


def _predicted(records: Sequence[TrialRecord], level: float) -> Estimate:
    """Mean of the logarithms over trials, with its t interval, as batch sizes."""
    found = [
        run_noise_scale(r.probes, r.ledger.updates if r.ledger else r.updates)
        for r in records
        if r.probes is not None
    ]
    logs = [math.log(value) for value in found if value is not None]
    mean = mean_interval(logs, level, METHOD)
    low, high = (None if x is None else math.exp(x) for x in (mean.low, mean.high))
    missing = len(found) - len(logs)
    note = f"{missing} of {len(found)} trials: the gradient is lost in its noise"
    return Estimate(
        value=None if mean.value is None else math.exp(mean.value),
        low=low,
        high=high,
        level=level,
        method=METHOD,
        n=len(logs),
        note=note if missing else mean.note,
    )


def _early(records: Sequence[TrialRecord]) -> float | None:
    """Geometric mean over trials of the last smoothed value in the first tenth of the run."""
    logs = []
    for record in records:
        if record.probes is None or record.ledger is None:
            continue
        until = EARLY * record.ledger.updates
        values = [v for update, v in noise_scales(record.probes) if update <= until]
        logs += [math.log(value) for value in values[-1:]]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None
