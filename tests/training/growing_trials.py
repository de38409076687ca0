"""Small trials whose batch grows."""

from __future__ import annotations

from typing import Any

from small_trials import SMALL, with_settings

from batchcliff.spec import TrialSpec
from batchcliff.techniques.batch_growth import BatchGrowth

TORCH = with_settings(SMALL, optimizer__form="torch")


def growing(spec: TrialSpec, **options: Any) -> TrialSpec:
    """`spec` with batch growth up to the whole training set, unless told otherwise."""
    return BatchGrowth(**{"most": "N/1", **options}).applied(spec)
