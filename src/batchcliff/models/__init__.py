"""Architectures, by name. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import BatchNorm, Model

if TYPE_CHECKING:
    from batchcliff.models.network import Network

MODELS = ("conv-net", "resnet")


def build(
    model: Model,
    batch_norm: BatchNorm,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    batch_norm_group: int,
    stack: int = 1,
) -> Network:
    """The network that `model` names, uninitialised; see the module of its name.

    `batch_norm_group` is the resolved number of examples that share statistics. UsageError
    for an unknown name. Only "conv-net" can be stacked.
    """
    from batchcliff.models.conv_net import ConvNet
    from batchcliff.models.resnet import ResNet

    if model.name not in MODELS:
        raise UsageError(
            f"model.name: unknown {model.name!r}.{did_you_mean(model.name, MODELS)}"
        )
    if model.name == "resnet":
        assert stack == 1
        return ResNet(
            widths=model.widths,
            image_channels=image_shape[2],
            num_classes=num_classes,
            batch_norm=batch_norm,
            batch_norm_group=batch_norm_group,
            zero_gamma=model.zero_gamma,
        )
    return ConvNet(
        widths=model.widths,
        image_channels=image_shape[2],
        num_classes=num_classes,
        batch_norm=batch_norm,
        batch_norm_group=batch_norm_group,
        stack=stack,
    )
