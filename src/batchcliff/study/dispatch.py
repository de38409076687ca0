"""Hands out jobs to workers, commits what they send, and notices when one fails.

What becomes of the trials of a worker that failed is in `study.retries`.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
from collections.abc import Callable, Mapping
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.errors import BatchcliffError, DataError, Incomplete, StorageError, UsageError
from batchcliff.provenance import utc_now
from batchcliff.record import Ledger, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.checkpoints import room
from batchcliff.study.engines.local import GRACE_SECONDS, Worker, end_of_process, oom_kills
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.jobs import STACK, Busy, Job, Kills, choose
from batchcliff.study.leaving import grace_after, let_save
from batchcliff.study.micro_batch import MicroBatchSearch
from batchcliff.study.progress import Progress
from batchcliff.study.ranks import start
from batchcliff.study.retries import MAX_ATTEMPTS, Retries
from batchcliff.study.store import Store
from batchcliff.study.stuck import end_hung, not_reaped, told_of
from batchcliff.study.telling import Telling
from batchcliff.training.micro_batch import Inseparable
from batchcliff.training.ranks_shares import Indivisible
from batchcliff.training.turns import Places

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
        fingerprints: Fingerprints,
        parked: set[str],
    ) -> None:
        self.store, self.setup, self.progress = store, setup, progress
        self.specs = {spec.trial_id: spec for spec in specs}
        self.ledgers, self.width = ledgers, workers
        self.telling = Telling(progress, self.specs, fingerprints)
        self.more: Callable[[], list[TrialSpec]] = list  # of an adaptive study: its next round
        self.waits = True  # for trials that another process runs, until they have a record
        self.workers: dict[Worker, Busy | None] = {}
        self.devices: dict[Worker, str] = {}
        self.taken: list[str] = []  # devices of workers that cannot be killed
        self.stuck = ""  # said when such workers have every place
        self.ready: set[Worker] = set()
        self.shapes: dict[Worker, bytes] = {}
        search = MicroBatchSearch(setup["micro_batch"], setup["ranks"])
        self.retries = Retries(store, ledgers, search, progress, parked)
        self.trying_suspect = False  # nobody else gets a job meanwhile
        self.false_starts = 0
        self.stop_signal: int | None = None  # set by whoever wants the run to end
        self.hurried = False  # by a second signal: nobody waits for workers that save
        self.stopping = False
        self.places = Places(setup["devices"])
        self.selector = selectors.DefaultSelector()

    # --- the loop ---

    def run(self, missing: list[TrialSpec]) -> None:
        """Until every trial of `missing` has a record, ours or another process'."""
        stack = STACK if self.setup["device"] == "cpu" and not self.setup["workload"] else 1
        self.retries.begin(missing, stack=stack)
        why = "interrupted"
        try:
            while self.retries or self.busy() or self.refill(stack):
                if self.stop_signal is not None:
                    raise Interrupted(self.stop_signal)
                if self.stuck:
                    raise Incomplete(f"{self.stuck}. The same command goes on.")
                self.hand_out()
                for key, _ in self.selector.select(POLL_SECONDS):
                    if key.data in self.workers:  # the end of one may be that of others
                        self.listen(key.data)
                for worker in list(self.workers):
                    state = self.workers.get(worker)
                    if state is not None and state.is_hung():
                        self.give_up(worker)
        except StorageError:
            why = "storage"
            raise
        finally:
            try:
                saves = self.setup["checkpoint_every"] and not self.hurried
                if self.stop_signal is not None and saves:
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
        self.retries.begin(new, stack=stack)
        return bool(new)

    def busy(self) -> list[Worker]:
        """Workers that have a job."""
        return [worker for worker, state in self.workers.items() if state is not None]

    def hand_out(self) -> None:
        """Give every idle worker a job, and start workers while there are more jobs."""
        if self.trying_suspect and self.busy():
            return
        self.trying_suspect = False
        queues = self.retries
        if queues.suspects:
            if not self.busy():
                self.trying_suspect = True
                self.give_some([queues.suspects.pop(0)])
            return
        if not queues.waiting and queues.alone and not self.busy():
            for worker in list(self.workers):
                self.dismiss(worker, "done")
            queues.waiting, self.width = [queues.alone.pop(0)], min(self.width, 1)
        todo, queues.waiting = queues.waiting, []
        self.give_some(todo)

    def give_some(self, todo: list[Job]) -> None:
        """Give what idle workers can take; the rest waits."""
        held_elsewhere: list[Job] = []
        while todo:
            idle = [w for w, state in self.workers.items() if state is None]
            if not idle and len(self.workers) >= self.width:
                break
            worker = idle[0] if idle else self.start_worker()
            others = {shape for w, shape in self.shapes.items() if w is not worker}
            job = choose(todo, self.shapes.get(worker), others)
            assert job is not None
            todo.remove(job)
            if not self.give(worker, job):
                held_elsewhere.append(job)
        self.retries.waiting = [*todo, *self.retries.waiting, *held_elsewhere]

    def start_worker(self) -> Worker:
        """A new process, told what the study is trained on."""
        worker = start(self.setup)
        taken = [*self.taken, *(self.devices[other] for other in self.workers)]
        self.devices[worker] = min(self.setup["devices"], key=taken.count)
        device = self.devices[worker]
        self.say(worker, {**self.setup, "device": device}, self.places.of(device))
        self.workers[worker] = None
        self.selector.register(worker, selectors.EVENT_READ, worker)
        return worker

    def give(self, worker: Worker, job: Job) -> bool:
        """Hand a job to an idle worker, as far as its trials are free and without a record.

        False if another process holds all that is left of it: try again later. A run that
        does not wait leaves such trials to the other process.
        """
        state = Busy(job, {}, {}, Kills(oom_kills))
        held = []
        self.workers[worker] = state  # from here on its leases are let go with it
        for spec in job.specs:
            lease = self.store.lease(spec.trial_id)
            if lease is None:
                held.append(spec)
                continue
            state.leases[spec.trial_id] = lease
            if self.retries.is_over(spec):
                state.leases.pop(spec.trial_id).release()
                continue
            reached = self.retries.checkpoints.reached(spec.trial_id)
            state.attempts[spec.trial_id] = self.store.claim_attempt(
                spec.trial_id, utc_now(), reached
            )
        if held and not self.waits:
            self.retries.leave(held)
            held = []
        specs = tuple(spec for spec in job.specs if spec.trial_id in state.leases)
        if not specs:
            self.workers[worker] = None
            if held and len(held) < len(job.specs):
                self.retries.waiting.append(Job(job.shape, tuple(held)))
                return True
            return not held
        if held:
            self.retries.waiting.append(Job(job.shape, tuple(held)))
        state.job = Job(job.shape, specs)
        self.shapes[worker] = job.shape
        message = {
            "specs": [to_plain(spec) for spec in specs],
            "ledgers": [to_plain(self.ledgers[spec.trial_id]) for spec in specs],
            "micro_batch": self.retries.micro_batches.of(job),
        }
        for spec in specs:
            self.progress.trial_started(spec, updates=self.ledgers[spec.trial_id].updates)
        self.say(worker, message, [lease.fileno() for lease in state.leases.values()])
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
                case "started":
                    self.telling.began(message)
                case "progress" if state is not None:
                    self.telling.advanced(state, message)
                case "record" if state is not None:
                    record = from_plain(TrialRecord, message["record"])
                    self.commit(record, state)
                case "checkpoint" if state is not None:
                    self.store.log(message)
                    self.telling.saved(state, message)
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

    def commit(self, record: TrialRecord, state: Busy) -> None:
        """Publish a record and let go of its trial."""
        trial_id = record.trial_id
        self.store.publish(record)
        self.retries.checkpoints.drop({trial_id})
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
        asks = self.setup["device"] != "cpu" or self.retries.micro_batches.auto
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
        if message["kind"] == Indivisible.__name__:
            raise UsageError(message["message"])
        if whole:
            self.retries.inseparable(job, message["message"])
        elif no_memory:
            self.retries.out_of_memory(job, reason.splitlines()[0], shared=shared)
        else:
            self.retries.raised(job, reason)

    def mourn(self, worker: Worker) -> None:
        """A worker died without a word: by a signal, or by leaving."""
        state, started = self.workers[worker], worker in self.ready
        worker.hang_up()
        status = worker.reap(GRACE_SECONDS)
        killed = status is not None and -status in (signal.SIGKILL, signal.SIGTERM)
        name = end_of_process(status)
        tail = worker.tail()
        alone = self.busy() == [worker]
        # SIGTERM is a person's, or a scheduler's, which ends every process of a job.
        lack = state is not None and status == -signal.SIGKILL and state.kills.grew()
        why: str | None = "interrupted"
        if started and not killed:
            why = f"crashed {name}"
        elif started and not lack:
            why = None  # nothing explains it, and nothing is said
        job = self.dismiss(worker, why)
        self.store.log({"event": "death", "status": status, "tail": tail})
        if not started:
            self.false_starts += 1
            if not killed or self.false_starts >= MAX_ATTEMPTS:
                raise WorkerError(f"a worker could not start ({name}).\n{tail}")
        if job is None:
            return
        if not started:
            self.retries.waiting.append(job)
        elif not killed:
            self.retries.died(job, f"the worker process died ({name})\n{tail}")
        elif lack:
            self.retries.lacked_memory(job, name, alone=alone)
        else:
            self.retries.was_killed(job, name)

    def give_up(self, worker: Worker) -> None:
        """A worker gets nowhere any more: see where it is, kill it, try its trials again."""
        state = self.workers[worker]
        assert state is not None
        end_hung(worker)
        tail = worker.tail()
        job = self.dismiss(worker, "hung")
        self.store.log({"event": "hung", "phase": state.phase, "tail": tail})
        if job is not None:
            self.retries.died(job, f"the worker hung while {state.phase}\n{tail}")

    # --- letting go ---

    def dismiss(
        self, worker: Worker, why: str | None, grace: float = GRACE_SECONDS
    ) -> Job | None:
        """End a worker's process and free its trials that have no record; they as a job.

        why: said of their attempts; None: nothing. Does nothing for one that is gone already,
        with another that could not be killed.
        """
        if worker not in self.workers:
            return None
        state = self.workers.pop(worker)
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
            if why is not None:
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
        if self.places.renew(device) and not self.stopping:  # its turn may never end
            for other in [w for w, at in self.devices.items() if at == device]:
                job = self.dismiss(other, "interrupted", grace=0.0)
                self.retries.waiting += [job] if job is not None else []

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
        self.places.close()
