"""A study from plan to records with real workers, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import fake_worker
import pytest
from study_runs import (
    Told,
    accounted,
    attempts,
    leases_are_free,
    outcomes,
    run,
    study_of,
    table,
)

from batchcliff.errors import DataError, UsageError
from batchcliff.planning import plan
from batchcliff.record import TrialRecord
from batchcliff.spec import Arm, Decay
from batchcliff.study.devices import workers_on
from batchcliff.study.engines.local import Worker
from batchcliff.study.placement import default_workers, devices_of, environment, resolve_device
from batchcliff.study.store import Store
from batchcliff.studyfile import load_study


def records(folder: Path) -> list[TrialRecord]:
    with Store.open(folder) as store:
        return list(store.records().values())


def test_faults_of_real_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind next to a trial that must not notice; out of memory is no failure."""
    faults = {
        1: "raise no such layer",
        2: "segfault",
        3: "torch-memory",
        4: "memory",
        5: "noise",
    }
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    told, study = Told(), study_of(seeds=6, batch_sizes=(16,))
    summary = run(study, tmp_path / "s", told)
    assert summary.exit_code == 3
    assert outcomes(tmp_path / "s") == {
        0: "ok", 1: "failed", 2: "failed", 3: "oom", 4: "oom", 5: "ok"
    }  # fmt: skip
    ends = attempts(tmp_path / "s")
    assert ends[1] == ["crashed Clumsy"] * 2
    assert ends[2] == ["crashed SIGSEGV"] * 3
    reasons = {r.spec.seed: r.reason for r in records(tmp_path / "s")}
    assert reasons[1] == "Clumsy: no such layer"
    assert "Segmentation fault" in reasons[2] and "faulty.py" in reasons[2], "where it was"
    assert reasons[3] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."
    assert leases_are_free(tmp_path / "s")
    monkeypatch.delenv("FAULTS")
    for record in records(tmp_path / "s"):
        if record.outcome != "ok":
            (tmp_path / "s" / "results" / f"{record.trial_id}.json").unlink()
    for path in (tmp_path / "s" / "attempts").iterdir():
        shutil.rmtree(path)
    assert run(study, tmp_path / "s", workers=1).exit_code == 0
    assert accounted(tmp_path / "s", 6) == {"ok": 6}


def test_what_cannot_run_is_infeasible_before_any_compute(tmp_path: Path) -> None:
    """No worker is started: its command would fail."""
    study = study_of(seeds=2, batch_sizes=(65, 128))
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "command", ("/nonexistent",))
        summary = run(study, tmp_path / "s", told)
        assert (summary.exit_code, summary.counts) == (0, {"infeasible": 4})
        assert [e[0] for e in told.events] == ["started"] + ["finished"] * 4
        assert told.events[0] == ("started", 4, 0, 0, 0)
        for record in records(tmp_path / "s"):
            size = record.spec.batch_size
            assert record.reason == (
                f"batch size {size} is larger than the training set (64 examples)"
            )
            assert (record.ledger, record.accuracy, record.updates) == (None, None, 0)
        assert not any(attempts(tmp_path / "s").values())
        told = Told()
        assert run(study, tmp_path / "s", told).exit_code == 0
        assert told.events == [("started", 4, 4, 0, 0)]


def test_what_a_plan_says_is_what_a_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decay after the end of the run, a warmup longer than it, a batch above the data."""
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    warmup = Arm(name="warmup", techniques=(("warmup", (("duration", "3up"),)),))
    study = dataclasses.replace(
        study_of(seeds=2, batch_sizes=(8, 16, 64, 128), arms=(Arm(name="none"), warmup)),
        decay=Decay(kind="multistep", at=("10up",)),
    )
    planned = plan(study, out=tmp_path / "s", workload="faulty:workload")
    said = {t.spec.trial_id: t.infeasible for t in planned.trials}
    summary = run(study, tmp_path / "s")
    assert (summary.exit_code, summary.counts) == (0, {"ok": 4, "infeasible": 12})
    found = {r.trial_id: r for r in records(tmp_path / "s")}
    assert {i: r.reason if r.outcome == "infeasible" else "" for i, r in found.items()} == said
    assert {i: r.ledger for i, r in found.items()} == {
        t.spec.trial_id: t.ledger for t in planned.trials
    }
    by_cell = {(r.spec.arm, r.spec.batch_size): r.reason for r in found.values()}
    assert "decay at '10up' is update 10 at batch size 16" in by_cell["none", 16]
    assert "decay at '10up'" in by_cell["none", 64]
    assert "is 3 updates at batch size 64, longer than" in by_cell["warmup", 64]
    assert "larger than the training set" in by_cell["none", 128]
    bad = dataclasses.replace(study, decay=Decay(kind="multistop"))
    for use in (
        lambda: plan(bad, workload="faulty:workload"),
        lambda: run(bad, tmp_path / "b"),
    ):
        with pytest.raises(UsageError, match="unknown kind of decay 'multistop'"):
            use()
    assert not (tmp_path / "b").exists()


def test_groups_of_an_eighth_need_a_multiple_of_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside trials that can run: those have the record, the others the reason."""
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    shards = Arm(name="shards", settings=(("batch_norm.group", "B/8"),))
    study = study_of(seeds=1, batch_sizes=(20, 32), arms=(Arm(name="none"), shards))
    told = Told()
    summary = run(study, tmp_path / "s", told)
    assert (summary.exit_code, summary.counts) == (0, {"ok": 3, "infeasible": 1})
    assert told.events[1][0] == "finished", "known before the first trial starts"
    record = told.events[1][2]
    assert (record.spec.arm, record.spec.batch_size) == ("shards", 20)
    assert record.reason == (
        "batch size 20 is not divisible by 8 "
        "(batch_norm.group = 'B/8': 8 groups share an update)"
    )


def test_divergence_is_a_measurement(tmp_path: Path) -> None:
    """Digits at an absurd learning rate: no retry, exit code 0, the first bad update; and
    what it is does not depend on who else is in the stack."""
    study = load_study(
        "digits",
        overrides=(
            "lr.base=1e30",
            "seeds=1",
            "batch_sizes=[512]",
            "budget='3ep'",
            "arms.warmup.warmup.duration='1ep'",
        ),
    )
    told = Told()
    summary = run(study, tmp_path / "s", told, workload_reference=None)
    assert summary.exit_code == 0
    by_arm = {r.spec.arm: r for r in records(tmp_path / "s")}
    none = by_arm["none"]
    assert none.outcome == "diverged"
    assert none.first_bad_update is not None and 1 <= none.first_bad_update <= 4
    assert none.updates == none.first_bad_update
    assert none.accuracy is None and none.accuracy_reestimated is None
    assert math.isnan(none.curves.train_loss[-1])
    assert f"not finite at update {none.first_bad_update} of" in none.reason
    assert set(map(tuple, attempts(tmp_path / "s").values())) == {("done",)}
    assert not told.of("note")
    first = table(tmp_path / "s")
    (tmp_path / "s" / "results" / f"{none.trial_id}.json").unlink()
    assert run(study, tmp_path / "s", workload_reference=None).exit_code == 0
    assert table(tmp_path / "s") == first


def test_data_that_change_under_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between plan and worker, and between two runs: both digests, and no trial is blamed."""
    study = study_of(seeds=2, batch_sizes=(16,))
    monkeypatch.setenv("DATA_SALT", "pid")
    with pytest.raises(DataError, match=r"the data changed .*digest [0-9a-f]{64} when") as e:
        run(study, tmp_path / "a", workers=1)
    assert e.value.exit_code == 2
    assert "Traceback" not in str(e.value)
    assert attempts(tmp_path / "a") == {0: ["interrupted"], 1: []}
    assert leases_are_free(tmp_path / "a")

    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setenv("DATA_SALT", "")
    assert run(study, tmp_path / "b").exit_code == 0
    monkeypatch.setenv("DATA_SALT", "other")
    with pytest.raises(UsageError, match="digest"):
        run(study, tmp_path / "b")
    assert accounted(tmp_path / "b", 2) == {"ok": 2}


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", "mps"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, device: str
) -> None:
    with pytest.raises(UsageError, match=f"--device {device}"):
        run(study_of(seeds=1), tmp_path / "s", device=device)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("workers", [0, -1])
def test_nobody_to_work_is_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers: {workers}"):
        run(study_of(seeds=1), tmp_path / "s", workers=workers)
    assert not (tmp_path / "s").exists()


def test_devices_workers_and_threads() -> None:
    assert resolve_device("cpu") == "cpu"
    assert default_workers("cpu") >= 1
    cores = len(os.sched_getaffinity(0))
    assert default_workers("cuda") == workers_on(1, cores, None)
    assert default_workers("cuda", 2) == workers_on(2, cores, None)
    assert devices_of("cpu") == ["cpu"]
    assert devices_of("cuda:1") == ["cuda:1"]
    found = environment("cpu", 2)
    threads = {name: value for name, value in found.items() if name.endswith("_THREADS")}
    assert len(threads) == 3 and set(threads.values()) == {"1"}
    assert {name for name in found if name not in threads} == {
        "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"
    }  # fmt: skip
    assert int(environment("cuda", 3)["TORCHINDUCTOR_COMPILE_THREADS"]) >= 2


def test_a_damaged_record_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    study = study_of(seeds=2, batch_sizes=(16,))
    run(study, tmp_path / "s")
    before = table(tmp_path / "s")
    path = next(iter(sorted((tmp_path / "s" / "results").iterdir())))
    path.write_bytes(path.read_bytes()[:-40])
    told = Told()
    assert run(study, tmp_path / "s", told).exit_code == 0
    assert len(told.of("finished")) == 1
    assert "quarantined" in told.notes and path.stem in told.notes
    assert table(tmp_path / "s") == before
