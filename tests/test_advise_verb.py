"""The verb `advise`: what it says of a committed study, of bad ones; its programs run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff import api
from batchcliff.advising import FORMATS, advise_study, exported
from batchcliff.cli import app

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Committed studies, in folders of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("digits", "article-h100-jpeg"):
        shutil.copytree(RESULTS / name, tmp_path / "studies" / name)
    return tmp_path / "studies"


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["advise", *words])


def test_a_study_of_the_repository_in_words() -> None:
    text = call("digits").stdout
    assert text.startswith("study digits: use batch size 128, arm 'warmup'.")
    for said in (
        "learning rate  1.8 = 0.9 x 128/64 (linear)",
        "25%, exponential from 0.01 (120 updates)",
        "98.21% (95% interval: 97.80% to 98.61%; 8 trials)",
        "2.00 times fewer (480, not 960)",
        "times as fast on AMD EPYC (95% interval:",
        "warmup: by interpolation safe up to 164 (not run; between 128 and 256).",
        "warmup at 256: it was run and its mean, 96.28%, is not under 92.48%; but 8 trials",
        "warmup at 512: 8 of 8 trials collapse",
        "other learning rates: each batch size of an arm ran at one",
    ):
        assert said in text, said


def test_one_seed_is_said_and_gives_a_bracket() -> None:
    text = call("article-h100-jpeg").stdout
    assert "use batch size 2,048, arm 'warmup'" in text
    assert "one seed, so 2,048 is the last batch size before the fall" in text
    assert "no interval" in text and "shared the device with unequally many" in text


def test_json_holds_the_whole_value() -> None:
    found = json.loads(call("digits", "--json").stdout)
    assert found["chosen"]["batch_size"] == 128
    assert found["chosen"]["trial"]["lr"] == 1.8
    assert found["chosen"]["ledger"]["warmup_updates"] == 120
    assert [arm["arm"] for arm in found["advice"]["arms"]] == ["none", "warmup"]
    assert found["advice"]["arms"][0]["interpolated"][1:] == [64, 128]


def test_another_arm_by_name() -> None:
    text = call("digits", "--arm", "none").stdout
    assert text.startswith("study digits: use batch size 64, arm 'none'.")
    assert "this is the reference" in text


@pytest.mark.parametrize("target", FORMATS)
def test_every_format_says_what_it_is_and_what_is_not_run(target: str) -> None:
    text = call("digits", "--format", target).stdout
    flat = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert flat.startswith("Batch size 128, arm 'warmup' of the study 'digits'")
    assert "not run; between 128 and 256" in flat
    assert "use batch size" not in text


def test_the_torch_program_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(call("digits", "--format", "torch").stdout)
    done = subprocess.run(
        [sys.executable, "-W", "error", "train.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_torch_is_imported_for_an_advice() -> None:
    code = (
        "import sys\nfrom batchcliff.advising import FORMATS, exported\n"
        "from batchcliff import api\nfound = api.advise('digits')\n"
        "[exported(found, name) for name in FORMATS]\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digitz",), "Did you mean 'digits'"),
        (("digits", "--format", "keras"), "unknown format 'keras'"),
        (("\x1b]0;owned\x07",), "no study at"),
        (("digits", "--arm", "a\nb\x1b]0;owned\x07"), "Known: none, warmup"),
        (("digits", "--arm", "warmpu"), "Did you mean 'warmup'"),
        (("digits", "--arm", "warmpu", "--format", "torch"), "Did you mean 'warmup'"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], said: str) -> None:
    """In one message, with nothing in it that a terminal acts on."""
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.output and result.stdout == ""
    assert "Traceback" not in result.output and "\x1b" not in result.output


def kept(folder: Path, keep: Any) -> None:
    """Take away the records that `keep` does not want."""
    for file in (folder / "results").glob("*.json"):
        spec = json.loads(file.read_text())["body"]["spec"]
        if not keep(spec):
            file.unlink()


def test_a_running_study_is_preliminary(studies: Path) -> None:
    kept(studies / "digits", lambda spec: spec["seed"] < 5 or spec["batch_size"] > 128)
    text = call("digits").stdout
    assert "Preliminary: 12 of 64 planned trials have no result yet." in text
    assert "Preliminary" in call("digits", "-f", "torch").stdout


def test_without_a_result_nothing_is_recommended(studies: Path) -> None:
    kept(studies / "digits", lambda spec: False)
    text = call("digits").stdout
    assert text.startswith("study digits: no batch size can be recommended.")
    assert "has no measured trial" in text
    refused = call("digits", "--format", "torch")
    assert refused.exit_code == 2 and "nothing can be recommended" in refused.output


def test_a_cliff_that_was_not_reached_is_beyond(studies: Path) -> None:
    kept(studies / "digits", lambda spec: spec["batch_size"] <= 128 and spec["seed"] == 0)
    text = call("digits", "--arm", "warmup").stdout
    assert "the cliff was not reached: it lies beyond 128, the largest batch size run" in text
    assert "> 128" in text
    assert "batch size 256: planned, nothing measured (8 missing)" in text


def test_an_imported_table_has_an_answer_and_no_settings() -> None:
    api.import_("article")
    text = call("article-published").stdout
    assert "use batch size" in text and "none: the table has no learning rates" in text
    assert "the table has none" in text
    for target in FORMATS:
        refused = call("article-published", "--format", target)
        assert refused.exit_code == 2
        assert "came without settings (an imported table has none)" in refused.output


def test_a_workload_of_ones_own_comes_by_the_command_line(studies: Path) -> None:
    advised = advise_study(studies / "digits")
    assert advised.study is not None
    own = dataclasses.replace(advised.study, workload="mine")
    text = exported(dataclasses.replace(advised, study=own), "toml")
    assert "--workload MODULE:FUNCTION" in text and "\nworkload" not in text
