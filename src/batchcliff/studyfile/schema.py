"""The keys of a study file, their types and allowed values: a class for each table.

Every field is optional here, since what a file leaves out comes from its workload; which
keys a file must have is said by `REQUIRED`. `examples` of a field end up in messages.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from batchcliff.models import MODELS
from batchcliff.schedules.decays import DECAYS
from batchcliff.spec import EVALUATIONS, EXCLUDE, INITS, OPTIMIZERS, PRECISIONS, PROBES
from batchcliff.studyfile.values import (
    Accuracy,
    AtLeastOne,
    DurationText,
    Line,
    NotNegative,
    Positive,
    Share,
    Tolerance,
    a_number,
    a_text,
    batch_size_list,
    block_widths,
    decay_places,
    distinct,
    folder_name,
    norm_group,
    one_of,
    pair,
    rates_to_try,
    scaling_rule,
    seed_numbers,
    whole_budget,
)

REQUIRED = ("name", "batch_sizes", "seeds", "arms")


Probes = Annotated[list[Annotated[str, one_of(*PROBES)]], AfterValidator(distinct)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def given(self) -> dict[str, Any]:
        """The fields that the file has, tables as dicts."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return {k: v.given() if isinstance(v, Table) else v for k, v in fields.items()}


class LrTable(Table):
    base: Positive | None = Field(None, examples=["0.1"])
    base_batch_size: (
        Annotated[int, a_number(lambda x: x >= 1, "a whole number >= 1")] | None
    ) = Field(None, examples=["128"])
    scaling: Annotated[str, AfterValidator(scaling_rule)] | None = Field(
        None, examples=['"linear"']
    )
    tune: Annotated[list[Positive], AfterValidator(rates_to_try)] | None = Field(
        None, examples=["[0.05, 0.1, 0.2]"]
    )
    trials: Annotated[int, a_number(lambda x: x >= 2, "a whole number >= 2")] | None = Field(
        None, examples=["3"]
    )
    tuning_seeds: (
        Annotated[int, a_number(lambda x: 1 <= x <= 1000, "a whole number from 1 to 1000")]
        | None
    ) = Field(None, examples=["1"])
    validation: (
        Annotated[float, a_number(lambda x: 0 < x <= 0.5, "a share above 0, at most 0.5")]
        | None
    ) = Field(None, examples=["0.1"])


class DecayTable(Table):
    kind: Annotated[str, one_of(*DECAYS)] | None = Field(None, examples=['"multistep"'])
    at: Annotated[list[DurationText], AfterValidator(decay_places)] | None = Field(
        None, examples=['["60%", "85%"]']
    )
    factor: Annotated[float, a_number(lambda x: 0 < x < 1, "between 0 and 1")] | None = Field(
        None, examples=["0.1"]
    )
    power: Positive | None = Field(None, examples=["2"])
    floor: Share | None = Field(None, examples=["0.0"])
    timescale: DurationText | None = Field(None, examples=['"10%"'])
    duration: DurationText | None = Field(None, examples=['"20%"'])
    rise: Annotated[float, a_number(lambda x: 0 < x < 1, "between 0 and 1")] | None = Field(
        None, examples=["0.3"]
    )
    start: Share | None = Field(None, examples=["0.04"])
    end: Share | None = Field(None, examples=["4e-6"])


class ModelTable(Table):
    name: Annotated[str, one_of(*MODELS)] | None = Field(None, examples=['"conv-net"'])
    widths: Annotated[list[list[int]], AfterValidator(block_widths)] | None = Field(
        None, examples=["[[64, 64, 64], [128, 128, 128]]"]
    )
    init: Annotated[str, one_of(*INITS)] | None = Field(None, examples=['"glorot-uniform"'])
    zero_gamma: bool | None = Field(None, examples=["false"])


class BatchNormTable(Table):
    eps: Positive | None = Field(None, examples=["1e-3"])
    momentum: Share | None = Field(None, examples=["0.99"])
    group: Annotated[str | int, PlainValidator(norm_group)] | None = Field(
        None, examples=['"global"']
    )
    running: Annotated[str, one_of("mean", "per-group")] | None = Field(
        None, examples=['"mean"']
    )


class OptimizerTable(Table):
    name: Annotated[str, one_of(*OPTIMIZERS)] | None = Field(None, examples=['"sgd"'])
    form: Annotated[str, one_of("keras", "torch")] | None = Field(None, examples=['"keras"'])
    momentum: Share | None = Field(None, examples=["0.9"])
    nesterov: bool | None = Field(None, examples=["false"])
    weight_decay: NotNegative | None = Field(None, examples=["5e-4"])
    momentum_correction: bool | None = Field(None, examples=["false"])
    exclude: Annotated[str, one_of(*EXCLUDE)] | None = Field(
        None, examples=['"norms-and-biases"']
    )
    clip_norm: NotNegative | None = Field(None, examples=["5.0"])
    trust: Positive | None = Field(None, examples=["0.001"])
    betas: Annotated[list[Share], AfterValidator(pair)] | None = Field(
        None, examples=["[0.9, 0.999]"]
    )
    eps: NotNegative | None = Field(None, examples=["1e-8"])
    denominator: Annotated[str, one_of("separate", "joint")] | None = Field(
        None, examples=['"separate"']
    )


class PretrainingTable(Table):
    data: Line | None = Field(None, examples=['"cifar10-first-half"'])
    budget: Annotated[str, AfterValidator(whole_budget)] | None = Field(
        None, examples=['"30ep"']
    )
    batch_size: Annotated[int, a_number(lambda x: x >= 1, "a whole number >= 1")] | None = (
        Field(None, examples=["256"])
    )
    lr: Positive | None = Field(None, examples=["0.1"])


class ExplosionTable(Table):
    factor: Annotated[float, a_number(lambda x: x > 1, "above 1")] | None = Field(
        None, examples=["10"]
    )
    updates: Annotated[int, a_number(lambda x: x >= 1, "a whole number >= 1")] | None = Field(
        None, examples=["100"]
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.factor is None:
            raise ValueError("lacks the factor: how many times the first loss is too much.")
        return self


class StopTable(Table):
    stalled: DurationText | None = Field(None, examples=['"20%"'])
    accuracy: Accuracy | None = Field(None, examples=["0.9"])


class BudgetTable(Table):
    accuracy: Accuracy | None = Field(None, examples=["0.9"])
    at_most: Annotated[str, AfterValidator(whole_budget)] | None = Field(
        None, examples=['"30ep"']
    )


class SearchTable(Table):
    kind: Annotated[str, one_of("adaptive")] | None = Field(None, examples=['"adaptive"'])
    precision: Annotated[float, a_number(lambda x: 1.05 <= x <= 2, "from 1.05 to 2")] | None = (
        Field(None, examples=["1.4142135623730951"])
    )
    trials: AtLeastOne | None = Field(None, examples=["20"])
    examples: AtLeastOne | None = Field(None, examples=["100_000_000"])
    at_once: AtLeastOne | None = Field(None, examples=["1"])


class SettingsTable(Table):
    model: ModelTable | None = Field(None, examples=['{ name = "resnet" }'])
    batch_norm: BatchNormTable | None = Field(None, examples=["{ group = 32 }"])
    optimizer: OptimizerTable | None = Field(None, examples=['{ name = "adam" }'])
    loss: Annotated[str, one_of("clipped-softmax", "logits")] | None = Field(
        None, examples=['"logits"']
    )
    augmentation: Annotated[str, one_of("as-written", "as-coded", "none")] | None = Field(
        None, examples=['"as-written"']
    )
    precision: Annotated[str, one_of(*PRECISIONS)] | None = Field(None, examples=['"bf16"'])
    remainder: Annotated[str, one_of("drop", "carry")] | None = Field(
        None, examples=['"carry"']
    )
    evaluate_every: Annotated[int, a_number(lambda x: x >= 0, "a whole number >= 0")] | None = (
        Field(None, examples=["1"])
    )
    label_smoothing: Share | None = Field(None, examples=["0.1"])
    mixup: NotNegative | None = Field(None, examples=["0.2"])
    cutout: Annotated[int, a_number(lambda x: x >= 0, "a whole number >= 0")] | None = Field(
        None, examples=["8"]
    )
    random_erasing: Annotated[float, a_number(lambda x: 0 <= x <= 1, "from 0 to 1")] | None = (
        Field(None, examples=["0.5"])
    )
    evaluation: Annotated[str, one_of(*EVALUATIONS)] | None = Field(
        None, examples=['"reestimated"']
    )
    gradient_norms: bool | None = Field(None, examples=["true"])
    probes: Probes | None = Field(None, examples=['["noise-scale", "sharpness"]'])
    probe_at: Annotated[list[DurationText], AfterValidator(distinct)] | None = Field(
        None, examples=['["0up", "10up", "1ep"]']
    )
    explosion: ExplosionTable | None = Field(None, examples=["{ factor = 10, updates = 100 }"])
    stop: StopTable | None = Field(None, examples=['{ stalled = "20%" }'])
    pretraining: PretrainingTable | None = Field(
        None, examples=['{ data = "cifar10-first-half", budget = "30ep" }']
    )


class StudyTable(Table):
    name: Annotated[str, AfterValidator(folder_name)] | None = Field(
        None, examples=['"my-study"']
    )
    workload: Line | None = Field(None, examples=['"article"'])
    description: Annotated[str, a_text(lines=True)] | None = Field(None, examples=['"Why."'])
    data: Line | None = Field(None, examples=['"cifar10"'])
    batch_sizes: Annotated[tuple[int, ...], PlainValidator(batch_size_list)] | None = Field(
        None, examples=['"128..8192:x2"', "[128, 256, 512]"]
    )
    seeds: Annotated[tuple[int, ...], PlainValidator(seed_numbers)] | None = Field(
        None, examples=["3", "[0, 1, 2]"]
    )
    budget: Annotated[str, AfterValidator(whole_budget)] | None = Field(
        None, examples=['"100ep"']
    )
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
            Annotated[str, a_text(empty=False, limit=80)],
            Annotated[dict[str, Any], Field(examples=['{ warmup = { duration = "5ep" } }'])],
        ]
        | None
    ) = Field(None, examples=["{ none = {} }"])
