"""The folder of a study: one sealed, immutable record per finished trial is the only truth.

Source: RELIABILITY.md 5.1 to 5.3. Resuming is a set difference (planned minus recorded); a
lease (flock) keeps two processes from working on one trial, for efficiency; `link` keeps
one record per trial, for correctness. Any number of processes may use one folder at once
and be killed at any moment. Records hold facts and provenance under separate seals, so that
`table` is equal byte for byte between runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from batchcliff.canonical import canonical_json, from_plain, to_plain, uncollected
from batchcliff.errors import DataError, StorageError, UsageError
from batchcliff.provenance import utc_now
from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study import claims, files, identity
from batchcliff.study.claims import Attempt, EventLog, Lease
from batchcliff.study.files import Folder, shown
from batchcliff.study.parts import Parts, Quarantined
from batchcliff.study.plan import TRIAL_ID, UNREADABLE, Plan, Planned, check_id
from batchcliff.study.reading import SpecReader
from batchcliff.study.sealed import Damaged, NotUnderstood, seal, unseal
from batchcliff.study.sharing import check_shared, plain_folder

__all__ = ["Attempt", "Lease", "Planned", "Quarantined", "Store", "seal", "unseal"]

STALE_SECONDS = 86_400  # a temporary file lives for milliseconds


class Store:
    """A study's folder. `Store.create` to run it, `Store.open` to read it or to join in.

    Methods raise StorageError (exit code 74, resumable) when the disk refuses.
    """

    def __init__(self, root: Folder) -> None:
        self.folder = root.path
        self._parts = Parts(root)
        self._specs = SpecReader()
        self._log: EventLog | None = None
        try:
            self._head = identity.read_head(root)
            self._plan = Plan(self._parts, self._head)
        except BaseException:
            self._parts.close()
            raise

    @classmethod
    def open(cls, folder: str | Path, *, any_owner: bool = False) -> Self:
        """Open a study that exists; nothing is written until something is published.

        Raises UsageError (exit code 2) if the folder is no study, belongs to another user
        (unless `any_owner`), was written by a newer batchcliff or has a symbolic link for a
        part; DataError if STUDY.json is damaged (`create` repairs it); StorageError.
        """
        path = identity.real_path(folder)
        try:
            identity.check_owner(path, any_owner=any_owner)
            root = Folder.open(path)
        except FileNotFoundError as error:
            raise UsageError(f"there is no study at {shown(path)}") from error
        try:
            return cls(root)
        except Damaged as damage:
            raise DataError(f"{shown(path / identity.STUDY)} is damaged: {damage}") from damage

    @classmethod
    def create(
        cls,
        folder: str | Path,
        study: StudySpec,
        data: Mapping[str, Any],
        code: str,
        *,
        accept_code_change: bool = False,
        extend: bool = False,
        shared: bool = False,
    ) -> Self:
        """Make the study's folder, or join the same study if it is there already.

        `data` says what the trials are measured on: name, digest, classes, ...; `code` names
        the code that trains. Any number of processes may call this at once: the first
        STUDY.json wins. Tries that the folder can be written to. RuntimeWarning where hard
        links are missing.

        Raises UsageError (exit code 2, nothing written) with a field-by-field difference if
        the folder holds another study, other data or, unless `accept_code_change`, other
        code; and whatever `open` raises. With `extend` the study may be one that has every
        trial of the other, and more: it becomes this store's by `Store.extend`.
        shared: the folder is its group's (2770), not its owner's alone, and was made so; who
        writes there has the umask `sharing.UMASK`.
        """
        path = identity.real_path(folder)
        head = to_plain({"study": study, "data": dict(data), "code": code})
        exists = identity.is_study(path)
        check_shared(path, shared=shared, exists=exists)
        if not exists:
            identity.make_study(path, {"schema": identity.SCHEMA, **head}, shared=shared)
        store = cls.open(path)
        try:
            store._join(head, accept_code_change, extend)
        except BaseException:
            store.close()
            raise
        return store

    def _join(self, head: dict[str, Any], accept_code_change: bool, extend: bool) -> None:
        now = to_plain({"study": self.study, "data": self.data, "code": self.code})
        identity.check_same(
            self.folder, now, head, extend=extend, accept_code_change=accept_code_change
        )
        files.sweep(self._parts.writing("tmp"), STALE_SECONDS)
        claims.make_reserve(self._parts.writing("tmp"))
        if self._parts.rename_under is not None:
            warnings.warn(
                f"{shown(self.folder)} lies on a file system without hard links: records are"
                " renamed into place under a lock, which all who write must share",
                RuntimeWarning,
                stacklevel=4,
            )
        while self.code != head["code"]:
            self._plan.add((), self.study, head["code"])

    def close(self) -> None:
        """Close the descriptors; held leases stay held."""
        if self._log is not None:
            self._log.close()
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what the study is ---

    @property
    def study(self) -> StudySpec:
        """The study as it was last extended."""
        return self._plan.study

    @property
    def data(self) -> dict[str, Any]:
        """What the trials are measured on, as given to `create`."""
        return dict(self._head["data"])

    @property
    def code(self) -> str:
        """The code that trains, as last accepted."""
        return self._plan.code

    @property
    def cache(self) -> Path:
        """For files that can be made again from the records. UsageError if it is a link."""
        return plain_folder(self.folder / "cache")

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Files found damaged by this Store so far, by name."""
        return tuple(self._parts.bad[name] for name in sorted(self._parts.bad))

    def planned(self) -> tuple[Planned, ...]:
        """Every planned cell, in the order of the generations; read anew each time."""
        self._plan.refresh()
        return self._plan.trials

    def add(self, trials: Iterable[Planned]) -> bool:
        """Plan `trials` beside what `planned` said last. False, and nothing is planned, if
        another process has planned something since: what follows from it may be different.
        """
        return self._plan.add(trials, self.study, self.code)

    def extend(
        self,
        trials: Iterable[Planned],
        study: StudySpec | None = None,
        possible: Iterable[Planned] = (),
    ) -> int:
        """Plan `trials`, which must hold all that is planned already; how many are new.

        possible: what may be planned already beside them, and is not planned here.

        A new generation is written only if there are new ones, or if `study`, which goes
        into it, is another than before. Raises UsageError (nothing written) if a planned
        trial is missing from `trials`, or if `study` does more than add to the one before.
        """
        wanted, allowed = tuple(dict.fromkeys(trials)), set(possible)
        for trial in wanted:
            check_id(trial.trial_id)
        while True:
            planned = set(self.planned())
            now = to_plain(self.study)
            new = now if study is None else to_plain(study)
            changed = identity.difference(now, new, "study")
            gone = planned - set(wanted) - allowed
            if gone or not identity.only_adds(now, new):
                raise self._not_grown(gone, changed)
            added = tuple(trial for trial in wanted if trial not in planned)
            if not added and not changed:
                self._parts.settle("plan")
                return 0
            if self._plan.add(added, study or self.study, self.code):
                return len(added)

    def _not_grown(self, gone: set[Planned], changed: list[str]) -> UsageError:
        lines = "".join(f"\n  {line}" for line in changed)
        what = "another study than the new plan is of"
        if gone:
            first = min(gone, key=lambda t: (t.arm, t.batch_size, t.seed))
            what = (
                f"{len(gone)} planned trials that the new plan lacks or changes, e.g. arm"
                f" {first.arm!r}, batch size {first.batch_size}, seed {first.seed}"
            )
        return UsageError(
            f"{shown(self.folder)} has {what}{':' if lines else '.'}{lines}\n"
            "A plan can only grow; give another study a folder of its own."
        )

    # --- records ---

    def records(self) -> dict[str, TrialRecord]:
        """Every finished trial by id, sorted, each one verified.

        A damaged record is moved to quarantine/ (its trial is missing again) and reported in
        `quarantined`; where it cannot be moved, it is reported only.
        """
        found = {}
        with uncollected():
            for name in self._parts.names("results"):
                if name.startswith("."):  # NFS leaves .nfs* for files that are open elsewhere
                    continue
                record = self._parts.checked("results", name, self._read_record)
                if record is not None:
                    found[name.removesuffix(".json")] = record
        self._parts.settle("results")
        return found

    def record(self, trial_id: str) -> TrialRecord | None:
        """The verified record of one trial, or None; a damaged one is set aside."""
        check_id(trial_id)
        return self._parts.checked("results", f"{trial_id}.json", self._read_record)

    def missing(self, planned: Iterable[Planned] | None = None) -> list[Planned]:
        """Planned cells without a record, in order, one per trial. None: the whole plan."""
        done = self.records()
        cells = self.planned() if planned is None else planned
        todo: dict[str, Planned] = {}
        for cell in cells:
            if cell.trial_id not in done:
                todo.setdefault(cell.trial_id, cell)
        return list(todo.values())

    def publish(self, record: TrialRecord) -> bool:
        """Commit a finished trial; when this returns, the record survives a power cut.

        True if it is ours; False if a valid record was there first (ours is discarded). A
        damaged one is set aside and replaced.
        """
        facts = to_plain(record)
        provenance = facts.pop("provenance")
        name = f"{record.trial_id}.json"
        data = seal(facts, provenance)
        read = self._read_record
        for _ in range(8):
            if self._parts.publish("results", name, data):
                return True
            if self._parts.checked("results", name, read, make_room=True) is not None:
                return False
        raise StorageError(f"cannot keep {shown(self.folder / 'results' / name)} undamaged")

    def table(self) -> bytes:
        """Canonical JSON of all facts by trial id: equal bytes for equal studies."""
        rows = []
        for trial_id, record in self.records().items():
            facts = to_plain(record)
            del facts["provenance"]
            rows.append({"trial_id": trial_id, "facts": facts})
        return canonical_json(rows)

    # --- running ---

    def lease(self, trial_id: str) -> Lease | None:
        """The right to run a trial until it is released or its holders die; None if busy."""
        check_id(trial_id)
        return claims.take_lease(self._parts.writing("lease"), trial_id)

    def hold_alive(self, trial_id: str) -> Lease | None:
        """For a rank whose launcher closes descriptors: nobody gets the lease while we live."""
        check_id(trial_id)
        return claims.hold_alive(self._parts.writing("lease"), trial_id)

    def claim_attempt(self, trial_id: str, started: str = "", reached: int = 0) -> int:
        """Claim the next attempt, before the run, so that a deadly trial cannot loop.

        reached: the update of the trial's newest checkpoint.
        """
        check_id(trial_id)
        with self._parts.writing("attempts").sub(trial_id, create=True) as folder:
            return claims.claim_attempt(folder, started or utc_now(), reached)

    def end_attempt(self, trial_id: str, n: int, why: str) -> bool:
        """Say why attempt `n` ended: "done", "interrupted", "storage", "crashed 11", "hung".

        The first to say so is believed (True). ValueError for another first word.
        """
        check_id(trial_id)
        with self._parts.writing("attempts").sub(trial_id, create=True) as folder:
            return claims.end_attempt(
                folder, self._parts.writing("tmp"), n, why, self._parts.rename_under
            )

    def attempts(self, trial_id: str) -> tuple[Attempt, ...]:
        """All attempts of a trial in order."""
        check_id(trial_id)
        try:
            with self._parts.reading("attempts").sub(trial_id) as folder:
                return claims.read_attempts(folder)
        except FileNotFoundError:
            return ()

    def crashes(self, trial_id: str) -> int:
        """How many attempts ended by a crash or a hang: those that are used up."""
        return sum(attempt.counted for attempt in self.attempts(trial_id))

    def unexplained(self, trial_id: str, reached: int = 0) -> int:
        """How many attempts in a row died, or still run, without a word, up to the last.

        Only those that began at the checkpoint of update `reached` count: who has left a newer
        one has got somewhere.
        """
        count = 0
        for attempt in reversed(self.attempts(trial_id)):
            if not attempt.unexplained or attempt.reached != reached:
                break
            count += 1
        return count

    def is_suspect(self, trial_id: str) -> bool:
        """Whether a run has parked the trial (study/retries.py) and none has tried it since."""
        attempts = self.attempts(trial_id)
        return bool(attempts) and attempts[-1].why == claims.SUSPECT

    def suspects(self, done: Container[str]) -> list[Planned]:
        """Planned cells, none of those `done`, whose trial is a suspect."""
        missing = (cell for cell in self.planned() if cell.trial_id not in done)
        return [cell for cell in missing if self.is_suspect(cell.trial_id)]

    def log(self, event: Mapping[str, Any]) -> None:
        """Append an event, with the time, to this process' own file; diagnostics only."""
        if self._log is None:
            self._log = EventLog(self._parts.writing("log"), self._parts.writing("tmp"))
        self._log.write(event)

    def events(self) -> tuple[list[dict[str, Any]], int]:
        """All logged events, writer by writer, and how many lines were torn."""
        try:
            return claims.read_events(self._parts.reading("log"))
        except FileNotFoundError:
            return [], 0

    def check_space(self, bytes_needed: int) -> None:
        """Refuse to start on a disk that is too full. Raises StorageError."""
        files.check_space(self.folder, self._parts.root.fd, bytes_needed)

    # --- inside ---

    def _read_record(self, name: str) -> TrialRecord | None:
        if not TRIAL_ID.fullmatch(name.removesuffix(".json")) or not name.endswith(".json"):
            raise Damaged("not the name of a record")
        data = self._parts.read("results", name)
        if data is None:
            return None
        facts, provenance = unseal(data)
        try:
            spec = self._specs.read(facts["spec"])
            record = from_plain(TrialRecord, {**facts, "spec": spec, "provenance": provenance})
            trial_id = record.trial_id
        except UNREADABLE as error:
            reason = ascii(error)[:200]
            raise NotUnderstood(f"no record that this version reads: {reason}") from error
        if f"{trial_id}.json" != name:
            raise Damaged(f"holds the record of trial {trial_id}")
        return record
