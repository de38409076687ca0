"""A helper answers whoever asks it, and ends when there is nobody any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchcliff.helper import Helper

UPPER = """
from batchcliff.helper import serve

def answered(request):
    print("what a library prints")
    return [part.upper() for part in request]

serve(answered)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is a helper."""
    (tmp_path / "upper_helper.py").write_text(UPPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "upper_helper"


def test_parts_of_any_bytes_and_what_is_printed_is_no_answer(
    module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    helper = Helper(module)
    large = b"ab\n\0\xff" * 100_000  # more than a pipe holds
    assert helper.ask([b"", b"a\nb", large]) == [b"", b"A\nB", large.upper()]
    assert helper.ask([]) == []
    helper.end()
    assert helper.process.returncode == 0
    assert capfd.readouterr().err == "what a library prints\n" * 2


def test_one_that_is_gone_gives_no_answer(module: str) -> None:
    helper = Helper(module)
    helper.process.kill()
    helper.process.wait()
    with pytest.raises((OSError, EOFError)):
        helper.ask([b"x"])
    helper.end()


@pytest.mark.parametrize("said", ["[]", "{}", '{"sizes": 1}', '{"sizes": ["1"]}', "no JSON"])
def test_what_is_no_message_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (tmp_path / "odd_helper.py").write_text(f"input()\nprint({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    helper = Helper("odd_helper")
    with pytest.raises(ValueError):
        helper.ask([b""])
    helper.end()


@pytest.mark.parametrize("said", [b"", b'{"sizes": [3]}\nab'])
def test_it_ends_without_a_word_when_who_asks_is_gone(module: str, said: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module], input=said, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
