"""What the store costs, in calls of functions: G12 at a small size. soak/cost.py holds what it
takes in seconds, on a quiet machine."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import fake_peer as fake
import pytest

from calls import calls

sys.path.insert(0, str(Path(__file__).parents[2] / "soak"))
from cost import protocol

from batchcliff.study.store import Store

RECORDS = 300
COMMIT, TRIAL, RECORD = 1_000, 3_000, 350  # calls; less than half of that is made


def too_dear(folder: Path) -> list[str]:
    """What costs more than it may: a commit and a trial, however many there are already, and
    reading all records, by the record."""
    (first,) = fake.specs_of(fake.study_of(1))
    made = [fake.train(dataclasses.replace(first, seed=seed)) for seed in range(RECORDS + 1)]
    with fake.start(folder, 1) as store:
        commits = [calls(store.publish, record) for record in made[:-1]]
        trial = calls(protocol, store, made[-1])
    with Store.open(folder) as store:
        scan = calls(store.records)
    costs = (("commit", max(commits), COMMIT), ("trial", trial, TRIAL),
             ("scan", scan, RECORD * len(made)))  # fmt: skip
    return [f"{name}: {count} calls" for name, count, most in costs if count > most]


def test_the_store_costs_what_it_may(tmp_path: Path) -> None:
    assert too_dear(tmp_path / "s") == []


@pytest.mark.parametrize(
    ("method", "more", "what"),
    [
        ("publish", COMMIT, "commit"),
        ("_read_record", RECORD, "scan"),
        ("claim_attempt", TRIAL, "trial"),
    ],
)
def test_control_a_store_that_dawdles_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, more: int, what: str
) -> None:
    """Twice as much at each commit, at each record that is read, or at each trial."""
    honest = getattr(Store, method)

    def dawdling(self: Store, *arguments: Any) -> Any:
        for number in range(more):
            abs(number)
        return honest(self, *arguments)

    monkeypatch.setattr(Store, method, dawdling)
    assert what in "".join(too_dear(tmp_path / "s"))
