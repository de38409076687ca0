"""Six updates of the real loop against the slow twin, for every option and its neighbour.

Tolerances: float32 against float64, as a share of the largest value of each array. Where
an option is swapped in the twin, the difference has to be many times the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from slow_network import Array, Sgd, train
from small_trials import (
    CLASSES,
    SMALL,
    distance,
    numpy_batches,
    ready,
    small_data,
    small_spec,
    state_of,
    twin_of,
    twin_state,
    with_settings,
)

from batchcliff.models.conv_net import ConvNet
from batchcliff.spec import Settings

TOLERANCE = 2e-5
SWAPPED = 2e-3  # what swapping an option must change at the least
RATES = [0.02, 0.1, 0.05, 0.01, 0.08, 0.03]
BATCH = 16
PLAIN = with_settings(
    SMALL,
    model__widths=((4, 4), (6,), (8,)),
    batch_norm__group="B/8",
    batch_norm__running="per-group",
    batch_norm__momentum=0.8,
    loss="clipped-softmax",
)


@dataclass
class Case:
    """Settings of ours, and what to swap in the twin so that it must differ."""

    settings: Settings
    network: dict[str, Any] = field(default_factory=dict)  # other fields of the SlowNetwork
    sgd: dict[str, Any] = field(default_factory=dict)
    loss: str = ""
    head: float = 1.0  # a wide head gives probabilities under 1e-7
    rates: list[float] = field(default_factory=lambda: RATES)


def with_sgd(**options: Any) -> Settings:
    return with_settings(PLAIN, **{f"optimizer__{name}": v for name, v in options.items()})


CASES = {
    "B/8 is not global": Case(PLAIN, network={"group": 16, "shards": 1}),
    "B/8 is not B/4": Case(PLAIN, network={"group": 4, "shards": 4}),
    "per-group is not the mean": Case(PLAIN, network={"shards": 1}),
    "mean of groups is not per-group": Case(
        with_settings(PLAIN, batch_norm__running="mean"), network={"shards": 8}
    ),
    "global is not B/8": Case(
        with_settings(PLAIN, batch_norm__group="global", batch_norm__running="mean"),
        network={"group": 2},
    ),
    "ghost 4 is not ghost 8": Case(
        with_settings(PLAIN, batch_norm__group=4, batch_norm__running="mean"),
        network={"group": 8},
    ),
    "eps": Case(PLAIN, network={"eps": 1e-5}),
    "running momentum": Case(PLAIN, network={"momentum": 0.2}),
    "keras is not torch": Case(PLAIN, sgd={"form": "torch"}),
    "torch is not keras": Case(with_sgd(form="torch"), sgd={"form": "keras"}),
    "momentum": Case(with_sgd(momentum=0.5), sgd={"momentum": 0.9}),
    "keras nesterov": Case(with_sgd(nesterov=True), sgd={"nesterov": False}),
    "torch nesterov": Case(with_sgd(form="torch", nesterov=True), sgd={"nesterov": False}),
    "keras decay": Case(with_sgd(weight_decay=0.1), sgd={"weight_decay": 0.0}),
    "torch decay": Case(
        with_sgd(form="torch", nesterov=True, weight_decay=0.1), sgd={"weight_decay": 0.0}
    ),
    "clipped is not logits": Case(
        PLAIN, loss="logits", head=60, rates=[lr / 50 for lr in RATES]
    ),
    "logits is not clipped": Case(
        with_settings(PLAIN, loss="logits"),
        loss="clipped-softmax",
        head=60,
        rates=[lr / 50 for lr in RATES],
    ),
}


def ours(case: Case) -> tuple[list[float], dict[str, Array], dict[str, Any]]:
    """Losses, state after the updates, and what the twin needs to do the same."""
    resident = small_data(train=64, shape=(8, 8, 3))
    spec = small_spec(settings=case.settings, batch_size=BATCH, budget="6up", seed=3)
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.tensor(case.rates)[:, None])
    with torch.no_grad():
        assert isinstance(prepared.model, ConvNet)
        prepared.model.head.weight.mul_(case.head)
    start = twin_of(prepared.model, spec)
    index = np.random.default_rng(5).integers(0, 64, (6, BATCH)).astype(np.int32)
    for first in (0, 3):  # two blocks, as of two epochs
        block = torch.from_numpy(index[first : first + 3])[:, :, None]
        prepared.loop.load_block(block, torch.zeros(*block.shape, 0, dtype=torch.int16))
        for _ in range(3):
            prepared.advance()
    losses = prepared.loop.losses_US[:, 0].tolist()
    optimizer = case.settings.optimizer
    given = {
        "network": start,
        "spec": spec,
        "batches": numpy_batches(resident, index),
        "sgd": {
            "form": optimizer.form,
            "momentum": optimizer.momentum,
            "nesterov": optimizer.nesterov,
            "weight_decay": optimizer.weight_decay,
        },
    }
    return losses, state_of(prepared.model, spec), given


def compare(case: Case, swap: Case | None = None, biases: float = 0.0) -> float:
    """How far the twin, with what `swap` says, is from us; relative."""
    losses, state, given = ours(case)
    start = given["network"]
    fields = {
        name: getattr(start, name) for name in ("blocks", "group", "shards", "eps", "momentum")
    }
    swap = swap or Case(case.settings)
    network = type(start)(dict(start.parameters), **{**fields, **swap.network})
    rng = np.random.default_rng(0)
    for name, value in network.parameters.items():
        if name.startswith("conv_bias"):
            network.parameters[name] = rng.normal(0, biases, value.shape)
    sgd = Sgd(**{**given["sgd"], **swap.sgd})
    kind = swap.loss or case.settings.loss
    twin_losses = train(network, given["batches"], case.rates, sgd, loss=kind)
    loss_error = float(np.abs(np.subtract(losses, twin_losses) / twin_losses).max())
    theirs = twin_state(network)
    for name, value in state.items():
        rows, other = len(value), len(theirs[name])
        if name.startswith(("mean", "var")):  # each of ours beside the twin's for its examples
            state[name] = value.repeat(max(rows, other) // rows, axis=0)
            theirs[name] = theirs[name].repeat(max(rows, other) // other, axis=0)
    return max(loss_error, distance(state, theirs))


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_twin_and_not_to_its_neighbour(name: str) -> None:
    case = CASES[name]
    assert compare(case) < TOLERANCE
    assert compare(case, swap=case) > SWAPPED


def test_a_wide_head_does_clip() -> None:
    """Else the two cases of the loss would compare equal things."""
    losses, _, given = ours(CASES["clipped is not logits"])
    images, labels = given["batches"][0]
    network = given["network"]
    logits, _ = network.forward(images.transpose(0, 3, 1, 2) / 255, training=True)
    true = logits[np.arange(BATCH), labels]
    assert (logits.max(1) - true > 17).any()
    assert (logits.max(1) - true < 5).any()
    assert losses[0] < np.log(1e7)


def test_the_decay_reaches_every_parameter() -> None:
    """Scales, shifts and biases are decayed too, as by both frameworks' plain SGD."""
    case = CASES["keras decay"]
    _, state, given = ours(case)
    network = given["network"]
    train(network, given["batches"], RATES, Sgd(), loss="clipped-softmax")
    for name, value in twin_state(network).items():
        if name.startswith(("conv_bias", "mean", "var")):
            continue
        assert np.abs(state[name] - value).max() > SWAPPED * np.abs(value).max(), name


def test_biases_of_the_convolutions_make_no_difference() -> None:
    """Ours has none. Batch norm takes them out: with zero biases, the article's, all is
    equal; with others, only the running mean is shifted by them."""
    case = CASES["B/8 is not global"]
    losses, state, given = ours(case)
    start = given["network"]
    rng, sgd = np.random.default_rng(1), Sgd()
    start.parameters |= {
        name: rng.normal(0, 1, value.shape)
        for name, value in start.parameters.items()
        if name.startswith("conv_bias")
    }
    biases = {n: v.copy() for n, v in start.parameters.items() if n.startswith("conv_bias")}
    assert train(start, given["batches"], RATES, sgd, loss="clipped-softmax") == pytest.approx(
        losses, rel=TOLERANCE
    )
    after = twin_state(start)
    for layer in range(4):
        assert after[f"conv_bias{layer}"] == pytest.approx(
            biases[f"conv_bias{layer}"], abs=1e-9
        )
        seen = biases[f"conv_bias{layer}"] * (1 - 0.8**6)
        assert np.abs(after[f"mean{layer}"] - state[f"mean{layer}"]).max() > 0.1
        after[f"mean{layer}"] = after[f"mean{layer}"] - seen
    assert distance(state, after) < TOLERANCE


@pytest.mark.parametrize("kind", ["glorot-uniform", "torch"])
def test_both_initialisers(kind: str) -> None:
    settings = with_settings(PLAIN, model__init=kind)
    losses, state, given = ours(Case(settings))
    other, _, _ = ours(
        Case(with_settings(PLAIN, model__init="torch" if kind != "torch" else "glorot-uniform"))
    )
    network = given["network"]
    twin_losses = train(network, given["batches"], RATES, Sgd(), loss="clipped-softmax")
    assert losses == pytest.approx(twin_losses, rel=TOLERANCE)
    assert distance(state, twin_state(network)) < TOLERANCE
    assert np.abs(np.subtract(losses, other)).max() > SWAPPED


def test_classes_and_shapes() -> None:
    """What the cases stand on: three colours, four classes, groups of two."""
    _, state, given = ours(Case(PLAIN))
    assert given["network"].group == 2
    assert state["conv0"].shape == (4, 3, 3, 3)
    assert state["head"].shape == (CLASSES, 8)
    assert state["mean0"].shape == (8, 4)
