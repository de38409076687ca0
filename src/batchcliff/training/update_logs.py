"""What a trial logs at every update beside its loss, reduced to what a record holds."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

FIRST = 100  # updates whose gradient norms are kept as they are

# U updates


class NormCurves(TypedDict, total=False):
    """Fields of `Curves`; none where no norms were logged."""

    gradient_norm: tuple[float, ...]
    gradient_norm_max: tuple[float, ...]
    first_gradient_norms: tuple[float, ...]


def skipped_updates(logs: dict[str, Tensor], end: int) -> int:
    """How many of the first `end` updates loss scaling skipped; logs: [U] by name."""
    return int(logs["skipped"][:end].sum()) if "skipped" in logs else 0


def norm_curves(
    logs: dict[str, Tensor], epochs: list[tuple[int, int]], bad: int | None
) -> NormCurves:
    """Mean and maximum of the gradient norms of each epoch, and the first ones as they are.

    logs: [U] by name. epochs: (first, last + 1) update of each. bad: the first update whose
    loss is not finite; the epoch that it lies in has NaN. Skipped updates moved nothing, so
    that they are in neither mean nor maximum.
    """
    if "gradient_norm" not in logs:
        return {}
    norms_U = logs["gradient_norm"]
    applied_U = logs.get("skipped", torch.zeros_like(norms_U)) == 0
    means, largest = [], []
    for first, end in epochs:
        found = norms_U[first:end][applied_U[first:end]].double()
        whole = len(found) > 0 and (bad is None or end <= bad)
        means.append(float(found.mean()) if whole else math.nan)
        largest.append(float(found.max()) if whole else math.nan)
    end = len(norms_U) if bad is None else bad + 1
    return {
        "gradient_norm": tuple(means),
        "gradient_norm_max": tuple(largest),
        "first_gradient_norms": tuple(norms_U[: min(end, FIRST)].tolist()),
    }
