"""The convolution that sweeps over rows: its schedule in NumPy, its cut, and who uses it."""

from __future__ import annotations

from typing import Any

import definition
import numpy as np
import pretended_gluon
import pytest
import torch
from plain_sweep import plain_statistics, plain_sweep
from torch import Tensor

from batchcliff.kernels import check
from batchcliff.kernels import convolution as module
from batchcliff.kernels.layers import halved
from batchcliff.kernels.sweep import images_of_a_program, is_swept, rows_of_a_program
from batchcliff.models.conv_net import ConvNet
from batchcliff.spec import BatchNorm

# torch's own warnings at its first use of a GPU are not ours
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore::UserWarning:torch"
)
CHANNELS = 4


def inputs(batch: int, height: int, width: int) -> tuple[Any, Any]:
    """Images and weights as bfloat16 has them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, CHANNELS, height, width)) + 1
    w = rng.standard_normal((CHANNELS, CHANNELS, 3, 3))
    return np.asarray(pretended_gluon.rounded(x)), np.asarray(pretended_gluon.rounded(w))


def turned(w: Any) -> Any:
    """The weights of the convolution that gives the gradient of the input."""
    return w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]


def apart(ours: Any, theirs: Any) -> float:
    """Of the norm; infinite if anything is not finite."""
    found = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return found if np.isfinite(found) else float("inf")


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(
    ("batch", "height", "width", "images", "rows"),
    [(4, 6, 4, 2, 6), (4, 6, 4, 2, 3), (3, 4, 8, 2, 2), (2, 5, 2, 2, 1), (1, 1, 4, 4, 1)],
)
def test_twin_of_the_definition(
    batch: int, height: int, width: int, images: int, rows: int, back: bool
) -> None:
    x, w = inputs(batch, height, width)
    ours, _, _ = pretended_gluon.swept(x, w, images=images, rows=rows, back=back)
    theirs = definition.convolved(x, turned(w) if back else w)
    assert apart(ours, theirs) < 6e-3
    assert apart(ours, definition.convolved(x, w if back else turned(w))) > 0.1


@pytest.mark.parametrize("rows", [6, 3, 2, 1])
@pytest.mark.parametrize("groups", [1, 2])
def test_twin_of_the_statistics(groups: int, rows: int) -> None:
    """Of what is stored, each group's by its last program, about a mean of 30 deviations."""
    x, w = inputs(8, 6, 4)
    w = np.abs(w) * 8
    y, mean, var = pretended_gluon.swept(x, w, images=2, rows=rows, back=False, groups=groups)
    _, *exact = definition.normal(y.astype(np.float64), groups, 0.0)
    for ours, theirs in zip((mean, var), exact, strict=True):
        assert ours.shape == (groups, CHANNELS)
        assert apart(ours, theirs) < 3e-6


def test_a_slot_filled_too_early_is_found() -> None:
    """Negative control: without waiting for the products that read it, the result is wrong."""

    class Hasty(pretended_gluon.Gluon):
        def warpgroup_mma_wait(self, num_outstanding: int, deps: tuple[Any, ...]) -> Any:
            return super().warpgroup_mma_wait(num_outstanding + 3 * (num_outstanding > 0), deps)

    x, w = inputs(2, 6, 4)
    try:
        ours, _, _ = pretended_gluon.swept(x, w, images=2, rows=6, back=False, gluon=Hasty())
    except (AttributeError, TypeError):  # sums that are not there yet
        return
    assert not apart(ours, definition.convolved(x, w)) < 6e-3


def test_what_it_serves() -> None:
    assert is_swept(64, 64, 32)
    assert all(is_swept(64, 64, width) for width in (8, 16, 64, 128))
    assert not any(is_swept(64, 64, width) for width in (4, 12, 28, 256))
    assert not is_swept(64, 128, 32)
    assert not is_swept(3, 64, 32)
    assert images_of_a_program(32) == 8


@pytest.mark.parametrize(
    ("batch", "height", "rows"),
    [(1024, 32, 32), (128, 32, 4), (256, 32, 8), (8192, 32, 32), (8, 10, 1), (9000, 7, 7)],
)
def test_rows_leave_no_multiprocessor_idle(batch: int, height: int, rows: int) -> None:
    assert rows_of_a_program(batch, height, 32, 132) == rows


def network(width: int = 64) -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet(
        widths=((width, width), (width,)), image_channels=3, num_classes=4,
        batch_norm=BatchNorm(group=2, running="mean"), batch_norm_group=2,
    )  # fmt: skip
    for layer in net.relu_norms():
        layer.convolves = layer.sweeps = True  # and not fused: plain batch norm on the CPU
    return net


def test_where_a_network_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of 64 channels, in training with their gradient and in evaluation; the
    values are those without."""
    calls: list[bool] = []

    def noted(x: Tensor, half: Tensor, *, back: bool) -> Tensor:
        calls.append(back)
        return plain_sweep(x, half, back=back)

    monkeypatch.setattr(module, "sweep", noted)
    monkeypatch.setattr("batchcliff.kernels.layers._has_thin", lambda *given: False)
    net, images = network(), torch.rand(4, 3, 16, 16)

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        slopes = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        return [logits, *torch.autograd.grad((logits * slopes).sum(), list(net.parameters()))]

    ours = gradients()
    assert calls == [False, False, True, True]
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net(images)
    assert calls[4:] == [False, False]
    net.train()
    for layer in net.relu_norms():
        layer.sweeps = False
    theirs = gradients()
    assert len(calls) == 6
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0.02, atol=0.02)


def test_no_other_width_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("64 channels alone")

    monkeypatch.setattr(module, "sweep", never)
    monkeypatch.setattr("batchcliff.kernels.layers._has_thin", lambda *given: False)
    net = network(32)
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.rand(4, 3, 16, 16)).sum().backward()


def test_weights_are_halved_at_once() -> None:
    """All that a kernel multiplies in training, and no more."""
    net = network(32)
    pairs = [(block[i], block[i + 1]) for block in net.blocks for i in range(0, len(block), 3)]
    made = halved(pairs)
    assert [h is None for h in made] == [True, False, False]  # the first one is thin
    for (conv, _), half in zip(pairs[1:], made[1:], strict=True):
        assert half is not None
        assert torch.equal(half, conv.weight.bfloat16())
        assert not half.requires_grad
    with torch.no_grad():
        assert halved(pairs) == [None] * 3
    pairs[1][1].convolves = False
    assert [h is None for h in halved(pairs)] == [True, True, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(128, 32, 32), (37, 16, 64), (24, 10, 16)], ids=str)
def test_on_a_gpu(shape: tuple[int, int, int]) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no Hopper GPU")
    from batchcliff.kernels.sweep import sweep, sweep_statistics

    batch, height, width = shape
    last = torch.channels_last
    x = torch.randn(batch, 64, height, width, device="cuda").bfloat16()
    x = x.contiguous(memory_format=last)
    w = (torch.randn(64, 64, 3, 3, device="cuda") / 24).bfloat16()
    w = w.contiguous(memory_format=last)
    for back in (False, True):
        y = sweep(x, w, back=back)
        exact = plain_sweep(x.double(), w.double(), back=back)
        assert float((y - exact).norm() / exact.norm()) < 6e-3
        assert torch.equal(y, sweep(x, w, back=back))
    if batch % 8 == 0 and width == 32:
        y, mean, var = sweep_statistics(x, w, 2)
        parts = y.double().view(2, -1, *y.shape[1:])
        torch.testing.assert_close(mean.double(), parts.mean((1, 3, 4)), rtol=1e-5, atol=1e-6)
        exact = parts.var((1, 3, 4), correction=0)
        torch.testing.assert_close(var.double(), exact, rtol=1e-5, atol=0)


def test_a_check_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right values pass; a convolution that forgets to flip the taps is found."""
    cpu = torch.device("cpu")

    def unturned(x: Tensor, half: Tensor, *, back: bool) -> Tensor:
        return plain_sweep(x, half.flip(2, 3) if back else half, back=back)

    monkeypatch.setattr(module, "sweep_statistics", plain_statistics)
    monkeypatch.setattr(module, "sweep", plain_sweep)
    assert check.failing_sweep.__wrapped__(cpu) == ""
    monkeypatch.setattr(module, "sweep", unturned)
    found = check.failing_sweep.__wrapped__(cpu)
    assert "gradient of the input of a swept convolution off by" in found
