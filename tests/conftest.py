"""For all tests."""

from __future__ import annotations

import pytest

# torch's compiler and profiler warn about themselves on a GPU; ours stay errors.
TORCHS_OWN = ("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU run torch's compiler."""
    for item in items:
        if item.get_closest_marker("gpu"):
            for warning in TORCHS_OWN:
                item.add_marker(pytest.mark.filterwarnings(warning))
