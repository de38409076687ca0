"""Stores to try things on, a folder in memory, and a process that forks peers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fake_peer
import pytest
from six_trials import TRIALS

from batchcliff.study.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `store` is; its parents do not exist before."""
    return tmp_path / "deep/er/study"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """A store of the six trials, none of which has a record."""
    with fake_peer.start(folder, TRIALS) as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory if there is one: fsync is free there."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture
def zygote() -> Iterator[fake_peer.Zygote]:
    """A process that has imported everything, and forks peers on command."""
    running = fake_peer.Zygote()
    yield running
    running.close()
