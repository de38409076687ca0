"""Where the kernels run: on the GPU if there is one, else under Triton's interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    """The kernels' module; skipped where it cannot run."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU here: test_interpreted.py runs this file under the interpreter")
    return importlib.import_module("batchcliff.kernels.batch_norm_relu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
