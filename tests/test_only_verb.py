"""`plan --ids` and `run --only`: a study handed out trial by trial, on the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from batchcliff import api
from batchcliff.cli import app
from batchcliff.study import supervisor
from batchcliff.study.store import Store
from pretended import Trainer

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
STUDY = """
name = "my"
workload = "digits"
batch_sizes = [128, 256]
seeds = 1
budget = "1ep"
[arms.none]
"""


@pytest.fixture(autouse=True)
def study(home: Path) -> Path:
    """my.toml, in the folder where the test is."""
    (home / "my.toml").write_text(STUDY)
    return home


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def block(holds: str) -> str:
    """The shell block of the page that holds a text, with the study in this folder."""
    (found,) = (b for b in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if holds in b)
    return found.replace("/shared/my", "my")


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": places, **environment}
    return subprocess.run(
        ["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=200
    )


def test_ids_alone_a_line_each(study: Path) -> None:
    result = call("plan", "my.toml", "--ids")
    ids = result.stdout.splitlines()
    assert result.exit_code == 0 and all(re.fullmatch("[0-9a-f]{20}", one) for one in ids)
    plan = json.loads(call("plan", "my.toml", "--json").stdout)
    assert ids == [trial["trial_id"] for trial in plan["trials"]]
    assert json.loads(call("plan", "my.toml", "--ids", "--json").stdout) == ids
    assert [path.name for path in study.iterdir()] == ["my.toml"]


def test_ids_change_with_the_data_so_they_must_have_been_read() -> None:
    result = call("plan", "article", "--ids")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cifar10 has not been read; say where it lies: --data PATH" in result.stderr


def test_what_is_named_reaches_the_supervisor_and_no_report_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Trainer()
    monkeypatch.setattr(supervisor, "run_study", trainer)
    one, other = "0123456789abcdef0123", "a" * 20
    for options in ((), ("--json",)):
        result = call("run", "my.toml", "--only", f"{one},{other},", *options)
        assert result.exit_code == 0, result.output
        assert trainer.calls.pop().only == (one, other)
        assert "report" not in result.output
        assert not Path("studies/my/report").exists()
    assert call("run", "my.toml").exit_code == 0
    assert trainer.calls.pop().only is None
    assert Path("studies/my/report/index.html").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((",",), "names no trial"),
        (("none",), "'none': a trial's id is 20 hex digits"),
        (("0123456789abcdef0123",), "the study has no such trial"),
        (("0123456789abcdef0123", "--dry-run"), "leave --only out"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    given: tuple[str, ...], said: str, study: Path
) -> None:
    result = call("run", "my.toml", "--device", "cpu", "--only", *given)
    assert result.exit_code == 2
    assert said in result.stderr and len(result.stderr.splitlines()) == 1
    assert [path.name for path in study.iterdir()] == ["my.toml"]


def test_a_study_that_was_begun_is_run_in_its_own_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In Python as on the command line: the folder that holds it is where it goes on."""
    trainer = Trainer()
    monkeypatch.setattr(supervisor, "run_study", trainer)
    for study, out in (("my.toml", "mine"), ("mine", None), ("mine", "elsewhere")):
        api.run(study, out=out, device="cpu")
    assert call("run", "mine").exit_code == 0
    assert [str(folder) for folder in trainer.folders] == ["mine", "mine", "elsewhere", "mine"]


def test_the_lines_of_the_page_run_a_study() -> None:
    """A trial a job, by xargs; then nothing is left."""
    done = shell(block("xargs").replace("-P 4", "-P 2"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {Path('my/report/index.html')}"
    assert call("plan", "my.toml", "--out", "my", "--ids").stdout == ""
    with Store.open("my") as store:
        assert [len(store.attempts(cell.trial_id)) for cell in store.planned()] == [1, 1]


def test_the_script_for_slurm_runs_its_own_trial() -> None:
    ids = call("plan", "my.toml", "--out", "my", "--ids").stdout
    Path("trials.txt").write_text(ids)
    done = shell(block("#SBATCH"), SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 0, done.stderr
    with Store.open("my") as store:
        assert list(store.records()) == [ids.split()[1]]
