"""The check before a run relies on the kernels, with layers that pretend to have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from batchcliff import kernels
from batchcliff.kernels import check, fused_batch_norm
from batchcliff.kernels.check import (
    BATCH_NORM,
    CONVOLUTIONS,
    _failing,
    failing,
    failing_convolution,
)
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.spec import BatchNorm

CPU = torch.device("cpu")


class Pretends(GhostBatchNorm2d):
    """Its fused form is the plain one, with a fault."""

    fault = ""

    def relu(self, x_BCHW: Tensor, **options: Any) -> Tensor:
        fused, self.fused = self.fused, False
        try:
            y = super().relu(x_BCHW, **options)
        finally:
            self.fused = fused
        if not fused:
            return y
        if self.fault == "output" and self.training:
            return y * 1.05
        if self.fault == "pooling" and options["pool"] == "2x2":
            return y + 0.1
        if self.fault == "gradient" and self.training:
            return y.detach() + 0.9 * (y - y.detach())
        if self.fault == "statistics":
            self.running_var.mul_(1.1)
        if self.fault == "evaluation" and not self.training:
            return y + 0.1
        if self.fault == "nan":
            return y * float("nan")
        if self.fault == "crash":
            raise RuntimeError("no such kernel")
        return y


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("output", "output with pooling none off by 0.05"),
        ("pooling", "output with pooling 2x2"),
        ("gradient", "gradient of the input with pooling none off by 0.1"),
        ("statistics", "running variance with pooling none"),
        ("evaluation", "evaluation with pooling none"),
        ("nan", "output with pooling none off by nan"),
        ("crash", "RuntimeError: no such kernel"),
    ],
)
def test_every_fault_is_found(fault: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing.cache_clear()
    monkeypatch.setattr(Pretends, "fault", fault)
    found = next(
        filter(None, (failing(Pretends(8, 2), CPU, p) for p in BATCH_NORM.values())), ""
    )
    assert found.startswith("kernels fail their check: " if fault else "")
    assert said in found


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", ""),
        ("output", "output of a convolution of 3 channels off by 0.05"),
        ("weights", "gradient of the weights of a convolution of 16 channels off by 0.1"),
        ("input", "gradient of the input of a convolution of 16 channels off by 0.1"),
        ("statistics", "running mean of a convolution of 3 channels"),
        ("crash", "RuntimeError: no such kernel"),
    ],
)
def test_every_fault_of_a_convolution_is_found(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretended(conv: Any, norm: Any, x: Tensor, *, pool: str, later: list[Any]) -> Tensor:
        """The plain layers, with a fault."""
        fused, norm.fused = norm.fused, False
        weight = conv.weight
        if fused and fault == "weights" and x.requires_grad:
            weight = weight.detach() + 0.9 * (weight - weight.detach())
        if fused and fault == "input":
            x = x.detach() + 0.9 * (x - x.detach())
        convolved = torch.nn.functional.conv2d(x, weight, padding=1)
        y: Tensor = norm.relu(convolved, pool=pool)
        norm.fused = fused
        if fused and fault == "output":
            return y * 1.05
        if fused and fault == "statistics":
            norm.running_mean.mul_(1.1)
        if fused and fault == "crash":
            raise RuntimeError("no such kernel")
        return y

    failing_convolution.cache_clear()
    monkeypatch.setattr(check, "convolved_relu", pretended)
    cases = CONVOLUTIONS.values()
    said_of = (failing_convolution(GhostBatchNorm2d, CPU, *case) for case in cases)
    found = next(filter(None, said_of), "")
    failing_convolution.cache_clear()
    assert found.startswith("kernels fail their check: " if fault else "")
    assert said in found


def test_a_layer_that_fails_is_left_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without the kernels, and its record says why."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels, "installed", lambda: True)
    monkeypatch.setattr(kernels, "failing", lambda *_: "kernels fail their check: x")
    net = ConvNet(
        widths=((8,),), image_channels=3, num_classes=2, batch_norm_group=2,
        batch_norm=BatchNorm(group=2, running="mean"),
    )  # fmt: skip
    applied, reason = fused_batch_norm(net, torch.device("cuda"), "bf16", 8)
    assert not applied
    assert reason == "plain: kernels fail their check: x"
    assert [layer.fused for layer in net.relu_norms()] == [False]


def test_a_check_does_not_go_by_what_was_drawn_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of the process' own generator some fail by rounding alone, some pass."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        check, "_first_difference", lambda _, twins, __: seen.append(twins[1].conv.weight) or ""
    )
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        assert failing_convolution.__wrapped__(GhostBatchNorm2d, CPU, 3, 64) == ""
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*seen) and seen[0].std() > 0.1
