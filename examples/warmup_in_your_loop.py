"""Only the schedule: warmup and decay in a training loop of your own, resumable in any order.

python examples/warmup_in_your_loop.py
"""

from __future__ import annotations

import torch

from batchcliff.schedules.adapters.torch import WarmupLR
from batchcliff.schedules.duration import Clock

# 50,000 examples at batch 8,192: with floor(N/B) updates an epoch, 5 epochs are 30 updates.
clock = Clock(num_examples=50_000, batch_size=8_192, remainder="drop").with_budget("20ep")

network = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(network.parameters(), lr=3.2, momentum=0.9)
schedule = WarmupLR(optimizer, clock.updates("5ep"), shape="linear")

for update in range(clock.total or 0):
    loss = network(torch.randn(16, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if update in (0, 1, 28, 29, 30):
        print(f"update {update:>3}: lr {schedule.get_last_lr()[0]:.4f}")
    optimizer.step()
    schedule.step()
