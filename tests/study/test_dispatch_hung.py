"""Workers that stop answering, and those that cannot even be killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dispatched import FIVE, faults
from hangs import hangs_after
from study_runs import Told, attempts, leases_are_free, outcomes, run

from batchcliff.errors import Incomplete
from batchcliff.study import dispatch, retries
from batchcliff.study.dispatch import Dispatcher
from batchcliff.study.engines.local import Worker
from batchcliff.study.store import Lease, Store
from batchcliff.study.stuck import end_hung

pytestmark = pytest.mark.usefixtures("fake_workers")


def test_a_worker_that_stops_answering_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(monkeypatch, s2=f"stop {tmp_path / 'once'}")
    hangs_after(monkeypatch, 1.0, seed=2, met=(tmp_path / "once").exists)
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 1)
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert summary.exit_code == 3
    assert outcomes(tmp_path / "s")[2] == "failed"
    assert attempts(tmp_path / "s")[2] == ["hung"]
    (failed,) = [e[2] for e in told.of("finished") if e[2].outcome == "failed"]
    assert failed.reason.startswith("the worker hung while training\n")


class Unkillable:
    """A process in an uninterruptible wait, as `subprocess.Popen`: no signal ends it."""

    pid = 2**22 + 5  # no process of Linux has a number that large
    returncode = None

    def send_signal(self, number: int) -> None:
        pass

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("a worker", timeout)


@pytest.fixture
def unkillable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first worker that trains seed 2 stops, and nobody can end it. It is there, with all
    that it holds, until the test is over."""
    faults(monkeypatch, s2=f"stop {tmp_path / 'once'}")
    hangs_after(monkeypatch, 1.0, seed=2, met=(tmp_path / "once").exists)
    real: list[subprocess.Popen[bytes]] = []

    def end(worker: Worker) -> None:
        real.append(worker.process)
        monkeypatch.setattr(worker, "process", Unkillable())
        end_hung(worker)

    monkeypatch.setattr(dispatch, "end_hung", end)
    yield
    (process,) = real
    assert process.poll() is None, "the control: it was there all the time"
    process.kill()
    process.wait()


@pytest.mark.usefixtures("fake_workers", "unkillable")
def test_the_place_of_a_worker_that_cannot_be_killed_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F24: it is reported, another place takes its trial over, and the run ends."""
    most, widths = 0, []
    begin = Dispatcher.start_worker

    def start_worker(self: Dispatcher) -> Worker:
        nonlocal most
        worker = begin(self)
        most = max(most, len(self.workers))
        widths.append((len(self.workers), self.width))
        return worker

    monkeypatch.setattr(Dispatcher, "start_worker", start_worker)
    told = Told()
    assert run(FIVE, tmp_path / "s", told, workers=2).exit_code == 0
    (note,) = [text for text in told.notes.splitlines() if "cannot be killed" in text]
    assert str(Unkillable.pid) in note and "1 other goes on" in note
    assert most == 2 and all(count <= width for count, width in widths)
    assert attempts(tmp_path / "s")[2] == ["hung", "done"]
    with Store.open(tmp_path / "s") as store:
        (stuck,) = [event for event in store.events()[0] if event["event"] == "stuck"]
    assert stuck["pids"] == [Unkillable.pid]


@pytest.mark.usefixtures("fake_workers", "unkillable")
def test_a_run_whose_workers_cannot_be_killed_ends_and_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"cannot be killed.*none is left.* goes on\.$"):
        run(FIVE, tmp_path / "s", workers=1)
    assert 2 not in outcomes(tmp_path / "s")
    assert run(FIVE, tmp_path / "s", workers=1).exit_code == 0


@pytest.mark.usefixtures("fake_workers", "unkillable")
def test_control_without_its_leases_the_trial_of_such_a_worker_stays_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "free", Lease.release)
    with pytest.raises(Incomplete):
        run(FIVE, tmp_path / "s", workers=1)
    assert not leases_are_free(tmp_path / "s")
