"""One trial, or several of one shape side by side: from specs to records."""

from __future__ import annotations

import contextlib
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
from batchcliff.record import Ledger, Provenance, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import learning_rates, timeline_of
from batchcliff.training.checkpoint import Begun, Checkpoints, named_state
from batchcliff.training.epochs import epoch_tensors, train
from batchcliff.training.evaluate import REESTIMATION_EXAMPLES, reestimated
from batchcliff.training.precision import device_name, numerics, precision, versions
from batchcliff.training.prepare import Prepared
from batchcliff.training.probes import read_probes
from batchcliff.training.records import Ran, write_record
from batchcliff.training.stopping import Watch, examples_of

if TYPE_CHECKING:
    from batchcliff.training.pretrained import Pretrained
    from batchcliff.training.turns import Turn

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
    turn: Turn | None = None,
) -> list[TrialRecord]:
    """Train and evaluate trials that all have `prepared`'s shape; a record for each.

    With `pretrained` (a stack of one) they begin with its weights, and the record says what
    became of them. With `checkpoints` they go on from the newest, and leave others.
    `on_progress(updates done, updates of the run)` is called now and then, `on_phase` with
    "training", "probing", "evaluating" or "reestimating" when that begins. turn: what it has to
    wait for before it trains; that wait counts nowhere. Slots of the stack
    beyond the last trial repeat it, so that a stack has the width it was made for.
    Where `prepared` is that of one rank of several, all of them run the same trials: rank 0's
    checkpoints and weights count, and its records. Raises torch.OutOfMemoryError; RankLost and
    RanksApart among ranks.
    """
    run = _Run(specs, resident, prepared)
    run.begin(pretrained, checkpoints, code)
    watch = Watch(specs[0], prepared, ledgers[0].num_classes)
    with run.in_turn(turn, checkpoints) as on_wait:
        losses_US = train(
            prepared,
            run.slots,
            resident,
            on_progress,
            begin=run.begun.update,
            checkpoints=checkpoints,
            watch=watch,
            on_phase=on_phase,
            on_wait=on_wait,
        )[: watch.end]
    if on_phase is not None:
        on_phase("reestimating")
    reestimate(prepared, run.slots, resident, watch.end)
    if prepared.loop.ranks is not None:
        prepared.loop.ranks.check_together(prepared.loop.parameters)
    tests = read_tests(prepared, len(resident.test_labels))
    provenance = run.provenance(code=code, data_source=data_source, workers=workers)
    ran = read_runs(prepared, losses_US, tests, watch.ended)[: len(specs)]
    records = [
        write_record(spec, ledger, one, provenance, run.num_train)
        for spec, ledger, one in zip(specs, run.counted(ledgers), ran, strict=True)
    ]
    if specs[0].settings.probes:  # a stack of one
        shapes = [p.shape for p in prepared.loop.parameters]
        (one,) = ran
        found = read_probes(records[0], run.num_train, one.losses, one.logs, shapes)
        records = [dataclasses.replace(records[0], probes=found)]
    if pretrained is not None:
        transfer = pretrained.measure(prepared.model)
        records = [dataclasses.replace(record, transfer=transfer) for record in records]
    return records


class _Run:
    """Trials of one shape side by side: the slots they take, and where and when they began."""

    def __init__(self, specs: list[TrialSpec], resident: Resident, prepared: Prepared) -> None:
        self.started, self.clock = utc_now(), time.perf_counter()
        self.specs, self.resident, self.prepared = specs, resident, prepared
        self.num_train = len(resident.train_labels)
        self.slots = specs + [specs[-1]] * (prepared.stack - len(specs))
        self.begun = Begun()

    def begin(
        self, pretrained: Pretrained | None, checkpoints: Checkpoints | None, code: str
    ) -> None:
        """Put initial weights, pretrained ones or a checkpoint in place; rank 0's for all."""
        prepared = self.prepared
        prepared.restart(self.slots, rates(self.slots, self.resident))
        if pretrained is not None:
            pretrained.start(prepared.model)
        if checkpoints is not None:
            weights = pretrained.digest if pretrained else ""
            self.begun = checkpoints.begin(
                prepared, self.specs, self.num_train, code=code, weights=weights
            )
        if prepared.loop.ranks is not None:
            state = named_state(prepared).values()
            place = prepared.loop.ranks.begin(self.begun.update, self.begun.seconds, state)
            self.begun = dataclasses.replace(self.begun, **place)

    @contextlib.contextmanager
    def in_turn(
        self, turn: Turn | None, checkpoints: Checkpoints | None
    ) -> Iterator[Callable[[float], None]]:
        """Train within the block when it is the run's turn; what tells the turn of the host."""
        if turn is None:
            yield lambda _: None
            return
        with turn:
            self.clock += turn.waited
            if checkpoints is not None:
                checkpoints.waited(turn.waited)
            yield turn.look

    def provenance(self, *, code: str, data_source: str, workers: int) -> Provenance:
        """How, where and how fast it ran, now that it is over."""
        prepared, loop = self.prepared, self.prepared.loop
        seconds = (self.begun.seconds + time.perf_counter() - self.clock) / len(self.specs)
        ran = int(loop.count)  # fewer than the run has, where all diverged
        return Provenance(
            seconds=seconds,
            compile_seconds=prepared.seconds,
            examples_per_second=examples_of(self.specs[0], self.num_train, ran) / seconds,
            started=self.started,
            stacked=len(self.specs),
            workers=workers,
            device=device_name(loop.device),
            versions=versions(),
            numerics=numerics(loop.device, prepared.compiled, prepared.kernels, prepared.team),
            code=code,
            data_source=data_source,
            resumed_from=self.begun.update,
            micro_batch=prepared.micro_batch,
            ranks=1 if loop.ranks is None else loop.ranks.count,
            mixed=self.begun.mixed,
        )

    def counted(self, ledgers: list[Ledger]) -> list[Ledger]:
        """The ledgers, with the micro batches that each update was run in."""
        parts = self.prepared.accumulation
        return [dataclasses.replace(ledger, accumulation=parts) for ledger in ledgers]


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


def read_runs(
    prepared: Prepared,
    losses_US: Tensor,
    tests: list[list[tuple[float, float]]],
    ended: str,
) -> list[Ran]:
    """What each network's run left, [S]; waits for it. tests, ended: as in `Ran`."""
    logs = {name: log_US.cpu() for name, log_US in prepared.loop.logs.items()}
    return [
        Ran(
            losses=losses_US[:, s],
            logs={name: log_US[:, s] for name, log_US in logs.items()},
            tests=tests[s],
            ended=ended,
        )
        for s in range(prepared.stack)
    ]
