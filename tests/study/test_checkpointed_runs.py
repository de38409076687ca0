"""Real runs that are ended in the middle of trials: they go on, and nobody can tell."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from study_runs import Told, driver, leases_are_free, run, slowly, study_of, table
from typer.testing import CliRunner

from batchcliff.cli import app
from batchcliff.data.resident import Resident
from batchcliff.errors import UsageError
from batchcliff.provenance import code_name
from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study import grid
from batchcliff.study.material import load_material
from batchcliff.study.store import Store
from batchcliff.training.arithmetic import ledger
from batchcliff.training.checkpoint import Checkpoints, Saved
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import run_trials

MIDDLE = 4  # of 8 updates: the end of the first epoch


def records(folder: Path) -> dict[str, TrialRecord]:
    with Store.open(folder) as store:
        assert not store.quarantined
        return store.records()


def resumed_from(folder: Path) -> dict[int, int]:
    """By seed, the updates that were not run again."""
    return {r.spec.seed: r.provenance.resumed_from for r in records(folder).values()
            if r.provenance}  # fmt: skip


# --- kill -9 in the middle


def command(folder: Path, *more: str) -> list[str]:
    """Four trials of the digits, in one stack of four and long enough to be met."""
    words = ["run", "digits", "--out", str(folder), "--budget", "24ep", "--batch-sizes", "64"]
    return [sys.executable, "-m", "batchcliff", *words, "--seeds", "2", "--workers", "1",
            "--device", "cpu", "--json", *more]  # fmt: skip


@pytest.mark.parametrize("grace", ["3600", "0"])
def test_a_signal_lets_a_run_save_and_the_next_one_goes_on(tmp_path: Path, grace: str) -> None:
    """TERM in the middle of a trial that would not be saved for two minutes: within the grace,
    and long before its end, it is; with a grace of 0, the control, it begins anew."""
    folder, whole = tmp_path / "s", tmp_path / "whole"
    with driver(command(whole), tmp_path / "whole.out") as alone:
        assert alone.wait() == 0, alone.errors()
    with driver(slowly(command(folder, "--grace", grace)), tmp_path / "first.out") as first:
        first.until("advanced", 2)
        first.process.send_signal(signal.SIGTERM)
        assert first.wait() == 143, first.errors()
    saved = newest(folder)
    assert (saved > 0) == (grace != "0")
    with driver(command(folder), tmp_path / "last.out") as last:
        assert last.wait() == 0, last.errors()
    assert set(resumed_from(folder).values()) == {saved}
    assert table(folder) == table(whole)


def test_gate_kill_9_of_a_run_that_saves(tmp_path: Path) -> None:
    """Twice, each time after a newer checkpoint; then equal to a run that nobody disturbed."""
    folder, whole = tmp_path / "s", tmp_path / "whole"
    with driver(command(whole), tmp_path / "whole.out") as alone:
        assert alone.wait() == 0, alone.errors()
    assert list((whole / "ckpt").iterdir()) == []
    saved, every = 0, ("--checkpoint-every", "0.01")
    for kill in range(2):
        with driver(slowly(command(folder, *every)), tmp_path / f"{kill}.out") as victim:
            victim.meets(lambda least=saved: newest(folder) > least)
            victim.process.send_signal(signal.SIGKILL)
            victim.wait()
            saved = newest(folder)
        assert records(folder) == {}
    with driver(command(folder, *every), tmp_path / "last.out") as last:
        assert last.wait() == 0, last.errors()
        notes = [event["text"] for event in last.events("note")]
    assert len(notes) == 1
    assert "and 3 more: goes on from update" in notes[0]
    assert table(folder) == table(whole)
    taken = {r.provenance.resumed_from for r in records(folder).values() if r.provenance}
    assert len(taken) == 1
    assert min(taken) >= saved > 0
    assert list((folder / "ckpt").iterdir()) == []
    assert list((folder / "quarantine").iterdir()) == []
    assert leases_are_free(folder)


def newest(folder: Path) -> int:
    """The update of the newest checkpoint that is there, 0 without one."""
    found = (folder / "ckpt").glob("*.safetensors") if folder.exists() else ()
    return max((int(path.name.split("-")[1]) for path in found), default=0)


# --- what lies in ckpt/ when a run begins


class Jar:
    """Keeps what is saved last."""

    data = b""

    def newest(self, read: Any, most_bytes: int) -> Saved | None:
        return None

    def keep(self, update: int, data: bytes) -> None:
        assert update == MIDDLE
        self.data = data


def study() -> StudySpec:
    return study_of(seeds=6, batch_sizes=(16,))


def trials() -> list[TrialSpec]:
    material = load_material("faulty:workload", "faulty-data", None)
    found = grid.trials(study(), material.dataset.digest, material.workload_digest)
    return sorted(found, key=lambda spec: spec.seed)


def checkpoint_of(spec: TrialSpec, code: str = "") -> bytes:
    """What a worker would have saved in the middle of a trial, made in this process."""
    material = load_material("faulty:workload", "faulty-data", None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resident = Resident.of(material.dataset, torch.device("cpu"))
        ready = prepare(spec, resident, num_classes=4, stack=1, user_build=material.build)
        jar = Jar()
        with Checkpoints(jar, every_seconds=0.0, tell=lambda text, update: None) as saving:
            run_trials(
                [spec], [ledger(spec, material.facts)], resident, ready,
                code=code or code_name(), checkpoints=saving,
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return jar.data


def put(folder: Path, spec: TrialSpec, data: bytes) -> Path:
    name = f"{spec.trial_id}-{MIDDLE}-{hashlib.sha256(data).hexdigest()}.safetensors"
    path = folder / "ckpt" / name
    path.write_bytes(data)
    return path


class Gadget:
    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.canary}'",))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study that was ended before any of its trials was."""
    monkeypatch.setenv("FAULTS", json.dumps({}))
    monkeypatch.setattr("batchcliff.study.supervisor._until_signalled", lambda *_: 15)
    assert run(study(), tmp_path / "s").exit_code == 143
    monkeypatch.undo()
    return tmp_path / "s"


def test_gate_hostile_checkpoints_of_a_real_run(begun: Path, tmp_path: Path) -> None:
    """Each of them is a start anew with a note; a good one beside them is taken."""
    specs, canary = trials(), tmp_path / "canary"
    good = checkpoint_of(specs[0])
    put(begun, specs[0], good)
    put(begun, specs[1], good)  # of another trial
    os.truncate(put(begun, specs[2], checkpoint_of(specs[2])), 1000)
    flipped = put(begun, specs[3], checkpoint_of(specs[3]))
    content = bytearray(flipped.read_bytes())
    content[-20] ^= 1
    flipped.write_bytes(content)
    put(begun, specs[4], pickle.dumps(Gadget(canary)))
    put(begun, specs[5], checkpoint_of(specs[5], code="batchcliff 9"))
    assert run(study(), tmp_path / "whole", checkpoint_every=0).exit_code == 0
    told = Told()
    assert run(study(), begun, told, workers=1).exit_code == 0
    assert table(begun) == table(tmp_path / "whole")
    assert resumed_from(begun) == {0: MIDDLE, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}
    assert not canary.exists()
    notes = {seed: next(n for n in told.notes.splitlines() if f"seed {seed}:" in n)
             for seed in range(6)}  # fmt: skip
    not_used = "the checkpoint at update 4 is not used: "
    assert notes[0].endswith("seed 0: goes on from update 4 of 8")
    assert f"{not_used}holds trials '{specs[0].trial_id}' (now " in notes[1]
    for seed in (2, 3):
        assert f"{not_used}SHA-256 of the content is not the one in its name" in notes[seed]
    assert f"{not_used}no safetensors file" in notes[4]
    assert f"{not_used}made by other code: 'batchcliff 9', now " in notes[5]
    aside = {path.name[:20] for path in (begun / "quarantine").iterdir()}
    assert aside == {spec.trial_id for spec in specs[1:5]}
    assert list((begun / "ckpt").iterdir()) == []
    with Store.open(begun) as store:
        logged = [event for event in store.events()[0] if event["event"] == "checkpoint"]
    assert {event["ids"][0]: event["update"] for event in logged} == {
        spec.trial_id: MIDDLE if spec is specs[0] else 0 for spec in specs
    }


def test_zero_writes_none_and_looks_for_none(begun: Path) -> None:
    specs = trials()
    put(begun, specs[0], checkpoint_of(specs[0]))
    assert run(study(), begun, workers=1, checkpoint_every=0).exit_code == 0
    assert set(resumed_from(begun).values()) == {0}
    assert list((begun / "ckpt").iterdir()) == [], "its trial is over"


def test_what_a_killed_run_did_not_remove_is_removed(begun: Path) -> None:
    """Killed between the record and the removal: the next run of a finished study cleans up."""
    assert run(study(), begun, workers=1).exit_code == 0
    left = put(begun, trials()[0], b"of a trial that has a record")
    assert run(study(), begun, workers=1).exit_code == 0
    assert not left.exists()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_interval_that_is_none_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"checkpoint_every: .*; write 120, or 0 for no"):
        run(study(), tmp_path / "s", checkpoint_every=seconds)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("text", ["-1", "nan", "soon"])
def test_the_option_is_checked(text: str, tmp_path: Path) -> None:
    words = ["run", "digits", "--out", str(tmp_path / "s"), "--checkpoint-every", text]
    assert CliRunner().invoke(app, words).exit_code == 2
    assert not (tmp_path / "s").exists()
