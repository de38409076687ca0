"""Speed of training on the article's network: examples per second, evaluation included.

    python benchmarks/bench_training.py --batch-sizes 128,1024,8192 --json FILE

On a CUDA device: the article's trial as it runs in a study (augmentation, bf16, a captured
graph of the whole update, an evaluation after every epoch), on random images, timed over
whole epochs after compilation. On a CPU: the digits trial, one stack. Compilation is
reported apart. Needs no data set: speed does not depend on what the pixels show.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from batchcliff.data.resident import Resident
from batchcliff.provenance import code_name, utc_now
from batchcliff.spec import TrialSpec
from batchcliff.study.jobs import STACK
from batchcliff.training.deterministic import choose_algorithms
from batchcliff.training.epochs import train
from batchcliff.training.precision import device_name
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import rates
from batchcliff.workloads import ARTICLE, DIGITS, Workload


def random_data(
    shape: tuple[int, int, int], train_count: int, test_count: int, device: str
) -> Resident:
    """Random pixels and labels of the real sizes."""
    draw = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw)
        return pixels.to(device)

    def labels(count: int) -> torch.Tensor:
        return torch.randint(0, 10, (count,), generator=draw).to(device)

    return Resident(
        train_images=images(train_count),
        train_labels=labels(train_count),
        test_images=images(test_count),
        test_labels=labels(test_count),
        scale=1 / 255,
    )


def trial(workload: Workload, batch_size: int, epochs: int, seed: int) -> TrialSpec:
    """The workload's trial without warmup, at a rate that cannot diverge."""
    return TrialSpec(
        workload=workload.name,
        data=workload.data_name,
        data_digest="random",
        arm="none",
        techniques=(),
        settings=dataclasses.replace(workload.settings, evaluate_every=1),
        batch_size=batch_size,
        lr=0.01,
        decay=workload.decay,
        budget=f"{epochs}ep",
        seed=seed,
    )


def measure(
    workload: Workload,
    data: Resident,
    batch_size: int,
    stack: int,
    epochs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """(examples per second, seconds of preparation) of whole epochs with their evaluation.

    The first epoch and the last are left out: they hold the start and the last wait. clock:
    seconds, also those of the CPU alone where it does the training.
    """
    specs = [trial(workload, batch_size, epochs + 2, seed) for seed in range(stack)]
    prepared = prepare(specs[0], data, num_classes=10, stack=stack)
    prepared.restart(specs, rates(specs, data))
    reports: list[tuple[float, int]] = []
    train(prepared, specs, data, lambda done, _: reports.append((clock(), done)))
    ends = [r for r in reports if r[1] % (len(data.train_labels) // batch_size) == 0]
    (start, first), (stop, last) = ends[0], ends[-2]
    return (last - first) * batch_size * stack / (stop - start), prepared.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", default="")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if cuda:
        choose_algorithms(deterministic=False, alone=True)
        workload, stack = ARTICLE, 1
        data = random_data((32, 32, 3), 50_000, 10_000, device)
    else:
        torch.set_num_threads(1)
        workload, stack = DIGITS, STACK
        data = random_data((8, 8, 1), 1_024, 773, device)
    sizes = [int(s) for s in arguments.batch_sizes.split(",") if s] or (
        [128, 1024, 8192] if cuda else [32, 128, 512]
    )
    epochs = arguments.epochs or (20 if cuda else 10)
    name = device_name(torch.device(device))
    what = f"{workload.name} trial, {stack} side by side, evaluation every epoch"
    rows = []
    for size in sizes:
        rate, seconds = measure(workload, data, size, stack, epochs)
        print(
            f"{name}  batch {size:>5}  {rate:>10,.0f} examples/s  prepared in {seconds:.1f} s"
        )
        rows.append(
            {
                "batch_size": size,
                "examples_per_second": round(rate),
                "prepare_seconds": round(seconds, 2),
                "epochs": epochs,
                "device": name,
                "what": what,
                "torch": torch.__version__,
                "code": code_name(),
                "cores": len(os.sched_getaffinity(0)),
                "date": utc_now()[:10],
            }
        )
        if arguments.json:  # after each size: what is there stays if a later one fails
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
