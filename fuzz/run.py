"""Fuzz one reader, or all: `python fuzz/run.py [READER ...] --runs N | --seconds S`.

`--engine atheris` uses libFuzzer with coverage (pip install atheris; Linux, CPython 3.11 to
3.13); `--engine mutate`, the default, is the small one beside this file. Prints a line of
JSON for each reader; exit code 1 and the input in fuzz/found/ if one broke.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
FOUND = HERE / "found"


def keep(reader: str, data: bytes) -> Path:
    """Write the input that broke a reader where the tests replay it from."""
    place = FOUND / reader
    place.mkdir(parents=True, exist_ok=True)
    path = place / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def with_mutate(name: str, runs: int, seconds: float, seed: int) -> dict[str, object]:
    """In this process."""
    import mutate
    import readers
    from watch import watch

    reader, seeds = readers.ready(name)
    with watch():
        result = mutate.fuzz(reader.read, seeds, reader.tokens, executions=runs,
                             seconds=seconds, seed=seed)  # fmt: skip
    said: dict[str, object] = {
        "reader": name, "engine": "mutate", "executions": result.executions,
        "seconds": round(result.seconds, 1), "lines": len(result.lines), "kept": result.kept,
    }  # fmt: skip
    if result.finding is not None:
        said |= {"found": str(keep(name, result.finding)), "error": repr(result.error)[:500]}
    return said


def with_atheris(name: str, runs: int, seconds: float, seed: int) -> dict[str, object]:
    """In a process of its own, since libFuzzer ends the one that it runs in."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        limits = [f"-runs={runs}"] if runs else [f"-max_total_time={int(seconds)}"]
        command = [sys.executable, __file__, name, "--serve", str(corpus), "--", *limits,
                   f"-seed={seed + 1}", f"-artifact_prefix={folder}/", "-rss_limit_mb=4096",
                   str(corpus)]  # fmt: skip
        begun = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        took = time.monotonic() - begun
        done = re.findall(r"Done (\d+) runs", ended.stderr)
        covered = re.findall(r"cov: (\d+)", ended.stderr)
        said: dict[str, object] = {
            "reader": name, "engine": "atheris", "seconds": round(took, 1),
            "executions": int(done[-1]) if done else 0,
            "covered": int(covered[-1]) if covered else 0,
        }  # fmt: skip
        broken = [p for p in Path(folder).iterdir() if p.is_file()]
        if ended.returncode or broken:
            said["error"] = ended.stderr[-500:]
            said["found"] = [str(keep(name, path.read_bytes())) for path in broken]
        return said


def serve(name: str, corpus: Path, arguments: list[str]) -> None:
    """The process that libFuzzer runs in."""
    import atheris

    with atheris.instrument_imports(include=["batchcliff", "tomllib", "json", "zipfile"]):
        import readers
        from watch import watch

        reader, seeds = readers.ready(name)  # in here: some import only what they need
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def one(data: bytes) -> None:
        with watch():
            reader.read(data[: readers.MOST_BYTES])

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("readers", nargs="*")
    options.add_argument("--runs", type=int, default=0)
    options.add_argument("--seconds", type=float, default=0.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    options.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        cut = ours.index("--")
        ours, theirs = ours[:cut], ours[cut + 1 :]
    wanted = options.parse_args(ours)
    if wanted.serve is not None:
        serve(wanted.readers[0], wanted.serve, theirs)
        return 0
    import readers

    names = wanted.readers or list(readers.READERS)
    if unknown := [name for name in names if name not in readers.READERS]:
        options.error(f"unknown reader {unknown[0]!r}; known: {', '.join(readers.READERS)}")
    if not wanted.runs and not wanted.seconds:
        options.error("give --runs N or --seconds S")
    engine = with_atheris if wanted.engine == "atheris" else with_mutate
    broken = False
    for name in names:
        said = engine(name, wanted.runs, wanted.seconds, wanted.seed)
        print(json.dumps(said), flush=True)
        broken = broken or "error" in said
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
