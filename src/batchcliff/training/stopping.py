"""Whether a run ends before its budget does, by the rule that is part of its trial's id.

The rule is asked at the end of epochs, where the host looks at the losses anyway. It waits
there for the epoch that has just been queued, so that the run ends with the very epoch that
the rule is about, on every machine and after every restart from a checkpoint; the device then
idles for as long as the host needs to draw the next epoch. What is not asked about costs
nothing: one such wait a run for `stalled`, one an evaluation for `accuracy`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from torch import Tensor

from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import Stop, TrialSpec
from batchcliff.training.arithmetic import clock_of, timeline_of

if TYPE_CHECKING:
    from batchcliff.training.prepare import Prepared

AT_CHANCE = 0.98
"""Share of log(classes), the loss of a guess without looking, that a loss must fall below for
the trial to have learnt something. To know how frequent the classes are is not enough."""

# U updates


def check_after(spec: TrialSpec, num_train: int) -> int | None:
    """Updates after which a trial may be found stalled: the end of the first epoch that ends
    at or after `stop.stalled`. None: no such rule, or not before the end of the run."""
    if not spec.settings.stop.stalled:
        return None
    clock, timeline = clock_of(spec, num_train), timeline_of(spec, num_train)
    assert clock.total is not None
    count = clock.updates(parse_duration(spec.settings.stop.stalled))
    place = Fraction(count, clock.total) * timeline.examples
    ends = [last for _, last in timeline.epochs()[:-1]]
    return next((last for last in ends if examples_of(spec, num_train, last) >= place), None)


def examples_of(spec: TrialSpec, num_train: int, updates: int) -> int:
    """Examples that the first `updates` of the run read."""
    stretches = timeline_of(spec, num_train).stretches
    return sum(
        (min(updates, s.last) - s.first) * s.batch_size for s in stretches if s.first < updates
    )


def stalled(losses_U: Tensor, epochs: list[tuple[int, int]], num_classes: int) -> bool:
    """Whether no epoch of the run so far had a mean training loss under that of chance."""
    level = AT_CHANCE * math.log(num_classes)
    means = [float(losses_U[a:b].double().mean()) for a, b in epochs if a < b <= len(losses_U)]
    return not any(mean < level for mean in means)


class Watch:
    """Follows one run. `ended`: why it ended early, "stalled" or "target", or ""; `end`: the
    updates that ran, all of them if it did not."""

    def __init__(self, spec: TrialSpec, prepared: Prepared, num_classes: int) -> None:
        if prepared.stack > 1 and spec.settings.stop != Stop():
            raise ValueError("trials that may end early are trained one by one, not in a stack")
        self._stop, self._evaluation = spec.settings.stop, prepared.evaluation
        self._classes, self._num_test = num_classes, len(prepared.evaluation.labels_N)
        num_train = len(prepared.loop.labels_N)
        timeline = timeline_of(spec, num_train)
        self._epochs, self._check = timeline.epochs(), check_after(spec, num_train)
        self.ended, self.end = "", timeline.updates

    def asks(self, update: int, *, evaluated: bool) -> bool:
        """Whether the rule is to be asked after so many updates, before the run is over."""
        if update == self._epochs[-1][1]:
            return False
        return update == self._check or bool(evaluated and self._stop.accuracy)

    def over(self, losses_U: Tensor, *, evaluated: bool) -> bool:
        """Whether the run ends here, after the updates with these losses, host [U]."""
        reached = evaluated and self._stop.accuracy and self._accuracy() >= self._stop.accuracy
        if reached:
            self.ended = "target"
        elif len(losses_U) == self._check and stalled(losses_U, self._epochs, self._classes):
            self.ended = "stalled"
        else:
            return False
        self.end = len(losses_U)
        return True

    def finish(self) -> None:
        """The run has come to its end: it may have reached the target with the last update."""
        if self._stop.accuracy and self._accuracy() >= self._stop.accuracy:
            self.ended = "target"

    def _accuracy(self) -> float:
        """Of the last evaluation; waits for it."""
        row = int(self._evaluation.count) - 1
        if not math.isfinite(float(self._evaluation.loss_ES[row, 0])):
            return 0.0  # argmax makes an accuracy of NaN too
        return float(self._evaluation.correct_ES[row, 0]) / self._num_test
