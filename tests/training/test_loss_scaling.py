"""Loss scaling against torch.amp.GradScaler, with infinities injected, in float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_trials import SMALL, ready, run, small_data, small_spec, with_settings
from test_loop_no_sync import NoWaiting
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.models.conv_net import ConvNet
from batchcliff.optimizers import rule
from batchcliff.record import Outcome
from batchcliff.spec import Optimizer, Settings
from batchcliff.training import loss_scaling
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.loss_scaling import LossScaled
from batchcliff.training.precision import precision
from batchcliff.training.prepare import Prepared

INF, NAN = math.inf, math.nan
# What each update's gradient is multiplied by: long enough for the scale to grow and fall.
FACTORS = [1, INF, 1, 1, 1, 1, 1, NAN, -INF, 1, 1, 1, 1, 1, 1, 1, 1, INF, 1, 1]
RULES = {
    "torch": Optimizer(form="torch", momentum=0.9),
    "nesterov and decay": Optimizer(form="torch", nesterov=True, weight_decay=0.01),
    "clipped": Optimizer(form="torch", momentum=0.5, clip_norm=0.3),
}


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]


def loss_of(parameters: list[Tensor], factor: float) -> Tensor:
    """A loss whose gradient is that of sum((p - 1)^2), times `factor`."""
    return torch.stack([((p - 1) ** 2).sum() for p in parameters]).sum() * factor


def theirs(options: Optimizer, interval: int, skips: bool) -> list[list[Any]]:
    """Parameters, scale and growth count after every update, by torch's own classes."""
    parameters = [p.requires_grad_() for p in start()]
    sgd = torch.optim.SGD(
        parameters,
        lr=0.05,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
    )
    scaler = torch.amp.GradScaler("cpu", growth_interval=interval, init_scale=2.0**16)
    found = []
    for factor in FACTORS:
        sgd.zero_grad()
        scaler.scale(loss_of(parameters, factor)).backward()
        scaler.unscale_(sgd)
        if options.clip_norm:
            total = torch.cat([p.grad.flatten() for p in parameters]).norm()  # type: ignore[union-attr]
            for p in parameters:
                assert p.grad is not None
                p.grad.mul_(
                    torch.where(total > options.clip_norm, options.clip_norm / total, 1.0)
                )
        if skips:
            scaler.step(sgd)
        else:
            sgd.step()
        scaler.update()
        state = scaler.state_dict()
        copies = [p.detach().clone() for p in parameters]
        found.append([*copies, state["scale"], state["_growth_tracker"]])
    return found


def ours(options: Optimizer, *, compiled: bool = False) -> tuple[list[list[Any]], list[bool]]:
    parameters = [p.requires_grad_() for p in start()]
    scaled = LossScaled(rule(options, parameters, 1))
    update, found, skipped = scaled.update, [], []
    if compiled:
        update = torch.compile(update, fullgraph=True, backend="aot_eager", dynamic=False)
    for factor in FACTORS:
        loss = loss_of(parameters, factor) * scaled.scale
        gradients = list(torch.autograd.grad(loss, parameters))
        update(parameters, gradients, scaled.state, torch.tensor([0.05]))
        copies = [p.detach().clone() for p in parameters]
        found.append([*copies, float(scaled.scale), int(scaled.since)])
        skipped.append(bool(scaled.skipped))
    return found, skipped


def differences(one: list[list[Any]], two: list[list[Any]]) -> list[int]:
    """Updates after which the two are not the same, up to rounding of the weights."""
    found = []
    for update, (a, b) in enumerate(zip(one, two, strict=True)):
        close = all(
            torch.allclose(x, y, rtol=1e-6, atol=1e-7)
            for x, y in zip(a[:-2], b[:-2], strict=True)
        )
        if not close or a[-2:] != b[-2:]:
            found.append(update)
    return found


@pytest.mark.parametrize("interval", [2, 4, 2000])
@pytest.mark.parametrize("name", RULES)
def test_twin_of_grad_scaler(name: str, interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", interval)
    found, skipped = ours(RULES[name])
    assert differences(found, theirs(RULES[name], interval, skips=True)) == []
    assert skipped == [not math.isfinite(factor) for factor in FACTORS]
    # The negative controls: no skipping, another interval.
    assert differences(found, theirs(RULES[name], interval, skips=False))
    if interval < len(FACTORS):
        assert differences(found, theirs(RULES[name], interval + 1, skips=True))


def test_compiled_as_one_graph_it_skips_too() -> None:
    """fullgraph: a wait for the device or a branch on data would be an error here."""
    options = RULES["clipped"]
    eager, compiled = ours(options), ours(options, compiled=True)
    assert differences(eager[0], compiled[0]) == [] and eager[1] == compiled[1]


def test_a_scale_never_grows_to_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scaling, "GROWTH_INTERVAL", 1)
    parameters = [torch.ones(3)]
    scaled = LossScaled(rule(Optimizer(form="torch"), parameters, 1))
    scaled.scale.fill_(2.0**127)
    for _ in range(3):
        scaled.update(parameters, [torch.ones(3)], scaled.state, torch.tensor([0.1]))
    assert float(scaled.scale) == 2.0**127


def test_restart_forgets_scale_count_and_velocity() -> None:
    parameters = [torch.ones(3)]
    scaled = LossScaled(rule(Optimizer(form="keras"), parameters, 1))
    for value in (1.0, INF):
        scaled.update(parameters, [torch.full((3,), value)], scaled.state, torch.tensor([0.1]))
    assert float(scaled.scale) == 2.0**15 and bool(scaled.skipped)
    scaled.restart()
    assert float(scaled.scale) == 2.0**16
    others = [t for t in scaled.tensors() if t is not scaled.scale]
    assert len(others) == 3 and not any(t.any() for t in others)


def test_one_scale_is_not_for_two_networks() -> None:
    with pytest.raises(ValueError, match="one network, not for 2"):
        LossScaled(rule(Optimizer(), [torch.ones(2, 3)], 2))


# --- the whole update

HALF = with_settings(
    SMALL,
    precision="fp16",
    optimizer__form="torch",
    model__widths=((8,), (8, 8)),
    gradient_norms=True,
)


def at_work(settings: Settings) -> tuple[Prepared, Resident]:
    """A loop with its first epoch in place, at the rates that the trial has."""
    spec, resident = small_spec(settings=settings), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.05))
    prepared.loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    return prepared, resident


def test_twin_of_the_update_with_autocast_and_grad_scaler() -> None:
    """Four updates of the real loop and of the usual program, the same float16 kernels."""
    prepared, resident = at_work(HALF)
    twin = ready(small_spec(settings=HALF), resident)
    twin.restart([small_spec(settings=HALF)], torch.zeros(12, 1))
    model = twin.model
    assert isinstance(model, ConvNet)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    index, _ = epoch_tensors([small_spec(settings=HALF)], resident, 0, 4)
    for update in range(4):
        prepared.advance()
        places = index[update, :, 0].long()
        images = resident.train_images[places].permute(0, 3, 1, 2).float() * (1 / 255)
        sgd.zero_grad()
        with torch.autocast("cpu", torch.float16):
            logits = model(images.contiguous(memory_format=torch.channels_last))[:, 0]
            loss = torch.nn.functional.cross_entropy(
                logits.float(), resident.train_labels[places]
            )
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        found = float(prepared.loop.losses_US[update])
        assert found == pytest.approx(float(loss.detach()), rel=1e-6)
    for one, two in zip(prepared.model.parameters(), model.parameters(), strict=True):
        assert one.dtype == torch.float32  # the weights that are updated are not halved
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert prepared.loop.scaling is not None
    assert float(prepared.loop.scaling.scale) == scaler.get_scale()


def test_an_update_with_a_skip_waits_for_nothing_and_keeps_its_addresses() -> None:
    prepared, _ = at_work(HALF)
    loop = prepared.loop
    assert loop.scaling is not None
    before = [t.data_ptr() for t in loop.tensors()]
    weights = [p.detach().clone() for p in loop.parameters]
    loop.scaling.scale.fill_(2.0**100)  # every gradient of float16 overflows
    with NoWaiting():
        prepared.advance()
    assert bool(loop.scaling.skipped) and float(loop.scaling.scale) == 2.0**99
    assert all(torch.equal(a, b) for a, b in zip(weights, loop.parameters, strict=True))
    assert not any(t.any() for t in loop.scaling.state["velocity"])
    loop.scaling.scale.fill_(1.0)
    with NoWaiting():
        prepared.advance()
    assert loop.logs["skipped"][:, 0].tolist() == [1.0, *[0.0] * 11]
    assert not torch.equal(weights[0], loop.parameters[0])
    assert [t.data_ptr() for t in loop.tensors()] == before
    assert math.isfinite(float(loop.losses_US[0]))  # the loss itself was never scaled


def gradients(settings: Settings, scale: float) -> list[Tensor]:
    """The true gradient of the first batch, computed with a scaled loss."""
    prepared, _ = at_work(settings)
    loop = prepared.loop
    with precision(settings.precision, loop.device):
        losses = loop.losses(loop.index_UBS[0], loop.draws_UBSk[0])
    found = torch.autograd.grad(losses.sum() * scale, loop.parameters)
    return [g / scale for g in found]


def test_scaling_saves_small_gradients() -> None:
    """Below 6e-8 float16 has only 0: a loss of a millionth loses most of its gradient."""
    exact = gradients(with_settings(HALF, precision="fp32"), 1.0)[0]

    def error(scale: float) -> float:
        return float((gradients(HALF, scale)[0] - exact).norm() / exact.norm())

    assert error(1.0) < 0.2 and error(2.0**10) < 0.2
    assert error(2.0**-20) > 0.5


def test_records_of_half_precision() -> None:
    """fp16 counts what it skipped; unscaled it is another trial that ends as well."""
    resident = small_data()
    records = {}
    for name in ("fp32", "fp16", "fp16-unscaled", "bf16"):
        spec = small_spec(settings=with_settings(HALF, precision=name))
        records[name] = run([spec], resident).records[0]
        assert records[name].outcome is Outcome.OK
        assert records[name].updates == 12
    losses = {name: r.train_loss for name, r in records.items()}
    assert len(set(losses.values())) == 4
    for name in ("fp16", "fp16-unscaled", "bf16"):
        assert losses[name] == pytest.approx(losses["fp32"], rel=0.02)
        assert records[name].spec.trial_id != records["fp32"].spec.trial_id
    assert records["fp16"].skipped_updates < 12
    assert all(records[n].skipped_updates == 0 for n in ("fp32", "fp16-unscaled", "bf16"))


def test_skipped_updates_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a scale of 2^40 the first updates overflow, until it has come down."""
    monkeypatch.setattr(loss_scaling, "INITIAL", 2.0**40)
    ran = run([small_spec(settings=HALF, budget="30ep")], small_data())
    record, log = ran.records[0], ran.prepared.loop.logs["skipped"][:, 0]
    skipped = record.skipped_updates
    assert 5 < skipped < 40 and skipped == int(log.sum())
    assert record.outcome is Outcome.OK and record.updates == 120
    norms = record.curves.first_gradient_norms
    assert len(norms) == 100
    assert [not math.isfinite(n) for n in norms] == (log[:100] == 1).tolist()
    means = record.curves.gradient_norm
    assert math.isnan(means[0]) and all(math.isfinite(m) for m in means[10:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["fp16", "fp16-unscaled"])
def test_captured_updates_skip_and_go_on(name: str) -> None:
    """The captured graph of an update takes both branches; losses as on the CPU, float16."""
    settings = with_settings(HALF, precision=name)
    spec, host = small_spec(settings=settings), small_data()
    device = Resident(
        *(t.cuda() for t in (host.train_images, host.train_labels)),
        *(t.cuda() for t in (host.test_images, host.test_labels)),
        host.scale,
    )
    losses = []
    for resident in (host, device):
        prepared = ready(spec, resident)
        prepared.restart([spec], torch.full((12, 1), 0.05))
        loop = prepared.loop
        loop.load_block(*epoch_tensors([spec], resident, 0, 4))
        weights = [p.detach().clone() for p in loop.parameters]
        if loop.scaling is not None:
            loop.scaling.scale.fill_(2.0**100)
            prepared.advance()
            assert bool(loop.scaling.skipped) and float(loop.scaling.scale) == 2.0**99
            assert all(torch.equal(a, b) for a, b in zip(weights, loop.parameters, strict=True))
            loop.scaling.scale.fill_(1024.0)
        for _ in range(3):
            prepared.advance()
        assert not torch.equal(weights[0], loop.parameters[0])
        losses.append(loop.losses_US[:, 0].cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-3)
