"""Who gets which job, and what is told of it: with workers that pretend."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from dispatched import FIVE, check_told, faults
from study_runs import Told, accounted, attempts, leases_are_free, outcomes, run, table

from batchcliff.errors import StorageError
from batchcliff.record import TrialRecord
from batchcliff.study.dispatch import Dispatcher, WorkerError
from batchcliff.study.engines.local import Worker
from batchcliff.study.store import Store

pytestmark = pytest.mark.usefixtures("fake_workers")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_progress_comes_in_order_and_each_trial_runs_once(
    tmp_path: Path, workers: int, undisturbed: bytes
) -> None:
    told = Told()
    summary = run(FIVE, tmp_path / "s", told, workers=workers)
    assert (summary.exit_code, summary.missing, summary.counts) == (0, 0, {"ok": 5})
    check_told(told)
    assert len(told.of("trial_started")) == len(told.of("finished")) == 5
    assert len(told.of("advanced")) == 5 * 3, "1, 3 and 4 updates; what goes backwards is not"
    assert not told.of("note")
    assert told.events[0] == ("started", 5, 0, 5 * 128, 0)
    assert attempts(tmp_path / "s") == {seed: ["done"] for seed in range(5)}
    assert table(tmp_path / "s") == undisturbed
    assert leases_are_free(tmp_path / "s")


def test_the_same_call_again_does_nothing_more(tmp_path: Path) -> None:
    run(FIVE, tmp_path / "s")
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "s" / "results").iterdir())
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 0
    assert told.events == [("started", 5, 5, 5 * 128, 5 * 128)]
    after = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "s" / "results").iterdir())
    assert after == before


def test_a_stack_of_trials_is_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a workload of the user's, four trials of a shape go to a worker at once."""
    monkeypatch.setenv("PAUSE", "0.2")
    told, sizes = Told(), []
    original = Worker.send

    def send(self: Worker, message: dict, descriptors: list[int] | None = None) -> None:
        if "specs" in message:
            sizes.append(len(message["specs"]))
            assert len(descriptors or []) == len(message["specs"]), "a lease for each"
        original(self, message, descriptors)

    monkeypatch.setattr(Worker, "send", send)
    from batchcliff.studyfile import load_study

    digits = load_study("digits", overrides=("seeds=3", "batch_sizes=[512]"))
    assert run(digits, tmp_path / "s", told, workload_reference=None).exit_code == 0
    assert sorted(sizes) == [2, 4], "a full stack first"
    check_told(told)


def test_workers_are_spread_over_all_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs are pretended: of three workers no GPU has them all, and a new one takes the
    place of one that died."""
    from batchcliff.study import supervisor

    told: list[str] = []
    say = Dispatcher.say

    def listening(self: Dispatcher, worker: Any, message: Any, fds: Any = None) -> None:
        if "device" in message:
            told.append(message["device"])
        say(self, worker, message, fds)

    faults(monkeypatch, s1="exit 3")
    monkeypatch.setenv("PAUSE", "0.1")
    monkeypatch.setattr(supervisor, "resolve_device", lambda device: "cuda")
    monkeypatch.setattr(supervisor, "devices_of", lambda device: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(Dispatcher, "say", listening)
    run(FIVE, tmp_path / "s", workers=3)
    assert told[:3] == ["cuda:0", "cuda:1", "cuda:0"]
    assert len(told) > 3, "a worker died and another one came"


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name
)
def test_a_worker_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Killed: it is started anew. Broken: one clear error, and no trial is blamed."""
    start = {"signal": number.value, "unless": str(tmp_path / "been-here")}
    monkeypatch.setenv("START", json.dumps(start))
    if number == signal.SIGKILL:
        assert run(FIVE, tmp_path / "s", workers=1).exit_code == 0
        return
    with pytest.raises(WorkerError, match=r"^a worker could not start \(SIGSEGV\)"):
        run(FIVE, tmp_path / "s", workers=1)
    assert not outcomes(tmp_path / "s") and leases_are_free(tmp_path / "s")
    assert {why for ends in attempts(tmp_path / "s").values() for why in ends} == {
        "interrupted"
    }
    assert run(FIVE, tmp_path / "s").exit_code == 0


def test_an_error_in_the_callers_progress_ends_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BrokenPipeError is what `batchcliff run --json | head` meets: no error of the disk."""
    monkeypatch.setenv("PAUSE", "0.05")

    class Broken(Told):
        def advanced(self, trial_id: str, update: int, updates: int, rate: float) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(FIVE, tmp_path / "s", Broken())
    assert leases_are_free(tmp_path / "s")
    assert {why for ends in attempts(tmp_path / "s").values() for why in ends} == {
        "interrupted"
    }
    assert run(FIVE, tmp_path / "s").exit_code == 0
    accounted(tmp_path / "s", 5)


def test_a_disk_that_refuses_stops_all_and_blames_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second record cannot be written: no worker is left, no attempt is used up."""
    original, published = Store.publish, []

    def publish(self: Store, record: TrialRecord) -> bool:
        published.append(record)
        if len(published) == 2:
            raise StorageError("No space left on device")
        return original(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", publish)
        with pytest.raises(StorageError, match="No space left"):
            run(FIVE, tmp_path / "s")
    ends = [why for whys in attempts(tmp_path / "s").values() for why in whys]
    assert ends.count("done") == 1 and ends.count("storage") in (1, 2)
    assert set(ends) == {"done", "storage"}
    assert leases_are_free(tmp_path / "s")
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert accounted(tmp_path / "s", 5) == {"ok": 5}


def test_no_descriptor_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults(monkeypatch, s1="raise no", s2="exit 1")
    before = sorted(Path("/proc/self/fd").iterdir())
    run(FIVE, tmp_path / "s")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
