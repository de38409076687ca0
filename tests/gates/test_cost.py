"""What the store costs, by the processor's clock: G12 at a small size (soak/cost.py)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "soak"))
from cost import cost

from batchcliff.study.store import Store

RECORDS = 300
SLACK = 2.5  # neighbours take a processor's cache; a scan that dawdles below takes five times


def test_the_store_costs_what_it_may() -> None:
    found = cost(RECORDS, trials=5, slack=SLACK)
    assert found["passed"], found


@pytest.mark.parametrize(
    ("method", "seconds"), [("publish", 0.006), ("_read_record", 0.001), ("claim_attempt", 0.7)]
)
def test_control_a_store_that_dawdles_is_noticed(
    monkeypatch: pytest.MonkeyPatch, method: str, seconds: float
) -> None:
    """Six milliseconds at each commit, one at each record read, most of one at each trial."""
    honest = getattr(Store, method)

    def dawdling(self: Store, *arguments: Any) -> Any:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return honest(self, *arguments)

    monkeypatch.setattr(Store, method, dawdling)
    records = RECORDS if method == "_read_record" else 40
    assert not cost(records, trials=3, slack=SLACK)["passed"]
