"""Networks that have died, told from the recorded curves.

A clipped cross entropy has a ceiling. Where a network gives one class the probability 1 for
every example, the clipped loss is -ln(epsilon) for each example of another class, on average
(K - 1)/K x -ln(epsilon) over K classes of equal size (14.51 for 10 classes), and its gradient
is zero there: no rate and no time brings the network back. A network whose last layer no
longer sees its input stays at ln K in the same way, which only its gradient norms can tell
from one that learns nothing yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from batchcliff.record import Outcome, TrialRecord

CLIP = 1e-7  # of "clipped-softmax": probabilities lie in [CLIP, 1 - CLIP]
EPOCHS = 3  # the last ones, at least, have to be there; an epoch at the ceiling may be a visit
CEILING_BAND = 0.005  # share of the ceiling; classes of an epoch are not quite equal in size
UNIFORM_BAND = 0.001  # share of ln K


def ceiling(num_classes: int) -> float:
    """Mean clipped loss, in nats, of a network that is certain of one class throughout."""
    return (num_classes - 1) / num_classes * -math.log(CLIP)


def dead_since(record: TrialRecord) -> int | None:
    """First epoch, from 1, from which on the network was dead to the end; None: it was not.

    Dead: the mean training loss of each of at least the last 3 epochs lies within 0.5% of the
    clipped loss' ceiling, or within 0.1% of ln K with gradient norms recorded that are all 0.
    Only ok trials without label smoothing and mixup, which have other ceilings, are judged.
    """
    settings, ledger, curves = record.spec.settings, record.ledger, record.curves
    if record.outcome is not Outcome.OK or ledger is None or ledger.num_classes < 2:
        return None
    if settings.label_smoothing or settings.mixup:
        return None
    found, losses, norms = [], curves.train_loss, curves.gradient_norm_max
    if settings.loss == "clipped-softmax":
        top = ceiling(ledger.num_classes)
        found.append(_since(len(losses), lambda i: abs(losses[i] - top) <= CEILING_BAND * top))
    if len(norms) == len(losses):
        even = math.log(ledger.num_classes)
        found.append(
            _since(
                len(losses),
                lambda i: norms[i] == 0 and abs(losses[i] - even) <= UNIFORM_BAND * even,
            )
        )
    return min((epoch for epoch in found if epoch is not None), default=None)


def _since(epochs: int, held: Callable[[int], bool]) -> int | None:
    """Epoch, from 1, from which on `held` (asked from the last one, from 0) is true to the
    end, if that is long enough."""
    last_alive = next((i for i in range(epochs, 0, -1) if not held(i - 1)), 0)
    return last_alive + 1 if epochs - last_alive >= EPOCHS else None
