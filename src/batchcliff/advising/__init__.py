"""What to use, from a study's records: the advice in words, and as settings that run.

`advise` gives the value (stats.advice), `exported` the text of one of `FORMATS`. No torch is
imported: the exported programs import it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from batchcliff.advising.frameworks import lightning_code, torch_code, transformers_code
from batchcliff.advising.settings import FORMATS, settings_of
from batchcliff.advising.study_toml import confirming, study_toml
from batchcliff.advising.timm_yaml import timm_yaml
from batchcliff.advising.words import head
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import StudySpec
from batchcliff.stats.advice import Advice, Recommendation, advise_summary, level_for_all
from batchcliff.stats.advice import advise as advise_records
from batchcliff.study.printable import printable
from batchcliff.study.store import Store
from batchcliff.study.tuning import reported_plan
from batchcliff.workloads import WORKLOADS

__all__ = ["FORMATS", "Advised", "advise_imported", "advise_study", "chosen", "exported"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Advised:
    """An advice, and the study that it is about; None of an imported table."""

    advice: Advice
    study: StudySpec | None


def advise_study(folder: Path) -> Advised:
    """The advice of the study in `folder`. Raises UsageError as `stats.summarize`."""
    from batchcliff.report.join import join, planned_specs

    with Store.open(folder) as store:
        records = list(store.records().values())
        cells = [(p.arm, p.batch_size, p.seed, p.trial_id) for p in reported_plan(store)]
        study, quarantined = store.study, len(store.quarantined)
    joined = join(cells, records)
    advice = advise_records(joined.records, planned_specs(joined, study), study)
    if quarantined:
        note = f"{quarantined} damaged records were set aside; their trials count as missing"
        advice = dataclasses.replace(advice, notes=(*advice.notes, note))
    return Advised(advice=advice, study=study)


def advise_imported(folder: Path) -> Advised:
    """The advice of an imported table, which has no settings and no speed."""
    from batchcliff.published.imported import load
    from batchcliff.report.imported import summary_of_table

    imported, table = load(folder)
    summary = summary_of_table(imported, table, 0.95)
    strict = level_for_all(summary.level, len(summary.arms))
    chosen = summary if strict == summary.level else summary_of_table(imported, table, strict)
    return Advised(advice=advise_summary(summary, chosen, name=imported.name), study=None)


def chosen(advised: Advised, arm: str | None) -> Recommendation:
    """The recommendation of an arm, or the best one. UsageError if there is none."""
    advice = advised.advice
    if arm is None:
        if advice.best is None:
            why = "; ".join(dict.fromkeys(a.problem for a in advice.arms if a.problem))
            raise UsageError(f"study {advice.study!r}: nothing can be recommended: {why}")
        return advice.best
    names = {a.arm: a for a in advice.arms}
    if arm not in names:
        raise UsageError(f"no arm {printable(arm)!r} in this study.{did_you_mean(arm, names)}")
    found = names[arm]
    if found.recommendation is None:
        raise UsageError(f"arm {arm!r}: nothing can be recommended: {found.problem}")
    return found.recommendation


def exported(advised: Advised, target: str, arm: str | None = None) -> str:
    """The recommendation as the text of one of `FORMATS`; of `arm`, or of the best one.

    Raises UsageError for an unknown format or arm, where nothing can be recommended, where
    the table has no settings, and where the format cannot say what was run.
    """
    if target not in FORMATS:
        raise UsageError(
            f"unknown format {printable(target)!r}.{did_you_mean(target, FORMATS)}"
        )
    found = chosen(advised, arm)
    said = head(advised.advice, found)
    if target != "toml":
        settings = settings_of(found)
        write = {
            "torch": torch_code,
            "lightning": lightning_code,
            "transformers": transformers_code,
            "timm": timm_yaml,
        }[target]
        return write(settings, said)
    if advised.study is None:
        settings_of(found)  # says what is missing
        raise AssertionError("an imported table has no settings")
    study = confirming(advised.study, advised.advice, found)
    notes = [*said, "A study that confirms it, with new seeds: batchcliff run THIS_FILE"]
    if advised.study.workload not in WORKLOADS:
        notes[-1] += " --workload MODULE:FUNCTION, as for the first study"
    if study.settings.pretraining is not None and study.settings.pretraining.weights:
        notes.append("The weights that it began with are given by --weights, as they were.")
    return study_toml(study, tuple(notes))
