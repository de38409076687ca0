"""A study's data and network, from names: what driver and workers both load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.data.sources import Dataset, load
from batchcliff.errors import UsageError
from batchcliff.training.arithmetic import DataFacts
from batchcliff.workloads import load_workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """The data set, and how to build the network (None: as settings.model says)."""

    dataset: Dataset
    build: Callable[[tuple[int, int, int], int], Any] | None
    workload_digest: str

    @property
    def facts(self) -> DataFacts:
        """What the arithmetic of a trial needs to know."""
        return DataFacts(
            num_train=len(self.dataset.train_labels),
            num_test=len(self.dataset.test_labels),
            num_classes=self.dataset.num_classes,
            image_shape=self.dataset.image_shape,
        )


def load_material(workload: str | None, data: str, location: Path | None) -> Material:
    """`workload` is a `module:function` of the user's, or None for a built-in one.

    Raises UsageError and DataError.
    """
    if workload is None:
        return Material(dataset=load(data, location), build=None, workload_digest="")
    found = load_workload(workload)
    if callable(found.data):
        dataset = found.data()
        if not isinstance(dataset, Dataset):
            raise UsageError(
                f"--workload {workload}: its data function returned "
                f"{type(dataset).__name__}, not a batchcliff Dataset"
            )
    else:
        dataset = load(found.data, location)
    return Material(dataset=dataset, build=found.build, workload_digest=found.digest)
