"""A run, epoch by epoch: the host prepares the next epoch while the device trains this one.

The host queues an epoch's updates and the copy of their losses, then waits for the epoch
*before*: so it learns of progress and of divergence one epoch late, and the device never
waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from batchcliff.data.augment import Extras
from batchcliff.data.resident import Resident, epoch_block
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import timeline_of
from batchcliff.training.compiled import Recorder
from batchcliff.training.divergence import over
from batchcliff.training.prepare import Prepared, image_shape
from batchcliff.training.probes import Probing
from batchcliff.training.probes_plan import examples_of_a_probe
from batchcliff.training.stopping import Watch
from batchcliff.training.timeline import Piece

if TYPE_CHECKING:
    from batchcliff.training.checkpoint import Checkpoints

# U updates, B batch, S stack, k draws per example


def spans(spec: TrialSpec, num_train: int) -> list[tuple[int, int]]:
    """(first, last + 1) update of every epoch of the run; the last one may be cut short."""
    return timeline_of(spec, num_train).epochs()


def evaluated_epochs(spec: TrialSpec, epochs: int) -> list[int]:
    """Epochs (0, 1, ...) after which the test set is evaluated; the last one always is."""
    every = spec.settings.evaluate_every
    return [e for e in range(epochs) if e + 1 == epochs or (every and (e + 1) % every == 0)]


def epoch_tensors(
    slots: list[TrialSpec], resident: Resident, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Indices int32 [U, B, S] and draws [U, B, S, k] of updates first .. last - 1, which are
    of one batch size; those after the end of the run have the last one's."""
    seeds = [spec.seed for spec in slots]
    stretch = timeline_of(slots[0], len(resident.train_labels)).stretch_at(first)
    blocks = {
        seed: epoch_block(
            seed,
            first - stretch.first,
            last - stretch.first,
            batch_size=stretch.batch_size,
            start=stretch.start,
            num_examples=len(resident.train_labels),
            image_shape=image_shape(resident),
            kind=slots[0].settings.augmentation,
            extras=Extras.of(slots[0].settings),
            remainder=slots[0].settings.remainder,
        )
        for seed in set(seeds)
    }
    index = torch.from_numpy(np.stack([blocks[s][0] for s in seeds], 2))
    draws = torch.from_numpy(np.stack([blocks[s][1] for s in seeds], 2))
    if resident.train_images.device.type == "cuda":
        return index.pin_memory(), draws.pin_memory()
    return index, draws


class Follower:
    """Copies each epoch's losses to the host in stream order; `ready` waits for one copy.

    Those of the first `updates`, which are `epochs`, are there already. looks: told after each
    wait how many seconds it has waited so far.
    """

    def __init__(
        self,
        losses_US: Tensor,
        updates: int = 0,
        epochs: int = 0,
        looks: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.device_US, self.looks, self.waited = losses_US, looks, 0.0
        cuda = losses_US.device.type == "cuda"
        self.host_US = torch.full(losses_US.shape, float("nan"), pin_memory=cuda)
        self.host_US[:updates] = losses_US[:updates].cpu()
        self.events: list[torch.cuda.Event | None] = [None] * epochs

    def queue(self, first: int, last: int) -> None:
        """Ask for the losses of updates first .. last - 1 once they are computed."""
        self.host_US[first:last].copy_(self.device_US[first:last], non_blocking=True)
        event = None
        if self.device_US.device.type == "cuda":
            event = torch.cuda.current_stream(self.device_US.device).record_event()
        self.events.append(event)

    def ready(self, epoch: int) -> None:
        """Wait until `epoch`'s losses are on the host."""
        event = self.events[epoch]
        if event is not None:
            asked = time.perf_counter()
            event.synchronize()
            self.waited += time.perf_counter() - asked
            self.looks(self.waited)


class Every:
    """`due()` is true once in `seconds`."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


class _Host:
    """What the host does beside queueing updates: says where the run is, probes, saves."""

    def __init__(
        self,
        prepared: Prepared,
        probing: Probing | None,
        checkpoints: Checkpoints | None,
        on_progress: Callable[[int], None],
        enter: Callable[[str], None],
    ) -> None:
        self.prepared, self.probing, self.checkpoints = prepared, probing, checkpoints
        self.on_progress, self.enter = on_progress, enter
        self.queues = prepared.loop.device.type != "cpu"
        self.clock = Every(seconds=0.5)

    def advance(self, first: int, last: int, batch_size: int) -> None:
        """Apply updates first .. last - 1. Raises Left."""
        self.prepared.model.train()
        advance, probing = self.prepared.at(batch_size).advance, self.probing
        for update in range(first, last):
            if self.checkpoints is not None:
                self.checkpoints.between(update)
            if probing is not None and update in probing.rows:
                if not self.queues:  # a probe may take as long as a hundred updates
                    self.enter("probing")
                probing.measure(update, advance)
                if not self.queues:
                    self.enter("training")
            else:
                advance()
            # Without a queue the host knows where it is, and an epoch may take minutes.
            if not self.queues and self.clock.due():
                self.on_progress(update)

    def evaluate(self) -> None:
        """Evaluate the network on the test set."""
        self.enter("evaluating")
        self.prepared.model.eval()
        self.prepared.evaluate()


def train(
    prepared: Prepared,
    slots: list[TrialSpec],
    resident: Resident,
    on_progress: Callable[[int, int], None] | None,
    begin: int = 0,
    checkpoints: Checkpoints | None = None,
    watch: Watch | None = None,
    on_phase: Callable[[str], None] | None = None,
    on_wait: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """Run all updates from `begin` on; float32 [U, S] losses, NaN for those not run.

    Ends early when every network of the stack has diverged, by a loss that is not finite or by
    the rule that the study declares (from there on nothing that is recorded can change), or
    when `watch` says so, with an evaluation. on_wait: told from time to time for how many
    seconds the host has waited for a GPU so far.
    """
    timeline = timeline_of(slots[0], len(resident.train_labels))
    pieces, ends, updates = timeline.pieces(), timeline.epochs(), timeline.updates
    due = {ends[epoch][1] for epoch in evaluated_epochs(slots[0], len(ends))}
    done = sum(piece.last <= begin for piece in pieces)
    follower = Follower(prepared.loop.losses_US, begin, done, on_wait)

    def tell(update: int) -> None:
        if on_progress is not None:
            on_progress(update, updates)

    probing, enter = probing_of(prepared, slots, resident), on_phase or (lambda _: None)
    host = _Host(prepared, probing, checkpoints, tell, enter)
    host.enter("training")
    blocks = _Blocks(prepared, slots, resident, pieces[done:], begin)
    for number, (first, last, batch_size) in enumerate(pieces[done:], done):
        blocks.load()
        host.advance(max(first, begin), last, batch_size)
        if evaluated := last in due:
            host.evaluate()
        follower.queue(first, last)
        blocks.draw()  # while the device is busy with what is queued
        if watch is not None and watch.asks(last, evaluated=evaluated):
            if prepared.loop.ranks is not None:  # one word on whether to stop
                prepared.loop.ranks.share(prepared.evaluation.tensors())
            follower.ready(number)
            if watch.over(follower.host_US[:last, 0], evaluated=evaluated):
                if not evaluated:
                    host.evaluate()
                break
        if number:
            follower.ready(number - 1)
        # A queue evaluates after the host has gone on, until the losses of its epoch are there.
        host.enter("evaluating" if evaluated and host.queues else "training")
        if number:
            tell(first)
            if over(follower.host_US[:first], slots[0].settings.explosion):
                break
        if checkpoints is not None and last < updates:
            checkpoints.offer(last)
    else:
        if watch is not None:
            watch.finish()
    follower.ready(len(follower.events) - 1)
    tell(updates)
    return follower.host_US


def probing_of(
    prepared: Prepared, slots: list[TrialSpec], resident: Resident
) -> Probing | None:
    """The probes that the trial asks for, on the examples that would come after its end."""
    (spec, *_), loop = slots, prepared.loop
    if not spec.settings.probes:
        return None
    timeline = timeline_of(spec, num_train := len(resident.train_labels))
    beyond, size = timeline.updates, timeline.stretches[-1].batch_size
    count = 2 * examples_of_a_probe(num_train)
    block = epoch_tensors(slots, resident, beyond, beyond + -(-count // size))
    index_nS, draws_nSk = (rows.flatten(0, 1)[:count].to(loop.device) for rows in block)
    recorder = Recorder(loop.device) if prepared.captured else None
    return Probing(loop, spec, index_nS, draws_nSk, recorder)


class _Blocks:
    """The pieces' blocks, one after the other: drawn on the host, then sent to the device.

    Update `begin` may be in the middle of the first.
    """

    def __init__(
        self,
        prepared: Prepared,
        slots: list[TrialSpec],
        resident: Resident,
        pieces: list[Piece],
        begin: int,
    ) -> None:
        self.prepared, self.slots, self.resident, self.begin = prepared, slots, resident, begin
        self.left = iter(pieces)
        self.drawn: tuple[Piece, tuple[Tensor, Tensor]] | None = None
        self.draw()

    def draw(self) -> None:
        """Make the next piece's, if there is one."""
        self.drawn = None
        if (piece := next(self.left, None)) is not None:
            block = epoch_tensors(self.slots, self.resident, piece.first, piece.last)
            self.drawn = piece, block

    def load(self) -> None:
        """Send to the device what is drawn."""
        assert self.drawn is not None
        piece, block = self.drawn
        loop = self.prepared.at(piece.batch_size).loop
        loop.load_block(*block)
        if piece.first < self.begin:
            loop.row.fill_(self.begin - piece.first)
