"""Ghost batch norm for any network: its batch-norm layers, replaced in place."""

from __future__ import annotations

import torch
from torch import nn

from batchcliff.errors import NoEffect
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d


def convert_ghost_batchnorm(module: nn.Module, group: int) -> nn.Module:
    """`module` with every `nn.BatchNorm2d` inside of it as a `GhostBatchNorm2d`.

    group: examples that share statistics (Hoffer et al. 2017, 1705.08741, algorithm 1). The
    layers keep their weights, running statistics, eps and momentum, which is one minus
    PyTorch's; evaluation does not change. Returns `module`, or the new layer where `module`
    itself was one. Works on any device and under `torch.compile`.

    Raises NoEffect if there is no such layer; ValueError for a group below 1, and for a layer
    that cannot be replaced: without affine weights or running statistics, with momentum=None
    (a plain average over all updates), with hooks, or of a class with a forward of its own.
    """
    if group < 1:
        raise ValueError(f"a group of {group} examples: write 1 or more, e.g. 32")
    if isinstance(module, nn.BatchNorm2d):
        return _ghost("it", module, group)
    ghosts: dict[nn.Module, nn.Module] = {}  # a layer that stands in two places stays one
    for place, parent in list(module.named_modules()):
        for name, child in parent._modules.items():  # named_children leaves out repetitions
            if isinstance(child, nn.BatchNorm2d):
                if child not in ghosts:
                    ghosts[child] = _ghost(f"{place}.{name}".strip("."), child, group)
                setattr(parent, name, ghosts[child])
    if not ghosts:
        raise NoEffect("ghost-batch-norm: the network has no BatchNorm2d layer to replace.")
    return module


@torch.no_grad()
def _ghost(name: str, layer: nn.BatchNorm2d, group: int) -> GhostBatchNorm2d:
    if not layer.affine or layer.running_mean is None or layer.running_var is None:
        raise ValueError(f"{name}: batch norm without weights or running statistics")
    if layer.momentum is None:
        raise ValueError(f"{name}: batch norm with momentum=None; write a number, e.g. 0.1")
    if type(layer).forward is not nn.BatchNorm2d.forward:
        raise ValueError(f"{name}: {type(layer).__name__} has a forward of its own, lost here")
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        raise ValueError(f"{name}: batch norm with hooks, which would be lost")
    ghost = GhostBatchNorm2d(
        layer.num_features, group, eps=layer.eps, momentum=1 - layer.momentum
    ).to(layer.weight)
    for mine, theirs in ((ghost.weight, layer.weight), (ghost.bias, layer.bias)):
        mine.copy_(theirs)
        mine.requires_grad_(theirs.requires_grad)
    ghost.running_mean.copy_(layer.running_mean[None])
    ghost.running_var.copy_(layer.running_var[None])
    return ghost.train(layer.training)
