"""What the probes cost: their seconds as a share of the trial that they are taken in.

    python benchmarks/bench_probes.py --json FILE

On a CUDA device: the article's trial of 100 epochs at batch sizes 1,024 and 8,192 on random
images, its seconds by the rate of 12 epochs, as bench_training.py takes it. The probes are
those of the whole trial, since a short one has fewer; they are timed one by one, the device
waited for. On a CPU: the digits trial, whole, in seconds of the processor, which others do not
lengthen. `first` is the first time that each probe ran, `seconds` the least of three.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import bench_training
import torch
from bench_training import random_data, trial

from batchcliff.data.resident import Resident
from batchcliff.provenance import code_name, utc_now
from batchcliff.spec import PROBES
from batchcliff.training.deterministic import choose_algorithms
from batchcliff.training.epochs import probing_of
from batchcliff.training.precision import device_name
from batchcliff.training.prepare import prepare
from batchcliff.training.probes_plan import effort
from batchcliff.training.trial import rates
from batchcliff.workloads import ARTICLE, DIGITS, Workload

REPEATS = 3
EPOCHS = {"article": (12, 100), "digits": (60, 60)}  # that are timed here, of the whole trial


def clock(device: torch.device) -> float:
    """Seconds: of the wall once a GPU is done, of this process on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(workload: Workload, data: Resident, batch_size: int) -> dict[str, float]:
    """Seconds of the whole trial without probes, by the rate of some of its epochs, and of all
    the probes that the whole trial has: `made`, what all of them need first, and each."""
    epochs, whole = EPOCHS[workload.name]
    device = data.train_images.device
    rate, _ = bench_training.measure(
        workload, data, batch_size, 1, epochs, functools.partial(clock, device)
    )
    num_train = len(data.train_labels)
    trained = whole * (num_train // batch_size) * batch_size / rate
    plain = trial(workload, batch_size, whole, 0)
    probed = replace(plain, settings=replace(plain.settings, probes=PROBES))
    prepared = prepare(probed, data, num_classes=10, stack=1)
    prepared.restart([probed], rates([probed], data))
    times: dict[str, list[float]] = {}
    for _ in range(REPEATS + 1):
        start = clock(device)
        probing_of(prepared, [probed], data)
        times.setdefault("made", []).append(clock(device) - start)
    for name in PROBES:
        settings = replace(plain.settings, probes=(name,))
        probing = probing_of(prepared, [replace(plain, settings=settings)], data)
        assert probing is not None
        for _ in range(REPEATS + 1):
            start = clock(device)
            for update in probing.rows:
                probing.measure(update, lambda: None)
            times.setdefault(name, []).append(clock(device) - start)
    seconds = {name: min(found[1:]) for name, found in times.items()}
    done = effort(probed, num_train)
    return {
        "trial_seconds": round(trained, 3),
        **{f"{name}_seconds": round(found, 4) for name, found in seconds.items()},
        "first_seconds": round(sum(found[0] for found in times.values()), 3),
        "share": round(sum(seconds.values()) / trained, 4),
        "places": len(done.cheap_at),
        "sharpness_places": len(done.sharpness_at),
        "iterations": done.iterations,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if cuda:
        choose_algorithms(deterministic=False, alone=True)
        workload, data = ARTICLE, random_data((32, 32, 3), 50_000, 10_000, device)
    else:
        torch.set_num_threads(1)
        workload, data = DIGITS, random_data((8, 8, 1), 1_024, 773, device)
    sizes = [int(s) for s in arguments.batch_sizes.split(",") if s] or (
        [1024, 8192] if cuda else [64, 512]
    )
    rows = []
    for size in sizes:
        found = measure(workload, data, size)
        row = {"batch_size": size, **found, "workload": workload.name}
        print(json.dumps(row))
        row |= {
            "device": device_name(torch.device(device)),
            "torch": torch.__version__,
            "code": code_name(),
            "cores": len(os.sched_getaffinity(0)),
            "date": utc_now()[:10],
        }
        rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
