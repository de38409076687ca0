"""Hand-written GPU kernels, and whether a run uses them. Importing this imports no Triton.

A kernel computes what the plain operations beside it compute, up to rounding, so whether it
runs is part of the surroundings, like the GPU or cuDNN's choice of algorithm: it stands in
every record's provenance and in no trial's id. `BATCHCLIFF_KERNELS` is "auto", every kernel
that applies and passes its check, the convolutions only on the kind of GPU on which their
accuracy was compared over seeds (docs/log.md); "all", those on other GPUs too; or "off", the
plain operations everywhere.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.kernels.check import (
    BATCH_NORM,
    CONVOLUTIONS,
    failing,
    failing_convolution,
    failing_sweep,
)

VARIABLE = "BATCHCLIFF_KERNELS"
CHOICES = ("auto", "all", "off")
HOPPER = (9, 0)  # compute capability
SWEEP = "sweep"
CHECKS = (*BATCH_NORM, *CONVOLUTIONS, SWEEP)
"""In this order; who fails one of a kind has nothing of the later kinds."""


def wanted() -> str:
    """The environment's choice, "auto" if it makes none. UsageError for an unknown one."""
    value = os.environ.get(VARIABLE, CHOICES[0])
    if value not in CHOICES:
        raise UsageError(f"{VARIABLE}: unknown {value!r}.{did_you_mean(value, CHOICES)}")
    return value


def installed() -> bool:
    """Whether Triton is there; PyTorch's builds for CUDA on Linux bring it."""
    return importlib.util.find_spec("triton") is not None


def fused_batch_norm(
    model: nn.Module,
    device: torch.device,
    precision: str,
    batch_size: int,
    *,
    checks: Sequence[str] = CHECKS,
) -> tuple[bool, str]:
    """Let `model` use the fused batch norm, ReLU and pooling if they serve it.

    batch_size: examples that pass through the network at once in training. Returns whether
    the kernels now serve, and why, in words for the record. It sets `fused`, `convolves` and
    `sweeps` on every layer that the model's `relu_norms()` names, so the answer holds whatever
    was set before. checks: those of CHECKS that are made, the others are taken as passed; only
    a rehearsal makes fewer than all.
    Raises UsageError if the environment asks for what there is not.
    """
    named = getattr(model, "relu_norms", None)
    layers: Sequence[Any] = () if named is None else named()
    obstacle = _obstacle(layers, device, precision, batch_size)
    if not obstacle:
        narrowest = min(layers, key=lambda layer: layer.weight.numel())
        pools = [pool for name, pool in BATCH_NORM.items() if name in checks]
        obstacle = _first(failing(narrowest, device, pool) for pool in pools)
    for layer in layers:
        layer.fused, layer.convolves, layer.sweeps = not obstacle, False, False
    if obstacle:
        return False, f"plain: {obstacle}"
    said = f"fused batch norm, ReLU and pooling: {len(layers)} layers"
    kind: Any = type(layers[0])
    obstacle = ""
    hopper = torch.cuda.get_device_capability(device) == HOPPER
    if wanted() == "auto" and not hopper:
        obstacle = f"not compared over seeds on this kind of GPU, {VARIABLE}=all runs kernels"
    else:
        cases = [case for name, case in CONVOLUTIONS.items() if name in checks]
        obstacle = _first(failing_convolution(kind, device, *case) for case in cases)
    if obstacle:
        return True, f"{said}; plain convolutions: {obstacle}"
    if not hopper:
        obstacle = "no Hopper GPU"
    elif SWEEP in checks:
        obstacle = failing_sweep(device)
    for layer in layers:
        layer.convolves, layer.sweeps = True, not obstacle
    swept = f"cuDNN for 64 channels: {obstacle}" if obstacle else "64 channels swept"
    return True, f"{said}, with their convolutions, {swept}"


def _first(said: Iterable[str]) -> str:
    """The first that says anything, or ""; the later ones are not asked then."""
    return next(filter(None, said), "")


def _obstacle(
    layers: Sequence[Any], device: torch.device, precision: str, batch_size: int
) -> str:
    """Why the kernels do not serve these layers; "" if they do."""
    if wanted() == "off":
        return f"{VARIABLE}=off"
    if device.type != "cuda":
        return f"no kernels for {device.type}"
    if precision != "bf16":
        return f"no kernels for {precision}"
    if not layers:
        return "a network without batch norm before ReLU, or of the user's own"
    if not installed():
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "a GPU older than bfloat16"
    if any(batch_size % layer.group for layer in layers):
        return "the batch is no multiple of the batch norm's group"
    odd = [c for c in (layer.weight.numel() for layer in layers) if c & (c - 1) or c < 8]
    return f"{odd[0]} channels are no power of two from 8 up" if odd else ""
