"""Hands out jobs to workers, commits what they send, and knows what to do when one fails.

What uses up one of a trial's attempts: an exception, a crash, a hang. What does not: a
signal, a full disk, and a kill from outside (SIGKILL is what the kernel does when memory
runs out, and what people do): such a trial is tried alone, and if that does not help it is
left for the next run, never called failed.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.errors import BatchcliffError, DataError, Incomplete, StorageError, UsageError
from batchcliff.provenance import utc_now
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.checkpoints import CheckpointFolder, room
from batchcliff.study.engines.local import GRACE_SECONDS, Worker, end_of_process, oom_kills
from batchcliff.study.jobs import STACK, Busy, Job, choose, jobs
from batchcliff.study.leaving import grace_after, let_save
from batchcliff.study.micro_batch import MicroBatchSearch
from batchcliff.study.progress import Progress, trial_text
from batchcliff.study.ranks import start
from batchcliff.study.store import Store
from batchcliff.study.stuck import end_hung, not_reaped, told_of
from batchcliff.training.micro_batch import Inseparable
from batchcliff.training.ranks_shares import Indivisible

MAX_ATTEMPTS = 3
MAX_KILLS = 5  # of a trial in one run, by somebody else
ALONE_AFTER = 2  # such kills it is tried without neighbours
POLL_SECONDS = 0.5


class WorkerError(BatchcliffError):
    """A worker could not even start: a broken installation or device, not a trial."""


class Interrupted(Exception):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Dispatcher:
    """One run of a study on this machine."""

    def __init__(
        self,
        store: Store,
        specs: list[TrialSpec],
        ledgers: dict[str, Ledger],
        setup: dict[str, Any],
        workers: int,
        progress: Progress,
    ) -> None:
        self.store, self.setup, self.progress = store, setup, progress
        self.checkpoints = CheckpointFolder(store.folder)
        self.specs = {spec.trial_id: spec for spec in specs}
        self.ledgers, self.width = ledgers, workers
        self.more: Callable[[], list[TrialSpec]] = list  # of an adaptive study: its next round
        self.workers: dict[Worker, Busy | None] = {}
        self.devices: dict[Worker, str] = {}
        self.taken: list[str] = []  # devices of workers that cannot be killed
        self.stuck = ""  # said when such workers have every place
        self.ready: set[Worker] = set()
        self.shapes: dict[Worker, bytes] = {}
        self.waiting: list[Job] = []
        self.alone: list[Job] = []  # ran out of memory beside others: once more, alone
        self.micro_batches = MicroBatchSearch(setup["micro_batch"], setup["ranks"])
        self.errors: dict[str, list[str]] = {}
        self.kills: Counter[str] = Counter()  # of a trial's worker by somebody else
        self.false_starts = 0
        self.stop_signal: int | None = None  # set by whoever wants the run to end
        self.stopping = False
        self.selector = selectors.DefaultSelector()

    # --- the loop ---

    def run(self, missing: list[TrialSpec]) -> None:
        """Until every trial of `missing` has a record, ours or another process'."""
        stack = STACK if self.setup["device"] == "cpu" and not self.setup["workload"] else 1
        self.waiting = jobs(missing, stack=stack)
        why = "interrupted"
        try:
            while self.waiting or self.alone or self.busy() or self.refill(stack):
                if self.stop_signal is not None:
                    raise Interrupted(self.stop_signal)
                if self.stuck:
                    raise Incomplete(f"{self.stuck}. The same command goes on.")
                self.hand_out()
                for key, _ in self.selector.select(POLL_SECONDS):
                    self.listen(key.data)
                for worker, state in list(self.workers.items()):
                    if state is not None and state.is_hung():
                        self.give_up(worker)
        except StorageError:
            why = "storage"
            raise
        finally:
            try:
                if self.stop_signal is not None and self.setup["checkpoint_every"]:
                    seconds = grace_after(self.stop_signal, self.setup["grace"])
                    if seconds and self.busy():
                        told = f"saving what is being trained, {seconds:g} s at most"
                        self.progress.note(told)
                    let_save(self.busy(), seconds, self.hear_last)
            finally:
                self.stop_all(why)

    def hear_last(self, worker: Worker, message: dict[str, Any]) -> None:
        """What a worker says that was asked to leave: a trial may be done by then."""
        state = self.workers.get(worker)
        if message["event"] == "record" and state is not None:
            self.commit(from_plain(TrialRecord, message["record"]), state)

    def refill(self, stack: int) -> bool:
        """Whether a study that grows has more to run now; it is waiting then."""
        new = self.more()
        self.specs |= {spec.trial_id: spec for spec in new}
        self.waiting = jobs(new, stack=stack)
        return bool(new)

    def busy(self) -> list[Worker]:
        """Workers that have a job."""
        return [worker for worker, state in self.workers.items() if state is not None]

    def hand_out(self) -> None:
        """Give every idle worker a job, and start workers while there are more jobs."""
        if not self.waiting and self.alone and not self.busy():
            for worker in list(self.workers):
                self.dismiss(worker, "done")
            self.waiting, self.width = [self.alone.pop(0)], min(self.width, 1)
        held_elsewhere: list[Job] = []
        while self.waiting:
            idle = [w for w, state in self.workers.items() if state is None]
            if not idle and len(self.workers) >= self.width:
                break
            worker = idle[0] if idle else self.start_worker()
            others = {shape for w, shape in self.shapes.items() if w is not worker}
            job = choose(self.waiting, self.shapes.get(worker), others)
            assert job is not None
            self.waiting.remove(job)
            if not self.give(worker, job):
                held_elsewhere.append(job)
        self.waiting += held_elsewhere

    def start_worker(self) -> Worker:
        """A new process, told what the study is trained on."""
        worker = start(self.setup)
        taken = [*self.taken, *(self.devices[other] for other in self.workers)]
        self.devices[worker] = min(self.setup["devices"], key=taken.count)
        self.say(worker, {**self.setup, "device": self.devices[worker]})
        self.workers[worker] = None
        self.selector.register(worker, selectors.EVENT_READ, worker)
        return worker

    def give(self, worker: Worker, job: Job) -> bool:
        """Hand a job to an idle worker, as far as its trials are free and without a record.

        False if another process holds all that is left of it: try again later.
        """
        state = Busy(job, {}, {}, oom_kills())
        held = []
        self.workers[worker] = state  # from here on its leases are let go with it
        for spec in job.specs:
            lease = self.store.lease(spec.trial_id)
            if lease is None:
                held.append(spec)
                continue
            state.leases[spec.trial_id] = lease
            if self.is_over(spec):
                state.leases.pop(spec.trial_id).release()
                continue
            state.attempts[spec.trial_id] = self.store.claim_attempt(spec.trial_id, utc_now())
        specs = tuple(spec for spec in job.specs if spec.trial_id in state.leases)
        if not specs:
            self.workers[worker] = None
            if held and len(held) < len(job.specs):
                self.waiting.append(Job(job.shape, tuple(held)))
                return True
            return not held
        if held:
            self.waiting.append(Job(job.shape, tuple(held)))
        state.job = Job(job.shape, specs)
        self.shapes[worker] = job.shape
        message = {
            "specs": [to_plain(spec) for spec in specs],
            "ledgers": [to_plain(self.ledgers[spec.trial_id]) for spec in specs],
            "micro_batch": self.micro_batches.of(job),
        }
        for spec in specs:
            self.progress.trial_started(spec, updates=self.ledgers[spec.trial_id].updates)
        self.say(worker, message, [lease.fileno() for lease in state.leases.values()])
        return True

    def is_over(self, spec: TrialSpec) -> bool:
        """Whether a trial has a record by now, or has crashed as often as it may."""
        record = self.store.record(spec.trial_id)
        if record is not None:  # another process was faster
            self.progress.finished(record)
            return True
        if self.store.crashes(spec.trial_id) < MAX_ATTEMPTS:
            return False
        # Killed before it could say so.
        ends = [attempt.why for attempt in self.store.attempts(spec.trial_id)]
        reason = f"{MAX_ATTEMPTS} attempts failed: {', '.join(why for why in ends if why)}"
        self.settle(spec, Outcome.FAILED, reason)
        return True

    def say(
        self, worker: Worker, message: Mapping[str, Any], fds: list[int] | None = None
    ) -> None:
        """Send; a worker that is gone is noticed when it is listened to."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.send(message, fds)

    # --- what workers say ---

    def listen(self, worker: Worker) -> None:
        """Act on what a worker sent, or on its death."""
        messages = worker.receive()
        if messages is None:
            self.mourn(worker)
            return
        for message in messages:
            state = self.workers.get(worker)
            if state is not None:
                state.hears(message)
            match message["event"]:
                case "progress" if state is not None:
                    self.advance(state, message)
                case "record" if state is not None:
                    record = from_plain(TrialRecord, message["record"])
                    self.commit(record, state)
                case "checkpoint" if state is not None:
                    self.heed(state, message)
                case "space":
                    self.store.check_space(room(message["bytes"], self.width))
                case "ready":
                    self.ready.add(worker)
                    self.false_starts = 0
                case "idle":
                    self.workers[worker] = None
                case "error":
                    self.blame(worker, message)
                    return

    def advance(self, state: Busy, message: dict[str, Any]) -> None:
        """Tell people how far the trials of a stack are; the rate counts all of them.

        Never backwards: a worker reports updates as they are queued, then epochs as they end.
        """
        done, seconds = message["done"], message["seconds"]
        for trial_id in message["ids"]:
            before, at = state.reported.get(trial_id, (0, 0.0))
            if done <= before or seconds <= at:
                continue
            state.reported[trial_id] = (done, seconds)
            rate = (done - before) * self.specs[trial_id].batch_size / (seconds - at)
            self.progress.advanced(trial_id, done, message["updates"], rate)

    def heed(self, state: Busy, message: dict[str, Any]) -> None:
        """Tell people of a run's checkpoints. The updates of one are nobody's speed."""
        self.store.log(message)
        first, *others = message["ids"]
        if message["update"]:
            state.reported |= dict.fromkeys(message["ids"], (message["update"], 0.0))
        more = f" and {len(others)} more" if others else ""
        self.progress.note(f"{trial_text(self.specs[first])}{more}: {message['text']}")

    def commit(self, record: TrialRecord, state: Busy) -> None:
        """Publish a record and let go of its trial."""
        trial_id = record.trial_id
        self.store.publish(record)
        self.checkpoints.drop({trial_id})
        if trial_id in state.attempts:
            self.store.end_attempt(trial_id, state.attempts.pop(trial_id), "done")
        lease = state.leases.pop(trial_id, None)
        if lease is not None:
            lease.release()
        self.progress.finished(record)

    def blame(self, worker: Worker, message: dict[str, Any]) -> None:
        """An exception ended a worker: out of memory is an outcome, others are tried again."""
        reason = f"{message['kind']}: {message['message']}"
        self.store.log({"event": "error", "trace": message["trace"]})
        asks = self.setup["device"] != "cpu" or self.micro_batches.auto
        shared = len(self.busy()) > 1 and asks
        started = worker in self.ready
        no_memory, whole = message["out_of_memory"], message["kind"] == Inseparable.__name__
        crashed = started and not no_memory and not whole
        why = f"crashed {message['kind']}" if crashed else "interrupted"
        job = self.dismiss(worker, why)
        if not started and message["ours"]:  # the data are gone, or others
            raise DataError(message["message"])
        if not started:
            raise WorkerError(f"a worker could not start: {reason}\n{message['trace']}")
        if job is None:  # all of its trials have their records
            return
        if (whole and not self.micro_batches.auto) or message["kind"] == Indivisible.__name__:
            raise UsageError(message["message"])
        if whole:  # once more as it is, for its own out of memory
            self.micro_batches.refuse(job, message["message"])
            self.alone.insert(0, job)
        elif not no_memory:
            self.again(job, reason)
        elif len(job.specs) > 1:  # too much for a stack need not be too much for each
            self.progress.note(f"{reason.splitlines()[0]}: the trials of the stack one by one")
            self.waiting += [Job(job.shape, (spec,)) for spec in job.specs]
        elif shared:
            self.progress.note(f"{reason.splitlines()[0]}: once more, alone on the device")
            self.alone.append(job)
        else:
            self.no_room(job, reason.splitlines()[0])

    def no_room(self, job: Job, reason: str) -> None:
        """A trial ran out of memory alone: smaller micro batches if it may have them, in a
        new process, or that is its outcome."""
        (spec,) = job.specs
        if not self.micro_batches.auto:
            self.settle(spec, Outcome.OOM, reason)
            return
        try:
            most = self.micro_batches.halve(job, self.ledgers[spec.trial_id].num_train)
        except Inseparable as why:
            self.settle(spec, Outcome.OOM, f"{reason}; {why}")
            return
        self.store.log({"event": "micro batch", "id": spec.trial_id, "micro_batch": most})
        self.progress.note(f"{reason}: {trial_text(spec)} in micro batches of at most {most}")
        self.alone.insert(0, job)

    def mourn(self, worker: Worker) -> None:
        """A worker died without a word: by a signal, or by leaving."""
        state, started = self.workers[worker], worker in self.ready
        worker.hang_up()
        status = worker.reap(GRACE_SECONDS)
        killed = status is not None and -status in (signal.SIGKILL, signal.SIGTERM)
        name = end_of_process(status)
        tail = worker.tail()
        alone = self.busy() == [worker]
        job = self.dismiss(
            worker, f"crashed {name}" if started and not killed else "interrupted"
        )
        self.store.log({"event": "death", "status": status, "tail": tail})
        if not started:
            self.false_starts += 1
            if not killed or self.false_starts >= MAX_ATTEMPTS:
                raise WorkerError(f"a worker could not start ({name}).\n{tail}")
        if job is None:
            return
        if not killed:
            self.again(job, f"the worker process died ({name})\n{tail}", certain=False)
        elif not started:
            self.waiting.append(job)
        else:
            assert state is not None
            lack = oom_kills() > state.oom_kills
            self.was_killed(job, name, alone=alone, lack=lack)

    def give_up(self, worker: Worker) -> None:
        """A worker gets nowhere any more: see where it is, kill it, try its trials again."""
        state = self.workers[worker]
        assert state is not None
        end_hung(worker)
        tail = worker.tail()
        job = self.dismiss(worker, "hung")
        self.store.log({"event": "hung", "phase": state.phase, "tail": tail})
        if job is not None:
            self.again(job, f"the worker hung while {state.phase}\n{tail}", certain=False)

    def was_killed(self, job: Job, name: str, *, alone: bool, lack: bool) -> None:
        """Somebody killed a worker. If the kernel has killed for `lack` of memory meanwhile,
        its trials once more, alone, which tells whether it was for theirs; else once more,
        then alone, then not in this run."""
        for spec in job.specs:
            single = Job(job.shape, (spec,))
            self.kills[spec.trial_id] += 1
            if lack and alone and len(job.specs) == 1:
                reason = "the kernel killed the worker for lack of memory; it ran alone"
                self.no_room(single, reason)
            elif lack:
                self.progress.note(
                    f"a worker was killed ({name}, lack of memory): once more, alone"
                )
                self.alone.append(single)
            elif self.kills[spec.trial_id] >= MAX_KILLS:
                told = f"{trial_text(spec)} is left for the next run"
                self.progress.note(f"killed {MAX_KILLS} times ({name}): {told}")
            elif self.kills[spec.trial_id] >= ALONE_AFTER:
                self.progress.note(
                    f"a worker was killed ({name}; out of memory?): trying again, alone"
                )
                self.alone.append(single)
            else:
                self.progress.note(
                    f"a worker was killed ({name}; out of memory?): trying again"
                )
                self.waiting.append(single)

    def again(self, job: Job, reason: str, *, certain: bool = True) -> None:
        """Queue a crashed job's trials one by one; `failed` when it cannot help.

        certain: the same reason twice is no accident (an exception, not a death).
        """
        for spec in job.specs:
            seen = self.errors.setdefault(spec.trial_id, [])
            seen.append(reason)
            # A stack's culprit is found by then, since its trials are tried one by one.
            twice = certain and len(job.specs) == 1 and seen[-2:-1] == [reason]
            if twice or self.store.crashes(spec.trial_id) >= MAX_ATTEMPTS:
                self.settle(spec, Outcome.FAILED, reason)
            else:
                self.progress.note(f"{reason.splitlines()[0]}: trying again")
                self.waiting.append(Job(job.shape, (spec,)))

    def settle(self, spec: TrialSpec, outcome: Outcome, reason: str) -> None:
        """Publish a record of a trial that gave no numbers."""
        record = TrialRecord(
            spec=spec, outcome=outcome, reason=reason, ledger=self.ledgers.get(spec.trial_id)
        )
        self.store.publish(record)
        self.checkpoints.drop({record.trial_id})
        self.progress.finished(record)

    # --- letting go ---

    def dismiss(self, worker: Worker, why: str, grace: float = GRACE_SECONDS) -> Job | None:
        """End a worker's process and free its trials that have no record; they as a job."""
        state = self.workers.pop(worker, None)
        self.shapes.pop(worker, None)
        device = self.devices.pop(worker, "")
        self.ready.discard(worker)
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(worker)
        worker.close(grace)
        if lost := not_reaped(worker):
            self.retire(lost, device, state)
        if state is None:
            return None
        try:
            for trial_id, number in state.attempts.items():
                self.store.end_attempt(trial_id, number, why)
        finally:
            for lease in state.leases.values():
                lease.release()
        left = tuple(spec for spec in state.job.specs if spec.trial_id in state.attempts)
        return Job(state.job.shape, left) if left else None

    def retire(self, lost: list[int], device: str, state: Busy | None) -> None:
        """Use the place of processes that cannot be killed no more, and free their trials."""
        self.width -= 1
        self.taken.append(device)
        told = told_of(lost, device, self.width)
        self.store.log({"event": "stuck", "pids": lost, "device": device})
        self.progress.note(told)
        for lease in state.leases.values() if state is not None else ():
            lease.free()
        if not self.width:
            self.stuck = told

    def stop_all(self, why: str) -> None:
        """Kill what is running: its trials have no record, and the next run takes them up."""
        self.stopping = True
        workers = list(self.workers.items())
        for worker, state in workers:  # all at once, then wait for each
            if state is None:
                worker.hang_up()
            else:
                worker.kill()
        for worker, state in workers:
            with contextlib.suppress(StorageError):  # it says why an attempt ended, no more
                self.dismiss(worker, why, grace=GRACE_SECONDS if state is None else 0.0)
        self.selector.close()
