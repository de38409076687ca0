"""How many GPUs there are and how many trials share one, asked of the driver: importing torch
to ask takes seconds.

Those seconds would be the first of every run, since nothing starts before it is known where.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import re
import sys
import uuid
from pathlib import Path

MPS_ENABLED = 133  # CU_DEVICE_ATTRIBUTE_MPS_ENABLED of cuda.h; older drivers know of none
DRIVER, MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
CUDA_BUILD = re.compile(r"^cuda\b.*=\s*['\"]\d", re.MULTILINE)  # in torch/version.py


MOST_ON_ONE = 3
"""Processes on a GPU: one trains (training/turns.py), one has compiled and waits for its turn,
and one compiles. Under NVIDIA's MPS all of them train."""

NEEDED_BYTES = 6 << 30
"""Free memory of a GPU for each process: libraries, data and network of a trial like the
article's. Larger ones than that find out by themselves: who has no room beside others is
tried again alone, in parts if need be."""


MOST_BUILDERS = 11
"""Processes that build kernels: a rehearsal has so many parts (training/rehearsal.py)."""

BUILDER_BYTES = 2 << 30
"""Free memory of a GPU for each of them, and of the host; where there is less, it finds out,
and ends."""

HOST_BYTES = 6 << 30
"""Free memory of the host that is left to each process that trains."""


def workers_on(gpus: int, cores: int, free_bytes: int | None) -> int:
    """Processes that train on `gpus` GPUs side by side, one on each at least.

    Each needs a core of its own, to draw what comes next, and room. free_bytes: of the
    fullest GPU; None: not known.
    """
    room = MOST_ON_ONE if free_bytes is None else free_bytes // NEEDED_BYTES
    return gpus * max(1, min(MOST_ON_ONE, room, cores // gpus))


def builders_on(
    gpus: int, cores: int, workers: int, free_bytes: int | None, host_bytes: int | None
) -> int:
    """Processes that build kernels on the first of `gpus` GPUs that `workers` are spread over.

    One at least: each needs a core of its own, and room, which the workers have first.
    free_bytes: as of `workers_on`. host_bytes: of the host; None: not known.
    """
    most = min(MOST_BUILDERS, cores - workers)
    if free_bytes is not None:
        most = min(most, (free_bytes - -(-workers // gpus) * NEEDED_BYTES) // BUILDER_BYTES)
    if host_bytes is not None:
        most = min(most, (host_bytes - workers * HOST_BYTES) // BUILDER_BYTES)
    return max(1, most)


def gpus() -> int:
    """GPUs that torch can use, as many as CUDA_VISIBLE_DEVICES leaves."""
    if "torch" not in sys.modules and is_built_for_cuda() and (found := driver_count()):
        return found
    import torch

    return torch.cuda.device_count()


def is_built_for_cuda() -> bool:
    """Whether the torch that is installed is one for CUDA, by what it says of its build."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            return bool(CUDA_BUILD.search((Path(folder) / "version.py").read_text()))
    return False


@functools.cache  # before there are processes of ours
def free_bytes(library: str = DRIVER, management: str = MANAGEMENT) -> int | None:
    """Memory that is free on the fullest GPU; None where the driver does not say.

    Asked of the part of the driver that watches GPUs, which connects to none of them.
    """
    with contextlib.suppress(OSError, AttributeError):
        driver, watcher = ctypes.CDLL(library), ctypes.CDLL(management)
        if watcher.nvmlInit_v2():
            return None
        try:
            return min(_free(driver, watcher, n) for n in range(driver_count(library) or 0))
        except (_Unanswered, ValueError):  # no GPU
            return None
        finally:
            watcher.nvmlShutdown()
    return None


class _Unanswered(Exception):
    """The driver said no."""


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def _free(driver: ctypes.CDLL, watcher: ctypes.CDLL, number: int) -> int:
    """Free bytes of a GPU. The two parts of the driver number GPUs each in its own way, so it
    is looked up by its identifier."""
    device, handle, memory = ctypes.c_int(), ctypes.c_void_p(), _Memory()
    identifier = (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetUuid_v2(
        identifier, device
    ):
        raise _Unanswered
    name = f"GPU-{uuid.UUID(bytes=bytes(identifier))}".encode()
    if watcher.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        raise _Unanswered  # a part of a GPU, which has a name of another kind
    if watcher.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        raise _Unanswered
    return int(memory.free)


def is_served_by_mps(number: int, library: str = DRIVER) -> bool:
    """Whether processes on this GPU run side by side, by NVIDIA's Multi-Process Service."""
    device, answer = ctypes.c_int(), ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL(library)
        return (
            not driver.cuInit(0)
            and not driver.cuDeviceGet(ctypes.byref(device), number)
            and not driver.cuDeviceGetAttribute(ctypes.byref(answer), MPS_ENABLED, device)
            and bool(answer.value)
        )
    return False


def driver_count(library: str = DRIVER) -> int | None:
    """What CUDA's driver says; None where it says nothing."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL(library)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return None
    except (OSError, AttributeError):  # there is none, or it is something else
        return None
    return count.value
