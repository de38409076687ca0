"""Only the optimizer: LARS with warmup in a training loop of your own, stopped and resumed.

python examples/lars_in_your_loop.py
"""

from __future__ import annotations

import torch

from batchcliff import Lars
from batchcliff.schedules.adapters.torch import WarmupLR

UPDATES, WARMUP = 40, 8


def fresh() -> tuple[torch.nn.Module, Lars, WarmupLR]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(8, 32),
        torch.nn.BatchNorm1d(32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 1),
    )
    # What is scaled has no default: here neither batch norm nor biases, which move at lr; a
    # layer's weights move by about lr x trust of their norm.
    optimizer = Lars(network.parameters(), lr=0.2, exclude="norms-and-biases", trust=0.1)
    return network, optimizer, WarmupLR(optimizer, WARMUP)


def train(
    network: torch.nn.Module, optimizer: Lars, schedule: WarmupLR, updates: range
) -> None:
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        x = torch.randn(256, 8, generator=generator)
        loss = (network(x) - x[:, :1] * x[:, 1:2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if update in (0, WARMUP - 1, UPDATES - 1):
            print(f"update {update:>2}: lr {schedule.get_last_lr()[0]:5.2f}, loss {loss:.3f}")
        optimizer.step()
        schedule.step()


network, optimizer, schedule = fresh()
train(network, optimizer, schedule, range(UPDATES))

half, halved, its_schedule = fresh()
train(half, halved, its_schedule, range(UPDATES // 2))
resumed, its_optimizer, another = fresh()
resumed.load_state_dict(half.state_dict())
its_optimizer.load_state_dict(halved.state_dict())
another.load_state_dict(its_schedule.state_dict())
train(resumed, its_optimizer, another, range(UPDATES // 2, UPDATES))

same = all(
    torch.equal(a, b) for a, b in zip(network.parameters(), resumed.parameters(), strict=True)
)
print(f"resumed at update {UPDATES // 2}: {'the same weights' if same else 'OTHER WEIGHTS'}")
