"""Runs what a study still misses, and survives everything.

Resuming is a set difference (planned minus recorded). This process is the only one that
writes records; workers train. Killed at any moment, it leaves whole records and free leases,
and the same command goes on.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.data.sources import Dataset, forget_files
from batchcliff.errors import UsageError
from batchcliff.provenance import code_name
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.spec import StudySpec, TrialSpec
from batchcliff.study import ahead, grid
from batchcliff.study.adaptive import Adaptive, AdaptiveStages, Seek
from batchcliff.study.checkpoints import CheckpointFolder, room
from batchcliff.study.devices import free_bytes, gpus, workers_on
from batchcliff.study.dispatch import Dispatcher, Interrupted
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.leaving import check_grace
from batchcliff.study.material import Material, load_material
from batchcliff.study.micro_batch import check_wanted, wanted_micro_batch
from batchcliff.study.progress import Progress
from batchcliff.study.ranks import check_wanted_ranks, teams_of
from batchcliff.study.store import Store
from batchcliff.study.tuning import UNMEASURED, Choices, Choose, Stages
from batchcliff.training.arithmetic import arithmetic
from batchcliff.training.deterministic import ENVIRONMENT as DETERMINISTIC
from batchcliff.workloads import own_reference

CHECKPOINT_SECONDS = 120.0

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """How a run ended: trials by outcome, those without one, and the exit code."""

    counts: dict[str, int]
    missing: int
    exit_code: int
    folder: Path


def plan_trials(
    study: StudySpec, stages: Stages | AdaptiveStages, chosen: Choices, material: Material
) -> tuple[list[TrialSpec], dict[str, Ledger], list[TrialRecord]]:
    """All trials that can be planned with the rates that are chosen, the arithmetic of those
    that can run, and records of those that cannot."""
    reported = stages.reported(chosen)
    specs = [*stages.first, *stages.plain, *reported]
    provenance = functools.partial(grid.provenance_of, study)
    ledgers, reasons = arithmetic(specs, material.facts, provenance)
    for spec in reported:
        if spec.validation:  # no rate was found for it, see TunedCell.reported
            why = reasons.get(spec.trial_id)
            reasons[spec.trial_id] = f"{UNMEASURED} ({why})" if why else UNMEASURED
            ledgers.pop(spec.trial_id, None)
    infeasible = [
        TrialRecord(spec=spec, outcome=Outcome.INFEASIBLE, reason=reasons[spec.trial_id])
        for spec in specs
        if spec.trial_id in reasons
    ]
    return specs, ledgers, infeasible


def default_workers(device: str, gpus: int = 1, ranks: int = 1) -> int:
    """A process per core on a CPU; up to three on each GPU, where one compiles while others
    train, as far as there are cores and memory for them (study/devices.py).

    With `ranks`, as many teams as have cores, or one on each of `gpus` groups of GPUs.
    """
    cores = len(os.sched_getaffinity(0))
    if device == "cpu":
        return max(1, cores // ranks)
    return gpus if ranks > 1 else workers_on(gpus, cores, free_bytes())


def resolve_device(device: str) -> str:
    """ "auto" is the GPU if there is one; others are checked. UsageError if there is none."""
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    found = gpus()
    if device == "auto":
        return "cuda" if found else "cpu"
    name, _, number = device.partition(":")
    if name != "cuda" or not (number == "" or number.isdecimal()):
        raise UsageError(f"--device {device}: write auto, cpu, cuda or cuda:N")
    if int(number or 0) >= found:
        import torch

        raise UsageError(
            f"--device {device}: torch {torch.__version__} sees {found} CUDA devices"
        )
    return device


def devices_of(device: str) -> list[str]:
    """The devices that workers are spread over: "cuda" is every GPU, "cuda:1" that one."""
    if device != "cuda":
        return [device]
    return [f"cuda:{number}" for number in range(gpus())] or [device]


def _may_have_gpu() -> bool:
    """False where the kernel shows no NVIDIA device, which saves importing torch to ask."""
    return any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg")) or os.name == "nt"


def run_study(
    study: StudySpec,
    *,
    folder: Path,
    data: Path | None,
    device: str,
    workers: int | None,
    progress: Progress,
    workload_reference: str | None = None,
    accept_code_change: bool = False,
    extend: bool = False,
    shared: bool = False,
    weights: Path | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
    micro_batch: int | str | None = None,
    deterministic: bool = False,
    grace: float | None = None,
    ranks: int = 1,
    verify: bool = False,
    allow_mixed_numerics: bool = False,
    choose: Choose | None = None,
    seek: Seek | None = None,
) -> RunSummary:
    """Run or resume `study` in `folder` until every trial has an outcome.

    With `extend`, `study` may have more trials than the one in the folder, and other texts.
    shared: the folder is its group's (study/sharing.py).
    checkpoint_every: seconds of a trial after which it is saved at the end of an epoch; 0:
    never, and none is looked for.
    micro_batch: most examples that pass through a network at once in training, "auto", or
    None for "auto" on a GPU alone (study/micro_batch.py).
    deterministic: only with algorithms that repeat their bits (training/deterministic.py).
    grace: seconds that trials have to be saved after a signal (study/leaving.py).
    ranks: processes that train a trial together, a GPU each (study/ranks.py).
    verify: hash every file of the data again (data/verify.py).
    allow_mixed_numerics: go on from checkpoints that were made under other numerics.
    choose: of a study that tunes its learning rates, takes the best one from a cell's trials
    (study/tuning.py); the trials that depend on it run after those of all cells.
    seek: of an adaptive study, decides what is needed next (study/adaptive.py).
    Exit codes: 0 all done; 3 some failed; 130, 143, ... a signal stopped it (resumable).
    Raises UsageError and DataError before anything is written, StorageError (resumable).
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers}; at least 1 must train")
    if not 0 <= checkpoint_every < math.inf:
        raise UsageError(
            f"checkpoint_every: {checkpoint_every} is no number of seconds; write 120, or 0 "
            "for no checkpoints"
        )
    check_grace(grace)
    device = resolve_device(device)
    devices = teams_of(devices_of(device), ranks)
    wanted = wanted_micro_batch(micro_batch, device)
    workload_reference = workload_reference or own_reference(study.workload)
    if verify:
        forget_files()
    material = load_material(workload_reference, study.data, data)
    stages = _stages(study, material, choose, seek)
    specs, ledgers, _ = plan_trials(study, stages, {}, material)
    later, _ = arithmetic(stages.later, material.facts, lambda _: "")
    check_wanted(wanted, [*specs, *stages.later], ledgers | later)
    check_wanted_ranks(ranks, [*specs, *stages.later], ledgers | later)
    with Store.create(
        folder,
        study,
        _about(material.dataset),
        code_name(),
        accept_code_change=accept_code_change,
        extend=extend,
        shared=shared,
    ) as store:
        store.extend(stages.planned, study if extend else None, stages.possible)
        width = workers or default_workers(device, len(devices), ranks)
        done, chosen = store.records(), stages.decided(store)
        CheckpointFolder(store.folder).drop(done.keys())  # of a run that ended in between
        specs, ledgers, infeasible = plan_trials(study, stages, chosen, material)
        unique, waiting = {spec.trial_id: spec for spec in specs}, stages.waiting(chosen)
        progress.started(
            total=len(unique) + len(waiting),
            done=len(done.keys() & unique.keys()),
            examples=sum(item.examples for item in ledgers.values())
            + sum(later[s.trial_id].examples for s in waiting if s.trial_id in later),
            examples_done=sum(ledgers[i].examples for i in done if i in ledgers),
        )
        for item in store.quarantined:
            progress.note(f"quarantined {item}")
        setup = {
            **worker_setup(study, material, data, device, workload_reference),
            "devices": devices,
            "cache": str(store.cache),
            "study": str(store.folder),
            "checkpoint_every": checkpoint_every,
            "micro_batch": wanted,
            "weights": str(weights) if weights else "",
            "groups": sorted({s.settings.batch_norm.group for s in specs}, key=str),
            "deterministic": deterministic,
            "grace": grace,
            "mixing": allow_mixed_numerics,
            "ranks": ranks,
            "environment": environment(device, width)
            | (DETERMINISTIC if deterministic else {}),
        }
        fingerprints = Fingerprints(record.provenance for record in done.values())
        parked: set[str] = set()  # trials that are left for the next run
        while True:
            for record in infeasible:
                if record.trial_id not in done:
                    store.publish(record)
                    progress.finished(record)
            over = done.keys() | parked
            missing = [s for i, s in unique.items() if i in ledgers and i not in over]
            ahead.keep(min(width, len(missing)))
            if missing:
                store.check_space(room(0, width))
            setup["workers"] = -(-min(width, max(len(missing), 1)) // len(devices))
            dispatcher = Dispatcher(
                store, specs, ledgers, setup, width, progress, fingerprints, parked
            )
            if isinstance(stages, AdaptiveStages):
                more = functools.partial(stages.more, store, unique, ledgers, progress)
                dispatcher.more = more
            stopped = _until_signalled(dispatcher, missing)
            former = chosen
            if stopped is not None or (chosen := stages.decided(store)) == former:
                return _summary(store, unique, stopped, len(stages.waiting(chosen)))
            progress.note(f"learning rates are chosen for {len(chosen)} cells")
            specs, ledgers, infeasible = plan_trials(study, stages, chosen, material)
            done, unique = store.records(), {spec.trial_id: spec for spec in specs}
            for spec in stages.reported({k: v for k, v in chosen.items() if k not in former}):
                if spec.trial_id in done:  # the trial of another arm too, or another process'
                    progress.finished(done[spec.trial_id])


def _stages(
    study: StudySpec, material: Material, choose: Choose | None, seek: Seek | None
) -> Stages | AdaptiveStages:
    """What is run when: a grid, with rates to be chosen or without, or a search."""
    digests = material.dataset.digest, material.workload_digest
    if study.search is None:
        return Stages(study, *digests, choose)
    if seek is None:
        raise ValueError("an adaptive study needs a way to decide what is next")
    return AdaptiveStages(Adaptive(study, *digests, material.facts, seek))


def _about(dataset: Dataset) -> dict[str, Any]:
    """What STUDY.json says of the data."""
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": list(dataset.class_names),
    }


def worker_setup(
    study: StudySpec,
    material: Material,
    data: Path | None,
    device: str,
    workload_reference: str | None,
) -> dict[str, Any]:
    """What every worker is told before its first job."""
    return {
        "workload": workload_reference,
        "data": study.data,
        "location": str(data) if data else None,
        "digest": material.dataset.digest,
        "device": device,
        "threads": 1,
        "code": code_name(),
        # Where a module:function was found; a study of ours needs nothing of it.
        "path": [place for place in sys.path if place] if workload_reference else [],
    }


def environment(device: str, workers: int) -> dict[str, str]:
    """Variables of a worker: one thread each on a CPU, a fair share of compilers on a GPU."""
    if device == "cpu":
        # glibc gives large blocks back at once and asks for them again at the next update,
        # zeroed by the kernel page by page: a tenth of the digits study's time.
        keep = {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
            "MALLOC_TOP_PAD_": str(2**26),
        }
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return keep | dict.fromkeys(threads, "1")
    share = max(2, len(os.sched_getaffinity(0)) // workers)
    return {"TORCHINDUCTOR_COMPILE_THREADS": str(share)}


def _until_signalled(dispatcher: Dispatcher, missing: list[TrialSpec]) -> int | None:
    """Run; the number of the signal that ended it, or None."""

    def stop(number: int, _: object) -> None:
        # The loop looks at it twice a second, between two steps that belong together. Who
        # asks again before that (something blocks) gets an exception where we are.
        if dispatcher.stop_signal is None:
            dispatcher.stop_signal = number
        elif not dispatcher.stopping:
            raise Interrupted(number)

    former = {}
    if threading.current_thread() is threading.main_thread():  # others may not
        # What is ignored stays ignored: `nohup` means it.
        wanted = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, stop) for number in wanted}
    try:
        dispatcher.run(missing)
    except Interrupted as interruption:
        return interruption.number
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return None


def _summary(
    store: Store, unique: dict[str, TrialSpec], stopped: int | None, waiting: int
) -> RunSummary:
    """waiting: trials that cannot be told yet, since their rates are not chosen."""
    records = {i: r for i, r in store.records().items() if i in unique}
    outcomes = Counter(str(record.outcome) for record in records.values())
    missing = len(unique) - len(records) + waiting
    if stopped is not None:
        code = 128 + stopped
    elif missing:
        code = 75
    else:
        code = 3 if outcomes[Outcome.FAILED] else 0
    return RunSummary(
        counts=dict(outcomes), missing=missing, exit_code=code, folder=store.folder
    )
