"""One contract over all adapters, and torch's scheduler through every order of resuming."""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import sys
from typing import Any

import pytest

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules import Clock, Warmup, factors
from batchcliff.schedules.curves import cosine_decay
from batchcliff.spec import Decay

CLOCK = Clock(100, 10).with_budget("3ep")
DECAY = Decay(at=("60%", "90%"))
WARMUP = Warmup(duration="0.5ep", shape="cosine", start=0.1)
TABLE = factors(CLOCK, WARMUP, DECAY)


def warmup_lr(optimizer: Any, **more: Any) -> Any:
    adapter = pytest.importorskip("torch") and importlib.import_module(
        "batchcliff.schedules.adapters.torch"
    )
    return adapter.WarmupLR(
        optimizer, "0.5ep", shape="cosine", start=0.1, clock=CLOCK, decay=DECAY, **more
    )


def sgd(*rates: float) -> Any:
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def drive(optimizer: Any, scheduler: Any, count: int) -> list[list[float]]:
    used = []
    for _ in range(count):
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return used


# Each takes (factors, peak, count) and returns the rates of updates 0 .. count-1.


def through_torch(table: list[float], peak: float, count: int) -> list[float]:
    optimizer = sgd(peak)
    return [lr for (lr,) in drive(optimizer, warmup_lr(optimizer), count)]


def through_lightning(table: list[float], peak: float, count: int) -> list[float]:
    lightning = importlib.import_module("batchcliff.schedules.adapters.lightning")
    optimizer = sgd(peak)
    config = lightning.optimizer_config(optimizer, warmup_lr(optimizer))
    assert config["lr_scheduler"]["interval"] == "step"  # "epoch" is Lightning's default
    assert config["lr_scheduler"]["frequency"] == 1
    scheduler = config["lr_scheduler"]["scheduler"]
    return [lr for (lr,) in drive(config["optimizer"], scheduler, count)]


def through_optax(table: list[float], peak: float, count: int) -> list[float]:
    pytest.importorskip("optax")
    optax = importlib.import_module("batchcliff.schedules.adapters.optax")
    schedule = optax.schedule(table, peak)
    return [float(schedule(t)) for t in range(count)]


def through_keras(table: list[float], peak: float, count: int) -> list[float]:
    pytest.importorskip("keras")
    keras = importlib.import_module("batchcliff.schedules.adapters.keras")
    schedule = keras.schedule(table, peak)
    again = type(schedule)(**schedule.get_config())
    assert float(again(3)) == float(schedule(3))
    return [float(schedule(t)) for t in range(count)]


@pytest.mark.parametrize(
    ("through", "tolerance"),
    [(through_torch, 0), (through_lightning, 0), (through_optax, 1e-6), (through_keras, 1e-6)],
)
def test_contract_every_update_runs_at_peak_times_factor(
    through: Any, tolerance: float
) -> None:
    expected = [3.2 * factor for factor in [*TABLE, *[TABLE[-1]] * 4]]  # the last one holds
    assert through(TABLE, 3.2, len(expected)) == pytest.approx(expected, rel=tolerance, abs=0)


def keras_model(module: Any) -> Any:
    keras = importlib.import_module("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(module.SGD(learning_rate=123.0, momentum=0.9), loss="mse")
    return model


def test_keras_callback_sets_every_update_and_resumes() -> None:
    """The rate that each update used; then a fresh model that was given the old one's state."""
    keras, np = pytest.importorskip("keras"), pytest.importorskip("numpy")
    adapter = importlib.import_module("batchcliff.schedules.adapters.keras")
    used: list[float] = []

    class Sgd(keras.optimizers.SGD):  # type: ignore[misc]
        def apply(self, *arguments: Any, **more: Any) -> Any:
            used.append(float(self.learning_rate))
            return super().apply(*arguments, **more)

    optimizers = type("", (), {"SGD": Sgd})
    model = keras_model(optimizers)
    model.run_eagerly = True
    examples = np.zeros((35, 2)), np.zeros((35, 1))
    call = {"batch_size": 7, "verbose": 0, "callbacks": [adapter.callback(TABLE, 3.2)]}
    model.fit(*examples, epochs=2, **call)
    again = keras_model(optimizers)
    again.run_eagerly = True
    again.optimizer.build(again.trainable_variables)
    for variable, saved in zip(
        again.optimizer.variables, model.optimizer.variables, strict=True
    ):
        variable.assign(saved)
    again.optimizer.learning_rate = 123.0  # whatever was loaded: the rate is never read
    again.fit(*examples, epochs=5, **call)
    expected = [3.2 * factor for factor in [*TABLE, *[TABLE[-1]] * 5]]
    assert used == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_transformers_factories(name: str) -> None:
    pytest.importorskip("torch")
    module = importlib.import_module("batchcliff.schedules.adapters.transformers")
    optimizer = sgd(0.5)
    build = getattr(module, f"get_{name}_schedule_with_warmup")
    used = [lr for (lr,) in drive(optimizer, build(optimizer, 4, 10), 10)]
    assert used[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert min(used) > 0  # neither the first nor the last update is lost
    end = {"linear": 0.5 / 6, "cosine": 0.5 * cosine_decay(5, 6), "constant": 0.5}[name]
    assert used[-1] == pytest.approx(end)
    with pytest.raises(Infeasible, match="longer than the run"):
        build(sgd(0.5), 11, 10)


@pytest.mark.parametrize(
    ("module", "missing"), [("optax", "jax.numpy"), ("keras", "keras"), ("torch", "torch")]
)
def test_a_missing_framework_is_said(
    module: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"batchcliff.schedules.adapters.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=r"is not installed: run pip install"):
        importlib.import_module(name).schedule([1.0], 0.1)


def test_an_empty_table_is_refused() -> None:
    for module in ("optax", "keras"):
        adapter = importlib.import_module(f"batchcliff.schedules.adapters.{module}")
        with pytest.raises(UsageError, match="no update"):
            adapter.schedule([], 0.1)
    with pytest.raises(UsageError, match="no update"):
        importlib.import_module("batchcliff.schedules.adapters.keras").callback([], 0.1)


# Resuming. A run of 12 updates is stopped after 5 and goes on; two groups of unlike rates.

PEAKS = (0.4, 0.01)
FULL = [[peak * factor for peak in PEAKS] for factor in TABLE[:12]]


def stopped(done: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint holds after `done` updates, through torch's own safe file format."""
    torch = pytest.importorskip("torch")
    optimizer = sgd(*PEAKS)
    scheduler = warmup_lr(optimizer)
    assert drive(optimizer, scheduler, done) == FULL[:done]
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), scheduler.state_dict()), file)
    file.seek(0)
    saved: tuple[dict[str, Any], dict[str, Any]] = torch.load(file, weights_only=True)
    return saved


ORDERS = [
    order
    for order in itertools.permutations(["load optimizer", "build", "load scheduler"])
    if order.index("build") < order.index("load scheduler")
]


@pytest.mark.parametrize("done", [1, 3, 5, 11])
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
@pytest.mark.parametrize("rates", [PEAKS, (9.0, 9.0)], ids=["same peaks", "other peaks"])
def test_resumes_in_any_order(
    order: tuple[str, ...], done: int, rates: tuple[float, float]
) -> None:
    of_optimizer, of_scheduler = stopped(done)
    optimizer = sgd(*rates)
    scheduler = None
    for act in order:
        if act == "build":
            scheduler = warmup_lr(optimizer)
        elif act == "load optimizer":
            optimizer.load_state_dict(copy.deepcopy(of_optimizer))
        else:
            scheduler.load_state_dict(copy.deepcopy(of_scheduler))
    assert scheduler.get_last_lr() == FULL[done]
    assert drive(optimizer, scheduler, 12 - done) == FULL[done:]


@pytest.mark.parametrize("done", [1, 5])
def test_resumes_without_the_schedulers_state(done: int) -> None:
    """From the optimizer's state and the number of updates done, as torch's `last_epoch`."""
    of_optimizer, _ = stopped(done)
    optimizer = sgd(*PEAKS)
    optimizer.load_state_dict(of_optimizer)
    scheduler = warmup_lr(optimizer, last_epoch=done - 1)
    assert scheduler.last_epoch == done
    assert drive(optimizer, scheduler, 12 - done) == FULL[done:]


def test_resumes_where_only_the_schedulers_state_was_kept() -> None:
    _, of_scheduler = stopped(5)
    optimizer = sgd(*PEAKS)
    scheduler = warmup_lr(optimizer)
    scheduler.load_state_dict(of_scheduler)
    assert drive(optimizer, scheduler, 7) == FULL[5:]


def test_the_rate_in_the_optimizer_is_never_read() -> None:
    optimizer = sgd(*PEAKS)
    scheduler = warmup_lr(optimizer)
    drive(optimizer, scheduler, 3)
    for group in optimizer.param_groups:
        group["lr"] = 123.0
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == FULL[4]
    assert scheduler.get_last_lr() == scheduler._get_closed_form_lr() == FULL[4]


def test_a_rate_in_a_tensor_stays_in_its_tensor() -> None:
    """As CUDA graphs and `capturable` optimizers need: the address must not change."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.Adam(
        [torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5, dtype=torch.float64)
    )
    held = optimizer.param_groups[0]["lr"]
    scheduler = warmup_lr(optimizer)
    for factor in TABLE[:12]:
        assert optimizer.param_groups[0]["lr"] is held
        assert held.item() == 0.5 * factor
        optimizer.step()
        scheduler.step()
    saved = copy.deepcopy(scheduler.state_dict())
    drive(optimizer, scheduler, 3)
    scheduler.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == 0.5 * TABLE[12]


def test_works_inside_torchs_own_combinations() -> None:
    schedulers = pytest.importorskip("torch.optim.lr_scheduler")
    adapter = importlib.import_module("batchcliff.schedules.adapters.torch")
    optimizer = sgd(0.5)
    combined = schedulers.SequentialLR(
        optimizer,
        [adapter.WarmupLR(optimizer, 4), schedulers.ConstantLR(optimizer, 0.5, 99)],
        milestones=[6],
    )
    used = [lr for (lr,) in drive(optimizer, combined, 8)]
    assert used == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_without_a_clock_updates_are_enough() -> None:
    pytest.importorskip("torch")
    adapter = importlib.import_module("batchcliff.schedules.adapters.torch")
    for warmup, expected in ((4, [0.125, 0.25, 0.375, 0.5, 0.5]), (0, [0.5] * 5)):
        optimizer = sgd(0.5)
        scheduler = adapter.WarmupLR(optimizer, warmup)
        assert [lr for (lr,) in drive(optimizer, scheduler, 5)] == expected
    epochs = adapter.WarmupLR(sgd(0.5), "2ep", stepping="epoch", clock=Clock(10, 5))
    assert [epochs.factor(t) for t in range(6)] == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(UsageError, match="a warmup of '5ep' needs the length of an epoch"):
        adapter.WarmupLR(sgd(0.5), "5ep")
    with pytest.raises(UsageError, match="a decay needs the length of an epoch"):
        adapter.WarmupLR(sgd(0.5), 5, decay=cosine_decay)
    with pytest.raises(UsageError, match="with_budget"):
        adapter.WarmupLR(sgd(0.5), 5, clock=Clock(10, 5), decay=cosine_decay)
    with pytest.raises(Infeasible, match="longer than the run"):
        adapter.WarmupLR(sgd(0.5), 500, clock=CLOCK)
