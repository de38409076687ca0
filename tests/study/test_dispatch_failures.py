"""What becomes of trials whose worker raised, died or had no memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from dispatched import FIVE, check_told, faults, records
from study_runs import Told, attempts, leases_are_free, outcomes, run, study_of, table

from batchcliff.study import dispatch
from batchcliff.study.engines.local import oom_kills
from batchcliff.study.store import Store

pytestmark = pytest.mark.usefixtures("fake_workers")


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    faults(monkeypatch, s2=f"once {tmp_path / 'been-here'}")
    assert run(FIVE, tmp_path / "s").exit_code == 0
    assert attempts(tmp_path / "s")[2] == ["crashed SIGABRT", "done"]
    assert table(tmp_path / "s") == undisturbed


def test_an_attempt_that_is_used_up_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver was killed after the third crash and before it could write `failed`."""
    run(FIVE, tmp_path / "s")
    (victim,) = [r for r in records(tmp_path / "s") if r.spec.seed == 1]
    with Store.open(tmp_path / "s") as store:
        for _ in range(3):
            store.end_attempt(victim.trial_id, store.claim_attempt(victim.trial_id), "hung")
    (tmp_path / "s" / "results" / f"{victim.trial_id}.json").unlink()
    told = Told()
    assert run(FIVE, tmp_path / "s", told).exit_code == 3
    assert not told.of("trial_started")
    (failed,) = told.of("finished")
    assert failed[2].reason == "3 attempts failed: done, hung, hung, hung"


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
    assert {r.spec.seed: str(r.outcome) for r in records(tmp_path / "s")} == {
        0: "ok",
        1: "oom",
    }


def test_on_a_shared_device_memory_is_tried_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is pretended: seed 1 runs out of memory beside another, which is there until that
    is told, and alone as well."""
    from batchcliff.study import supervisor

    noted = tmp_path / "noted"

    class Noting(Told):
        def note(self, text: str) -> None:
            super().note(text)
            noted.touch()

    faults(monkeypatch, s0=f"await {noted}", s1="memory no room")
    monkeypatch.setattr(supervisor, "resolve_device", lambda device: "cuda")
    told = Noting()
    summary = run(FIVE, tmp_path / "s", told, workers=2)
    assert summary.counts == {"ok": 4, "oom": 1}
    assert told.notes == "MemoryError: no room: once more, alone on the device"
    assert told.of("finished")[-1][2].outcome == "oom", "after all others"
    assert attempts(tmp_path / "s")[1] == ["interrupted"] * 2


@pytest.fixture
def kernel_kills(fake_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its count of such kills is another one each time it is read."""
    count = iter(range(1000))
    monkeypatch.setattr(dispatch, "oom_kills", lambda: next(count))


@pytest.mark.usefixtures("kernel_kills")
def test_the_kernel_killing_for_lack_of_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its count of such kills has grown while the trial was alone, and not before."""
    faults(monkeypatch, s3="signal 9")
    told = Told()
    summary = run(study_of(seeds=(3,), batch_sizes=(16,)), tmp_path / "s", told)
    assert (summary.exit_code, summary.counts) == (0, {"oom": 1})
    assert "lack of memory" in told.of("finished")[0][2].reason
    assert attempts(tmp_path / "s")[3] == ["interrupted"]


@pytest.mark.usefixtures("kernel_kills")
def test_a_worker_that_is_asked_to_end_lacked_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm asks all processes of a job, while others' on the host run out of memory."""
    faults(monkeypatch, s3="signal 15")
    summary = run(study_of(seeds=(3,), batch_sizes=(16,)), tmp_path / "s")
    assert (summary.exit_code, summary.counts) == (75, {})


def test_the_kernels_count_can_be_read() -> None:
    assert oom_kills() >= 0
    vmstat = Path("/proc/vmstat").read_text()
    assert ("oom_kill " in vmstat) == ("\noom_kill " in vmstat), "the name of the line"
