"""Architectures, by name. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import BatchNorm, Model

if TYPE_CHECKING:
    from batchcliff.models.conv_net import ConvNet

MODELS = ("conv-net",)


def build(
    model: Model,
    batch_norm: BatchNorm,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    batch_norm_group: int,
    stack: int = 1,
) -> ConvNet:
    """The network that `model` names, uninitialised; see `batchcliff.models.conv_net`.

    `batch_norm_group` is the resolved number of examples that share statistics. UsageError
    for an unknown name.
    """
    from batchcliff.models.conv_net import ConvNet

    if model.name not in MODELS:
        raise UsageError(
            f"model.name: unknown {model.name!r}.{did_you_mean(model.name, MODELS)}"
        )
    return ConvNet(
        widths=model.widths,
        image_channels=image_shape[2],
        num_classes=num_classes,
        batch_norm=batch_norm,
        batch_norm_group=batch_norm_group,
        stack=stack,
    )
