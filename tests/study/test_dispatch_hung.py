"""Workers that stop answering, and those that cannot even be killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatched import FIVE, faults
from hangs import hangs_after
from study_runs import Told, attempts, leases_are_free, outcomes, run, study_of
from taking_turns import Everywhere

from batchcliff.errors import Incomplete
from batchcliff.study import dispatch, retries, supervisor
from batchcliff.study.dispatch import Dispatcher
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import Job
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


# --- turns on a GPU, of which such a worker may never give its own back


def stuck_pids(folder: Path) -> list[list[int]]:
    with Store.open(folder) as store:
        return [e["pids"] for e in store.events()[0] if e["event"] == "stuck"]


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.usefixtures("fake_workers", "unkillable")
def test_where_turns_are_taken_the_others_on_its_device_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: bool
) -> None:
    """With a place that nobody has; without turns, the control, they go on."""
    freed, retire = tmp_path / "freed", Dispatcher.retire
    faults(monkeypatch, s1=f"await {freed}", s2=f"stop {tmp_path / 'once'}")
    places: list[int] = []

    def retires(self: Dispatcher, *arguments: Any) -> None:
        places.extend(self.places.of("cpu"))
        retire(self, *arguments)
        places.extend(self.places.of("cpu"))
        freed.touch()

    monkeypatch.setattr(Dispatcher, "retire", retires)
    if turns:
        monkeypatch.setattr(dispatch, "Places", Everywhere)
    assert run(FIVE, tmp_path / "s", workers=3).exit_code == 0
    assert set(outcomes(tmp_path / "s").values()) == {"ok"}
    ends = attempts(tmp_path / "s")
    assert ends[2] == ["hung", "done"]
    assert ends[1] == (["interrupted", "done"] if turns else ["done"])
    assert len(places) == (2 if turns else 0)
    assert leases_are_free(tmp_path / "s")


@pytest.mark.usefixtures("fake_workers", "unkillable")
def test_each_of_several_that_cannot_be_killed_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that hangs has all of its workers wait: what goes on are those of the other."""
    freed, dismiss, retire = tmp_path / "freed", Dispatcher.dismiss, Dispatcher.retire
    six = study_of(seeds=6, batch_sizes=(16,))
    waits = {f"s{seed}": f"await {freed}" for seed in (0, 1, 3, 4, 5)}
    faults(monkeypatch, s2=f"stop {tmp_path / 'once'}", **waits)
    wedged: list[tuple[Dispatcher, str]] = []
    real: list[subprocess.Popen[bytes]] = []

    def retires(self: Dispatcher, lost: list[int], device: str, state: Any) -> None:
        outermost = not wedged
        wedged.append((self, device))
        retire(self, lost, device, state)
        if outermost:
            freed.touch()

    def dismisses(
        self: Dispatcher, worker: Worker, *arguments: Any, **named: Any
    ) -> Job | None:
        if wedged and self.devices.get(worker) == wedged[0][1] and not freed.exists():
            real.append(worker.process)
            monkeypatch.setattr(worker, "process", Unkillable())
        return dismiss(self, worker, *arguments, **named)

    monkeypatch.setattr(Dispatcher, "retire", retires)
    monkeypatch.setattr(Dispatcher, "dismiss", dismisses)
    monkeypatch.setattr(dispatch, "Places", Everywhere)
    monkeypatch.setattr(supervisor, "devices_of", lambda _: ["one", "other"])
    try:
        told = Told()
        assert run(six, tmp_path / "s", told, workers=6).exit_code == 0
    finally:
        for process in real:
            process.kill()
            process.wait()
    dispatcher, device = wedged[0]
    assert [at for _, at in wedged] == [device] * 3
    assert dispatcher.width == 3 and dispatcher.taken == [device] * 3
    assert stuck_pids(tmp_path / "s") == [[Unkillable.pid]] * 3
    assert set(outcomes(tmp_path / "s").values()) == {"ok"}
    assert [end[-1] for end in attempts(tmp_path / "s").values()] == ["done"] * 6


@pytest.mark.usefixtures("fake_workers")
def test_one_that_spoke_as_it_was_ended_with_another_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two have spoken when the run looks; what the first says ends both."""
    listen, ended = Dispatcher.listen, []

    def listens(self: Dispatcher, worker: Worker) -> None:
        listen(self, worker)
        others = [one for one in self.busy() if one is not worker]
        if not ended and others:
            ended.append(others[0])
            select = self.selector.select
            key = self.selector.get_key(others[0])
            job = self.dismiss(others[0], "interrupted", grace=0.0)
            self.retries.waiting += [job] if job is not None else []

            def selects(timeout: float) -> list[Any]:
                self.selector.select = select  # type: ignore[method-assign]
                return [(key, 1)]

            self.selector.select = selects  # type: ignore[method-assign, assignment]

    monkeypatch.setattr(Dispatcher, "listen", listens)
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert len(ended) == 1 and set(outcomes(tmp_path / "s").values()) == {"ok"}
