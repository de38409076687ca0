"""Where a run is probed, how thoroughly, and where the measurements go.

Without `probe_at` the effort follows the length of the run, so that all probes together are a
few per cent of a trial (docs/diagnose.md has the measurements).
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import torch
from torch import Tensor

from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import timeline_of
from batchcliff.training.loop import Loop
from batchcliff.training.probes_measure import parameter_groups
from batchcliff.training.timeline import Timeline

# P points, S stack, k Lanczos iterations


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """Places of the run as durations, of the cheap probes and of the sharpness; iterations of
    Lanczos; parts that the examples of the noise scale are cut into."""

    cheap_at: tuple[str, ...]
    sharpness_at: tuple[str, ...]
    iterations: int
    parts: int


USUAL = Effort(
    ("0up", "1up", "4up", "16up", "10%", "25%", "50%", "90%"), ("0up", "16up", "25%"), 12, 4
)
BRIEF = Effort(("0up", "1up", "4up", "16up", "25%", "90%"), ("0up", "25%"), 5, 2)
BRIEF_RUN = 1_000_000  # examples; a shorter run has less to spare
EXAMPLES = 256  # of a probe of the sharpness; the noise scale takes twice as many
SHARE = 32  # of the training set that the examples of a probe are at most one part

NOISE, LANCZOS, RATIO = "probe.noise", "probe.lanczos", "probe.ratio"


@dataclasses.dataclass(frozen=True, slots=True)
class Points:
    """Updates before which there is a probe, ascending, and those with the sharpness."""

    every: tuple[int, ...]
    sharpness: tuple[int, ...]


def effort(spec: TrialSpec, num_train: int) -> Effort:
    """What the trial's probes are to do: as asked for, or as the run is long."""
    if at := spec.settings.probe_at:
        return dataclasses.replace(USUAL, cheap_at=at, sharpness_at=at)
    return BRIEF if timeline_of(spec, num_train).examples < BRIEF_RUN else USUAL


def points(spec: TrialSpec, num_train: int) -> Points:
    """Where a trial is probed; places after the end of the run are none of it."""
    timeline, probes = timeline_of(spec, num_train), spec.settings.probes
    chosen = effort(spec, num_train)
    cheap = {update_at(timeline, text) for text in chosen.cheap_at}
    dear = {update_at(timeline, text) for text in chosen.sharpness_at}
    if "sharpness" not in probes:
        dear = set()
    if not {"noise-scale", "update-ratio"} & set(probes):
        cheap = set()
    inside = range(timeline.updates)
    return Points(
        tuple(sorted(u for u in cheap | dear if u in inside)),
        tuple(sorted(u for u in dear if u in inside)),
    )


def update_at(timeline: Timeline, text: str) -> int:
    """The first update that begins at or after a place of the run, given as a duration."""
    length = parse_duration(text)
    if length.unit == "up":
        return int(length.value)
    if length.unit == "%":
        return math.ceil(length.value * timeline.updates / 100)
    epoch = timeline.num_examples if length.unit == "ep" else 1
    position, first, last = Fraction(length.value * epoch), 0, timeline.updates
    while first < last:
        middle = (first + last) // 2
        if timeline.position(middle) < position:
            first = middle + 1
        else:
            last = middle
    return first


def examples_of_a_probe(num_train: int) -> int:
    """Of the sharpness: a power of two, at most 256 and a 32nd of the data; at least 8."""
    most = min(EXAMPLES, max(num_train // SHARE, 8))
    return 1 << (most.bit_length() - 1)


def probe_logs(spec: TrialSpec, num_train: int, loop: Loop) -> dict[str, Tensor]:
    """Where measurements go, [P, S, ...] by name; none where nothing is asked for.

    Only a network that is trained alone is probed.
    """
    asked, zeros = spec.settings.probes, loop.losses_US.new_zeros
    stack = loop.losses_US.shape[1]
    count = len(points(spec, num_train).every)
    if not count:
        return {}
    assert stack == 1, "probes of a stack"
    found = {}
    if "noise-scale" in asked:
        found[NOISE] = zeros(count, stack, 2, dtype=torch.float64)
    if "sharpness" in asked:
        weights = sum(p.numel() for p in loop.parameters)
        iterations = effort(spec, num_train).iterations
        found[LANCZOS] = zeros(count, stack, 2, min(iterations, weights))
    if "update-ratio" in asked:
        groups = parameter_groups([p.shape for p in loop.parameters])
        found[RATIO] = zeros(count, stack, len(groups))
    return found
