"""What a Ray actor does in the gate of a real cluster: it runs the trials that it is handed.

A module of its own, which Ray's processes import by its name. A trial waits for the file
`gate`, so that a test says when it may end, and none is late.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import fake_peer
import fake_worker
import slowly
import study_runs

from batchcliff import api
from batchcliff.study.engines.local import Worker
from batchcliff.studyfile import load_study

STUDY = study_runs.study_of(seeds=12, batch_sizes=(8,))
# Of 320 updates, after each of which a worker of `slowly` rests: several seconds.
DIGITS = ("budget=20ep", "batch_sizes=[64]", "seeds=1")


class Host:
    """A machine of the cluster, one trial at a time."""

    def __init__(self, *, broken: bool = False) -> None:
        if broken:
            fake_peer.breaks("no-lease")
            fake_peer.breaks("over")

    def pretend(self, folder: str, trial_id: str, gate: str) -> int:
        """A trial of STUDY, by a worker without torch, over when there is `gate`; the exit
        code."""
        fake_worker.use()
        os.environ["FAULTS"] = json.dumps(dict.fromkeys(STUDY.seeds, f"await {gate}"))
        run = study_runs.run(STUDY, Path(folder), workers=1, only=(trial_id,))
        return run.exit_code

    def train(self, folder: str, trial_id: str, gate: str) -> int:
        """A trial of the recipe `digits` as in DIGITS, for real, saved after every epoch;
        slowly until there is `gate`."""
        if not Path(gate).exists():
            Worker.command = (sys.executable, str(Path(slowly.__file__).resolve()))
        study = load_study("digits", overrides=DIGITS)
        run = api.run(study, out=folder, device="cpu", only=[trial_id], checkpoint_every=1e-6)
        return run.exit_code
