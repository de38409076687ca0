"""Thin adapters: one table of factors, as the schedule object of each framework.

Importing this package imports no framework; each module imports its own when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

from batchcliff.errors import UsageError


def require(module: str, package: str) -> Any:
    """The imported module, or UsageError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} is not installed: run pip install {package}. ({error})"
        ) from error
