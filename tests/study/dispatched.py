"""A study for tests of the dispatcher: what its workers are to do, and what a run tells."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from study_runs import Told, study_of

from batchcliff.record import TrialRecord
from batchcliff.study.store import Store

FIVE = study_of(seeds=5, batch_sizes=(16,))


def faults(monkeypatch: pytest.MonkeyPatch, **by_seed: str) -> None:
    """faults(monkeypatch, s1="raise no") makes seed 1 raise."""
    monkeypatch.setenv("FAULTS", json.dumps({key[1:]: what for key, what in by_seed.items()}))


def check_told(told: Told) -> None:
    """The protocol of progress: every trial's calls in order, rates and updates that grow."""
    assert [e[0] for e in told.events].count("started") == 1
    assert told.events[0][0] == "started"
    total, done = told.events[0][1:3]
    running: dict[str, int] = {}
    over = []
    for kind, *rest in told.events[1:]:
        if kind == "trial_started":
            assert rest[0] not in over
            running[rest[0]] = 0
        elif kind == "advanced":
            trial_id, update, updates, rate = rest
            assert running[trial_id] < update <= updates
            assert rate > 0
            running[trial_id] = update
        elif kind == "finished":
            assert isinstance(rest[1], TrialRecord)
            if rest[1].outcome == "ok":
                assert math.isnan(rest[1].curves.train_loss[1]), "as it was sent"
            over.append(rest[0])
            running.pop(rest[0], None)
    assert not running
    assert len(over) == len(set(over)) == total - done


def records(folder: Path) -> list[TrialRecord]:
    with Store.open(folder) as store:
        return list(store.records().values())
