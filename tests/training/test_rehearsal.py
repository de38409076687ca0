"""A rehearsal runs the network that a trial will, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from batchcliff.kernels import CHECKS
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.optimizers import RULES
from batchcliff.spec import BatchNorm, Model, Optimizer, Settings
from batchcliff.training import rehearsal
from batchcliff.training.rehearsal import LAYERS, PARTS, rehearse, warm_up

CPU = torch.device("cpu")
SMALL = Settings(model=Model(name="conv-net", widths=((8,), (16,))))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, tuple[int, ...]]]:
    """(in training, shape of the images) of every pass through a network that is built."""
    seen: list[tuple[bool, tuple[int, ...]]] = []
    build = rehearsal.build

    def built(*args: Any, **kwargs: Any) -> torch.nn.Module:
        model = build(*args, **kwargs)
        model.register_forward_pre_hook(
            lambda module, inputs: seen.append((module.training, tuple(inputs[0].shape)))
        )
        return model

    monkeypatch.setattr(rehearsal, "build", built)
    return seen


@pytest.mark.parametrize(
    ("group", "running"),
    [("B/8", "per-group"), ("B/8", "mean"), ("global", "mean"), (32, "mean")],
)
def test_one_training_pass_and_one_evaluation(
    passes: list[tuple[bool, tuple[int, ...]]], group: str | int, running: str
) -> None:
    norm = BatchNorm(group=group, running=running)
    rehearse(dataclasses.replace(SMALL, batch_norm=norm), CPU, batch=64)
    assert passes == [(True, (64, 3, 32, 32)), (False, (64, 3, 32, 32))]


def test_random_numbers_and_settings_of_torch_are_left_alone(
    passes: list[tuple[bool, tuple[int, ...]]],
) -> None:
    before = torch.get_rng_state(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    rehearse(SMALL, CPU, batch=16)
    after = torch.get_rng_state(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    assert passes and torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_network_of_the_users_own_is_not_rehearsed(
    passes: list[tuple[bool, tuple[int, ...]]],
) -> None:
    own = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, name="own"))
    rehearse(own, CPU)
    assert not passes


# --- each part alone


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has this device be one whose kernels pass their checks, and that compiles; what it
    checked and compiled, which then runs as it is."""
    made: list[str] = []

    def fused(*_: Any, checks: Sequence[str]) -> None:
        made.extend(name for name in CHECKS if name in checks)

    def compile_(function: Any, **options: Any) -> Any:
        assert options == {"dynamic": False}
        made.append(function.__qualname__)
        return function

    monkeypatch.setattr(rehearsal, "fused_batch_norm", fused)
    monkeypatch.setattr(rehearsal, "compiles", lambda _: True)
    monkeypatch.setattr(torch, "compile", compile_)
    return made


DONE = {name: [True] for name in LAYERS} | {"evaluation": [False]}  # the passes: in training?


@pytest.mark.parametrize("part", PARTS)
def test_a_part_does_what_its_name_says_and_nothing_else(
    passes: list[tuple[bool, tuple[int, ...]]], compiling: list[str], part: str
) -> None:
    rehearse(SMALL, CPU, [part], batch=16)
    assert [training for training, _ in passes] == DONE.get(part, [])
    compiled = ["Rule.update"] if part == "optimizer" else []
    assert compiling == ([part] if part in CHECKS else compiled)


def test_all_parts_are_each_of_them_once(
    passes: list[tuple[bool, tuple[int, ...]]], compiling: list[str]
) -> None:
    rehearse(SMALL, CPU, batch=16)
    assert compiling == [*CHECKS, "Rule.update"]
    assert [training for training, _ in passes] == [True, False]
    assert set(PARTS) == {*CHECKS, "optimizer", *DONE}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_each_layer_is_built_by_one_third_and_is_again_as_it_was(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The kernels of a layer are used in one of the three passes, those of others are not."""
    chosen = (True, False, True)
    models: list[Any] = []

    def fused(model: Any, *_: Any, **__: Any) -> None:
        for layer in model.relu_norms():
            layer.fused, layer.convolves, layer.sweeps = chosen
        models.append(model)
        model.register_forward_pre_hook(lambda *_: used.append(flags(model)))

    def flags(model: Any) -> list[tuple[bool, bool, bool]]:
        return [(n.fused, n.convolves, n.sweeps) for n in model.relu_norms()]

    used: list[list[tuple[bool, bool, bool]]] = []
    monkeypatch.setattr(rehearsal, "fused_batch_norm", fused)
    monkeypatch.setattr(GhostBatchNorm2d, "is_served", lambda *_: False)  # none runs here
    model = Model(name="conv-net", widths=((8,) * count,))
    for name in LAYERS:
        rehearse(dataclasses.replace(SMALL, model=model), CPU, [name], batch=8)
    by_layer = list(zip(*used, strict=True))
    assert all(set(seen) <= {chosen, (False,) * 3} for seen in by_layer)
    assert [seen.count(chosen) for seen in by_layer] == [1] * count
    assert [flags(model) for model in models] == [[chosen] * count] * len(LAYERS)


@pytest.mark.parametrize("name", RULES)
def test_an_optimizer_is_rehearsed_with_gradients_that_lie_as_its_parameters(
    compiling: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every rule takes them as they are; gradients of zero and a rate of zero."""
    given: list[list[Tensor]] = []
    compile_: Any = torch.compile

    def spied(update: Any, **options: Any) -> Any:
        def run(*arguments: Any) -> None:
            given.extend(arguments[:2])
            compile_(update, **options)(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", spied)
    settings = dataclasses.replace(SMALL, optimizer=Optimizer(name=name))
    rehearse(settings, CPU, ["optimizer"], batch=16)
    parameters, gradients = given
    assert [p.stride() for p in parameters] == [g.stride() for g in gradients]
    assert not any(gradient.any() for gradient in gradients)
    assert all(parameter.isfinite().all() for parameter in parameters)


def test_where_nothing_is_compiled_the_optimizer_is_not(
    monkeypatch: pytest.MonkeyPatch, passes: list[tuple[bool, tuple[int, ...]]]
) -> None:
    def compile_(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled on a CPU")

    monkeypatch.setattr(torch, "compile", compile_)
    rehearse(SMALL, CPU, ["optimizer"], batch=16)
    assert not passes


# --- who makes which


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """(device, parts) of every rehearsal, none of which is made; "the compiler" as a part."""
    made: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        rehearsal, "rehearse", lambda _, device, parts: made.append((str(device), tuple(parts)))
    )
    monkeypatch.setattr(
        rehearsal, "begin_compiling", lambda at: made.append((str(at), ("the compiler",)))
    )
    return made


@pytest.mark.parametrize("of", range(1, len(PARTS) + 1))
def test_several_processes_make_every_part_once(
    asked: list[tuple[str, tuple[str, ...]]], of: int
) -> None:
    for part in range(of):
        warm_up("cuda", SMALL, part, of)
    assert {device for device, _ in asked} == {"cuda"} and all(parts for _, parts in asked)
    assert sorted(name for _, parts in asked for name in parts) == sorted(PARTS)


@pytest.mark.parametrize("gpus", [1, 2])
def test_who_trains_checks_kernels_itself_where_its_gpu_is_known(
    asked: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    warm_up("cuda", SMALL, 0, 0)
    mine = [("cuda:0", ("the compiler",)), ("cuda:0", CHECKS)]
    assert asked == (mine if gpus == 1 else [])
    warm_up("cpu", SMALL, 0, 0)
    assert len(asked) == (2 if gpus == 1 else 0)
