"""Several trials at once on one GPU: how fast each is, as a share of its speed alone.

    python benchmarks/bench_side_by_side.py --mps --mixtures "128,128,8192 1024,1024,1024"

A mixture is the batch sizes of trials that train at the same time, each in a process of its
own; the processes stay for all mixtures, so that who has no part in one idles beside it. Every
size is first timed alone, in the same process. A share of 0.4 beside one of 0.7 sums to 1.1:
together they do in a second what takes 1.1 seconds one after the other. --mps starts NVIDIA's
Multi-Process Service for it; without, processes share the GPU in slices of time. --below N
gives the N-th process and those behind it the service's lower priority. --tries has cuDNN try
its algorithms, as no process of a study does that shares a GPU: all prepare their trials at the
same time, and what each trial is worth alone then says what it costs to try beside others.

On a CUDA device the article's trial on random images, whole epochs of updates with a test after
each; what an epoch draws is drawn once. On a CPU that of `digits`, which says nothing of GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from bench_launch import served_by_mps
from bench_peers import TRAIN
from floor import SHAPES

Mixture = tuple[int, ...]  # batch sizes, one for each process; 0: it idles
PRIORITY = "CUDA_MPS_CLIENT_PRIORITY"


def with_each_alone(mixtures: Sequence[Sequence[int]]) -> list[Mixture]:
    """Mixtures of one width, behind every size of theirs alone, in a place that has it."""
    width = max(map(len, mixtures))
    whole = [tuple(mixture) + (0,) * (width - len(mixture)) for mixture in mixtures]
    places: dict[int, int] = {}
    for mixture in whole:
        for place, size in enumerate(mixture):
            if size:
                places.setdefault(size, place)
    alone = [
        tuple(size * (place == its) for place in range(width))
        for size, its in sorted(places.items())
    ]
    return [*alone, *(m for m in whole if m not in alone)]


def rows_of(
    measured: Sequence[tuple[Mixture, Sequence[float]]], below: int = 0
) -> list[dict[str, Any]]:
    """A row for each mixture; sizes that stand alone come first. below: as of `measure`."""
    alone: dict[int, float] = {}
    rows = []
    for mixture, rates in measured:
        found = [(size, rate) for size, rate in zip(mixture, rates, strict=True) if size]
        if len(found) == 1:
            alone.setdefault(*found[0])
        shares = [rate / alone[size] for size, rate in found]
        rows.append(
            {
                "batch_sizes": [size for size, _ in found],
                "of_lower_priority": [s for s in mixture[below - 1 :] if s] if below else [],
                "examples_per_second": [round(rate) for _, rate in found],
                "of_alone": [round(share, 3) for share in shares],
                "together": round(sum(shares), 3),
            }
        )
    return rows


class Trial:
    """A trial that is prepared; `rate` trains it for a while."""

    def __init__(self, size: int, data: Any, device: str) -> None:
        import torch
        from bench_training import trial

        from batchcliff.training.epochs import epoch_tensors
        from batchcliff.training.prepare import prepare
        from batchcliff.training.trial import rates
        from batchcliff.workloads import ARTICLE, DIGITS

        spec = trial(ARTICLE if device == "cuda" else DIGITS, size, 3, 0)
        self.prepared, self.device = prepare(spec, data, num_classes=10, stack=1), device
        self.prepared.restart([spec], rates([spec], data))
        self.updates, self.size = TRAIN[device] // size, size
        index, draws = epoch_tensors([spec], data, 0, self.updates)
        self.block = index.to(device), draws.to(device)
        self.stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]

    def rate(self, until: float) -> float:
        """Examples per second of whole epochs, until that time."""
        import torch
        from floor import wait

        begin, epochs = time.monotonic(), 0
        with torch.cuda.stream(self.stream):
            while time.monotonic() < until or not epochs:
                self.prepared.loop.load_block(*self.block)
                for count in (self.prepared.loop.count, self.prepared.evaluation.count):
                    count.zero_()
                for _ in range(self.updates):
                    self.prepared.advance()
                self.prepared.evaluate()
                wait(self.device)
                epochs += 1
        return epochs * self.updates * self.size / (time.monotonic() - begin)


def work(
    place: int,
    mixtures: list[Mixture],
    seconds: float,
    tries: bool,
    together: Barrier,
    told: Any,
) -> None:
    """The process of a place: what it trains is prepared first, then all mixtures in turn."""
    import torch
    from bench_training import random_data

    from batchcliff.training.deterministic import choose_algorithms

    choose_algorithms(deterministic=False, alone=tries)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(torch.get_num_threads() if device == "cuda" else 1)
    try:
        data = random_data(SHAPES[device], TRAIN[device], TRAIN[device] // 5, device)
        sizes = {mixture[place] for mixture in mixtures} - {0}
        trials = {size: Trial(size, data, device) for size in sorted(sizes)}
        for mixture in mixtures:
            together.wait()
            until, size = time.monotonic() + seconds, mixture[place]
            told.put((place, trials[size].rate(until) if size else 0.0))
            together.wait()
    except BaseException:
        together.abort()  # the others are not to wait for us
        raise


def measure(
    mixtures: list[Mixture],
    seconds: float,
    below: int,
    tries: bool,
    heard: Callable[[Mixture, list[float]], None],
) -> None:
    """Time all mixtures; `heard` is told each as soon as it is over.

    below: number of the first process, from 1, that has the lower priority; 0: none has.
    tries: whether cuDNN tries its algorithms. RuntimeError if a process fails, which has said
    why.
    """
    spawn = multiprocessing.get_context("spawn")
    width = len(mixtures[0])
    together, told = spawn.Barrier(width), spawn.SimpleQueue()
    processes = []
    for place in range(width):
        os.environ[PRIORITY] = str(int(0 < below <= place + 1))
        given = (place, mixtures, seconds, tries, together, told)
        processes.append(spawn.Process(target=work, args=given, daemon=True))
        processes[-1].start()
    del os.environ[PRIORITY]  # it was for them
    for mixture in mixtures:
        rates = [0.0] * width
        for _ in range(width):
            while told.empty():
                if any(process.exitcode for process in processes):
                    raise RuntimeError(f"a process ended at {mixture}")
                time.sleep(0.01)
            place, rate = told.get()
            rates[place] = rate
        heard(mixture, rates)
    for process in processes:
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", default="128,128,128 128,128,8192 1024,1024,1024")
    parser.add_argument("--seconds", type=float, default=3.0, help="at least, a mixture")
    parser.add_argument("--mps", action="store_true", help="with the Multi-Process Service")
    parser.add_argument("--below", type=int, default=0, help="first process of lower priority")
    parser.add_argument("--tries", action="store_true", help="have cuDNN try its algorithms")
    parser.add_argument("--json", type=Path, help="file for the result")
    chosen = parser.parse_args()
    mixtures = [[int(s) for s in text.split(",")] for text in chosen.mixtures.split()]
    measured: list[tuple[Mixture, list[float]]] = []

    def heard(mixture: Mixture, rates: list[float]) -> None:
        measured.append((mixture, rates))
        row = rows_of(measured, chosen.below)[-1]
        print(
            f"{', '.join(map(str, row['batch_sizes'])):<40} {row['together']:>6.3f}  "
            f"{', '.join(map(str, row['of_alone']))}",
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="bench-side-by-side-") as scratch:
        service = served_by_mps(Path(scratch)) if chosen.mps else contextlib.nullcontext({})
        with service as variables:
            os.environ |= variables
            asked = with_each_alone(mixtures)
            measure(asked, chosen.seconds, chosen.below, chosen.tries, heard)
    import torch

    from batchcliff.provenance import code_name, utc_now
    from batchcliff.training.precision import device_name

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common = {
        "device": device_name(device), "torch": torch.__version__, "code": code_name(),
        "cores": len(os.sched_getaffinity(0)), "date": utc_now()[:10],
        "mps": chosen.mps, "processes": len(measured[0][0]), "tries": chosen.tries,
    }  # fmt: skip
    if chosen.json:
        rows = [row | common for row in rows_of(measured, chosen.below)]
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
