"""The examples run as they stand and print what their words promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", f"examples/{name}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def output_of(name: str, *arguments: str) -> str:
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_warmup_in_your_loop_reaches_the_peak_at_update_29() -> None:
    lines = output_of("warmup_in_your_loop.py").splitlines()
    assert lines[0] == "update   0: lr 0.1067"  # 3.2 / 30
    assert lines[-2:] == ["update  29: lr 3.2000", "update  30: lr 3.2000"]


def test_read_records_says_where_each_arm_falls() -> None:
    text = output_of("read_records.py", "results/digits")
    assert text.count("falls 5% below") == 2
    assert text.index("none:") < text.index("warmup:")
    unsaid = run("read_records.py")
    assert unsaid.returncode == 1
    assert unsaid.stderr == "usage: python examples/read_records.py STUDY_FOLDER\n"


def test_lars_in_your_loop_learns_and_resumes() -> None:
    lines = output_of("lars_in_your_loop.py").splitlines()
    losses = [float(line.partition("loss ")[2]) for line in lines[:3]]
    assert losses[2] < 0.5 * losses[0]
    assert lines[-1] == "resumed at update 20: the same weights"


def test_no_example_is_left_out() -> None:
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == {
        "lars_in_your_loop.py",
        "warmup_in_your_loop.py",
        "read_records.py",
        "trials_on_ray.py",  # run by tests/gates/test_ray.py, since it needs Ray
    }
