"""The verb `diagnose`: a study's records to its diagnosis, and that to sentences and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchcliff.errors import UsageError
from batchcliff.importing import find_imported

if TYPE_CHECKING:
    from batchcliff.stats.diagnose import Diagnosis
    from batchcliff.stats.noise_scale import NoiseScaleRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosed:
    """Why a study fell, and what its gradient noise predicts; noise: empty without probes."""

    study: str
    diagnosis: Diagnosis
    noise: Sequence[NoiseScaleRow]


def diagnose(study: str | Path) -> Diagnosed:
    """Why each fallen cell of a study fell, with the evidence (docs/diagnose.md), and the
    critical batch that its gradient noise predicts beside its cliff (docs/noise_scale.md).

    Raises UsageError if there is no study, and for an imported table, which has accuracies and
    nothing that a cause could be told from.
    """
    from batchcliff.report.join import join, planned_specs
    from batchcliff.standing import find_study
    from batchcliff.stats.diagnose import diagnose as diagnosis_of
    from batchcliff.stats.noise_scale import noise_scale_rows
    from batchcliff.stats.summary import summarize
    from batchcliff.study.store import Store
    from batchcliff.study.tuning import reported_plan

    if find_imported(study) is not None:
        raise UsageError(
            "an imported table has accuracies only, and no cause can be told from them. "
            "Write a study that was run."
        )
    with Store.open(find_study(study)) as store:
        records, spec = store.records(), store.study
        cells = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
    ids = {trial_id for *_, trial_id in cells}
    joined = join(cells, [r for i, r in records.items() if i in ids])
    planned = planned_specs(joined, spec)
    summary = summarize(joined.records, planned, spec.reference_arm, spec.tolerance)
    return Diagnosed(
        study=spec.name,
        diagnosis=diagnosis_of(joined.records, planned, summary),
        noise=noise_scale_rows(joined.labelled, summary),
    )
