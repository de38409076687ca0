"""A fake worker that puts its own session on no leash: a negative control."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "study"))
import fake_worker

if __name__ == "__main__":
    fake_worker.main(int(sys.argv[1]), int(sys.argv[2]))
