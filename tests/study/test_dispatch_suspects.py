"""Trials whose workers or drivers die again and again, and nothing says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from dispatched import FIVE, faults, records
from study_runs import Told, attempts, leases_are_free, outcomes, run, table

from batchcliff.study.store import Store

pytestmark = pytest.mark.usefixtures("fake_workers")


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
    (victim,) = [r for r in records(folder) if r.spec.seed == seed]
    (folder / "results" / f"{victim.trial_id}.json").unlink()
    with Store.open(folder) as store:
        for _ in range(times):
            store.claim_attempt(victim.trial_id, reached=reached)
    return victim.trial_id


def test_a_trial_that_takes_its_driver_along_does_not_block_the_others(
    tmp_path: Path, undisturbed: bytes
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
    assert table(tmp_path / "s") == undisturbed


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
