"""What a probe before any study reads off a device, as plain values. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One batch size: examples trained a second, and the most memory of it, in bytes.

    rate: median over timings of whole updates. peak: of a GPU what torch had allocated, of a
    CPU the process' largest resident size so far; None where the system does not say.
    """

    batch_size: int
    rate: float
    updates: int
    peak: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What was measured at one place of a short run, before the update `update`.

    lr: of that update. trace, square: tr(Sigma) and |G|^2 of each block of `noise_examples`
    examples. sharpness: the largest curvature on each block of `sharpness_examples`.
    """

    update: int
    lr: float
    trace: tuple[float, ...]
    square: tuple[float, ...]
    noise_examples: int
    sharpness: tuple[float, ...]
    sharpness_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Memory that one process may fill, in bytes, and whose: "GPU" or "host"."""

    limit: int | None
    of: str
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Why a part of the probe went no further.

    reason: "all", "time", "memory", "infeasible", "diverged". batch_size: that was not
    measured for it, or 0; update: the first with a bad loss.
    """

    reason: str
    batch_size: int = 0
    update: int = 0
    words: str = ""


Reading = Speed | Place | Room | Ended
READINGS: dict[str, type[Reading]] = {
    "speed": Speed,
    "place": Place,
    "room": Room,
    "ended": Ended,
}
