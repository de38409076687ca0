"""A workload that misbehaves for chosen seeds, and the misbehaviour itself.

The environment variable FAULTS says which: {"3": "segfault", ...}. Used as
`--workload faulty:workload` with real workers, and by `fake_worker` without torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from batchcliff.data.sources import Dataset
from batchcliff.randomness import derive
from batchcliff.spec import BatchNorm, LrRule, Settings
from batchcliff.workloads import Workload

TRAIN, TEST, CLASSES = 64, 32, 4


class Clumsy(Exception):
    """What a user's network may raise."""


def misbehave(seed: int) -> str:
    """Do what FAULTS says for `seed`; its name, if that is survived."""
    fault = json.loads(os.environ.get("FAULTS", "{}")).get(str(seed), "")
    name, _, argument = fault.partition(" ")
    match name:
        case "raise":
            raise Clumsy(argument)
        case "memory":
            raise MemoryError(argument)
        case "exit":
            os._exit(int(argument))
        case "leave":
            sys.exit(int(argument))
        case "signal":
            os.kill(os.getpid(), int(argument))
            time.sleep(3600)  # SIGSTOP
        case "segfault":
            ctypes.string_at(0)
        case "sleep":
            time.sleep(float(argument))
        case "await":  # that file
            while not Path(argument).exists():
                time.sleep(0.01)
        case "stay":  # and say that it is here
            Path(argument).touch()
            time.sleep(3600)
        case "helper":  # of the worker's own, as a loader of data forks them
            if os.fork() == 0:
                time.sleep(3600)
                os._exit(0)
            time.sleep(3600)
        case "once" | "stop":  # the first time only
            try:
                Path(argument).touch(exist_ok=False)
            except FileExistsError:
                return name
            os.kill(os.getpid(), signal.SIGABRT if name == "once" else signal.SIGSTOP)
            time.sleep(600)
        case "hungry":
            most = 1 << 30
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            bytearray(most)
        case "devour":  # more than the control group of the file `argument` may have
            Path(argument).write_text(str(os.getpid()))
            bytearray(1 << 30)
        case "fill" | "hold":  # a GPU: all of its memory, or some gigabytes of it for long
            import torch

            held = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2)]
            if name == "hold":
                Path(argument).touch()
                time.sleep(600)
            while True:
                held.append(torch.empty_like(held[0]))
        case "noise":
            print("noise on stdout", flush=True)
            os.write(1, b"noise on descriptor 1\n")
            print("noise on stderr", file=sys.stderr, flush=True)
        case "look":
            Path(argument).write_text(json.dumps(surroundings()))
    return name


def surroundings() -> dict[str, Any]:
    """What a worker is given."""
    torch = sys.modules.get("torch")
    return {
        "environment": dict(os.environ),
        "torch_threads": torch.get_num_threads() if torch else None,
        "session": os.getsid(0),
        "parent": os.getppid(),
        "pid": os.getpid(),
        "descriptors": {fd: os.path.realpath(f"/proc/self/fd/{fd}") for fd in range(3, 20)},
    }


def data() -> Dataset:
    """Random pictures. DATA_SALT in the environment makes other ones, "pid" in each process."""
    salt = os.environ.get("DATA_SALT", "")
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (TRAIN + TEST, 4, 4, 1)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, TRAIN + TEST)
    if salt:
        images[0, 0, 0, 0] ^= 1
    salt = str(os.getpid()) if salt == "pid" else salt
    return Dataset(
        name="pictures",
        train_images=images[:TRAIN],
        train_labels=labels[:TRAIN],
        test_images=images[TRAIN:],
        test_labels=labels[TRAIN:],
        class_names=tuple("abcd"),
        digest=hashlib.sha256(images.tobytes() + salt.encode()).hexdigest(),
        source="made up",
    )


def build(shape: tuple[int, int, int], num_classes: int) -> Any:
    """A linear network, or what FAULTS says for the seed that it is initialised with."""
    import torch
    from torch import nn

    now = torch.initial_seed()
    seeds = [s for s in range(99) if derive(s, "init") % 2**63 == now]
    if seeds and misbehave(seeds[0]) == "torch-memory":  # none: the worker's own check
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))


def workload() -> Workload:
    return Workload(
        name="faulty",
        data=data,
        lr=LrRule(base=0.1, base_batch_size=16),
        budget="2ep",
        settings=Settings(
            batch_norm=BatchNorm(group="global"),
            loss="logits",
            augmentation="none",
            precision="fp32",
            remainder="carry",
        ),
        build=build,
    )
