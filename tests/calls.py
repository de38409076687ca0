"""What something costs, in calls and in imports: the same on every machine, fast or slow."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

# Packages that take a tenth of a second each, or more.
HEAVY = {"torch", "numpy", "scipy", "sklearn", "pyarrow", "PIL", "altair", "vl_convert"}


def calls(work: Callable[..., object], *arguments: Any) -> int:
    """How many functions, of Python and of C, are called in this thread meanwhile."""
    count = itertools.count()

    def counting(frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            next(count)

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        work(*arguments)
    finally:
        sys.setprofile(before)
    return next(count)
