"""Speed of the kernels: each operation by itself, and the whole training with and without.

    python benchmarks/bench_kernels.py --batch-sizes 128,1024,8192 --json FILE

Needs a CUDA device. First, for every shape of the article's network, the forward and the
backward operation on activations that are not in the cache: bytes that they must move, bytes
a second, the floor (those bytes at the rate of a large copy on this device) and time over
floor; so too for the first convolution with its batch norm, and for one of 64 channels. Then
the article's trial as benchmarks/bench_training.py times it, kernels on and off.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_training import measure, random_data
from torch import Tensor

from batchcliff.kernels import VARIABLE
from batchcliff.kernels.batch_norm_relu import batch_norm_relu, batch_norm_relu_backward
from batchcliff.kernels.sweep import sweep, sweep_statistics
from batchcliff.kernels.thin_convolution import thin_convolution, thin_convolution_backward
from batchcliff.provenance import code_name, utc_now
from batchcliff.training.precision import device_name
from batchcliff.workloads import ARTICLE

GROUPS = 8
SHAPES = [(64, 32), (128, 16), (256, 8)]  # channels, height and width, of the article's blocks
OUT_OF_CACHE = 256 << 20  # bytes of inputs to go through in turn


def median_seconds(calls: list[Callable[[], object]], repeats: int = 7) -> float:
    """Median time of one call, over replays of a captured graph that makes all of them."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats + 1):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000 / len(calls))
    return sorted(times[1:])[repeats // 2]


def copy_rate() -> float:
    """Bytes a second of a large device-to-device copy, read and written."""
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds([lambda: target.copy_(source)])


def activations(batch: int, channels: int, size: int) -> tuple[Tensor, ...]:
    """x like a convolution's output, weight, bias."""
    x = torch.randn(batch, channels, size, size, device="cuda", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    return x, torch.rand(channels, device="cuda") + 0.5, torch.randn(channels, device="cuda")


def bytes_moved(batch: int, channels: int, size: int, pool: str) -> tuple[int, int]:
    """Forward: x twice, y once. Backward: x and dy twice, dx once. Statistics are nothing."""
    inside = batch * channels * size * size * 2
    outside = inside // {"none": 1, "2x2": 4, "all": size * size}[pool]
    return 2 * inside + outside, 3 * inside + 2 * outside


def operations(batch: int, rate: float) -> list[dict[str, object]]:
    """A row for each shape and direction; printed as it is measured."""
    rows = []
    for channels, size in SHAPES:
        for pool in ("none", "2x2", "all"):
            sets = []
            for _ in range(max(2, math.ceil(OUT_OF_CACHE / (batch * channels * size**2 * 2)))):
                x, weight, bias = activations(batch, channels, size)
                y, mean, var = batch_norm_relu(x, weight, bias, GROUPS, 1e-3, pool)
                sets.append((torch.randn_like(y), x, mean, var, weight, bias))
            forward = [
                lambda s=s: batch_norm_relu(s[1], s[4], s[5], GROUPS, 1e-3, pool)  # noqa: B023
                for s in sets
            ]
            backward = [
                lambda s=s: batch_norm_relu_backward(*s, 1e-3, pool)  # noqa: B023
                for s in sets
            ]
            shape = f"{channels} x {size} x {size}{'' if pool == 'none' else ' ' + pool}"
            moved = bytes_moved(batch, channels, size, pool)
            rows.append(timed(f"forward {shape}", batch, forward, moved[0], rate))
            rows.append(timed(f"backward {shape}", batch, backward, moved[1], rate))
    return rows


def timed(
    what: str, batch: int, calls: list[Callable[[], object]], count: int, rate: float
) -> dict[str, object]:
    """A row for one operation that must move `count` bytes; printed."""
    seconds = median_seconds(calls)
    print(
        f"batch {batch:>5}  {what:32} {count / 1e6:7.1f} MB {seconds * 1e6:7.1f} us"
        f" {count / seconds / 1e9:6.0f} GB/s, floor {count / rate * 1e6:6.1f} us:"
        f" {seconds * rate / count:.2f}",
        flush=True,
    )
    return {
        "what": what,
        "batch_size": batch,
        "examples_per_second": round(batch / seconds),
        "bytes": count,
        "seconds": seconds,
        "floor_seconds": count / rate,
    }


def first_convolution(batch: int, rate: float) -> list[dict[str, object]]:
    """The same for the convolution of images with its batch norm and ReLU. Forward: the images
    twice, y once. Backward: the images and dy once."""
    channels, size = SHAPES[0]
    conv = torch.randn(channels, 3, 3, 3, device="cuda") * 0.3
    sets = []
    for _ in range(max(2, math.ceil(OUT_OF_CACHE / (batch * channels * size**2 * 2)))):
        _, weight, bias = activations(1, channels, size)
        images = torch.rand(batch, 3, size, size, device="cuda", dtype=torch.bfloat16)
        images = images.contiguous(memory_format=torch.channels_last)
        y, mean, var = thin_convolution(images, conv, weight, bias, GROUPS, 1e-3)
        sets.append((torch.randn_like(y), images, mean, var, weight, bias))
    forward = [lambda s=s: thin_convolution(s[1], conv, s[4], s[5], GROUPS, 1e-3) for s in sets]
    backward = [lambda s=s: thin_convolution_backward(*s[:2], conv, *s[2:], 1e-3) for s in sets]
    read, written = batch * 3 * size**2 * 2, batch * channels * size**2 * 2
    name = f"first convolution 3 to {channels} x {size} x {size}"
    return [
        timed(f"forward {name}", batch, forward, 2 * read + written, rate),
        timed(f"backward {name}", batch, backward, read + written, rate),
    ]


def swept_convolution(batch: int, rate: float) -> list[dict[str, object]]:
    """The convolution of 64 channels: the input once, the output once. Its arithmetic takes
    about as long: 38 million products an image."""
    channels, size = SHAPES[0]
    last = torch.channels_last
    half = torch.randn(channels, channels, 3, 3, device="cuda", dtype=torch.bfloat16)
    half = half.contiguous(memory_format=last)
    moved = 2 * batch * channels * size**2 * 2
    xs = [
        activations(batch, channels, size)[0] for _ in range(max(2, OUT_OF_CACHE // moved + 1))
    ]
    name = f"convolution {channels} to {channels} x {size} x {size}"
    ways = {
        f"swept {name}": lambda x: sweep(x, half, back=False),
        f"swept {name}, statistics": lambda x: sweep_statistics(x, half, GROUPS),
        f"swept {name}, gradient": lambda x: sweep(x, half, back=True),
        f"cuDNN's {name}": lambda x: F.conv2d(x, half, padding=1),
    }
    return [
        timed(what, batch, [lambda x=x, way=way: way(x) for x in xs], moved, rate)
        for what, way in ways.items()
    ]


def trainings(batch: int, epochs: int) -> list[dict[str, object]]:
    """The article's trial with the kernels and without."""
    rows: list[dict[str, object]] = []
    data = random_data((32, 32, 3), 50_000, 10_000, "cuda")
    for kernels in ("all", "off"):
        os.environ[VARIABLE] = kernels
        rate, prepared = measure(ARTICLE, data, batch, 1, epochs)
        print(
            f"batch {batch:>5}  training, evaluation every epoch, kernels {kernels:4}"
            f" {rate:>10,.0f} examples/s, prepared in {prepared:.1f} s",
            flush=True,
        )
        rows.append(
            {
                "what": f"article trial, evaluation every epoch, kernels {kernels}",
                "batch_size": batch,
                "examples_per_second": round(rate),
                "prepare_seconds": round(prepared, 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", default="128,1024,8192")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--operations-only", action="store_true", help="no whole training")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_kernels: no CUDA device here; the kernels are for one")
    torch.backends.cudnn.benchmark = True
    rate = copy_rate()
    name = device_name(torch.device("cuda"))
    print(f"{name}: a copy moves {rate / 1e9:,.0f} GB/s", flush=True)
    sizes = [int(s) for s in arguments.batch_sizes.split(",")]
    rows = []
    if not arguments.operations_only:
        rows += [row for size in sizes for row in trainings(size, arguments.epochs)]
    rows += [row for size in sizes for row in operations(size, rate)]
    rows += [row for size in sizes for row in first_convolution(size, rate)]
    if torch.cuda.get_device_capability() == (9, 0):
        rows += [row for size in sizes for row in swept_convolution(size, rate)]
    origin = {
        "device": name,
        "torch": torch.__version__,
        "code": code_name(),
        "date": utc_now()[:10],
        "copy_bytes_per_second": round(rate),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps([row | origin for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
