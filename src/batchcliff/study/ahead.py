"""Workers that start while the driver still reads the data.

Importing torch and its compiler, connecting to a GPU and building the first kernels takes a
process as long as reading the data takes the driver, and needs nothing of them. So a new
study's first workers are started first and told to warm up; the dispatcher takes them when it
wants workers of the same environment. Those that it does not take are ended.

Hand-written kernels are built one after the other, which takes a GPU's process as long as all
that the compiler does. Other processes build them meanwhile, each a part, as far as there are
cores, and leave them where the workers find them (training/rehearsal.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from batchcliff.canonical import to_plain
from batchcliff.host import cores, host_room
from batchcliff.spec import Settings, StudySpec
from batchcliff.study.devices import builders_on, free_bytes
from batchcliff.study.engines.local import Worker
from batchcliff.study.jobs import STACK
from batchcliff.study.placement import (
    default_workers,
    devices_of,
    environment,
    resolve_device,
)

_waiting: list[tuple[dict[str, str], Worker]] = []  # oldest first


def take(environment: Mapping[str, str]) -> Worker | None:
    """A worker that was started ahead with this environment, or None."""
    for place, (known, worker) in enumerate(_waiting):
        if known == environment:
            del _waiting[place]
            return worker
    return None


def keep(count: int) -> None:
    """End those that are more than `count`."""
    while len(_waiting) > count:
        _, worker = _waiting.pop()
        worker.kill()
        worker.close(0.0)


@contextlib.contextmanager
def started_ahead(
    study: StudySpec, folder: Path, *, device: str, workers: int | None, plain: bool
) -> Iterator[None]:
    """Within the block the first workers of `study` are there to be taken.

    None are started for a study that has a folder: it may have no trial left. plain: each
    trial is trained by one process, with the environment that every such process has.
    Raises UsageError for a device that is not there.
    """
    count, builders = 0, 0
    building: list[Worker] = []
    if plain and not folder.exists():
        kind, gpus, environment, width = _usual(device, workers)
        count = min(width, _fewest_jobs(study, kind))
    try:
        if count and kind == "cuda":
            builders = builders_on(gpus, cores(), width, free_bytes(), host_room())
        for part in range(builders):
            building.append(_started(environment, kind, study.settings, part, builders))
        for _ in range(count):
            _waiting.append((environment, _started(environment, kind, study.settings)))
        yield
    finally:
        keep(0)
        for worker in building:
            worker.kill()
            worker.close(0.0)


def _started(
    environment: dict[str, str], kind: str, settings: Settings, part: int = 0, of: int = 0
) -> Worker:
    """A worker that warms up, or makes part `part` of `of` of a rehearsal and ends."""
    worker = Worker(environment)
    told = {"warm": kind, "settings": to_plain(settings), "part": part, "of": of}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.send(told)
    return worker


def _usual(device: str, workers: int | None) -> tuple[str, int, dict[str, str], int]:
    """The kind of device and how many there are, the environment of workers and how many of
    them `run_study` will want."""
    found = resolve_device(device)
    count = len(devices_of(found))
    width = workers or default_workers(found, count)
    return found.partition(":")[0], count, environment(found, width), width


def _fewest_jobs(study: StudySpec, kind: str) -> int:
    """Jobs that the study has at least, if trials are stacked where they may be."""
    if study.search is not None:  # its first round: both ends of the ladder
        return 2
    trials = len(study.arms) * len(study.seeds)
    return len(study.batch_sizes) * -(-trials // (STACK if kind == "cpu" else 1))
