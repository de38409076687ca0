"""The live display of a run on a terminal; finished trials scroll above it.

Colours obey NO_COLOR (rich's own rule). Names and reasons are shown as text, never as markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.printable import printable
from batchcliff.study.progress import (
    Tracker,
    duration_text,
    rate_text,
    record_text,
    trial_text,
)

_STYLES = {Outcome.OK: "green", Outcome.DIVERGED: "yellow", Outcome.FAILED: "bold red"}


class LiveProgress:
    """A bar for the study with the time left, and a line for each running trial."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(file=stream, highlight=False)
        self._tracker = Tracker(clock)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TextColumn("{task.fields[rest]}", markup=False),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._study: TaskID | None = None
        self._trials: dict[str, TaskID] = {}
        self._over = False

    def started(self, *, total: int, done: int, examples: int, examples_done: int) -> None:
        self._tracker.started(total, done, examples, examples_done)
        self._study = self._bars.add_task("study", total=1.0, rest="")
        self._bars.start()
        self._refresh()

    def _refresh(self) -> None:
        if self._study is None:
            return
        now = self._tracker
        rate = rate_text(now.examples_per_second)
        rest = [f"{now.done}/{now.total} trials", *([rate] if rate else [])]
        rest.append(f"{duration_text(now.seconds_left)} left")
        self._bars.update(self._study, completed=now.share, rest=", ".join(rest))

    def trial_started(self, spec: TrialSpec, *, updates: int) -> None:
        self._tracker.trial_started(spec, updates)
        self._forget(spec.trial_id)
        task = self._bars.add_task(f"  {trial_text(spec)}", total=max(updates, 1), rest="")
        self._trials[spec.trial_id] = task

    def advanced(
        self, trial_id: str, update: int, updates: int, examples_per_second: float
    ) -> None:
        self._tracker.advanced(trial_id, update, updates, examples_per_second)
        if trial_id in self._trials:
            rest = f"{update}/{updates} updates"
            if rate := rate_text(examples_per_second):
                rest += f", {rate}"
            self._bars.update(
                self._trials[trial_id], completed=update, total=max(updates, 1), rest=rest
            )
        self._refresh()

    def finished(self, record: TrialRecord) -> None:
        self._tracker.finished(record)
        self._forget(record.trial_id)
        self._say(record_text(record), _STYLES.get(record.outcome, ""))
        self._refresh()

    def _forget(self, trial_id: str) -> None:
        if (task := self._trials.pop(trial_id, None)) is not None:
            self._bars.remove_task(task)

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text, limit=2_000), style=style), soft_wrap=True)

    def more(self, *, trials: int, examples: int) -> None:
        self._tracker.more(trials, examples)
        self._refresh()

    def note(self, text: str) -> None:
        self._say(f"note: {text}", "yellow")

    def ended(self, *, exit_code: int, text: str = "") -> None:
        if self._over:
            return
        self._over = True
        self._bars.stop()
        if text:
            self._say(text, "" if exit_code == 0 else "yellow")
