"""What the run of a trial left becomes its record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchcliff.record import Curves, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import learning_rates
from batchcliff.training.divergence import divergence
from batchcliff.training.epochs import evaluated_epochs, spans
from batchcliff.training.update_logs import norm_curves, skipped_updates

# U updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What the run of one trial left, on the host.

    losses: of the updates that ran, [U]. logs: what the loop logged beside the loss, [U] by
    name. tests: (accuracy, mean loss) of its evaluations, the re-estimated one last. ended:
    why the run was cut short, see `TrialRecord`.
    """

    losses: Tensor
    logs: dict[str, Tensor]
    tests: list[tuple[float, float]]
    ended: str = ""


def first_bad(losses_U: Tensor, final_test_loss: float) -> int | None:
    """Index of the first update whose loss is not finite; None if all are.

    It is the number of updates where only the test loss after the last one is not finite:
    then the last update itself did the damage.
    """
    bad = torch.nonzero(~torch.isfinite(losses_U))
    if len(bad):
        return int(bad[0])
    return None if math.isfinite(final_test_loss) else len(losses_U)


def measured(accuracy: float, loss: float) -> float | None:
    """The accuracy; None where the loss is not finite, since argmax makes 0 of NaN."""
    return accuracy if math.isfinite(loss) else None


def write_record(
    spec: TrialSpec, ledger: Ledger, ran: Ran, provenance: Provenance, num_train: int
) -> TrialRecord:
    """The record of one trial. num_train: examples in the training set."""
    losses_U, logs, tests = ran.losses, ran.logs, ran.tests
    accuracy, test_loss = tests[-2] if len(tests) > 1 else (math.nan, math.nan)
    if spec.settings.evaluation == "reestimated":
        accuracy, test_loss = tests[-1]
    sign = divergence(losses_U, first_bad(losses_U, test_loss), spec.settings.explosion, logs)
    bad = None if sign is None else sign.update
    curves = read_curves(spec, ran, bad, num_train)
    if sign is not None:
        return TrialRecord(
            spec=spec,
            outcome=Outcome.DIVERGED,
            reason=sign.reason,
            first_bad_update=sign.update,
            updates=sign.update,
            ledger=ledger,
            curves=curves,
            provenance=provenance,
            skipped_updates=skipped_updates(logs, sign.update),
        )
    return TrialRecord(
        spec=spec,
        outcome=Outcome.OK,
        accuracy=accuracy,
        accuracy_reestimated=measured(*tests[-1]),
        test_loss=test_loss,
        train_loss=curves.train_loss[-1],
        updates=len(losses_U),
        ledger=ledger,
        curves=curves,
        provenance=provenance,
        skipped_updates=skipped_updates(logs, len(losses_U)),
        ended=ran.ended,
    )


def read_curves(spec: TrialSpec, ran: Ran, bad: int | None, num_train: int) -> Curves:
    """Per-epoch curves; nothing after the first bad update is kept."""
    losses_U, tests = ran.losses, ran.tests[:-1]
    runs = [(a, b) for a, b in spans(spec, num_train) if b <= len(losses_U)]
    table = learning_rates(spec, num_train)
    kept = [(a, b) for a, b in runs if bad is None or a <= bad]
    whole = [e for e, (_, b) in enumerate(runs) if bad is None or b <= bad]
    accuracies = dict(
        zip(evaluated_epochs(spec, len(runs)), (measured(*t) for t in tests), strict=False)
    )
    return Curves(
        train_loss=tuple(
            float(losses_U[a:b].double().mean()) if bad is None or b <= bad else math.nan
            for a, b in kept
        ),
        lr=tuple(table[b - 1] for _, b in kept),
        test_accuracy=tuple(
            accuracies.get(e) if e in whole else None for e in range(len(kept))
        ),
        **norm_curves(ran.logs, kept, bad),
    )
