"""`python slowly.py run …` is `batchcliff run …`, but its workers rest after every update.

A signal that a test sends in the middle of a real trial then meets it there, however fast the
machine and however late the signal. The rest changes no bit. The worker is this file as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from batchcliff.cli import main as command_line
from batchcliff.study import worker
from batchcliff.study.engines.local import Worker

REST = 0.02  # seconds: of some hundred updates that makes many


class Slow(worker.Station):
    def work(self, job: dict[str, Any]) -> None:
        from batchcliff.training import epochs

        class Every(epochs.Every):
            def due(self) -> bool:
                time.sleep(REST)
                return super().due()

        epochs.Every = Every  # type: ignore[misc]
        super().work(job)


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        sys.exit(worker.main(*map(int, sys.argv[1:4]), kind=Slow))
    Worker.command = (sys.executable, str(Path(__file__).resolve()))
    command_line()
