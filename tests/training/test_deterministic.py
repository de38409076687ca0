"""Which algorithms torch is told to take."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from batchcliff.training.deterministic import choose_algorithms


def test_leaving_algorithms_as_they_are_imports_no_compiler() -> None:
    """It takes seconds of every worker on a CPU, which compiles nothing."""
    code = """
import sys, torch
from batchcliff.training.deterministic import choose_algorithms
choose_algorithms(deterministic=False, alone=True)
print("torch._inductor" in sys.modules, torch.are_deterministic_algorithms_enabled())
choose_algorithms(deterministic=True, alone=True)
print(torch.are_deterministic_algorithms_enabled())
choose_algorithms(deterministic=False, alone=True)
print(torch.are_deterministic_algorithms_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False", "True", "False"]


@pytest.mark.parametrize(
    ("deterministic", "alone", "tries"),
    [(False, True, True), (False, False, False), (True, True, False), (True, False, False)],
)
def test_convolutions_are_tried_only_where_nobody_else_trains(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool, alone: bool, tries: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not tries)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda _: None)
    choose_algorithms(deterministic=deterministic, alone=alone)
    assert torch.backends.cudnn.benchmark is tries
