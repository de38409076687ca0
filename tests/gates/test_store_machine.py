"""Any sequence of what people, processes and disks do to a store, against a model of it.

Two open stores share a folder; hypothesis chooses who publishes, leases, grows the plan,
damages a file, dies at some call or meets an error, and shrinks what went wrong.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
from pathlib import Path

import fake_disk
import fake_peer as fake
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sizes import size

from batchcliff.errors import StorageError
from batchcliff.study import files
from batchcliff.study.store import Lease, Planned, Store

FIRST, MOST = 3, 6  # trials planned at first, and at most
SPECS = fake.specs_of(fake.study_of(MOST))
TRIALS = st.integers(0, MOST - 1)
STORES = st.integers(0, 1)


class StoreMachine(RuleBasedStateMachine):
    """`kept`: the bytes of each record that must be there; `damaged`: not seen as such yet."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=fake_disk.in_memory()))
        self.folder = self.base / "study"
        self.trials = FIRST
        self.kept: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.leases: dict[str, tuple[int, Lease]] = {}
        self.attempts: dict[str, list[str | None]] = {}
        self.quarantined = 0
        self.stores = [fake.start(self.folder, self.trials) for _ in range(2)]

    def teardown(self) -> None:
        for _, lease in self.leases.values():
            lease.release()
        for store in self.stores:
            store.close()
        shutil.rmtree(self.base)

    # --- helpers ---

    def path(self, trial_id: str) -> Path:
        return self.folder / "results" / f"{trial_id}.json"

    def look(self, who: int) -> None:
        """Whoever looks sets aside what is damaged."""
        self.stores[who].records()
        self.quarantined += len(self.damaged)
        self.damaged.clear()

    def study(self, trials: int) -> tuple[object, list[Planned]]:
        study = fake.study_of(trials)
        return study, [Planned.of(spec) for spec in fake.specs_of(study)]

    def died(self, trial: int, acknowledged: bool) -> None:
        """After a death or an error while publishing: the record is there whole, or is not."""
        trial_id = SPECS[trial].trial_id
        if acknowledged and trial_id not in self.kept:
            assert self.path(trial_id).exists(), "an acknowledged record is lost"
        self.look(0)  # had the death torn a record, one more would be in quarantine now
        if trial_id not in self.kept and self.path(trial_id).exists():
            self.kept[trial_id] = self.path(trial_id).read_bytes()

    # --- what processes do ---

    @rule(who=STORES, trial=TRIALS)
    def publish(self, who: int, trial: int) -> None:
        trial_id = SPECS[trial].trial_id
        won = self.stores[who].publish(fake.train(SPECS[trial]))
        assert won == (trial_id not in self.kept), "the first valid record stays"
        if won:
            self.kept[trial_id] = self.path(trial_id).read_bytes()
            self.quarantined += trial_id in self.damaged
            self.damaged.discard(trial_id)

    @rule(who=STORES, trial=TRIALS)
    def lease(self, who: int, trial: int) -> None:
        trial_id = SPECS[trial].trial_id
        lease = self.stores[who].lease(trial_id)
        assert (lease is None) == (trial_id in self.leases), "a lease is exclusive"
        if lease is not None:
            self.leases[trial_id] = (who, lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.leases)))
        self.leases.pop(trial_id)[1].release()

    @rule(who=STORES, trial=TRIALS)
    def claim(self, who: int, trial: int) -> None:
        trial_id = SPECS[trial].trial_id
        ends = self.attempts.setdefault(trial_id, [])
        ends.append(None)
        assert self.stores[who].claim_attempt(trial_id) == len(ends), "numbers are not reused"

    @precondition(lambda self: any(self.attempts.values()))
    @rule(who=STORES, data=st.data(), why=st.sampled_from(["done", "hung", "crashed 11"]))
    def end(self, who: int, data: st.DataObject, why: str) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.attempts)))
        n = data.draw(st.integers(1, len(self.attempts[trial_id])))
        first = self.attempts[trial_id][n - 1] is None
        assert self.stores[who].end_attempt(trial_id, n, why) == first
        if first:
            self.attempts[trial_id][n - 1] = why

    @precondition(lambda self: self.trials < MOST)
    @rule(who=STORES)
    def grow(self, who: int) -> None:
        study, planned = self.study(self.trials + 1)
        assert self.stores[who].extend(planned, study) == 1
        self.trials += 1

    @rule(who=STORES)
    def reopen(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = Store.open(self.folder)

    @rule(who=STORES, event=st.dictionaries(st.text(max_size=5), st.integers(), max_size=2))
    def log(self, who: int, event: dict[str, int]) -> None:
        self.stores[who].log({**event, "event": "x"})

    # --- what disks and people do ---

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), seed=st.integers(0, 10**6))
    def damage(self, data: st.DataObject, seed: int) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.kept)))
        good, rng = self.kept.pop(trial_id), random.Random(seed)
        at = rng.randrange(len(good) - 30)  # before the version: see test_store_records.py
        bad = rng.choice(
            [good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], b"", b"{}"]
        )
        self.path(trial_id).write_bytes(bad)
        self.damaged.add(trial_id)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.kept)))
        self.path(trial_id).unlink()
        del self.kept[trial_id]

    @rule(trial=TRIALS, at=st.integers(0, 120))
    def die_while_publishing(self, trial: int, at: int) -> None:
        study, _ = self.study(self.trials)
        acknowledged = False
        with (
            fake_disk.Disk(self.base, at, None),
            contextlib.suppress(fake_disk.Killed),
            Store.create(self.folder, study, fake.DATA, fake.CODE) as store,
        ):
            store.publish(fake.train(SPECS[trial]))
            acknowledged = True
        self.died(trial, acknowledged)

    @rule(
        trial=TRIALS,
        at=st.integers(0, 120),
        error=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]),
    )
    def meet_an_error(self, trial: int, at: int, error: int) -> None:
        acknowledged = False
        with fake_disk.Disk(self.base, at, error) as disk:
            try:
                with Store.open(self.folder) as store:
                    store.publish(fake.train(SPECS[trial]))
                    acknowledged = True
            except StorageError as refusal:
                assert refusal.errno == error
        assert disk.synced_after_failure == []
        self.died(trial, acknowledged)

    # --- what must hold ---

    @rule(who=STORES)
    def everything_is_as_the_model_says(self, who: int) -> None:
        self.look(who)
        store = self.stores[who]
        assert store.records().keys() == self.kept.keys()
        done = {SPECS[i].trial_id for i in range(self.trials)} & self.kept.keys()
        missing = {cell.trial_id for cell in store.missing()}
        assert missing == {SPECS[i].trial_id for i in range(self.trials)} - done
        assert len(store.planned()) == self.trials
        for trial_id, ends in self.attempts.items():
            assert [attempt.why for attempt in store.attempts(trial_id)] == ends

    @invariant()
    def records_never_change(self) -> None:
        for trial_id, data in self.kept.items():
            assert self.path(trial_id).read_bytes() == data

    @invariant()
    def nothing_is_thrown_away(self) -> None:
        names = [path.name for path in (self.folder / "quarantine").glob("*.json.*")]
        # A process that died while it wrote the reason leaves the file without one.
        assert len([n for n in names if not n.endswith(".why")]) == self.quarantined


def run_machine(examples: int, *, shrink: bool = True) -> None:
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(3600)
def test_the_store_is_its_model() -> None:
    run_machine(size("machines"))


def last_writer_wins(tmp, target, name, data, locks=None) -> bool:
    with files.disk("write", target.path / name):
        temporary = tmp.write_temporary(data)
        os.rename(temporary.name, name, src_dir_fd=tmp.fd, dst_dir_fd=target.fd)
        return True


def believe_anything(data: bytes):
    from batchcliff.canonical import parse_json

    try:
        whole = parse_json(data)
        return whole["body"], whole.get("provenance", {}).get("body")
    except (ValueError, KeyError, TypeError) as error:
        raise files.Damaged(str(error)) from error


@pytest.mark.parametrize("broken", ["last writer wins", "seals are not looked at", "no lease"])
def test_control_a_broken_store_is_not(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "no lease":
        monkeypatch.setattr(Store, "lease", fake.everybody_gets_it)
    elif broken == "last writer wins":
        monkeypatch.setattr("batchcliff.study.parts.files.publish_once", last_writer_wins)
    else:
        monkeypatch.setattr("batchcliff.study.store.unseal", believe_anything)
    # What is drawn depends on the modules that other tests have imported (hypothesis takes
    # constants from them), and 200 examples have once not been enough.
    with pytest.raises(AssertionError):
        run_machine(5_000, shrink=False)
