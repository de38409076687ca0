"""The keys of a study file, their types and allowed values. The only module with pydantic.

Every field is optional here, since what a file leaves out comes from its workload; which
keys a file must have is said by `REQUIRED`. `examples` of a field end up in messages.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from batchcliff.errors import UsageError
from batchcliff.models import MODELS
from batchcliff.schedules.decays import DECAYS
from batchcliff.schedules.duration import Duration, parse_duration
from batchcliff.schedules.scaling import SCALING
from batchcliff.spec import EVALUATIONS, EXCLUDE, INITS, OPTIMIZERS, PRECISIONS, PROBES
from batchcliff.study.printable import hidden_character
from batchcliff.studyfile.document import Document, Path_, show, unknown

MAX_BATCH_SIZES = 1_000
MAX_SEEDS = 10_000
REQUIRED = ("name", "batch_sizes", "seeds", "arms")
_RANGE = re.compile(r"(\d{1,15})\s*\.\.\s*(\d{1,15})\s*:\s*([x*+])\s*(\d{1,15})", re.ASCII)


def _one_of(*names: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(unknown("value", value, names))
        return value

    return AfterValidator(check)


def _number(
    test: Callable[[float], bool], needed: str
) -> AfterValidator:  # NaN and infinities pass no test
    def check(value: float) -> float:
        if not math.isfinite(value) or not test(value):
            raise ValueError(f"is not {needed}.")
        return value

    return AfterValidator(check)


def _text(*, lines: bool = False, empty: bool = True, limit: int = 10_000) -> AfterValidator:
    def check(value: str) -> str:
        if found := hidden_character(value, "\n\t" if lines else ""):
            raise ValueError(f"has a character that terminals hide (U+{ord(found):04X}).")
        if not empty and not value.strip():
            raise ValueError("is empty.")
        if len(value) > limit:
            raise ValueError(f"is longer than {limit} characters.")
        return value

    return AfterValidator(check)


def _folder_name(value: str) -> str:
    if len(value) > 100 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", value):
        raise ValueError(
            "is the name of the study's folder too: up to 100 letters, digits and . _ + - "
            "that begin with a letter or a digit."
        )
    return value


def length_of(value: str) -> Duration:
    """The duration that a study file names, where each one has a unit. UsageError."""
    if value.strip().isdecimal():
        number = value.strip()
        raise UsageError(f"has no unit. Write '{number}ep' (epochs) or '{number}up' (updates).")
    return parse_duration(value)


def _duration(value: str) -> str:
    return str(length_of(value))


def _budget(value: str) -> str:
    length = length_of(value)
    if length.unit == "%":
        raise ValueError("a run cannot be a share of itself.")
    if length.value == 0:
        raise ValueError("trains nothing.")
    return str(length)


def whole_numbers(values: Iterable[Any], least: int, what: str) -> tuple[int, ...]:
    """Distinct whole numbers >= `least`, ascending. ValueError names the first that is not."""
    found: list[int] = []
    for value in values:
        if type(value) is not int or not least <= value < 1 << 63:
            raise ValueError(f"{show(value)} is not a whole number >= {least}.")
        if value in found:
            raise ValueError(f"{value} stands twice: {what} are distinct.")
        found.append(value)
    if not found:
        raise ValueError(f"is empty: at least one of {what} is needed.")
    return tuple(sorted(found))


def _expand(start: int, stop: int, kind: str, by: int) -> list[int]:
    if start < 1 or by < (1 if kind == "+" else 2) or start > stop:
        raise ValueError("is a range that has no values.")
    values = [start]
    while values[-1] < stop:
        values.append(values[-1] + by if kind == "+" else values[-1] * by)
        if len(values) > MAX_BATCH_SIZES:
            raise ValueError(f"has more than {MAX_BATCH_SIZES} batch sizes.")
    if values[-1] != stop:  # an end that is passed by would be clamped in silence
        near = f"{values[-2]} or {values[-1]}"
        raise ValueError(f"does not reach {stop}: in steps of {kind}{by} it meets {near}.")
    return values


def _batch_sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        match = _RANGE.fullmatch(value.strip())
        if match:
            value = _expand(int(match[1]), int(match[2]), match[3], int(match[4]))
        elif re.fullmatch(r"\d{1,15}(\s*,\s*\d{1,15})*", value.strip(), re.ASCII):
            value = [int(part) for part in value.split(",")]
        else:
            raise ValueError("is neither a range nor a list of batch sizes.")
    if not isinstance(value, list):
        raise ValueError("is neither a range nor a list of batch sizes.")
    if len(value) > MAX_BATCH_SIZES:
        raise ValueError(f"has more than {MAX_BATCH_SIZES} batch sizes.")
    return whole_numbers(value, 1, "batch sizes")


def _seeds(value: Any) -> tuple[int, ...]:
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"is not a number of seeds from 1 to {MAX_SEEDS}.")
        return tuple(range(value))
    if not isinstance(value, list):
        raise ValueError("is neither a number of seeds nor a list of them.")
    if len(value) > MAX_SEEDS:
        raise ValueError(f"has more than {MAX_SEEDS} seeds.")
    return whole_numbers(value, 0, "seeds")


def _group(value: Any) -> str | int:
    if value == "global" or (type(value) is int and value >= 2):
        return typing.cast("str | int", value)
    if isinstance(value, str) and re.fullmatch(r"B/[1-9]\d{0,8}", value, re.ASCII):
        return value
    raise ValueError(
        'is not "global" (one group an update), "B/8" (eight groups) or a ghost size >= 2.'
    )


def _widths(value: list[list[int]]) -> list[list[int]]:
    if not value or not all(value) or any(width < 1 for block in value for width in block):
        raise ValueError("is not a list of blocks, each a list of channel counts >= 1.")
    return value


def _at(value: list[str]) -> tuple[str, ...]:
    if not value:
        raise ValueError('is empty. For no decay write kind = "constant".')
    return tuple(value)


def _pair(value: list[float]) -> list[float]:
    if len(value) != 2:
        raise ValueError("is not a pair.")
    return value


def _distinct(value: list[str]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("has an entry twice: they are distinct.")
    return tuple(sorted(value))  # one spelling, one trial id


def _rates(value: list[float]) -> list[float]:
    if len(value) < 2:
        raise ValueError("is no choice: at least two rates are needed.")
    if len(set(value)) < len(value):
        raise ValueError("has a rate twice: they are distinct.")
    return value


def _scaling(value: str) -> str:
    if value not in SCALING:
        raise ValueError(unknown("rule", value, SCALING))
    return value


Positive = Annotated[float, _number(lambda x: x > 0, "a finite number above 0")]
NotNegative = Annotated[float, _number(lambda x: x >= 0, "a finite number >= 0")]
Share = Annotated[float, _number(lambda x: 0 <= x < 1, "a number from 0 to below 1")]
Tolerance = Annotated[float, _number(lambda x: 0 < x < 1, "a share above 0 and below 1")]
Line = Annotated[str, _text()]
DurationText = Annotated[str, AfterValidator(_duration)]
Probes = Annotated[list[Annotated[str, _one_of(*PROBES)]], AfterValidator(_distinct)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def given(self) -> dict[str, Any]:
        """The fields that the file has, tables as dicts."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return {k: v.given() if isinstance(v, _Table) else v for k, v in fields.items()}


class LrTable(_Table):
    base: Positive | None = Field(None, examples=["0.1"])
    base_batch_size: Annotated[int, _number(lambda x: x >= 1, "a whole number >= 1")] | None = (
        Field(None, examples=["128"])
    )
    scaling: Annotated[str, AfterValidator(_scaling)] | None = Field(
        None, examples=['"linear"']
    )
    tune: Annotated[list[Positive], AfterValidator(_rates)] | None = Field(
        None, examples=["[0.05, 0.1, 0.2]"]
    )
    trials: Annotated[int, _number(lambda x: x >= 2, "a whole number >= 2")] | None = Field(
        None, examples=["3"]
    )
    tuning_seeds: (
        Annotated[int, _number(lambda x: 1 <= x <= 1000, "a whole number from 1 to 1000")]
        | None
    ) = Field(None, examples=["1"])
    validation: (
        Annotated[float, _number(lambda x: 0 < x <= 0.5, "a share above 0, at most 0.5")] | None
    ) = Field(None, examples=["0.1"])


class DecayTable(_Table):
    kind: Annotated[str, _one_of(*DECAYS)] | None = Field(None, examples=['"multistep"'])
    at: Annotated[list[DurationText], AfterValidator(_at)] | None = Field(
        None, examples=['["60%", "85%"]']
    )
    factor: Annotated[float, _number(lambda x: 0 < x < 1, "between 0 and 1")] | None = Field(
        None, examples=["0.1"]
    )
    power: Positive | None = Field(None, examples=["2"])
    floor: Share | None = Field(None, examples=["0.0"])
    timescale: DurationText | None = Field(None, examples=['"10%"'])
    duration: DurationText | None = Field(None, examples=['"20%"'])
    rise: Annotated[float, _number(lambda x: 0 < x < 1, "between 0 and 1")] | None = Field(
        None, examples=["0.3"]
    )
    start: Share | None = Field(None, examples=["0.04"])
    end: Share | None = Field(None, examples=["4e-6"])


class ModelTable(_Table):
    name: Annotated[str, _one_of(*MODELS)] | None = Field(None, examples=['"conv-net"'])
    widths: Annotated[list[list[int]], AfterValidator(_widths)] | None = Field(
        None, examples=["[[64, 64, 64], [128, 128, 128]]"]
    )
    init: Annotated[str, _one_of(*INITS)] | None = Field(None, examples=['"glorot-uniform"'])
    zero_gamma: bool | None = Field(None, examples=["false"])


class BatchNormTable(_Table):
    eps: Positive | None = Field(None, examples=["1e-3"])
    momentum: Share | None = Field(None, examples=["0.99"])
    group: Annotated[str | int, PlainValidator(_group)] | None = Field(
        None, examples=['"global"']
    )
    running: Annotated[str, _one_of("mean", "per-group")] | None = Field(
        None, examples=['"mean"']
    )


class OptimizerTable(_Table):
    name: Annotated[str, _one_of(*OPTIMIZERS)] | None = Field(None, examples=['"sgd"'])
    form: Annotated[str, _one_of("keras", "torch")] | None = Field(None, examples=['"keras"'])
    momentum: Share | None = Field(None, examples=["0.9"])
    nesterov: bool | None = Field(None, examples=["false"])
    weight_decay: NotNegative | None = Field(None, examples=["5e-4"])
    momentum_correction: bool | None = Field(None, examples=["false"])
    exclude: Annotated[str, _one_of(*EXCLUDE)] | None = Field(
        None, examples=['"norms-and-biases"']
    )
    clip_norm: NotNegative | None = Field(None, examples=["5.0"])
    trust: Positive | None = Field(None, examples=["0.001"])
    betas: Annotated[list[Share], AfterValidator(_pair)] | None = Field(
        None, examples=["[0.9, 0.999]"]
    )
    eps: NotNegative | None = Field(None, examples=["1e-8"])
    denominator: Annotated[str, _one_of("separate", "joint")] | None = Field(
        None, examples=['"separate"']
    )


class PretrainingTable(_Table):
    data: Line | None = Field(None, examples=['"cifar10-first-half"'])
    budget: Annotated[str, AfterValidator(_budget)] | None = Field(None, examples=['"30ep"'])
    batch_size: Annotated[int, _number(lambda x: x >= 1, "a whole number >= 1")] | None = Field(
        None, examples=["256"]
    )
    lr: Positive | None = Field(None, examples=["0.1"])


class ExplosionTable(_Table):
    factor: Annotated[float, _number(lambda x: x > 1, "above 1")] | None = Field(
        None, examples=["10"]
    )
    updates: Annotated[int, _number(lambda x: x >= 1, "a whole number >= 1")] | None = Field(
        None, examples=["100"]
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.factor is None:
            raise ValueError("lacks the factor: how many times the first loss is too much.")
        return self


AtLeastOne = Annotated[int, _number(lambda x: x >= 1, "a whole number >= 1")]
Accuracy = Annotated[float, _number(lambda x: 0 < x <= 1, "a share above 0, at most 1")]


class StopTable(_Table):
    stalled: DurationText | None = Field(None, examples=['"20%"'])
    accuracy: Accuracy | None = Field(None, examples=["0.9"])


class BudgetTable(_Table):
    accuracy: Accuracy | None = Field(None, examples=["0.9"])
    at_most: Annotated[str, AfterValidator(_budget)] | None = Field(None, examples=['"30ep"'])


class SearchTable(_Table):
    kind: Annotated[str, _one_of("adaptive")] | None = Field(None, examples=['"adaptive"'])
    precision: Annotated[float, _number(lambda x: 1.05 <= x <= 2, "from 1.05 to 2")] | None = (
        Field(None, examples=["1.4142135623730951"])
    )
    trials: AtLeastOne | None = Field(None, examples=["20"])
    examples: AtLeastOne | None = Field(None, examples=["100_000_000"])
    at_once: AtLeastOne | None = Field(None, examples=["1"])


class SettingsTable(_Table):
    model: ModelTable | None = Field(None, examples=['{ name = "resnet" }'])
    batch_norm: BatchNormTable | None = Field(None, examples=["{ group = 32 }"])
    optimizer: OptimizerTable | None = Field(None, examples=['{ name = "adam" }'])
    loss: Annotated[str, _one_of("clipped-softmax", "logits")] | None = Field(
        None, examples=['"logits"']
    )
    augmentation: Annotated[str, _one_of("as-written", "as-coded", "none")] | None = Field(
        None, examples=['"as-written"']
    )
    precision: Annotated[str, _one_of(*PRECISIONS)] | None = Field(None, examples=['"bf16"'])
    remainder: Annotated[str, _one_of("drop", "carry")] | None = Field(
        None, examples=['"carry"']
    )
    evaluate_every: Annotated[int, _number(lambda x: x >= 0, "a whole number >= 0")] | None = (
        Field(None, examples=["1"])
    )
    label_smoothing: Share | None = Field(None, examples=["0.1"])
    mixup: NotNegative | None = Field(None, examples=["0.2"])
    cutout: Annotated[int, _number(lambda x: x >= 0, "a whole number >= 0")] | None = Field(
        None, examples=["8"]
    )
    random_erasing: Annotated[float, _number(lambda x: 0 <= x <= 1, "from 0 to 1")] | None = (
        Field(None, examples=["0.5"])
    )
    evaluation: Annotated[str, _one_of(*EVALUATIONS)] | None = Field(
        None, examples=['"reestimated"']
    )
    gradient_norms: bool | None = Field(None, examples=["true"])
    probes: Probes | None = Field(None, examples=['["noise-scale", "sharpness"]'])
    probe_at: Annotated[list[DurationText], AfterValidator(_distinct)] | None = Field(
        None, examples=['["0up", "10up", "1ep"]']
    )
    explosion: ExplosionTable | None = Field(
        None, examples=["{ factor = 10, updates = 100 }"]
    )
    stop: StopTable | None = Field(None, examples=['{ stalled = "20%" }'])
    pretraining: PretrainingTable | None = Field(
        None, examples=['{ data = "cifar10-first-half", budget = "30ep" }']
    )


class StudyTable(_Table):
    name: Annotated[str, AfterValidator(_folder_name)] | None = Field(
        None, examples=['"my-study"']
    )
    workload: Line | None = Field(None, examples=['"article"'])
    description: Annotated[str, _text(lines=True)] | None = Field(None, examples=['"Why."'])
    data: Line | None = Field(None, examples=['"cifar10"'])
    batch_sizes: Annotated[tuple[int, ...], PlainValidator(_batch_sizes)] | None = Field(
        None, examples=['"128..8192:x2"', "[128, 256, 512]"]
    )
    seeds: Annotated[tuple[int, ...], PlainValidator(_seeds)] | None = Field(
        None, examples=["3", "[0, 1, 2]"]
    )
    budget: Annotated[str, AfterValidator(_budget)] | None = Field(None, examples=['"100ep"'])
    lr: LrTable | None = Field(
        None, examples=['{ base = 0.1, base_batch_size = 128, scaling = "linear" }']
    )
    decay: DecayTable | None = Field(
        None, examples=['{ kind = "multistep", at = ["60%", "85%"], factor = 0.1 }']
    )
    search: SearchTable | None = Field(None, examples=['"adaptive"'])
    published: Line | None = Field(None, examples=['"article"'])
    reference_arm: Line | None = Field(None, examples=['"none"'])
    tolerance: Tolerance | None = Field(None, examples=["0.02"])
    settings: SettingsTable | None = Field(None, examples=['{ precision = "bf16" }'])
    arms: (
        dict[
            Annotated[str, _text(empty=False, limit=80)],
            Annotated[dict[str, Any], Field(examples=['{ warmup = { duration = "5ep" } }'])],
        ]
        | None
    ) = Field(None, examples=["{ none = {} }"])


Problem = tuple[Path_, str]
"""Where in the file, and the whole message."""


def read(
    model: type[_Table], values: Any, document: Document, prefix: Path_ = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The given fields of a table of `document`, and what is wrong with it."""
    try:
        return model.model_validate(values).given(), []
    except ValidationError as error:
        return {}, [_problem(model, e, document, prefix) for e in error.errors()]


def read_option(hint: Any, value: Any) -> Any:
    """`value` as `hint`, strictly; UsageError with what is wrong with it."""
    try:
        found = TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        raise UsageError(_reason(error.errors()[0], None)) from error
    if isinstance(found, float) and not math.isfinite(found):
        raise UsageError("is not a finite number.")
    return found


def fields_of(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys of a table, and the model of those that are tables."""
    found: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        kinds = [k for k in typing.get_args(field.annotation) if isinstance(k, type)]
        found[name] = next((k for k in kinds if issubclass(k, BaseModel)), None)
    return found


def _problem(model: type[BaseModel], error: Any, document: Document, prefix: Path_) -> Problem:
    """A pydantic error in our words."""
    path: Path_ = tuple(part for part in error["loc"] if part != "[key]")
    table: type[BaseModel] = model
    for part in path[:-1]:
        inner = fields_of(table).get(part) if isinstance(part, str) else None
        table = inner or table
    names = [part for part in reversed(path) if part in table.model_fields]
    field = table.model_fields[str(names[0])] if names else None
    full = prefix + path
    if error["type"] == "extra_forbidden":
        text = unknown("key", str(path[-1]), table.model_fields)
        return full, document.message(full, text, value=error["input"])
    text = _reason(error, field.examples if field else None)
    return full, document.message(full, text, value=error["input"])


_NEEDED = {
    "float_type": "a number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "string_type": "a text is needed, in quotes",
    "bool_type": "true or false is needed",
    "list_type": "a list is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a table is needed",
    "model_type": "a table is needed",
    "model_attributes_type": "a table is needed",
}


def _reason(error: Any, examples: list[Any] | None) -> str:
    """What is wrong, and what to write instead."""
    raised = error.get("ctx", {}).get("error")
    text = str(raised) if raised else _NEEDED.get(error["type"], error["msg"]) + "."
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        text = unknown("value", error["input"], known)
    if error["type"] in ("float_type", "int_type") and isinstance(error["input"], str):
        try:
            float(error["input"])
        except ValueError:
            pass
        else:
            text += f" Write {error['input'].strip()}, without the quotes."
    if examples and "Did you mean" not in text:
        text += f" Write e.g. {' or '.join(examples)}."
    return text
