"""A network of the user's own, tried once before a worker takes any trial."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from batchcliff.errors import BatchcliffError, UsageError
from batchcliff.models.convert import convert_ghost_batchnorm

Build = Callable[[tuple[int, int, int], int], Any]

EXAMPLES = 4


def build_own(
    build: Build, shape: tuple[int, int, int], num_classes: int, group: str | int
) -> nn.Module:
    """What the user's function builds, with ghost batch norm where `group` is a size.

    UsageError if it is no module; NoEffect if it has no batch norm to convert.
    """
    network = build(shape, num_classes)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"--workload: build returned {type(network).__name__}, not a torch.nn.Module"
        )
    return convert_ghost_batchnorm(network, group) if isinstance(group, int) else network


def check_own(
    build: Build, shape: tuple[int, int, int], num_classes: int, groups: Iterable[str | int]
) -> None:
    """One forward pass on the CPU for each group of batch norm that the trials ask for.

    Raises UsageError with both shapes if the network does not map images [B, C, H, W] to
    logits [B, num_classes], and with the network's own words if it fails; NoEffect.
    """
    height, width, channels = shape
    images = torch.zeros(EXAMPLES, channels, height, width)
    given = f"images {list(images.shape)}"
    for group in groups:
        with _their_words(f"build{(shape, num_classes)} fails"):
            network = build_own(build, shape, num_classes, group)
        with _their_words(f"the network fails on {given}"), torch.no_grad():
            logits = network(images)
        wanted = [EXAMPLES, num_classes]
        if not isinstance(logits, Tensor) or list(logits.shape) != wanted:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UsageError(
                f"--workload: the network maps {given} to {found}; {wanted} is needed: one "
                f"logit for each of the {num_classes} classes"
            )


@contextlib.contextmanager
def _their_words(what: str) -> Iterator[None]:
    """An exception of the user's code as ours, with its place in that code."""
    try:
        yield
    except BatchcliffError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"--workload: {what}: {type(error).__name__}: {error} "
            f"({Path(frame.filename).name}:{frame.lineno})"
        ) from error
