"""Waiting for what must happen.

No test says how long anything may take: machines differ by a factor of a hundred, and their
neighbours come and go. What must happen is waited for, what must not be over is kept from
ending, and only what never happens fails, after `PATIENCE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 240.0  # seconds until a test gives up: nothing takes a tenth of it


def until(happened: Callable[[], Any], why: Callable[[], str] = lambda: "") -> None:
    """Wait until something has happened; why: what is said if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, why()
        time.sleep(0.01)
