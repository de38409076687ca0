"""Runs a probe before any study: each part in a process of its own, nothing is kept of it.

No store is opened and no file is written. A process that runs out of memory, crashes or
hangs ends its own part; what it had read until then counts, and the other part runs.
"""

from __future__ import annotations

import dataclasses
import math
import selectors
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.errors import DataError, UsageError
from batchcliff.record import Ledger
from batchcliff.spec import Arm, Explosion, Stop, StudySpec, TrialSpec
from batchcliff.study import grid
from batchcliff.study.engines.local import Worker, end_of_process
from batchcliff.study.material import Material, load_material
from batchcliff.study.placement import devices_of, environment, resolve_device
from batchcliff.study.supervisor import worker_setup
from batchcliff.training.arithmetic import CHANGE_BATCH, arithmetic
from batchcliff.training.probe_readings import READINGS, Ended, Place, Reading, Room, Speed
from batchcliff.workloads import own_reference

SMALLEST = 16  # batch size that is timed
STARTING = 600.0  # seconds that a process may take before it is ready: it reads the data
PATIENCE = 3.0, 120.0  # times its share, plus seconds: then a part is taken to hang
HURT = (DataError.__name__, UsageError.__name__)


class ProbeWorker(Worker):
    """A worker that measures."""

    command = (sys.executable, "-P", "-m", "batchcliff.study.probe_worker")


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What a probe read. problems: in words, of parts that did not end by themselves.

    spec: the trial whose first updates were trained. skipped: batch sizes that cannot run,
    with the reason.
    """

    spec: TrialSpec
    ledger: Ledger
    speeds: tuple[Speed, ...]
    places: tuple[Place, ...]
    room: Room | None
    speed_ended: Ended | None
    places_ended: Ended | None
    skipped: dict[int, str]
    problems: tuple[str, ...]
    seconds: float


def probe(
    study: StudySpec,
    arm: Arm,
    *,
    seconds: float,
    device: str = "auto",
    data: Path | None = None,
    workload_reference: str | None = None,
) -> Readings:
    """Probe an arm of `study` on `device`, for about `seconds` beyond the start of the
    processes, half of them for each part.

    Raises UsageError for what cannot be probed, and DataError.
    """
    if not 1 <= seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: write at least 1, such as 60")
    _check(study, arm)
    device = devices_of(resolve_device(device))[0]
    reference = workload_reference or own_reference(study.workload)
    material = load_material(reference, study.data, data)
    base = grid.rule_of(study, arm).base_batch_size
    sizes = _sizes(material.facts.num_train)
    specs, ledgers, reasons = _trials(study, arm, material, [*sizes, base])
    trained = specs.pop()
    if trained.trial_id not in ledgers:
        raise UsageError(
            f"--probe: arm {arm.name!r} cannot run at batch size {base}, at which its "
            f"learning rate is given: {reasons[trained.trial_id]}"
        )
    feasible = [spec for spec in specs if spec.trial_id in ledgers]
    skipped = {s.batch_size: reasons[s.trial_id] for s in specs if s.trial_id in reasons}
    setup = {
        **worker_setup(study, material, data, device, reference),
        "groups": sorted({s.settings.batch_norm.group for s in [*specs, trained]}, key=str),
        "checkpoint_every": 0,
        "deterministic": False,
        "alone": True,
        "ranks": 1,
    }
    started = time.monotonic()
    speed = _run("speed", feasible, seconds / 2, setup) if feasible else _Part()
    gradients = _run("gradients", [trained], seconds / 2, setup)
    return Readings(
        spec=trained,
        ledger=ledgers[trained.trial_id],
        speeds=tuple(r for r in speed.found if isinstance(r, Speed)),
        places=tuple(r for r in gradients.found if isinstance(r, Place)),
        room=next((r for r in speed.found if isinstance(r, Room)), None),
        speed_ended=speed.ended,
        places_ended=gradients.ended,
        skipped=skipped,
        problems=tuple(p for p in (speed.problem, gradients.problem) if p),
        seconds=time.monotonic() - started,
    )


def _check(study: StudySpec, arm: Arm) -> None:
    """UsageError for an arm of which a short probe cannot speak."""
    changing = [name for name, _ in arm.techniques if name in CHANGE_BATCH]
    if changing:
        raise UsageError(
            f"--probe: the batch size of arm {arm.name!r} changes during the run "
            f"({changing[0]}). Name another with --arm."
        )
    if grid.arm_settings(study.settings, arm).pretraining is not None:
        raise UsageError(
            f"--probe: the trials of study {study.name!r} begin with pretrained weights, which "
            "a probe does not make. Run a small study instead: batchcliff run ... --seeds 1"
        )


def _sizes(num_train: int) -> list[int]:
    """Powers of two up to the training set; that alone, if it is smaller than all of them."""
    exponents = range(SMALLEST.bit_length() - 1, num_train.bit_length())
    return [2**k for k in exponents if 2**k <= num_train] or [num_train]


def _trials(
    study: StudySpec, arm: Arm, material: Material, sizes: list[int]
) -> tuple[list[TrialSpec], dict[str, Ledger], dict[str, str]]:
    """The arm's trials of the first seed, without what watches or probes them."""
    specs = []
    for size in sizes:
        spec = grid.whole_trial(study, arm, size)
        settings = dataclasses.replace(
            spec.settings, probes=(), probe_at=(), explosion=Explosion(), stop=Stop()
        )
        digest, seed = material.dataset.digest, study.seeds[0]
        specs.append(
            dataclasses.replace(spec, settings=settings, seed=seed, data_digest=digest)
        )
    return specs, *arithmetic(specs, material.facts, lambda s: grid.provenance_of(study, s))


@dataclass(slots=True)
class _Part:
    """What one process read, and in words why it did not end by itself."""

    found: list[Reading] = dataclasses.field(default_factory=list)
    problem: str = ""

    @property
    def ended(self) -> Ended | None:
        return next((r for r in self.found if isinstance(r, Ended)), None)


def _run(part: str, specs: list[TrialSpec], seconds: float, setup: dict[str, Any]) -> _Part:
    """One part of the probe, in a process that is gone when this returns."""
    device, found = setup["device"], _Part()
    # Compiling every batch size would take longer than the whole probe.
    uncompiled = {"TORCH_COMPILE_DISABLE": "1"}
    worker = ProbeWorker({**environment(device, 1), **uncompiled})
    try:
        worker.send(setup)
        plain = [to_plain(spec) for spec in specs]
        worker.send({"part": part, "specs": plain, "seconds": seconds})
        _listen(worker, part, seconds, found)
    except OSError:  # it was gone before it had read what it is to do
        found.problem = _lost(worker, part)
    finally:
        worker.close(grace=0)
    return found


def _listen(worker: Worker, part: str, seconds: float, found: _Part) -> None:
    deadline = time.monotonic() + STARTING
    with selectors.DefaultSelector() as selector:
        selector.register(worker, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                found.problem = f"{_words(part)}: no end in sight, so it was stopped"
                return
            messages = worker.receive()
            if messages is None:
                found.problem = _lost(worker, part)
                return
            for message in messages:
                event = message["event"]
                if event == "ready":
                    times, more = PATIENCE
                    deadline = time.monotonic() + times * seconds + more
                elif event == "reading":
                    kind = READINGS[message["kind"]]
                    found.found.append(from_plain(kind, message["reading"]))
                elif event == "error":
                    found.problem = _failed(message, part)
                    return
                elif event == "idle":
                    return


def _words(part: str) -> str:
    return "speed and memory" if part == "speed" else "gradient noise and sharpness"


def _failed(message: dict[str, Any], part: str) -> str:
    """What the process said of its end. What is wrong with the study or the data is raised."""
    text = f"{message['kind']}: {message['message']}".partition("\n")[0]
    if message["ours"] and message["kind"] in HURT:
        raise (DataError if message["kind"] == HURT[0] else UsageError)(message["message"])
    what = "out of memory" if message["out_of_memory"] else "failed"
    return f"{_words(part)}: {what}: {text}"


def _lost(worker: Worker, part: str) -> str:
    end = end_of_process(worker.reap(grace=1.0))
    why = ""
    if end == "SIGKILL":
        why = ", as the kernel does when memory runs out"
    said = worker.tail(1)
    return f"{_words(part)}: the process ended by {end}{why}" + (f": {said}" if said else "")
