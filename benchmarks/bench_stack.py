"""Small networks side by side on one CPU core: alone, as one grouped network, under vmap.

    python benchmarks/bench_stack.py --json FILE

Seconds of the CPU for the losses and gradients of the `digits` network, per network: several
one after the other; as the engine stacks them, one network whose convolutions have a group for
each (models/conv_net.py); and torch.func.vmap over their stacked weights, whose batch norm has
no running statistics, which vmap could not change in place. Random images, the same for all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_peers import torch_net
from floor import CLASSES, SHAPES
from torch import Tensor, nn

from batchcliff.models import build
from batchcliff.provenance import code_name, utc_now
from batchcliff.training.losses import example_losses_logits
from batchcliff.training.precision import device_name
from batchcliff.workloads import DIGITS


def alone(images: Tensor, labels: Tensor, stack: int) -> Callable[[], object]:
    """PyTorch's own layers, one network after the other."""
    nets = [torch_net("cpu") for _ in range(stack)]

    def run() -> None:
        for net in nets:
            torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))

    return run


def grouped(images: Tensor, labels: Tensor, stack: int) -> Callable[[], object]:
    """The engine's network for so many trials."""
    settings = DIGITS.settings
    net = build(
        settings.model, settings.batch_norm, SHAPES["cpu"], CLASSES,
        batch_norm_group=len(images), stack=stack,
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fmt: skip
    labels_BS = labels[:, None].expand(-1, stack)

    def run() -> None:
        x = images.repeat(1, stack, 1, 1).contiguous(memory_format=torch.channels_last)
        loss = example_losses_logits(net(x), labels_BS).mean(0).sum()
        torch.autograd.grad(loss, list(net.parameters()))

    return run


def vmapped(images: Tensor, labels: Tensor, stack: int) -> Callable[[], object]:
    """torch.func: the same network's function over weights with a dimension more."""
    nets = [torch_net("cpu") for _ in range(stack)]
    for net in nets:
        net[-3] = nn.AvgPool2d(2)  # the same here; vmap has no rule for the adaptive one
    for norm in (m for net in nets for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    weights, buffers = torch.func.stack_module_state(nets)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        logits: Any = torch.func.functional_call(nets[0], (weights, buffers), (images,))
        return F.cross_entropy(logits, labels)

    gradients = torch.func.vmap(torch.func.grad(loss))
    return lambda: gradients(weights, buffers)


WAYS = {"alone": alone, "grouped": grouped, "vmap": vmapped}


def seconds_each(way: str, batch_size: int, stack: int, least: float) -> float:
    """Seconds of the CPU for one update's losses and gradients, per network; the best of 5."""
    height, width, channels = SHAPES["cpu"]
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, channels, height, width, generator=draw)
    labels = torch.randint(0, CLASSES, (batch_size,), generator=draw)
    run = WAYS[way](images, labels, stack)
    run()
    best = float("inf")
    for _ in range(5):
        begin, count = time.process_time(), 0
        while (spent := time.process_time() - begin) < least:
            run()
            count += 1
        best = min(best, spent / count / stack)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    parser.add_argument("--json", type=Path, help="file for the result")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch_size in (32, 128, 512):
        found = {w: seconds_each(w, batch_size, chosen.stack, chosen.seconds) for w in WAYS}
        for way, seconds in found.items():
            print(
                f"batch {batch_size:>4}  {way:<8} {seconds * 1e3:>7.2f} ms a network, "
                f"{found['alone'] / seconds:.2f} of the speed alone"
            )
            rows.append({
                "batch_size": batch_size, "way": way, "stack": chosen.stack,
                "seconds": round(seconds, 6), "device": device_name(torch.device("cpu")),
                "torch": torch.__version__, "code": code_name(), "date": utc_now()[:10],
                "what": "digits network, losses and gradients, CPU seconds a network",
            })  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
