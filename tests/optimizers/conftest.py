"""One thread, and lets the tests of this folder import the slow twins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "training")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tests of this folder share the machine with others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
