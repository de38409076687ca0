"""Workers that start before the data are read: taken, or ended, never left."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from batchcliff import api
from batchcliff.canonical import to_plain
from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.spec import Model, Settings, StudySpec
from batchcliff.study import ahead, ranks
from batchcliff.study.engines.local import Worker
from batchcliff.studyfile import load_study
from batchcliff.training.rehearsal import PARTS


@pytest.fixture
def study() -> StudySpec:
    changes = {"seeds": "2", "batch_sizes": "256,512", "budget": "2ep"}
    return load_study("digits", **changes)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Every worker that is started in this process."""
    made: list[Worker] = []
    begin = Worker.__init__

    def init(self: Worker, *args: Any) -> None:
        begin(self, *args)
        made.append(self)

    monkeypatch.setattr(Worker, "__init__", init)
    return made


@contextlib.contextmanager
def two(study: StudySpec, folder: Path, **options: Any) -> Iterator[None]:
    options = {"device": "cpu", "workers": 2, "plain": True} | options
    with ahead.started_ahead(study, folder, **options):
        yield


def is_over(worker: Worker) -> bool:
    return worker.process.returncode is not None


def test_they_are_taken_by_environment_and_the_others_are_ended(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    with two(study, tmp_path / "new"):
        assert len(started) == 2
        environment = dict(ahead._waiting[0][0])
        assert ahead.take({**environment, "OMP_NUM_THREADS": "7"}) is None
        taken = ranks.start({"ranks": 1, "environment": environment})
        assert taken is started[0] and not is_over(taken)
    assert is_over(started[1]) and not is_over(taken) and not ahead._waiting
    taken.kill()
    taken.close()


def test_as_many_are_kept_as_are_wanted(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    with two(study, tmp_path / "new"):
        ahead.keep(1)
        assert [is_over(worker) for worker in started] == [False, True]
    assert all(map(is_over, started))


def test_none_for_a_folder_that_is_there_or_for_teams(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    with two(study, tmp_path), two(study, tmp_path / "new", plain=False):
        assert not started


def test_no_more_than_there_are_jobs(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    with two(study, tmp_path / "new", workers=9):
        assert len(started) == 2  # two batch sizes; the four trials of one are one stack


def test_none_is_left_when_the_study_is_refused(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    with pytest.raises(UsageError):
        api.run(study, out=tmp_path / "s", device="cpu", checkpoint_every=-1.0)
    assert started and all(map(is_over, started)) and not ahead._waiting


def test_a_run_trains_with_them(
    study: StudySpec, tmp_path: Path, started: list[Worker]
) -> None:
    summary = api.run(study, out=tmp_path / "s", device="cpu", workers=2)
    assert summary.counts == {Outcome.OK: 8} and len(started) == 2
    again = api.run(study, out=tmp_path / "s", device="cpu", workers=2)
    assert again.counts == summary.counts and len(started) == 2  # nothing is left to train


def test_one_that_rehearses_ends_by_itself(started: list[Worker]) -> None:
    settings = Settings(model=Model(name="conv-net", widths=((8,),)))
    worker = ahead._started({"OMP_NUM_THREADS": "1"}, "cpu", settings, 0, 1)
    try:
        assert worker.receive() is None  # the end, after nothing
        assert worker.reap(PATIENCE) == 0
    finally:
        worker.kill()
        worker.close()


@pytest.mark.parametrize(("cores", "builders"), [(16, 11), (4, 2), (2, 1), (1, 1)])
def test_on_a_gpu_other_processes_build_kernels_each_a_part(
    study: StudySpec,
    tmp_path: Path,
    started: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    builders: int,
) -> None:
    monkeypatch.setattr(ahead, "_usual", lambda *_: ("cuda", 1, {"A": "B"}, 2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(ahead, "host_room", lambda: None)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Worker, "send", lambda _, message: told.append(message))
    with two(study, tmp_path / "new"):
        assert len(started) == builders + 2 and len(ahead._waiting) == 2
        assert [message["of"] for message in told[builders:]] == [0, 0]
        parts = [PARTS[message["part"] :: message["of"]] for message in told[:builders]]
        assert sorted(itertools.chain(*parts)) == sorted(PARTS) and all(parts)
        assert all(message["settings"] == to_plain(study.settings) for message in told)
    assert all(map(is_over, started))
