"""The README says that nothing is needed that only Linux has: a study on a machine without it.

A stand-in: the calls that CPython has on Linux alone are taken away, in every process of the
run. What else differs there (/proc, signals of pipes) is asked for by `sys.platform` or does
without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Of the os module, by its documentation: "Availability: Linux" or "not macOS".
LINUX_ALONE = (
    "sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise",
    "memfd_create", "waitid", "pidfd_open", "eventfd", "splice", "copy_file_range",
    "fdatasync", "pipe2", "getrandom", "setresuid", "O_TMPFILE", "O_PATH",
)  # fmt: skip
SITE = f"""
import os, pathlib
for name in {LINUX_ALONE!r}:
    if hasattr(os, name):
        delattr(os, name)
pathlib.Path(os.environ["SEEN"], str(os.getpid())).touch()
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of such a machine."""
    (tmp_path / "site").mkdir()
    (tmp_path / "seen").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "SEEN": str(tmp_path / "seen")}


def test_a_study_runs_and_is_reported(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    words = ["run", "noisy-quadratic", "--seeds", "1", "--set", "batch_sizes=[8, 64]", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "batchcliff", *words, "--out", str(tmp_path / "s")],
        env=elsewhere, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["missing"] == 0
    assert (tmp_path / "s" / "report" / "index.html").exists()
    assert len(list((tmp_path / "seen").iterdir())) >= 2, "driver and workers"


def test_the_doctor_answers(elsewhere: dict[str, str]) -> None:
    command = [sys.executable, "-m", "batchcliff", "doctor"]
    done = subprocess.run(command, env=elsewhere, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "CPUs" in done.stdout, done.stdout + done.stderr
