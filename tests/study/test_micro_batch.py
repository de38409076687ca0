"""`--micro-batch`: found after an out-of-memory, asked for, or refused; with real workers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import small_room
from study_runs import Told, attempts, leases_are_free, run, study_of
from typer.testing import CliRunner

from batchcliff.cli import app
from batchcliff.errors import UsageError
from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.study.engines.local import Worker
from batchcliff.study.micro_batch import AUTO, wanted_micro_batch
from batchcliff.study.store import Store
from batchcliff.studyfile import load_study
from batchcliff.training.micro_batch import Inseparable


def study(group: str | int = 2, **options: Any) -> StudySpec:
    values = {"seeds": 1, "batch_sizes": (16,), **options}
    return dataclasses.replace(
        study_of(**values),
        workload="small-room",
        data="small-room-data",
        settings=small_room.settings(group),
    )


def go(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    told: Told | None = None,
    *,
    room: int,
    layer: str = "ghost",
    spec: StudySpec | None = None,
    **options: Any,
) -> list[TrialRecord]:
    """The records, by batch size and seed, of a run on a device with that much room."""
    monkeypatch.setenv("ROOM", str(room))
    monkeypatch.setenv("LAYER", layer)
    wanted = {"workload_reference": "small_room:workload", "workers": 1, **options}
    run(spec or study(), folder, told, **wanted)
    assert leases_are_free(folder)
    with Store.open(folder) as store:
        found = store.records().values()
    return sorted(found, key=lambda r: (r.spec.batch_size, r.spec.seed))


def accumulations(records: list[TrialRecord]) -> list[tuple[int, int]]:
    return [(r.ledger.accumulation, r.provenance.micro_batch) for r in records]  # type: ignore[union-attr]


def test_a_batch_without_room_is_halved_until_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial of the shape pays for the search, and the result is the whole batch's."""
    spec, told = study(seeds=2, batch_sizes=(4, 16)), Told()
    found = go(monkeypatch, tmp_path / "s", told, room=5, spec=spec, micro_batch=AUTO)
    whole = go(monkeypatch, tmp_path / "whole", room=99, spec=spec, micro_batch=AUTO)
    assert [str(r.outcome) for r in found] == ["ok"] * 4
    assert accumulations(found) == [(1, 0), (1, 0), (4, 4), (4, 4)]
    assert accumulations(whole) == [(1, 0)] * 4
    for one, other in zip(found, whole, strict=True):
        assert one.trial_id == other.trial_id
        assert one.curves.train_loss == pytest.approx(other.curves.train_loss, rel=1e-5)
        assert one.test_loss == pytest.approx(other.test_loss, rel=1e-5)
    with Store.open(tmp_path / "s") as store:
        ends = [[a.why for a in store.attempts(r.trial_id)] for r in found]
        events = [e for e in store.events()[0] if e["event"] == "micro batch"]
    assert ends[:2] == [["done"]] * 2
    ran_out = sorted(ends[2:], key=len)
    assert ran_out[0] in (["done"], ["interrupted", "done"]), "the other one profits"
    assert len(ran_out[0]) + len(ran_out[1]) == 4, "16 and 8 had no room, 4 had, twice"
    assert [e["micro_batch"] for e in events] == [8, 4]
    assert told.notes.count("OutOfMemoryError: no room for 16 images") == 1
    assert "in micro batches of at most 4" in told.notes
    left = {path.name for path in (tmp_path / "s" / "tmp").iterdir()}
    assert left <= {"reserve"}, "no half-written file"


def test_without_it_a_cpu_run_ends_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = go(monkeypatch, tmp_path / "s", room=5)
    assert str(record.outcome) == "oom"
    assert record.reason == "OutOfMemoryError: no room for 16 images"
    assert attempts(tmp_path / "s") == {0: ["interrupted"]}


def test_a_size_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what runs, and not searched on from."""
    (record,) = go(monkeypatch, tmp_path / "s", room=8, micro_batch=8)
    assert accumulations([record]) == [(2, 8)]
    (record,) = go(monkeypatch, tmp_path / "small", room=5, micro_batch=8)
    assert (str(record.outcome), record.reason) == (
        "oom", "OutOfMemoryError: no room for 8 images"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("room", "group", "layer", "reason"),
    [
        (1, 2, "ghost", "no room for 2 images; batch size 4 cannot be run in micro batches"),
        (0, "global", "none", "no room for 1 images; there is no micro batch smaller than one"),
        (3, "global", "dropout", "no room for 4 images; .* draws random numbers"),
    ],
)
def test_out_of_memory_is_an_outcome_when_nothing_helps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    group: str | int,
    layer: str,
    reason: str,
) -> None:
    """With the last size that had no room and why there is no other; no attempt is used up."""
    spec = study(group, batch_sizes=(4,))
    (record,) = go(
        monkeypatch, tmp_path / "s", room=room, layer=layer, spec=spec, micro_batch=AUTO
    )
    assert str(record.outcome) == "oom"
    assert re.search(reason, record.reason), record.reason
    assert set(attempts(tmp_path / "s")[0]) == {"interrupted"}


def test_two_workers_halve_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside others a trial is tried alone before its batch is cut."""
    spec, told = study(seeds=3), Told()
    options = {"spec": spec, "micro_batch": AUTO, "workers": 2}
    found = go(monkeypatch, tmp_path / "s", told, room=8, **options)
    assert accumulations(found) == [(2, 8)] * 3, "8 fits, so 4 is never tried"


@pytest.mark.parametrize("layer", ["ghost", "dropout"])
def test_a_network_that_needs_its_batch_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    with pytest.raises(UsageError, match="would not give the result of the whole batch"):
        go(
            monkeypatch, tmp_path / "s", room=99, layer=layer, spec=study("global"),
            micro_batch=8,
        )  # fmt: skip
    assert leases_are_free(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        assert not store.records()


def test_global_batch_norm_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_study("digits", overrides=("batch_sizes=[32, 512]", "seeds=1"))
    monkeypatch.setattr(Worker, "command", ("/nonexistent",))
    with pytest.raises(Inseparable, match=r"--micro-batch 64: arm 'none': batch size 512 .*64"):
        run(digits, tmp_path / "s", workload_reference=None, micro_batch=64)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("value", ["0", "-4", "many", "1.5", "", "٣", "9" * 400])
def test_what_is_no_micro_batch(value: str) -> None:
    with pytest.raises(UsageError, match="write a number of examples, such as 512, or auto"):
        wanted_micro_batch(value, "cuda")


def test_what_is_meant() -> None:
    assert [wanted_micro_batch(None, d) for d in ("cpu", "cuda", "cuda:1")] == [0, AUTO, AUTO]
    assert [wanted_micro_batch(v, "cpu") for v in ("auto", "512", 64)] == [AUTO, 512, 64]


def test_the_option_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value, said in (("x", "--micro-batch x: write"), ("8", "arm 'none'")):
        result = CliRunner().invoke(app, ["run", "digits", "--micro-batch", value])
        assert (result.exit_code, said in result.output) == (2, True), result.output
        assert not list(tmp_path.iterdir())
