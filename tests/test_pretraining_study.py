"""A study that begins with pretrained weights: its file, its options, its records."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from batchcliff.errors import UsageError
from batchcliff.naming import with_weights
from batchcliff.spec import Pretraining
from batchcliff.studyfile import load_study, parse_study

STUDY = """
name = "tuned"
workload = "digits"
data = "digits-second-half"
batch_sizes = [64, 256]
seeds = 1
budget = "2ep"
[settings]
pretraining = {pretraining}
[arms.none]
{arm}
"""
GOOD = '{ data = "digits-first-half", budget = "2ep", batch_size = 64, lr = 0.3 }'


def test_the_file_says_what_begins() -> None:
    study = parse_study(STUDY.format(pretraining=GOOD, arm=""))
    assert study.settings.pretraining == Pretraining(
        data="digits-first-half", budget="2ep", batch_size=64, lr=0.3
    )
    assert load_study("finetune").settings.pretraining is not None


@pytest.mark.parametrize(
    ("pretraining", "arm", "message"),
    [
        ("{}", "", r'settings.pretraining.data: missing key. Write e.g. data = "cifar10'),
        ('{ data = "digit" }', "", r"data = .*unknown data set. Did you mean 'digits'"),
        (GOOD.replace("2ep", "5%"), "", "a run cannot be a share of itself"),
        (GOOD.replace("0.3", "0"), "", "is not a finite number above 0"),
        (GOOD.replace("lr", "rate"), "", r"pretraining.rate = 0.3: unknown key"),
        (GOOD, f"pretraining = {GOOD}", "Write it as settings.pretraining"),
    ],
)
def test_what_is_refused(pretraining: str, arm: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_study(STUDY.format(pretraining=pretraining, arm=arm), label="f.toml")
    assert str(caught.value).startswith("f.toml:")


def test_weights_need_a_study_that_begins_with_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the study has no pretraining that they could stand"):
        with_weights(load_study("digits"), tmp_path / "w")
    study = parse_study(STUDY.format(pretraining=GOOD, arm=""))
    with pytest.raises(UsageError, match="No such file"):
        with_weights(study, tmp_path / "w")
    assert with_weights(study, None) is study


def typed(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "batchcliff", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_from_the_command_line_to_the_table(tmp_path: Path) -> None:
    """Both batch sizes begin with the same weights; a file of them can stand for training."""
    (tmp_path / "s.toml").write_text(STUDY.format(pretraining=GOOD, arm=""))
    typed(tmp_path, "run", "s.toml", "--workers", "2")
    (weights,) = (tmp_path / "studies/tuned/cache").glob("pretrained-*.safetensors")
    rows = list(
        csv.DictReader(io.StringIO(typed(tmp_path, "export", "tuned", "--format", "csv")))
    )
    assert [row["batch_size"] for row in rows] == ["64", "256"]
    assert len({row["old_accuracy_before"] for row in rows}) == 1
    assert all(0 < float(row["weight_distance"]) < 10 for row in rows)

    save_file(load_file(weights), tmp_path / "mine.safetensors")
    typed(tmp_path, "run", "s.toml", "--weights", "mine.safetensors", "--out", "other")
    other = list(
        csv.DictReader(io.StringIO(typed(tmp_path, "export", "other", "--format", "csv")))
    )
    same = ("accuracy", "weight_distance", "old_accuracy", "old_accuracy_reestimated")
    assert [[r[k] for k in same] for r in other] == [[r[k] for k in same] for r in rows]
    assert not list((tmp_path / "other/cache").glob("pretrained-*"))
    said = typed(tmp_path, "run", "s.toml", "--out", "other", code=2)
    assert "settings.pretraining.weights" in said
