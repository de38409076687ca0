"""A workload whose network has room for ROOM examples at once, as a small GPU would.

Used as `--workload small_room:workload` with real workers. LAYER: "ghost" has a batch norm
whose group the study sets; "dropout", "none".
"""

from __future__ import annotations

import os
from typing import Any

from faulty import data

from batchcliff.spec import BatchNorm, LrRule, Settings
from batchcliff.workloads import OWN_MODEL, Workload


def build(shape: tuple[int, int, int], num_classes: int) -> Any:
    import torch
    from torch import Tensor, nn

    layers = {"ghost": nn.BatchNorm2d(3), "dropout": nn.Dropout(0.1), "none": nn.Identity()}

    class Roomy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(shape[2], 3, 3, padding=1)
            self.layer = layers[os.environ.get("LAYER", "ghost")]
            self.head = nn.Linear(3 * shape[0] * shape[1], num_classes)

        def forward(self, x: Tensor) -> Tensor:
            trains = self.training and torch.is_grad_enabled()
            if trains and len(x) > int(os.environ["ROOM"]):
                raise torch.OutOfMemoryError(f"no room for {len(x)} images")
            out: Tensor = self.head(self.layer(self.first(x)).relu().flatten(1))
            return out

    return Roomy()


def settings(group: str | int = 2) -> Settings:
    return Settings(
        model=OWN_MODEL,
        batch_norm=BatchNorm(group=group, running="mean", momentum=0.9, eps=1e-5),
        loss="logits",
        augmentation="none",
        precision="fp32",
        remainder="carry",
    )


def workload() -> Workload:
    return Workload(
        name="small-room",
        data=data,
        lr=LrRule(base=0.1, base_batch_size=16),
        budget="2ep",
        settings=settings(),
        build=build,
    )
