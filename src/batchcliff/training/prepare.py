"""Everything that trials of one shape share: network, device state, compiled updates.

Trials have the same shape when they differ only in seed, arm label, learning rates and
techniques of the rate: then the same compiled code serves them, one after the other, or on
a CPU side by side in one stacked network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.models import build
from batchcliff.models.conv_net import ConvNet
from batchcliff.randomness import derive
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import batch_norm_group, clock_of, shape_key
from batchcliff.training.compiled import captured, compiles
from batchcliff.training.evaluate import Evaluation
from batchcliff.training.loop import Loop

Build = Callable[[tuple[int, int, int], int], nn.Module]
SeededBuild = Callable[[int], nn.Module]


class Unstacked(nn.Module):
    """A user's network [B, C, H, W] -> [B, K], as a stack of one: [B, 1, K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.network(x_BCHW)
        return logits.unsqueeze(1)


@dataclass(kw_only=True, slots=True)
class Prepared:
    """Compiled and captured; `advance` applies one update, `evaluate` one evaluation."""

    key: bytes
    model: nn.Module
    loop: Loop
    evaluation: Evaluation
    advance: Callable[[], None]
    evaluate: Callable[[], None]
    stack: int
    seconds: float  # spent in compiling, warming up and capturing
    user_build: SeededBuild | None
    compiled: bool

    def restart(self, specs: list[TrialSpec], rates_US: Tensor) -> None:
        """Initial weights from each trial's seed, an empty log, and the rates [U, S]."""
        if isinstance(self.model, ConvNet):
            self.model.initialise(specs[0].settings.model.init, [spec.seed for spec in specs])
        else:
            assert self.user_build is not None
            fresh = self.user_build(specs[0].seed).state_dict()
            self.model.load_state_dict(fresh)  # copies in place: captured addresses stay valid
        self.loop.restart(rates_US)
        self.evaluation.count.zero_()


def image_shape(resident: Resident) -> tuple[int, int, int]:
    """(H, W, C) of the images."""
    height, width, channels = resident.train_images.shape[1:]
    return height, width, channels


def _seeded(user_build: Build, shape: tuple[int, int, int], num_classes: int) -> SeededBuild:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(derive(seed, "init") % 2**63)
        return Unstacked(user_build(shape, num_classes))

    return make


def prepare(
    spec: TrialSpec,
    resident: Resident,
    *,
    num_classes: int,
    stack: int,
    user_build: Build | None = None,
) -> Prepared:
    """Build, compile, warm up and capture what trials of `spec`'s shape share.

    Raises torch.OutOfMemoryError where the batch does not fit.
    """
    start, device, settings = time.perf_counter(), resident.train_images.device, spec.settings
    shape, clock = image_shape(resident), clock_of(spec, len(resident.train_labels))
    seeded = None if user_build is None else _seeded(user_build, shape, num_classes)
    if seeded is not None:
        model = seeded(spec.seed)
    else:
        group = batch_norm_group(spec)
        model = build(
            settings.model,
            settings.batch_norm,
            shape,
            num_classes,
            batch_norm_group=group,
            stack=stack,
        )
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert clock.total is not None
    loop = Loop(
        model,
        settings,
        resident.train_images,
        resident.train_labels,
        batch_size=spec.batch_size,
        stack=stack,
        rows=math.ceil(clock.updates_per_epoch),
        updates=clock.total,
        scale=resident.scale,
    )
    evaluation = Evaluation(
        model,
        settings,
        resident.test_images,
        resident.test_labels,
        stack=stack,
        evaluations=math.ceil(clock.total / clock.updates_per_epoch) + 1,
        scale=resident.scale,
    )
    if compiles(device):
        _compile(loop, evaluation)
    model.train()
    advance = captured(loop.update, loop.tensors(), device)
    model.eval()
    evaluate = captured(evaluation.run, evaluation.tensors(), device)
    model.train()
    return Prepared(
        key=shape_key(spec),
        model=model,
        loop=loop,
        evaluation=evaluation,
        advance=advance,
        evaluate=evaluate,
        stack=stack,
        seconds=time.perf_counter() - start,
        user_build=seeded,
        compiled=compiles(device),
    )


def _compile(loop: Loop, evaluation: Evaluation) -> None:
    torch._dynamo.reset()  # one shape at a time: the former shape's code is not needed again
    compile_: Any = torch.compile
    loop.loss_function = compile_(loop.losses, dynamic=False)
    loop.apply_function = compile_(loop.apply_function, dynamic=False)
    evaluation.logits_function = compile_(evaluation.logits, dynamic=False)
