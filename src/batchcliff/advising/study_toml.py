"""A study as the text of a study file, and the study that would confirm an advice."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from batchcliff.schedules.decays import DECAYS
from batchcliff.spec import Arm, Decay, LrRule, Search, Settings, StudySpec
from batchcliff.stats.advice import Advice, Recommendation
from batchcliff.study.grid import whole_trial
from batchcliff.techniques.batch_warmup import BatchWarmup
from batchcliff.workloads import WORKLOADS

MORE_SEEDS = 8
UNSAID = ("explosion", "stop")  # settings whose defaults, which do nothing, cannot be written
FINEST = 2**0.25  # steps of the confirming grid: a quarter of an octave


def confirming(study: StudySpec, advice: Advice, found: Recommendation) -> StudySpec:
    """The study with a fine grid around `found`, and seeds that had no say in choosing it.

    The grid: the reference batch size, the recommended one, and steps from there to the first
    size that failed or fell, or to four times as far where none did. Two arms: the reference
    and the recommended one.
    """
    own = next(a for a in advice.arms if a.arm == found.arm)
    falls = [limit.cell.cell.batch_size for limit in own.limits if limit.how != "uncertain"]
    most = None if found.ledger is None else found.ledger.num_train
    end = falls[0] if falls else min(4 * found.batch_size, most or 4 * found.batch_size)
    arms = [a for a in study.arms if a.name in (study.reference_arm, found.arm)]
    every = math.lcm(*(_divisor(study, arm, found.batch_size) for arm in arms))
    sizes = {found.batch_size, *_steps(found.batch_size, end, every)}
    if advice.reference_batch_size is not None:
        sizes.add(advice.reference_batch_size)
    first = max(study.seeds) + 1
    count = max(MORE_SEEDS, len(study.seeds))
    return dataclasses.replace(
        study,
        name=f"{study.name[:92]}-confirm",
        batch_sizes=tuple(sorted(sizes)),
        seeds=tuple(range(first, first + count)),
        arms=tuple(arms),
        search=None,
        description=f"Confirms batch size {found.batch_size} of arm {found.arm!r}, as advised "
        f"by the study {study.name!r}, with new seeds and a finer grid.",
        published="",
    )


def _divisor(study: StudySpec, arm: Arm, batch_size: int) -> int:
    """What batch sizes must be divisible by for the arm's groups of batch norm and steps of
    batch warmup; 8 at least, which devices can share."""
    trial = whole_trial(study, arm, batch_size)
    found, group = 8, trial.settings.batch_norm.group
    for name, options in trial.techniques:
        if name == "batch-warmup":
            ramp = BatchWarmup(**dict(options))
            found = math.lcm(found, ramp.start * ramp.steps)
    if isinstance(group, str):
        group = int(group.removeprefix("B/")) if group.startswith("B/") else 1
    return math.lcm(found, group)


def _steps(start: int, end: int, every: int) -> set[int]:
    """Sizes above `start` up to `end`, multiples of `every`, a quarter of an octave apart."""
    count = round(math.log(end / start, FINEST)) if end > start else 0
    inner = (start * (end / start) ** (k / count) for k in range(1, count))
    rounded = {round(size / every) * every for size in inner}
    return {size for size in rounded if start < size < end} | ({end} if end > start else set())


def study_toml(study: StudySpec, head: tuple[str, ...] = ()) -> str:
    """The text of a study file that `load_study` reads back as `study`.

    A workload of the user's own is no name that a file may hold: the key is left out, and
    `head` should say that it comes by --workload.
    """
    base = WORKLOADS.get(study.workload)
    lines = [f"# {line}".rstrip() for line in head] + [""] * bool(head)
    lines.append(f"name = {_value(study.name)}")
    if base is not None:
        lines.append(f"workload = {_value(study.workload)}")
    if study.description:
        lines.append(f"description = {_value(study.description)}")
    if base is not None:
        lines.append(f"data = {_value(study.data)}")
    lines += [
        f"batch_sizes = {_value(study.batch_sizes)}",
        f"seeds = {_value(study.seeds)}",
        f"budget = {_value(study.budget)}",
        f"lr = {_value(_lr(study.lr))}",
        f"decay = {_value(_decay(study.decay))}",
        f"reference_arm = {_value(study.reference_arm)}",
        f"tolerance = {_value(study.tolerance)}",
        f"published = {_value(study.published)}",
    ]
    if study.search is not None:
        lines.append(f"search = {_value(_search(study.search))}")
    settings = _settings(study.settings, None if base is None else base.settings)
    if settings:
        lines += ["", "[settings]", *(f"{key} = {_value(v)}" for key, v in settings.items())]
    for arm in study.arms:
        lines += ["", f"[arms.{_string(arm.name)}]", *_arm(arm)]
    return "\n".join(lines) + "\n"


def _arm(arm: Arm) -> list[str]:
    lines = [f"{name} = {_value(dict(options))}" for name, options in arm.techniques]
    lines += [f"{name} = {_value(value)}" for name, value in arm.settings]
    if arm.lr is not None:
        lines.append(f"lr = {_value(_lr(arm.lr))}")
    if arm.decay is not None:
        lines.append(f"decay = {_value(_decay(arm.decay))}")
    return lines


def _lr(rule: LrRule) -> dict[str, Any]:
    """The keys of a rule: its base rate, or the rates that are tried in its place."""
    scaled = {"base_batch_size": rule.base_batch_size, "scaling": rule.scaling}
    if not rule.tune:
        return {"base": rule.base, **scaled}
    search = {"tuning_seeds": rule.tuning_seeds, "validation": rule.validation}
    return {"tune": rule.tune, **search, **scaled}


def _search(search: Search) -> dict[str, Any]:
    """The keys of a search; a limit of 0, which is none, cannot be written."""
    limits = {"trials": search.trials, "examples": search.examples}
    given = {name: limit for name, limit in limits.items() if limit}
    at_once = {"at_once": search.at_once}
    return {"kind": "adaptive", "precision": search.precision, **given, **at_once}


def _decay(decay: Decay) -> dict[str, Any]:
    options = {name: getattr(decay, name) for name in DECAYS[decay.kind].options}
    return {"kind": decay.kind, **{k: v for k, v in options.items() if v not in ("", ())}}


def _settings(settings: Settings, base: Settings | None) -> dict[str, Any]:
    """What differs from the workload's; all of it where the workload is not known here."""
    found: dict[str, Any] = {}
    own = settings.model.name == "own"
    for f in dataclasses.fields(Settings):
        value = getattr(settings, f.name)
        if value is None or (own and f.name in ("model", "batch_norm")):
            continue
        unsaid = Settings() if f.name in UNSAID else None
        other = getattr(base or unsaid, f.name, None)
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            if value != other:
                found[f.name] = value
            continue
        fields = {g.name: getattr(value, g.name) for g in dataclasses.fields(value)}
        changed = {k: v for k, v in fields.items() if other is None or v != getattr(other, k)}
        if f.name == "pretraining":
            changed.pop("weights", None)  # of a file: given by --weights
        if changed:
            found[f.name] = changed
    return found


def _value(value: Any) -> str:
    """A TOML 1.0 value; tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name} = {_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return f"[{', '.join(map(_value, value))}]"


def _string(text: str) -> str:
    """A basic string on one line, with TOML's escapes, which are JSON's and one more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
