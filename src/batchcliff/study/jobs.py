"""Which trials a worker takes at once: the ones that fit into one stacked network, or one.

Trials of one shape (equal but for seed, learning rates and arm) share compiled code, so a
worker that has one prepared is the best one for the next of its shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import shape_key

STACK = 4
"""Most trials in one stack. Measured on two cores with the digits network: four together
cost 0.5 (batch 512) to 0.2 (batch 32) of four alone, eight are slower than two fours."""


@dataclass(frozen=True, slots=True)
class Job:
    """Trials of one shape, for one worker at one time."""

    shape: bytes
    specs: tuple[TrialSpec, ...]


def jobs(specs: Iterable[TrialSpec], *, stack: int) -> list[Job]:
    """Trials grouped by shape, at most `stack` in a job, in the order of their first trials.

    A group is cut into parts of nearly equal size, so that no part is left with a single
    trial while others are full.
    """
    groups: dict[bytes, list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault(shape_key(spec), []).append(spec)
    found: list[Job] = []
    for shape, group in groups.items():
        parts = -(-len(group) // stack)
        cuts = [len(group) * part // parts for part in range(parts + 1)]
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
