"""How a run is to go about its study: what the command line and the API hand to the supervisor.

Nothing here is a part of any trial's identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from batchcliff.errors import UsageError
from batchcliff.study.leaving import check_grace


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Options of one run.

    data: a local copy of the data. device: "auto", "cpu", "cuda" or "cuda:N". workers:
    processes that train side by side, None for as many as fit. workload_reference:
    `module:function` of a workload of the user's.
    accept_code_change: go on although the code that trains is another than in the folder.
    extend: the study may have more trials than the one in the folder, and other texts.
    shared: the folder is its group's (study/sharing.py).
    weights: a safetensors file in place of the study's own pretraining.
    checkpoint_every: seconds of a trial after which it is saved at the end of an epoch; 0:
    never, and none is looked for.
    micro_batch: most examples that pass through a network at once in training, "auto", or
    None for "auto" on a GPU alone (study/micro_batch.py).
    deterministic: only with algorithms that repeat their bits (training/deterministic.py).
    grace: seconds that trials have to be saved after a signal (study/leaving.py).
    ranks: processes that train a trial together, a GPU each (study/ranks.py).
    verify: hash every file of the data again (data/verify.py).
    allow_mixed_numerics: go on from checkpoints that were made under other numerics.
    only: ids of the trials to run, and no other (study/named.py); None: all.
    """

    data: Path | None = None
    device: str = "auto"
    workers: int | None = None
    workload_reference: str | None = None
    accept_code_change: bool = False
    extend: bool = False
    shared: bool = False
    weights: Path | None = None
    checkpoint_every: float = 120.0
    micro_batch: int | str | None = None
    deterministic: bool = False
    grace: float | None = None
    ranks: int = 1
    verify: bool = False
    allow_mixed_numerics: bool = False
    only: tuple[str, ...] | None = None

    def check(self) -> None:
        """UsageError for numbers that are none, whatever the study and the machine."""
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers: {self.workers}; at least 1 must train")
        if not 0 <= self.checkpoint_every < math.inf:
            raise UsageError(
                f"checkpoint_every: {self.checkpoint_every} is no number of seconds; write "
                "120, or 0 for no checkpoints"
            )
        check_grace(self.grace)
