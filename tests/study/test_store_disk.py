"""Refusing disks, deaths at every call and power cuts, by a wrapped `os` in one process."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from pathlib import Path

import fake_disk
import fake_peer as fake
import pytest
from sizes import size

from batchcliff.errors import StorageError, UsageError
from batchcliff.study import files
from batchcliff.study.store import Store

TRIALS = 2
TRUTH = fake.true_table(TRIALS)
CUTS = size("cuts")
EVERY = 100 // size("calls")
FACTS = {spec.trial_id: fake.train(spec) for spec in fake.specs_of(fake.study_of(TRIALS))}


def peer(folder: Path, log: list | None = None) -> None:
    """One process: create or join, work, and note in `log` what it may rely on from then on."""
    note = (lambda trial_id: None) if log is None else (lambda t: log.append(("ack", t)))
    with fake.start(folder, TRIALS) as store:
        note("created")
        fake.work(store, note)
        for trial_id in store.records():  # those of others too: `records` made them durable
            note(trial_id)


def same(record, trial_id: str) -> bool:
    truth = FACTS[trial_id]
    return (record.spec, record.accuracy, record.curves) == (
        truth.spec,
        truth.accuracy,
        truth.curves,
    )


def run_with(disk: fake_disk.Disk, folder: Path) -> str:
    with disk:
        try:
            peer(folder)
        except fake_disk.Killed:
            return "killed"
        except StorageError as error:
            assert error.errno == disk.error and str(folder.parent) in str(error), error
            return "74"
    return "finished"


def calls_of(folder: Path) -> int:
    disk = fake_disk.Disk(folder.parent)
    assert run_with(disk, folder) == "finished"
    return disk.calls


def recovers(folder: Path) -> None:
    """Nothing visible is bad, and the same command again finishes the study."""
    if (folder / "STUDY.json").exists():
        with Store.open(folder) as left:
            assert all(same(record, tid) for tid, record in left.records().items())
            assert left.quarantined == ()
    peer(folder)
    with Store.open(folder) as done:
        assert done.table() == TRUTH and done.quarantined == ()
        for trial_id in done.records():
            assert [a.why for a in done.attempts(trial_id)][-1:] in (["done"], [None])


FATES = [None, errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "fate", FATES, ids=[errno.errorcode[fate] if fate else "killed" for fate in FATES]
)
def test_trouble_at_every_single_call(memory: Path, fate: int | None) -> None:
    total = calls_of(memory / "whole/study")
    assert total > 150
    every = 1 if fate is None else EVERY  # deaths at every call, each error at some
    points, ends = range(FATES.index(fate) % every, total, every), []
    for at in points:
        place = memory / str(at)
        place.mkdir()
        disk = fake_disk.Disk(place, at, fate)
        ends.append(run_with(disk, place / "study"))
        assert disk.synced_after_failure == []
        # No temporary file is left by a process that could still clean up.
        if ends[-1] == "74" and (place / "study/tmp").exists():
            assert len(list((place / "study/tmp").iterdir())) <= 2
        recovers(place / "study")
        shutil.rmtree(place)
    assert ends.count("killed" if fate is None else "74") > len(points) * 0.6


def test_control_publishing_in_place_fails_that(memory: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "publish_once", in_place)
    bad = 0
    for at in range(80, 200, 2):
        place = memory / str(at)
        place.mkdir()
        run_with(fake_disk.Disk(place, at, None), place / "study")
        try:
            recovers(place / "study")
        except AssertionError:
            bad += 1
    assert bad >= 3


def in_place(tmp, target, name, data, locks=None) -> bool:
    if target.holds(name):
        return False
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=target.fd)
    os.write(fd, data[:100])
    os.write(fd, data[100:])
    os.fsync(fd)
    os.close(fd)
    target.sync()
    return True


def test_control_a_second_fsync_would_be_seen(memory: Path, monkeypatch) -> None:
    # The rule "never fsync a file again after a failure", broken on purpose.
    honest = files.write_all

    def stubborn(fd: int, data: bytes) -> None:
        honest(fd, data)
        for _ in range(2):
            try:
                os.fsync(fd)
            except OSError:
                continue
            break

    monkeypatch.setattr(files, "write_all", stubborn)
    seen = 0
    for at in range(60, 120):
        disk = fake_disk.Disk(memory, at, errno.EIO)
        run_with(disk, memory / "study")
        seen += len(disk.synced_after_failure)
        shutil.rmtree(memory / "study", ignore_errors=True)
    assert seen > 0


# --- power cuts ---


def recorded(base: Path, rng: random.Random, calls: int, **honesty: bool) -> list:
    """The log of two processes on one disk, the first of them killed somewhere."""
    disk = fake_disk.Disk(base, rng.randrange(calls), None, **honesty)
    for _ in range(2):
        with disk, contextlib.suppress(fake_disk.Killed):
            peer(base / "study", disk.log)
        disk = disk.again()
    return disk.log


def losses(memory: Path, cuts: int, **honesty: bool) -> list[str]:
    """Cut the power `cuts` times; what was wrong afterwards."""
    rng = random.Random(11)
    calls = calls_of(memory / "whole/study")
    wrong, log = [], []
    for number in range(cuts):
        if number % 20 == 0:
            base = memory / f"recorded{number}"
            base.mkdir()
            log = recorded(base, rng, calls, **honesty)
        cut = rng.randrange(len(log) + 1)
        acked = {what[0] for kind, *what in log[:cut] if kind == "ack"}
        target = memory / f"cut{number}"
        target.mkdir()
        fake_disk.lay_out(fake_disk.survivors(log, cut, rng), base, target)
        wrong += faults(target / "study", acked)
        shutil.rmtree(target)
    return wrong


def faults(folder: Path, acked: set[str]) -> list[str]:
    found = []
    try:
        with Store.open(folder) as store:
            records = store.records()
            found += [f"lost {tid}" for tid in acked - {"created"} - records.keys()]
            found += [f"wrong {tid}" for tid in records if not same(records[tid], tid)]
            found += [f"torn {bad.name}" for bad in store.quarantined]
            if acked and len(store.planned()) != TRIALS:
                found.append("plan lost")
    except UsageError as error:  # no study, or (DataError) a damaged one
        if acked or "damaged" in str(error):
            found.append(f"study lost: {error}")
    peer(folder)
    with Store.open(folder) as store:
        if store.table() != TRUTH:
            found.append("table differs")
    return found


@pytest.mark.timeout(7200)
def test_power_cuts_lose_nothing_that_was_acknowledged(memory: Path) -> None:
    assert losses(memory, CUTS) == []


def test_control_without_fsync_of_folders_power_cuts_lose_records(memory: Path) -> None:
    wrong = losses(memory, 60, honest_folders=False)
    assert sum("lost" in what for what in wrong) > 20


def test_control_without_fsync_of_files_power_cuts_tear_records(memory: Path) -> None:
    wrong = losses(memory, 60, honest_files=False)
    assert sum(what.startswith("torn") for what in wrong) > 5
