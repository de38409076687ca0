"""Every gate at its large size, once in a while: `make soak`; hours on two cores.

Writes benchmarks/<date>-<machine>-soak.json after each gate, with what was run, how often,
how long, and whether it passed; so a run that is cut short leaves what it did.

    python soak/run.py                  all gates, then a million executions for each reader
    python soak/run.py kills cuts       some of them
    python soak/run.py fuzz --fuzz-runs 20000 --readers study-file,override
    BATCHCLIFF_SIZE_KILLS=5000 python soak/run.py kills
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "gates"), str(ROOT / "fuzz"), str(ROOT / "soak")]

# The size that grows, and the tests that take it; their negative controls run with them.
GATES = {
    "kills": "tests/study/test_store_kills.py",
    "run_kills": "tests/study/test_supervisor_kills.py",
    "injections": "tests/study/test_store_system.py",
    "calls": "tests/study/test_store_disk.py::test_trouble_at_every_single_call",
    "cuts": "tests/study/test_store_disk.py",
    "mutations": "tests/study/test_store_records.py",
    "machines": "tests/gates/test_store_machine.py",
    "peer_trials": "tests/gates/test_crowd.py",
    "orphans": "tests/gates/test_orphans.py",
    "signals": "tests/gates/test_processes.py::test_a_signal_at_any_moment",
    "bad_updates": "tests/gates/test_divergence.py",
}


def gate(name: str) -> dict[str, Any]:
    """Run one gate's tests at the soak size, as nobody's hurry."""
    from sizes import SIZES, size

    os.environ["BATCHCLIFF_GATES"] = "soak"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
               "timeout=0", str(ROOT / GATES[name])]  # fmt: skip
    begun = time.monotonic()
    ended = subprocess.run(["nice", "-n", "19", *command], cwd=ROOT, capture_output=True,
                           text=True, errors="replace")  # fmt: skip
    said = {
        "gate": name, "n": size(name), "of": SIZES[name].what, "tests": GATES[name],
        "passed": ended.returncode == 0, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    return said if said["passed"] else said | {"output": ended.stdout[-4000:]}


def fuzz(reader: str, runs: int) -> dict[str, Any]:
    """Fuzz one reader: with libFuzzer if it is here, else with the small fuzzer."""
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutate"
    command = [sys.executable, str(ROOT / "fuzz" / "run.py"), reader, "--runs", str(runs),
               "--engine", engine]  # fmt: skip
    ended = subprocess.run(["nice", "-n", "19", *command], capture_output=True, text=True)
    line = ended.stdout.splitlines()[-1] if ended.stdout else "{}"
    said = {"gate": "fuzz", "passed": ended.returncode == 0, **json.loads(line)}
    return said if said["passed"] else said | {"output": ended.stderr[-2000:]}


def about() -> dict[str, Any]:
    """The machine and the versions."""
    names = ("batchcliff", "hypothesis", "numpy", "pyarrow", "pillow", "pydantic", "torch")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    versions = {}
    for name in (*names, "atheris"):
        if importlib.util.find_spec({"pillow": "PIL"}.get(name, name)):
            versions[name] = metadata.version(name)
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} "
        f"{platform.release()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": versions,
    }


def main() -> int:
    from batchcliff.provenance import utc_now

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("gates", nargs="*", help=f"{', '.join(GATES)}, cost, fuzz")
    options.add_argument("--fuzz-runs", type=int, default=1_000_000)
    options.add_argument("--readers", default="", help="comma-separated; default: all")
    options.add_argument("--out", type=Path)
    wanted = options.parse_args()
    known = [*GATES, "cost", "fuzz"]
    if unknown := [name for name in wanted.gates if name not in known]:
        options.error(f"unknown gate {unknown[0]!r}; known: {', '.join(known)}")
    day, arch = utc_now()[:10], platform.machine().split("_")[0]
    path = wanted.out or (ROOT / "benchmarks" / f"{day}-{os.cpu_count()}core-{arch}-soak.json")
    result = about() | {"command": "python soak/run.py", "results": []}
    if path.exists():  # what an earlier run of the day did is kept
        result["results"] = json.loads(path.read_text(encoding="utf-8"))["results"]

    def note(said: dict[str, Any]) -> bool:
        result["results"].append({"at": utc_now(), **said})
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(said)[:300], flush=True)
        return bool(said["passed"])

    fine = True
    for name in wanted.gates or known:
        if name == "fuzz":
            import readers

            for reader in wanted.readers.split(",") if wanted.readers else readers.READERS:
                fine = note(fuzz(reader, wanted.fuzz_runs)) and fine
        elif name == "cost":
            from cost import cost

            fine = note(cost()) and fine
        else:
            fine = note(gate(name)) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
