"""The process that holds the workers' group: quiet at our end, and never waited for."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, subprocess, sys
from batchcliff.study.engines.local import leashed_group
group = leashed_group()
os.kill(group, 9)
os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
subprocess.run([sys.executable, "-c", ""], check=True)  # Popen reaps what it was left
os.kill(group, 0)  # ProcessLookupError if the number were free for somebody else
"""


def test_the_first_of_the_group_leaves_no_warning_and_keeps_its_number() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
