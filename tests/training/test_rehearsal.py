"""A rehearsal runs the network that a trial will, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from batchcliff.spec import BatchNorm, Model, Settings
from batchcliff.training import rehearsal
from batchcliff.training.rehearsal import rehearse

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
