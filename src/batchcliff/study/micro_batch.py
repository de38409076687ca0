"""`--micro-batch` of a run: what a job gets, and what is next when it has no room.

What a trial computes does not depend on it, up to rounding, so it is an option of a run and
no part of any trial's identity. What "auto" finds holds for all trials of the shape, for this
run: each of them would meet the same wall.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchcliff.errors import UsageError
from batchcliff.record import Ledger
from batchcliff.spec import TrialSpec
from batchcliff.study.jobs import Job
from batchcliff.training.micro_batch import Inseparable, check_micro_batches, halved

AUTO = "auto"


def wanted_micro_batch(value: str | int | None, device: str) -> int | str:
    """A number, 0 for whole batches always, or "auto". None: "auto" on a GPU, 0 on a CPU,
    where the kernel kills a process that has no memory, most of the time without a word.

    Raises UsageError.
    """
    if value is None:
        return 0 if device == "cpu" else AUTO
    text = str(value)
    if text == AUTO:
        return AUTO
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise UsageError(
            f"--micro-batch {value}: write a number of examples, such as 512, or auto"
        )
    return int(text)


def check_wanted(
    wanted: int | str, specs: Iterable[TrialSpec], ledgers: dict[str, Ledger]
) -> None:
    """Inseparable for a trial that could not be run in micro batches of the size asked for."""
    if isinstance(wanted, int):
        for spec in specs:
            if spec.trial_id in ledgers:
                check_micro_batches(spec, ledgers[spec.trial_id].num_train, wanted)


class MicroBatchSearch:
    """What a job is told: the most examples at once, 0 for any."""

    def __init__(self, wanted: int | str, ranks: int = 1) -> None:
        self.auto, self._ranks = wanted == AUTO, ranks
        self._asked = 0 if isinstance(wanted, str) else wanted
        self._found: dict[bytes, int] = {}
        self._refused: dict[bytes, str] = {}

    def of(self, job: Job) -> int:
        """For the job's next attempt."""
        return self._found.get(job.shape, self._asked)

    def halve(self, job: Job, num_train: int) -> int:
        """What the job gets after it had no room, alone. Inseparable if there is no more."""
        if job.shape in self._refused:
            raise Inseparable(self._refused[job.shape])
        self._found[job.shape] = halved(job.specs[0], num_train, self.of(job), self._ranks)
        return self._found[job.shape]

    def refuse(self, job: Job, reason: str) -> None:
        """The job's network must have its batches whole, for this reason."""
        self._refused[job.shape] = reason
        self._found.pop(job.shape, None)
