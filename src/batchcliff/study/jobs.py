"""Which trials a worker takes at once: the ones that fit into one stacked network, or one.

Trials of one shape (equal but for seed, learning rates and arm) share compiled code, so a
worker that has one prepared is the best one for the next of its shape.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchcliff.spec import Stop, TrialSpec
from batchcliff.study.store import Lease
from batchcliff.training.arithmetic import shape_key

STACK = 4
"""Most trials in one stack. Measured on two cores with the digits network: four together
cost 0.5 (batch 512) to 0.3 (batch 32) of four alone, eight are slower than two fours."""

LARGEST_STACKED = 100_000
"""Most weights of a network that is stacked. The digits network has 12,000, the article's
1.1 million."""

HUNG_SECONDS = 60.0  # without progress, in a phase that has shown how fast it is
HUNG_GAPS = 20  # or this many times the median of the times without it before
PHASE_SECONDS = 1_800.0  # in a phase that has not: a compilation, the first epoch on a GPU
PREPARING = "preparing"  # the phase that never shows it: data, pretraining, compilation
WAITING = "waiting for its turn"  # said again and again (training/turns.py)
AWAY_SECONDS = 10.0  # between two looks: then nobody was there to hear, see `is_hung`
GAPS_KEPT = 101
KILLS_SECONDS = 5.0  # that a worker's words may have waited for us, and more


@dataclass(frozen=True, slots=True)
class Job:
    """Trials of one shape, for one worker at one time."""

    shape: bytes
    specs: tuple[TrialSpec, ...]


class Kills:
    """The kernel's kills for lack of memory, of which a worker may have been the victim.

    read: how many there were on this machine so far. Who speaks was not killed before: what
    was counted some seconds before its last words was somebody else.
    """

    def __init__(self, read: Callable[[], int]) -> None:
        self.read, self.looked = read, time.monotonic()
        self.before = self.later = read()

    def heard(self) -> None:
        """Note that the worker has spoken."""
        now = time.monotonic()
        if now - self.looked >= KILLS_SECONDS:
            self.looked, self.before, self.later = now, self.later, self.read()

    def grew(self) -> bool:
        """Whether there was one that may have been of the worker."""
        return self.read() > self.before


@dataclass(slots=True)
class Busy:
    """A worker at work: its job, and what it holds for each trial that has no record yet."""

    job: Job
    leases: dict[str, Lease]
    attempts: dict[str, int]
    kills: Kills
    heard: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    phase: str = PREPARING
    place: tuple[list[str], int] = ([], -1)  # trials, and how many of their updates are done
    gaps: dict[str, deque[float]] = field(default_factory=dict)  # seconds, by phase
    reported: dict[str, tuple[int, float]] = field(default_factory=dict)

    def hears(self, message: Mapping[str, Any]) -> None:
        """Note what the worker says, if it is something new.

        The same update or the same phase again is a sign of life and no progress: a worker
        that only repeats itself hangs.
        """
        self.kills.heard()
        now, phase = time.monotonic(), self.phase
        # What ends such a phase, measures it.
        known = phase not in (PREPARING, WAITING, "training")
        match message["event"]:
            case "progress":
                ids, done = self.place
                if message["ids"] == ids and message["done"] <= done:
                    return
                self.place = message["ids"], message["done"]
                known = phase != PREPARING
            case "phase":
                if message["phase"] == phase:
                    if phase == WAITING:
                        self.heard = now
                    return
                self.phase = message["phase"]
            case "started":
                self.phase = PREPARING
            case _:
                known = False
        if known:
            gaps = self.gaps.setdefault(phase, deque(maxlen=GAPS_KEPT))
            gaps.append(now - self.heard)
        self.heard = now

    @property
    def limit(self) -> float:
        """Seconds without progress that the worker's phase explains."""
        if self.phase == WAITING:
            return HUNG_SECONDS
        gaps = self.gaps.get(self.phase)
        if not gaps:
            return PHASE_SECONDS
        return max(HUNG_SECONDS, HUNG_GAPS * statistics.median_high(gaps))

    def is_hung(self) -> bool:
        """Whether it has told of no progress for longer than work explains. To be asked often:
        a time in which nobody asked, since this process was stopped itself, does not count."""
        now = time.monotonic()
        away, self.looked = now - self.looked, now
        if away > AWAY_SECONDS:
            self.heard = min(now, self.heard + away)
        return now - self.heard > self.limit


def stackable(spec: TrialSpec) -> bool:
    """Whether trials gain from being trained side by side, and their bits do not change.

    That a network's bits do not depend on its neighbours is held by
    tests/training/test_twin_stack.py. It is not so for widths that leave a tail of channels
    in vector registers, nor for sums over groups of examples. A large network fills a core
    alone, and several of them could fill the memory.
    """
    widths = [width for block in spec.settings.model.widths for width in block]
    weights = sum(9 * a * b for a, b in itertools.pairwise(widths))
    whole = all(width % 8 == 0 for width in widths)
    return (
        _plain(spec)
        and spec.settings.batch_norm.group == "global"
        and whole
        and weights <= LARGEST_STACKED
    )


def _plain(spec: TrialSpec) -> bool:
    """Whether the network is the stacked one and every part of its update knows stacks.

    What is not known to is trained alone: a wrong guess here would mix two trials.
    """
    settings, optimizer = spec.settings, spec.settings.optimizer
    return (
        settings.model.name == "conv-net"
        and optimizer.name == "sgd"
        and not optimizer.momentum_correction
        and not optimizer.clip_norm
        and not settings.mixup
        and settings.pretraining is None
        and not settings.gradient_norms
        and not settings.probes
        and settings.stop == Stop()
        and not settings.precision.startswith("fp16")
        and all(name == "warmup" for name, _ in spec.techniques)
    )


def stack_width(specs: Sequence[TrialSpec]) -> int:
    """How many networks a stack of these trials is made of; copies fill the places left.

    Two, or four: a stack of one takes other kernels than a wider one, and on processors
    without AVX-512 a stack of three does.
    """
    if not stackable(specs[0]):
        return 1
    return 2 if len(specs) <= 2 else STACK


def jobs(specs: Iterable[TrialSpec], *, stack: int) -> list[Job]:
    """Trials grouped by shape, at most `stack` in a job, in the order of their first trials.

    Full stacks first, since the copies that fill a stack cost as much as trials.
    """
    groups: dict[bytes, list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault(shape_key(spec), []).append(spec)
    found: list[Job] = []
    for shape, group in groups.items():
        most = stack if stackable(group[0]) else 1
        cuts = [*range(0, len(group), most), len(group)]
        found += [Job(shape, tuple(group[a:b])) for a, b in itertools.pairwise(cuts)]
    return found


def choose(waiting: list[Job], mine: bytes | None, others: set[bytes]) -> Job | None:
    """The job for a worker that has shape `mine` prepared, while `others` are prepared by
    its colleagues: its own shape, then one that nobody has, then the first."""
    for job in waiting:
        if job.shape == mine:
            return job
    for job in waiting:
        if job.shape not in others:
            return job
    return waiting[0] if waiting else None
