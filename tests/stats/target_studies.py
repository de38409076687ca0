"""Trials whose updates to a target are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from builders import make_ledger, make_spec

from batchcliff.record import Curves, Outcome, TrialRecord

SIZES = (32, 64, 128, 256, 512, 1024, 2048)
SMIN, KNEE = 200.0, 256.0


def record(size, seed, accuracies, *, per_epoch=10.0, updates=None, arm="none", **changes):
    """A trial with these accuracies after each epoch."""
    total = math.ceil(len(accuracies) * per_epoch) if updates is None else updates
    ledger = dataclasses.replace(
        make_ledger(), updates=total, updates_per_epoch=per_epoch, num_train=4096
    )
    values = {
        "spec": make_spec(arm, size, seed),
        "outcome": Outcome.OK,
        "accuracy": 0.9,
        "ledger": ledger,
        "curves": Curves(test_accuracy=tuple(accuracies)),
    }
    return TrialRecord(**(values | changes))


def rising(size, seed, updates, *, target=0.8, epochs=4000):
    """A trial whose accuracy rises evenly and is at the target after `updates`."""
    per_epoch = 4096 / size
    ends = [math.ceil((e + 1) * per_epoch) for e in range(epochs)]
    last = next((i for i, u in enumerate(ends) if u > updates), epochs - 1)
    accuracies = [min(target * u / updates, 1.0) for u in ends[: last + 1]]
    return record(size, seed, accuracies, per_epoch=per_epoch)


def study(noise=0.0, seeds=3, sizes=SIZES, smin=SMIN, knee=KNEE, rng=None):
    """Records on the hyperbola, times log-normal noise of each trial and of each seed."""
    rng = rng or np.random.default_rng(0)
    common = rng.normal(0, noise, seeds)
    return [
        rising(b, s, smin * (1 + knee / b) * math.exp(common[s] + rng.normal(0, noise)))
        for b in sizes
        for s in range(seeds)
    ]
