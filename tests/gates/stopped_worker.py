"""A fake worker that is stopped before it has asked for anything, as by somebody's SIGSTOP."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "study"))

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGSTOP)
    import fake_worker

    fake_worker.main(int(sys.argv[1]), int(sys.argv[2]))
