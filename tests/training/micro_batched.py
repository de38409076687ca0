"""Trials that are cut into micro batches: settings, data, and six updates of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from small_trials import SMALL, small_data, small_spec, with_settings
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.spec import Settings, TrialSpec
from batchcliff.training.epochs import epoch_tensors
from batchcliff.training.prepare import Build, Prepared, prepare
from batchcliff.workloads import OWN_MODEL

BATCH, TOLERANCE, BROKEN = 24, 3e-5, 1e-3
RATES = [0.02, 0.1, 0.05, 0.01, 0.08, 0.03]
GHOST = with_settings(SMALL, batch_norm__group=4)
SHARDS = with_settings(SMALL, batch_norm__group="B/6", batch_norm__running="per-group")
MIXED = with_settings(GHOST, mixup=0.4, augmentation="as-written", label_smoothing=0.1)
OWN = with_settings(SMALL, model=OWN_MODEL)
CASES: dict[str, Settings] = {
    "ghost": GHOST,
    "shards": SHARDS,
    "mixup": MIXED,
    "clipped": with_settings(GHOST, optimizer__clip_norm=0.5, gradient_norms=True),
    "lars": with_settings(SHARDS, optimizer__name="lars", optimizer__trust=0.1),
    "adamw": with_settings(GHOST, optimizer__name="adamw", loss="clipped-softmax"),
    "resnet": with_settings(
        GHOST, model__name="resnet", model__widths=((4,), (6, 6)), augmentation="as-coded"
    ),
}


def spec_of(settings: Settings = GHOST, **changes: Any) -> TrialSpec:
    values = {"settings": settings, "batch_size": BATCH, "budget": "6up", "seed": 3}
    return small_spec(**{**values, **changes})


def data() -> Resident:
    return small_data(train=60, shape=(8, 8, 3))


def cut(spec: TrialSpec, most: int, build: Build | None = None, stack: int = 1) -> Prepared:
    return prepare(spec, data(), num_classes=4, stack=stack, user_build=build, most=most)


def six(spec: TrialSpec, most: int, stack: int = 1) -> Prepared:
    """After six updates; batches run across the end of an epoch."""
    prepared = cut(spec, most, stack=stack)
    rates_US = torch.tensor(RATES)[:, None].expand(-1, stack)
    specs = [dataclasses.replace(spec, seed=3 + s) for s in range(stack)]
    prepared.restart(specs, rates_US)
    for first in (0, 2, 4):
        prepared.loop.load_block(*epoch_tensors(specs, data(), first, first + 2))
        prepared.advance()
        prepared.advance()
    return prepared


class Wide(nn.Module):
    """A user's network in float64; `norm` between its two layers."""

    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = norm or nn.Identity()
        self.head = nn.Linear(5 * 8 * 8, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.first(x.double())).tanh().flatten(1))
        return out
