"""The least time that training a network takes on a device, from rates that are measured on it.

The article's network stands for a GPU, that of `digits` for a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    "cuda": ((64, 64, 64), (128, 128, 128), (256, 256, 256)),
    "cpu": ((8,), (8, 8), (8, 8, 128)),
}
SHAPES = {"cuda": (32, 32, 3), "cpu": (8, 8, 1)}  # (H, W, C)
CLASSES = 10
# Reads and writes of each convolution's output in an update with everything fused around the
# convolutions: forward 2 (written, read by the next one), the gradient 3 (written, read for the
# gradients of the input and of the weights), the output again 3 (for ReLU's and batch norm's
# gradients in both, and their sums), the input of the weights' gradient 1.
PASSES = 9


def work_of(device: str) -> tuple[float, float]:
    """(floating-point operations, values that are moved) of training on one example."""
    height, width, previous = SHAPES[device]
    products, values = 0, 0
    for number, block in enumerate(WIDTHS[device]):
        for channels in block:
            values += height * width * channels
            products += height * width * channels * previous * 9
            previous = channels
        if number + 1 < len(WIDTHS[device]):
            height, width = height // 2, width // 2
    products += previous * CLASSES
    return 2 * 3 * products, PASSES * values  # forward, and the gradients of input and weights


def floor(device: str, rates: tuple[float, float]) -> float:
    """Examples per second that no device of these rates (operations, bytes) exceeds."""
    operations, values = work_of(device)
    bytes_ = values * (2 if device == "cuda" else 4)  # bfloat16 or float32
    return 1 / max(operations / rates[0], bytes_ / rates[1])


def measured_rates(device: str) -> tuple[float, float]:
    """(operations per second of a large matrix product, bytes per second of a large copy)."""
    import torch

    cuda = device == "cuda"
    torch.set_num_threads(torch.get_num_threads() if cuda else 1)
    n, kind = (8192, torch.bfloat16) if cuda else (1024, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    source = torch.zeros((1 << 30) if cuda else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(call: Callable[[], object], repeats: int) -> float:
        found, clock = [], clock_of(device)
        for _ in range(7):
            wait(device)
            begin = clock()
            for _ in range(repeats):
                call()
            wait(device)
            found.append((clock() - begin) / repeats)
        return min(found[1:])

    product = best(lambda: torch.matmul(a, b), 10 if cuda else 2)
    copy = best(lambda: target.copy_(source), 10 if cuda else 2)
    return 2 * n**3 / product, 2 * source.numel() / copy


def clock_of(device: str) -> Callable[[], float]:
    """Seconds; of a CPU those that it computed, which other programs lengthen less."""
    return time.process_time if device == "cpu" else time.perf_counter


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
