"""Every rule against the slow twin, for every option; and what the engine asks of a rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from slow_rules import Slow
from torch import Tensor

from batchcliff.errors import UsageError
from batchcliff.optimizers import RULES, rule
from batchcliff.spec import OPTIMIZERS, Optimizer
from batchcliff.techniques.update_rules import USES

WIDE = torch.float64
SHAPES = [(4, 3, 3, 3), (4,), (2, 5), (2,)]
LAST_IS_ZERO = 2  # the matrix of zeros: its norm is 0 until it has moved

CASES: dict[str, Optimizer] = {
    "sgd": Optimizer(momentum=0.8),
    "sgd decay": Optimizer(weight_decay=0.1),
    "sgd excluded": Optimizer(weight_decay=0.1, exclude="norms-and-biases"),
    "sgd torch excluded": Optimizer(form="torch", weight_decay=0.1, exclude="norms-and-biases"),
    "sgd clipped": Optimizer(clip_norm=0.5, weight_decay=0.1),
    "sgd hardly clipped": Optimizer(form="torch", clip_norm=7.0, nesterov=True),
    "corrected": Optimizer(momentum_correction=True),
    "corrected nesterov": Optimizer(momentum_correction=True, nesterov=True, weight_decay=0.1),
    "lars": Optimizer(name="lars", trust=0.05),
    "lars separate": Optimizer(name="lars", trust=0.05, weight_decay=0.3, eps=0.1),
    "lars joint": Optimizer(name="lars", trust=0.05, weight_decay=0.3, denominator="joint"),
    "lars torch": Optimizer(name="lars", trust=0.05, weight_decay=0.3, form="torch"),
    "lars excluded": Optimizer(
        name="lars", trust=0.05, weight_decay=0.3, exclude="norms-and-biases", clip_norm=0.5
    ),
    "lars corrected": Optimizer(
        name="lars", trust=0.05, momentum_correction=True, nesterov=True
    ),
    "larc": Optimizer(name="larc", trust=0.2, weight_decay=0.1, exclude="norms-and-biases"),
    "larc small": Optimizer(name="larc", trust=1e-3, form="torch"),
    "lamb": Optimizer(name="lamb", betas=(0.8, 0.9)),
    "lamb decay": Optimizer(name="lamb", weight_decay=0.3, eps=0.1),
    "lamb excluded": Optimizer(name="lamb", weight_decay=0.3, exclude="norms-and-biases"),
    "adam": Optimizer(name="adam", betas=(0.8, 0.9), eps=0.1),
    "adam decay": Optimizer(name="adam", weight_decay=0.3, clip_norm=0.5),
    "adam excluded": Optimizer(name="adam", weight_decay=0.3, exclude="norms-and-biases"),
    "adamw": Optimizer(name="adamw", weight_decay=0.3),
    "adamw excluded": Optimizer(name="adamw", weight_decay=0.3, exclude="norms-and-biases"),
    "gi-adam": Optimizer(name="gi-adam", weight_decay=0.3),
    "radam": Optimizer(name="radam", betas=(0.9, 0.99)),
    "radam decay": Optimizer(name="radam", weight_decay=0.3, eps=0.1),
}


def start(stack: int, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    found = [torch.tensor(rng.normal(size=(stack * s[0], *s[1:]))) for s in SHAPES]
    found[LAST_IS_ZERO].zero_()
    return found


def follow(options: Optimizer, twin: Optimizer, stack: int, updates: int = 9) -> float:
    """The largest difference of a weight after any update, relative to the largest weight."""
    rng = np.random.default_rng(1)
    ours = start(stack)
    engine = rule(options, ours, stack)
    slow = [
        Slow([np.split(w.numpy().copy(), stack)[s] for w in ours], twin) for s in range(stack)
    ]
    addresses = [t.data_ptr() for t in (*ours, *engine.tensors())]
    worst = 0.0
    for _ in range(updates):
        rates = rng.uniform(0.01, 1, stack)
        gradients = [torch.tensor(rng.normal(size=w.shape)) for w in ours]
        kept = [g.clone() for g in gradients]
        engine.update(ours, gradients, engine.state, torch.tensor(rates))
        for g, before in zip(gradients, kept, strict=True):
            assert torch.equal(g, before), "the caller's gradients stay"
        for s, network in enumerate(slow):
            parts = [np.split(g.numpy(), stack)[s] for g in gradients]
            network.step(parts, float(rates[s]))
            for w, tensor in zip(network.weights, ours, strict=True):
                part = np.split(tensor.numpy(), stack)[s]
                worst = max(worst, float(np.abs(w - part).max() / max(1, np.abs(w).max())))
    assert [t.data_ptr() for t in (*ours, *engine.tensors())] == addresses
    return worst


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_twin(name: str, stack: int) -> None:
    # The engine keeps the last rate in float32.
    tolerance = 1e-6 if CASES[name].momentum_correction else 1e-12
    assert follow(CASES[name], CASES[name], stack) < tolerance


NEIGHBOURS: dict[str, dict[str, Any]] = {
    "sgd decay": {"weight_decay": 0.0},
    "sgd excluded": {"exclude": "nothing"},
    "sgd clipped": {"clip_norm": 0.0},
    "sgd hardly clipped": {"clip_norm": 0.0},
    "corrected": {"momentum_correction": False},
    "lars": {"name": "sgd"},
    "lars separate": {"denominator": "joint"},
    "lars joint": {"denominator": "separate"},
    "lars torch": {"form": "keras"},
    "lars excluded": {"exclude": "nothing"},
    "larc": {"name": "lars"},
    "lamb": {"name": "adam"},
    "lamb decay": {"eps": 1e-8},
    "lamb excluded": {"exclude": "nothing"},
    "adam": {"betas": (0.9, 0.999)},
    "adam decay": {"name": "adamw"},
    "adamw excluded": {"exclude": "nothing"},
    "gi-adam": {"name": "adam"},
    "radam": {"name": "adam"},
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_and_not_to_its_neighbour(name: str) -> None:
    """The comparison above can fail: each option, swapped in the twin, shows."""
    twin = dataclasses.replace(CASES[name], **NEIGHBOURS[name])
    assert follow(CASES[name], twin, 1) > 1e-3


def test_a_rule_for_every_name() -> None:
    assert tuple(sorted(RULES)) == OPTIMIZERS == tuple(sorted(USES))
    fields = {f.name for f in dataclasses.fields(Optimizer)}
    assert all(set(uses) <= fields for uses in USES.values())
    assert {options.name for options in CASES.values()} == set(RULES)
    with pytest.raises(UsageError, match="Did you mean 'lars'"):
        rule(Optimizer(name="larss"), start(1), 1)


def drawn(options: Optimizer, updates: int) -> tuple[list[Tensor], Any, list[list[Tensor]]]:
    ours = [w.float() for w in start(1)]
    gradients = [[torch.randn_like(w) for w in ours] for _ in range(updates)]
    return ours, rule(options, ours, 1), gradients


@pytest.mark.parametrize("name", CASES)
def test_restart_forgets(name: str) -> None:
    """A run after a restart is the first run again, bit for bit."""
    torch.manual_seed(0)
    ours, engine, gradients = drawn(CASES[name], 3)
    first = [w.clone() for w in ours]
    ends = []
    for _ in range(2):
        for w, before in zip(ours, first, strict=True):
            w.copy_(before)
        engine.restart()
        for g in gradients:
            engine.update(ours, g, engine.state, torch.tensor([0.1]))
        ends.append([w.clone() for w in ours])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    if name != "sgd hardly clipped":
        assert any(not torch.equal(a, b) for a, b in zip(first, ends[0], strict=True))


@pytest.mark.parametrize("name", CASES)
def test_one_graph_without_a_break(name: str) -> None:
    """As on a GPU: the update is traced as one graph, which changes the given tensors."""
    torch.manual_seed(0)
    ours, engine, gradients = drawn(CASES[name], 2)
    other = [w.clone() for w in ours]
    plain = rule(CASES[name], other, 1)
    torch._dynamo.reset()
    compiled = torch.compile(engine.update, backend="eager", fullgraph=True, dynamic=False)
    for g in gradients:
        compiled(ours, g, engine.state, torch.tensor([0.1]))
        plain.update(other, g, plain.state, torch.tensor([0.1]))
    for a, b in zip([*ours, *engine.tensors()], [*other, *plain.tensors()], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", CASES)
def test_divergence_is_not_hidden(name: str, bad: float) -> None:
    """A gradient that is not finite reaches the weights, whatever is clipped or scaled."""
    ours, engine, _ = drawn(CASES[name], 0)
    gradients = [torch.full_like(w, bad) for w in ours]
    engine.update(ours, gradients, engine.state, torch.tensor([0.1]))
    assert not all(bool(w.isfinite().all()) for w in ours)
