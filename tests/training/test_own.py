"""A network of the user's own: tried before any trial, with words that help."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchcliff.errors import NoEffect, UsageError
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.training.own import build_own, check_own

SHAPE = (8, 8, 3)


def convolutional(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[2], 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes),
    )  # fmt: skip


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


MAPS = (
    "--workload: the network maps images [4, 3, 8, 8] to {}; [4, 5] is needed: one logit for "
    "each of the 5 classes"
)
CASES: dict[str, tuple[Any, str]] = {
    "too many outputs": (
        lambda shape, classes: convolutional(shape, classes + 1),
        MAPS.format("[4, 6]"),
    ),
    "not flat": (
        lambda shape, classes: nn.Conv2d(3, classes, 3),
        MAPS.format("[4, 5, 6, 6]"),
    ),
    "no tensor": (
        lambda shape, classes: Pair(),
        MAPS.format("tuple"),
    ),
    "no module": (
        lambda shape, classes: 5,
        "--workload: build returned int, not a torch.nn.Module",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(case: str) -> None:
    build, message = CASES[case]
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_own(build, SHAPE, 5, ["global"])


def test_a_function_that_fails_is_quoted_with_its_line() -> None:
    def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
        raise ValueError(f"{shape[0]} rows and {classes} classes?")

    message = (
        r"build\(\(8, 8, 3\), 5\) fails: ValueError: 8 rows and 5 classes\? \(test_own.py:\d+\)"
    )
    with pytest.raises(UsageError, match=message):
        check_own(build, SHAPE, 5, ["global"])


def test_the_networks_own_words() -> None:
    def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))

    with pytest.raises(UsageError, match=r"fails on images \[4, 3, 8, 8\]: RuntimeError: .*7"):
        check_own(build, SHAPE, 5, ["global"])


def test_ghost_batch_norm_reaches_it() -> None:
    check_own(convolutional, SHAPE, 5, ["global", 2])
    assert isinstance(build_own(convolutional, SHAPE, 5, "global")[1], nn.BatchNorm2d)  # type: ignore[index]
    ghost = build_own(convolutional, SHAPE, 5, 2)
    layers = [m for m in ghost.modules() if isinstance(m, GhostBatchNorm2d)]
    assert [layer.group for layer in layers] == [2]
    with pytest.raises(NoEffect, match="ghost-batch-norm: the network has no BatchNorm2d"):
        check_own(lambda s, k: nn.Sequential(nn.Flatten(), nn.Linear(192, k)), SHAPE, 5, [32])
    assert torch.is_grad_enabled()


def test_batch_norm_that_no_ghost_size_reaches_is_refused() -> None:
    """It would normalise by the whole batch beside layers that do not."""

    def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(144),
            nn.Linear(144, classes),
        )  # fmt: skip

    check_own(build, SHAPE, 5, ["global"])
    with pytest.raises(UsageError, match=r"group = 2, 3 \(BatchNorm1d\) would still normalise"):
        check_own(build, SHAPE, 5, [2])
