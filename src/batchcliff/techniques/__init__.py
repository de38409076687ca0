"""What may move the cliff: one file per technique, and the dict that lists them.

A technique is a frozen dataclass of options (its fields are the keys of the study file) that
fills a part of one of four seams: rate, model, loss, optimizer. Two techniques that fill the
same part cannot be combined; an arm whose technique changes nothing is refused (`NoEffect`).
Most techniques resolve into settings of the trial, so that a trial has one id however it was
spelled; those that act during the run stay in `TrialSpec.techniques`. Importing this package
imports no torch.
"""

from __future__ import annotations

import dataclasses
import typing
from types import NoneType, UnionType
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import Options
from batchcliff.techniques import batch_growth, batch_warmup, longer_training
from batchcliff.techniques.adam import GiAdam, RAdam
from batchcliff.techniques.batch_growth import BatchGrowth
from batchcliff.techniques.batch_warmup import BatchWarmup
from batchcliff.techniques.cutout import Cutout
from batchcliff.techniques.examples import EXAMPLES
from batchcliff.techniques.ghost_batch_norm import GhostBatchNorm
from batchcliff.techniques.gradient_clipping import GradientClipping
from batchcliff.techniques.label_smoothing import LabelSmoothing
from batchcliff.techniques.lamb import Lamb
from batchcliff.techniques.lars import Larc, Lars
from batchcliff.techniques.longer_training import LongerTraining
from batchcliff.techniques.mixup import Mixup
from batchcliff.techniques.momentum_correction import MomentumCorrection
from batchcliff.techniques.nesterov import Nesterov
from batchcliff.techniques.precision import Precision
from batchcliff.techniques.random_erasing import RandomErasing
from batchcliff.techniques.reestimated_batch_norm import ReestimatedBatchNorm
from batchcliff.techniques.seams import SEAMS, Technique
from batchcliff.techniques.warmup import Warmup
from batchcliff.techniques.weight_decay import NoDecay, WeightDecay
from batchcliff.techniques.zero_gamma import ZeroGamma

__all__ = ["SEAMS", "TECHNIQUES", "Technique", "technique", "techniques"]

TECHNIQUES: dict[str, type[Technique]] = {
    "cutout": Cutout,
    "ghost-batch-norm": GhostBatchNorm,
    "gi-adam": GiAdam,
    "gradient-clipping": GradientClipping,
    "label-smoothing": LabelSmoothing,
    "lamb": Lamb,
    "larc": Larc,
    "lars": Lars,
    "mixup": Mixup,
    "momentum-correction": MomentumCorrection,
    "nesterov": Nesterov,
    "no-decay": NoDecay,
    "precision": Precision,
    "radam": RAdam,
    "random-erasing": RandomErasing,
    "reestimated-batch-norm": ReestimatedBatchNorm,
    "warmup": Warmup,
    "weight-decay": WeightDecay,
    "zero-gamma": ZeroGamma,
    batch_growth.NAME: BatchGrowth,
    batch_warmup.NAME: BatchWarmup,
    longer_training.NAME: LongerTraining,
}

KINDS: dict[type, str] = {
    str: "a text",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    tuple: "a list",
}


def technique(name: str, options: Options | dict[str, Any]) -> Technique:
    """The technique `name` with `options`. UsageError if either is unknown or invalid."""
    if name not in TECHNIQUES:
        raise UsageError(f"unknown technique {name!r}.{did_you_mean(name, TECHNIQUES)}")
    cls, given = TECHNIQUES[name], dict(options)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(given.keys() - fields.keys()):
        raise UsageError(
            f"{name}: unknown option {unknown[0]!r}.{did_you_mean(unknown[0], fields)}"
        )
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in given:
            example = f" Write e.g. {name} = {EXAMPLES[name]}." if name in EXAMPLES else ""
            raise UsageError(f"{name}: {field.name} is missing.{example}")
    hints = typing.get_type_hints(cls)
    for key, value in given.items():
        kinds = _kinds(hints[key])
        if not any(_is(value, kind) for kind in kinds):
            words = [
                KINDS.get(kind, f"a {kind.__name__}") for kind in kinds if kind is not NoneType
            ]
            raise UsageError(f"{name}.{key}: {value!r:.100} is not {' or '.join(words)}.")
    return cls(**given)


def _kinds(hint: Any) -> list[type]:
    """The types that an annotation allows: `float | None` is two, a choice of texts is one."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        parts = (kind for part in typing.get_args(hint) for kind in _kinds(part))
        return list(dict.fromkeys(parts))
    if origin is typing.Literal:  # which ones, the technique knows
        return list(dict.fromkeys(type(choice) for choice in typing.get_args(hint)))
    return [origin or hint]


def _is(value: Any, kind: type) -> bool:
    """As isinstance, but true is no number, and a whole number is one."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def techniques(pairs: tuple[tuple[str, Options], ...]) -> tuple[Technique, ...]:
    """The techniques of an arm. UsageError if two of them fill the same part of a seam."""
    built = tuple(technique(name, options) for name, options in pairs)
    filled: dict[tuple[str, str], str] = {}
    for (name, _), item in zip(pairs, built, strict=True):
        place = (item.seam, item.part)
        if place in filled:
            raise UsageError(
                f"techniques {filled[place]!r} and {name!r} both fill the seam "
                f"{item.seam!r} ({item.part}): put them in two arms."
            )
        filled[place] = name
    return built
