"""Rewinding, and on a GPU: compiled and captured updates against the plain ones."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from small_trials import (
    SMALL,
    ready,
    small_data,
    small_spec,
    with_settings,
)
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.training.compiled import Recorder, captured, compiles, rewound
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.prepare import Prepared


def test_rewound_restores_in_place() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    count = torch.zeros((), dtype=torch.int64)
    before = [weight.detach().clone(), count.clone()]
    addresses = [weight.data_ptr(), count.data_ptr()]
    with rewound([weight, count]):
        with torch.no_grad():
            weight.mul_(-1)
        count += 5
        assert not torch.equal(weight, before[0])
        assert int(count) == 5
    assert torch.equal(weight, before[0])
    assert torch.equal(count, before[1])
    assert [weight.data_ptr(), count.data_ptr()] == addresses
    assert weight.requires_grad


def test_rewound_restores_after_an_error() -> None:
    value = torch.ones(3)
    with pytest.raises(RuntimeError, match="inside"), rewound([value]):
        value.zero_()
        raise RuntimeError("inside")
    assert value.tolist() == [1, 1, 1]


def test_on_a_cpu_the_function_is_itself() -> None:
    calls = []

    def function() -> None:
        calls.append(1)

    cpu = torch.device("cpu")
    assert not compiles(cpu)
    assert captured(function, [], cpu) is function
    assert calls == []
    assert compiles(torch.device("cuda"))


def test_an_updates_tensors_are_all_that_it_changes() -> None:
    """What `captured` rewinds after warming up: with it, an update leaves no trace."""
    spec, resident = small_spec(), small_data()
    prepared = ready(spec, resident)
    prepared.restart([spec], torch.full((12, 1), 0.1))
    prepared.loop.load_block(*epoch_tensors([spec], resident, 0, 4))
    everything = snapshot(prepared)
    with rewound(prepared.loop.tensors()):
        prepared.advance()
        changed = [
            k for k, v in snapshot(prepared).items() if not torch.equal(v, everything[k])
        ]
        expected = {"head.weight", "optimizer 0", "loop.losses_US", "loop.row"}
        assert expected <= set(changed)
    assert all(torch.equal(v, everything[k]) for k, v in snapshot(prepared).items())
    prepared.model.eval()
    with rewound(prepared.evaluation.tensors()):
        prepared.evaluate()
        assert int(prepared.evaluation.count) == 1
    assert all(torch.equal(v, everything[k]) for k, v in snapshot(prepared).items())


def snapshot(prepared: Prepared) -> dict[str, Tensor]:
    """Every tensor of the model, the loop and the evaluation."""
    found: dict[str, Tensor] = dict(prepared.model.state_dict())
    for part, owner in (("loop", prepared.loop), ("evaluation", prepared.evaluation)):
        for name, value in vars(owner).items():
            if isinstance(value, Tensor):
                found[f"{part}.{name}"] = value
            elif name == "parameters":
                found |= {f"{part}.{name} {i}": v for i, v in enumerate(value)}
            elif name == "rule":
                found |= {f"optimizer {i}": v for i, v in enumerate(value.tensors())}
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def on_gpu(resident: Resident) -> Resident:
    tensors = (
        resident.train_images,
        resident.train_labels,
        resident.test_images,
        resident.test_labels,
    )
    return Resident(*(t.cuda() for t in tensors), resident.scale)


GPU_CASES: dict[str, dict[str, Any]] = {
    "article": {
        "batch_norm__group": "B/8",
        "batch_norm__running": "per-group",
        "loss": "clipped-softmax",
        "augmentation": "as-written",
    },
    "global": {"augmentation": "as-coded", "optimizer__form": "torch"},
    "mixed": {
        "augmentation": "as-written",
        "mixup": 0.4,
        "cutout": 3,
        "random_erasing": 0.5,
        "label_smoothing": 0.1,
        "gradient_norms": True,
    },
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", GPU_CASES)
def test_compiled_and_captured_equals_plain(name: str) -> None:
    """Five updates, an evaluation, float32: 1e-3 of the CPU's; warming up left no trace."""
    settings = with_settings(SMALL, model__widths=((8,), (16,)), **GPU_CASES[name])
    resident = small_data(train=80, shape=(8, 8, 3))
    # Seed 3: no two values that max pooling chooses between are within rounding of each other.
    spec = small_spec(settings=settings, batch_size=16, budget="5up", seed=3)
    rates = torch.tensor([0.02, 0.05, 0.1, 0.01, 0.03])[:, None]
    runs: list[dict[str, Tensor]] = []
    for place in (resident, on_gpu(resident)):
        prepared = ready(spec, place)
        assert int(prepared.loop.count) == int(prepared.evaluation.count) == 0
        assert not prepared.loop.losses_US.any()
        assert not any(v.any() for v in prepared.loop.rule.tensors())
        prepared.restart([spec], rates)
        prepared.loop.load_block(*epoch_tensors([spec], place, 0, 5))
        prepared.model.train()
        for _ in range(5):
            prepared.advance()
        prepared.model.eval()
        prepared.evaluate()
        runs.append(snapshot(prepared))
    for key, value in runs[0].items():
        torch.testing.assert_close(runs[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


class Doubles:
    """What a graph is made of, as a method: nobody else has the object."""

    def __init__(self, value: Tensor) -> None:
        self.value, self.factor = value, torch.full_like(value, 2.0)

    def run(self) -> None:
        self.value.mul_(self.factor)


@pytest.fixture
def pretended_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda on a machine without a GPU."""

    @contextlib.contextmanager
    def within(*_: object, **__: object) -> Iterator[None]:
        yield

    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, within)
    for name in ("Stream", "current_stream", "synchronize", "CUDAGraph", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())


@pytest.mark.usefixtures("pretended_graphs")
def test_what_a_graph_runs_is_kept_as_long_as_the_graph() -> None:
    value = torch.ones(3)
    doubles = Doubles(value)
    alive = weakref.ref(doubles)
    replay = captured(doubles.run, [value], torch.device("cuda"))
    graph = torch.cuda.CUDAGraph.return_value  # type: ignore[attr-defined]
    del doubles
    gc.collect()
    assert alive() is not None and not graph.replay.called
    replay()
    graph.replay.assert_called_once_with()
    del replay
    gc.collect()
    assert alive() is None, "the control: nobody else has it"


@pytest.mark.usefixtures("pretended_graphs")
def test_a_recording_ends_however_the_function_does() -> None:
    graph = torch.cuda.CUDAGraph.return_value  # type: ignore[attr-defined]
    recorder = Recorder(torch.device("cuda"))

    def does(error: Exception | None) -> Callable[[], None]:
        def function() -> None:
            if error is not None:
                raise error

        return function

    with recorder.on_its_stream():
        assert recorder(does(None)) is graph.replay
        full = does(torch.OutOfMemoryError("none left"))
        assert recorder(full) is full
        with pytest.raises(ValueError, match="another"):
            recorder(does(ValueError("another")))
        graph.capture_end.side_effect = RuntimeError("the capture was broken")
        with pytest.raises(ValueError, match="another"):
            recorder(does(ValueError("another")))
    assert graph.capture_begin.call_count == graph.capture_end.call_count == 4
    assert recorder.graphs == [graph]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_finds_the_tensors_of_what_it_runs() -> None:
    """Whatever is put where memory was free since."""
    value = torch.full((1 << 20,), 3.0, device="cuda")
    doubles = Doubles(value)
    alive = weakref.ref(doubles)
    replay = captured(doubles.run, [value], value.device)
    del doubles
    gc.collect()
    assert alive() is not None
    others = [torch.zeros_like(value) for _ in range(8)]
    replay()
    assert value.unique().tolist() == [6.0], "and warming up left no trace"
    del replay, others
    gc.collect()
    assert alive() is None
