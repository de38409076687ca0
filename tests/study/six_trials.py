"""The study that the tests of the store work on: six trials that no torch trains."""

from __future__ import annotations

import fake_peer

from batchcliff.study.store import Planned

TRIALS = 6
STUDY = fake_peer.study_of(TRIALS)
SPECS = fake_peer.specs_of(STUDY)
CELLS = [Planned.of(spec) for spec in SPECS]
FIRST = SPECS[0].trial_id
