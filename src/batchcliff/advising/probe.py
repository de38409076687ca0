"""`advise --probe`: what a short run predicts before any study exists, and the study to run.

Predictions only: no cliff has been measured, and nothing here is a recommendation.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from batchcliff.advising.study_toml import study_toml
from batchcliff.errors import UsageError, did_you_mean
from batchcliff.planning import check_device
from batchcliff.spec import Arm, StudySpec
from batchcliff.stats.intervals import Estimate
from batchcliff.stats.predictions import (
    Memory,
    Throughput,
    batch_of_rate,
    memory,
    noise_scale,
    stable_lr,
    throughput,
)
from batchcliff.study import grid
from batchcliff.study.printable import printable
from batchcliff.study.probe import Readings, probe
from batchcliff.studyfile import load_study, parse_study
from batchcliff.training.probe_readings import Place
from batchcliff.workloads import WORKLOADS, Workload, load_workload

SEEDS = 3
MOST_SIZES = 10  # of the study to run next
BELOW, ABOVE = 4, 8  # times the predicted critical batch that its batch sizes reach


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What was predicted at one place of the short run, before `update`.

    noise_scale: in examples; critical: whether it is the prediction of the critical batch,
    which is the last place's. stable_lr: the largest stable rate; rule_reaches_it: the smallest
    batch size whose rate by the study's rule is above it, None if none up to the training set.
    """

    update: int
    lr: float
    critical: bool
    noise_scale: Estimate
    stable_lr: Estimate
    rule_reaches_it: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """The answer of a probe. study, arm: what was probed; next_study: to be run next."""

    study: StudySpec
    arm: str
    readings: Readings
    predictions: tuple[Prediction, ...]
    throughput: Throughput | None
    memory: Memory | None
    next_study: StudySpec

    @property
    def last(self) -> Prediction | None:
        """The prediction that counts: of the weights that were trained furthest."""
        return self.predictions[-1] if self.predictions else None


def advise_probe(
    source: str | Path | None,
    *,
    workload: str | None = None,
    arm: str | None = None,
    seconds: float = 60.0,
    device: str = "auto",
    data: str | Path | None = None,
) -> Probed:
    """Probe a study file or a recipe, or with `workload` alone that workload's own settings.

    Takes about `seconds` and the start of two processes; writes nothing. Raises UsageError,
    DataError.
    """
    check_device(device)
    own = load_workload(workload) if workload else None
    study = _study(source, own)
    chosen = _arm(study, arm)
    readings = probe(
        study,
        chosen,
        seconds=seconds,
        device=device,
        data=Path(data) if data else None,
        workload_reference=workload,
    )
    num_train = readings.ledger.num_train
    ended = readings.speed_ended
    failed = ended.batch_size if ended and ended.reason == "memory" and ended.words else None
    predictions = tuple(
        _prediction(study, chosen, readings, place, critical=place is readings.places[-1])
        for place in readings.places
    )
    limit = readings.room.limit if readings.room else None
    return Probed(
        study=study,
        arm=chosen.name,
        readings=readings,
        predictions=predictions,
        throughput=throughput([(s.batch_size, s.rate) for s in readings.speeds]),
        memory=memory(
            [(s.batch_size, s.peak) for s in readings.speeds], limit, failed, num_train
        ),
        next_study=next_study(study, chosen, readings, predictions),
    )


def _study(source: str | Path | None, own: Workload | None) -> StudySpec:
    if source is not None:
        return load_study(source, workload=own)
    if own is None:
        raise UsageError(
            "--probe: name a study file or a recipe, such as digits, or --workload "
            "MODULE:FUNCTION"
        )
    # A workload says all but the grid. Warmup is what most studies ask about.
    text = (
        f'name = "probe"\nbatch_sizes = [{own.lr.base_batch_size}]\nseeds = {SEEDS}\n'
        '[arms.none]\n[arms.warmup]\nwarmup = { duration = "10%" }\n'
    )
    study = parse_study(text, label=f"--workload {own.name}", workload=own)
    return dataclasses.replace(study, name=own.name)


def _arm(study: StudySpec, name: str | None) -> Arm:
    arms = {arm.name: arm for arm in study.arms}
    wanted = study.reference_arm if name is None else name
    if wanted not in arms:
        raise UsageError(
            f"no arm {printable(wanted)!r} in this study.{did_you_mean(wanted, arms)}"
        )
    return arms[wanted]


def _prediction(
    study: StudySpec, arm: Arm, readings: Readings, place: Place, *, critical: bool
) -> Prediction:
    rate = stable_lr(readings.spec.settings.optimizer, place.sharpness)
    reached = None
    if rate.value is not None:
        rule = functools.partial(grid.lr_of, grid.rule_of(study, arm))
        reached = batch_of_rate(rule, rate.value, readings.ledger.num_train)
    return Prediction(
        update=place.update,
        lr=place.lr,
        critical=critical,
        noise_scale=noise_scale(place.trace, place.square),
        stable_lr=rate,
        rule_reaches_it=reached,
    )


def next_study(
    study: StudySpec,
    arm: Arm,
    readings: Readings,
    predictions: tuple[Prediction, ...],
) -> StudySpec:
    """The study with batch sizes around what was predicted, each twice the one before.

    From a quarter of the predicted critical batch, or the base batch size of the rate if
    that is less, to eight times it, and beyond the batch size at which the rule of the rate
    reaches the largest stable one. Without a prediction, the sizes that the study has.
    """
    base = grid.rule_of(study, arm).base_batch_size
    places = [
        place
        for p in predictions[-1:]
        for place in (p.noise_scale.value, p.rule_reaches_it)
        if place is not None
    ]
    name = f"{study.name[:92]}-measure"
    if not places:
        return dataclasses.replace(study, name=name)
    most = readings.ledger.num_train
    critical = predictions[-1].noise_scale.value or base
    beyond = predictions[-1].rule_reaches_it or base
    low = max(min(base, critical / BELOW), 1)
    high = max(ABOVE * critical, 2 * beyond, 2 * base)
    sizes = {base}
    for step in (2.0, 0.5):
        size = base * step
        while low <= size <= min(high, most) and size == int(size):
            if int(size) not in readings.skipped:
                sizes.add(int(size))
            size *= step
    return dataclasses.replace(
        study,
        name=name,
        batch_sizes=tuple(_fewer(sorted(sizes), base)),
        search=None,
        description=f"Measures what a probe of {readings.seconds:.0f} s predicted for the "
        f"study {study.name!r}.",
    )


def _fewer(sizes: list[int], base: int) -> list[int]:
    """At most `MOST_SIZES`: the ends, the base, and every second of the others if need be."""
    while len(sizes) > MOST_SIZES:
        sizes = sorted({*sizes[::2], sizes[-1], base})
    return sizes


def probed_toml(probed: Probed, said: tuple[str, ...]) -> str:
    """The next study as the text of a study file, with `said` at its head."""
    notes = [*said, "Measure it: batchcliff run THIS_FILE"]
    if probed.study.workload not in WORKLOADS:
        notes[-1] += " --workload MODULE:FUNCTION, as for the probe"
    return study_toml(probed.next_study, tuple(notes))
