"""Exported programs train as the trial did: the rate of every update, and the update itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from batchcliff.advising.frameworks import torch_code
from batchcliff.advising.settings import TrainingSettings, settings_of
from batchcliff.errors import UsageError
from batchcliff.optimizers import rule
from batchcliff.record import Ledger
from batchcliff.spec import Decay, Optimizer, Settings, TrialSpec
from batchcliff.stats.advice import Recommendation
from batchcliff.stats.intervals import Estimate
from batchcliff.training.arithmetic import DataFacts, learning_rates, ledger

NOTHING = Estimate(value=0.9, low=None, high=None, level=0.95, method="m", n=1)
FACTS = DataFacts(num_train=1000, num_test=100, num_classes=4, image_shape=(8, 8, 1))
PLAIN = Settings(remainder="carry", precision="fp32", loss="logits", augmentation="none")


def recommended(warmup: dict[str, Any] | None = None, **changes: Any) -> Recommendation:
    """A recommendation of a trial over 1,000 examples."""
    techniques = () if warmup is None else (("warmup", tuple(sorted(warmup.items()))),)
    values = {
        "workload": "digits",
        "data": "digits",
        "data_digest": "0" * 64,
        "arm": "a",
        "techniques": techniques,
        "settings": PLAIN,
        "batch_size": 64,
        "lr": 0.3,
        "decay": Decay(kind="constant"),
        "budget": "10ep",
        "seed": 0,
    }
    spec = TrialSpec(**(values | changes))
    counted: Ledger = ledger(spec, FACTS, "0.3")
    return Recommendation(
        arm="a",
        batch_size=spec.batch_size,
        accuracy=NOTHING,
        trials=1,
        failing=0,
        difference=None,
        speed=None,
        trial=spec,
        ledger=counted,
    )


def namespace(settings: TrainingSettings) -> dict[str, Any]:
    """What the exported torch program defines."""
    found: dict[str, Any] = {"__name__": "exported"}
    exec(compile(torch_code(settings, ("head",)), "exported.py", "exec"), found)
    return found


WARMUPS: list[dict[str, Any] | None] = [
    None,
    {"duration": "2ep"},
    {"duration": "1up"},
    {"duration": "7up", "start": 0.2},
    {"duration": "20%", "shape": "exponential", "start": 0.01},
    {"duration": "30up", "shape": "cosine", "start": 0.1},
    {"duration": "1ep", "shape": "constant", "start": 0.1},
    {"duration": "3ep", "shape": "exponential", "start": 0.01, "stepping": "epoch"},
]
DECAYS = [
    Decay(kind="constant"),
    Decay(kind="linear", floor=0.1),
    Decay(kind="exponential", floor=0.01),
    Decay(kind="cosine"),
    Decay(kind="polynomial", power=2.0, floor=0.05),
    Decay(kind="multistep", at=("1ep", "60%", "85%"), factor=0.1),
    Decay(kind="inverse-sqrt", timescale="40up"),
    Decay(kind="warmup-stable-decay", duration="25%", floor=0.1),
]


@pytest.mark.parametrize("remainder", ["carry", "drop"])
@pytest.mark.parametrize("decay", DECAYS, ids=lambda d: d.kind)
@pytest.mark.parametrize("warmup", WARMUPS, ids=str)
def test_the_rate_of_every_update_is_the_trials(
    warmup: dict[str, Any] | None, decay: Decay, remainder: str
) -> None:
    settings = dataclasses.replace(PLAIN, remainder=remainder)
    found = recommended(warmup, decay=decay, settings=settings)
    assert found.trial is not None
    told = namespace(settings_of(found))
    want = learning_rates(found.trial, FACTS.num_train)
    optimizer = told["make_optimizer"](torch.nn.Linear(2, 2))
    scheduler = told["make_scheduler"](optimizer)
    rates = []
    for _ in want:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(want, rel=1e-12, abs=1e-15)
    assert told["UPDATES"] == len(want)


def test_one_cycle_too() -> None:
    found = recommended(decay=Decay(kind="one-cycle", rise=0.3))
    assert found.trial is not None
    told = namespace(settings_of(found))
    want = learning_rates(found.trial, FACTS.num_train)
    assert [0.3 * told["rate_factor"](t) for t in range(len(want))] == pytest.approx(want)


def test_every_kind_of_decay_is_covered() -> None:
    from batchcliff.advising import schedule_code
    from batchcliff.schedules.decays import DECAYS as KNOWN

    assert {d.kind for d in DECAYS} | {"one-cycle"} == set(KNOWN) == set(schedule_code._DECAYS)


def test_a_rate_that_is_one_update_off_is_noticed() -> None:
    found = recommended({"duration": "2ep"}, decay=Decay(kind="cosine"))
    assert found.trial is not None
    told = namespace(settings_of(found))
    want = learning_rates(found.trial, FACTS.num_train)
    late = [0.3 * told["rate_factor"](max(t - 1, 0)) for t in range(len(want))]
    assert late != pytest.approx(want, rel=1e-3)


RULES = [
    Optimizer(name="sgd", form="torch"),
    Optimizer(name="sgd", form="keras", weight_decay=1e-2),
    Optimizer(name="sgd", form="keras", nesterov=True),
    Optimizer(name="sgd", form="keras", momentum_correction=True),
    Optimizer(name="sgd", form="keras", momentum=0.0),
    Optimizer(name="sgd", form="torch", weight_decay=1e-2, exclude="norms-and-biases"),
    Optimizer(name="lars", exclude="norms-and-biases", weight_decay=1e-2, trust=0.1),
    Optimizer(name="larc", form="torch", denominator="joint", weight_decay=1e-2),
    Optimizer(name="lamb", exclude="norms-and-biases", weight_decay=1e-2, eps=1e-6),
    Optimizer(name="adam", weight_decay=1e-2, betas=(0.8, 0.99)),
    Optimizer(name="adamw", weight_decay=1e-2, exclude="norms-and-biases"),
    Optimizer(name="radam", betas=(0.9, 0.99)),
]  # fmt: skip


def after_updates(options: Optimizer, how: str) -> list[torch.Tensor]:
    """Parameters after six updates at changing rates: by the engine's rule or the export."""
    settings = dataclasses.replace(PLAIN, optimizer=options)
    found = recommended({"duration": "4up"}, settings=settings)
    assert found.trial is not None
    rates = learning_rates(found.trial, FACTS.num_train)[:6]
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (4,)]
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        for _ in rates
    ]
    if how == "rule":
        stacked = [w.clone() for w in start]  # a stack of one network
        engine = rule(options, stacked, 1)
        for lr, given in zip(rates, gradients, strict=True):
            lr_S = torch.tensor([lr], dtype=torch.float64)
            engine.apply(stacked, [g.clone() for g in given], engine.state, lr_S)
        return stacked
    network = torch.nn.Linear(3, 4).double()
    with torch.no_grad():
        for p, w in zip(network.parameters(), start, strict=True):
            p.copy_(w)
    told = namespace(settings_of(found))
    optimizer = told["make_optimizer"](network)
    scheduler = told["make_scheduler"](optimizer)
    for given in gradients:
        for p, g in zip(network.parameters(), given, strict=True):
            p.grad = g.clone()
        optimizer.step()
        scheduler.step()
    return [p.detach() for p in network.parameters()]


@pytest.mark.parametrize("options", RULES, ids=lambda o: f"{o.name}-{o.form}-{o.exclude}")
def test_an_update_is_the_trials(options: Optimizer) -> None:
    for ours, exported in zip(
        after_updates(options, "rule"), after_updates(options, "exported"), strict=True
    ):
        torch.testing.assert_close(ours, exported, rtol=1e-6, atol=1e-7)


def test_the_forms_of_momentum_are_told_apart() -> None:
    keras = after_updates(Optimizer(name="sgd", form="keras"), "exported")
    other = after_updates(Optimizer(name="sgd", form="torch"), "exported")
    assert (keras[0] - other[0]).abs().max() > 1e-2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_torch_program_runs_as_given(precision: str, capsys: Any) -> None:
    before = torch.get_float32_matmul_precision()
    settings = dataclasses.replace(
        PLAIN,
        precision=precision,
        label_smoothing=0.1,
        optimizer=Optimizer(form="torch", clip_norm=1.0),
    )
    text = torch_code(settings_of(recommended({"duration": "1ep"}, settings=settings)), ("h",))
    try:
        exec(compile(text, "exported.py", "exec"), {"__name__": "__main__"})
    finally:
        torch.set_float32_matmul_precision(before)
    assert "label_smoothing=0.1" in text and "clip_grad_norm_" in text
    assert ("torch.bfloat16" in text) == (precision == "bf16")


def test_a_hostile_rule_stays_a_comment() -> None:
    found = recommended()
    assert found.ledger is not None
    bad = dataclasses.replace(found.ledger, lr_provenance="0.3\nraise SystemExit('owned')")
    told = namespace(settings_of(dataclasses.replace(found, ledger=bad)))
    assert told["LEARNING_RATE"] == 0.3


def test_what_cannot_be_said_is_refused() -> None:
    growth = (("batch-growth", (("at", ("50%",)), ("factor", 2), ("most", 512))),)
    with pytest.raises(UsageError, match=r"changes its batch size .*--format toml"):
        settings_of(recommended(techniques=growth))
    with pytest.raises(UsageError, match="came without settings"):
        settings_of(dataclasses.replace(recommended(), trial=None))


def test_what_is_left_out_is_said() -> None:
    from batchcliff.advising.settings import left_out

    settings = dataclasses.replace(
        PLAIN, mixup=0.2, cutout=2, random_erasing=0.5, evaluation="reestimated",
        optimizer=Optimizer(name="gi-adam"),
    )  # fmt: skip
    resolved = settings_of(recommended(settings=settings))
    told = " ".join(left_out(resolved, "torch"))
    for word in ("mixup", "cutout", "random erasing", "re-estimated", "GI-Adam", "network"):
        assert word in told
    timm = " ".join(left_out(resolved, "timm"))
    assert "mixup" not in timm and "cutout" in timm
    assert not math.isnan(resolved.lr)
