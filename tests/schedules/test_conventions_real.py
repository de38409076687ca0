"""Other libraries' warmups against the libraries themselves: `pip install batchcliff[oracles]`.

Where a library computes in float64, the rates agree bit for bit. DeepSpeed, warmup-scheduler
and lightning-bolts have no wheel that runs beside today's torch; their rates were measured once
and are pinned here, and their tests run where they are installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from batchcliff.schedules.conventions import rates

PEAKS = pytest.mark.parametrize("peak", [1.0, 0.1, 3.2])


def sgd(peak: float) -> Any:
    torch = pytest.importorskip("torch")
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)


def drive(build: Callable[[Any], Any], count: int, peak: float) -> list[float]:
    """Rates used by the updates of a torch optimizer, in torch's documented order."""
    optimizer = sgd(peak)
    scheduler = build(optimizer)
    used = []
    for _ in range(count):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


@PEAKS
@pytest.mark.parametrize("warmup", [1, 2, 5, 7, 30])
def test_golden_torch_bit_for_bit(warmup: int, peak: float) -> None:
    linear = pytest.importorskip("torch.optim.lr_scheduler").LinearLR
    count = warmup + 5
    assert rates("torch", warmup, count, peak) == drive(
        lambda o: linear(o, total_iters=warmup), count, peak
    )
    assert rates("torch", warmup, count, peak, 0.1) == drive(
        lambda o: linear(o, start_factor=0.1, total_iters=warmup), count, peak
    )
    assert rates("torch-same", warmup, count, peak) == drive(
        lambda o: linear(o, start_factor=1 / warmup, total_iters=warmup - 1), count, peak
    )


def test_torch_is_not_transformers() -> None:
    """A negative control: the comparison sees the last bit."""
    linear = pytest.importorskip("torch.optim.lr_scheduler").LinearLR
    theirs = drive(lambda o: linear(o, start_factor=1 / 7, total_iters=6), 12, 0.1)
    assert rates("torch-same", 7, 12, 0.1) == theirs
    assert rates("pytorch-warmup", 7, 12, 0.1) != theirs
    assert rates("pytorch-warmup", 7, 12, 0.1) == pytest.approx(theirs)


@PEAKS
@pytest.mark.parametrize("warmup", [1, 5, 7, 30])
def test_golden_transformers_formula_in_torch(warmup: int, peak: float) -> None:
    scheduler = pytest.importorskip("torch.optim.lr_scheduler").LambdaLR
    theirs = drive(
        lambda o: scheduler(o, lambda t: min(1.0, t / max(1, warmup))), warmup + 5, peak
    )
    assert rates("transformers", warmup, warmup + 5, peak) == theirs


@PEAKS
def test_golden_transformers_itself(peak: float) -> None:
    transformers = pytest.importorskip("transformers")
    for build in (
        lambda o: transformers.get_constant_schedule_with_warmup(o, 7),
        lambda o: transformers.get_linear_schedule_with_warmup(o, 7, 1000),
        lambda o: transformers.get_cosine_schedule_with_warmup(o, 7, 1000),
    ):
        assert rates("transformers", 7, 8, peak) == drive(build, 8, peak)


@PEAKS
@pytest.mark.parametrize("warmup", [1, 2, 5, 7, 30])
def test_golden_pytorch_warmup_itself(warmup: int, peak: float) -> None:
    module = pytest.importorskip("pytorch_warmup")
    optimizer = sgd(peak)
    scheduler, used = module.LinearWarmup(optimizer, warmup), []
    for _ in range(warmup + 5):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with scheduler.dampening():
            pass
    assert rates("pytorch-warmup", warmup, warmup + 5, peak) == used


@PEAKS
@pytest.mark.parametrize("warmup", [2, 5, 7, 30])
@pytest.mark.parametrize("start", [None, 0.1])
def test_golden_ignite_itself(warmup: int, peak: float, start: float | None) -> None:
    """Attached to the start of iterations, as its documentation has it."""
    engine = pytest.importorskip("ignite.engine")
    handlers, optimizer = pytest.importorskip("ignite.handlers"), sgd(peak)
    after = pytest.importorskip("torch.optim.lr_scheduler").LambdaLR(optimizer, lambda t: 1.0)
    scheduler = handlers.create_lr_scheduler_with_warmup(
        after, warmup_start_value=peak * (start or 0.0), warmup_duration=warmup
    )
    used = []

    def update(trainer: Any, batch: Any) -> None:
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    trainer = engine.Engine(update)
    trainer.add_event_handler(engine.Events.ITERATION_STARTED, scheduler)
    trainer.run([0] * (warmup + 5), max_epochs=1)
    assert rates("ignite", warmup, warmup + 5, peak, start) == used


@PEAKS
@pytest.mark.parametrize("warmup", [1, 2, 5, 7, 30])
@pytest.mark.parametrize("name", ["CosineScheduler", "LinearScheduler"])
def test_golden_pytorch_optimizer_itself(name: str, warmup: int, peak: float) -> None:
    scheduler = getattr(pytest.importorskip("pytorch_optimizer"), name)
    theirs = drive(
        lambda o: scheduler(o, t_max=warmup + 200, max_lr=peak, warmup_steps=warmup),
        warmup + 2,
        peak,
    )
    assert rates("kozistr", warmup, warmup + 2, peak) == theirs


def test_golden_timm_itself() -> None:
    timm = pytest.importorskip("timm.scheduler")
    for name, prefix in (("timm", True), ("timm-cosine", False)):
        optimizer = sgd(0.1)
        scheduler = timm.CosineLRScheduler(
            optimizer, 20, warmup_t=7, warmup_prefix=prefix, t_in_epochs=False
        )
        used = []
        for update in range(20):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step_update(update + 1)
        shown = 8 if prefix else 20  # with the prefix, the cosine begins after the peak
        assert rates(name, 7, 20, 0.1)[:shown] == used[:shown]


def test_golden_optax_itself() -> None:
    optax = pytest.importorskip("optax")
    for start in (0.0, 0.1):
        schedule = optax.linear_schedule(0.1 * start, 0.1, 7)
        theirs = [float(schedule(t)) for t in range(12)]  # float32
        assert rates("optax", 7, 12, 0.1, start) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_golden_keras_itself() -> None:
    keras = pytest.importorskip("keras")
    for start in (0.0, 0.1):
        schedule = keras.optimizers.schedules.CosineDecay(
            0.1 * start, 100, warmup_target=0.1, warmup_steps=7
        )
        theirs = [float(schedule(t)) for t in range(8)]  # float32
        assert rates("keras", 7, 8, 0.1, start) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


# What updates 0 .. 7 ran at, W = 7, peak 0.1, on 2026-11-22 with torch 2.13.0: DeepSpeed 0.19.8
# and warmup-scheduler 0.3 built from source, and the scheduler's file of lightning-bolts 0.7.0.
MEASURED = {
    "deepspeed-log": [
        0.0, 0.0, 0.03562071871080222, 0.05645750340535797, 0.07124143742160444,
        0.08270874753469162, 0.09207822211616018, 0.1,
    ],
    "deepspeed-linear": [
        0.0, 0.0, 0.014285714285714285, 0.02857142857142857, 0.04285714285714286,
        0.05714285714285714, 0.07142857142857144, 0.08571428571428572,
    ],
    "gradual-warmup": [
        0.0, 0.014285714285714285, 0.02857142857142857, 0.04285714285714286,
        0.05714285714285714, 0.07142857142857144, 0.08571428571428572, 0.1,
    ],
    "bolts": [
        0.0, 0.016666666666666666, 0.03333333333333333, 0.05, 0.06666666666666667,
        0.08333333333333333, 0.09999999999999999, 0.1,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_golden_measured_bits(name: str) -> None:
    assert rates(name, 7, 8, 0.1) == MEASURED[name]


CASES = list(itertools.product([1, 2, 5, 7, 30], [1.0, 0.1, 3.2]))  # of warmup and peak


@pytest.mark.parametrize("kind", ["log", "linear"])
def test_golden_deepspeed_itself(kind: str) -> None:
    module = pytest.importorskip("deepspeed.runtime.lr_schedules")
    for warmup, peak in CASES:
        options = {"warmup_max_lr": peak, "warmup_num_steps": warmup, "warmup_type": kind}
        theirs = drive(partial(module.WarmupLR, **options), warmup + 4, peak)
        assert rates(f"deepspeed-{kind}", warmup, warmup + 4, peak) == theirs


def test_golden_warmup_scheduler_itself() -> None:
    module = pytest.importorskip("warmup_scheduler")
    for warmup, peak in CASES:
        build = partial(module.GradualWarmupScheduler, multiplier=1, total_epoch=warmup)
        theirs = drive(build, warmup + 4, peak)
        assert rates("gradual-warmup", warmup, warmup + 4, peak) == theirs


@PEAKS
@pytest.mark.parametrize("warmup", [1, 2, 5, 7, 2000])
def test_twin_nanogpt_is_the_formula_of_its_train_py(warmup: int, peak: float) -> None:
    """karpathy/nanoGPT, train.py, get_lr, in its order of arithmetic (a script: no import)."""
    count = warmup + 5
    theirs = [
        peak * (update + 1) / (warmup + 1) if update < warmup else peak
        for update in range(count)
    ]
    assert rates("nanogpt", warmup, count, peak) == theirs


def test_golden_nanogpt_is_the_table_of_its_pull_request() -> None:
    """The rates that github.com/karpathy/nanoGPT/pull/578 lists, W = 2000, peak 6e-4."""
    listed = {0: 3.00e-07, 1: 6.00e-07, 10: 3.30e-06, 100: 3.03e-05, 1000: 3.00e-04, 2000: 6e-4}
    table = rates("nanogpt", 2000, 2001, 6e-4)
    for update, rate in listed.items():
        assert table[update] == pytest.approx(rate, rel=0.005), update
    before = rates("transformers", 2000, 2001, 6e-4)  # which is what it was until then
    assert before[0] == 0 and table[0] > 0
