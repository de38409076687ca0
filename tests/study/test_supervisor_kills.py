"""`kill -9` at random moments, and several drivers at once: each trial gets one record.

The volume comes from fake workers under the real supervisor; one test trains for real.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from sizes import size
from study_runs import (
    Driver,
    accounted,
    all_gone,
    driver,
    fake_command,
    leases_are_free,
    table,
)

from batchcliff.study.store import Store

KILLS = size("run_kills")
TRIALS = 16  # 8 seeds, 2 batch sizes


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("expected")
    with driver(fake_command(folder / "s", seeds=8), folder / "out") as whole:
        assert whole.wait() == 0, whole.errors()
        assert all_gone(whole.mark)
    accounted(folder / "s", TRIALS)
    return table(folder / "s")


def kill(victims: list[int]) -> None:
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(7200)
def test_kill_9_at_random_moments(tmp_path: Path, expected: bytes) -> None:
    """The driver, one worker, or all of them; then the same command goes on."""
    rng, folder, hits = random.Random(20), tmp_path / "s", Counter[str]()
    for number in range(KILLS):
        who = ("driver", "worker", "all")[number % 3]
        command = fake_command(folder, seeds=8)
        with driver(command, tmp_path / f"out{number}", PAUSE="0.03") as one:
            if rng.random() < 0.7:  # else: while it starts
                with contextlib.suppress(AssertionError):  # it had nothing left to do
                    one.until("trial_started")
            time.sleep(rng.expovariate(1 / 0.2))
            workers = one.workers()
            if who == "worker" and workers and one.process.poll() is None:
                kill([rng.choice(workers)])
                code = one.wait()
                assert code == 0, one.errors()
                hits[who] += 1
            else:
                hits[who] += one.process.poll() is None
                kill([one.process.pid, *(workers if who == "all" else [])])
                one.wait()
            assert all_gone(one.mark), "workers die with their driver"
        if folder.exists() and who == "worker":
            shutil.rmtree(folder)  # it was finished: begin again
    with driver(fake_command(folder, seeds=8), tmp_path / "last") as last:
        assert last.wait() == 0, last.errors()
        assert all_gone(last.mark)
    accounted(folder, TRIALS)
    assert table(folder) == expected
    assert leases_are_free(folder)
    assert hits["driver"] and hits["worker"] and hits["all"], hits


def test_the_worker_dies_with_its_driver(tmp_path: Path) -> None:
    """Also in the middle of a long update, and its leases with it."""
    command = fake_command(tmp_path / "s", seeds=4)
    stuck = json.dumps(dict.fromkeys(range(4), "sleep 3600"))
    with driver(command, tmp_path / "out", FAULTS=stuck) as one:
        one.until("advanced", 2)
        assert len(one.workers()) == 2
        assert not leases_are_free(tmp_path / "s")
        kill([one.process.pid])
        one.wait()
        assert all_gone(one.mark)
    assert leases_are_free(tmp_path / "s")


def test_drivers_at_once_run_each_trial_once(tmp_path: Path, expected: bytes) -> None:
    """Five of them, from the making of the folder on: all end with 0, one attempt a trial."""
    folder = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        together: list[Driver] = [
            stack.enter_context(
                driver(
                    fake_command(folder, seeds=8, workers=1), tmp_path / f"{n}", PAUSE="0.03"
                )
            )
            for n in range(5)
        ]
        for one in together:
            assert one.wait() == 0, one.errors()
        for one in together:
            assert len(one.events("finished")) + one.events("started")[0]["done"] == TRIALS
            assert all_gone(one.mark)
        begun = [e["trial_id"] for one in together for e in one.events("trial_started")]
    assert len(begun) == len(set(begun)) == TRIALS
    with Store.open(folder) as store:
        assert {tuple(a.why for a in store.attempts(p.trial_id)) for p in store.planned()} == {
            ("done",)
        }
    accounted(folder, TRIALS)
    assert table(folder) == expected


def test_a_trial_of_a_killed_driver_goes_to_the_other(tmp_path: Path, expected: bytes) -> None:
    """The second waits for what the first holds, and takes it when that dies."""
    folder = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        slow = fake_command(folder, seeds=8)
        first = stack.enter_context(driver(slow, tmp_path / "1", PAUSE="3600"))
        first.until("trial_started", 2)
        second = stack.enter_context(driver(fake_command(folder, seeds=8), tmp_path / "2"))
        second.until("finished", TRIALS - 2)
        time.sleep(0.7)
        assert second.process.poll() is None, "two trials are not free"
        kill([first.process.pid])
        assert second.wait() == 0, second.errors()
        assert len(second.events("finished")) == TRIALS
    accounted(folder, TRIALS)
    assert table(folder) == expected


def test_another_study_in_the_folder_is_refused(tmp_path: Path) -> None:
    """At the same time and afterwards: exit code 2, what differs, nothing written."""
    folder = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(
            driver(fake_command(folder, seeds=2, base=0.1), tmp_path / "1", PAUSE="0.1")
        )
        first.until("started")
        second = stack.enter_context(
            driver(fake_command(folder, seeds=2, base=0.2), tmp_path / "2")
        )
        assert second.wait() == 2
        assert "0.1" in second.errors() and "0.2" in second.errors(), second.errors()
        assert not second.events()
        assert first.wait() == 0
    before = snapshot(folder)
    with driver(fake_command(folder, seeds=2, base=0.2), tmp_path / "3") as third:
        assert third.wait() == 2
    assert snapshot(folder) == before
    accounted(folder, 4)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_kill_9_while_it_trains(tmp_path: Path) -> None:
    """Real workers: all is killed, then a worker; one worker and two give the same bytes."""
    digits = ["batch_sizes=[64, 128]", "seeds=2", "budget='2ep'"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with driver(fake_command(whole, digits=digits, workers=1), tmp_path / "1") as one:
        assert one.wait() == 0, one.errors()
        assert all_gone(one.mark)
    assert accounted(whole, 8) == {"ok": 8}
    again = fake_command(torn, digits=digits, workers=2)
    with driver(again, tmp_path / "2") as two:
        two.until("finished", 1)
        kill([two.process.pid])
        two.wait()
        assert all_gone(two.mark)
    # A stack that is taken up again has other neighbours than before.
    records = sorted((torn / "results").iterdir())
    assert records, "what was acknowledged is on disk"
    for record in records[1:]:
        record.unlink()
    with driver(again, tmp_path / "3") as three:
        three.until("trial_started", 1)
        time.sleep(random.Random(5).uniform(0.5, 3))
        kill(three.workers()[:1])
        assert three.wait() == 0, three.errors()
        assert all_gone(three.mark)
    assert accounted(torn, 8) == {"ok": 8}
    assert table(torn) == table(whole)
    assert leases_are_free(torn)
