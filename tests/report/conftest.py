"""Made-up studies, and the report of one."""

from pathlib import Path

import pytest
from synthetic import Synthetic

from batchcliff.report import write_report


@pytest.fixture
def synthetic() -> Synthetic:
    """Article grid, 2 arms, 3 seeds."""
    return Synthetic()


@pytest.fixture
def single() -> Synthetic:
    """Article grid, 2 arms, 1 seed."""
    return Synthetic(seeds=1)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the report of `Synthetic()`; not to be changed."""
    made, folder = Synthetic(), tmp_path_factory.mktemp("report")
    write_report(made.study, made.records(), made.planned(), folder)
    return folder
