"""Number formats, and the fingerprint of everything that may change bits."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import PRECISIONS

# oneDNN takes the first of these that is set, in this order (measured with torch 2.13).
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKLDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp16-unscaled": torch.float16}


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """The number format of convolutions and matrix products inside of the block.

    "bf16": autocast; weights, batch-norm statistics, losses and updates stay float32, as on
    the article's TPU (bfloat16 multiplies, float32 accumulation). "fp16": the same with
    float16, the loss scaled (loss_scaling.py); "fp16-unscaled": float16 without that. "tf32":
    float32 tensors, 19-bit multiplies on GPUs that have them. "fp32": float32 throughout.
    """
    if name not in PRECISIONS:
        raise UsageError(f"precision: unknown {name!r}.{did_you_mean(name, PRECISIONS)}")
    half = _HALVES.get(name)
    with (
        _tf32(torch.backends.cuda.matmul, name == "tf32"),
        _tf32(torch.backends.cudnn, name == "tf32"),
        torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None),
    ):
        yield


@contextlib.contextmanager
def _tf32(backend: Any, wanted: bool) -> Iterator[None]:
    """Within the block the backend may multiply in 19 bits, or not.

    Set only where it differs: torch's cache of compiled code tells "not set" from "set to
    what it is anyway", and would find none of what was compiled before.
    """
    before = backend.allow_tf32
    if before == wanted:
        yield
        return
    backend.allow_tf32 = wanted
    try:
        yield
    finally:
        backend.allow_tf32 = before


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> tuple[tuple[str, str], ...]:
    """(package, version) of what the numbers depend on, sorted."""
    found = {"python": platform.python_version()}
    for package in ("batchcliff", "numpy", "torch", "triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return tuple(sorted(found.items()))


def numerics(
    device: torch.device, compiled: bool, kernels: str, ranks: str = ""
) -> tuple[tuple[str, str], ...]:
    """What may change bits on one machine: kernels, threads, flags; sorted pairs.

    kernels: which of our own run (batchcliff.kernels). ranks: how many share a batch, and over
    what they exchange; "": one alone.
    """
    found = {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "compiled": str(compiled),
        "kernels": kernels,
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        found["cudnn_benchmark"] = str(torch.backends.cudnn.benchmark)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        if driver := driver_version():
            found["driver"] = driver
        if ranks:
            nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            found["nccl"] = ".".join(map(str, nccl))
    if ranks:
        found["ranks"] = ranks
    return tuple(sorted((found | instruction_limits()).items()))


def driver_version(told: Path = Path("/proc/driver/nvidia/version")) -> str:
    """That of the GPU's driver, which compiles what comes as PTX; "" where it is not told, as
    in some containers. Each kind of kernel module words its line in its own way."""
    with contextlib.suppress(OSError):
        for line in told.read_text().splitlines():
            if line.startswith("NVRM version:"):
                found = re.search(r"\d+(\.\d+)+", line)
                return found.group() if found else ""
    return ""


def instruction_limits() -> dict[str, str]:
    """The instruction sets that oneDNN and MKL are told to stay within; none is said where none
    is set, as in records that are older than these entries (`record.UNLIMITED`).

    It is what the environment says: torch lets nobody ask oneDNN which set it uses. A name that
    the library does not know limits nothing, and is said all the same, since which names it
    knows depends on its version. Sources: oneDNN's documentation, "CPU Dispatcher Control";
    Intel oneMKL's, "Instruction Set Specific Dispatching on Intel Architectures".
    """
    onednn = next((limit for name in ISA_LIMITS if (limit := os.environ.get(name))), "")
    mkl = os.environ.get("MKL_ENABLE_INSTRUCTIONS", "")
    found = {"onednn_isa": onednn.upper(), "mkl_instructions": mkl.upper()}
    return {name: limit for name, limit in found.items() if limit not in ("", "DEFAULT", "ALL")}
