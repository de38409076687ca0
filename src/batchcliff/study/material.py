"""A study's data and network, from names: what driver and workers both load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchcliff.data.sources import Dataset, load
from batchcliff.errors import UsageError
from batchcliff.training.arithmetic import DataFacts
from batchcliff.workloads import WORKLOADS, Workload, load_workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """The data set, and how to build the network (None: as settings.model says)."""

    dataset: Dataset
    build: Callable[[tuple[int, int, int], int], Any] | None
    workload_digest: str

    @property
    def facts(self) -> DataFacts:
        """What the arithmetic of a trial needs to know."""
        return DataFacts.of(self.dataset)


def load_data(data: str, location: Path | None, own: Workload | None = None) -> Dataset:
    """The data set that a study names: a workload's own function if it is the one meant.

    A study may name another data set than its workload does. Raises UsageError, DataError.
    """
    brought = (w for w in (own, *WORKLOADS.values()) if w is not None and callable(w.data))
    own = next((w for w in brought if data == w.data_name), None)
    if own is None or not callable(own.data):
        return load(data, location)
    dataset = own.data()
    if not isinstance(dataset, Dataset):
        raise UsageError(
            f"workload {own.name!r}: its data function returned {type(dataset).__name__}, "
            "not a batchcliff Dataset"
        )
    return dataset


def load_material(workload: str | None, data: str, location: Path | None) -> Material:
    """`workload` is a `module:function` of the user's or the name of a built-in one; None
    for a built-in one that brings nothing of its own.

    `data` is what the study names, which decides.

    Raises UsageError and DataError.
    """
    if workload is None:
        return Material(dataset=load_data(data, location), build=None, workload_digest="")
    own = load_workload(workload)
    dataset = load_data(data, location, own)
    return Material(dataset=dataset, build=own.build, workload_digest=own.digest)
