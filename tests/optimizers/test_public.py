"""Lars, Larc and Lamb in a user's training code."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import batchcliff
from batchcliff.errors import UsageError
from batchcliff.optimizers import Lamb, Larc, Lars, rule
from batchcliff.spec import Optimizer

WIDE = torch.float64
Make = Callable[[Any], torch.optim.Optimizer]

CASES: dict[str, tuple[Make, Optimizer]] = {
    "lars": (
        lambda p: Lars(p, 0.5, exclude="norms-and-biases", weight_decay=0.1, nesterov=True),
        Optimizer(
            name="lars",
            form="torch",
            exclude="norms-and-biases",
            weight_decay=0.1,
            nesterov=True,
        ),
    ),
    "lars keras": (
        lambda p: Lars(p, 0.5, exclude="nothing", form="keras", denominator="joint"),
        Optimizer(name="lars", denominator="joint"),
    ),
    "larc": (
        lambda p: Larc(p, 0.5, exclude="norms-and-biases", weight_decay=0.1),
        Optimizer(
            name="larc", form="torch", exclude="norms-and-biases", weight_decay=0.1, trust=0.02
        ),
    ),
    "lamb": (
        lambda p: Lamb(p, 0.5, exclude="norms-and-biases", weight_decay=0.1),
        Optimizer(name="lamb", exclude="norms-and-biases", weight_decay=0.1, eps=1e-6),
    ),
}


def drawn(seed: int, dtype: torch.dtype = WIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4,), (2, 3, 2, 2), ()]
    return [torch.randn(s, generator=generator, dtype=WIDE).to(dtype) for s in shapes]


def give(parameters: list[nn.Parameter], seed: int) -> None:
    for p, g in zip(parameters, drawn(seed, parameters[0].dtype), strict=True):
        p.grad = g


@pytest.mark.parametrize("name", CASES)
def test_one_arithmetic_with_the_engine(name: str) -> None:
    make, options = CASES[name]
    ours = [nn.Parameter(w) for w in drawn(0)]
    theirs = drawn(0)
    optimizer, engine = make(ours), rule(options, theirs, 1)
    for update, lr in enumerate((0.5, 0.1, 0.3, 0.3)):
        optimizer.param_groups[0]["lr"] = lr
        give(ours, update)
        before = [p.grad.clone() for p in ours if p.grad is not None]
        optimizer.step()
        engine.update(theirs, drawn(update), engine.state, torch.tensor([lr], dtype=WIDE))
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, before, strict=True))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_as_if_never_stopped(name: str, kind: torch.dtype) -> None:
    """state_dict and back, bit for bit, through torch.save's copy; 300 updates done before,
    which a count kept in bfloat16 would not know of."""
    make, _ = CASES[name]
    ours = [nn.Parameter(w) for w in drawn(0, kind)]
    optimizer = make(ours)
    for update in range(300):
        give(ours, update)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = [nn.Parameter(p.detach().clone()) for p in ours]
    other = make(resumed)
    other.load_state_dict(saved)
    assert other.param_groups[0]["exclude"] == optimizer.param_groups[0]["exclude"]
    for update in range(3):
        for parameters, one in ((ours, optimizer), (resumed, other)):
            give(parameters, update)
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, resumed, strict=True))


def test_what_is_excluded_is_said_and_kept_per_group() -> None:
    """ "everything" leaves a matrix to plain SGD; "nothing" scales a bias too."""
    w, b = nn.Parameter(torch.eye(2) * 3), nn.Parameter(torch.ones(2) * 4)
    groups = [{"params": [w], "exclude": "everything"}, {"params": [b], "exclude": "nothing"}]
    optimizer = Lars(groups, 1.0, exclude="norms-and-biases", trust=0.01, eps=0.0)
    w.grad, b.grad = torch.eye(2), torch.tensor([0.0, 5.0])
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.eye(2) * 2)
    torch.testing.assert_close(b.detach(), torch.tensor([4.0, 4 - 0.01 * 32**0.5]))
    plain = Lars([nn.Parameter(torch.eye(2))], 1.0, exclude="norms-and-biases")
    plain.add_param_group({"params": [nn.Parameter(torch.eye(2))], "exclude": "nothing"})
    assert [g["exclude"] for g in plain.param_groups] == ["norms-and-biases", "nothing"]


@pytest.mark.parametrize("cls", [Lars, Larc, Lamb])
def test_there_is_no_default_exclusion(cls: Any) -> None:
    with pytest.raises(TypeError, match="exclude"):
        cls([nn.Parameter(torch.eye(2))], 1.0)


REFUSED: dict[str, tuple[type, dict[str, Any], str]] = {
    "exclude": (
        Lars,
        {"exclude": "norms"},
        "Lars: exclude = 'norms'. Known: everything, norms-",
    ),
    "lr": (Lars, {"lr": -1.0}, "Lars: lr = -1.0 is not a finite number >= 0."),
    "nan": (Larc, {"lr": float("nan")}, "Larc: lr = nan is not a finite number"),
    "momentum": (Lars, {"momentum": 1.0}, "Lars: momentum = 1.0 is not a number from 0 to"),
    "betas": (Lamb, {"betas": (0.9, 1.0)}, "Lamb: betas = (0.9, 1.0) is not a pair"),
    "one beta": (Lamb, {"betas": (0.9,)}, "Lamb: betas = (0.9,) is not a pair"),
    "trust": (Lars, {"trust": 0.0}, "Lars: trust = 0.0 is not a finite number above 0."),
    "decay": (Lamb, {"weight_decay": -1e-4}, "Lamb: weight_decay = -0.0001 is not"),
    "form": (Lars, {"form": "pytorch"}, "Lars: form = 'pytorch'. Did you mean 'torch'?"),
    "denominator": (Lars, {"denominator": "sum"}, "Lars: denominator = 'sum'. Known: joint"),
    "nesterov": (Lars, {"nesterov": True, "momentum": 0.0}, "Write momentum = 0.9."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    cls, changes, words = REFUSED[case]
    given = {"lr": 1.0, "exclude": "nothing"} | changes
    with pytest.raises(UsageError, match=re.escape(words)):
        cls([nn.Parameter(torch.eye(2))], **given)


def test_sparse_gradients_are_refused_by_name() -> None:
    p = nn.Parameter(torch.eye(2))
    p.grad = torch.eye(2).to_sparse()
    with pytest.raises(UsageError, match=r"sparse gradient .* of shape \(2, 2\)"):
        Lars([p], 1.0, exclude="nothing").step()


@pytest.mark.parametrize("name", CASES)
def test_rates_may_be_tensors_and_follow_torch_schedulers(name: str) -> None:
    make, _ = CASES[name]
    ends = []
    for kind in (float, torch.tensor):
        parameters = [nn.Parameter(w) for w in drawn(0, torch.float32)]
        optimizer = make(parameters)
        optimizer.param_groups[0]["lr"] = kind(0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for update in range(3):
            give(parameters, update)
            optimizer.step()
            schedule.step()
        ends.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_gradients_that_are_missing_now_and_then(name: str) -> None:
    """A parameter without a gradient rests, and its count of updates with it."""
    make, _ = CASES[name]
    both, alone = [[nn.Parameter(w) for w in drawn(0)] for _ in range(2)]
    one, other = make(both), make(alone[:1])
    for update in range(4):
        give(both, update)
        if update % 2:
            both[0].grad = None
        else:
            give(alone, update)
            other.step()
        one.step()
    assert torch.equal(both[0], alone[0])


def test_the_closure_is_called_with_gradients_on() -> None:
    p = nn.Parameter(torch.tensor([[3.0]]))
    optimizer = Lamb([p], 0.1, exclude="nothing")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert isinstance(loss, Tensor)
    assert float(loss.detach()) == 9.0
    assert float(p.detach()) == pytest.approx(2.7, rel=1e-5)  # a tenth of |w|
    assert optimizer.step() is None


@pytest.mark.parametrize("name", CASES)
def test_a_network_learns(name: str) -> None:
    make, _ = CASES[name]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    optimizer, losses = make(network.parameters()), []
    optimizer.param_groups[0] |= {"lr": 0.02} | ({"trust": 0.1} if "lamb" not in name else {})
    for _ in range(60):
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_where_they_are_found() -> None:
    assert batchcliff.Lars is Lars
    assert batchcliff.Larc is Larc
    assert batchcliff.Lamb is Lamb
