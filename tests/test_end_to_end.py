"""The command line from plan to report on a tiny study, as somebody would type it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = """
name = "tiny"
workload = "digits"
batch_sizes = [64, 2048]
seeds = 2
budget = "2ep"

[arms.none]

[arms.warmup]
warmup = { shape = "linear", duration = "1ep" }
"""


class Typist:
    """Types commands in a folder that has a study file, and a decoy that nobody may import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.toml").write_text(STUDY)
        (folder / "numpy.py").write_text("raise SystemExit('imported from the folder')")

    def types(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`batchcliff WORDS`; the test fails unless it exits with `code`."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "batchcliff", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Typist:
    return Typist(tmp_path_factory.mktemp("end-to-end"))


def test_from_plan_to_export(typist: Typist) -> None:
    """Eight trials: four train, and four are infeasible, as 2048 > 1,024 examples."""
    plan = typist.types("plan", "tiny.toml").stdout
    assert "larger than the training set" in plan
    assert sorted(p.name for p in typist.folder.iterdir()) == ["numpy.py", "tiny.toml"], (
        "a plan writes nothing"
    )

    run = typist.types("run", "tiny.toml", "--json", "--device", "cpu")
    events = [json.loads(line) for line in run.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and events[0]["total"] == 8
    assert kinds.count("trial_started") == 4
    assert kinds.count("finished") == 8
    assert kinds[-2:] == ["ended", "done"]
    done = events[-1]
    assert (done["exit_code"], done["missing"]) == (0, 0)
    assert done["counts"] == {"ok": 4, "infeasible": 4}
    assert Path(typist.folder, done["report"]).is_file()

    folder = typist.folder / "studies" / "tiny"
    records = sorted((folder / "results").iterdir())
    assert len(records) == 8

    status = typist.types("status", "tiny").stdout
    assert "warmup" in status and "2048" in status.replace(",", "")
    report = typist.types("report", "tiny", "--out", str(typist.folder / "page")).stdout
    page = typist.folder / "page" / "index.html"
    assert str(page) in report
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")

    rows = list(csv.DictReader(io.StringIO(typist.types("export", "tiny").stdout)))
    assert len(rows) == 8
    wanted = {
        "arm", "batch_size", "seed", "outcome", "accuracy", "accuracy_reestimated",
        "updates", "examples", "seconds",
    }  # fmt: skip
    assert wanted <= rows[0].keys()
    assert {(r["arm"], r["batch_size"], r["seed"]) for r in rows} == {
        (arm, size, seed)
        for arm in ("none", "warmup")
        for size in ("64", "2048")
        for seed in ("0", "1")
    }
    for row in rows:
        if row["batch_size"] == "64":
            assert row["outcome"] == "ok"
            assert 0 < float(row["accuracy"]) < 1
            assert int(row["updates"]) == 32, "two epochs of 1,024 examples"
        else:
            assert (row["outcome"], row["accuracy"]) == ("infeasible", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "digts"), "digits"),
        (("run", "digits", "--budget", "2 epochs"), "budget"),
        (("run", "digits", "--device", "cuda:99"), "cuda:99"),
        (("run", "digits", "--workers", "0"), "workers"),
        (("run", "digits", "--workload", "numbers:nothing"), "nothing"),
        (("export", "digits"), "digits"),
        (("run", "article", "--data", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    typist = Typist(tmp_path)
    done = typist.types(*words, code=2)
    assert said in done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["numpy.py", "tiny.toml"]


def test_failed_trials_are_exit_code_3(tmp_path: Path) -> None:
    """A workload of the user's own, from the folder in which the command is typed."""
    typist = Typist(tmp_path)
    (tmp_path / "numpy.py").unlink()  # one's own module may import what lies beside it
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from batchcliff.workloads import DIGITS\n"
        "def build(shape, classes):\n"
        "    from torch import nn\n"
        "    class Net(nn.Sequential):\n"
        "        def forward(self, x):\n"
        "            if len(x) > 100:\n"
        "                raise ValueError('too many')\n"
        "            return super().forward(x)\n"
        "    return Net(nn.Flatten(), nn.Linear(64, classes))\n"
        "def workload():\n"
        "    return dataclasses.replace(DIGITS, name='mine', build=build)\n"
    )
    options = ("--workload", "mine:workload", "--workers", "1", "--seeds", "1")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nbatch_sizes = [512]\nbudget = "1ep"\n[arms.none]\n'
    )
    good = (tmp_path / "mine.py").read_text()
    done = typist.types("run", "mine.toml", *options, code=3)
    assert "1 failed" in done.stdout
    assert "ValueError: too many" in done.stderr
    # A network that cannot be right is refused before any trial, with both shapes.
    (tmp_path / "mine.py").write_text(good.replace("(64, classes", "(64, classes + 1"))
    done = typist.types("run", "mine.toml", *options, "--out", "other", code=2)
    assert "[4, 1, 8, 8] to [4, 11]; [4, 10] is needed" in done.stderr
    assert "Traceback" not in done.stderr
