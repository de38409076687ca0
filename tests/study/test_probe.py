"""A probe's processes: what they read, and what is left when one of them fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchcliff.errors import DataError, UsageError
from batchcliff.spec import StudySpec
from batchcliff.study import probe as probing
from batchcliff.study.probe import ProbeWorker, Readings, probe
from batchcliff.studyfile import load_study, parse_study
from batchcliff.training.probe_readings import Ended
from batchcliff.workloads import load_workload

STUDY = 'name = "x"\nbatch_sizes = [16, 32]\nseeds = 1\n[arms.none]\n'


@pytest.fixture(autouse=True)
def nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[ProbeWorker]]:
    """No file is written, and every process is gone."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    made: list[ProbeWorker] = []

    class Kept(ProbeWorker):
        def __init__(self, environment: Any) -> None:
            super().__init__(environment)
            made.append(self)

    monkeypatch.setattr(probing, "ProbeWorker", Kept)
    yield made
    assert [worker for worker in made if worker.process.returncode is None] == []
    assert list(place.iterdir()) == []


def own(module: str, text: str = STUDY) -> StudySpec:
    return parse_study(text, workload=load_workload(f"{module}:workload"))


def run(study: StudySpec, module: str, seconds: float = 2.0) -> Readings:
    return probe(study, study.arms[0], seconds=seconds, workload_reference=f"{module}:workload")


def test_what_has_no_room_is_said_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, nothing_is_left: list[ProbeWorker]
) -> None:
    monkeypatch.setenv("ROOM", "20")
    found = run(own("small_room"), "small_room", seconds=3600.0)
    assert [s.batch_size for s in found.speeds] == [16]
    assert found.speed_ended == Ended(
        reason="memory", batch_size=32, words="no room for 32 images"
    )
    assert len(found.places) == 2 and found.problems == ()
    assert len(nothing_is_left) == 2


def test_a_part_that_crashes_takes_nothing_of_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAULTS", json.dumps({"0": f"once {tmp_path / 'crashed'}"}))
    found = run(own("faulty"), "faulty", seconds=3600.0)
    assert found.speeds == () and len(found.places) == 2
    (problem,) = found.problems
    assert problem.startswith("speed and memory: the process ended by SIGABRT")


def test_both_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", json.dumps({"0": "raise too clumsy"}))
    found = run(own("faulty"), "faulty")
    assert (found.speeds, found.places) == ((), ())
    assert [p.partition(": ")[2] for p in found.problems] == ["failed: Clumsy: too clumsy"] * 2


def test_a_process_that_the_kernel_kills_is_explained() -> None:
    class Killed:
        def reap(self, grace: float) -> int:
            return -9

        def tail(self, lines: int) -> str:
            return "last words"

    said = probing._lost(Killed(), "speed")  # type: ignore[arg-type]
    assert said == (
        "speed and memory: the process ended by SIGKILL, as the kernel does when memory runs "
        "out: last words"
    )


def test_a_part_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PATIENCE", (0.0, 1.0))
    monkeypatch.setenv("FAULTS", json.dumps({"0": "sleep 600"}))
    found = run(own("faulty"), "faulty")
    assert len(found.problems) == 2 and all("no end in sight" in p for p in found.problems)


def test_data_that_differ_in_every_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_SALT", "pid")
    with pytest.raises(DataError, match="the data changed under the study"):
        run(own("faulty"), "faulty")


GROUPS = "batch_norm = { group = 48 }\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[arms.none]\nbatch-growth = { at = ['50%'], factor = 2 }\n",
            "changes during the run",
        ),
        (f"[arms.none]\n{GROUPS}", "cannot run at batch size 64, at which its"),
        ("[settings]\npretraining = { data = 'digits' }\n[arms.none]\n", "pretrained weights"),
    ],
)
def test_what_a_probe_cannot_speak_of_is_refused(text: str, said: str) -> None:
    head = 'name = "x"\nworkload = "digits"\nbatch_sizes = [96]\nseeds = 1\n'
    study = parse_study(head + text)
    with pytest.raises(UsageError, match=said):
        probe(study, study.arms[0], seconds=2.0)


@pytest.mark.parametrize("seconds", [0.5, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    study = load_study("digits")
    with pytest.raises(UsageError, match="--seconds"):
        probe(study, study.arms[0], seconds=seconds)


def test_a_batch_size_that_cannot_run_is_left_out_with_its_reason() -> None:
    study = load_study("digits")
    group = dataclasses.replace(study.settings.batch_norm, group=32)
    study = dataclasses.replace(
        study, settings=dataclasses.replace(study.settings, batch_norm=group)
    )
    material = probing.load_material(None, "digits", None)
    specs, ledgers, reasons = probing._trials(study, study.arms[0], material, [16, 32, 64])
    assert [s.batch_size for s in specs if s.trial_id in ledgers] == [32, 64]
    assert "not divisible by the ghost size 32" in reasons[specs[0].trial_id]
    assert probing._sizes(1024) == [16, 32, 64, 128, 256, 512, 1024]
    assert (probing._sizes(1000)[-1], probing._sizes(7)) == (512, [7])
