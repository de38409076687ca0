"""How large each gate is run: in `make test`, in CI, and once in a while by `make soak`.

BATCHCLIFF_GATES is "quick" (the default), "ci" or "soak". BATCHCLIFF_SIZE_<NAME> sets one
gate alone, e.g. BATCHCLIFF_SIZE_KILLS=5000. `docs/reliability.md` shows this table, and a
test compares the two.
"""

from __future__ import annotations

import os
from typing import NamedTuple

LEVELS = ("quick", "ci", "soak")


class Size(NamedTuple):
    """The size of one gate at each level, and what is counted."""

    quick: int
    ci: int
    soak: int
    what: str


SIZES = {
    "kills": Size(150, 1_000, 20_000, "kill -9 of one of three peers on one store"),
    "run_kills": Size(9, 18, 300, "kill -9 of drivers and workers of a run"),
    "injections": Size(
        30, 1_000, 1_000, "system calls met by each fate, at most; 1,000 is all"
    ),
    "calls": Size(25, 100, 100, "percent of the file-system calls that each errno meets"),
    "cuts": Size(500, 5_000, 50_000, "simulated power cuts"),
    "mutations": Size(
        320, 10_000, 100_000, "mutated records, and a quarter as many checkpoints"
    ),
    "races": Size(15, 200, 1_000, "races to create one study"),
    "machines": Size(15, 150, 5_000, "runs of the stateful machine over the store"),
    "peer_trials": Size(50, 500, 2_000, "trials that eight processes share"),
    "orphans": Size(
        10, 70, 200, "runs of three trials ended in every way, none leaves a process"
    ),
    "signals": Size(8, 200, 1_000, "signals at random moments of a run"),
    "bad_updates": Size(100, 1_000, 10_000, "updates made not finite"),
    "rank_faults": Size(2, 4, 4, "ranks that die, and that hang, of a team of two"),
    "fuzz_seconds": Size(1, 10, 0, "seconds of fuzzing for each reader; 0: by executions"),
    "fuzz_runs": Size(0, 0, 1_000_000, "executions of fuzzing for each reader; 0: by seconds"),
}


def level() -> str:
    """The level that is run. ValueError for an unknown one: a typo must not be a small gate."""
    name = os.environ.get("BATCHCLIFF_GATES", "quick")
    if name not in LEVELS:
        raise ValueError(f"BATCHCLIFF_GATES={name!r}: one of {', '.join(LEVELS)}")
    return name


def parts(name: str, most: int = 40) -> list[tuple[int, int]]:
    """Gate `name` in parts that may run side by side: their numbers, and how large each is."""
    count = -(-size(name) // most)
    whole, rest = divmod(size(name), count)
    return [(part, whole + (part < rest)) for part in range(count)]


def size(name: str) -> int:
    """How large gate `name` is to be run."""
    alone = os.environ.get(f"BATCHCLIFF_SIZE_{name.upper()}")
    return int(getattr(SIZES[name], level())) if alone is None else int(alone)
