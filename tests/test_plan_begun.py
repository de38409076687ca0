"""`plan` of a study that was begun, by its folder, and of trials that ranks would share."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from batchcliff import api
from batchcliff.cli import app
from batchcliff.naming import resolved
from batchcliff.spec import Settings
from batchcliff.study.store import Store

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_folder_says_what_is_left_of_its_study() -> None:
    folder = str(RESULTS / "digits")
    plan = json.loads(call("plan", folder, "--json").stdout)
    assert (plan["folder"], plan["done"], plan["to_run"]) == (folder, 64, 0)
    assert plan["differences"] == []
    assert api.plan(folder).done == api.plan(Path(folder)).done == 64


def test_a_folder_of_another_name_is_where_the_records_are_looked_for(tmp_path: Path) -> None:
    """--out wins: the same study, nothing done there."""
    elsewhere = str(tmp_path / "elsewhere")
    plan = json.loads(
        call("plan", str(RESULTS / "digits"), "--out", elsewhere, "--json").stdout
    )
    assert (plan["folder"], plan["done"], plan["to_run"]) == (elsewhere, 0, 64)


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    "change", [("--seeds", "3"), ("--set", "lr.base=1"), ("--budget", "1ep")]
)
def test_what_changes_a_study_file_does_not_change_a_study_that_was_begun(
    verb: str, change: tuple[str, str], home: Path
) -> None:
    refused = call(verb, str(RESULTS / "digits"), *change)
    assert refused.exit_code == 2
    assert "folder of a study that was begun" in refused.stderr and "--out" in refused.stderr
    assert list(home.iterdir()) == []


def test_a_workload_of_ones_own_must_be_given_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its code none of the folder's trials would be recognised as done."""
    (home / "my_begun.py").write_text(
        "from batchcliff import LrRule, Settings, Workload\n"
        "def make():\n"
        "    return Workload(name='own', data='digits', lr=LrRule(base=0.1,"
        " base_batch_size=32), budget='1ep', settings=Settings())\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    study = resolved("digits", None)
    study = dataclasses.replace(study, workload="own", settings=Settings())
    Store.create(home / "s", study, {"name": "digits"}, "test").close()
    for verb in ("plan", "run"):
        refused = call(verb, "s")
        assert refused.exit_code == 2 and "--workload module:function" in refused.stderr
    assert call("plan", "s", "--workload", "my_begun:make").exit_code == 0


def test_a_recipes_name_is_the_recipe(home: Path) -> None:
    (home / "digits").symlink_to(RESULTS / "digits-ladder")
    assert json.loads(call("plan", "digits", "--json").stdout)["folder"] == "studies/digits"
    found = json.loads(call("plan", "./digits", "--json").stdout)
    assert (found["folder"], found["study"]["name"]) == ("digits", "digits-ladder")


def test_ranks_are_said_and_their_time_is_not_guessed_from_one_process() -> None:
    said = call("plan", "article", "--ranks", "2")
    assert "ranks: every batch is shared by 2 processes" in said.stdout.splitlines()
    plan = json.loads(
        call("plan", "article", "--ranks", "2", "--device", "cuda", "--json").stdout
    )
    assert (plan["ranks"], plan["expected_seconds"]) == (2, None)
    one = json.loads(call("plan", "article", "--device", "cuda", "--json").stdout)
    assert one["ranks"] == 1 and one["expected_seconds"] > 0


@pytest.mark.parametrize(
    ("study", "ranks", "why"),
    [
        ("article", "3", "does not divide over 3 ranks"),
        ("article", "16", "batch norm"),
        ("digits", "2", "batch_norm.group = 'global'"),
        ("noisy-quadratic", "2", "batch size 181 does not divide"),
    ],
)
def test_ranks_that_run_would_refuse_are_refused(study: str, ranks: str, why: str) -> None:
    refused = call("plan", study, "--ranks", ranks)
    assert refused.exit_code == 2 and why in refused.stderr
    assert call("run", study, "--ranks", ranks, "--dry-run").stderr == refused.stderr
