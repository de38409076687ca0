"""A probe before any study: how fast and how large batches run, and how the gradient looks.

`speeds` times updates at rates of 0, so that no weight moves, from the smallest batch size up.
`places` trains the first updates of a trial and measures the gradient's noise and the
sharpness before and after, by the same means as a trial's own probes (training/probes.py).
Both yield each reading as soon as it is there: what ends the process later takes none of it.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.host import host_room, resident_bytes
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import learning_rates, timeline_of
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.own import Build
from batchcliff.training.precision import device_name
from batchcliff.training.prepare import Prepared, prepare
from batchcliff.training.probe_readings import Ended, Place, Reading, Room, Speed
from batchcliff.training.probes import Probing
from batchcliff.training.probes_measure import ritz
from batchcliff.training.probes_plan import examples_of_a_probe
from batchcliff.training.trial import rates

TIMINGS = 5  # of a batch size, of which the median counts
SECONDS_EACH = 0.4  # of all timings of a batch size, at least two updates each
SHARE_OF_ROOM = 0.9  # of the memory that may be used; the rest is for what is not foreseen
NOISE_BLOCKS, SHARPNESS_BLOCKS = 16, 8
FEWEST_BLOCKS = 4  # of the noise, however little time there is: fewer have no interval
ITERATIONS = 20  # of Lanczos
PRODUCT = 3  # gradients that a Hessian-vector product takes as long as
FEWEST_EXAMPLES = 8  # of a block's half
A_WHILE = 0.05  # seconds of a gradient, from which its pace is read
SHORT_RUN = 0.1  # of a trial's updates that are trained
FEWEST_UPDATES = 16

# n examples, S stack, k draws per example


def room(device: torch.device) -> Room:
    """What memory there is for one process on `device`, now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        limit: int | None = free + torch.cuda.memory_reserved(device)
        return Room(limit=limit, of="GPU", device=device_name(device))
    return Room(limit=host_room(), of="host", device=device_name(device))


def limit_host_memory() -> None:
    """Make an allocation beyond the host's memory fail in this process, in place of having
    the kernel kill some process for it. Linux only."""
    limit = host_room()
    if sys.platform != "linux" or limit is None:
        return
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        have, own = pages * resource.getpagesize(), resident_bytes()
    except (OSError, ValueError, IndexError):
        return
    soft = have + max(limit - (own or 0), 0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        return resident_bytes(most=True)
    except OSError:
        return None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speeds(
    specs: Sequence[TrialSpec],
    resident: Resident,
    *,
    num_classes: int,
    user_build: Build | None,
    seconds: float,
) -> Iterator[Reading]:
    """`Room`, then a `Speed` for each spec, whose batch sizes ascend, then why it `Ended`.

    It ends before a batch size that would take longer than is left of `seconds`, or more
    memory than there is, by what the smaller ones took. Memory errors are the caller's. What
    a GPU makes once in a process (its context, its libraries, kernels) is made before the
    seconds are counted: it took longer than all timings of the smaller sizes.
    """
    device = resident.train_images.device
    found = room(device)
    yield found
    if device.type == "cuda" and specs:
        _speed(specs[0], resident, num_classes, user_build, time.monotonic())
    end = time.monotonic() + seconds
    former, preparing, timing = list[Speed](), 0.0, 0.0
    for spec in specs:
        if former:
            # Preparing it is the same again; an update takes twice as long, or little less.
            needed = preparing + timing * spec.batch_size / former[-1].batch_size
            if time.monotonic() + needed > end:
                yield Ended(reason="time", batch_size=spec.batch_size)
                return
            if _too_large(former, spec.batch_size, found):
                yield Ended(reason="memory", batch_size=spec.batch_size)
                return
        speed, preparing, timing = _speed(spec, resident, num_classes, user_build, end)
        former.append(speed)
        yield speed
    yield Ended(reason="all")


def _too_large(former: list[Speed], batch_size: int, found: Room) -> bool:
    """Whether memory that goes on growing as before would not be enough. A GPU is asked by
    trying: it refuses, and nobody else is hurt."""
    peaks = [(s.batch_size, s.peak) for s in former[-2:] if s.peak is not None]
    if found.limit is None or found.of != "host" or len(peaks) < 2:
        return False
    (small, less), (large, more) = peaks
    grown = more + (more - less) / (large - small) * (batch_size - large)
    return grown > SHARE_OF_ROOM * found.limit


def _speed(
    spec: TrialSpec,
    resident: Resident,
    num_classes: int,
    user_build: Build | None,
    end: float,
) -> tuple[Speed, float, float]:
    """Updates of one batch size, the same examples each time; seconds that it took to prepare
    them, and to time them."""
    device, begin = resident.train_images.device, time.monotonic()
    if device.type == "cuda":
        gc.collect()  # the former size's graph and what it holds
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    prepared = prepare(spec, resident, num_classes=num_classes, stack=1, user_build=user_build)
    loop = prepared.loop
    prepared.restart([spec], torch.zeros_like(loop.rates_US))
    loop.load_block(*epoch_tensors([spec], resident, 0, 1))
    prepared.model.train()

    def seconds_of(updates: int) -> float:
        start = time.perf_counter()
        for _ in range(updates):
            loop.row.zero_()
            loop.count.zero_()
            prepared.advance()
        _wait(device)
        return time.perf_counter() - start

    seconds_of(1)  # the first of a process or a size pays for what is made once
    started = time.monotonic()
    once = max(seconds_of(1), 1e-6)
    updates = max(2, math.ceil(SECONDS_EACH / TIMINGS / once))
    timings = [seconds_of(updates)]
    while len(timings) < TIMINGS and time.monotonic() + timings[-1] < end:
        timings.append(seconds_of(updates))
    rate = spec.batch_size * updates / statistics.median(timings)
    count = updates * len(timings)
    speed = Speed(batch_size=spec.batch_size, rate=rate, updates=count, peak=_peak(device))
    return speed, started - begin, time.monotonic() - started


def places(
    spec: TrialSpec,
    resident: Resident,
    *,
    num_classes: int,
    user_build: Build | None,
    seconds: float,
) -> Iterator[Reading]:
    """A `Place` at the initial weights and one after a tenth of the trial's updates (at least
    16), or as many as half of `seconds` allow; then why it `Ended`. The seconds are counted
    from when the trial is prepared."""
    timeline = timeline_of(spec, len(resident.train_labels))
    prepared = prepare(spec, resident, num_classes=num_classes, stack=1, user_build=user_build)
    prepared.restart([spec], rates([spec], resident))
    _pace(prepared, spec, resident)  # what is made once is made before they are counted
    start = time.monotonic()
    measure = functools.partial(_place, prepared, spec, resident)
    yield measure(0, start + seconds / 4)
    wanted = max(FEWEST_UPDATES, math.ceil(SHORT_RUN * timeline.updates))
    wanted = min(wanted, timeline.updates - 1)
    done = _train(prepared, spec, resident, wanted, start + 3 * seconds / 4)
    losses_U = prepared.loop.losses_US[:done, 0].cpu()
    bad = torch.nonzero(~torch.isfinite(losses_U))
    if len(bad):
        yield Ended(reason="diverged", update=int(bad[0]))
        return
    if done:
        yield measure(done, start + seconds)
    reason = "all" if done == wanted else "time"
    yield Ended(reason=reason, update=done, words=_rise(losses_U))


def _rise(losses_U: Tensor) -> str:
    """That the loss is over twice that of update 0, by the last quarter's median; or ""."""
    if not len(losses_U):
        return ""
    first, last = float(losses_U[0]), float(losses_U[3 * len(losses_U) // 4 :].median())
    return f"its loss rose from {first:.3g} to {last:.3g}" if last > 2 * first else ""


def _train(
    prepared: Prepared, spec: TrialSpec, resident: Resident, wanted: int, end: float
) -> int:
    """The first `wanted` updates of the trial, or those until `end`; how many it were."""
    device, done = prepared.loop.device, 0
    prepared.model.train()
    for first, last, batch_size in timeline_of(spec, len(resident.train_labels)).pieces():
        step = prepared.at(batch_size)
        step.loop.load_block(*epoch_tensors([spec], resident, first, last))
        for update in range(first, min(last, wanted)):
            if update % 32 == 0 or device.type == "cpu":
                _wait(device)
                if time.monotonic() > end:
                    return done
            step.advance()
            done = update + 1
        if done >= wanted:
            break
    return done


def _place(
    prepared: Prepared, spec: TrialSpec, resident: Resident, update: int, end: float
) -> Place:
    """Noise and sharpness of the weights as they are, on blocks of examples that the run
    would see after its end. Half of what is left until `end` is for each of the two."""
    num_train = len(resident.train_labels)
    lr = learning_rates(spec, num_train)[update]
    most, pace = examples_of_a_probe(num_train), _pace(prepared, spec, resident)
    share = (end - time.monotonic()) / 2
    noise_until, trace, square = end - share, list[float](), list[float]()
    noise_examples = 2 * _affordable(most, share, 2 * FEWEST_BLOCKS * pace)
    for probing in _blocks(prepared, spec, resident, NOISE_BLOCKS, noise_examples):
        pair = probing.noise().tolist()
        if all(map(math.isfinite, pair)):
            trace.append(pair[0])
            square.append(pair[1])
        if len(trace) >= FEWEST_BLOCKS and time.monotonic() > noise_until:
            break
    sharpness: list[float] = []
    examples = _affordable(most, share, ITERATIONS * PRODUCT * pace)
    for probing in _blocks(prepared, spec, resident, SHARPNESS_BLOCKS, 2 * examples):
        found = ritz(probing.curvature().double().cpu().numpy())
        if found is not None:
            sharpness.append(found[0])
        if time.monotonic() > end:
            break
    return Place(
        update=update,
        lr=lr,
        trace=tuple(trace),
        square=tuple(square),
        noise_examples=noise_examples,
        sharpness=tuple(sharpness),
        sharpness_examples=examples,
    )


def _pace(prepared: Prepared, spec: TrialSpec, resident: Resident) -> float:
    """Seconds that the gradient of an example takes, in a block as large as it has to be to
    take a while: a GPU is as long over eight examples as over hundreds. The first pass over
    a size pays for what is made once, and does not count."""
    most, examples = examples_of_a_probe(len(resident.train_labels)), FEWEST_EXAMPLES
    while True:
        for probing in _blocks(prepared, spec, resident, 2, 2 * examples):
            start = time.perf_counter()
            probing.noise().tolist()
            took = time.perf_counter() - start
        if took > A_WHILE or 4 * examples > most:
            return took / (2 * examples)
        examples *= 4


def _affordable(most: int, seconds: float, each: float) -> int:
    """The largest power-of-two part of `most` examples that takes `seconds`, at `each` an
    example; 8 at least."""
    while most > FEWEST_EXAMPLES and most * each > seconds:
        most //= 2
    return most


def _blocks(
    prepared: Prepared, spec: TrialSpec, resident: Resident, blocks: int, count: int
) -> Iterator[Probing]:
    """A trial's probes, each on `count` examples that no other block has."""
    timeline = timeline_of(spec, len(resident.train_labels))
    size = timeline.stretches[-1].batch_size
    probed = dataclasses.replace(
        spec,
        settings=dataclasses.replace(
            spec.settings, probes=("noise-scale", "sharpness"), probe_at=("0up",)
        ),
    )
    index, draws = epoch_tensors(
        [spec], resident, timeline.updates, timeline.updates + -(-blocks * count // size)
    )

    def on_device(rows: Tensor, block: int) -> Tensor:
        flat = rows.flatten(0, 1)[block * count : (block + 1) * count]
        return flat.to(prepared.loop.device)

    for block in range(blocks):
        probing = Probing(
            prepared.loop, probed, on_device(index, block), on_device(draws, block)
        )
        probing.examples = count // 2
        probing.effort = dataclasses.replace(probing.effort, iterations=ITERATIONS)
        yield probing
