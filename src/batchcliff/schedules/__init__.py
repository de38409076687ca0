"""Learning-rate schedules as exact numbers: no framework, no clock but the update index.

`Clock` and `Duration` turn lengths into updates, `factors` gives the whole curve of a run,
`SCALING` the peak rate at a batch size. Stdlib only; adapters to frameworks load on use.
"""

from __future__ import annotations

from batchcliff.schedules.batch_size import BatchSizes, split
from batchcliff.schedules.compose import Warmup, factors, warmup_table
from batchcliff.schedules.conventions import CONVENTIONS, compare, rates
from batchcliff.schedules.curves import warmup_factor, warmup_factors
from batchcliff.schedules.duration import Clock, Duration, parse_duration
from batchcliff.schedules.scaling import (
    SCALING,
    Hyperparameters,
    ScalingRule,
    provenance,
    scale_hyperparameters,
    scale_lr,
)

__all__ = [
    "CONVENTIONS",
    "SCALING",
    "BatchSizes",
    "Clock",
    "Duration",
    "Hyperparameters",
    "ScalingRule",
    "Warmup",
    "compare",
    "factors",
    "parse_duration",
    "provenance",
    "rates",
    "scale_hyperparameters",
    "scale_lr",
    "split",
    "warmup_factor",
    "warmup_factors",
    "warmup_table",
]
