"""`run` and the verbs that read a study's folder, with a trainer that only pretends."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff import api
from batchcliff.cli import app
from batchcliff.errors import Incomplete, StorageError, UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.study import supervisor
from batchcliff.study.grid import trials
from batchcliff.study.options import RunOptions
from batchcliff.study.store import Planned, Store
from batchcliff.study.supervisor import RunSummary
from batchcliff.studyfile import load_study
from batchcliff.workloads import DIGITS
from pretended import DIGEST, Trainer

SMALL = ("digits", "--seeds", "2", "--batch-sizes", "128,256")

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    fake = Trainer()
    monkeypatch.setattr(supervisor, "run_study", fake)
    return fake


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Reports are pretended too; the folders that one was asked for."""
    asked: list[Path] = []

    def report(study: str | Path, *, out: str | Path | None = None) -> api.Report:
        asked.append(Path(study))
        page = Path(out or Path(study) / "report") / "index.html"
        return api.Report(page=page, headlines=("It fell at 256.",))

    monkeypatch.setattr(api, "report", report)
    return asked


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


# --- run


def test_run_ends_with_the_counts_the_headline_and_the_report(
    trainer: Trainer, reports: list[Path]
) -> None:
    result = call("run", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "8 ok",
        "It fell at 256.",
        f"report: {Path('studies/digits/report/index.html')}",
    ]
    assert "[8/8] warmup, batch 128, seed 1, ok, accuracy 0.9000, 2.0 s" in result.stderr
    assert reports == [Path("studies/digits")]
    assert trainer.calls[0].device == "auto"
    assert trainer.calls[0].workers is None


def test_options_reach_the_supervisor(trainer: Trainer, reports: list[Path]) -> None:
    result = call("run", *SMALL, "-o", "x", "--device", "cpu", "--workers", "3", "--data", "d")
    assert result.exit_code == 0, result.output
    options = trainer.calls[0]
    assert (trainer.folders[0], options.data) == (Path("x"), Path("d"))
    assert (options.device, options.workers) == ("cpu", 3)
    assert options.workload_reference is None


def test_the_same_command_goes_on(trainer: Trainer, reports: list[Path]) -> None:
    trainer.limit = 3
    first = call("run", *SMALL)
    assert first.exit_code == 75
    assert "3 ok, 5 missing" in first.stdout
    assert "this goes on where it stopped: batchcliff" in first.stderr
    trainer.limit = 10**6
    second = call("run", *SMALL)
    assert second.exit_code == 0
    assert "8 trials, 3 of them done before" in second.stderr


def test_json_lines_only(trainer: Trainer, reports: list[Path]) -> None:
    result = call("run", *SMALL, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["event"] for e in events[:2]] == ["started", "trial_started"]
    assert events[-1] == {
        "event": "done",
        "exit_code": 0,
        "folder": "studies/digits",
        "counts": {"ok": 8},
        "missing": 0,
        "report": "studies/digits/report/index.html",
        "headlines": ["It fell at 256."],
    }
    assert result.stderr == ""


def test_a_diverged_trial_is_no_failure_and_a_failed_one_is(
    trainer: Trainer, reports: list[Path]
) -> None:
    def some(outcome: Outcome) -> Callable[[TrialRecord], TrialRecord]:
        def change(record: TrialRecord) -> TrialRecord:
            if record.spec.arm != "none":
                return record
            return dataclasses.replace(record, outcome=outcome, accuracy=None)

        return change

    trainer.outcome = some(Outcome.DIVERGED)
    assert call("run", *SMALL).exit_code == 0
    trainer.outcome = some(Outcome.FAILED)
    result = call("run", *SMALL, "--out", "other")
    assert result.exit_code == 3
    assert "4 failed, 4 ok" in result.stdout
    assert len(reports) == 2


def test_a_signal_ends_without_a_report(trainer: Trainer, reports: list[Path]) -> None:
    trainer.limit, trainer.exit_code = 2, 130
    result = call("run", *SMALL)
    assert result.exit_code == 130
    assert "this goes on where it stopped" in result.stderr
    assert reports == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("bad\x1b[2J\nsecond"), 2),
        (StorageError(28, "no space left"), 74),
        (Incomplete("not yet"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_have_their_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    class Watched(api.SilentProgress):
        def ended(self, *, exit_code: int, text: str = "") -> None:
            ended.append(exit_code)

    def fails(*_: Any, **__: Any) -> RunSummary:
        raise error

    monkeypatch.setattr(supervisor, "run_study", fails)
    result = call("run", "digits")
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    assert result.stdout == ""
    with pytest.raises(type(error)):
        api.run("digits", progress=Watched())
    assert ended == [1]  # a live display is taken down whatever happens


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> RunSummary:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "run_study", fails)
    assert isinstance(call("run", "digits").exception, ZeroDivisionError)


# --- status, export, plan of a study that exists


@pytest.fixture
def half_done(trainer: Trainer, reports: list[Path]) -> Trainer:
    trainer.limit = 6
    assert call("run", *SMALL).exit_code == 75
    return trainer


def test_status_of_each_cell(half_done: Trainer) -> None:
    result = call("status", "digits")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["none", "128", "2", "1", "1", "0.5000"] in rows
    assert ["none", "256", "2", "2", "0", "0.5500"] in rows
    assert ["warmup", "128", "2", "1", "1", "0.9000"] in rows
    assert ["all", "8", "6", "2"] in rows
    assert any(line.startswith("expected time: ") for line in result.stdout.splitlines())


def test_status_keeps_the_accounting_identity(half_done: Trainer) -> None:
    status = json.loads(call("status", "digits", "--json").stdout)
    assert status["planned"] == sum(status["counts"].values()) == 8
    for cell in status["cells"]:
        assert cell["planned"] == sum(cell["counts"].values())
    assert status["counts"]["missing"] == 2
    with pytest.raises(AssertionError):
        api.CellStatus(arm="a", batch_size=1, planned=2, counts={"ok": 1}, accuracy=None)


@pytest.mark.parametrize("name", ["digits", "studies/digits", "studies/digits/"])
def test_a_study_is_found_by_name_or_path(half_done: Trainer, name: str) -> None:
    assert call("status", name).exit_code == 0


def test_a_study_is_found_by_its_file(half_done: Trainer, home: Path) -> None:
    (home / "my.toml").write_text(call("init", "digits").stdout, encoding="utf-8")
    assert call("status", "my.toml").exit_code == 0


def test_an_unknown_study_suggests_the_nearest(half_done: Trainer) -> None:
    result = call("status", "digit")
    assert result.exit_code == 2
    assert "no study at 'digit'. Did you mean 'digits'?" in result.stderr


def test_export_has_a_row_per_trial_in_each_format(half_done: Trainer) -> None:
    rows = list(csv.DictReader(io.StringIO(call("export", "digits").stdout)))
    assert len(rows) == 6
    assert rows[0]["arm"] == "none"
    assert {"batch_size", "seed", "outcome", "accuracy", "seconds"} <= rows[0].keys()
    plain = json.loads(call("export", "digits", "--format", "json").stdout)
    assert [r["accuracy"] for r in plain] == [float(r["accuracy"]) for r in rows]
    table = call("export", "digits", "-f", "md").stdout.splitlines()
    assert len(table) == 2 + 6
    assert all(line.startswith("| ") for line in table)
    bad = call("export", "digits", "--format", "cvs")
    assert bad.exit_code == 2
    assert "Did you mean 'csv'?" in bad.stderr


def test_two_arms_that_share_a_record_are_both_exported(trainer: Trainer) -> None:
    study = load_study("digits", overrides=["batch_sizes=[128]", "seeds=1"])
    spec = trials(study, DIGEST)[0]
    study = dataclasses.replace(study, arms=study.arms[:1])
    trainer(
        study,
        folder=Path("shared"),
        progress=api.SilentProgress(),
        options=RunOptions(),
    )
    with Store.open("shared") as store:
        other = Planned(arm="twin", batch_size=128, seed=0, trial_id=spec.trial_id)
        store.extend([*store.planned(), other])
    rows = list(csv.DictReader(io.StringIO(api.export("shared"))))
    assert [row["arm"] for row in rows] == ["none", "twin"]


def test_a_plan_knows_what_is_done_and_what_it_took(half_done: Trainer) -> None:
    plan = json.loads(call("plan", *SMALL, "--workers", "1", "--json").stdout)
    assert (plan["to_run"], plan["done"]) == (2, 6)  # although the data had another digest
    assert plan["expected_seconds"] == pytest.approx(2 * 2.0)
    assert plan["differences"] == []
    shown = call("plan", *SMALL).stdout
    assert "2 (1 done)" in shown
    assert "from finished trials at batch size 128, 256" in shown


def test_a_plan_says_that_the_folder_holds_another_study(half_done: Trainer) -> None:
    result = call("plan", *SMALL, "--set", "lr.base=0.1")
    assert result.exit_code == 0
    assert f"lr.base: {DIGITS.lr.base} in the study, 0.1 now" in result.stdout


def test_a_study_that_differs_is_refused(half_done: Trainer) -> None:
    result = call("run", *SMALL, "--set", "lr.base=0.1")
    assert result.exit_code == 2
    assert f"lr.base: {DIGITS.lr.base} in the study, 0.1 now" in result.stderr


def test_a_study_grows_when_told_to(half_done: Trainer) -> None:
    more = ("digits", "--seeds", "3", "--batch-sizes", "64,128,256")
    refused = call("run", *more)
    assert refused.exit_code == 2
    assert "study.seeds: [0, 1] in the study, [0, 1, 2] now" in refused.stderr
    assert "run with --extend (every planned trial stays as it is" in refused.stderr
    assert "--accept-code-change" not in refused.stderr
    shown = call("run", *more, "--extend", "--dry-run").stdout
    assert "The folder holds a part of this study; `run --extend` adds the rest:" in shown
    assert json.loads(call("plan", *more, "--json").stdout)["extends"] is True
    assert json.loads(call("status", "digits", "--json").stdout)["planned"] == 8
    half_done.limit = 10**6
    grown = call("run", *more, "--extend")
    assert grown.exit_code == 0, grown.output
    assert "18 trials, 6 of them done before" in grown.stderr
    assert call("run", *more).exit_code == 0  # the grown study is the study
    status = json.loads(call("status", "digits", "--json").stdout)
    assert {c["batch_size"]: c["planned"] for c in status["cells"]} == {64: 3, 128: 3, 256: 3}
    assert len(list(csv.DictReader(io.StringIO(call("export", "digits").stdout)))) == 18
    less = call("run", *SMALL, "--extend")
    assert less.exit_code == 2
    assert "study.seeds: [0, 1, 2] in the study, [0, 1] now" in less.stderr
    assert "changes no trial. Put the values back" in less.stderr


def test_other_code_is_taken_when_told_to(half_done: Trainer) -> None:
    half_done.code, half_done.limit = "other code", 10**6
    refused = call("run", *SMALL)
    assert refused.exit_code == 2
    assert "code: 'code' in the study, 'other code' now" in refused.stderr
    assert "run with --accept-code-change (if the numbers" in refused.stderr
    assert "--extend" not in refused.stderr
    assert call("run", *SMALL, "--extend").exit_code == 2
    assert call("run", *SMALL, "--accept-code-change").exit_code == 0
    assert call("run", *SMALL).exit_code == 0


def test_report_says_where_it_lies(half_done: Trainer, reports: list[Path]) -> None:
    result = call("report", "digits", "--out", "there")
    assert result.stdout.splitlines() == ["It fell at 256.", "report: there/index.html"]
    plain = json.loads(call("report", "digits", "--json").stdout)
    assert plain["headlines"] == ["It fell at 256."]


# --- the real thing, once


def test_a_study_from_nothing_to_its_report(home: Path) -> None:
    arguments = ["digits", "--seeds", "1", "--batch-sizes", "256,512", "--budget", "2ep"]
    short = "arms.warmup.warmup.duration='1ep'"
    first = subprocess.run(
        [
            sys.executable,
            "-m",
            "batchcliff",
            "run",
            *arguments,
            "--set",
            short,
            "--workers",
            "1",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert first.returncode == 0, first.stderr
    assert "[4/4] " in first.stderr
    assert "\x1b" not in first.stdout + first.stderr
    page = Path(first.stdout.splitlines()[-1].removeprefix("report: "))
    assert page.read_bytes().lower().startswith(b"<!doctype html")
    summary = api.run(
        load_study("digits", seeds="1", batch_sizes="256,512", budget="2ep", overrides=[short]),
        workers=1,
    )
    assert (summary.counts, summary.exit_code) == ({"ok": 4}, 0)  # nothing was run again
    assert len(api.export("digits").splitlines()) == 5
