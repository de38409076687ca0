"""Who gets which job, and what happens when a worker fails: with workers that pretend."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_worker
import pytest
from study_runs import (
    MARK,
    Told,
    accounted,
    all_gone,
    attempts,
    leases_are_free,
    outcomes,
    run,
    study_of,
    table,
)

from batchcliff.errors import Incomplete, StorageError
from batchcliff.record import TrialRecord
from batchcliff.study import dispatch, retries
from batchcliff.study import jobs as jobs_module
from batchcliff.study import stuck as stuck_module
from batchcliff.study.dispatch import Dispatcher, WorkerError
from batchcliff.study.engines.local import Worker
from batchcliff.study.store import Lease, Store
from batchcliff.study.stuck import end_hung

FIVE = study_of(seeds=5, batch_sizes=(16,))


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake workers, none of which outlives its test."""
    mark = uuid.uuid4().hex
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setattr(stuck_module, "TERM_SECONDS", 0.5)  # who is stopped hears no SIGTERM
    monkeypatch.setenv(MARK, mark)
    yield
    assert all_gone(mark, seconds=0.0), "a run must not end before its workers have"


def faults(monkeypatch: pytest.MonkeyPatch, **by_seed: str) -> None:
    """faults(monkeypatch, s1="raise no") makes seed 1 raise."""
    monkeypatch.setenv("FAULTS", json.dumps({key[1:]: what for key, what in by_seed.items()}))


def check_told(told: Told) -> None:
    """The protocol of progress: every trial's calls in order, rates and updates that grow."""
    assert [e[0] for e in told.events].count("started") == 1
    assert told.events[0][0] == "started"
    total, done = told.events[0][1:3]
    running: dict[str, int] = {}
    over = []
    for kind, *rest in told.events[1:]:
        if kind == "trial_started":
            assert rest[0] not in over
            running[rest[0]] = 0
        elif kind == "advanced":
            trial_id, update, updates, rate = rest
            assert running[trial_id] < update <= updates
            assert rate > 0
            running[trial_id] = update
        elif kind == "finished":
            assert isinstance(rest[1], TrialRecord)
            if rest[1].outcome == "ok":
                assert math.isnan(rest[1].curves.train_loss[1]), "as it was sent"
            over.append(rest[0])
            running.pop(rest[0], None)
    assert not running
    assert len(over) == len(set(over)) == total - done


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of FIVE without any fault."""
    folder = tmp_path_factory.mktemp("expected") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "command", fake_worker.COMMAND)
        assert run(FIVE, folder).exit_code == 0
    return table(folder)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_progress_comes_in_order_and_each_trial_runs_once(
    tmp_path: Path, workers: int, expected: bytes
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
    assert table(tmp_path / "s") == expected
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


def test_an_exception_twice_is_a_failure_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(monkeypatch, s1="raise the same", s3="noise")
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert (summary.exit_code, summary.missing) == (3, 0)
    assert summary.counts == {"ok": 4, "failed": 1}
    assert outcomes(tmp_path / "s") == {0: "ok", 1: "failed", 2: "ok", 3: "ok", 4: "ok"}
    assert attempts(tmp_path / "s")[1] == ["crashed Clumsy"] * 2
    (failed,) = [e[2] for e in told.of("finished") if e[2].outcome == "failed"]
    assert failed.reason == "Clumsy: the same"
    assert failed.accuracy is None
    assert failed.ledger.updates == 8
    assert "Clumsy: the same: trying again" in told.notes
    assert told.notes.count("trying again") == 1
    check_told(told)
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 3, "and it stays one"
    assert told.events == [("started", 5, 5, 5 * 128, 5 * 128)]


def test_a_death_is_tried_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults(monkeypatch, s0="exit 7", s1="segfault", s2="noise", s3="signal 6", s4="leave 3")
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert (summary.exit_code, summary.counts) == (3, {"failed": 4, "ok": 1})
    names = {0: "exit status 7", 1: "SIGSEGV", 3: "SIGABRT", 4: "exit status 3"}
    assert attempts(tmp_path / "s") == {
        2: ["done"],
        **{seed: [f"crashed {name}"] * 3 for seed, name in names.items()},
    }
    for _, _, record in told.of("finished"):
        if record.outcome == "failed":
            name = names[record.spec.seed]
            assert record.reason.startswith(f"the worker process died ({name})")
    check_told(told)
    assert leases_are_free(tmp_path / "s")


def test_the_last_words_of_a_worker_are_in_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 0 says something and seed 1 dies in the same process: one worker, no stack."""
    faults(monkeypatch, s0="noise", s1="exit 7")
    told = Told()
    run(study_of(seeds=2, batch_sizes=(16,)), tmp_path / "s", told, workers=1)
    (failed,) = [e[2] for e in told.of("finished") if e[2].outcome == "failed"]
    notes = told.notes
    assert "died (exit status 7): trying again" in notes
    with Store.open(tmp_path / "s") as store:
        tails = [event["tail"] for event in store.events()[0] if event["event"] == "death"]
    assert any("noise on stderr" in tail and "noise on descriptor 1" in tail for tail in tails)
    assert "noise" not in notes, "a note is a line"
    assert failed.outcome == "failed"


def test_a_crash_that_goes_away_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes
) -> None:
    faults(monkeypatch, s2=f"once {tmp_path / 'been-here'}")
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert attempts(tmp_path / "s")[2] == ["crashed SIGABRT", "done"]
    assert table(tmp_path / "s") == expected


def test_an_attempt_that_is_used_up_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver was killed after the third crash and before it could write `failed`."""
    run(FIVE, tmp_path / "s")
    (victim,) = [r for r in _records(tmp_path / "s") if r.spec.seed == 1]
    with Store.open(tmp_path / "s") as store:
        for _ in range(3):
            store.end_attempt(victim.trial_id, store.claim_attempt(victim.trial_id), "hung")
    (tmp_path / "s" / "results" / f"{victim.trial_id}.json").unlink()
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 3
    assert not told.of("trial_started")
    (failed,) = told.of("finished")
    assert failed[2].reason == "3 attempts failed: done, hung, hung, hung"


def _records(folder: Path) -> list[TrialRecord]:
    with Store.open(folder) as store:
        return list(store.records().values())


def test_out_of_memory_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults(monkeypatch, s4="memory no room")
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert summary.exit_code == 0
    assert summary.counts == {"ok": 4, "oom": 1}
    assert outcomes(tmp_path / "s")[4] == "oom"
    assert attempts(tmp_path / "s")[4] == ["interrupted"]
    assert [e[2].reason for e in told.of("finished") if e[2].outcome == "oom"] == [
        "MemoryError: no room"
    ]
    check_told(told)


def test_a_stack_without_memory_is_tried_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(monkeypatch, s1="memory no room")
    from batchcliff.studyfile import load_study

    digits = load_study("digits", overrides=("seeds=2", "batch_sizes=[512]"))
    told = Told()
    summary = run(digits, tmp_path / "s", told, workload_reference=None)
    assert summary.exit_code == 0
    assert summary.counts == {"ok": 2, "oom": 2}
    assert "the trials of the stack one by one" in told.notes
    assert {r.spec.seed: str(r.outcome) for r in _records(tmp_path / "s")} == {
        0: "ok",
        1: "oom",
    }


def test_on_a_shared_device_memory_is_tried_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is pretended: seed 1 runs out of memory beside others, and alone as well."""
    from batchcliff.study import supervisor

    faults(monkeypatch, s1="memory no room")
    monkeypatch.setenv("PAUSE", "0.1")
    monkeypatch.setattr(supervisor, "resolve_device", lambda device: "cuda")
    told = Told()
    summary = run(FIVE, tmp_path / "s", told, workers=2)
    assert summary.counts == {"ok": 4, "oom": 1}
    assert told.notes == "MemoryError: no room: once more, alone on the device"
    assert told.of("finished")[-1][2].outcome == "oom", "after all others"
    assert attempts(tmp_path / "s")[1] == ["interrupted"] * 2


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


def test_who_kills_a_worker_from_outside_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five kills without an explanation the trial is a suspect: exit code 75, and the
    next run tries it alone, before all others."""
    faults(monkeypatch, s3="signal 9")
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert (summary.exit_code, summary.missing) == (75, 1)
    assert summary.counts == {"ok": 4}
    assert attempts(tmp_path / "s")[3] == [*[None] * 4, "suspect"]
    assert told.notes.count("a worker was killed (SIGKILL; out of memory?): trying again") == 4
    assert told.notes.count("trying again, alone") == 3
    assert "seed 3: 5 attempts in a row died and nothing says why" in told.notes
    assert leases_are_free(tmp_path / "s")
    monkeypatch.delenv("FAULTS")
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert attempts(tmp_path / "s")[3] == [*[None] * 4, "suspect", "done"]


def died(folder: Path, seed: int, times: int, reached: int = 0) -> str:
    """As if the driver had been killed `times` times with a trial that has no record since;
    its id."""
    (victim,) = [r for r in _records(folder) if r.spec.seed == seed]
    (folder / "results" / f"{victim.trial_id}.json").unlink()
    with Store.open(folder) as store:
        for _ in range(times):
            store.claim_attempt(victim.trial_id, reached=reached)
    return victim.trial_id


def test_a_trial_that_takes_its_driver_along_does_not_block_the_others(
    tmp_path: Path, expected: bytes
) -> None:
    """Five drivers died with two trials: the next run parks one after the other and ends the
    rest, with 75; the run after that tries each alone, first, and O."""
    run(FIVE, tmp_path / "s")
    suspects = {died(tmp_path / "s", seed, 5) for seed in (1, 3)}
    died(tmp_path / "s", 4, 4)
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert (summary.exit_code, summary.missing) == (75, 2)
    assert {e[1] for e in told.of("finished")}.isdisjoint(suspects)
    assert attempts(tmp_path / "s")[1] == ["done", *[None] * 4, "suspect"]
    assert attempts(tmp_path / "s")[4] == ["done", *[None] * 4, "done"], "four are no five"
    died(tmp_path / "s", 0, 0)
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 0
    begun = [e for e in told.events if e[0] in ("trial_started", "finished")]
    assert [e[0] for e in begun] == ["trial_started", "finished"] * 3, "never two at once"
    assert {e[1] for e in begun[:4]} == suspects
    assert table(tmp_path / "s") == expected


def test_a_suspect_that_dies_alone_is_left_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FIVE, tmp_path / "s")
    died(tmp_path / "s", 3, 5)
    assert run(FIVE, tmp_path / "s").exit_code == 75
    died(tmp_path / "s", 0, 0)
    faults(monkeypatch, s3="signal 9")
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 75
    assert outcomes(tmp_path / "s") == dict.fromkeys((0, 1, 2, 4), "ok")
    assert len(told.of("trial_started")) == 2, "once, and not again"
    assert attempts(tmp_path / "s")[3][-2:] == ["suspect", "suspect"]


def test_control_deaths_between_which_a_checkpoint_was_made_make_no_suspect(
    tmp_path: Path,
) -> None:
    """They count only without a newer one."""
    run(FIVE, tmp_path / "s")
    died(tmp_path / "s", 3, 4)
    with Store.open(tmp_path / "s") as store:
        (cell,) = [p for p in store.planned() if p.seed == 3]
        name = f"{cell.trial_id}-7-{'0' * 64}.safetensors"
        (tmp_path / "s" / "ckpt" / name).touch()
        store.claim_attempt(cell.trial_id, reached=7)
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert attempts(tmp_path / "s")[3] == ["done", *[None] * 5, "done"]


def test_the_kernel_killing_for_lack_of_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its count of such kills has grown while the trial was alone, and not before."""
    faults(monkeypatch, s3="signal 9")
    count = iter(range(1000))
    monkeypatch.setattr(dispatch, "oom_kills", lambda: next(count))
    told = Told()
    summary = run(study_of(seeds=(3,), batch_sizes=(16,)), tmp_path / "s", told)
    assert (summary.exit_code, summary.counts) == (0, {"oom": 1})
    assert "lack of memory" in told.of("finished")[0][2].reason
    assert attempts(tmp_path / "s")[3] == ["interrupted"]


def test_the_kernels_count_can_be_read() -> None:
    assert dispatch.oom_kills() >= 0
    vmstat = Path("/proc/vmstat").read_text()
    assert ("oom_kill " in vmstat) == ("\noom_kill " in vmstat), "the name of the line"


def test_a_worker_that_stops_answering_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(monkeypatch, s2=f"signal {signal.SIGSTOP.value}")
    monkeypatch.setattr(jobs_module, "HUNG_SECONDS", 1.0)
    monkeypatch.setattr(jobs_module, "HUNG_GAPS", 0)
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 1)
    told = Told()
    summary = run(FIVE, tmp_path / "s", told)
    assert summary.exit_code == 3
    assert outcomes(tmp_path / "s")[2] == "failed"
    assert attempts(tmp_path / "s")[2] == ["hung"]
    reason = told.of("finished")[-1][2].reason
    assert reason.startswith("the worker hung while training\n")


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
    monkeypatch.setattr(jobs_module, "HUNG_SECONDS", 1.0)
    monkeypatch.setattr(jobs_module, "HUNG_GAPS", 0)
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


@pytest.mark.usefixtures("unkillable")
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


@pytest.mark.usefixtures("unkillable")
def test_a_run_whose_workers_cannot_be_killed_ends_and_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"cannot be killed.*none is left.* goes on\.$"):
        run(FIVE, tmp_path / "s", workers=1)
    assert 2 not in outcomes(tmp_path / "s")
    assert run(FIVE, tmp_path / "s", workers=1).exit_code == 0


@pytest.mark.usefixtures("unkillable")
def test_control_without_its_leases_the_trial_of_such_a_worker_stays_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "free", Lease.release)
    with pytest.raises(Incomplete):
        run(FIVE, tmp_path / "s", workers=1)
    assert not leases_are_free(tmp_path / "s")


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
