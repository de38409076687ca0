"""For all tests: where shared modules lie, where a command line stands, what a GPU changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The import mode is importlib, which puts no folder of a test on the path. Modules with telling
# names lie where they were first needed; each name is there once.
HERE = Path(__file__).resolve().parent
ROOMS = ("advising", "gates", "kernels", "optimizers", "report", "stats", "study", "training")
BESIDE = ("benchmarks", "docs", "fuzz", "locks")
sys.path[:0] = [
    str(HERE),
    *(str(HERE / room) for room in ROOMS),
    *(str(HERE.parent / folder) for folder in BESIDE),
]

# torch's compiler and profiler warn about themselves on a GPU; ours stay errors.
TORCHS_OWN = ("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command line: empty, before a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU run torch's compiler."""
    for item in items:
        if item.get_closest_marker("gpu"):
            for warning in TORCHS_OWN:
                item.add_marker(pytest.mark.filterwarnings(warning))
