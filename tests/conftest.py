"""For all tests: where shared modules lie, where a command line stands, what a GPU changes,
and that no example of a law is drawn, or judged, by chance."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The import mode is importlib, which puts no folder of a test on the path. Modules with telling
# names lie where they were first needed; each name is there once.
HERE = Path(__file__).resolve().parent
ROOMS = (
    "advising", "data", "gates", "kernels", "optimizers", "report", "stats", "study",
    "training",
)  # fmt: skip
BESIDE = ("benchmarks", "docs", "fuzz", "locks")
sys.path[:0] = [
    str(HERE),
    *(str(HERE / room) for room in ROOMS),
    *(str(HERE.parent / folder) for folder in BESIDE),
]

# Whoever meets a counterexample meets it again, and a slow machine is none. `make soak` draws
# other examples every time.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=os.environ.get("BATCHCLIFF_GATES") != "soak",
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

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
