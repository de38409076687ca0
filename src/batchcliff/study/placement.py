"""Where a run's processes train: on which devices, how many of them, with which environment."""

from __future__ import annotations

import os
from pathlib import Path

from batchcliff.errors import UsageError
from batchcliff.host import cores
from batchcliff.study.compile_cache import TRITON, compiler_folders
from batchcliff.study.devices import free_bytes, gpus, workers_on


def default_workers(device: str, gpus: int = 1, ranks: int = 1) -> int:
    """A process per core on a CPU; up to three on each GPU, where one compiles while others
    train, as far as there are cores and memory for them (study/devices.py).

    With `ranks`, as many teams as have cores, or one on each of `gpus` groups of GPUs.
    """
    if device == "cpu":
        return max(1, cores() // ranks)
    return gpus if ranks > 1 else workers_on(gpus, cores(), free_bytes())


def resolve_device(device: str) -> str:
    """ "auto" is the GPU if there is one; others are checked. UsageError if there is none."""
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    found = gpus()
    if device == "auto":
        return "cuda" if found else "cpu"
    name, _, number = device.partition(":")
    if name != "cuda" or not (number == "" or number.isdecimal()):
        raise UsageError(f"--device {device}: write auto, cpu, cuda or cuda:N")
    if int(number or 0) >= found:
        import torch

        raise UsageError(
            f"--device {device}: torch {torch.__version__} sees {found} CUDA devices"
        )
    return device


def devices_of(device: str) -> list[str]:
    """The devices that workers are spread over: "cuda" is every GPU, "cuda:1" that one."""
    if device != "cuda":
        return [device]
    return [f"cuda:{number}" for number in range(gpus())] or [device]


def _may_have_gpu() -> bool:
    """False where the kernel shows no NVIDIA device, which saves importing torch to ask."""
    return any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg")) or os.name == "nt"


def is_alone(workers: int, devices: int, ranks: int) -> bool:
    """Whether each of so many `workers` that there may be at once has a device of its own.

    Not how many there are: a run that goes on with its last trial is to say the same of it.
    """
    return ranks > 1 or workers <= devices


def environment(device: str, workers: int) -> dict[str, str]:
    """Variables of a worker: one thread each on a CPU; on a GPU a fair share of compilers,
    and one folder for the kernels that they build."""
    if device == "cpu":
        # glibc gives large blocks back at once and asks for them again at the next update,
        # zeroed by the kernel page by page: a tenth of the digits study's time.
        keep = {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
            "MALLOC_TOP_PAD_": str(2**26),
        }
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return keep | dict.fromkeys(threads, "1")
    share = max(2, cores() // workers)
    kernels = {TRITON: str(compiler_folders()[TRITON])}
    return kernels | {"TORCHINDUCTOR_COMPILE_THREADS": str(share)}
