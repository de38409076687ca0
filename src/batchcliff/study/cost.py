"""How long trials will take, from measured rates; never from a guess."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchcliff.record import TrialRecord

# Rates measured with this package, by (workload, device name), then by batch size, in
# examples/s. An entry needs a file under benchmarks/ or results/ that it was read from.
MEASURED: Mapping[tuple[str, str], Mapping[int, float]] = {}

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

    Rates come from `records` of the same study, else from the table of rates measured on
    this kind of device; without either, or when nothing is left to do, it is said so.
    """
    todo = [(size, examples) for size, examples in work if examples > 0]
    if not todo:
        return Cost(seconds=0.0, basis="nothing is left to train")
    rates: Mapping[int, float] = rates_of(records)
    basis = f"from finished trials at batch size {_listed(rates)}"
    if not rates:
        rates = MEASURED.get((workload, device), {})
        basis = f"from rates measured on {device} at batch size {_listed(rates)}"
    if not rates:
        return Cost(seconds=None, basis=UNKNOWN)
    if any(size not in rates for size, _ in todo):
        basis += ", taking the nearest of them for the others"
    seconds = math.fsum(examples / nearest_rate(rates, size) for size, examples in todo)
    return Cost(seconds=seconds / max(workers, 1), basis=basis)


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(str(size) for size in sorted(sizes))
