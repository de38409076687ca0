"""One trial, or several of one shape side by side: from specs to records."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.provenance import utc_now
from batchcliff.record import Curves, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import learning_rates, timeline_of
from batchcliff.training.checkpoint import Begun, Checkpoints, named_state
from batchcliff.training.divergence import divergence
from batchcliff.training.epochs import epoch_tensors, evaluated_epochs, spans, train
from batchcliff.training.evaluate import REESTIMATION_EXAMPLES, reestimated
from batchcliff.training.precision import device_name, numerics, precision, versions
from batchcliff.training.prepare import Prepared
from batchcliff.training.probes import read_probes
from batchcliff.training.stopping import Watch, examples_of
from batchcliff.training.update_logs import norm_curves, skipped_updates

if TYPE_CHECKING:
    from batchcliff.training.pretrained import Pretrained

# U updates, S stack, E evaluations


def run_trials(
    specs: list[TrialSpec],
    ledgers: list[Ledger],
    resident: Resident,
    prepared: Prepared,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_phase: Callable[[str], None] | None = None,
    code: str = "",
    data_source: str = "",
    workers: int = 1,
    pretrained: Pretrained | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[TrialRecord]:
    """Train and evaluate trials that all have `prepared`'s shape; a record for each.

    With `pretrained` (a stack of one) they begin with its weights, and the record says what
    became of them. With `checkpoints` they go on from the newest, and leave others.
    `on_progress(updates done, updates of the run)` is called now and then, `on_phase` with
    "training", "probing", "evaluating" or "reestimating" when that begins. Slots of the stack
    beyond the last trial repeat it, so that a stack has the width it was made for.
    Where `prepared` is that of one rank of several, all of them run the same trials: rank 0's
    checkpoints and weights count, and its records. Raises torch.OutOfMemoryError; RankLost and
    RanksApart among ranks.
    """
    started, clock, num_train = utc_now(), time.perf_counter(), len(resident.train_labels)
    slots = specs + [specs[-1]] * (prepared.stack - len(specs))
    prepared.restart(slots, rates(slots, resident))
    if pretrained is not None:
        pretrained.start(prepared.model)
    begun = Begun()
    if checkpoints is not None:
        weights = pretrained.digest if pretrained else ""
        begun = checkpoints.begin(
            prepared, specs, len(resident.train_labels), code=code, weights=weights
        )
    ranks, mixed = prepared.loop.ranks, begun.mixed
    if ranks is not None:
        state = named_state(prepared).values()
        begun = Begun(**ranks.begin(begun.update, begun.seconds, state))
    watch = Watch(specs[0], prepared, ledgers[0].num_classes)
    losses_US = train(
        prepared, slots, resident, on_progress, begun.update, checkpoints, watch, on_phase
    )[: watch.end]
    if on_phase is not None:
        on_phase("reestimating")
    reestimate(prepared, slots, resident, watch.end)
    if ranks is not None:
        ranks.check_together(prepared.loop.parameters)
    tests = read_tests(prepared, len(resident.test_labels))
    seconds = (begun.seconds + time.perf_counter() - clock) / len(specs)
    ran = int(prepared.loop.count)  # fewer than the run has, where all diverged
    provenance = Provenance(
        seconds=seconds,
        compile_seconds=prepared.seconds,
        examples_per_second=examples_of(specs[0], num_train, ran) / seconds,
        started=started,
        stacked=len(specs),
        workers=workers,
        device=device_name(prepared.loop.device),
        versions=versions(),
        numerics=numerics(
            prepared.loop.device, prepared.compiled, prepared.kernels, prepared.team
        ),
        code=code,
        data_source=data_source,
        resumed_from=begun.update,
        micro_batch=prepared.micro_batch,
        ranks=1 if ranks is None else ranks.count,
        mixed=mixed,
    )
    cut = prepared.accumulation
    ledgers = [dataclasses.replace(ledger, accumulation=cut) for ledger in ledgers]
    logs = {name: log_US.cpu() for name, log_US in prepared.loop.logs.items()}
    records = [
        write_record(
            spec,
            ledger,
            losses_US[:, s],
            tests[s],
            provenance,
            num_train,
            {name: log_US[:, s] for name, log_US in logs.items()},
            watch.ended,
        )
        for s, (spec, ledger) in enumerate(zip(specs, ledgers, strict=True))
    ]
    if specs[0].settings.probes:  # a stack of one
        alone = {name: log_US[:, 0] for name, log_US in logs.items()}
        shapes = [p.shape for p in prepared.loop.parameters]
        found = read_probes(
            records[0], len(resident.train_labels), losses_US[:, 0], alone, shapes
        )
        records = [dataclasses.replace(records[0], probes=found)]
    if pretrained is not None:
        transfer = pretrained.measure(prepared.model)
        records = [dataclasses.replace(record, transfer=transfer) for record in records]
    return records


def rates(slots: list[TrialSpec], resident: Resident) -> Tensor:
    """The learning rate of every update of every trial, float32 [U, S]."""
    return torch.tensor(
        [learning_rates(spec, len(resident.train_labels)) for spec in slots]
    ).t()


def reestimate(
    prepared: Prepared, slots: list[TrialSpec], resident: Resident, end: int | None = None
) -> None:
    """One more evaluation, with batch-norm statistics of the final weights.

    end: updates that ran; None: the whole run. They come from the batches that the run would
    have seen next: at least 10,000 examples, or an epoch where that is less.
    """
    timeline = timeline_of(slots[0], len(resident.train_labels))
    beyond = timeline.updates if end is None else end
    last = timeline.stretch_at(beyond)
    wanted = min(
        math.ceil(REESTIMATION_EXAMPLES / last.batch_size),
        math.ceil(timeline.updates_per_epoch(last.batch_size)),
        beyond,
    )
    index, draws = epoch_tensors(slots, resident, beyond, beyond + wanted)
    loop = prepared.at(last.batch_size).loop

    def batches() -> Iterator[Callable[[], object]]:
        for index_BS, draws_BSk in zip(
            index.to(loop.device), draws.to(loop.device), strict=True
        ):
            yield functools.partial(loop.look, index_BS, draws_BSk)

    with (
        precision(slots[0].settings.precision, loop.device),
        reestimated(prepared.model, batches()),
    ):
        prepared.evaluate()


def read_tests(prepared: Prepared, num_test: int) -> list[list[tuple[float, float]]]:
    """(accuracy, mean loss) of each evaluation of each network, [S][E]; waits for it."""
    done = int(prepared.evaluation.count)
    accuracy_ES = prepared.evaluation.correct_ES[:done].cpu().double() / num_test
    loss_ES = prepared.evaluation.loss_ES[:done].cpu() / num_test
    return [
        list(zip(accuracy_ES[:, s].tolist(), loss_ES[:, s].tolist(), strict=True))
        for s in range(prepared.stack)
    ]


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
    spec: TrialSpec,
    ledger: Ledger,
    losses_U: Tensor,
    tests: list[tuple[float, float]],
    provenance: Provenance,
    num_train: int,
    logs: dict[str, Tensor],
    ended: str = "",
) -> TrialRecord:
    """The record of one trial; `tests` are its evaluations, the re-estimated one last.

    losses_U: of the updates that ran. logs: what the loop logged beside the loss, [U] by
    name. ended: why the run was cut short, see `TrialRecord`.
    """
    accuracy, test_loss = tests[-2] if len(tests) > 1 else (math.nan, math.nan)
    if spec.settings.evaluation == "reestimated":
        accuracy, test_loss = tests[-1]
    sign = divergence(losses_U, first_bad(losses_U, test_loss), spec.settings.explosion, logs)
    bad = None if sign is None else sign.update
    curves = read_curves(spec, losses_U, tests[:-1], bad, num_train, logs)
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
        ended=ended,
    )


def read_curves(
    spec: TrialSpec,
    losses_U: Tensor,
    tests: list[tuple[float, float]],
    bad: int | None,
    num_train: int,
    logs: dict[str, Tensor],
) -> Curves:
    """Per-epoch curves; nothing after the first bad update is kept."""
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
        **norm_curves(logs, kept, bad),
    )
