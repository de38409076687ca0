"""What a run tells while it runs: one protocol, and its renderings without a terminal.

Rates and the time left come from examples, not from counts of trials: a trial at batch 128
may take ten times as long as one at 8192. The live display is in `study.live`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.printable import printable

if TYPE_CHECKING:
    from batchcliff.study.plan import Planned


class Progress(Protocol):
    """Told by the supervisor, from one thread, in this order: `started`, any, `ended`.

    examples: work of a trial or a study, updates x batch size, as planned.
    examples_per_second: measured lately by the trial; 0 or NaN where not known yet.
    """

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        """The study has `total` trials, `done` of which have a record already."""

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        """`spec` begins, or begins once more after a crash."""

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        """`update` of `updates` have been applied."""

    def finished(self, record: TrialRecord) -> None:
        """A record is on disk. A trial that could not start was never `trial_started`."""

    def more(self, *, trials: int, examples: int) -> None:
        """An adaptive study has planned `trials` more, of so many examples together."""

    def note(self, text: str) -> None:
        """Something that people should read: a retry, a quarantined record."""

    def ended(self, *, exit_code: int, text: str = "") -> None:
        """The run is over, finished or not. Calling it twice does nothing more."""


@dataclass
class _Running:
    spec: TrialSpec
    updates: int
    update: int = 0
    rate: float = math.nan


@dataclass
class Tracker:
    """The arithmetic behind every rendering. Times are seconds of a monotonic clock."""

    clock: Callable[[], float] = time.monotonic
    total: int = 0
    done: int = 0
    examples: int = 0
    examples_done: int = 0
    running: dict[str, _Running] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    _began: float = 0.0
    _worked: int = 0  # examples that this run has trained: what its rate is made of

    def started(self, total: int, done: int, examples: int, examples_done: int) -> None:
        self.total, self.done = total, done
        self.examples, self.examples_done = examples, examples_done
        self._began = self.clock()

    def more(self, trials: int, examples: int) -> None:
        self.total, self.examples = self.total + trials, self.examples + examples

    def trial_started(self, spec: TrialSpec, updates: int) -> None:
        self.running[spec.trial_id] = _Running(spec, max(updates, 1))

    def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
        trial = self.running.get(trial_id)
        if trial is None:
            return
        self._worked += max(update - trial.update, 0) * trial.spec.batch_size
        trial.update, trial.updates, trial.rate = update, max(updates, 1), rate

    def finished(self, record: TrialRecord) -> None:
        self.done += 1
        self.outcomes[record.outcome] = self.outcomes.get(record.outcome, 0) + 1
        trial = self.running.pop(record.trial_id, None)
        if trial is None:
            return
        size = trial.spec.batch_size
        self._worked += max(record.updates - trial.update, 0) * size
        # All of its plan leaves the work to do, also when it diverged early.
        self.examples_done += trial.updates * size

    @property
    def share(self) -> float:
        """Share of the study's examples that is done, in [0, 1]."""
        under_way = sum(t.update * t.spec.batch_size for t in self.running.values())
        if self.examples <= 0:
            return self.done / self.total if self.total else 1.0
        return min((self.examples_done + under_way) / self.examples, 1.0)

    @property
    def examples_per_second(self) -> float | None:
        """Of this run, compilation and evaluation included; None until something is trained."""
        elapsed = self.clock() - self._began
        return self._worked / elapsed if self._worked and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """From the examples left and this run's rate; None until there is a rate."""
        if self.done >= self.total:
            return 0.0
        rate = self.examples_per_second
        return None if rate is None else (1 - self.share) * self.examples / rate


def duration_text(seconds: float | None) -> str:
    """`75 s`, `12 min`, `3 h 20 min`; "unknown" for None or NaN."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def rate_text(examples_per_second: float | None) -> str:
    """`140,000 examples/s`; empty where it is not known."""
    rate = examples_per_second
    if rate is None or not math.isfinite(rate) or rate <= 0:
        return ""
    return f"{rate:,.0f} examples/s"


def trial_text(spec: TrialSpec | Planned) -> str:
    """Which cell a trial fills: arm, batch size and seed."""
    return f"{printable(spec.arm, limit=40)}, batch {spec.batch_size}, seed {spec.seed}"


def record_text(record: TrialRecord) -> str:
    """One line on a finished trial: cell, outcome, accuracy or reason, seconds."""
    parts = [trial_text(record.spec), record.outcome.value]
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:.4f}")
    if record.outcome is Outcome.DIVERGED and record.first_bad_update is not None:
        parts.append(f"at update {record.first_bad_update}")
    elif record.reason:
        parts.append(printable(record.reason, limit=200))
    if record.provenance is not None:
        parts.append(f"{record.provenance.seconds:.1f} s")
    return ", ".join(parts)


class PlainProgress:
    """One line per finished trial, with the time left; no control characters."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._tracker, self._over = stream, Tracker(clock), False

    def _line(self, text: str) -> None:
        self._stream.write(printable(text, limit=2_000) + "\n")
        self._stream.flush()

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        self._tracker.started(total, done, examples, examples_done)
        before = f", {done} of them done before" if done else ""
        self._line(f"{total} trials{before}")

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        self._tracker.trial_started(spec, updates)

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        self._tracker.advanced(trial_id, update, updates, examples_per_second)

    def finished(self, record: TrialRecord) -> None:
        self._tracker.finished(record)
        now = self._tracker
        left = "" if now.done >= now.total else f" ({duration_text(now.seconds_left)} left)"
        self._line(f"[{now.done}/{now.total}] {record_text(record)}{left}")

    def more(self, *, trials: int, examples: int) -> None:
        self._tracker.more(trials, examples)

    def note(self, text: str) -> None:
        self._line(f"note: {text}")

    def ended(self, *, exit_code: int, text: str = "") -> None:  # noqa: ARG002
        if not self._over and text:
            self._line(text)
        self._over = True


class JsonProgress:
    """One JSON object a line for scripts; the key `event` says which. NaN becomes null."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._tracker, self._over = stream, Tracker(clock), False
        self._clock, self._told = clock, -math.inf

    def _emit(self, event: str, **values: Any) -> None:
        safe = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        self._stream.write(json.dumps({"event": event} | safe, allow_nan=False) + "\n")
        self._stream.flush()

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        self._tracker.started(total, done, examples, examples_done)
        self._emit(
            "started", total=total, done=done, examples=examples, examples_done=examples_done
        )

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        self._tracker.trial_started(spec, updates)
        self._emit("trial_started", **_cell(spec), updates=updates)

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        self._tracker.advanced(trial_id, update, updates, examples_per_second)
        now = self._clock()
        if now - self._told >= 1.0 or update >= updates:  # a line a second is plenty to read
            self._told = now
            self._emit(
                "advanced",
                trial_id=trial_id,
                update=update,
                updates=updates,
                examples_per_second=examples_per_second,
                seconds_left=self._tracker.seconds_left,
            )

    def finished(self, record: TrialRecord) -> None:
        self._tracker.finished(record)
        self._emit(
            "finished",
            **_cell(record.spec),
            outcome=record.outcome.value,
            reason=record.reason,
            accuracy=record.accuracy,
            accuracy_reestimated=record.accuracy_reestimated,
            first_bad_update=record.first_bad_update,
            seconds=record.provenance.seconds if record.provenance else None,
            done=self._tracker.done,
            total=self._tracker.total,
            seconds_left=self._tracker.seconds_left,
        )

    def more(self, *, trials: int, examples: int) -> None:
        self._tracker.more(trials, examples)
        self._emit("more", trials=trials, examples=examples, total=self._tracker.total)

    def note(self, text: str) -> None:
        self._emit("note", text=text)

    def ended(self, *, exit_code: int, text: str = "") -> None:
        if not self._over:
            self._emit("ended", exit_code=exit_code, text=text)
        self._over = True


def _cell(spec: TrialSpec) -> dict[str, Any]:
    return {
        "trial_id": spec.trial_id,
        "arm": spec.arm,
        "batch_size": spec.batch_size,
        "seed": spec.seed,
        "lr": spec.lr,
    }


class SilentProgress:
    """Says nothing; for the Python API."""

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        pass

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        pass

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        pass

    def finished(self, record: TrialRecord) -> None:
        pass

    def more(self, *, trials: int, examples: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def ended(self, *, exit_code: int, text: str = "") -> None:
        pass


SOON = 20.0  # seconds before the end of a run, by what is known of its speed


class Foreseeing:
    """Passes everything on, and calls `soon` once, in a thread of its own, when the run is
    about to end: for what follows it and takes a while to start."""

    def __init__(
        self,
        inner: Progress,
        soon: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._tracker = inner, Tracker(clock)
        self._soon: Callable[[], object] | None = soon

    def _look(self) -> None:
        left = self._tracker.seconds_left
        if self._soon is not None and left is not None and left < SOON:
            # Not waited for, but by the interpreter at its end, which must not find a thread
            # inside of a library: who needs it sooner begins it itself.
            threading.Thread(target=self._soon).start()
            self._soon = None

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        self._tracker.started(total, done, examples, examples_done)
        self._inner.started(
            total=total, done=done, examples=examples, examples_done=examples_done
        )

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        self._tracker.trial_started(spec, updates)
        self._inner.trial_started(spec, updates=updates)

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        self._tracker.advanced(trial_id, update, updates, examples_per_second)
        self._inner.advanced(trial_id, update, updates, examples_per_second)
        self._look()

    def finished(self, record: TrialRecord) -> None:
        self._tracker.finished(record)
        self._inner.finished(record)
        self._look()

    def more(self, *, trials: int, examples: int) -> None:
        self._tracker.more(trials, examples)
        self._inner.more(trials=trials, examples=examples)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def ended(self, *, exit_code: int, text: str = "") -> None:
        self._inner.ended(exit_code=exit_code, text=text)


def make_progress(stream: TextIO, *, as_json: bool = False) -> Progress:
    """JSON lines if asked for, a live display on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonProgress(stream)
    import os

    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from batchcliff.study.live import LiveProgress

        return LiveProgress(stream)
    return PlainProgress(stream)
