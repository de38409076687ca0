"""The plan of a study: generations of cells, each a sealed file that only ever adds.

Source: RELIABILITY.md 5.1, F29, F30.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from batchcliff.canonical import from_plain, to_plain
from batchcliff.errors import UsageError
from batchcliff.provenance import utc_now
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study.files import shown
from batchcliff.study.parts import Parts
from batchcliff.study.sealed import Damaged, NotUnderstood, seal, unseal

TRIAL_ID = re.compile(r"[0-9a-f]{20}")
GENERATION = re.compile(r"([0-9]{4,9})\.json")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of the grid and the trial that fills it; two cells may share a trial.

    tuning: the trial helps to choose a learning rate, and is no part of the answer.
    """

    arm: str
    batch_size: int
    seed: int
    trial_id: str
    tuning: bool = False

    @classmethod
    def of(cls, spec: TrialSpec) -> Self:
        """The cell of a trial."""
        return cls(spec.arm, spec.batch_size, spec.seed, spec.trial_id)


def check_id(trial_id: str) -> None:
    """Raises ValueError unless it is 20 hex digits: anything else may be a path."""
    if not isinstance(trial_id, str) or not TRIAL_ID.fullmatch(trial_id):
        raise ValueError(f"a trial id is 20 hex digits, not {trial_id!r}")


class Plan:
    """All generations, as they were when last read. `head` is the body of STUDY.json."""

    def __init__(self, parts: Parts, head: dict[str, Any]) -> None:
        self._parts = parts
        try:
            self._first = from_plain(StudySpec, head["study"]), str(head["code"])
        except UNREADABLE as error:
            raise _other_version(parts.root.path, ascii(error)) from error
        self.refresh()

    def refresh(self) -> None:
        """Read all generations anew. Raises UsageError if another version wrote one."""
        self.study, self.code = self._first
        self._last = 0
        trials: dict[Planned, None] = {}
        for name in self._parts.names("plan"):
            if match := GENERATION.fullmatch(name):
                self._last = int(match[1])
                found = self._parts.checked("plan", name, self._read)
                if found is not None:
                    self.study, self.code = found[:2]
                    trials |= dict.fromkeys(found[2])
        self.trials = tuple(trials)

    def add(self, trials: Iterable[Planned], study: StudySpec, code: str) -> bool:
        """Write the next generation; False if somebody else did. Refreshes either way."""
        cells = [
            [t.arm, t.batch_size, t.seed, t.trial_id, *([True] if t.tuning else [])]
            for t in trials
        ]
        body = {"study": to_plain(study), "code": code, "trials": cells}
        name = f"{self._last + 1:04d}.json"
        won = self._parts.publish("plan", name, seal(body, {"made": utc_now()}))
        self.refresh()
        return won

    def _read(self, name: str) -> tuple[StudySpec, str, list[Planned]] | None:
        path = self._parts.root.path / "plan" / name
        data = self._parts.read("plan", name)
        if data is None:
            return None
        try:
            body, _ = unseal(data)
            study = from_plain(StudySpec, body["study"])
            trials = [Planned(*cell) for cell in body["trials"]]
            for trial in trials:
                check_id(trial.trial_id)
            return study, str(body["code"]), trials
        except Damaged as damage:
            if not isinstance(damage, NotUnderstood):
                raise
            raise _other_version(path, str(damage)) from damage
        except UNREADABLE as error:
            raise _other_version(path, ascii(error)) from error


def _other_version(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{shown(path)} was written by another version of batchcliff ({reason[:200]})"
    )
