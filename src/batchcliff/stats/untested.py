"""What a study says nothing about, in sentences: the other half of an advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from batchcliff.record import TrialRecord
from batchcliff.spec import StudySpec
from batchcliff.stats.cells import Cell
from batchcliff.stats.summary import ArmSummary, CellSummary

Cells = Mapping[tuple[str, int], Mapping[int, TrialRecord]]
"""(arm, batch size) -> seed -> record."""


def untested_sizes(
    arm: ArmSummary, recommended: int | None, above: Sequence[CellSummary]
) -> tuple[str, ...]:
    """Batch sizes around the recommended one that nothing is known of."""
    told = []
    sizes = [c.cell.batch_size for c in arm.cells if c.cell.measured]
    if recommended is not None and above:
        told.append(
            f"batch sizes between {recommended:,} and {above[0].cell.batch_size:,}: "
            "none was run"
        )
    elif recommended is not None:
        told.append(f"batch sizes above {sizes[-1]:,}: none was run, and the cliff is beyond")
    if recommended is not None and any(b > 2 * a for a, b in pairwise(sizes)):
        told.append("the grid has steps of more than a factor of 2: a dip inside is not seen")
    for cell in (c.cell for c in arm.cells if not c.cell.measured):
        names = ("missing", "oom", "timeout", "failed", "infeasible")
        why = ", ".join(f"{getattr(cell, n)} {n}" for n in names if getattr(cell, n))
        told.append(f"batch size {cell.batch_size:,}: planned, nothing measured ({why})")
    return tuple(told)


def untested(every: Sequence[Cell], study: StudySpec | None, cells: Cells) -> tuple[str, ...]:
    """What holds for the whole study: seeds, rates, data, budget, machines."""
    told = []
    most = max((cell.measured for cell in every), default=0)
    if most == 1:
        told.append("other seeds: one seed a cell, so no interval, and a fall may be chance")
    elif most:
        told.append(f"other seeds than the {most} of a cell; the intervals are about them")
    if study is None:
        told.append("what was trained, on what and with which settings: the table has none")
        return tuple(told)
    rules = [arm.lr or study.lr for arm in study.arms]
    fixed = dict.fromkeys(
        f"{rule.base:g} at {rule.base_batch_size} ({rule.scaling})"
        for rule in rules
        if not rule.tune
    )
    if fixed:
        told.append(
            "other learning rates: each batch size of an arm ran at one, by the rule "
            f"{' or '.join(fixed)}; a better one may be safe further up, or not as far"
        )
    for rates in dict.fromkeys(rule.tune for rule in rules if rule.tune):
        shown = ", ".join(f"{rate:g}" for rate in rates)
        told.append(f"learning rates but those tried at each batch size: base {shown}")
    records = [record for found in cells.values() for record in found.values()]
    sizes = sorted({r.ledger.num_train for r in records if r.ledger is not None})
    shown = f" ({', '.join(f'{n:,}' for n in sizes)} training examples)" if sizes else ""
    told.append(
        f"other data than {study.data}{shown}, other networks, and budgets other than "
        f"{study.budget}: the cliff moves with each of them"
    )
    devices = sorted({r.provenance.device for r in records if r.provenance is not None})
    if devices:
        told.append(
            f"other machines than {', '.join(devices)}, and other precisions than those run"
        )
    return tuple(told)
