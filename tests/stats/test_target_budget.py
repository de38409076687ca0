"""A target accuracy as a study's budget, and what a device took to reach it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import make_provenance
from target_studies import study
from typer.testing import CliRunner

from batchcliff import api
from batchcliff.cli import app
from batchcliff.errors import UsageError
from batchcliff.record import TrialRecord
from batchcliff.stats.budget import budget, reached
from batchcliff.studyfile import parse_study


def timed(
    records: list[TrialRecord], device: str = "a GPU", workers: int = 1
) -> list[TrialRecord]:
    """Ten milliseconds an update, on a device shared by `workers`."""
    return [
        dataclasses.replace(
            record,
            updates=record.ledger.updates if record.ledger else 0,
            provenance=dataclasses.replace(
                make_provenance(),
                seconds=0.01 * (record.ledger.updates if record.ledger else 0),
                device=device,
                workers=workers,
            ),
        )
        for record in records
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_device_seconds_are_in_proportion_to_updates(workers: int) -> None:
    found = budget(timed(study(0.05), workers=workers), "none", 0.8)
    for cell in found.cells:
        seconds = [0.01 / workers * (trial.updates or 0) for trial in cell.reached]
        assert cell.device_seconds == pytest.approx(sum(seconds) / len(seconds))


def test_two_devices_have_no_mean() -> None:
    records = study(0.05)
    mixed = [*timed(records[::2]), *timed(records[1::2], "another GPU")]
    found = budget(mixed, "none", 0.8)
    assert all(cell.device_seconds is None and cell.device == "" for cell in found.cells)
    plain = budget(timed(records), "none", 0.8)
    strip = [dataclasses.replace(c, reached=()) for c in plain.cells]
    assert strip == [dataclasses.replace(c, reached=()) for c in found.cells]


TEXT = """\
name = "to-90"
workload = "digits"
batch_sizes = [32, 64]
seeds = 2
budget = { accuracy = 0.9, at_most = "30ep" }
settings = { evaluate_every = 1 }
[arms.none]
lr = { base = 0.3 }
"""


def test_digits_to_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained: it ends with the first evaluation there, and `target` needs no number."""
    monkeypatch.chdir(tmp_path)
    assert api.run(parse_study(TEXT), device="cpu", workers=1).exit_code == 0
    from batchcliff.study.store import Store

    with Store.open(tmp_path / "studies" / "to-90") as store:
        records = list(store.records().values())
    assert len(records) == 4 and all(r.ended == "target" for r in records)
    for record in records:
        *before, last = record.curves.test_accuracy
        assert record.ledger is not None and record.updates < record.ledger.updates
        assert last == record.accuracy and last >= 0.9
        assert all(value is not None and value < 0.9 for value in before)
        updates = reached(record, 0.9).updates
        assert updates is not None and updates <= record.updates
    (found,) = api.target("to-90")
    assert found.target == 0.9 and found == api.target("to-90", 0.9)[0]
    said = CliRunner().invoke(app, ["target", "to-90"])
    assert said.exit_code == 0 and "updates to 90.0%" in said.output
    assert "device s" in said.output and "device hours" in said.output


def test_without_a_target_one_must_be_named() -> None:
    digits = Path(__file__).parents[2] / "results" / "digits"
    with pytest.raises(UsageError, match=r"is no accuracy: name one, such as 0\.9"):
        api.target(digits)
