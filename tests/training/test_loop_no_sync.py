"""Inside an epoch the host never asks the device for a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_trials import SMALL, ready, small_data, small_spec, with_settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from batchcliff.data.resident import Resident
from batchcliff.spec import Settings
from batchcliff.training import epochs
from batchcliff.training.epochs import Follower, epoch_tensors, train
from batchcliff.training.prepare import Prepared

# Operators whose result or shape the host has to wait for.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique2",
    "aten::_unique2",
    "aten::equal",
    "aten::repeat_interleave.Tensor",
}


class NoWaiting(TorchDispatchMode):
    """Raises where an operator would wait for the device, copies between devices included."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        overload = f"{name}.{func._schema.overload_name}"
        if name in WAITING or overload in WAITING:
            raise AssertionError(f"{name} waits for the device")
        if name.startswith("aten::index") and masks(args[1]):
            raise AssertionError(f"{name} by a mask waits for the device")
        result = func(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_") and isinstance(args[-1], Tensor):
            assert result.device == args[-1].device, f"{name} crosses devices"
        return result


def masks(argument: Any) -> bool:
    """Whether it holds a tensor of booleans: how many are true is not known to the host."""
    if isinstance(argument, (list, tuple)):
        return any(masks(a) for a in argument)
    return isinstance(argument, Tensor) and argument.dtype in (torch.bool, torch.uint8)


SETTINGS = {
    "plain": SMALL,
    "article": with_settings(
        SMALL,
        batch_norm__group="B/5",
        batch_norm__running="per-group",
        loss="clipped-softmax",
        augmentation="as-written",
        precision="bf16",
    ),
    "coded": with_settings(
        SMALL,
        augmentation="as-coded",
        optimizer__form="torch",
        optimizer__nesterov=True,
        optimizer__weight_decay=1e-3,
    ),
    "mixed": with_settings(
        SMALL,
        augmentation="as-written",
        mixup=0.4,
        cutout=3,
        random_erasing=0.5,
        label_smoothing=0.1,
        gradient_norms=True,
    ),
}


def at_work(settings: Settings, stack: int = 1) -> tuple[Prepared, Resident]:
    """A loop with its first epoch in place."""
    spec, resident = small_spec(settings=settings), small_data()
    prepared = ready(spec, resident, stack)
    prepared.restart([spec] * stack, torch.full((12, stack), 0.01))
    prepared.loop.load_block(*epoch_tensors([spec] * stack, resident, 0, 4))
    return prepared, resident


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_updates_and_evaluations_wait_for_nothing(name: str, stack: int) -> None:
    prepared, _ = at_work(SETTINGS[name], stack)
    with NoWaiting():
        for _ in range(4):
            prepared.advance()
        prepared.model.eval()
        prepared.evaluate()
    assert int(prepared.loop.count) == 4
    assert int(prepared.evaluation.count) == 1


@pytest.mark.parametrize(
    "waits",
    [
        lambda loss: loss.sum().item(),
        lambda loss: bool(loss.isnan().any()),
        lambda loss: torch.nonzero(loss),
        lambda loss: loss[loss > 0],
        lambda loss: float(loss.max()),
    ],
    ids=["item", "bool", "nonzero", "mask", "float"],
)
def test_it_would_be_noticed(waits: Callable[[Tensor], object]) -> None:
    """The negative control: a loss function that looks at its value."""
    prepared, _ = at_work(SMALL)
    losses = prepared.loop.losses

    def looking(index_BS: Tensor, draws_BSk: Tensor) -> Tensor:
        found = losses(index_BS, draws_BSk)
        waits(found.detach())
        return found

    prepared.loop.loss_function = looking
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        prepared.advance()


def test_addresses_stay() -> None:
    """A captured graph reads and writes where everything was when it was captured."""
    prepared, _ = at_work(SMALL)
    loop = prepared.loop
    tensors = [*loop.tensors(), loop.index_UBS, loop.draws_UBSk, loop.rates_US]
    before = [t.data_ptr() for t in tensors]
    for _ in range(4):
        prepared.advance()
    spec, resident = small_spec(seed=3), small_data()
    prepared.restart([spec], torch.zeros(12, 1))
    prepared.loop.load_block(*epoch_tensors([spec], resident, 4, 8))
    again = [*loop.tensors(), loop.index_UBS, loop.draws_UBSk, loop.rates_US]
    assert [t.data_ptr() for t in again] == before


def test_the_host_waits_for_the_epoch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what the host asks for: an epoch is queued before the last is awaited."""
    spec, resident = small_spec(), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.01))
    said: list[str] = []

    class Following(Follower):
        def queue(self, first: int, last: int) -> None:
            said.append(f"queue {len(self.events)}")
            super().queue(first, last)

        def ready(self, epoch: int) -> None:
            said.append(f"wait {epoch}")
            super().ready(epoch)

    monkeypatch.setattr(epochs, "Follower", Following)
    losses = train(prepared, [spec], resident, None)
    assert said == ["queue 0", "queue 1", "wait 0", "queue 2", "wait 1", "wait 2"]
    assert torch.equal(losses, prepared.loop.losses_US)


def test_what_the_host_waits_is_told_as_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every wait; epochs that were there already, as those of a CPU, are no wait."""
    now = [100.0]

    class Event:
        def __init__(self, takes: float) -> None:
            self.takes = takes

        def synchronize(self) -> None:
            now[0] += self.takes

    monkeypatch.setattr(epochs.time, "perf_counter", lambda: now[0])
    told: list[float] = []
    follower = Follower(torch.zeros(6, 1), updates=2, epochs=1, looks=told.append)
    follower.queue(2, 4)
    assert follower.events == [None, None]
    follower.events += [Event(2.0), Event(0.0), Event(0.5)]
    for epoch in range(5):
        now[0] += 10.0  # what the host does meanwhile counts nowhere
        follower.ready(epoch)
    assert told == [2.0, 2.0, 2.5]
    assert follower.waited == 2.5


def test_a_run_tells_whom_it_is_given() -> None:
    """The turn of a run; on a CPU, where nothing is waited for, it hears nothing."""
    spec, resident = small_spec(), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.01))
    told: list[float] = []

    class Events(Follower):
        def ready(self, epoch: int) -> None:
            self.looks(float(epoch))
            super().ready(epoch)

    train(prepared, [spec], resident, None, on_wait=told.append)
    assert told == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "Follower", Events)
        prepared.restart([spec], torch.full((12, 1), 0.01))
        train(prepared, [spec], resident, None, on_wait=told.append)
    assert told == [0.0, 1.0, 2.0]
