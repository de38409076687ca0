"""Which algorithms torch is told to take."""

from __future__ import annotations

import subprocess
import sys


def test_leaving_algorithms_as_they_are_imports_no_compiler() -> None:
    """It takes seconds of every worker on a CPU, which compiles nothing."""
    code = """
import sys, torch
from batchcliff.training.deterministic import choose_algorithms
choose_algorithms(deterministic=False)
print("torch._inductor" in sys.modules, torch.are_deterministic_algorithms_enabled())
choose_algorithms(deterministic=True)
print(torch.are_deterministic_algorithms_enabled())
choose_algorithms(deterministic=False)
print(torch.are_deterministic_algorithms_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False", "True", "False"]
