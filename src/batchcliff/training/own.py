"""A network of the user's own, tried before a worker takes any trial."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchcliff.errors import BatchcliffError, UsageError
from batchcliff.models.convert import convert_ghost_batchnorm
from batchcliff.training.afresh import check_afresh, seed_generators
from batchcliff.training.compiled import rewound

Build = Callable[[tuple[int, int, int], int], Any]

EXAMPLES = 4
VIEWED = "view size is not compatible"  # torch's words for x.view(...) of channels-last images


def build_own(
    build: Build, shape: tuple[int, int, int], num_classes: int, group: str | int
) -> nn.Module:
    """What the user's function builds, with ghost batch norm where `group` is a size.

    Lazy layers get their shapes from a pass. UsageError if it is no module, or if it has batch
    norm that stays as it is beside a ghost size; NoEffect if it has none to convert.
    """
    network = build(shape, num_classes)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"--workload: build returned {type(network).__name__}, not a torch.nn.Module"
        )
    if any(is_lazy(t) for t in [*network.parameters(), *network.buffers()]):
        with _evaluating(network):
            network(_images(shape))
    if not isinstance(group, int):
        return network
    converted = convert_ghost_batchnorm(network, group)
    for name, module in converted.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UsageError(
                f"--workload: with batch_norm.group = {group}, {name} "
                f"({type(module).__name__}) would still normalise by the whole batch: only "
                "BatchNorm2d is converted. Write that, or leave batch_norm.group out"
            )
    return converted


def check_own(
    build: Build, shape: tuple[int, int, int], num_classes: int, groups: Iterable[str | int]
) -> None:
    """Passes on the CPU for each group of batch norm that the trials ask for, and a look at
    what the network keeps.

    Raises UsageError with both shapes if the network does not map images [B, C, H, W] to
    logits [B, num_classes], with the network's own words if it fails, and with the name of
    what would not be trained as it stands, or not begin every trial afresh; NoEffect.
    """
    for group in groups:

        def make(seed: int, group: str | int = group) -> nn.Module:
            seed_generators(seed)
            return build_own(build, shape, num_classes, group)

        with _their_words(f"build{(shape, num_classes)} fails"):
            network = make(0)
        given = f"images {[EXAMPLES, shape[2], *shape[:2]]}"
        with _their_words(f"the network fails on {given}"), contextlib.suppress(NoRoom):
            images = _images(shape)
            if takes_channels_last(network, shape):
                images = images.contiguous(memory_format=torch.channels_last)
            _check_passes(network, images, num_classes, given)
            check_afresh(make, functools.partial(_pass, images=images))


class NoRoom(Exception):
    """Not even these few examples fit: a trial's outcome, and no mistake of the network."""


def _check_passes(network: nn.Module, images: Tensor, num_classes: int, given: str) -> None:
    """UsageError where what comes out is no logits, or where training would not be plain
    PyTorch's."""
    logits = _logits(network, images, num_classes, given)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not trained:
        raise UsageError("--workload: the network has no parameter that requires a gradient")
    for name, parameter in trained.items():
        if parameter.is_complex():
            raise UsageError(
                f"--workload: the parameter {name} is complex; the optimizers are for real "
                "ones. Write it as pairs, and torch.view_as_complex in the forward pass"
            )
        if getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise UsageError(
                f"--workload: the parameter {name} has a hook for after .grad is accumulated, "
                "which is never called, since gradients are handed on directly. Write "
                "register_hook"
            )
    if not logits.requires_grad:
        raise UsageError(
            "--workload: no gradient can come from the network's logits: does its forward "
            "pass use torch.no_grad() or detach()?"
        )
    with _room():
        gradients = torch.autograd.grad(
            logits.float().sum(), list(trained.values()), allow_unused=True
        )
    unused = [n for n, g in zip(trained, gradients, strict=True) if g is None]
    if unused:
        raise UsageError(
            f"--workload: no gradient reaches {', '.join(unused[:3])}"
            f"{f' and {len(unused) - 3} more' if len(unused) > 3 else ''}: the forward pass "
            "does not use it. Remove it, or write .requires_grad_(False)"
        )
    _logits(network.eval(), images, num_classes, f"{given} in eval()")


def _logits(network: nn.Module, images: Tensor, num_classes: int, given: str) -> Tensor:
    logits, wanted = _pass(network, images), [EXAMPLES, num_classes]
    if not isinstance(logits, Tensor) or list(logits.shape) != wanted:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"--workload: the network maps {given} to {found}; {wanted} is needed: one "
            f"logit for each of the {num_classes} classes"
        )
    return logits


def _images(shape: tuple[int, int, int]) -> Tensor:
    height, width, channels = shape
    return torch.zeros(EXAMPLES, channels, height, width)


def _pass(network: nn.Module, images: Tensor) -> Any:
    """What the network makes of the images, which it may write on."""
    with _room():
        return network(images.clone())


def takes_channels_last(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the network takes images in channels-last memory, which is the engine's; not if
    it calls `view` on them, as many do. Its weights are in that layout then, and else as they
    were; what the pass that tells changes is undone.
    """
    images = _images(shape).contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with _evaluating(network), rewound([*network.parameters(), *network.buffers()]):
            network(images)
    except Exception as error:
        if VIEWED in str(error):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            return False
        # Another mistake, which the check's passes or the trial show in words of their own.
    return True


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; afterwards each module in the mode it had."""
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """NoRoom for torch.OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoRoom from error


@contextlib.contextmanager
def _their_words(what: str) -> Iterator[None]:
    """An exception of the user's code as ours, with its place in that code."""
    try:
        yield
    except (BatchcliffError, NoRoom):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"--workload: {what}: {type(error).__name__}: {error} "
            f"({Path(frame.filename).name}:{frame.lineno})"
        ) from error
