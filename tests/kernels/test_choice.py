"""Whether the kernels run: every answer with its reason. Needs neither a GPU nor Triton."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from batchcliff import kernels
from batchcliff.errors import UsageError
from batchcliff.kernels import BATCH_NORM, CONVOLUTIONS, SWEEP, VARIABLE, fused_batch_norm
from batchcliff.models.conv_net import ConvNet
from batchcliff.spec import BatchNorm, Decay, Settings, TrialSpec
from batchcliff.training import prepare
from batchcliff.training.precision import numerics

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def network(channels: int = 8, group: int = 2) -> ConvNet:
    return ConvNet(
        widths=((channels,),),
        image_channels=3,
        num_classes=2,
        batch_norm=BatchNorm(group=group, running="mean"),
        batch_norm_group=group,
    )


@pytest.fixture(autouse=True)
def a_gpu_that_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels, "installed", lambda: True)
    monkeypatch.setattr(kernels, "failing", lambda layer, device, pool: "")
    monkeypatch.setattr(kernels, "failing_convolution", lambda *_: "")
    monkeypatch.setattr(kernels, "failing_sweep", lambda device: "")


def test_where_they_serve_every_layer_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    said = "fused batch norm, ReLU and pooling: 1 layers"
    applied, reason = fused_batch_norm(net, GPU, "bf16", 8)
    assert applied
    assert reason == f"{said}, with their convolutions, 64 channels swept"
    (layer,) = net.relu_norms()
    assert (layer.fused, layer.convolves, layer.sweeps) == (True, True, True)
    monkeypatch.setattr(kernels, "failing_sweep", lambda device: "off by 1")
    applied, reason = fused_batch_norm(net, GPU, "bf16", 8)
    assert applied
    assert reason == f"{said}, with their convolutions, cuDNN for 64 channels: off by 1"
    assert (layer.fused, layer.convolves, layer.sweeps) == (True, True, False)
    layer.sweeps = True
    assert not fused_batch_norm(net, CPU, "bf16", 8)[0]
    assert (layer.fused, layer.convolves, layer.sweeps) == (False, False, False)


def test_convolutions_are_for_the_gpu_they_were_compared_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And for others where all are asked for."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    (layer,) = (net := network()).relu_norms()
    applied, reason = fused_batch_norm(net, GPU, "bf16", 8)
    assert applied
    assert reason.endswith(f"kind of GPU, {VARIABLE}=all runs kernels")
    assert (layer.fused, layer.convolves, layer.sweeps) == (True, False, False)
    monkeypatch.setenv(VARIABLE, "all")
    assert fused_batch_norm(net, GPU, "bf16", 8)[1].endswith("for 64 channels: no Hopper GPU")
    assert (layer.fused, layer.convolves, layer.sweeps) == (True, True, False)


def test_convolutions_that_fail_their_check_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "failing_convolution", lambda *_: "off by 1")
    net = network()
    said = "fused batch norm, ReLU and pooling: 1 layers; plain convolutions: off by 1"
    assert fused_batch_norm(net, GPU, "bf16", 8) == (True, said)
    assert [(layer.fused, layer.convolves) for layer in net.relu_norms()] == [(True, False)]


@pytest.mark.parametrize(
    ("net", "device", "precision", "batch_size", "reason"),
    [
        (network(), CPU, "bf16", 8, "no kernels for cpu"),
        (network(), GPU, "fp32", 8, "no kernels for fp32"),
        (network(), GPU, "tf32", 8, "no kernels for tf32"),
        (network(), GPU, "bf16", 7, "the batch is no multiple of the batch norm's group"),
        (network(24), GPU, "bf16", 8, "24 channels are no power of two from 8 up"),
        (network(4), GPU, "bf16", 8, "4 channels are no power of two from 8 up"),
        (nn.Linear(2, 2), GPU, "bf16", 8,
         "a network without batch norm before ReLU, or of the user's own"),
    ],
)  # fmt: skip
def test_where_they_do_not_the_reason_is_said(
    net: nn.Module, device: torch.device, precision: str, batch_size: int, reason: str
) -> None:
    assert fused_batch_norm(net, device, precision, batch_size) == (False, f"plain: {reason}")
    assert not any(getattr(module, "fused", False) for module in net.modules())


def test_without_triton_or_on_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert fused_batch_norm(network(), GPU, "bf16", 8)[1] == "plain: a GPU older than bfloat16"
    monkeypatch.setattr(kernels, "installed", lambda: False)
    assert fused_batch_norm(network(), GPU, "bf16", 8)[1] == "plain: Triton is not installed"


def test_off_and_what_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    said = (False, "plain: BATCHCLIFF_KERNELS=off")
    assert fused_batch_norm(network(), GPU, "bf16", 8) == said
    monkeypatch.setenv(VARIABLE, "of")
    with pytest.raises(
        UsageError, match=r"BATCHCLIFF_KERNELS: unknown 'of'\. Did you mean 'off'"
    ):
        fused_batch_norm(network(), CPU, "bf16", 8)


@pytest.mark.parametrize("unserved", [(), (16,)])
def test_every_batch_size_of_a_run_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, unserved: tuple[int, ...]
) -> None:
    """One that they do not serve makes the whole run plain, and the record says so."""

    def asked(net: nn.Module, device: torch.device, kind: str, size: int) -> tuple[bool, str]:
        return fused_batch_norm(net, CPU if size in unserved else device, kind, size)

    monkeypatch.setattr(prepare, "fused_batch_norm", asked)
    spec = TrialSpec(
        workload="own", data="d", data_digest="x", arm="a", techniques=(), lr=0.1, seed=0,
        settings=Settings(batch_norm=BatchNorm(group=2, running="mean"), precision="bf16"),
        batch_size=8, decay=Decay(kind="constant"), budget="1ep",
    )  # fmt: skip
    sizes = prepare._Sizes(spec, 64, 0, None)
    sizes.others = [16, 32]
    net = network()
    said = sizes.kernels(net, GPU)
    assert [layer.fused for layer in net.relu_norms()] == [not unserved]
    assert said.startswith("plain: no kernels for cpu" if unserved else "fused batch norm")
    assert dict(numerics(CPU, False, said))["kernels"] == said


@pytest.mark.parametrize("made", [(), *[(name,) for name in kernels.CHECKS], kernels.CHECKS])
def test_a_rehearsal_makes_some_of_the_checks(
    monkeypatch: pytest.MonkeyPatch, made: tuple[str, ...]
) -> None:
    """Those alone; a check that is left to others is taken as passed."""
    asked: list[str] = []
    named = {(pool,): name for name, pool in BATCH_NORM.items()}
    named |= {case: name for name, case in CONVOLUTIONS.items()} | {(): SWEEP}
    # What each is told beside the layer, or its kind, and the device.
    for function, before in (
        ("failing", 2), ("failing_convolution", 2), ("failing_sweep", 1)
    ):  # fmt: skip
        monkeypatch.setattr(
            kernels, function, lambda *told, n=before: asked.append(named[told[n:]]) or ""
        )
    net = network()
    assert fused_batch_norm(net, GPU, "bf16", 8, checks=made)[0]
    assert asked == list(made)
    (layer,) = net.relu_norms()
    assert (layer.fused, layer.convolves, layer.sweeps) == (True, True, True)
