"""Bytes of strangers: every reader fuzzed for a while, and all that ever broke one replayed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutate
import pytest
import readers
from sizes import size
from watch import watch

ROOT = Path(__file__).parents[2]
FOUND = sorted(path for path in (ROOT / "fuzz" / "found").glob("*/*") if path.is_file())


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", readers.READERS)
def test_a_reader_survives_any_bytes(name: str) -> None:
    reader, seeds = readers.ready(name)
    with watch():
        result = mutate.fuzz(
            reader.read,
            seeds,
            reader.tokens,
            seconds=float(size("fuzz_seconds")),
            executions=size("fuzz_runs"),
            most_bytes=readers.MOST_BYTES,
        )
    assert result.finding is None, (result.error, result.finding)
    assert result.executions > len(seeds)
    assert len(result.lines) > 10, "the fuzzer did not get into our code"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke_a_reader_does_so_no_more(path: Path) -> None:
    reader, _ = readers.ready(path.parent.name)
    with watch():
        reader.read(path.read_bytes())


def fragile(data: bytes) -> None:
    """A reader with a bug behind two conditions."""
    if data[:4] == b"HEAD" and len(data) > 40:
        raise KeyError("found")


def test_control_a_planted_bug_is_found() -> None:
    result = mutate.fuzz(fragile, [b"xxxx" * 4, b"body"], (b"HEAD",), executions=20_000)
    assert isinstance(result.error, KeyError), result
    assert result.finding is not None and result.finding.startswith(b"HEAD")


def test_control_new_lines_are_noticed() -> None:
    """Seeds that reach more of a reader's lines than one seed alone."""
    reader, seeds = readers.ready("cifar-archive")
    one = mutate.fuzz(reader.read, [b""], executions=1)
    all_ = mutate.fuzz(reader.read, seeds, executions=len(seeds))
    assert len(all_.lines) > len(one.lines) > 5


@pytest.mark.parametrize(
    "code",
    [
        "os.system('true')",
        "subprocess.Popen(['true'])",
        "open('/tmp/never-written-by-a-reader', 'wb')",
        "os.open('/tmp/never-written-by-a-reader', os.O_CREAT)",
        "pickle.loads(b'cos\\nsystem\\n.')",
        "socket.create_connection(('127.0.0.1', 9))",
        "os.mkdir('/tmp/never-made-by-a-reader')",
        "zipfile.ZipFile('/tmp/never-written-by-a-reader', 'w')",
    ],
)
def test_control_a_reader_that_trespasses_is_caught(code: str) -> None:
    """In a process of its own: an audit hook cannot be taken away again."""
    program = (
        "import os, pickle, socket, subprocess, sys, zipfile\n"
        f"sys.path.insert(0, {str(ROOT / 'fuzz')!r})\n"
        "import watch\n"
        "watch.scratch()\n"
        "with watch.watch():\n"
        f"    try:\n        {code}\n"
        "    except watch.Trespass:\n        print('caught')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "caught\n", ended.stderr
    assert not Path("/tmp/never-written-by-a-reader").exists()
