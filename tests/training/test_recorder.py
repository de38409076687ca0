"""Products with the Hessian as replays: the same numbers, from what one run launched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from probed_trials import TINY
from small_trials import SMALL, ready, small_data, small_spec, with_settings
from test_compiled import on_gpu
from test_probes import Dropping
from test_probes_twins import small_network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from batchcliff.spec import Model
from batchcliff.training import probes as probes_module
from batchcliff.training.epochs import probing_of
from batchcliff.training.prepare import Prepared
from batchcliff.training.probes import Probing
from batchcliff.training.probes_measure import lanczos

Function = Callable[[], None]


class Tape(TorchDispatchMode):
    """A CUDA graph on a CPU: the operations of one run, on the tensors of that run."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replays = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, _tensors(made)))
        return made

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, args, kwargs, places in self.operations:
                found = _tensors(operation(*args, **kwargs))
                for place, value in zip(places, found, strict=True):
                    if place.data_ptr() != value.data_ptr():  # neither in place nor a view
                        place.detach().copy_(value)


def _tensors(made: Any) -> list[Tensor]:
    listed = made if isinstance(made, (tuple, list)) else [made]
    return [tensor for tensor in listed if isinstance(tensor, Tensor)]


def taped(tapes: list[Tape]) -> Callable[[Function], Function]:
    def record(function: Function) -> Function:
        with Tape() as tape:
            function()
        tapes.append(tape)
        return tape.replay

    return record


def test_a_replay_gives_the_same_matrix() -> None:
    loss, parameters = small_network()
    start = torch.linspace(-1, 1, sum(p.numel() for p in parameters)).double()
    tapes: list[Tape] = []
    plain = lanczos(loss, parameters, start, 8)
    replayed = lanczos(loss, parameters, start, 8, taped(tapes))
    torch.testing.assert_close(replayed, plain, rtol=1e-9, atol=1e-12)
    (tape,) = tapes
    assert tape.replays == 7 and plain[0].unique().numel() == 8
    lanczos(loss, parameters, start, 2, taped(tapes))  # a recording costs what it would save
    weights = torch.ones(3, requires_grad=True)
    lanczos(lambda: weights.sum(), [weights], torch.ones(3), 3, taped(tapes))
    assert len(tapes) == 1


def probing(
    own: bool = False, device: str = "cpu", recorder: Any = None
) -> tuple[Prepared, Probing]:
    settings, build = TINY, None
    if own:
        model = Model(name="own", widths=())
        settings, build = with_settings(SMALL, probes=("sharpness",), model=model), Dropping
    spec, resident = small_spec(settings=settings), small_data(train=80)
    if device == "cuda":
        resident = on_gpu(resident)
    prepared = ready(spec, resident, build=build) if own else ready(spec, resident)
    prepared.restart([spec], torch.full((24, 1), 0.1))
    found = probing_of(prepared, [spec], resident)
    assert found is not None
    if device == "cpu":
        assert found.recorder is None, "nothing is captured on a CPU"
        found.recorder = recorder
    return prepared, found


class Pretended:
    """A recorder on a machine without a GPU."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.inside = False

    @contextlib.contextmanager
    def on_its_stream(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def __call__(self, function: Function) -> Function:
        assert self.inside
        return taped(self.tapes)(function)


def test_a_trials_sharpness_is_replayed() -> None:
    recorder = Pretended()
    plain = probing()[1].curvature()
    replayed = probing(recorder=recorder)[1].curvature()
    torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-6)
    assert [tape.replays for tape in recorder.tapes] == [plain.shape[1] - 1]
    assert not recorder.inside


@pytest.mark.parametrize("reason", ["", "not captured (a pass waits for the device)"])
def test_a_network_of_ones_own_is_replayed_if_nothing_waits(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def uncapturable(*arguments: Any) -> str:
        asked.append(arguments)
        return reason

    monkeypatch.setattr(probes_module, "uncapturable", uncapturable)
    recorder = Pretended()
    probing(own=True, recorder=recorder)[1].curvature()
    assert len(asked) == 1 and len(recorder.tapes) == (not reason)
    probing(recorder=recorder)[1].curvature()
    assert len(asked) == 1, "the tool's own networks are known"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("own", [False, True])
def test_on_a_gpu_the_same_numbers(own: bool) -> None:
    """At two places, between which the weights move; both graphs share their memory."""
    prepared, found = probing(own, "cuda")
    recorder = found.recorder
    assert recorder is not None
    for number in (1, 2):
        found.recorder = recorder
        replayed = found.curvature()
        found.recorder = None
        assert torch.equal(found.curvature(), replayed) and replayed.isfinite().all()
        assert len(recorder.graphs) == number
        with torch.no_grad():
            for weight in prepared.loop.parameters:
                weight.mul_(1.1)
