"""A workload that misbehaves on one rank, at one update: `--workload rank_faults:workload`.

RANK_FAULT is what ("stop", "kill", "exit", "raise", "memory", "nan"), RANK_FAULT_RANK and
RANK_FAULT_AT where. With RANK_FAULT_ONCE, a path, only until that file is there.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import faulty

from batchcliff.workloads import OWN_MODEL, Workload


class Misbehaved(Exception):
    """What a user's network may raise."""


def is_due() -> bool:
    """Whether this process is the one, and has not been before."""
    import torch.distributed as dist

    if not dist.is_initialized() or "RANK_FAULT" not in os.environ:
        return False
    if dist.get_rank() != int(os.environ["RANK_FAULT_RANK"]):
        return False
    once = os.environ.get("RANK_FAULT_ONCE")
    if once:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def misbehave(logits: Any) -> Any:
    """Do what RANK_FAULT says; what the network gives, if that is survived."""
    import torch

    match os.environ["RANK_FAULT"]:
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)  # continued to say where it is: here
        case "sleep":
            time.sleep(3600)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "raise":
            raise Misbehaved("on one rank")
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        case "nan":
            return logits * torch.nan
    return logits


def build(shape: tuple[int, int, int], num_classes: int) -> Any:
    """A linear network; every training pass of one is counted, outside of it: what a network
    keeps must be what checkpoints hold."""
    import torch
    from torch import nn

    passes = itertools.count()

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Sequential(
                nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes)
            )

        def forward(self, x: Any) -> Any:
            logits = self.flat(x)
            if torch.is_grad_enabled():
                at = int(os.environ.get("RANK_FAULT_AT", "-1"))
                if next(passes) == at and is_due():
                    return misbehave(logits)
            return logits

    return Counting()


def workload() -> Workload:
    usual = faulty.workload()
    settings = dataclasses.replace(usual.settings, model=OWN_MODEL)
    return dataclasses.replace(usual, name="rank_faults", build=build, settings=settings)
