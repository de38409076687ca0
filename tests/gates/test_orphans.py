"""No orphan: every way to end a run leaves no process behind, nor what workers have started."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fake_worker
import pytest
from sizes import parts
from study_runs import Driver, all_gone, driver, fake_command, marked

ENDS = ("finish", "term", "kill driver", "kill all", "kill worker", "stop and kill", "crash",
        "segfault", "leave", "full")  # fmt: skip


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("part", "runs"), parts("orphans"))
def test_no_way_to_end_leaves_a_process(tmp_path: Path, part: int, runs: int) -> None:
    """In every way a run can end, while workers start, train, or are stopped."""
    rng, ended = random.Random(9 + part), Counter[str]()
    for number in range(runs):
        how, folder = ENDS[number % len(ENDS)], tmp_path / f"s{number}"
        if end_run(how, folder, tmp_path / "out", rng):
            ended[how] += 1
    assert ended.total() == runs, ended


def end_run(how: str, folder: Path, output: Path, rng: random.Random) -> bool:
    """One run that ends in the way `how`; whether nothing of it is left."""
    faults = {"crash": "signal 6", "segfault": "segfault", "leave": "exit 7"}.get(how)
    environment = {"PAUSE": "0.02", "FAULTS": json.dumps({"1": faults} if faults else {})}
    with driver(fake_command(folder, seeds=3, batch_sizes=[16]), output, **environment) as one:
        if how in ("finish", "crash", "segfault", "leave"):
            code = one.wait()
            assert code == (0 if how == "finish" else 3), one.errors()
            return all_gone(one.mark)
        one.until("trial_started")
        time.sleep(rng.uniform(0, 0.2))
        workers = one.workers()
        if how == "stop and kill":
            for pid in workers:
                send(pid, signal.SIGSTOP)
        if how == "kill worker":
            for pid in workers[:1]:
                send(pid, signal.SIGKILL)
            one.wait()
        elif how == "kill all":
            for pid in (*workers, one.process.pid):
                send(pid, signal.SIGKILL)
        elif how == "full":  # no file may grow: it ends by an error of its own
            resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        else:
            send(one.process.pid, signal.SIGTERM if how == "term" else signal.SIGKILL)
        one.wait()
        return all_gone(one.mark)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


LOOSE = "from batchcliff.study.engines import local\nlocal.leashed_group = lambda: -1"


def with_workers(name: str, folder: Path, before: str = "") -> list[str]:
    """A driver whose workers are the file `name` beside this one; `before`: run first."""
    code = (
        f"import sys, fake_worker, study_runs\n{before}\n"
        f"fake_worker.COMMAND = (sys.executable, {str(Path(__file__).parent / name)!r})\n"
        "sys.exit(study_runs.main(*sys.argv[1:]))"
    )
    options = json.dumps({"seeds": 2, "batch_sizes": [16]})
    return [sys.executable, "-c", code, str(folder), options]


@contextlib.contextmanager
def stopped_at_birth(folder: Path, output: Path, before: str = "") -> Iterator[Driver]:
    """A driver that is killed while its two workers stand still, stopped before they could
    ask the kernel to end them with it."""
    with driver(with_workers("stopped_worker.py", folder, before), output) as one:
        one.meets(lambda: [state_of(pid) for pid in one.workers()].count("T") == 2)
        send(one.process.pid, signal.SIGKILL)
        one.wait()
        yield one


def state_of(pid: int) -> str:
    """The kernel's letter for it: T is stopped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def test_a_worker_that_is_stopped_at_birth_ends_with_its_driver(tmp_path: Path) -> None:
    with stopped_at_birth(tmp_path / "s", tmp_path / "out") as one:
        assert all_gone(one.mark)


def test_control_without_a_leash_it_is_an_orphan(tmp_path: Path) -> None:
    with stopped_at_birth(tmp_path / "s", tmp_path / "out", LOOSE) as one:
        assert not all_gone(one.mark, seconds=1)


def test_control_a_worker_that_asks_for_nothing_is_an_orphan(tmp_path: Path) -> None:
    """With neither PR_SET_PDEATHSIG nor a leash, a worker in the middle of an update outlives
    its driver."""
    stuck = json.dumps(dict.fromkeys(range(3), "sleep 3600"))
    command = with_workers("immortal.py", tmp_path / "s", LOOSE)
    with driver(command, tmp_path / "out", FAULTS=stuck) as one:
        one.until("advanced", 2)
        send(one.process.pid, signal.SIGKILL)
        one.wait()
        assert not all_gone(one.mark, seconds=1)


def with_helpers(worker: str, folder: Path, output: Path) -> Iterator[Driver]:
    """A driver that is killed while its two workers are stuck, each with a process that it has
    forked itself."""
    helpers = json.dumps(dict.fromkeys(range(3), "helper"))
    with driver(with_workers(worker, folder), output, FAULTS=helpers) as one:
        one.until("advanced", 2)
        one.meets(lambda: len(marked(one.mark, worker)) == 4)
        send(one.process.pid, signal.SIGKILL)
        one.wait()
        yield one


def test_what_a_worker_has_started_ends_with_the_driver(tmp_path: Path) -> None:
    """F26: loaders of data, for example, which nobody else ends."""
    place = Path(fake_worker.__file__)
    for one in with_helpers(str(place), tmp_path / "s", tmp_path / "out"):
        assert all_gone(one.mark)


def test_control_without_a_leash_of_its_own_they_are_orphans(tmp_path: Path) -> None:
    for one in with_helpers("unleashed.py", tmp_path / "s", tmp_path / "out"):
        assert not all_gone(one.mark, seconds=1)
