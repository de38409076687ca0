"""The convolution whose gradients part: PyTorch's own numbers, whichever stream gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_sweep import plain_statistics, plain_sweep
from torch import Tensor, nn

from batchcliff.kernels import convolution as module
from batchcliff.kernels.convolution import (
    convolution,
    convolution_backward,
    halves,
    until_the_end,
)
from batchcliff.kernels.layers import SERVED, convolved_relu
from batchcliff.models.conv_net import ConvNet
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.spec import BatchNorm

# torch's own warnings at its first use of a GPU are not ours
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::UserWarning:torch"
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inputs(channels: int = 8, outputs: int = 16, batch: int = 4) -> tuple[Tensor, ...]:
    """x, weights as bfloat16 has them, and dy; channels-last."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(batch, channels, 6, 6), (outputs, channels, 3, 3), (batch, outputs, 6, 6)]
    made = [torch.randn(shape, generator=rng).bfloat16() for shape in shapes]
    x, weight, dy = (t.to(DEVICE, memory_format=torch.channels_last) for t in made)
    return x, weight.float(), dy


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Of the norm."""
    with torch.no_grad():
        return float((ours.double() - theirs).norm() / theirs.norm())


def test_twin_of_pytorchs_convolution() -> None:
    x, weight, dy = inputs()
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    (half,) = halves([weight])
    assert half.dtype == torch.bfloat16
    assert half.is_contiguous(memory_format=torch.channels_last)
    y = convolution(*leaves, half, True, False)
    ours = torch.autograd.grad(y, leaves, dy)
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    z = F.conv2d(*exact, padding=1)
    theirs = torch.autograd.grad(z, exact, dy.double())
    assert [g.dtype for g in ours] == [torch.bfloat16, torch.float32]
    for mine, reference in zip((y, *ours), (z, *theirs), strict=True):
        assert apart(mine, reference) < 6e-3
    assert apart(ours[0].flip(2), theirs[0]) > 1


def test_the_operators_say_what_they_are() -> None:
    x, weight, dy = inputs()
    leaves = (x.requires_grad_(), weight.requires_grad_())
    torch.library.opcheck(
        convolution,
        (*leaves, weight.detach().bfloat16(), True, False),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    torch.library.opcheck(
        convolution_backward, (dy, x.detach(), weight.detach().bfloat16(), True, False)
    )


class Event:
    """What `_Beside` asks of an event; `order` notes who was waited for."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def wait(self) -> None:
        self.order.append(self.name)


def test_joining_waits_for_the_oldest_first_and_lets_go_of_what_it_read() -> None:
    order: list[str] = []
    stream: Any = None
    beside = module._Beside(stream)
    for name in "abc":
        event: Any = Event(name, order)
        beside.under_way.append((event, (torch.zeros(1),)))
    beside.join(1)
    assert order == ["a", "b"]
    assert len(beside.under_way) == 1
    beside.join()
    assert order == ["a", "b", "c"]
    assert not beside.under_way


@pytest.mark.parametrize("fails", [False, True])
def test_at_the_end_nothing_is_left(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are waited for; after an error none is, and what they read is let go."""
    order: list[str] = []
    stream: Any = None
    beside = module._Beside(stream)
    monkeypatch.setattr(module, "_beside", lambda device: beside)

    def pass_() -> None:
        with until_the_end(torch.device("cuda")):
            assert not beside.waits
            for name in "ab":
                event: Any = Event(name, order)
                beside.under_way.append((event, (torch.zeros(1),)))
            if fails:
                raise torch.OutOfMemoryError

    if fails:
        with pytest.raises(torch.OutOfMemoryError):
            pass_()
    else:
        pass_()
    assert order == ([] if fails else ["a", "b"])
    assert beside.waits
    assert not beside.under_way


def layers(**changed: Any) -> tuple[nn.Conv2d, GhostBatchNorm2d]:
    options = {"kernel_size": 3, "padding": 1, "bias": False} | changed
    conv = nn.Conv2d(8, 16, **options)
    norm = GhostBatchNorm2d(16, 2)
    norm.convolves = True  # and not fused: the convolution's part alone
    return conv.to(DEVICE, torch.bfloat16), norm.to(DEVICE)


@pytest.mark.parametrize(
    "changed",
    [{}, {"stride": 2}, {"padding": 0}, {"bias": True}, {"kernel_size": 1}, {"groups": 2},
     {"dilation": 2}, {"padding_mode": "circular"}],
    ids=str,
)  # fmt: skip
def test_only_what_it_computes_is_taken(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        "batchcliff.kernels.layers.convolution",
        lambda *given: (calls.append(1), convolution(*given))[1],
    )
    conv, norm = layers(**changed)
    x = inputs()[0].requires_grad_()
    y = convolved_relu(conv, norm, x, pool="none", later=[])
    assert len(calls) == (not changed)
    torch.testing.assert_close(y, norm.relu(conv(x)))
    with torch.no_grad():
        convolved_relu(conv, norm, x, pool="none", later=[])
    assert len(calls) == (not changed)


def asked(monkeypatch: pytest.MonkeyPatch, network: ConvNet, size: int) -> list[bool]:
    """What each convolution of a training pass is told of `alone`; the kernels are plain."""
    told: list[bool] = []

    def noted(x: Tensor, weight: Tensor, half: Tensor, alone: bool, sweeps: bool) -> Tensor:
        told.append(alone)
        return convolution(x, weight, half, alone, sweeps)

    def plain(conv: nn.Conv2d, norm: Any, x: Tensor, later: list[Any]) -> Tensor:
        return norm.relu(conv(x.float())).to(x.dtype)

    def relu(
        self: GhostBatchNorm2d, x: Tensor, *, pool: str = "none", later: Any = None
    ) -> Tensor:
        y = F.relu(self(x))
        return y.mean((2, 3)) if pool == "all" else F.avg_pool2d(y, 2) if pool == "2x2" else y

    monkeypatch.setattr("batchcliff.kernels.layers.convolution", noted)
    monkeypatch.setattr("batchcliff.kernels.layers._thin", plain)
    monkeypatch.setattr(GhostBatchNorm2d, "relu", relu)
    for layer in network.relu_norms():
        layer.fused = layer.convolves = True
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(4, network.blocks[0][0].in_channels, size, size))
    return told


@pytest.mark.parametrize(
    ("channels", "first", "size", "told"),
    [
        (3, 16, 8, [True, True, True]),  # thin, and all the rest
        (3, 8, 8, [False, False, False]),  # its first convolution is PyTorch's
        (5, 16, 8, [False, False, False]),
        (3, 16, 7, [True, False, False]),  # and so is the pooling of odd sizes
    ],
)
def test_alone_is_who_has_only_kernels_before(
    monkeypatch: pytest.MonkeyPatch, channels: int, first: int, size: int, told: list[bool]
) -> None:
    network = ConvNet(
        widths=((first, 16), (16, 16)), image_channels=channels, num_classes=4,
        batch_norm=BatchNorm(group=2, running="mean"), batch_norm_group=2,
    )  # fmt: skip
    assert asked(monkeypatch, network, size) == told


def test_what_is_served_are_arguments_of_a_convolution() -> None:
    conv = layers()[0]
    assert all(getattr(conv, name) == value for name, value in SERVED.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_under_way_are_there_at_the_end() -> None:
    """Of a chain that keeps the GPU busy, often: as when every layer waits for its own."""
    x, weight, _ = inputs(64, 64, 512)
    weights = [(weight / 24).clone().requires_grad_() for _ in range(6)]

    def chain() -> list[Tensor]:
        first = z = x.clone().requires_grad_()
        for one in weights:
            z = convolution(z, one, halves([one.detach()])[0], True, False).relu()
        return list(torch.autograd.grad(z.float().square().sum(), (first, *weights)))

    expected = chain()
    for _ in range(20):
        with until_the_end(x.device):
            found = chain()
        assert not module._beside(x.device).under_way
        for ours, theirs in zip(found, expected, strict=True):
            assert apart(ours, theirs.double()) < 1e-2


def test_statistics_come_along(
    kernels: Any,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs, gradients and running statistics are those of the two operations apart."""
    asked: list[int] = []

    def with_statistics(x: Tensor, half: Tensor, groups: int) -> tuple[Tensor, ...]:
        asked.append(groups)
        return plain_statistics(x, half, groups)

    monkeypatch.setattr(module, "sweep", plain_sweep)
    monkeypatch.setattr(module, "sweep_statistics", with_statistics)
    monkeypatch.setattr("batchcliff.kernels.layers.is_swept", lambda *given: True)
    monkeypatch.setattr("batchcliff.kernels.layers.images_of_a_program", lambda width: 2)
    rng = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(8, 16, 4, 4, generator=rng).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last).to(device).requires_grad_()
    conv.to(device)
    results = []
    for group in (4, 4, 1):
        norm = GhostBatchNorm2d(16, group).to(device)
        norm.fused = norm.convolves = True
        norm.sweeps = not results or group == 1
        later: list[Any] = []
        y = convolved_relu(conv, norm, x, pool="2x2", later=later)
        of = torch.autograd.grad(
            y.float().square().sum(), (x, conv.weight, norm.weight, norm.bias)
        )
        (statistics,) = later
        assert statistics[0] is norm
        assert statistics[3] == group * 16
        results.append((y, *of, *statistics[1:3]))
    assert asked == [2]  # groups of one do not hold a program's images
    for ours, theirs in zip(*results[:2], strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.02, atol=0.02)
