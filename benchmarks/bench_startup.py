"""Start-up: seconds until `batchcliff --help` has answered, and until schedules are imported.

    python benchmarks/bench_startup.py --json FILE

Each in a process of its own, the best of a few: the clock, and the CPU, which says more on a
machine with other work. An import is timed inside of the process, so that Python's own start
is left out. Then the modules that take longest, by their own time, best of as many runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from batchcliff.provenance import code_name, utc_now

TARGETS = {"batchcliff --help": 0.3, "import batchcliff.schedules": 0.05}  # seconds
IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import batchcliff.schedules
print(time.perf_counter() - wall, time.process_time() - cpu)
import sys
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


def help_seconds() -> tuple[float, float]:
    """(clock, CPU) of one `batchcliff --help`, Python's start included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "batchcliff", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return end - start, cpu


def import_seconds() -> tuple[float, float]:
    """(clock, CPU) of one import, in a process that was started for it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True
    )
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def slowest(command: list[str], runs: int, rows: int) -> list[tuple[str, float]]:
    """(module, milliseconds of its own) of what a command imports, the longest first."""
    best: dict[str, float] = {}
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command], check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        for line in done.stderr.splitlines():
            own, _, name = line.removeprefix("import time:").split("|")
            if own.strip().isdigit():
                module = name.strip()
                best[module] = min(best.get(module, float("inf")), int(own) / 1000)
    return sorted(best.items(), key=lambda item: -item[1])[:rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--profile", type=int, default=8, help="rows of it; 0: none")
    parser.add_argument("--json", type=Path, help="file for the result")
    chosen = parser.parse_args()
    measured = {
        "batchcliff --help": (help_seconds, ["-m", "batchcliff", "--help"]),
        "import batchcliff.schedules": (import_seconds, ["-c", "import batchcliff.schedules"]),
    }
    rows = []
    for what, (measure, command) in measured.items():
        runs = [measure() for _ in range(chosen.runs)]
        clock, cpu = min(r[0] for r in runs), min(r[1] for r in runs)
        target = TARGETS[what]
        print(
            f"{what:<28} {clock * 1e3:>6.0f} ms, of CPU {cpu * 1e3:.0f} ms; target "
            f"{target * 1e3:.0f} ms, ratio {clock / target:.2f}"
        )
        for module, own in slowest(command, chosen.runs, chosen.profile):
            print(f"    {own:>6.1f} ms  {module}")
        rows.append({
            "what": what, "seconds": clock, "cpu_seconds": cpu, "target": target,
            "runs": chosen.runs, "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(), "code": code_name(), "date": utc_now()[:10],
        })  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
