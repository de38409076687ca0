"""Trials small enough to be followed by hand: data, specs, and runs of the real code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from slow_network import Array, SlowNetwork
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.network import slices
from batchcliff.record import TrialRecord
from batchcliff.spec import Arm, BatchNorm, Decay, Model, Settings, TrialSpec
from batchcliff.study.grid import arm_settings
from batchcliff.training.arithmetic import DataFacts, batch_norm_group, ledger
from batchcliff.training.prepare import Build, Prepared, prepare
from batchcliff.training.trial import run_trials

CLASSES = 4
SMALL = Settings(
    model=Model(widths=((4,), (6, 6))),
    batch_norm=BatchNorm(momentum=0.9, group="global", running="mean"),
    loss="logits",
    augmentation="none",
    precision="fp32",
    remainder="carry",
)
ARTICLE_WARMUP = (
    (
        "warmup",
        (("duration", "6ep"), ("shape", "exponential"), ("start", 0.01), ("stepping", "epoch")),
    ),
)
ARTICLE_DECAY = Decay(kind="multistep", at=("60%", "85%"), factor=0.1)


def with_settings(base: Settings, **changes: Any) -> Settings:
    """`base` with dotted fields changed; two underscores stand for the dot."""
    pairs = tuple((name.replace("__", "."), value) for name, value in changes.items())
    return arm_settings(base, Arm(name="", settings=pairs))


def small_spec(**changes: Any) -> TrialSpec:
    """A trial of 12 updates in 3 epochs of 40 examples, 10 at a time."""
    values: dict[str, Any] = {
        "workload": "small",
        "data": "random",
        "data_digest": "0" * 64,
        "arm": "none",
        "techniques": (),
        "settings": SMALL,
        "batch_size": 10,
        "lr": 0.1,
        "decay": Decay(kind="constant"),
        "budget": "3ep",
        "seed": 0,
    }
    return TrialSpec(**{**values, **changes})


def small_data(
    train: int = 40, test: int = 50, shape: tuple[int, int, int] = (8, 8, 1), seed: int = 0
) -> Resident:
    """Noise, brighter for higher classes; so there is something to learn, but not at once."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = rng.integers(0, CLASSES, count)
        noise = rng.integers(0, 200, (count, *shape))
        images = (noise + 18 * labels[:, None, None, None]).astype(np.uint8)
        return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

    images, labels = draw(train)
    test_images, test_labels = draw(test)
    return Resident(images, labels, test_images, test_labels, 1 / 255)


def facts_of(resident: Resident) -> DataFacts:
    height, width, channels = resident.train_images.shape[1:]
    return DataFacts(
        num_train=len(resident.train_labels),
        num_test=len(resident.test_labels),
        num_classes=CLASSES,
        image_shape=(height, width, channels),
    )


@dataclass
class Run:
    """What came of a stack of trials; `prepared` is as the run left it."""

    records: list[TrialRecord]
    prepared: Prepared
    losses: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.losses = self.prepared.loop.losses_US.clone()

    def state(self, s: int) -> dict[str, Tensor]:
        """Every parameter, velocity and running statistic of network s of the stack."""
        loop, stack = self.prepared.loop, self.prepared.stack
        names = [name for name, _ in self.prepared.model.named_parameters()]
        found = {}
        for kind, tensors in (("weight", loop.parameters), ("velocity", loop.rule.tensors())):
            for name, tensor in zip(names, tensors, strict=True):
                found[f"{kind} {name}"] = slices(tensor.detach(), stack)[s].clone()
        for name, buffer in self.prepared.model.named_buffers():
            found[name] = buffer.view(buffer.shape[0], stack, -1)[:, s].clone()
        return found


def ready(
    spec: TrialSpec,
    resident: Resident,
    stack: int = 1,
    build: Build | None = None,
    classes: int = CLASSES,
) -> Prepared:
    return prepare(spec, resident, num_classes=classes, stack=stack, user_build=build)


def run(
    specs: list[TrialSpec],
    resident: Resident,
    stack: int | None = None,
    prepared: Prepared | None = None,
    build: Build | None = None,
) -> Run:
    """The trials side by side, from specs to records."""
    if prepared is None:
        prepared = ready(specs[0], resident, stack or len(specs), build)
    ledgers = [ledger(spec, facts_of(resident)) for spec in specs]
    return Run(run_trials(specs, ledgers, resident, prepared), prepared)


class PretendedTurn:
    """A turn that took `waited` seconds to come, and what happened around it."""

    def __init__(self, waited: float) -> None:
        self.waited = waited
        self.said: list[str] = []

    def __enter__(self) -> PretendedTurn:
        self.said.append("begins")
        return self

    def __exit__(self, *_: object) -> None:
        self.said.append("ends")

    def look(self, idle: float) -> None:
        raise AssertionError("nobody waits for a CPU")


def facts(record: TrialRecord) -> TrialRecord:
    """The record without its provenance: what equal trials agree on."""
    return dataclasses.replace(record, provenance=None)


def numbers(prepared: Prepared) -> dict[str, Any]:
    """Weights, optimizer, running statistics and logs, float64."""
    loop = prepared.loop
    found = dict(prepared.model.state_dict())
    found |= {f"optimizer {i}": tensor for i, tensor in enumerate(loop.rule.tensors())}
    found |= {"losses": loop.losses_US, **loop.logs}
    return {name: tensor.detach().double().numpy() for name, tensor in found.items()}


def twin_of(model: torch.nn.Module, spec: TrialSpec, **options: Any) -> SlowNetwork:
    """A slow network with this one's weights and, unless `options` say otherwise, settings."""
    assert isinstance(model, ConvNet)
    parameters, layer = {}, 0
    for block in model.blocks:
        for conv, norm in zip(block[0::3], block[1::3], strict=True):
            parameters[f"conv{layer}"] = wide(conv.weight)
            parameters[f"conv_bias{layer}"] = np.zeros(len(conv.weight))
            parameters[f"gamma{layer}"], parameters[f"beta{layer}"] = (
                wide(norm.weight),
                wide(norm.bias),
            )
            layer += 1
    parameters["head"], parameters["head_bias"] = wide(model.head.weight), wide(model.head.bias)
    norm = spec.settings.batch_norm
    group = batch_norm_group(spec)
    per_group = norm.running == "per-group"
    values = {
        "blocks": tuple(len(block) // 3 for block in model.blocks),
        "group": group,
        "shards": spec.batch_size // group if per_group else 1,
        "eps": norm.eps,
        "momentum": norm.momentum,
    }
    return SlowNetwork(parameters, **{**values, **options})


def wide(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def distance(ours: dict[str, Array], twin: dict[str, Array]) -> float:
    """The largest difference of any array, relative to the largest value of that array."""
    assert ours.keys() <= twin.keys()
    worst = 0.0
    for name, value in ours.items():
        assert value.shape == twin[name].shape, name
        largest = float(np.abs(twin[name]).max())
        worst = max(worst, float(np.abs(value - twin[name]).max()) / max(largest, 1e-3))
    return worst


def state_of(model: torch.nn.Module, spec: TrialSpec) -> dict[str, Array]:
    """Weights and running statistics by the twin's names, without the biases we do not have."""
    assert isinstance(model, ConvNet)
    twin = twin_of(model, spec)
    found = {k: v for k, v in twin.parameters.items() if not k.startswith("conv_bias")}
    norms = [norm for block in model.blocks for norm in block[1::3]]
    for layer, norm in enumerate(norms):
        found[f"mean{layer}"] = wide(norm.running_mean)
        found[f"var{layer}"] = wide(norm.running_var)
    return found


def twin_state(twin: SlowNetwork) -> dict[str, Array]:
    found = dict(twin.parameters)
    for layer, (mean, var) in enumerate(zip(twin.running_mean, twin.running_var, strict=True)):
        found[f"mean{layer}"], found[f"var{layer}"] = mean, var
    return found


def numpy_batches(
    resident: Resident, index: NDArray[np.integer[Any]]
) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The batches [U, B] of example indices as images and labels."""
    images, labels = resident.train_images.numpy(), resident.train_labels.numpy()
    return [(images[row], labels[row]) for row in index]
