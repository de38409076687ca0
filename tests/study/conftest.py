"""Stores to try things on, a folder in memory, a process that forks peers, and workers that
pretend."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fake_disk
import fake_peer
import fake_worker
import pytest
from dispatched import FIVE
from six_trials import TRIALS
from study_runs import MARK, all_gone, run, table

from batchcliff.study import dispatch, stuck
from batchcliff.study.engines.local import Worker, leashed_group
from batchcliff.study.store import Store


@pytest.fixture(scope="session", autouse=True)
def leash() -> None:
    """The process that holds our workers' group lives as long as we do: it is started before
    a test marks what it starts, and then looks for what is left of that."""
    leashed_group()


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
    with tempfile.TemporaryDirectory(dir=fake_disk.in_memory()) as name:
        yield Path(name)


@pytest.fixture
def zygote() -> Iterator[fake_peer.Zygote]:
    """A process that has imported everything, and forks peers on command."""
    running = fake_peer.Zygote()
    yield running
    running.close()


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake workers, none of which outlives its test."""
    mark = uuid.uuid4().hex
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setattr(stuck, "TERM_SECONDS", 0.5)  # who is stopped hears no SIGTERM
    # What the kernel kills for lack of memory meanwhile is some other test's.
    monkeypatch.setattr(dispatch, "oom_kills", lambda: 0)
    monkeypatch.setenv(MARK, mark)
    yield
    assert all_gone(mark, seconds=0.0), "a run must not end before its workers have"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of FIVE without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "command", fake_worker.COMMAND)
        assert run(FIVE, folder).exit_code == 0
    return table(folder)
