"""Hands out jobs to workers, commits what they send, and knows what to do when one fails."""

from __future__ import annotations

import contextlib
import selectors
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.errors import BatchcliffError
from batchcliff.provenance import utc_now
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import STACK, Job, choose, jobs
from batchcliff.study.progress import Progress
from batchcliff.study.store import Lease, Store

MAX_ATTEMPTS = 3
POLL_SECONDS = 0.5


@dataclass(slots=True)
class Busy:
    """A worker at work: its job, and what it holds for each trial that has no record yet."""

    job: Job
    leases: dict[str, Lease]
    attempts: dict[str, int]
    reported: dict[str, tuple[int, float]] = field(default_factory=dict)


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
        self.specs = {spec.trial_id: spec for spec in specs}
        self.ledgers, self.width = ledgers, workers
        self.workers: dict[Worker, Busy | None] = {}
        self.ready: set[Worker] = set()
        self.shapes: dict[Worker, bytes] = {}
        self.waiting: list[Job] = []
        self.alone: list[Job] = []  # ran out of memory beside others: once more, alone
        self.errors: dict[str, list[str]] = {}
        self.selector = selectors.DefaultSelector()

    # --- the loop ---

    def run(self, missing: list[TrialSpec]) -> None:
        """Until every trial of `missing` has a record, ours or another process'."""
        stack = STACK if self.setup["device"] == "cpu" and not self.setup["workload"] else 1
        self.waiting = jobs(missing, stack=stack)
        try:
            while self.waiting or self.alone or self.busy():
                self.hand_out()
                for key, _ in self.selector.select(POLL_SECONDS):
                    self.listen(key.data)
        except Interrupted:
            self.stop_all("interrupted")
            raise
        except OSError:
            self.stop_all("storage")
            raise
        finally:
            self.stop_all("interrupted")

    def busy(self) -> list[Worker]:
        """Workers that have a job."""
        return [worker for worker, state in self.workers.items() if state is not None]

    def hand_out(self) -> None:
        """Give every idle worker a job, and start workers while there are more jobs."""
        if not self.waiting and self.alone and not self.busy():
            for worker in list(self.workers):
                self.dismiss(worker)
            self.waiting, self.width = [self.alone.pop(0)], 1
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
        worker = Worker(self.setup["environment"])
        self.say(worker, self.setup)
        self.workers[worker] = None
        self.selector.register(worker, selectors.EVENT_READ, worker)
        return worker

    def give(self, worker: Worker, job: Job) -> bool:
        """Hand a job to an idle worker, as far as its trials are free and without a record.

        False if another process holds all that is left of it: try again later.
        """
        leases: dict[str, Lease] = {}
        held = 0
        for spec in job.specs:
            lease = self.store.lease(spec.trial_id)
            if lease is None:
                held += 1
                continue
            record = self.store.record(spec.trial_id)
            if record is not None:  # another process was faster
                lease.release()
                self.progress.finished(record)
                continue
            leases[spec.trial_id] = lease
        specs = [spec for spec in job.specs if spec.trial_id in leases]
        if held and not specs:
            return False
        if held:
            left = tuple(s for s in job.specs if s.trial_id not in leases)
            self.waiting.append(Job(job.shape, left))
        if not specs:
            return True
        attempts = {s.trial_id: self.store.claim_attempt(s.trial_id, utc_now()) for s in specs}
        self.workers[worker] = Busy(Job(job.shape, tuple(specs)), leases, attempts)
        self.shapes[worker] = job.shape
        message = {
            "specs": [to_plain(spec) for spec in specs],
            "ledgers": [to_plain(self.ledgers[spec.trial_id]) for spec in specs],
        }
        for spec in specs:
            self.progress.trial_started(spec, updates=self.ledgers[spec.trial_id].updates)
        self.say(worker, message, [lease.fileno() for lease in leases.values()])
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
            match message["event"]:
                case "progress" if state is not None:
                    self.advance(state, message)
                case "record" if state is not None:
                    record = from_plain(TrialRecord, message["record"])
                    self.commit(record, state)
                case "ready":
                    self.ready.add(worker)
                case "idle":
                    self.workers[worker] = None
                case "error":
                    self.blame(worker, message)
                    return

    def advance(self, state: Busy, message: dict[str, Any]) -> None:
        """Tell people how far the trials of a stack are; the rate counts all of them."""
        done, seconds = message["done"], message["seconds"]
        for trial_id in message["ids"]:
            before, at = state.reported.get(trial_id, (0, 0.0))
            state.reported[trial_id] = (done, seconds)
            size = self.specs[trial_id].batch_size
            rate = (done - before) * size / (seconds - at) if seconds > at else 0.0
            self.progress.advanced(trial_id, done, message["updates"], rate)

    def commit(self, record: TrialRecord, state: Busy) -> None:
        """Publish a record and let go of its trial."""
        trial_id = record.trial_id
        self.store.publish(record)
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
        shared = len(self.busy()) > 1
        started = worker in self.ready
        job = self.release(worker, f"crashed {message['kind']}" if started else "interrupted")
        self.dismiss(worker)
        if not started or job is None:
            raise WorkerError(f"a worker could not start: {reason}\n{message['trace']}")
        if message["out_of_memory"]:
            if shared and self.setup["device"] != "cpu":
                self.progress.note(f"{reason.splitlines()[0]}: once more, alone on the device")
                self.alone.append(job)
            else:
                for spec in job.specs:
                    self.settle(spec, Outcome.OOM, reason.splitlines()[0])
            return
        self.again(job, reason)

    def mourn(self, worker: Worker) -> None:
        """A worker died without a word: by a signal, or by leaving."""
        status = worker.process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        tail = worker.tail()
        started = worker in self.ready
        job = self.release(worker, f"crashed {name}" if started else "interrupted")
        self.dismiss(worker)
        self.store.log({"event": "death", "status": status, "tail": tail})
        if not started:
            raise WorkerError(f"a worker could not start ({name}).\n{tail}")
        if job is None:
            return
        self.again(job, f"the worker process died ({name})\n{tail}")

    def again(self, job: Job, reason: str) -> None:
        """Queue a crashed job's trials one by one; `failed` when it cannot help."""
        for spec in job.specs:
            seen = self.errors.setdefault(spec.trial_id, [])
            seen.append(reason)
            # The same exception twice is no accident; a stack's culprit is found by then,
            # since its trials are tried one by one.
            certain = len(job.specs) == 1 and len(seen) > 1 and seen[-1] == seen[-2]
            if certain or self.store.crashes(spec.trial_id) >= MAX_ATTEMPTS:
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
        self.progress.finished(record)

    # --- letting go ---

    def release(self, worker: Worker, why: str) -> Job | None:
        """Free a worker's trials that have no record; they as a job, or None."""
        state = self.workers.get(worker)
        if state is None:
            return None
        for trial_id, number in state.attempts.items():
            self.store.end_attempt(trial_id, number, why)
        for lease in state.leases.values():
            lease.release()
        self.workers[worker] = None
        left = tuple(spec for spec in state.job.specs if spec.trial_id in state.attempts)
        return Job(state.job.shape, left) if left else None

    def dismiss(self, worker: Worker) -> None:
        """End a worker's process."""
        if worker in self.workers:
            del self.workers[worker]
            self.shapes.pop(worker, None)
            self.ready.discard(worker)
            self.selector.unregister(worker)
            worker.close()

    def stop_all(self, why: str) -> None:
        """Kill what is running: its trials have no record and start anew next time."""
        for worker in list(self.workers):
            if self.workers[worker] is not None:
                worker.kill()
                worker.process.wait()
                self.release(worker, why)
            self.dismiss(worker)
