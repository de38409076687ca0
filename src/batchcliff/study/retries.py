"""The trials that wait in a run, and what becomes of those whose worker failed.

Source: RELIABILITY.md 2, F19, F20, F23. What uses up one of a trial's attempts: an exception,
a crash, a hang. What does not: a signal, a full disk, and a death that nobody explains
(SIGKILL is what the kernel does when memory runs out, and what people do; a driver that dies
says nothing either). Such a trial is tried again, then alone. After five such deaths in a row
without a newer checkpoint it is a *suspect*: left out of this run, tried alone and before all
others by the next one, and never called failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from batchcliff.errors import UsageError
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.checkpoints import CheckpointFolder
from batchcliff.study.claims import SUSPECT
from batchcliff.study.jobs import Job, jobs
from batchcliff.study.micro_batch import MicroBatchSearch
from batchcliff.study.progress import Progress, trial_text
from batchcliff.study.store import Store
from batchcliff.training.micro_batch import Inseparable

MAX_ATTEMPTS = 3
MAX_DEATHS = 5  # of a trial's workers in a row, without a newer checkpoint, unexplained
ALONE_AFTER = 2  # such deaths it is tried without neighbours


class Retries:
    """The jobs of one run that nobody has, in three queues.

    suspects: alone, before all others. waiting: as many at once as there are workers. alone:
    without neighbours, when nothing else waits.
    parked: ids of trials that are left for the next run; more are added.
    """

    def __init__(
        self,
        store: Store,
        ledgers: Mapping[str, Ledger],
        micro_batches: MicroBatchSearch,
        progress: Progress,
        parked: set[str],
    ) -> None:
        self.store, self.ledgers, self.micro_batches = store, ledgers, micro_batches
        self.progress, self.parked = progress, parked
        self.checkpoints = CheckpointFolder(store.folder)
        self.suspects: list[Job] = []
        self.waiting: list[Job] = []
        self.alone: list[Job] = []
        self._taken_up: set[str] = set()  # suspects of an earlier run, which this one tries
        self._reasons: dict[str, list[str]] = {}  # why a trial's attempts failed in this run

    def __bool__(self) -> bool:
        """Whether any job waits."""
        return bool(self.suspects or self.waiting or self.alone)

    def begin(self, specs: Iterable[TrialSpec], *, stack: int) -> None:
        """Queue trials that have no record; suspects of an earlier run come first."""
        plain = []
        for spec in specs:
            if self.store.is_suspect(spec.trial_id):
                self._taken_up.add(spec.trial_id)
                self.suspects.append(_single(spec))
            else:
                plain.append(spec)
        self.waiting += jobs(plain, stack=stack)

    def is_over(self, spec: TrialSpec) -> bool:
        """Whether a trial, whose lease we have, has a record by now, has failed as often as it
        may, or is not to be tried in this run."""
        record = self.store.record(spec.trial_id)
        if record is not None:  # another process was faster
            self.progress.finished(record)
            return True
        if self.store.crashes(spec.trial_id) >= MAX_ATTEMPTS:  # killed before it could say so
            ends = [attempt.why for attempt in self.store.attempts(spec.trial_id)]
            reason = f"{MAX_ATTEMPTS} attempts failed: {', '.join(why for why in ends if why)}"
            self.settle(spec, Outcome.FAILED, reason)
            return True
        if self.store.is_suspect(spec.trial_id):
            if spec.trial_id in self._taken_up:
                return False
            self.parked.add(spec.trial_id)  # by another run, after this one has begun
            return True
        return self._parks(spec)

    # --- what a failed attempt leads to ---

    def raised(self, job: Job, reason: str) -> None:
        """An exception ended the worker: once more, unless it is the same one again."""
        for spec in job.specs:
            # A stack's culprit is found by then, since its trials are tried one by one.
            same = len(job.specs) == 1 and self._reasons.get(spec.trial_id, [])[-1:] == [reason]
            self._again(spec, reason, hopeless=same)

    def died(self, job: Job, reason: str) -> None:
        """The worker crashed or hung, which may be an accident, as often as it may be one."""
        for spec in job.specs:
            self._again(spec, reason)

    def was_killed(self, job: Job, name: str) -> None:
        """Somebody killed the worker, and nothing says why: once more, then alone, and then
        not in this run."""
        for spec in job.specs:
            if self._parks(spec):
                continue
            alone = self._deaths(spec) >= ALONE_AFTER
            how = "trying again, alone" if alone else "trying again"
            self.progress.note(f"a worker was killed ({name}; out of memory?): {how}")
            (self.alone if alone else self.waiting).append(_single(spec))

    def lacked_memory(self, job: Job, name: str, *, alone: bool) -> None:
        """The kernel killed the worker for lack of memory, which may have been its neighbours':
        once more, alone, and then that is the outcome."""
        if alone and len(job.specs) == 1:
            self.no_room(job, "the kernel killed the worker for lack of memory; it ran alone")
            return
        for spec in job.specs:
            self.progress.note(
                f"a worker was killed ({name}, lack of memory): once more, alone"
            )
            self.alone.append(_single(spec))

    def out_of_memory(self, job: Job, reason: str, *, shared: bool) -> None:
        """The device or the host had none left. A stack's trials one by one; with `shared`,
        once more without neighbours."""
        if len(job.specs) > 1:  # too much for a stack need not be too much for each
            self.progress.note(f"{reason}: the trials of the stack one by one")
            self.waiting += [_single(spec) for spec in job.specs]
        elif shared:
            self.progress.note(f"{reason}: once more, alone on the device")
            self.alone.append(job)
        else:
            self.no_room(job, reason)

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

    def inseparable(self, job: Job, reason: str) -> None:
        """Its batches cannot be cut: once more as they are, for its own out of memory.

        Raises UsageError where somebody asked for a number of examples at once.
        """
        if not self.micro_batches.auto:
            raise UsageError(reason)
        self.micro_batches.refuse(job, reason)
        self.alone.insert(0, job)

    def leave(self, specs: Iterable[TrialSpec]) -> None:
        """Another process runs these: they are not this run's any more."""
        for spec in specs:
            self.parked.add(spec.trial_id)
            self.progress.note(f"{trial_text(spec)}: left to the process that runs it")

    def settle(self, spec: TrialSpec, outcome: Outcome, reason: str) -> None:
        """Publish a record of a trial that gave no numbers."""
        ledger = self.ledgers.get(spec.trial_id)
        record = TrialRecord(spec=spec, outcome=outcome, reason=reason, ledger=ledger)
        self.store.publish(record)
        self.checkpoints.drop({record.trial_id})
        self.progress.finished(record)

    # --- inside ---

    def _again(self, spec: TrialSpec, reason: str, *, hopeless: bool = False) -> None:
        self._reasons.setdefault(spec.trial_id, []).append(reason)
        if hopeless or self.store.crashes(spec.trial_id) >= MAX_ATTEMPTS:
            self.settle(spec, Outcome.FAILED, reason)
        else:
            self.progress.note(f"{reason.splitlines()[0]}: trying again")
            self.waiting.append(_single(spec))

    def _deaths(self, spec: TrialSpec) -> int:
        """Its last attempts that died unexplained, none of which left a newer checkpoint."""
        reached = self.checkpoints.reached(spec.trial_id)
        return self.store.unexplained(spec.trial_id, reached)

    def _parks(self, spec: TrialSpec) -> bool:
        """Leave a trial for the next run if it has died too often; whether it has."""
        deaths = self._deaths(spec)
        if deaths < MAX_DEATHS:
            return False
        last = self.store.attempts(spec.trial_id)[-1]
        self.store.end_attempt(spec.trial_id, last.n, SUSPECT)
        self.parked.add(spec.trial_id)
        self.progress.note(
            f"{trial_text(spec)}: {deaths} attempts in a row died and nothing says why; it is "
            "left for the next run, which tries it alone and before all others"
        )
        return True


def _single(spec: TrialSpec) -> Job:
    return jobs([spec], stack=1)[0]
