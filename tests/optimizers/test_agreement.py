"""Lars, Lamb and RAdam against other packages, under the settings that docs/optimizers.md maps.

pytorch_optimizer runs on a CPU and comes with the development extra; timm, which needs
torchvision, runs where it is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from batchcliff.optimizers import Lamb, Larc, Lars, rule
from batchcliff.spec import Optimizer

WIDE = torch.float64
Make = Callable[[list[nn.Parameter]], Any]


def after(make: Make, updates: int = 8, least_dim: int = 0) -> list[torch.Tensor]:
    """Weights after updates with drawn gradients; `least_dim` leaves out flat tensors."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> list[torch.Tensor]:
        shapes = [(4, 3), (4,), (2, 3, 2, 2)]
        found = [torch.randn(s, generator=generator, dtype=WIDE) for s in shapes]
        return [t for t in found if t.dim() >= least_dim]

    parameters = [nn.Parameter(w) for w in drawn()]
    optimizer = make(parameters)
    for update in range(updates):
        for p, g in zip(parameters, drawn(), strict=True):
            p.grad = g
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + update % 3)
        optimizer.step()
    return [p.detach() for p in parameters]


def check(ours: Make, theirs: Make, **options: Any) -> None:
    for a, b in zip(after(ours, **options), after(theirs, **options), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_of_pytorch_optimizer(decay: float, nesterov: bool) -> None:
    """Same formula, no eps; tensors of one dimension excluded from ratio and decay."""
    theirs = pytest.importorskip("pytorch_optimizer").LARS
    given = {"weight_decay": decay, "nesterov": nesterov}
    check(
        lambda p: Lars(p, 0.1, exclude="norms-and-biases", trust=0.01, eps=0.0, **given),
        lambda p: theirs(p, lr=0.1, trust_coefficient=0.01, **given),
    )
    with pytest.raises(AssertionError, match="not close"):  # the other rule of exclusion
        check(
            lambda p: Lars(p, 0.1, exclude="nothing", trust=0.01, eps=0.0, **given),
            lambda p: theirs(p, lr=0.1, trust_coefficient=0.01, **given),
        )


def test_lamb_of_pytorch_optimizer() -> None:
    """Theirs has no bias correction, caps |w| at 10 and adds eps to |r|: one update shows
    where they agree. At betas of 0, whose correction is 1, it is all of them."""
    theirs = pytest.importorskip("pytorch_optimizer").Lamb
    given = {"betas": (0.0, 0.0), "eps": 1e-12, "weight_decay": 0.05}
    check(
        lambda p: Lamb(p, 0.1, exclude="nothing", **given),
        lambda p: theirs(p, lr=0.1, weight_decouple=False, **given),
    )
    given["betas"] = (0.9, 0.999)
    with pytest.raises(AssertionError, match="not close"):
        check(
            lambda p: Lamb(p, 0.1, exclude="nothing", **given),
            lambda p: theirs(p, lr=0.1, weight_decouple=False, **given),
        )


class Rectified:
    """The engine's RAdam with the handles of a torch optimizer."""

    def __init__(self, parameters: list[nn.Parameter], eps: float) -> None:
        self.parameters = parameters
        weights = [p.detach() for p in parameters]
        self.rule = rule(Optimizer(name="radam", eps=eps), weights, 1)
        self.param_groups: list[dict[str, Any]] = [{}]

    def step(self) -> None:
        lr = torch.tensor([self.param_groups[0]["lr"]], dtype=WIDE)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.rule.update(self.rule.parameters, gradients, self.rule.state, lr)


def test_radam_of_pytorch_optimizer() -> None:
    """Theirs does not move before rho reaches 5; from there on they agree."""
    theirs = pytest.importorskip("pytorch_optimizer").RAdam

    class Late(Rectified):
        updates = 0

        def step(self) -> None:
            self.updates += 1
            usual = self.param_groups[0]["lr"]
            if self.updates <= 5:
                self.param_groups[0]["lr"] = 0.0
            super().step()
            self.param_groups[0]["lr"] = usual

    check(lambda p: Late(p, 1e-8), lambda p: theirs(p, lr=0.1), updates=14)
    with pytest.raises(AssertionError, match="not close"):
        check(lambda p: Rectified(p, 1e-8), lambda p: theirs(p, lr=0.1), updates=14)


@pytest.mark.parametrize("clip", [False, True])
def test_lars_of_timm(clip: bool) -> None:
    """Theirs scales every tensor of a group that has decay, and none of one that has not."""
    theirs = pytest.importorskip("timm.optim").Lars
    ours = Larc if clip else Lars
    given = {"momentum": 0.9, "weight_decay": 0.05}
    check(
        lambda p: ours(p, 0.1, exclude="nothing", trust=0.01, **given),
        lambda p: theirs(p, lr=0.1, trust_coeff=0.01, trust_clip=clip, **given),
    )


def test_lamb_of_timm() -> None:
    """Without its clipping to norm 1, and as above for who is scaled."""
    theirs = pytest.importorskip("timm.optim").Lamb
    check(
        lambda p: Lamb(p, 0.1, exclude="nothing", weight_decay=0.05),
        lambda p: theirs(p, lr=0.1, weight_decay=0.05, max_grad_norm=None),
    )


def barlow_twins(p: torch.Tensor, g: torch.Tensor, mu: torch.Tensor, lr: float) -> None:
    """The LARS of facebookresearch/barlowtwins, main.py, from its description: the joint
    denominator, no eps, momentum outside of the rate; excluded where one-dimensional."""
    if p.dim() > 1:
        g = g + 0.05 * p
        g = g * 0.01 * math.sqrt(float((p * p).sum())) / math.sqrt(float((g * g).sum()))
    mu.mul_(0.9).add_(g)
    p.sub_(lr * mu)


def test_lars_of_barlow_twins() -> None:
    class Theirs:
        def __init__(self, parameters: list[nn.Parameter]) -> None:
            self.parameters = parameters
            self.velocities = [torch.zeros_like(p) for p in parameters]
            self.param_groups: list[dict[str, Any]] = [{}]

        @torch.no_grad()
        def step(self) -> None:
            for p, mu in zip(self.parameters, self.velocities, strict=True):
                assert p.grad is not None
                barlow_twins(p, p.grad, mu, self.param_groups[0]["lr"])

    given = {"trust": 0.01, "eps": 0.0, "weight_decay": 0.05}
    check(
        lambda p: Lars(p, 0.1, exclude="norms-and-biases", denominator="joint", **given), Theirs
    )
    with pytest.raises(AssertionError, match="not close"):
        check(lambda p: Lars(p, 0.1, exclude="norms-and-biases", **given), Theirs)
