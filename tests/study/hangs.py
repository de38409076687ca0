"""The watch over hangs, for tests: who is only slow does not mislead it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from patience import until

from batchcliff.study import dispatch
from batchcliff.study import jobs as jobs_module
from batchcliff.study import stuck as stuck_module
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import Busy


def hangs_after(
    monkeypatch: pytest.MonkeyPatch, seconds: float, seed: int, met: Callable[[], Any]
) -> None:
    """A hang is `seconds` without progress, of the first attempt at the trial of `seed`, once
    it has `met` what makes it hang. Whoever else is silent is slow."""
    honest = Busy.is_hung

    def is_hung(self: Busy) -> bool:
        mine = any(spec.seed == seed for spec in self.job.specs)
        return honest(self) and mine and 1 in self.attempts.values() and bool(met())

    monkeypatch.setattr(jobs_module, "HUNG_SECONDS", seconds)
    monkeypatch.setattr(jobs_module, "PHASE_SECONDS", seconds)
    monkeypatch.setattr(jobs_module, "HUNG_GAPS", 0)
    monkeypatch.setattr(Busy, "is_hung", is_hung)


def wait_for_stacks(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Who hangs has as long as it takes to write where it is: its stacks have `words`."""
    honest = dispatch.end_hung

    def end_hung(worker: Worker) -> None:
        def written(_: float) -> None:
            until(lambda: words in worker.tail(), worker.tail)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stuck_module, "time", SimpleNamespace(sleep=written))
            honest(worker)

    monkeypatch.setattr(dispatch, "end_hung", end_hung)
