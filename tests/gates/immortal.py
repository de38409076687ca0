"""A fake worker that does not ask the kernel to end it with its driver: a negative control."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "study"))
import fake_worker

if __name__ == "__main__":
    fake_worker.die_with = lambda _: None
    fake_worker.main(int(sys.argv[1]), int(sys.argv[2]))
