"""Trials by their ids, as a scheduler hands them out: those and no other, once."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import fake_worker
import pytest
from study_runs import Told, attempts, outcomes, study_of, table

from batchcliff import api
from batchcliff.errors import Incomplete, UsageError
from batchcliff.spec import Arm, Search, StudySpec
from batchcliff.study import supervisor
from batchcliff.study.engines.local import Worker
from batchcliff.study.grid import trials
from batchcliff.study.named import check_ids
from batchcliff.study.store import Store
from batchcliff.study.tuning import Stages

WORKLOAD = "faulty:workload"


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setattr(supervisor, "code_name", lambda: "no code trains here")


def ids_of(study: StudySpec, folder: Path) -> tuple[str, ...]:
    return api.plan(study, out=folder, workload=WORKLOAD, device="cpu").missing_ids


def run(study: StudySpec, folder: Path, only: Any = None, told: Told | None = None) -> Any:
    return api.run(study, out=folder, workload=WORKLOAD, device="cpu", only=only, progress=told)


def test_what_is_named_runs_and_nothing_else(tmp_path: Path) -> None:
    study, folder, told = study_of(seeds=4, batch_sizes=(8,)), tmp_path / "s", Told()
    ids = ids_of(study, folder)
    assert not folder.exists() and len(ids) == 4
    summary = run(study, folder, ids[1:3], told)
    assert (summary.exit_code, summary.counts, summary.missing) == (0, {"ok": 2}, 0)
    assert told.of("started")[0][1:3] == (2, 0)
    assert attempts(folder) == {0: [], 1: ["done"], 2: ["done"], 3: []}
    assert ids_of(study, folder) == (ids[0], ids[3])


def test_a_trial_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    study, folder = study_of(seeds=2, batch_sizes=(8,)), tmp_path / "s"
    one, _ = ids_of(study, folder)
    assert [run(study, folder, [one]).exit_code for _ in range(3)] == [0, 0, 0]
    assert attempts(folder) == {0: ["done"], 1: []}


def test_a_trial_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    study, folder, told = study_of(seeds=3, batch_sizes=(8,)), tmp_path / "s", Told()
    ids = ids_of(study, folder)
    assert run(study, folder, ids[:1]).exit_code == 0
    with Store.open(folder) as store:
        lease = store.lease(ids[1])
        assert lease is not None
        with lease:
            summary = run(study, folder, ids, told)
    assert (summary.exit_code, summary.counts, summary.missing) == (75, {"ok": 2}, 1)
    assert told.notes == "none, batch 8, seed 1: left to the process that runs it"
    assert attempts(folder) == {0: ["done"], 1: [], 2: ["done"]}
    assert run(study, folder, ids[1:2]).exit_code == 0


def test_the_exit_code_is_of_what_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS", json.dumps({"1": "raise a bad day"}))
    study, folder = study_of(seeds=2, batch_sizes=(8,)), tmp_path / "s"
    well, ill = ids_of(study, folder)
    assert run(study, folder, [ill]).exit_code == 3
    assert run(study, folder, [well]).exit_code == 0
    assert outcomes(folder) == {0: "ok", 1: "failed"}


def test_what_cannot_run_is_recorded_where_it_is_named(tmp_path: Path) -> None:
    study, folder = study_of(seeds=1, batch_sizes=(8, 128)), tmp_path / "s"  # of 64 examples
    large, small = ids_of(study, folder)
    assert run(study, folder, [small]).counts == {"ok": 1}
    assert ids_of(study, folder) == (large,)
    assert run(study, folder, [large]).counts == {"infeasible": 1}
    assert ids_of(study, folder) == ()


def plain() -> StudySpec:
    return study_of(seeds=2, batch_sizes=(8, 16))


def tuned() -> StudySpec:
    study = study_of(seeds=2, batch_sizes=(8,))
    rule = dataclasses.replace(study.lr, tune=(0.05, 0.1, 0.2))
    return dataclasses.replace(study, arms=(Arm(name="none"), Arm(name="tuned", lr=rule)))


def searched() -> StudySpec:
    return dataclasses.replace(study_of(seeds=2, batch_sizes=(8, 16, 32)), search=Search())


@pytest.mark.parametrize("make", [plain, tuned, searched])
def test_a_study_that_is_run_trial_by_trial_is_the_same(make: Any, tmp_path: Path) -> None:
    study, rng, handed = make(), random.Random(6), list[str]()
    assert run(study, tmp_path / "still").exit_code == 0
    while ids := list(ids_of(study, tmp_path / "s")):
        rng.shuffle(ids)
        handed += ids
        assert [run(study, tmp_path / "s", [one]).exit_code for one in ids] == [0] * len(ids)
    assert len(handed) == len(set(handed)) > 3
    assert table(tmp_path / "s") == table(tmp_path / "still")


def test_a_trial_whose_rate_is_not_chosen_waits(tmp_path: Path) -> None:
    study, folder = tuned(), tmp_path / "s"
    ids = ids_of(study, folder)
    assert len(ids) == 2 + 3  # those of the rule, and those that choose
    assert run(study, folder, ids[:1]).exit_code == 0
    with Store.open(folder) as store:
        planned = {cell.trial_id for cell in store.planned()}
        records = store.records()
    assert planned == set(ids)
    spec = records[ids[0]].spec
    stages = Stages(study, spec.data_digest, spec.workload.partition("@")[2], lambda _: None)
    later = min(cell.trial_id for cell in stages.possible)
    with pytest.raises(Incomplete, match=f"trial {later} is not planned yet") as refused:
        run(study, folder, [later])
    assert refused.value.exit_code == 75


def test_an_id_of_another_study_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    strange = trials(study_of(seeds=1), "d" * 64)[0].trial_id
    with pytest.raises(UsageError, match=f"--only {strange}: the study has no such trial"):
        run(study_of(seeds=1), tmp_path / "s", [strange])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "names no trial"),
        (["../../etc/passwd"], "20 hex digits"),
        (["0123456789abcdef012"], "20 hex digits"),
        (["0123456789ABCDEF0123"], "20 hex digits"),
        ("0123456789abcdef0123", "'0': a trial's id is 20 hex digits"),  # no list
    ],
)
def test_what_is_no_id_is_refused(ids: Any, said: str) -> None:
    with pytest.raises(UsageError, match=r"--only.*plan STUDY --ids") as refused:
        check_ids(ids)
    assert said in str(refused.value)
    check_ids(None)
    check_ids(["0123456789abcdef0123"])
