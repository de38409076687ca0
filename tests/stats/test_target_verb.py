"""The verb `target`: what it prints of a curve, and that it reads a study's records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from target_studies import study
from typer.testing import CliRunner

from batchcliff import api
from batchcliff.cli import app
from batchcliff.record import TrialRecord

RESULTS = Path(__file__).parents[2] / "results" / "digits"


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed study, in a folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(RESULTS, tmp_path / "studies" / "digits")
    return tmp_path / "studies" / "digits"


def told(monkeypatch: pytest.MonkeyPatch, records: list[TrialRecord]) -> str:
    """What the verb prints of a study that has these records."""
    monkeypatch.setattr(api, "cells_of", lambda *_: {("none", 0): [*records, None]})
    result = CliRunner().invoke(app, ["target", "digits", "0.8"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_study_of_the_repository(digits: Path) -> None:
    result = CliRunner().invoke(app, ["target", "digits", "0.9", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [curve["arm"] for curve in found] == ["none", "warmup"]
    none = found[0]
    assert [cell["batch_size"] for cell in none["cells"]] == [64, 128, 256, 512]
    assert all(len(cell["reached"]) == 8 for cell in none["cells"])
    # Evaluated every 5 epochs of 16 updates, and 60 epochs long.
    updates = [trial["updates"] for trial in none["cells"][0]["reached"]]
    assert all(80 <= value <= 960 for value in updates)
    assert none["cells"][3]["updates"]["note"] == "8 of 8 trials never reached the target"


def test_a_curve_in_words(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(monkeypatch, study(0.05))
    assert "none: updates to 80.0% test accuracy" in text
    row = next(line for line in text.splitlines() if line.startswith("2,048")).split()
    assert row[:2] == ["2,048", "3"] and row[-1].endswith("%")
    assert "Knee (twice the fewest updates and examples) at batch size" in text
    assert text.count("95% interval") == 3


def test_what_is_open_or_unknown_is_said(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = told(monkeypatch, study(0.03, smin=1.0, knee=50_000.0))
    assert "at batch size > 2,048 (95% interval: at least" in straight
    assert "however large the batch: < " in straight
    assert "(no interval)" in told(monkeypatch, study(seeds=1))
    few = told(monkeypatch, study(sizes=(64, 128)))
    assert "No knee can be given: 2 batch sizes with a value" in few


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digits", "90"), "write a share of accuracy above 0"),
        (("digitz", "0.9"), "Did you mean 'digits'"),
        (("digits", "much"), "Invalid value"),
    ],
)
def test_what_is_refused(digits: Path, words: tuple[str, str], said: str) -> None:
    result = CliRunner().invoke(app, ["target", *words])
    assert result.exit_code == 2
    assert said in result.output


def test_without_a_measured_trial_there_is_nothing_to_say(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "cells_of", lambda *_: {("none", 64): [None]})
    result = CliRunner().invoke(app, ["target", "digits", "0.9"])
    assert (result.exit_code, "has no measured trial yet" in result.output) == (2, True)
