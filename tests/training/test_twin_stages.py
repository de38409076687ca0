"""A batch size that changes, against a plain loop over the stages and the slow network."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from growing_trials import TORCH, growing
from slow_network import Sgd, train
from small_trials import (
    distance,
    numpy_batches,
    ready,
    run,
    small_data,
    small_spec,
    state_of,
    twin_of,
    twin_state,
    with_settings,
)
from torch import Tensor, nn

from batchcliff.data.resident import Resident, epoch_order
from batchcliff.data.sources import load
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.randomness import derive
from batchcliff.spec import Decay
from batchcliff.training.epochs import epoch_tensors
from batchcliff.workloads import OWN_BATCH_NORM, OWN_MODEL


class Plain(nn.Module):
    """A network without batch norm, as somebody would write it."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(shape[0] * shape[1] * shape[2], 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x_BCHW.flatten(1))))  # type: ignore[no-any-return]


def plain_loop(
    stages: list[tuple[int, int, float]], seed: int, *, restart: bool = False
) -> list[float]:
    """torch.optim.SGD over (batch size, end in examples, learning rate), on the digits.

    restart: the mistake of a new optimizer for every stage, which forgets the velocity.
    """
    data = load("digits")
    images = torch.from_numpy(data.train_images).permute(0, 3, 1, 2).float() / 16
    labels = torch.from_numpy(data.train_labels).long()
    order = np.concatenate([epoch_order(seed, epoch, len(labels)) for epoch in range(9)])
    torch.manual_seed(derive(seed, "init") % 2**63)
    network = Plain(data.image_shape, data.num_classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    losses, seen = [], 0
    for batch_size, end, lr in stages:
        if restart:
            optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
        optimizer.param_groups[0]["lr"] = lr
        while seen < end:
            index = torch.from_numpy(order[seen : seen + batch_size]).long()
            loss = F.cross_entropy(network(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            seen += batch_size
    return losses


def test_twin_a_plain_loop_over_the_stages_on_digits() -> None:
    """Equal losses, through a growth, a growth that does not divide an epoch, and a decay."""
    settings = dataclasses.replace(TORCH, model=OWN_MODEL, batch_norm=OWN_BATCH_NORM)
    spec = growing(
        small_spec(
            settings=settings,
            data="digits",
            batch_size=40,
            lr=0.05,
            budget="5ep",
            seed=7,
            decay=Decay(kind="multistep", at=("1.5ep", "60%", "4ep"), factor=1 / 3),
        ),
        factor=3,
        most=360,
    )
    dataset = load("digits")
    resident = Resident.of(dataset)
    prepared = ready(spec, resident, build=Plain, classes=10)
    ran = run([spec], resident, prepared=prepared)
    stages = [(40, 1536, 0.05), (120, 3072, 0.05), (360, 4096, 0.05), (360, 5120, 0.05 / 3)]
    twin = plain_loop(stages, seed=7)
    assert len(twin) == len(ran.losses) == ran.records[0].updates == 39 + 13 + 3 + 3
    assert ran.losses[:, 0].tolist() == pytest.approx(twin, rel=2e-5)
    forgetful = plain_loop(stages, seed=7, restart=True)
    assert ran.losses[39:, 0].tolist() != pytest.approx(forgetful[39:], rel=2e-2)
    cut = plain_loop([(40, 1520, 0.05), *stages[1:]], seed=7)  # one update too early
    assert ran.losses[38:40, 0].tolist() != pytest.approx(cut[38:40], rel=2e-2)


def test_twin_batch_norm_groups_follow_the_batch() -> None:
    """ "B/4" is a quarter of every batch; a ghost size stays. Against the slow network."""
    for group, groups in (("B/4", (4, 8)), (4, (4, 4))):
        settings = with_settings(TORCH, batch_norm__group=group)
        spec = growing(
            small_spec(settings=settings, batch_size=16, budget="2ep", seed=3),
            at=("1ep",),
            factor=2,
        )
        resident = small_data(train=64)
        prepared = ready(spec, resident)
        prepared.restart([spec], torch.full((6, 1), 0.1))
        twin = twin_of(prepared.model, spec)
        losses: list[float] = []
        velocities: dict[str, Any] = {}
        for (first, last, batch), size in zip([(0, 4, 16), (4, 6, 32)], groups, strict=True):
            index, draws = epoch_tensors([spec], resident, first, last)
            prepared.at(batch).loop.load_block(index, draws)
            for _ in range(first, last):
                prepared.at(batch).advance()
            twin.group = size
            batches = numpy_batches(resident, index[:, :, 0].numpy())
            rates = [0.1] * (last - first)
            losses += train(
                twin, batches, rates, Sgd("torch"), loss="logits", velocities=velocities
            )
        assert prepared.loop.losses_US[:, 0].tolist() == pytest.approx(losses, rel=2e-5)
        assert distance(state_of(prepared.model, spec), twin_state(twin)) < 2e-5
        norms = [m for m in prepared.model.modules() if isinstance(m, GhostBatchNorm2d)]
        assert {norm.group for norm in norms} == {groups[1]}
        # Negative control: the first group kept for the second batch size gives other losses.
        if group == "B/4":
            twin.group = 4
            wrong = train(twin, batches, rates, Sgd("torch"), loss="logits")
            assert wrong != pytest.approx(losses[4:], rel=1e-3)
