"""Before there are data: what only the first time costs.

Compilers are imported and their helpers started; hand-written kernels are built and checked,
whose form depends on the network's widths and not on the batch, into the cache on disk that all
processes share (Triton's). Nothing of it changes what a trial computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchcliff.kernels import CHECKS, fused_batch_norm
from batchcliff.kernels.convolution import until_the_end
from batchcliff.models import MODELS, build
from batchcliff.optimizers import rule
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.trace import mark
from batchcliff.training.arithmetic import batch_norm_group
from batchcliff.training.compiled import compiler_seconds, compiles
from batchcliff.training.precision import precision

SIZE, CHANNELS, CLASSES = 32, 3, 10  # of the images that most studies are about
BATCH = 1024
LAYERS = ("first layers", "middle layers", "last layers")  # of a training pass
PARTS = (*CHECKS, *LAYERS, "evaluation", "optimizer")


def warm_up(kind: str, settings: Settings, part: int, of: int) -> None:
    """On a device of the kind: part `part` of `of` parts of a rehearsal; or, of none, what a
    process needs itself before it trains."""
    if of:
        rehearse(settings, torch.device(kind), PARTS[part::of])
    elif kind == "cuda" and torch.cuda.device_count() == 1:
        device = torch.device(kind, 0)  # of several it is not known yet which is ours
        begin_compiling(device)
        rehearse(settings, device, CHECKS)


def begin_compiling(device: torch.device) -> None:
    """Forward and backward through the whole compiler, whose first use imports much and starts
    helpers. Nothing where nothing is compiled."""
    if not compiles(device):
        return
    compile_: Any = torch.compile

    def something(x: Tensor) -> Tensor:
        return (x.relu() * 2).sum()

    x = torch.ones(64, 64, device=device, requires_grad=True)
    torch.autograd.grad(compile_(something, dynamic=False)(x), x)
    mark("the compiler has begun", compiler_seconds)


def rehearse(
    settings: Settings,
    device: torch.device,
    parts: Sequence[str] = PARTS,
    batch: int = BATCH,
) -> None:
    """Parts of what a worker does before it trains: checks of the kernels, one training pass
    and one evaluation of the settings' network on made-up images, the optimizer's compilation.
    Layers whose third of the network is not asked for are plain in the training pass.

    Does nothing for a network of the user's own. Raises what the network or device raises.
    """
    if settings.model.name not in MODELS:
        return
    group = batch_norm_group(_trial(settings, batch))
    image = (SIZE, SIZE, CHANNELS)
    with torch.random.fork_rng(devices=[]):  # weights are drawn as layers are made
        model: Any = build(
            settings.model, settings.batch_norm, image, CLASSES, batch_norm_group=group
        )
    model = model.to(device, memory_format=torch.channels_last)
    fused_batch_norm(model, device, settings.precision, batch, checks=parts)
    thirds = [number for number, name in enumerate(LAYERS) if name in parts]
    if thirds or "evaluation" in parts:
        images = torch.zeros(batch, CHANNELS, SIZE, SIZE, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
    if thirds:
        _train_once(model, images, settings.precision, thirds)
    if "optimizer" in parts and compiles(device):
        _compile_optimizer(settings, list(model.parameters()))
    if "evaluation" in parts:
        model.eval()
        with torch.no_grad(), precision(settings.precision, device):
            model(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    mark(f"rehearsed: {', '.join(parts)}")


def _train_once(model: Any, images: Tensor, called: str, thirds: Sequence[int]) -> None:
    """A training pass in which the layers of other thirds are plain, so that their kernels are
    left to others; and all are again as they were."""
    layers = model.relu_norms()
    ours = {at for n in thirds for at in range(len(layers))[_third(n, len(layers))]}
    chosen = [(layer.fused, layer.convolves, layer.sweeps) for layer in layers]
    for at, layer in enumerate(layers):
        if at not in ours:
            layer.fused = layer.convolves = layer.sweeps = False
    model.train()
    with precision(called, images.device):
        logits: Tensor = model(images)
    with until_the_end(images.device):
        torch.autograd.grad(logits.float().sum(), list(model.parameters()))
    for layer, choice in zip(layers, chosen, strict=True):
        layer.fused, layer.convolves, layer.sweeps = choice


def _third(number: int, count: int) -> slice:
    """The part of `count` layers that belongs to the number's name in LAYERS."""
    return slice(number * count // len(LAYERS), (number + 1) * count // len(LAYERS))


def _compile_optimizer(settings: Settings, parameters: list[Tensor]) -> None:
    """The same for all batch sizes, so workers find its code in the compiler's cache.

    As they lie in memory, gradients are like the parameters that they are of: other ones would
    be other code.
    """
    compile_: Any = torch.compile
    made = rule(settings.optimizer, parameters, 1)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    rate_S = torch.zeros(1, device=parameters[0].device)
    compile_(made.update, dynamic=False)(parameters, gradients, made.state, rate_S)


def _trial(settings: Settings, batch: int) -> TrialSpec:
    return TrialSpec(
        workload="", data="", data_digest="", arm="", techniques=(), settings=settings,
        batch_size=batch, lr=0.0, decay=Decay(), budget="1up", seed=0,
    )  # fmt: skip
