"""How long trials will take, from measured rates; never from a guess."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchcliff.record import TrialRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Rates of a workload, as it comes, on a machine of ours: one trial at a time.

    rates: examples/s by batch size, evaluation included. source: the file under benchmarks/
    that they were read from (tests/study/test_cost.py compares them).
    """

    device: str
    rates: Mapping[int, float]
    source: str


# By workload and kind of device ("cpu", "cuda").
MEASURED: Mapping[tuple[str, str], Measured] = {
    ("article", "cuda"): Measured(
        device="NVIDIA H100 80GB HBM3",
        rates={128: 152_758, 1024: 223_083, 8192: 239_519},
        source="2026-11-23-h100-training.json",
    ),
}

UNKNOWN = "unknown until the first trial has run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """`seconds` of training and evaluation, None where nothing was measured; and the basis."""

    seconds: float | None
    basis: str


def rates_of(records: Iterable[TrialRecord]) -> dict[int, float]:
    """Median examples/s by batch size, over the finished trials that say how fast they were."""
    found: dict[int, list[float]] = {}
    for record in records:
        rate = record.provenance.examples_per_second if record.provenance else 0.0
        # A trial that diverged early spent its time on starting: its rate says little.
        if math.isfinite(rate) and rate > 0 and record.accuracy is not None:
            found.setdefault(record.spec.batch_size, []).append(rate)
    return {size: statistics.median(rates) for size, rates in sorted(found.items())}


def nearest_rate(rates: Mapping[int, float], batch_size: int) -> float:
    """The rate at the measured batch size nearest on a log scale. ValueError without one."""
    size = min(rates, key=lambda known: (abs(math.log2(known / batch_size)), known))
    return rates[size]


def expected(
    work: Iterable[tuple[int, int]],
    records: Iterable[TrialRecord] = (),
    *,
    workload: str = "",
    device: str = "",
    workers: int = 1,
) -> Cost:
    """Expected seconds of trials given as (batch size, examples).

    Rates come from `records` of the same study, where `workers` trials run side by side;
    else from MEASURED for this workload and kind of device, and the basis says that it was
    another machine. Without either, or when nothing is left to do, it is said so.
    """
    todo = [(size, examples) for size, examples in work if examples > 0]
    if not todo:
        return Cost(seconds=0.0, basis="nothing is left to train")
    rates: Mapping[int, float] = rates_of(records)
    basis = f"from finished trials at batch size {_listed(rates)}"
    if not rates:
        found = MEASURED.get((workload, device))
        if found is None:
            return Cost(seconds=None, basis=UNKNOWN)
        rates, workers = found.rates, 1  # they share a device that one kept busy
        basis = f"measured on another machine, {found.device}, at batch size {_listed(rates)}"
    if any(size not in rates for size, _ in todo):
        basis += ", taking the nearest of them for the others"
    seconds = math.fsum(examples / nearest_rate(rates, size) for size, examples in todo)
    return Cost(seconds=seconds / max(workers, 1), basis=basis)


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(str(size) for size in sorted(sizes))
