"""Marks: one line each, from any process, and nothing unless they are asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchcliff.trace import VARIABLE, mark


def test_lines_of_all_processes_on_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "trace"
    monkeypatch.setenv(VARIABLE, str(place))
    mark("first")
    code = "from batchcliff.trace import mark; mark('second', lambda: {'a': 1.5})"
    subprocess.run([sys.executable, "-c", code], check=True)
    mark("third")
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert [line["what"] for line in lines] == ["first", "second", "third"]
    assert lines[1]["facts"] == {"a": 1.5} and lines[0]["pid"] == os.getpid()
    assert lines[0]["at"] < lines[1]["at"] < lines[2]["at"]


def test_without_a_file_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    mark("nothing", lambda: 1 / 0)
